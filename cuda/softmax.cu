// Softmax over the last axis, and its gradient.
//
// Both are bound by memory: the least traffic is one read of the inputs and one write of the output.
//   * Short rows (f32 up to 4 KiB, f64 up to 1 KiB): a warp takes a row and holds all of it in registers, so
//   each element is read
//     once and written once. Lanes read neighbouring pieces of 16 bytes where rows are aligned.
//   * Long rows: a block takes a row and reads it twice. The first pass finds the maximum m and the sum s of
//     e^(x - m) together ("online": whenever m grows, s shrinks by e^(m_old - m)); the second reads the row
//     again, mostly from the L2 cache, and writes.
// NaN: the maximum overlooks it, and it comes back through its exponential into the sum, so it makes the row
// NaN; so does a row of nothing but -inf, and +inf.
#include <algorithm>
#include <type_traits>

#include "cuda/entries.h"
#include "cuda/runtime.h"
#include "cuda/warp.h"

namespace halfstep::cuda {
namespace {

constexpr int kLongThreads = 512;
// Elements that a thread has in flight in the kernels of long rows.
constexpr int kLongPart = 8;
// Rows of up to kWarp times this many elements are held in the registers of a warp.
template <class T>
constexpr int kMaxPerLane = sizeof(T) == sizeof(float) ? 32 : 4;

// Not formulas::exp: its NaN stays NaN only for the bits that a CPU gives to NaN.
__device__ float exponential(float x) { return expf(x); }
__device__ double exponential(double x) { return exp(x); }

/// values = kPart elements of `from`, dealt out to kLanes threads: piece by piece, or one by one where the
/// row is not aligned. Places behind `count` get `filler`.
template <int kPart, int kLanes, class T>
__device__ void load_part(T (&values)[kPart], const T* from, int64_t count, int lane, bool wide, T filler) {
  constexpr int V = kWide<T>;
  if constexpr (kPart % V == 0) {
    if (wide) {
#pragma unroll
      for (int r = 0; r < kPart; r += V) {
        const int first = (r / V * kLanes + lane) * V;
        Piece<T, V> piece;
#pragma unroll
        for (int v = 0; v < V; ++v) piece.at[v] = filler;
        if (first < count) piece = load_piece<T, V>(from + first);
#pragma unroll
        for (int v = 0; v < V; ++v) values[r + v] = piece.at[v];
      }
      return;
    }
  }
#pragma unroll
  for (int r = 0; r < kPart; ++r) {
    const int i = r * kLanes + lane;
    values[r] = i < count ? from[i] : filler;
  }
}

/// The same deal, written.
template <int kPart, int kLanes, class T>
__device__ void store_part(T* to, const T (&values)[kPart], int64_t count, int lane, bool wide) {
  constexpr int V = kWide<T>;
  if constexpr (kPart % V == 0) {
    if (wide) {
#pragma unroll
      for (int r = 0; r < kPart; r += V) {
        const int first = (r / V * kLanes + lane) * V;
        Piece<T, V> piece;
#pragma unroll
        for (int v = 0; v < V; ++v) piece.at[v] = values[r + v];
        if (first < count) store_piece(to + first, piece);
      }
      return;
    }
  }
#pragma unroll
  for (int r = 0; r < kPart; ++r) {
    const int i = r * kLanes + lane;
    if (i < count) to[i] = values[r];
  }
}

/// term(first) + ... + term(first + N - 1) by halves: as exact as a tree, and the additions do not wait for
/// each other.
template <int N, class Term>
__device__ auto sum_by_halves(Term term, int first = 0) {
  if constexpr (N == 1) {
    return term(first);
  } else {
    return sum_by_halves<N / 2>(term, first) + sum_by_halves<N / 2>(term, first + N / 2);
  }
}

// --- short rows: a warp each -------------------------------------------------------------------------------

template <class T, int kPerLane>
__global__ void __launch_bounds__(kThreads) softmax_short(T* y, const T* x, int64_t rows, int n, bool wide) {
  const int lane = threadIdx.x % kWarp, warps = kThreads / kWarp;
  const int64_t step = static_cast<int64_t>(gridDim.x) * warps;
  for (int64_t row = static_cast<int64_t>(blockIdx.x) * warps + threadIdx.x / kWarp; row < rows;
       row += step) {
    T values[kPerLane];
    load_part<kPerLane, kWarp>(values, x + row * n, n, lane, wide, lowest<T>());
    T top = values[0];
#pragma unroll
    for (int r = 1; r < kPerLane; ++r) top = larger(top, values[r]);
    top = lanes_max(top);
    // The filler -inf gives 0.
#pragma unroll
    for (int r = 0; r < kPerLane; ++r) values[r] = exponential(values[r] - top);
    const T factor = T(1) / lanes_sum(sum_by_halves<kPerLane>([&](int r) { return values[r]; }));
#pragma unroll
    for (int r = 0; r < kPerLane; ++r) values[r] *= factor;
    store_part<kPerLane, kWarp>(y + row * n, values, n, lane, wide);
  }
}

/// dx = y (dy - dy . y).
template <class T, int kPerLane>
__global__ void __launch_bounds__(kThreads)
    softmax_backward_short(T* dx, const T* dy, const T* y, int64_t rows, int n, bool wide) {
  const int lane = threadIdx.x % kWarp, warps = kThreads / kWarp;
  const int64_t step = static_cast<int64_t>(gridDim.x) * warps;
  for (int64_t row = static_cast<int64_t>(blockIdx.x) * warps + threadIdx.x / kWarp; row < rows;
       row += step) {
    T p[kPerLane], g[kPerLane];
    load_part<kPerLane, kWarp>(p, y + row * n, n, lane, wide, T(0));
    load_part<kPerLane, kWarp>(g, dy + row * n, n, lane, wide, T(0));
    const T mean = lanes_sum(sum_by_halves<kPerLane>([&](int r) { return p[r] * g[r]; }));
#pragma unroll
    for (int r = 0; r < kPerLane; ++r) p[r] *= g[r] - mean;
    store_part<kPerLane, kWarp>(dx + row * n, p, n, lane, wide);
  }
}

// --- long rows: a block each -------------------------------------------------------------------------------

template <class T>
__global__ void __launch_bounds__(kLongThreads)
    softmax_long(T* y, const T* x, int64_t rows, int64_t n, bool wide) {
  constexpr int64_t kStep = kLongThreads * kLongPart;
  __shared__ T scratch[kLongThreads / kWarp];
  const int thread = static_cast<int>(threadIdx.x);
  T values[kLongPart];
  for (int64_t row = blockIdx.x; row < rows; row += gridDim.x) {
    const T* const in = x + row * n;
    T* const out = y + row * n;
    T top = lowest<T>(), total = 0;
    for (int64_t first = 0; first < n; first += kStep) {
      load_part<kLongPart, kLongThreads>(values, in + first, n - first, thread, wide, lowest<T>());
      T grown = top;
#pragma unroll
      for (int r = 0; r < kLongPart; ++r) grown = larger(grown, values[r]);
      // Nothing but -inf so far: e^(-inf - 0) = 0, where -inf - -inf would be NaN for good.
      const T base = grown == lowest<T>() ? T(0) : grown;
#pragma unroll
      for (int r = 0; r < kLongPart; ++r) values[r] = exponential(values[r] - base);
      total = total * exponential(top - base) + sum_by_halves<kLongPart>([&](int r) { return values[r]; });
      top = grown;
    }
    const T row_top = block_max(top, scratch);
    const T factor = T(1) / block_sum(total * exponential(top - row_top), scratch);
    for (int64_t first = 0; first < n; first += kStep) {
      load_part<kLongPart, kLongThreads>(values, in + first, n - first, thread, wide, lowest<T>());
#pragma unroll
      for (int r = 0; r < kLongPart; ++r) values[r] = exponential(values[r] - row_top) * factor;
      store_part<kLongPart, kLongThreads>(out + first, values, n - first, thread, wide);
    }
  }
}

template <class T>
__global__ void __launch_bounds__(kLongThreads)
    softmax_backward_long(T* dx, const T* dy, const T* y, int64_t rows, int64_t n, bool wide) {
  constexpr int64_t kStep = kLongThreads * kLongPart;
  __shared__ T scratch[kLongThreads / kWarp];
  const int thread = static_cast<int>(threadIdx.x);
  T p[kLongPart], g[kLongPart];
  for (int64_t row = blockIdx.x; row < rows; row += gridDim.x) {
    T total = 0;
    for (int64_t first = row * n; first < (row + 1) * n; first += kStep) {
      const int64_t left = (row + 1) * n - first;
      load_part<kLongPart, kLongThreads>(p, y + first, left, thread, wide, T(0));
      load_part<kLongPart, kLongThreads>(g, dy + first, left, thread, wide, T(0));
      total += sum_by_halves<kLongPart>([&](int r) { return p[r] * g[r]; });
    }
    const T mean = block_sum(total, scratch);
    for (int64_t first = row * n; first < (row + 1) * n; first += kStep) {
      const int64_t left = (row + 1) * n - first;
      load_part<kLongPart, kLongThreads>(p, y + first, left, thread, wide, T(0));
      load_part<kLongPart, kLongThreads>(g, dy + first, left, thread, wide, T(0));
#pragma unroll
      for (int r = 0; r < kLongPart; ++r) p[r] *= g[r] - mean;
      store_part<kLongPart, kLongThreads>(dx + first, p, left, thread, wide);
    }
  }
}

// --- launches ----------------------------------------------------------------------------------------------

/// Calls f(integral constant of the elements per lane) for rows of n elements; false if they are too long.
template <class T, class F>
bool with_short_row(int64_t n, F f) {
  if (n <= kWarp) return f(std::integral_constant<int, 1>()), true;
  if (n <= 4 * kWarp) return f(std::integral_constant<int, 4>()), true;
  if constexpr (kMaxPerLane < T >> 4) {
    if (n <= 8 * kWarp) return f(std::integral_constant<int, 8>()), true;
    if (n <= 16 * kWarp) return f(std::integral_constant<int, 16>()), true;
    if (n <= kMaxPerLane<T> * kWarp) return f(std::integral_constant<int, kMaxPerLane<T>>()), true;
  }
  return false;
}

Launch rows_each_a_block(int64_t rows) {
  return {.grid = static_cast<unsigned>(std::min<int64_t>(rows, 1 << 20)), .block = kLongThreads};
}

template <class T>
void softmax_of(const Array& y, const Array& x) {
  const int64_t n = x.shape.back(), count = numel(x.shape), rows = n ? count / n : 0;
  if (rows == 0) return;
  const bool wide = n % kWide<T> == 0 && is_wide_aligned(x.data) && is_wide_aligned(y.data);
  const bool short_rows = with_short_row<T>(n, [&](auto per_lane) {
    launch({.grid = static_cast<unsigned>(grid_for(rows * kWarp))},
           softmax_short<T, decltype(per_lane)::value>, y.as<T>(), x.as<const T>(), rows, n, wide);
  });
  if (!short_rows)
    launch(rows_each_a_block(rows), softmax_long<T>, y.as<T>(), x.as<const T>(), rows, n, wide);
}

template <class T>
void softmax_backward_of(const Array& dx, const Array& dy, const Array& y) {
  const int64_t n = y.shape.back(), count = numel(y.shape), rows = n ? count / n : 0;
  if (rows == 0) return;
  const bool wide =
      n % kWide<T> == 0 && is_wide_aligned(dx.data) && is_wide_aligned(dy.data) && is_wide_aligned(y.data);
  const bool short_rows = with_short_row<T>(n, [&](auto per_lane) {
    launch({.grid = static_cast<unsigned>(grid_for(rows * kWarp))},
           softmax_backward_short<T, decltype(per_lane)::value>, dx.as<T>(), dy.as<const T>(),
           y.as<const T>(), rows, n, wide);
  });
  if (!short_rows)
    launch(rows_each_a_block(rows), softmax_backward_long<T>, dx.as<T>(), dy.as<const T>(), y.as<const T>(),
           rows, n, wide);
}

}  // namespace

void softmax(Array y, Array x) { x.dtype == DType::f32 ? softmax_of<float>(y, x) : softmax_of<double>(y, x); }

void softmax_backward(Array dx, Array dy, Array y) {
  y.dtype == DType::f32 ? softmax_backward_of<float>(dx, dy, y) : softmax_backward_of<double>(dx, dy, y);
}

}  // namespace halfstep::cuda
