// The micro-kernel of every matrix product: one tile of C, held in registers, is the sum over k of a column
// of A times a row of B. For kernel sources only.
//
// The sum over k is cut into segments. Inside a segment, A and B are read where they lie, through a pointer
// per row of A and strides in k, so that A needs no packing and a convolution needs no im2col: each tap of
// the kernel (or each image row, for the gradient of the kernel) is a segment whose pointers point straight
// into the image.
#pragma once

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "tensor/cpu/matmul.h"
#include "tensor/cpu/pack.h"

namespace halfstep::cpu::inline HALFSTEP_ISA {

/// A run of k: element (i, p) of A is a[i][p * a_step], row p of B begins at b + p * b_step.
template <class T>
struct Segment {
  int64_t run;
  const T* b;
  const T* a[kTileRows];
};

/// Memory that is fetched beside the multiplications, `step` elements further at each of them.
template <class T>
struct Fetch {
  const T* memory = nullptr;
  int64_t step = 0;
};

/// One tile: C = alpha * sum over segments + bias + added.
template <class T>
struct Tile {
  const Segment<T>* segments;
  int64_t count;
  int64_t a_step, b_step;
  int64_t b_offset;  ///< added to every segment's b: the same segments serve all tiles beside each other
  T* const* c;       ///< a pointer per row
  int64_t c_step;    ///< between the columns of C
  int columns;       ///< at most kTileColumns; B is read as if it were rounded up to whole vectors
  const T* bias;     ///< per column, or nullptr
  T alpha;
  const T* const* added;  ///< a pointer per row of a matrix like C, such as C itself, or nullptr
  /// Whether there is one segment, whose a[0] says where A is, and the rows of A lie a_row apart; `fetch` and
  /// `later` are for this case.
  bool even = false;
  int64_t a_row = 0;
  Fetch<T> fetch = {}, later = {};
};

/// A row of C that is not made of whole vectors. Not inlined: it is called from every unrolled row.
template <class T>
[[gnu::noinline]] void store_elements(const Tile<T>& tile, const T* values, int row) {
  for (int j = 0; j < tile.columns; ++j) {
    T v = values[j] * tile.alpha;
    if (tile.bias) v += tile.bias[j];
    if (tile.added) v += tile.added[row][j * tile.c_step];
    tile.c[row][j * tile.c_step] = v;
  }
}

/// Rows of A, each somewhere.
template <class T, int Rows>
struct ScatteredRows {
  const T* row[Rows];
  int64_t step;
  int64_t at = 0;

  T element(int i) const { return row[i][at]; }
  void advance() { at += step; }
};

/// Rows of A at even distances. One pointer serves three of them: twelve would be more than there are integer
/// registers.
template <class T, int Rows>
struct EvenRows {
  static constexpr int kPointers = (Rows + 2) / 3;
  const T* pointer[kPointers];
  int64_t distance, step;

