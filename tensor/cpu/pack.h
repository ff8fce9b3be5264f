// The size of the micro-kernel's tiles (tile.h), and how it wants to read B: copies alone, no arithmetic. For
// kernel sources only.
#pragma once

#include "tensor/cpu/simd.h"

namespace halfstep::cpu::inline HALFSTEP_ISA {

// kTileRows x kTileVectors accumulators, plus kTileVectors of B and one element of A, fit in the registers.
// The accumulators (24 or 12) cover the latency of the multiply-add units.
inline constexpr int kTileVectors = 2;
inline constexpr int kTileRows = kVectorRegisters == 32 ? 12 : 6;
template <class T>
inline constexpr int kTileColumns = kTileVectors* kLanes<T>;

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
      // Squares of a transposed matrix in registers; the rest element by element.
      constexpr int L = kLanes<T>;
      const int64_t square_k = row_step == 1 ? k / L * L : 0, square_n = columns / L * L;
      for (int64_t p = 0; p < square_k; p += L) {
        for (int64_t j = 0; j < square_n; j += L) {
          transpose_square(packed + p * NR + j, NR, source + p + j * column_step, column_step);
        }
      }
      for (int64_t j = 0; j < NR; ++j) {
        for (int64_t p = j < square_n ? square_k : 0; p < k; ++p) {
          packed[p * NR + j] = j < columns ? source[p * row_step + j * column_step] : T(0);
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
