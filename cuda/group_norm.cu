// Group normalisation fused with its activation, and its gradients.
//
// x is [B, P, C]: a group is W = C / G neighbouring channels of every pixel, so its elements are short runs
// of memory. A block therefore takes several neighbouring groups, a run of channels of 128 bytes or more. Its
// threads stand in `rows` x `columns`: a thread keeps to one column, a piece of V channels (16 bytes where
// alignment allows), and steps through the pixels row by row; so warps read whole runs, and the factors of
// its channels stay in a thread's registers. Per-channel sums go over the rows by a tree in shared memory.
//
// Two ways, by the size of the slab of pixels and channels that belongs to a run:
//   * Slabs that stay in the L2 cache while their block works on them: one kernel. It goes over the slab once
//     per step (mean, squared deviations, output), but only the first read and the write reach memory: two
//     passes of traffic. Backward: sums, then dx; three passes (x, dy, dx).
//   * Otherwise, or where there are too few slabs to fill the device: pixels are cut into slices, and three
//     kernels find partial sums, join them, and write the output. One more read of x (and dy).
//
// The variance is that of a corrected two-pass method: squared deviations d from a provisional mean, and the
// sum of d itself, which is 0 but for rounding and gives the mean's missing digits. Slices keep (mean, sum of
// d, sum of d^2) of each channel, and these are joined in f64 as sum (d + shift)^2 about the common mean.
#include <algorithm>
#include <numeric>
#include <type_traits>

#include "cuda/entries.h"
#include "cuda/runtime.h"
#include "cuda/warp.h"
#include "tensor/formulas.h"

namespace halfstep::cuda {
namespace {

constexpr int kMaxThreads = 512;
constexpr int kJoinThreads = 128;
// Bytes of the shortest run of channels: a line of the caches.
constexpr int kRunBytes = 128;
// Groups in a run: of W * V neighbouring channels or of kRunBytes, whichever is longer; at most 35.
constexpr int kMaxRunGroups = 64;

/// What numbers that are stored as X are computed in: f32 for bf16, which is stored as uint16_t.
template <class X>
using Computed = std::conditional_t<std::is_same_v<X, uint16_t>, float, X>;

/// The arguments of a call as the kernels want them. X: how pixels are stored.
template <class X>
struct Norm {
  using T = Computed<X>;
  const X* x;
  const T *gain, *bias;
  const X* dy;       ///< backward only
  X* out;            ///< y or dx
  T *mean, *rstd;    ///< [B, G]
  T *dgain, *dbias;  ///< [B, C], backward only
  int64_t batch, pixels;
  int channels, groups, width;   ///< width: channels of a group
  int64_t gain_step, bias_step;  ///< from one example to the next: C or 0
  double share;                  ///< of an element in the mean of its group
  double eps;
  bool silu;
};

/// How a call is cut into work for blocks.
struct Cut {
  int channels;                            ///< of a run, or of a tile of channels
  int columns;                             ///< pieces across these channels
  int runs;                                ///< runs or tiles in an example
  int slices;                              ///< cuts of the pixels
  int64_t slice_pixels;                    ///< of each slice but the last
  double slice_share = 0, last_share = 0;  ///< of a pixel in the mean of a slice, and of the last
  int64_t first_example = 0;               ///< of a launch: its blocks are those of the examples from here on
};

// --- shared by the kernels ---------------------------------------------------------------------------------

template <class X, int V>
__device__ Piece<Computed<X>, V> load_pixels(const X* from) {
  const Piece<X, V> stored = load_piece<X, V>(from);
  if constexpr (std::is_same_v<X, Computed<X>>) {
    return stored;
  } else {
    Piece<Computed<X>, V> piece;
#pragma unroll
    for (int v = 0; v < V; ++v) piece.at[v] = formulas::from_bf16(stored.at[v]);
    return piece;
  }
}
template <class X, int V>
__device__ void store_pixels(X* to, const Piece<Computed<X>, V>& piece) {
  if constexpr (std::is_same_v<X, Computed<X>>) {
    store_piece(to, piece);
  } else {
    Piece<X, V> stored;
#pragma unroll
    for (int v = 0; v < V; ++v) stored.at[v] = formulas::to_bf16(piece.at[v]);
    store_piece(to, stored);
  }
}

template <class T>
__device__ T activated(T u, bool silu) {
  return silu ? u * formulas::sigmoid(u) : u;
}

/// The slope of silu from one exponential; formulas::derivative spends two.
template <class T>
__device__ T activation_slope(T u, bool silu) {
  if (!silu) return T(1);
  const T s = formulas::sigmoid(u);
  return s * (T(1) + u * (T(1) - s));
}

/// The part of a thread in a block's work: a piece of channels, and every rows-th pixel.
struct Place {
  int rows, row, column;
  int64_t count;   ///< pixels of this thread; 0 where it has no column or no row
  bool has_row;    ///< it takes part in sum_rows
  bool has_piece;  ///< its channels exist