  EvenRows(const T* a, int64_t d, int64_t k_step) : distance(d), step(k_step) {
    for (int i = 0; i < kPointers; ++i) pointer[i] = a + 3 * i * distance;
  }
  T element(int i) const { return pointer[i / 3][i % 3 * distance]; }
  void advance() {
#pragma GCC unroll 4
    for (int i = 0; i < kPointers; ++i) pointer[i] += step;
  }
};

/// a * b + c, rounded once where the instruction set can. By intrinsics: whether a compiler fuses a product
/// and a sum depends on what stands between them (a sanitizer's checks), and tiles of different size must
/// agree in every bit.
inline Vector<float> multiply_add(float a, Vector<float> b, Vector<float> c) {
#if defined(__AVX512F__)
  return (Vector<float>)_mm512_fmadd_ps(_mm512_set1_ps(a), (__m512)b, (__m512)c);
#elif defined(__FMA__)
  return (Vector<float>)_mm256_fmadd_ps(_mm256_set1_ps(a), (__m256)b, (__m256)c);
#else
  return c + a * b;
#endif
}
inline Vector<double> multiply_add(double a, Vector<double> b, Vector<double> c) {
#if defined(__AVX512F__)
  return (Vector<double>)_mm512_fmadd_pd(_mm512_set1_pd(a), (__m512d)b, (__m512d)c);
#elif defined(__FMA__)
  return (Vector<double>)_mm256_fmadd_pd(_mm256_set1_pd(a), (__m256d)b, (__m256d)c);
#else
  return c + a * b;
#endif
}

/// acc[i][j] += the sum over `run` steps of element i of A times vector j of a row of b.
template <class T, int Rows, int Vectors, class A, class... Fetches>
[[gnu::always_inline]] inline void add_products(Vector<T> (&acc)[Rows][Vectors], A a, const T* b,
                                                int64_t b_step, int64_t run, Fetches... fetches) {
  for (int64_t p = 0; p < run; ++p, a.advance(), b += b_step) {
    (__builtin_prefetch(fetches.memory), ...);
    ((fetches.memory += fetches.step), ...);
    Vector<T> row[Vectors];
#pragma GCC unroll 4
    for (int j = 0; j < Vectors; ++j) row[j] = load(b + j * kLanes<T>);
#pragma GCC unroll 16
    for (int i = 0; i < Rows; ++i) {
      const T element = a.element(i);
#pragma GCC unroll 4
      for (int j = 0; j < Vectors; ++j) acc[i][j] = multiply_add(element, row[j], acc[i][j]);
    }
  }
}

/// Cuts [0, rows) into runs of the lengths that kernels are compiled for: calls f(Constant<length>, first
/// row).
template <class F>
[[gnu::always_inline]] inline void for_runs_of_rows(int64_t rows, F f) {
  int64_t i = 0;
  // 16 rows, the tiles of a 16x16 image, are two eights rather than twelve and a slow four.
  constexpr bool kHasEights = kTileRows > 8;
  for (; rows - i >= kTileRows && !(kHasEights && rows - i == 16); i += kTileRows) {
    f(Constant<kTileRows>{}, i);
  }
  if constexpr (kHasEights) {
    for (; rows - i >= 8; i += 8) f(Constant<8>{}, i);
  }
  if (rows - i >= 4) f(Constant<4>{}, i), i += 4;
  if (rows - i >= 2) f(Constant<2>{}, i), i += 2;
  if (rows - i >= 1) f(Constant<1>{}, i);
}

template <class T, int Rows, int Vectors>
void compute_tile(const Tile<T>& tile, int first_row) {
  constexpr int L = kLanes<T>;
  Vector<T> acc[Rows][Vectors] = {};
  if (tile.even) {
    const Segment<T>& segment = *tile.segments;
    const T* const a = segment.a[0] + first_row * tile.a_row;
#pragma GCC unroll 16
    for (int i = 0; i < Rows; ++i) {
#pragma GCC unroll 4
      for (int j = 0; j < Vectors; ++j) __builtin_prefetch(tile.c[first_row + i] + j * L, 1);
    }
    add_products(acc, EvenRows<T, Rows>(a, tile.a_row, tile.a_step), segment.b + tile.b_offset, tile.b_step,
                 segment.run, tile.fetch, tile.later);
  } else {
    for (int64_t s = 0; s < tile.count; ++s) {
      const Segment<T>& segment = tile.segments[s];
      ScatteredRows<T, Rows> a{{}, tile.a_step};
#pragma GCC unroll 16
      for (int i = 0; i < Rows; ++i) a.row[i] = segment.a[first_row + i];
      add_products(acc, a, segment.b + tile.b_offset, tile.b_step, segment.run);
    }
  }
  const bool whole = tile.c_step == 1 && tile.columns == Vectors * L;
#pragma GCC unroll 16
  for (int i = 0; i < Rows; ++i) {
    if (whole) {
      T* const c = tile.c[first_row + i];
#pragma GCC unroll 4
      for (int j = 0; j < Vectors; ++j) {
        Vector<T> v = acc[i][j] * tile.alpha;
        if (tile.bias) v += load(tile.bias + j * L);
        if (tile.added) v += load(tile.added[first_row + i] + j * L);
        store(c + j * L, v);
      }
    } else {
      T values[Vectors * L];
#pragma GCC unroll 4
      for (int j = 0; j < Vectors; ++j) store(values + j * L, acc[i][j]);
      store_elements(tile, values, first_row + i);
    }
  }
}

/// The first `rows` (at most kTileRows) rows of a tile.
template <class T>
void compute_tile_rows(const Tile<T>& tile, int rows) {
  const bool one_vector = tile.columns <= kLanes<T>;
  for_runs_of_rows(rows, [&](auto run, int64_t first) {
    constexpr int Rows = decltype(run)::value;
    one_vector ? compute_tile<T, Rows, 1>(tile, static_cast<int>(first))
               : compute_tile<T, Rows, kTileVectors>(tile, static_cast<int>(first));
  });
}

/// The plain case: c [m, n] = a b for matrices of whole vectors whose rows lie evenly in memory, n at most
/// kTileColumns. Element (i, p) of a is a[i * a_row + p * a_step]. `accumulate` goes on with the sums in c,
/// to the bits of one sum.
template <class T>
struct SmallProduct {
  int64_t m, n, k;
  const T* a;
  int64_t a_row, a_step;
  const T* b;
  int64_t b_row;
  T* c;
  int64_t c_row;
  bool accumulate;
  Ahead<T> ahead[2] = {};
};

template <class T, int Rows, int Vectors>
void multiply_rows(const SmallProduct<T>& s, int64_t first_row, Fetch<T> fetch_0, Fetch<T> fetch_1) {
  Vector<T> acc[Rows][Vectors] = {};
  T* const c = s.c + first_row * s.c_row;
  const int64_t c_row = s.c_row;
#pragma GCC unroll 16
  for (int i = 0; i < Rows; ++i) {
#pragma GCC unroll 4
    for (int j = 0; j < Vectors; ++j) {
      if (s.accumulate) acc[i][j] = load(c + i * c_row + j * kLanes<T>);
    }
  }
  const int64_t steps = first_row / kTileRows * s.k;
  fetch_0.memory += steps * fetch_0.step, fetch_1.memory += steps * fetch_1.step;
  add_products(acc, EvenRows<T, Rows>(s.a + first_row * s.a_row, s.a_row, s.a_step), s.b, s.b_row, s.k,
               fetch_0, fetch_1);
#pragma GCC unroll 16
  for (int i = 0; i < Rows; ++i) {
#pragma GCC unroll 4
    for (int j = 0; j < Vectors; ++j) store(c + i * c_row + j * kLanes<T>, acc[i][j]);
  }
}

template <class T>
void multiply(const SmallProduct<T>& s) {
  const bool one_vector = s.n <= kLanes<T>;
  // What is wanted is spread evenly over the steps; where nothing is, it is what is there already.
  const int64_t steps = ceil_div(s.m, kTileRows) * max(1, s.k);
  const auto fetch = [&](const Ahead<T>& ahead) {
    return ahead.memory ? Fetch<T>{ahead.memory, ceil_div(ahead.elements, steps)} : Fetch<T>{s.a, 0};
  };
  const Fetch<T> fetch_0 = fetch(s.ahead[0]), fetch_1 = fetch(s.ahead[1]);
  for_runs_of_rows(s.m, [&](auto run, int64_t first) {
    constexpr int Rows = decltype(run)::value;
    one_vector ? multiply_rows<T, Rows, 1>(s, first, fetch_0, fetch_1)
               : multiply_rows<T, Rows, kTileVectors>(s, first, fetch_0, fetch_1);
  });
}

}  // namespace halfstep::cpu::inline HALFSTEP_ISA
