// Sums over the rows of matrices, for each column, in double. For kernel sources only.
#pragma once

#include "tensor/cpu/simd.h"

namespace halfstep::cpu::inline HALFSTEP_ISA {

/// What add_column_sums adds at a time.
template <int Sums>
struct Terms {
  Vector<double> of[Sums];
};

/// add_column_sums for rows that stay in the cache.
template <int Sums, class F, class... T>
void add_near_column_sums(double* const (&sums)[Sums], int64_t rows, int64_t columns, int64_t row_step, F f,
                          const T*... x) {
  constexpr int L = kLanes<double>;
  // Some vectors side by side, so that whole lines of memory are used as they come, and even and odd rows
  // apart: the additions of a long sum wait for each other, and their errors add up.
  constexpr int kSide = kVectorRegisters == 32 ? 4 : 2;
  int64_t c = 0;
  const auto add = [&]<int Side>(Constant<Side>) {
    Vector<double> sum[2][Sums][Side] = {};
    const auto add_row = [&](auto& into, int64_t i) {
#pragma GCC unroll 4
      for (int v = 0; v < Side; ++v) {
        const int64_t at = c + v * L;
        const auto terms = f(at, load_wide(x + i * row_step + at)...);
#pragma GCC unroll 4
        for (int s = 0; s < Sums; ++s) into[s][v] += terms.of[s];
      }
    };
    int64_t i = 0;
    for (; i + 2 <= rows; i += 2) add_row(sum[0], i), add_row(sum[1], i + 1);
    if (i < rows) add_row(sum[0], i);
    for (int s = 0; s < Sums; ++s) {
      for (int v = 0; v < Side; ++v) {
        double* const total = sums[s] + c + v * L;
        store(total, load(total) + (sum[0][s][v] + sum[1][s][v]));
      }
    }
    c += Side * L;
  };
  while (c + kSide * L <= columns) add(Constant<kSide>{});
  while (c + L <= columns) add(Constant<1>{});
  for (; c < columns; ++c) {
    double sum[Sums] = {};
    for (int64_t i = 0; i < rows; ++i) {
      const auto terms = f(c, (Vector<double>{} + double{x[i * row_step + c]})...);
      for (int s = 0; s < Sums; ++s) sum[s] += terms.of[s][0];
    }
    for (int s = 0; s < Sums; ++s) sums[s][c] += sum[s];
  }
}

/// sums[s][c] += the sum over rows of term s of f(c, x[row * row_step + c] ...) for each column c: f takes
/// vectors of double that begin at column c, one from each of the matrices x, and returns a vector for each
/// of the sums. The order of a column's sum depends on `rows` and `row_step`, and on the other columns only
/// in whether it belongs to a whole vector.
template <int Sums, class F, class... T>
void add_column_sums(double* const (&sums)[Sums], int64_t rows, int64_t columns, int64_t row_step, F f,
                     const T*... x) {
  // Some rows at a time, so that all of their columns are used while they are near.
  const int64_t some = max(32, 4096 / max(1, row_step));
  for (int64_t i = 0; i < rows; i += some) {
    add_near_column_sums<Sums>(sums, min(some, rows - i), columns, row_step, f, (x + i * row_step)...);
  }
}

}  // namespace halfstep::cpu::inline HALFSTEP_ISA