  /// Of `channels` channels (a multiple of V) in `columns` columns, and `pixels` pixels.
  __device__ Place(int columns, int channels, int V, int64_t pixels) {
    const int thread = static_cast<int>(threadIdx.x);
    rows = static_cast<int>(blockDim.x) / columns;
    row = thread / columns;
    column = thread % columns;
    has_row = row < rows;
    has_piece = column * V < channels;
    const bool works = has_row && has_piece && row < pixels;
    count = works ? (pixels - row + rows - 1) / rows : 0;
  }
};

/// Calls f(piece) or f(piece, next) for a thread's pixels. Two loads of f32 are on their way at a time,
/// enough beside the other warps; f64 takes twice the registers, and calls functions that keep some of them.
template <class X, int V, class F>
__device__ void for_each_piece(const X* from, int64_t step, int64_t count, F f) {
  if constexpr (!std::is_same_v<X, double>) {
    for (; count >= 2; count -= 2, from += 2 * step) {
      const auto piece = load_pixels<X, V>(from), next = load_pixels<X, V>(from + step);
      f(piece, next);
    }
  }
  for (; count > 0; --count, from += step) f(load_pixels<X, V>(from));
}

/// Sums over the rows of a block: sums[k] of each thread into shared memory, where element
/// [k][column * V + v] is then at k * rows * columns * V + column * V + v. Waits for all threads, but not
/// before its first write.
template <int K, class T, int V>
__device__ void sum_rows(T* shared, const T (&sums)[K][V], const Place& at, int columns) {
  const int line = columns * V, plane = at.rows * line, own = at.row * line + at.column * V;
  if (at.has_row) {
#pragma unroll
    for (int k = 0; k < K; ++k) {
      Piece<T, V> piece;
#pragma unroll
      for (int v = 0; v < V; ++v) piece.at[v] = sums[k][v];
      store_piece(shared + k * plane + own, piece);
    }
  }
  __syncthreads();
  for (int left = at.rows; left > 1;) {
    const int half = (left + 1) / 2;
    if (at.row < left - half) {
#pragma unroll
      for (int k = 0; k < K; ++k) {
        T* const to = shared + k * plane + own;
        Piece<T, V> piece = load_piece<T, V>(to);
        const Piece<T, V> other = load_piece<T, V>(to + half * line);
#pragma unroll
        for (int v = 0; v < V; ++v) piece.at[v] += other.at[v];
        store_piece(to, piece);
      }
    }
    __syncthreads();
    left = half;
  }
}

/// Calls f(group of the run, lane) by whole warps for all groups.
template <class F>
__device__ void for_each_group(int groups, F f) {
  const int lane = threadIdx.x % kWarp, warps = static_cast<int>(blockDim.x) / kWarp;
  for (int group = threadIdx.x / kWarp; group < groups; group += warps) f(group, lane);
}

/// The sum over the channels of a group of term(channel), for all lanes of a warp.
template <class T, class Term>
__device__ T sum_channels(int width, int lane, Term term) {
  T sum = 0;
  for (int c = lane; c < width; c += kWarp) sum += term(c);
  return lanes_sum(sum);
}

/// What a group is normalised with. residual: what rounding took from the mean, large beside a small
/// deviation.
template <class T>
struct Statistics {
  T mean, rstd, residual;
};
template <class T>
__device__ Statistics<T> statistics_of(double mean, double variance, double eps) {
  // Rounding may leave a variance below 0; NaN passes.
  const double rstd = ::rsqrt((variance < 0 ? 0 : variance) + eps);
  const T rounded = static_cast<T>(mean);
  return {rounded, static_cast<T>(rstd), static_cast<T>(mean - rounded)};
}

/// y = activation((x - mean) scale + shift) for the pixels of one thread. statistics(v): of channel v of its
/// piece. first: of its first element.
template <class X, int V, class Find>
__device__ void normalize(const Norm<X>& n, const Place& at, int64_t example, int channel, int64_t first,
                          Find statistics) {
  using T = Computed<X>;
  if (at.count == 0) return;
  T mean[V], scale[V], shift[V];
#pragma unroll
  for (int v = 0; v < V; ++v) {
    const Statistics<T> s = statistics(v);
    mean[v] = s.mean;
    scale[v] = s.rstd * n.gain[example * n.gain_step + channel + v];
    shift[v] = n.bias[example * n.bias_step + channel + v] - s.residual * scale[v];
  }
  const int64_t step = static_cast<int64_t>(at.rows) * n.channels;
  X* to = n.out + first;
  for_each_piece<X, V>(n.x + first, step, at.count, [&](const auto&... in) {
    const auto write = [&](const Piece<T, V>& piece) {
      Piece<T, V> out;
#pragma unroll
      for (int v = 0; v < V; ++v)
        out.at[v] = activated((piece.at[v] - mean[v]) * scale[v] + shift[v], n.silu);
      store_pixels<X, V>(to, out);
      to += step;
    };
    (write(in), ...);
  });
}

/// What the gradients of one thread's channels are computed with.
template <class T, int V>
struct Factors {
  T mean[V], rstd[V], gain[V], bias[V];

