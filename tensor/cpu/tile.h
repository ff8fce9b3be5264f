// The micro-kernel of every matrix product: one tile of C, held in registers, is the sum over k of a column
// of A times a row of B. For kernel sources only.
//
// The sum over k is cut into segments. Inside a segment, A and B are read where they lie, through a pointer
// per row of A and strides in k, so that A needs no packing and a convolution needs no im2col: each tap of
// the kernel (or each image row, for the gradient of the kernel) is a segment whose pointers point straight
// into the image.
#pragma once

#include "tensor/cpu/simd.h"

namespace halfstep::cpu::inline HALFSTEP_ISA {

// kTileRows x kTileVectors accumulators, plus kTileVectors of B and one element of A, fit in the registers.
// The accumulators (24 or 12) cover the latency of the multiply-add units.
inline constexpr int kTileVectors = 2;
inline constexpr int kTileRows = kVectorRegisters == 32 ? 12 : 6;
template <class T>
inline constexpr int kTileColumns = kTileVectors* kLanes<T>;

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

template <class T, int Rows, int Vectors>
void compute_tile(const Tile<T>& tile, int first_row) {
  constexpr int L = kLanes<T>;
  Vector<T> acc[Rows][Vectors] = {};
  for (int64_t s = 0; s < tile.count; ++s) {
    const Segment<T>& segment = tile.segments[s];
    const T* a[Rows];
#pragma GCC unroll 16
    for (int i = 0; i < Rows; ++i) a[i] = segment.a[first_row + i];
    const T* b = segment.b + tile.b_offset;
    int64_t ka = 0;
    for (int64_t p = 0; p < segment.run; ++p, ka += tile.a_step, b += tile.b_step) {
      Vector<T> row[Vectors];
#pragma GCC unroll 4
      for (int j = 0; j < Vectors; ++j) row[j] = load(b + j * L);
#pragma GCC unroll 16
      for (int i = 0; i < Rows; ++i) {
#pragma GCC unroll 4
        for (int j = 0; j < Vectors; ++j) acc[i][j] += a[i][ka] * row[j];
      }
    }
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

template <class T, int Rows>
void compute_tile(const Tile<T>& tile, int first_row) {
  if (tile.columns > kLanes<T>) {
    compute_tile<T, Rows, kTileVectors>(tile, first_row);
  } else {
    compute_tile<T, Rows, 1>(tile, first_row);
  }
}

/// The first `rows` (at most kTileRows) rows of a tile.
template <class T>
void compute_tile_rows(const Tile<T>& tile, int rows) {
  if (rows == kTileRows) return compute_tile<T, kTileRows>(tile, 0);
  int i = 0;
  if constexpr (kTileRows > 8) {
    if (rows - i >= 8) compute_tile<T, 8>(tile, i), i += 8;
  }
  if (rows - i >= 4) compute_tile<T, 4>(tile, i), i += 4;
  if (rows - i >= 2) compute_tile<T, 2>(tile, i), i += 2;
  if (rows - i >= 1) compute_tile<T, 1>(tile, i);
}

/// Copies a [k, n] window of B (any strides) to rows of kTileColumns per panel, filled up with zeros:
/// packed[panel][p][j] = B[p, panel * kTileColumns + j], where a panel has panel_rows rows.
template <class T>
void pack_panels(T* packed, int64_t panel_rows, const T* b, int64_t k, int64_t n, int64_t row_step,
                 int64_t column_step) {
  constexpr int NR = kTileColumns<T>;
  for (int64_t j0 = 0; j0 < n; j0 += NR, packed += panel_rows * NR) {
    const int64_t columns = min(NR, n - j0);
    const T* source = b + j0 * column_step;
    if (column_step == 1) {
      for (int64_t p = 0; p < k; ++p) {
        T* row = packed + p * NR;
        if (columns == NR) {
          std::memcpy(row, source + p * row_step, NR * sizeof(T));
        } else {
          for (int64_t j = 0; j < columns; ++j) row[j] = source[p * row_step + j];
          for (int64_t j = columns; j < NR; ++j) row[j] = 0;
        }
      }
    } else {
      // Blocks of k, so that the lines written stay in the cache while the columns go by.
      constexpr int64_t kBlock = 64;
      for (int64_t p0 = 0; p0 < k; p0 += kBlock) {
        const int64_t p1 = min(k, p0 + kBlock);
        for (int64_t j = 0; j < columns; ++j) {
          for (int64_t p = p0; p < p1; ++p) packed[p * NR + j] = source[p * row_step + j * column_step];
        }
        for (int64_t j = columns; j < NR; ++j) {
          for (int64_t p = p0; p < p1; ++p) packed[p * NR + j] = 0;
        }
      }
    }
  }
}

/// Elements that pack_panels writes for all of B.
template <class T>
int64_t packed_size(int64_t k, int64_t n) {
  return ceil_div(n, kTileColumns<T>) * kTileColumns<T> * k;
}

/// Columns of packed B (a multiple of the tile) whose k rows together stay in the second-level cache.
template <class T>
int64_t cached_columns(int64_t k) {
  constexpr int64_t kCacheBytes = 768 * 1024;
  constexpr int64_t kPanelBytes = kTileColumns<T> * static_cast<int64_t>(sizeof(T));
  return max(1, kCacheBytes / (max(k, 1) * kPanelBytes)) * kTileColumns<T>;
}

}  // namespace halfstep::cpu::inline HALFSTEP_ISA
