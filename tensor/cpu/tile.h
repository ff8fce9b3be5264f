// The micro-kernel of every matrix product: one tile of C, held in registers, is the sum over k of a column
// of A times a row of B. For kernel sources only.
//
// The sum over k is cut into segments. Inside a segment, A and B are read where they lie, through a pointer
// per row of A and strides in k, so that A needs no packing and a convolution needs no im2col: each tap of
// the kernel (or each image row, for the gradient of the kernel) is a segment whose pointers point straight
// into the image.
#pragma once

#include "tensor/cpu/pack.h"

namespace halfstep::cpu::inline HALFSTEP_ISA {

/// A run of k: element (i, p) of A is a[i][p * a_step], row p of B begins at b + p * b_step.
template <class T>
struct Segment {
  int64_t run;
  const T* b;
  const T* a[kTileRows];
};

/// One tile: C = alpha * sum over segments + bias (+ C).
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
  bool accumulate;
};

/// A row of C that is not made of whole vectors. Not inlined: it is called from every unrolled row.
template <class T>
[[gnu::noinline]] void store_elements(const Tile<T>& tile, const T* values, T* c) {
  for (int j = 0; j < tile.columns; ++j) {
    T v = values[j] * tile.alpha;
    if (tile.bias) v += tile.bias[j];
    if (tile.accumulate) v += c[j * tile.c_step];
    c[j * tile.c_step] = v;
  }
}

/// acc[i][j] += the sum over p < run of a[i][p * a_step] times vector j of row p of b.
template <class T, int Rows, int Vectors>
[[gnu::always_inline]] inline void add_products(Vector<T> (&acc)[Rows][Vectors], const T* const (&a)[Rows],
                                                int64_t a_step, const T* b, int64_t b_step, int64_t run) {
  int64_t ka = 0;
  for (int64_t p = 0; p < run; ++p, ka += a_step, b += b_step) {
    Vector<T> row[Vectors];
#pragma GCC unroll 4
    for (int j = 0; j < Vectors; ++j) row[j] = load(b + j * kLanes<T>);
#pragma GCC unroll 16
    for (int i = 0; i < Rows; ++i) {
#pragma GCC unroll 4
      for (int j = 0; j < Vectors; ++j) acc[i][j] += a[i][ka] * row[j];
    }
  }
}

/// Cuts [0, rows) into runs of the lengths that kernels are compiled for: calls f(Constant<length>, first
/// row).
template <class F>
[[gnu::always_inline]] inline void for_runs_of_rows(int64_t rows, F f) {
  int64_t i = 0;
  for (; rows - i >= kTileRows; i += kTileRows) f(Constant<kTileRows>{}, i);
  if constexpr (kTileRows > 8) {
    if (rows - i >= 8) f(Constant<8>{}, i), i += 8;
  }
  if (rows - i >= 4) f(Constant<4>{}, i), i += 4;
  if (rows - i >= 2) f(Constant<2>{}, i), i += 2;
  if (rows - i >= 1) f(Constant<1>{}, i);
}

template <class T, int Rows, int Vectors>
void compute_tile(const Tile<T>& tile, int first_row) {
  constexpr int L = kLanes<T>;
  Vector<T> acc[Rows][Vectors] = {};
  for (int64_t s = 0; s < tile.count; ++s) {
    const Segment<T>& segment = tile.segments[s];
    const T* a[Rows];
#pragma GCC unroll 16
    for (int i = 0; i < Rows; ++i) a[i] = segment.a[first_row + i];
    add_products(acc, a, tile.a_step, segment.b + tile.b_offset, tile.b_step, segment.run);
  }
  const bool whole = tile.c_step == 1 && tile.columns == Vectors * L;
#pragma GCC unroll 16
  for (int i = 0; i < Rows; ++i) {
    T* c = tile.c[first_row + i];
    if (whole) {
#pragma GCC unroll 4
      for (int j = 0; j < Vectors; ++j) {
        Vector<T> v = acc[i][j] * tile.alpha;
        if (tile.bias) v += load(tile.bias + j * L);
        if (tile.accumulate) v += load(c + j * L);
        store(c + j * L, v);
      }
    } else {
      T values[Vectors * L];
#pragma GCC unroll 4
      for (int j = 0; j < Vectors; ++j) store(values + j * L, acc[i][j]);
      store_elements(tile, values, c);
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
};

template <class T, int Rows, int Vectors>
void multiply_rows(const SmallProduct<T>& s, int64_t first_row) {
  Vector<T> acc[Rows][Vectors] = {};
  const T* a[Rows];
  T* const c = s.c + first_row * s.c_row;
#pragma GCC unroll 16
  for (int i = 0; i < Rows; ++i) {
    a[i] = s.a + (first_row + i) * s.a_row;
#pragma GCC unroll 4
    for (int j = 0; j < Vectors; ++j) {
      if (s.accumulate) acc[i][j] = load(c + i * s.c_row + j * kLanes<T>);
    }
  }
  add_products(acc, a, s.a_step, s.b, s.b_row, s.k);
#pragma GCC unroll 16
  for (int i = 0; i < Rows; ++i) {
#pragma GCC unroll 4
    for (int j = 0; j < Vectors; ++j) store(c + i * s.c_row + j * kLanes<T>, acc[i][j]);
  }
}

template <class T>
void multiply(const SmallProduct<T>& s) {
  const bool one_vector = s.n <= kLanes<T>;
  for_runs_of_rows(s.m, [&](auto run, int64_t first) {
    constexpr int Rows = decltype(run)::value;
    one_vector ? multiply_rows<T, Rows, 1>(s, first) : multiply_rows<T, Rows, kTileVectors>(s, first);
  });
}

}  // namespace halfstep::cpu::inline HALFSTEP_ISA