  template <class X>
  __device__ Factors(const Norm<X>& n, const Place& at, int64_t example, int channel) {
#pragma unroll
    for (int v = 0; v < V; ++v) {
      mean[v] = rstd[v] = gain[v] = bias[v] = T(0);
      if (!at.has_piece) continue;
      const int64_t group = example * n.groups + (channel + v) / n.width;
      mean[v] = n.mean[group];
      rstd[v] = n.rstd[group];
      gain[v] = n.gain[example * n.gain_step + channel + v];
      bias[v] = n.bias[example * n.bias_step + channel + v];
    }
  }
  /// h = (x - mean) rstd, and du = dy activation'(h gain + bias).
  __device__ void differentiate(int v, T x, T dy, bool silu, T& h, T& du) const {
    h = (x - mean[v]) * rstd[v];
    du = dy * activation_slope(h * gain[v] + bias[v], silu);
  }
};

/// sums[0] += du and sums[1] += du h over the pixels of one thread.
template <class X, class T, int V>
__device__ void add_gradients(const Norm<X>& n, const Factors<T, V>& f, const Place& at, int64_t first,
                              T (&sums)[2][V]) {
  const int64_t step = static_cast<int64_t>(at.rows) * n.channels;
  const X *x = n.x + first, *dy = n.dy + first;
  int64_t count = at.count;
  for (; count >= 2; count -= 2, x += 2 * step, dy += 2 * step) {
    const Piece<T, V> x0 = load_pixels<X, V>(x), x1 = load_pixels<X, V>(x + step);
    const Piece<T, V> dy0 = load_pixels<X, V>(dy), dy1 = load_pixels<X, V>(dy + step);
#pragma unroll
    for (int v = 0; v < V; ++v) {
      T h0, h1, du0, du1;
      f.differentiate(v, x0.at[v], dy0.at[v], n.silu, h0, du0);
      f.differentiate(v, x1.at[v], dy1.at[v], n.silu, h1, du1);
      sums[0][v] += du0 + du1;
      sums[1][v] += du0 * h0 + du1 * h1;
    }
  }
  if (count > 0) {
    const Piece<T, V> x0 = load_pixels<X, V>(x), dy0 = load_pixels<X, V>(dy);
#pragma unroll
    for (int v = 0; v < V; ++v) {
      T h0, du0;
      f.differentiate(v, x0.at[v], dy0.at[v], n.silu, h0, du0);
      sums[0][v] += du0;
      sums[1][v] += du0 * h0;
    }
  }
}

/// dx = rstd (du gain - mean_du - h mean_du_h) for the pixels of one thread; the means are those of du gain
/// and of du gain h over the group.
template <class X, class T, int V>
__device__ void write_dx(const Norm<X>& n, const Factors<T, V>& f, const Place& at, int64_t first,
                         const T (&mean_du)[V], const T (&mean_du_h)[V]) {
  const int64_t step = static_cast<int64_t>(at.rows) * n.channels;
  const X *x = n.x + first, *dy = n.dy + first;
  X* dx = n.out + first;
  const auto write = [&](const Piece<T, V>& x_piece, const Piece<T, V>& dy_piece) {
    Piece<T, V> out;
#pragma unroll
    for (int v = 0; v < V; ++v) {
      T h, du;
      f.differentiate(v, x_piece.at[v], dy_piece.at[v], n.silu, h, du);
      out.at[v] = f.rstd[v] * (du * f.gain[v] - mean_du[v] - h * mean_du_h[v]);
    }
    store_pixels<X, V>(dx, out);
    dx += step;
  };
  int64_t count = at.count;
  for (; count >= 2; count -= 2, x += 2 * step, dy += 2 * step) {
    const Piece<T, V> x0 = load_pixels<X, V>(x), x1 = load_pixels<X, V>(x + step);
    const Piece<T, V> dy0 = load_pixels<X, V>(dy), dy1 = load_pixels<X, V>(dy + step);
    write(x0, dy0);
    write(x1, dy1);
  }
  if (count > 0) write(load_pixels<X, V>(x), load_pixels<X, V>(dy));
}

/// Dynamic shared memory as elements of T, aligned for pieces.
template <class T>
__device__ T* dynamic_shared() {
  extern __shared__ float4 memory[];
  return reinterpret_cast<T*>(memory);
}

// --- one kernel per slab -----------------------------------------------------------------------------------

template <class X, int V>
__global__ void __launch_bounds__(kMaxThreads, 2) norm_slab(Norm<X> n, Cut cut) {
  using T = Computed<X>;
  T* const shared = dynamic_shared<T>();
  __shared__ T provisional[kMaxRunGroups];
  __shared__ Statistics<T> statistics[kMaxRunGroups];
  const int block = static_cast<int>(blockIdx.x), start = block % cut.runs * cut.channels;
  const int64_t example = cut.first_example + block / cut.runs;
  const int channels = min(cut.channels, n.channels - start), groups = channels / n.width;
  const Place at(cut.columns, channels, V, n.pixels);
  const int channel = start + at.column * V;
  const int64_t first = (example * n.pixels + at.row) * n.channels + channel;
  const int64_t step = static_cast<int64_t>(at.rows) * n.channels;

  T sum[1][V] = {};
  for_each_piece<X, V>(n.x + first, step, at.count, [&](const auto&... in) {
#pragma unroll
    for (int v = 0; v < V; ++v) sum[0][v] += (in.at[v] + ...);
  });
  sum_rows(shared, sum, at, cut.columns);
  for_each_group(groups, [&](int group, int lane) {
    const T total = sum_channels<T>(n.width, lane, [&](int c) { return shared[group * n.width + c]; });
    if (lane == 0) provisional[group] = total * static_cast<T>(n.share);
  });
  __syncthreads();

  T sums[2][V] = {};
  if (at.count > 0) {
    T mean[V];
#pragma unroll
    for (int v = 0; v < V; ++v) mean[v] = provisional[(at.column * V + v) / n.width];
    for_each_piece<X, V>(n.x + first, step, at.count, [&](const auto&... in) {
#pragma unroll
      for (int v = 0; v < V; ++v) {
        sums[0][v] += ((in.at[v] - mean[v]) + ...);
        sums[1][v] += (((in.at[v] - mean[v]) * (in.at[v] - mean[v])) + ...);
      }
    });
  }
  sum_rows(shared, sums, at, cut.columns);
  for_each_group(groups, [&](int group, int lane) {
    const T* const deviations = shared + group * n.width;
    const T* const squares = deviations + at.rows * cut.columns * V;
    const double d = sum_channels<T>(n.width, lane, [&](int c) { return deviations[c]; });
    const double d2 = sum_channels<T>(n.width, lane, [&](int c) { return squares[c]; });
    if (lane == 0) {
      const double offset = d * n.share;
      const T mean = provisional[group];
      const Statistics<T> s =
          statistics_of<T>(isfinite(mean) ? mean + offset : mean, d2 * n.share - offset * offset, n.eps);
      statistics[group] = s;
      const int64_t index = example * n.groups + start / n.width + group;
      n.mean[index] = s.mean;
      n.rstd[index] = s.rstd;
    }
  });
  __syncthreads();

  normalize<X, V>(n, at, example, channel, first,
                  [&](int v) { return statistics[(at.column * V + v) / n.width]; });
}

// Without the 1 the compiler keeps to 64 registers, and spills some with bf16.
template <class X, int V>
__global__ void __launch_bounds__(kMaxThreads, 1) norm_slab_backward(Norm<X> n, Cut cut) {
  using T = Computed<X>;
  T* const shared = dynamic_shared<T>();
  __shared__ T group_du[kMaxRunGroups], group_du_h[kMaxRunGroups];
  const int block = static_cast<int>(blockIdx.x), start = block % cut.runs * cut.channels;
  const int64_t example = cut.first_example + block / cut.runs;
  const int channels = min(cut.channels, n.channels - start), groups = channels / n.width;
  const Place at(cut.columns, channels, V, n.pixels);
  const int channel = start + at.column * V;
  const int64_t first = (example * n.pixels + at.row) * n.channels + channel;
  const Factors<T, V> factors(n, at, example, channel);

  T sums[2][V] = {};
  add_gradients(n, factors, at, first, sums);
  sum_rows(shared, sums, at, cut.columns);
  const T* const sum_du = shared;
  const T* const sum_du_h = shared + at.rows * cut.columns * V;
  for (int c = static_cast<int>(threadIdx.x); c < channels; c += static_cast<int>(blockDim.x)) {
    n.dbias[example * n.channels + start + c] = sum_du[c];
    n.dgain[example * n.channels + start + c] = sum_du_h[c];
  }
  for_each_group(groups, [&](int group, int lane) {
    const T* const gain = n.gain + example * n.gain_step + start + group * n.width;
    const T* const du = sum_du + group * n.width;
    const T* const du_h = sum_du_h + group * n.width;
    const T total = sum_channels<T>(n.width, lane, [&](int c) { return du[c] * gain[c]; });
    const T total_h = sum_channels<T>(n.width, lane, [&](int c) { return du_h[c] * gain[c]; });
    if (lane == 0) {
      group_du[group] = total * static_cast<T>(n.share);
      group_du_h[group] = total_h * static_cast<T>(n.share);
    }
  });
  __syncthreads();

  if (at.count > 0) {
    T mean_du[V], mean_du_h[V];
#pragma unroll
    for (int v = 0; v < V; ++v) {
      mean_du[v] = group_du[(at.column * V + v) / n.width];
      mean_du_h[v] = group_du_h[(at.column * V + v) / n.width];
    }
    write_dx(n, factors, at, first, mean_du, mean_du_h);
  }
}

// --- slices of the pixels ----------------------------------------------------------------------------------

/// The work of a block: a tile of channels (whatever the groups) of a slice of the pixels of an example.
struct SliceWork {
  int64_t example, pixel, pixels;  ///< pixel: the first one
  int slice, start, channels;

  __device__ SliceWork(const Cut& cut, int64_t all_pixels, int all_channels) {
    const int block = static_cast<int>(blockIdx.x);
    start = block % cut.runs * cut.channels;
    channels = min(cut.channels, all_channels - start);
    slice = block / cut.runs % cut.slices;
    example = cut.first_example + block / cut.runs / cut.slices;
    pixel = slice * cut.slice_pixels;
    pixels = min(cut.slice_pixels, all_pixels - pixel);
  }
};

/// Line k of the results of a slice, [C]: workspaces are [B, slices, K, C].
template <class T>
__device__ T* slice_line(T* workspace, const Cut& cut, int64_t example, int64_t slice, int K, int k,
                         int channels) {
  return workspace + ((example * cut.slices + slice) * K + k) * channels;
}

/// partial: [B, slices, 3, C]: of each channel the mean over the slice, and the sums of d and of d^2.
template <class X, int V>
__global__ void __launch_bounds__(kThreads, 4) norm_slices(Norm<X> n, Cut cut, Computed<X>* partial) {
  using T = Computed<X>;
  T* const shared = dynamic_shared<T>();
  const SliceWork work(cut, n.pixels, n.channels);
  const Place at(cut.columns, work.channels, V, work.pixels);
  const int channel = work.start + at.column * V;
  const int64_t first = (work.example * n.pixels + work.pixel + at.row) * n.channels + channel;
  const int64_t step = static_cast<int64_t>(at.rows) * n.channels;
  const T share = static_cast<T>(work.slice == cut.slices - 1 ? cut.last_share : cut.slice_share);

  T sum[1][V] = {};
  for_each_piece<X, V>(n.x + first, step, at.count, [&](const auto&... in) {
#pragma unroll
    for (int v = 0; v < V; ++v) sum[0][v] += (in.at[v] + ...);
  });
  sum_rows(shared, sum, at, cut.columns);
  T mean[V];
#pragma unroll
  for (int v = 0; v < V; ++v) mean[v] = shared[at.column * V + v] * share;
  __syncthreads();

  T sums[2][V] = {};
  for_each_piece<X, V>(n.x + first, step, at.count, [&](const auto&... in) {
#pragma unroll
    for (int v = 0; v < V; ++v) {
      sums[0][v] += ((in.at[v] - mean[v]) + ...);
      sums[1][v] += (((in.at[v] - mean[v]) * (in.at[v] - mean[v])) + ...);
    }
  });
  sum_rows(shared, sums, at, cut.columns);
  if (at.row == 0 && at.has_piece) {
    const int plane = at.rows * cut.columns * V;
#pragma unroll
    for (int v = 0; v < V; ++v) {
      const auto line = [&](int k) -> T& {
        return slice_line(partial, cut, work.example, work.slice, 3, k, n.channels)[channel + v];
      };
      line(0) = mean[v];
      line(1) = shared[at.column * V + v];
      line(2) = shared[plane + at.column * V + v];
    }
  }
}

/// Joins the slices of the groups, one block each. residual: [B, G]. Also for no pixels or no channels: NaN.
template <class X>
__global__ void __launch_bounds__(kJoinThreads)
    norm_join(Norm<X> n, Cut cut, const Computed<X>* partial, Computed<X>* residual) {
  using T = Computed<X>;
  __shared__ double scratch[kJoinThreads / kWarp];
  const int block = static_cast<int>(blockIdx.x), start = block % n.groups * n.width;
  const int entries = cut.slices * n.width;
  const int64_t example = cut.first_example + block / n.groups;
  const int64_t item = cut.first_example * n.groups + block;
  // Calls f(pixels, mean, sum of d, sum of d^2) for this thread's share of the entries.
  const auto for_each_entry = [&](auto f) {
    for (int i = static_cast<int>(threadIdx.x); i < entries; i += kJoinThreads) {
      const int slice = i / n.width;
      const T* const entry = slice_line(partial, cut, example, slice, 3, 0, n.channels) + start + i % n.width;
      const int64_t pixels = min(cut.slice_pixels, n.pixels - slice * cut.slice_pixels);
      f(static_cast<double>(pixels), static_cast<double>(entry[0]), static_cast<double>(entry[n.channels]),
        static_cast<double>(entry[2 * static_cast<int64_t>(n.channels)]));
    }
  };
  double sum = 0;
  for_each_entry([&](double pixels, double mean, double d, double) {
    sum += isfinite(mean) ? pixels * mean + d : mean;
  });
  const double mean = block_sum(sum, scratch) * n.share;
  double squares = 0;
  for_each_entry([&](double pixels, double slice_mean, double d, double d2) {
    const double shift = slice_mean - mean;
    squares += d2 + shift * (2 * d + pixels * shift);
  });
  const double variance = block_sum(squares, scratch) * n.share;
  if (threadIdx.x == 0) {
    const Statistics<T> s = statistics_of<T>(mean, variance, n.eps);
    n.mean[item] = s.mean;
    n.rstd[item] = s.rstd;
    residual[item] = s.residual;
  }
}

template <class X, int V>
__global__ void __launch_bounds__(kThreads) norm_apply(Norm<X> n, Cut cut, const Computed<X>* residual) {
  using T = Computed<X>;
  const SliceWork work(cut, n.pixels, n.channels);
  const Place at(cut.columns, work.channels, V, work.pixels);
  const int channel = work.start + at.column * V;
  const int64_t first = (work.example * n.pixels + work.pixel + at.row) * n.channels + channel;
  normalize<X, V>(n, at, work.example, channel, first, [&](int v) {
    const int64_t group = work.example * n.groups + (channel + v) / n.width;
    return Statistics<T>{n.mean[group], n.rstd[group], residual[group]};
  });
}

/// partial: [B, slices, 2, C]: of each channel the sums of du and of du h.
template <class X, int V>
__global__ void __launch_bounds__(kThreads) gradient_slices(Norm<X> n, Cut cut, Computed<X>* partial) {
  using T = Computed<X>;
  T* const shared = dynamic_shared<T>();
  const SliceWork work(cut, n.pixels, n.channels);
  const Place at(cut.columns, work.channels, V, work.pixels);
  const int channel = work.start + at.column * V;
  const int64_t first = (work.example * n.pixels + work.pixel + at.row) * n.channels + channel;
  const Factors<T, V> factors(n, at, work.example, channel);
  T sums[2][V] = {};
  add_gradients(n, factors, at, first, sums);
  sum_rows(shared, sums, at, cut.columns);
  if (at.row == 0 && at.has_piece) {
    const int plane = at.rows * cut.columns * V;
#pragma unroll
    for (int k = 0; k < 2; ++k) {
      T* const line = slice_line(partial, cut, work.example, work.slice, 2, k, n.channels);
#pragma unroll
      for (int v = 0; v < V; ++v) line[channel + v] = shared[k * plane + at.column * V + v];
    }
  }
}

/// Joins the slices of the groups, one block each: dgain, dbias, and means [2, B, G] of du gain and of
/// du gain h. No pixels: dgain and dbias are 0.
template <class X>
__global__ void __launch_bounds__(kJoinThreads)
    gradient_join(Norm<X> n, Cut cut, const Computed<X>* partial, Computed<X>* means) {
  using T = Computed<X>;
  __shared__ double scratch[kJoinThreads / kWarp];
  const int block = static_cast<int>(blockIdx.x), start = block % n.groups * n.width;
  const int64_t example = cut.first_example + block / n.groups;
  const int64_t item = cut.first_example * n.groups + block;
  double total = 0, total_h = 0;
  for (int c = start + static_cast<int>(threadIdx.x); c < start + n.width; c += kJoinThreads) {
    double du = 0, du_h = 0;
    for (int slice = 0; slice < cut.slices; ++slice) {
      du += slice_line(partial, cut, example, slice, 2, 0, n.channels)[c];
      du_h += slice_line(partial, cut, example, slice, 2, 1, n.channels)[c];
    }
    n.dbias[example * n.channels + c] = static_cast<T>(du);
    n.dgain[example * n.channels + c] = static_cast<T>(du_h);
    const double gain = n.gain[example * n.gain_step + c];
    total += du * gain;
    total_h += du_h * gain;
  }
  total = block_sum(total, scratch);
  total_h = block_sum(total_h, scratch);
  if (threadIdx.x == 0) {
    means[item] = static_cast<T>(total * n.share);
    means[n.batch * n.groups + item] = static_cast<T>(total_h * n.share);
  }
}

template <class X, int V>
__global__ void __launch_bounds__(kThreads) gradient_apply(Norm<X> n, Cut cut, const Computed<X>* means) {
  using T = Computed<X>;
  const SliceWork work(cut, n.pixels, n.channels);
  const Place at(cut.columns, work.channels, V, work.pixels);
  if (at.count == 0) return;
  const int channel = work.start + at.column * V;
  const int64_t first = (work.example * n.pixels + work.pixel + at.row) * n.channels + channel;
  const Factors<T, V> factors(n, at, work.example, channel);
  T mean_du[V], mean_du_h[V];
#pragma unroll
  for (int v = 0; v < V; ++v) {
    const int64_t group = work.example * n.groups + (channel + v) / n.width;
    mean_du[v] = means[group];
    mean_du_h[v] = means[n.batch * n.groups + group];
  }
  write_dx(n, factors, at, first, mean_du, mean_du_h);
}

// --- plans and launches ------------------------------------------------------------------------------------

/// Launches a kernel with so many blocks for each example; a grid holds less than 2^31.
template <class X, class... Params, class... Args>
void launch_examples(int64_t blocks, int threads, size_t shared_bytes,
                     void (*kernel)(Norm<X>, Cut, Params...), const Norm<X>& n, Cut cut, Args... args) {
  const int64_t most = std::max<int64_t>(1, (1 << 30) / blocks);
  for (int64_t& first = cut.first_example; first < n.batch; first += most)
    launch({.grid = static_cast<unsigned>(std::min(most, n.batch - first) * blocks),
            .block = static_cast<unsigned>(threads),
            .shared_bytes = shared_bytes},
           kernel, n, cut, args...);
}

/// The runs of channels for one block each, or columns = 0 where slices are better; `threads` of a block, and
/// slabs of `arrays` arrays.
template <class X, int V>
Cut slab_cut(const Norm<X>& n, int arrays, int& threads) {
  // Whole groups, whole pieces, and at least kRunBytes.
  const int pieces = V / std::gcd(n.width, V);
  int64_t groups = ceil_div(kRunBytes, static_cast<int64_t>(sizeof(X)) * n.width);
  groups = std::min<int64_t>(ceil_div(groups, pieces) * pieces, n.groups);
  Cut cut = {.channels = static_cast<int>(groups * n.width),
             .columns = 0,
             .runs = static_cast<int>(ceil_div(n.groups, groups)),
             .slices = 1,
             .slice_pixels = n.pixels};
  constexpr int64_t kSmallSlab = 32 << 10, kLargeSlab = 512 << 10;
  const int64_t bytes = n.pixels * cut.channels * static_cast<int64_t>(sizeof(X)) * arrays;
  // Larger slabs get more threads, so that fewer of them share the caches at a time.
  threads = bytes <= kSmallSlab ? kThreads : kMaxThreads;
  const bool fills_device = n.batch * cut.runs >= multiprocessors();
  const bool good = bytes <= kSmallSlab || (bytes <= kLargeSlab && fills_device);
  if (good && cut.channels / V <= threads) cut.columns = cut.channels / V;
  return cut;
}

/// Tiles of channels and slices of pixels that fill the device some times.
template <class X, int V>
Cut slice_cut(const Norm<X>& n) {
  const int pieces = n.channels / V;
  const int columns = pieces == 0 ? 1 : static_cast<int>(ceil_div(pieces, ceil_div(pieces, kWarp)));
  Cut cut = {.channels = columns * V,
             .columns = columns,
             .runs = static_cast<int>(ceil_div(pieces, columns)),
             .slices = 0,
             .slice_pixels = 1};
  if (n.pixels == 0 || pieces == 0) return cut;
  const int64_t wanted = ceil_div(8 * static_cast<int64_t>(multiprocessors()), n.batch * cut.runs);
  const int64_t most = ceil_div(n.pixels, 8 * (kThreads / columns));
  cut.slice_pixels = ceil_div(n.pixels, std::min(wanted, most));
  cut.slices = static_cast<int>(ceil_div(n.pixels, cut.slice_pixels));
  cut.slice_share = 1 / static_cast<double>(cut.slice_pixels);
  cut.last_share = 1 / static_cast<double>(n.pixels - (cut.slices - 1) * cut.slice_pixels);
  return cut;
}

/// Shared memory for sum_rows.
template <class X, int V>
size_t shared_bytes(int sums, int threads) {
  return sizeof(Computed<X>) * V * static_cast<size_t>(sums * threads);
}

template <class X, int V>
void forward(const Norm<X>& n) {
  using T = Computed<X>;
  const bool empty = n.pixels == 0 || n.channels == 0;
  int threads = 0;
  if (!empty) {
    if (const Cut cut = slab_cut<X, V>(n, 1, threads); cut.columns > 0)
      return launch_examples(cut.runs, threads, shared_bytes<X, V>(2, threads), norm_slab<X, V>, n, cut);
  }
  const Cut cut = slice_cut<X, V>(n);
  const int64_t partials = n.batch * cut.slices * 3 * n.channels, blocks = int64_t{cut.slices} * cut.runs;
  T* const partial =
      static_cast<T*>(workspace(sizeof(T) * static_cast<size_t>(partials + n.batch * n.groups)));
  T* const residual = partial + partials;
  if (!empty)
    launch_examples(blocks, kThreads, shared_bytes<X, V>(2, kThreads), norm_slices<X, V>, n, cut, partial);
  launch_examples(n.groups, kJoinThreads, 0, norm_join<X>, n, cut, partial, residual);
  if (!empty) launch_examples(blocks, kThreads, 0, norm_apply<X, V>, n, cut, residual);
}

template <class X, int V>
void backward(const Norm<X>& n) {
  using T = Computed<X>;
  int threads = 0;
  if (n.pixels > 0) {
    if (const Cut cut = slab_cut<X, V>(n, 2, threads); cut.columns > 0)
      return launch_examples(cut.runs, threads, shared_bytes<X, V>(2, threads), norm_slab_backward<X, V>, n,
                             cut);
  }
  const Cut cut = slice_cut<X, V>(n);
  const int64_t partials = n.batch * cut.slices * 2 * n.channels, blocks = int64_t{cut.slices} * cut.runs;
  T* const partial =
      static_cast<T*>(workspace(sizeof(T) * static_cast<size_t>(partials + 2 * n.batch * n.groups)));
  T* const means = partial + partials;
  if (n.pixels > 0)
    launch_examples(blocks, kThreads, shared_bytes<X, V>(2, kThreads), gradient_slices<X, V>, n, cut,
                    partial);
  launch_examples(n.groups, kJoinThreads, 0, gradient_join<X>, n, cut, partial, means);
  if (n.pixels > 0) launch_examples(blocks, kThreads, 0, gradient_apply<X, V>, n, cut, means);
}

template <class X>
Norm<X> norm_of(const GroupNormArgs& args) {
  using T = Computed<X>;
  const int channels = static_cast<int>(args.x.shape[2]);
  const auto step = [channels](const Array& a) -> int64_t { return a.shape[0] == 1 ? 0 : channels; };
  return {.x = args.x.as<const X>(),
          .gain = args.gain.as<const T>(),
          .bias = args.bias.as<const T>(),
          .dy = nullptr,
          .out = args.y.as<X>(),
          .mean = args.mean.as<T>(),
          .rstd = args.rstd.as<T>(),
          .dgain = nullptr,
          .dbias = nullptr,
          .batch = args.x.shape[0],
          .pixels = args.x.shape[1],
          .channels = channels,
          .groups = args.groups,
          .width = channels / args.groups,
          .gain_step = step(args.gain),
          .bias_step = step(args.bias),
          .share = 1 / static_cast<double>(args.x.shape[1] * (channels / args.groups)),
          .eps = args.eps,
          .silu = args.activation == Activation::silu};
}

/// Elements of a thread's piece: 16 bytes of what is computed with, 8 bytes of bf16 in memory.
template <class X>
inline constexpr int kPieceWidth = kWide<Computed<X>>;

template <class X>
void group_norm_of(const GroupNormArgs& args) {
  constexpr int kV = kPieceWidth<X>;
  const Norm<X> n = norm_of<X>(args);
  if (n.batch == 0) return;
  const bool wide = n.channels % kV == 0 && is_wide_aligned(n.x) && is_wide_aligned(n.out);
  wide ? forward<X, kV>(n) : forward<X, 1>(n);
}

template <class X>
void group_norm_backward_of(const GroupNormBackwardArgs& args) {
  using T = Computed<X>;
  constexpr int kV = kPieceWidth<X>;
  Norm<X> n = norm_of<X>(args.forward);
  n.dy = args.dy.as<const X>();
  n.out = args.dx.as<X>();
  n.dgain = args.dgain.as<T>();
  n.dbias = args.dbias.as<T>();
  if (n.batch == 0 || n.channels == 0) return;
  const bool wide =
      n.channels % kV == 0 && is_wide_aligned(n.x) && is_wide_aligned(n.dy) && is_wide_aligned(n.out);
  wide ? backward<X, kV>(n) : backward<X, 1>(n);
}

/// Calls f(X{}) with the type that a floating dtype is stored as.
template <class F>
void with_pixels(DType dtype, F&& f) {
  if (dtype == DType::bf16) return f(uint16_t{});
  dtype == DType::f32 ? f(float{}) : f(double{});
}

}  // namespace

void group_norm(GroupNormArgs args) {
  with_pixels(args.x.dtype, [&](auto x) { group_norm_of<decltype(x)>(args); });
}

void group_norm_backward(GroupNormBackwardArgs args) {
  with_pixels(args.dx.dtype, [&](auto x) { group_norm_backward_of<decltype(x)>(args); });
}

}  // namespace halfstep::cuda
