// What the kernels of the 2-D convolution share: its three passes as matrix products whose first factor is
// gathered from the images on the fly ("implicit GEMM": the matrix of windows is never in memory), and the
// places in memory that the threads of a block copy from.
//
//   forward: out [B OH OW, O]    = windows of x [B OH OW, KH KW C] times kernel [KH KW C, O]
//   data:    out [B H W, C]      = windows of dy [B H W, KH KW O]  times kernel, its channels exchanged
//   weights: out [KH KW C, O]    = windows of x, transposed        times dy [B OH OW, O]
//
// each for every group of channels. Where the stride s is not 1, a pixel of x is reached by every s-th tap
// only, and by which ones depends on its coordinates modulo s. The data pass therefore treats the s_h s_w
// classes of pixels (phases) one by one: each is a convolution of stride 1 with the taps that reach it, and
// no product with a zero is computed. Taps that are reached at all lie evenly, so a phase is described by a
// few numbers (AxisPhase).
//
// A block computes one tile [m, n] of out, looping over the sum in steps of k. All divisions are done before
// that loop: a place in a sum is a Counter of mixed radix, (tap row, tap column, channel) or (image, row,
// column), which a constant step advances with two comparisons. Sizes are 32-bit, offsets in memory 64-bit.
#pragma once

#include <cstdint>
#include <type_traits>

#include "cuda/runtime.h"
#include "tensor/backend.h"

namespace halfstep::cuda {

/// The gradient of the input is `data`, that of the kernel `weights`.
enum class Pass : uint8_t { forward, data, weights };

/// An element of DType::bf16: the upper half of an f32.
struct Bf16 {
  uint16_t bits;
};

/// One axis of the images.
struct Axis {
  int image, out;  ///< pixels of x and of y
  int taps, stride, pad, dilation;
};

/// Terms of a sum that one block may be given, so that it can count them in 32 bits.
inline constexpr int64_t kMostTerms = (int64_t{1} << 30) - 1;

/// A pass over one convolution, as its kernels take it.
struct Convolution {
  const void* first;   ///< the array of windows: x, or dy in the data pass
  const void* second;  ///< the kernel, or dy in the weights pass
  const void* bias;    ///< [O] or null
  void* out;
  void* partial;  ///< [splits, elements of out] of the accumulator's type, or null: out is written directly
  int64_t bias_stride, out_elements;
  Axis h, w;
  int batch, groups;
  int depth;           ///< channels of a group in `first`
  int columns;         ///< channels of a group in `out`
  int first_channels;  ///< elements between pixels of `first`
  int second_pitch;    ///< elements between rows of `second`: O
  int out_channels;    ///< elements between rows of `out`
  // The grid: blocks are numbered tiles_n fastest, then tiles_m, groups, splits, phases.
  int tiles_m, tiles_n, splits;
  bool first_vectors, second_vectors, out_vectors;  ///< whether 16 bytes at once may be read or written
  bool bias_bf16, out_bf16;
};

/// The tile of a kernel's blocks, and its speed while all multiprocessors are busy, compared with others.
struct TileShape {
  int m, n, k;
  double speed;
};

/// Chooses the splits of the sum, asks for the workspace of their partial sums, and returns the blocks of the
/// launch. sizeof_sum: bytes of an accumulator.
unsigned plan_grid(Pass pass, Convolution& conv, TileShape tile, size_t sizeof_sum);
/// Adds the partial sums, where there are splits: out is complete then. dtype: of `first`.
void finish_splits(const Convolution& conv, DType dtype);
/// The time of a pass with this tile, in arbitrary units.
double estimate(Pass pass, const Convolution& conv, TileShape tile);

/// Runs a pass as a product on the ordinary arithmetic units; dtype: of `first`.
void multiply_simt(Pass pass, Convolution conv, DType dtype);
/// Runs a pass on tensor cores: f32 rounded to TF32, or bf16; arrays allow 16 bytes at once everywhere.
void multiply_on_tensor_cores(Pass pass, Convolution conv, DType dtype);

#if defined(__CUDACC__)

// --- numbers -----------------------------------------------------------------------------------------------

__device__ __forceinline__ float to_sum(float value) { return value; }
__device__ __forceinline__ double to_sum(double value) { return value; }
__device__ __forceinline__ float to_sum(Bf16 value) { return __uint_as_float(uint32_t{value.bits} << 16); }

/// To the nearest, ties to even; NaN stays NaN.
__device__ __forceinline__ Bf16 to_bf16(float value) {
  const uint32_t bits = __float_as_uint(value);
  if (value != value) return {static_cast<uint16_t>(bits >> 16 | 0x40)};
  return {static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}

/// The type that numbers of type In are summed in.
template <class In>
using Sum = std::conditional_t<std::is_same_v<In, double>, double, float>;

template <class In>
constexpr DType dtype_of_element() {
  if constexpr (std::is_same_v<In, Bf16>) {
    return DType::bf16;
  } else {
    return dtype_of<In>();
  }
}

template <class In>
__device__ __forceinline__ Sum<In> bias_of(const Convolution& conv, int64_t channel) {
  if constexpr (std::is_same_v<In, Bf16>) {
    return conv.bias_bf16 ? to_sum(static_cast<const Bf16*>(conv.bias)[channel * conv.bias_stride])
                          : static_cast<const float*>(conv.bias)[channel * conv.bias_stride];
  } else {
    return static_cast<const In*>(conv.bias)[channel * conv.bias_stride];
  }
}

// --- places in a sum ---------------------------------------------------------------------------------------

/// A number in a mixed radix: n = (high * middle radix + middle) * low radix + low.
struct Counter {
  int high, middle, low;
};
struct Radices {
  int middle, low;
};

/// n >= 0, of 32 or 64 bits; division of the latter takes a while.
template <class Number>
__device__ __forceinline__ Counter count(Number n, Radices radices) {
  const Number upper = n / radices.low;
  return {static_cast<int>(upper / radices.middle), static_cast<int>(upper % radices.middle),
          static_cast<int>(n - upper * radices.low)};
}
/// a + b.
__device__ __forceinline__ Counter add(Counter a, Counter b, Radices radices) {
  Counter sum = {a.high + b.high, a.middle + b.middle, a.low + b.low};
  if (sum.low >= radices.low) {
    sum.low -= radices.low;
    ++sum.middle;
  }
  if (sum.middle >= radices.middle) {
    sum.middle -= radices.middle;
    ++sum.high;
  }
  return sum;
}

/// a + 1.
__device__ __forceinline__ Counter next(Counter a, Radices radices) { return add(a, {0, 0, 1}, radices); }

/// What a phase is along one axis: output pixel first_pixel + i * pixel_step (i < pixels) sums, over j <
/// taps, tap first_tap + j * tap_step times the pixel origin + i * window_step + j * window_tap_step of
/// `first`.
struct AxisPhase {
  int pixels, first_pixel, pixel_step;
  int taps, first_tap, tap_step;
  int origin, window_step, window_tap_step;
};

template <Pass pass>
__device__ __forceinline__ AxisPhase phase_of(const Axis& axis, int phase) {
  if constexpr (pass != Pass::data) {
    return {axis.out, 0, 1, axis.taps, 0, 1, -axis.pad, axis.stride, axis.dilation};
  } else {
    // Tap k of the forward pass reads pixel i for the output o where i + pad - k * dilation = o * stride. The
    // taps for which that has a solution are a period apart.
    const int offset = phase + axis.pad;
    int first_tap = 0;
    while (first_tap < axis.taps && (offset - first_tap * axis.dilation) % axis.stride != 0 &&
           first_tap < axis.stride) {
      ++first_tap;
    }
    int period = 1;
    while (period * axis.dilation % axis.stride != 0) ++period;
    const bool reached = first_tap < axis.taps && (offset - first_tap * axis.dilation) % axis.stride == 0;
    AxisPhase out;
    out.pixels = (axis.image - phase + axis.stride - 1) / axis.stride;
    out.first_pixel = phase;
    out.pixel_step = axis.stride;
    out.taps = reached ? (axis.taps - first_tap + period - 1) / period : 0;
    out.first_tap = first_tap;
    out.tap_step = period;
    out.origin = (offset - first_tap * axis.dilation) / axis.stride;
    out.window_step = 1;
    out.window_tap_step = -(period * axis.dilation / axis.stride);
    return out;
  }
}

/// The tile of a block, and its part of the sum. It is computed once per block and lies in shared memory: it
/// is too much for registers, and needed rarely.
template <Pass pass>
struct Block {
  AxisPhase h, w;
  int64_t rows;          ///< of out, in this phase
  int64_t m;             ///< the tile's first row
  int n, group, split;   ///< its first column in the group
  int64_t sum_length;    ///< terms of a sum, in this phase
  int64_t begin;         ///< the first term of this split, a multiple of k
  int steps;             ///< of k terms
  int terms;             ///< from begin to the end of the sum, or many more than the steps take
  Counter first_out;     ///< the pixel of row m, in this phase
  Radices pixels, taps;  ///< of (image, row, column) in the phase, and of (tap row, tap column, channel)
  Counter pixel_step, tap_step;  ///< k, counted in these

  /// Row m + r, of (image, row, column). r is small: 32-bit division will do.
  __device__ __forceinline__ Counter pixel(int r) const {
    const unsigned column = first_out.low + r;
    const unsigned row = first_out.middle + column / w.pixels;
    return {first_out.high + static_cast<int>(row / h.pixels), static_cast<int>(row % h.pixels),
            static_cast<int>(column % w.pixels)};
  }

  /// The offset of (row m + r, column 0 of the group) in out.
  __device__ __forceinline__ int64_t out_offset(const Convolution& conv, int r) const {
    int64_t row = m + r;
    if constexpr (pass == Pass::data) {
      const Counter at = pixel(r);
      row = (int64_t{at.high} * conv.h.image + h.first_pixel + at.middle * h.pixel_step) * conv.w.image +
            w.first_pixel + at.low * w.pixel_step;
    }
    return row * conv.out_channels + int64_t{group} * conv.columns;
  }
};

/// Fills in the work of this block, for tiles of tile_m x tile_n in steps of tile_k.
template <Pass pass>
__device__ __forceinline__ void find_work(Block<pass>& block, const Convolution& conv, int tile_m, int tile_n,
                                          int tile_k) {
  unsigned index = blockIdx.x;
  block.n = static_cast<int>(index % conv.tiles_n) * tile_n;
  index /= conv.tiles_n;
  block.m = static_cast<int64_t>(index % conv.tiles_m) * tile_m;
  index /= conv.tiles_m;
  block.group = static_cast<int>(index % conv.groups);
  index /= conv.groups;
  block.split = static_cast<int>(index % conv.splits);
  index /= conv.splits;
  const unsigned phases_w = pass == Pass::data ? min(conv.w.stride, conv.w.image) : 1;
  const AxisPhase h = phase_of<pass>(conv.h, static_cast<int>(index / phases_w));
  const AxisPhase w = phase_of<pass>(conv.w, static_cast<int>(index % phases_w));
  block.h = h;
  block.w = w;
  block.pixels = {h.pixels, w.pixels};
  block.taps = {max(w.taps, 1), conv.depth};  // a phase without taps must not divide by zero
  block.pixel_step = count(tile_k, block.pixels);
  block.tap_step = count(tile_k, block.taps);
  const int64_t all_pixels = int64_t{conv.batch} * h.pixels * w.pixels;
  const int64_t all_taps = int64_t{h.taps} * w.taps * conv.depth;
  block.rows = pass == Pass::weights ? all_taps : all_pixels;
  block.sum_length = pass == Pass::weights ? all_pixels : all_taps;
  block.first_out = pass == Pass::weights ? Counter{} : count(block.m, block.pixels);
  const int64_t all_steps = (block.sum_length + tile_k - 1) / tile_k;
  const int64_t split_steps = (all_steps + conv.splits - 1) / conv.splits;
  block.begin = block.split * split_steps * tile_k;
  block.terms = static_cast<int>(max(int64_t{0}, min(block.sum_length - block.begin, 2 * kMostTerms)));
  block.steps = static_cast<int>(max(int64_t{0}, min(split_steps, all_steps - block.split * split_steps)));
}

// --- places in memory --------------------------------------------------------------------------------------
//
// A source says where a thread finds its vectors of kVector elements of a factor's tile: vector(i) is the
// address of number i, or null where it is all zeros (beyond an image's border, the matrix or the sum);
// elements(i, to) gives those of its elements one by one, for arrays that do not allow 16 bytes at once.
// advance() goes on by one step of the sum.

/// How kThreads threads share the vectors of a tile of kLines (rows of the first factor or columns of the
/// second) times kDepth terms. Vectors run along the terms (kAlongSum) or along the lines, whichever is
/// contiguous in memory; neighbouring threads take neighbouring vectors.
template <int kLines_, int kDepth_, int kVector_, int kThreads_, bool kAlongSum_>
struct Sharing {
  static constexpr int kLines = kLines_, kDepth = kDepth_, kVector = kVector_;
  static constexpr bool kAlongSum = kAlongSum_;
  static constexpr int kPerRun = (kAlongSum ? kDepth : kLines) / kVector;
  static constexpr int kRuns = kAlongSum ? kLines : kDepth;
  static constexpr int kCount = (kRuns * kPerRun + kThreads_ - 1) / kThreads_;
  static constexpr int kRunStep = kThreads_ / kPerRun;
  static constexpr bool kEven = kRuns * kPerRun % kThreads_ == 0;
  static_assert(kThreads_ % kPerRun == 0);

  __device__ __forceinline__ static bool has(int i) {
    return kEven || static_cast<int>(threadIdx.x) + i * kThreads_ < kRuns * kPerRun;
  }
  /// Of vector i: the first line, and the first term.
  __device__ __forceinline__ static int line(int i) { return kAlongSum ? run(i) : within(); }
  __device__ __forceinline__ static int term(int i) { return kAlongSum ? within() : run(i); }

 private:
  __device__ __forceinline__ static int run(int i) {
    return static_cast<int>(threadIdx.x) / kPerRun + i * kRunStep;
  }
  __device__ __forceinline__ static int within() { return static_cast<int>(threadIdx.x) % kPerRun * kVector; }
};

/// First factor of forward and data: line = pixel of out, term = (tap, channel) of its window.
template <Pass pass, class In, class Sharing_>
class Windows {
 public:
  using Share = Sharing_;

  __device__ __forceinline__ Windows(const Convolution& conv, const Block<pass>& block)
      : conv_(conv), block_(block), at_(count(block.begin + Share::term(0), block.taps)) {
    const In* const group = static_cast<const In*>(conv.first) + int64_t{block.group} * conv.depth;
    const int64_t image = int64_t{height()} * width() * conv.first_channels;
#pragma unroll
    for (int i = 0; i < Share::kCount; ++i) {
      const int line = Share::line(i);
      const bool inside = block.m + line < block.rows;
      const Counter pixel = block.pixel(inside ? line : 0);
      image_[i] = group + pixel.high * image;
      y_[i] = inside ? block.h.origin + pixel.middle * block.h.window_step : kOutside;
      x_[i] = block.w.origin + pixel.low * block.w.window_step;
    }
  }

  __device__ __forceinline__ const In* vector(int i) const { return place(i, at_); }
  __device__ __forceinline__ void elements(int i, const In* (&to)[Share::kVector]) const {
    Counter term = at_;
#pragma unroll
    for (int e = 0; e < Share::kVector; ++e) {
      to[e] = place(i, term);
      term = next(term, block_.taps);
    }
  }
  __device__ __forceinline__ void advance() { at_ = add(at_, block_.tap_step, block_.taps); }

 private:
  static_assert(Share::kEven);
  static constexpr int kOutside = -(1 << 30);  // no tap leads from here into an image

  __device__ __forceinline__ int height() const { return pass == Pass::data ? conv_.h.out : conv_.h.image; }
  __device__ __forceinline__ int width() const { return pass == Pass::data ? conv_.w.out : conv_.w.image; }

  __device__ __forceinline__ const In* place(int i, Counter term) const {
    const int y = y_[i] + term.high * block_.h.window_tap_step;
    const int x = x_[i] + term.middle * block_.w.window_tap_step;
    const bool inside = term.high < block_.h.taps &&
                        static_cast<unsigned>(y) < static_cast<unsigned>(height()) &&
                        static_cast<unsigned>(x) < static_cast<unsigned>(width());
    return inside ? image_[i] + (int64_t{y} * width() + x) * conv_.first_channels + term.low : nullptr;
  }

  const Convolution& conv_;
  const Block<pass>& block_;
  Counter at_;
  const In* image_[Share::kCount];
  int y_[Share::kCount], x_[Share::kCount];
};

/// Second factor of forward (rows of the kernel) and of weights (pixels of dy): a matrix [terms, columns].
template <Pass pass, class In, class Sharing_>
class MatrixRows {
 public:
  using Share = Sharing_;

  __device__ __forceinline__ MatrixRows(const Convolution& conv, const Block<pass>& block)
      : conv_(conv),
        columns_(conv.columns - block.n - Share::line(0)),
        terms_(columns_ > 0 ? block.terms - Share::term(0) : 0),
        at_(static_cast<const In*>(conv.second) + (block.begin + Share::term(0)) * conv.second_pitch +
            int64_t{block.group} * conv.columns + block.n + Share::line(0)) {}

  __device__ __forceinline__ const In* vector(int i) const {
    const int row = i * Share::kRunStep;
    return Share::has(i) && row < terms_ ? at_ + int64_t{row} * conv_.second_pitch : nullptr;
  }
  __device__ __forceinline__ void elements(int i, const In* (&to)[Share::kVector]) const {
    const In* const row = vector(i);
#pragma unroll
    for (int e = 0; e < Share::kVector; ++e) to[e] = row && e < columns_ ? row + e : nullptr;
  }
  __device__ __forceinline__ void advance() {
    terms_ -= Share::kDepth;
    at_ += int64_t{Share::kDepth} * conv_.second_pitch;
  }

 private:
  const Convolution& conv_;
  int columns_, terms_;  ///< columns of the group and terms of the sum from here on
  const In* at_;
};

/// Second factor of data: line = channel of x, term = (tap, channel of y).
template <class In, class Sharing_>
class KernelLines {
 public:
  using Share = Sharing_;

  __device__ __forceinline__ KernelLines(const Convolution& conv, const Block<Pass::data>& block)
      : conv_(conv),
        block_(block),
        left_(conv.columns - block.n - Share::line(0)),
        at_(count(block.begin + Share::term(0), block.taps)),
        line_(static_cast<const In*>(conv.second) + int64_t{block.n + Share::line(0)} * conv.second_pitch +
              int64_t{block.group} * conv.depth) {}

  __device__ __forceinline__ const In* vector(int i) const { return place(i, at_); }
  __device__ __forceinline__ void elements(int i, const In* (&to)[Share::kVector]) const {
    Counter term = at_;
#pragma unroll
    for (int e = 0; e < Share::kVector; ++e) {
      to[e] = place(i, term);
      term = next(term, block_.taps);
    }
  }
  __device__ __forceinline__ void advance() { at_ = add(at_, block_.tap_step, block_.taps); }

 private:
  __device__ __forceinline__ const In* place(int i, Counter term) const {
    const int line = i * Share::kRunStep;
    const int tap = (block_.h.first_tap + term.high * block_.h.tap_step) * conv_.w.taps + block_.w.first_tap +
                    term.middle * block_.w.tap_step;
    const bool inside = Share::has(i) && line < left_ && term.high < block_.h.taps;
    return inside ? line_ + (int64_t{tap} * conv_.columns + line) * conv_.second_pitch + term.low : nullptr;
  }

  const Convolution& conv_;
  const Block<Pass::data>& block_;
  int left_;  ///< channels of the group from this thread's first one on
  Counter at_;
  const In* line_;
};

/// First factor of weights: line = (tap, channel) of the kernel, term = pixel of y.
template <class In, class Sharing_>
class Taps {
 public:
  using Share = Sharing_;

  __device__ __forceinline__ Taps(const Convolution& conv, const Block<Pass::weights>& block)
      : conv_(conv),
        block_(block),
        tap_(count(block.m + Share::line(0), block.taps)),
        group_(static_cast<const In*>(conv.first) + int64_t{block.group} * conv.depth) {
#pragma unroll
    for (int i = 0; i < Share::kCount; ++i) at_[i] = count(block.begin + Share::term(i), block.pixels);
  }

  __device__ __forceinline__ const In* vector(int i) const { return place(at_[i], tap_); }
  __device__ __forceinline__ void elements(int i, const In* (&to)[Share::kVector]) const {
    Counter tap = tap_;
#pragma unroll
    for (int e = 0; e < Share::kVector; ++e) {
      to[e] = place(at_[i], tap);
      tap = next(tap, block_.taps);
    }
  }
  __device__ __forceinline__ void advance() {
#pragma unroll
    for (int i = 0; i < Share::kCount; ++i) at_[i] = add(at_[i], block_.pixel_step, block_.pixels);
  }

 private:
  static_assert(Share::kEven);

  __device__ __forceinline__ const In* place(Counter pixel, Counter tap) const {
    const int y = pixel.middle * conv_.h.stride + tap.high * conv_.h.dilation - conv_.h.pad;
    const int x = pixel.low * conv_.w.stride + tap.middle * conv_.w.dilation - conv_.w.pad;
    const bool inside = tap.high < conv_.h.taps && pixel.high < conv_.batch &&
                        static_cast<unsigned>(y) < static_cast<unsigned>(conv_.h.image) &&
                        static_cast<unsigned>(x) < static_cast<unsigned>(conv_.w.image);
    const int64_t row = int64_t{pixel.high} * conv_.h.image + y;
    return inside ? group_ + (row * conv_.w.image + x) * conv_.first_channels + tap.low : nullptr;
  }

  const Convolution& conv_;
  const Block<Pass::weights>& block_;
  Counter tap_;
  const In* group_;
  Counter at_[Share::kCount];
};

/// The sources of a pass with tiles of m x n x k.
template <Pass pass, class In, int m, int n, int k, int kVector, int kThreads_>
struct Sources {
  static constexpr bool kWeights = pass == Pass::weights, kData = pass == Pass::data;
  using FirstSharing = Sharing<m, k, kVector, kThreads_, !kWeights>;
  using SecondSharing = Sharing<n, k, kVector, kThreads_, kData>;
  using First = std::conditional_t<kWeights, Taps<In, FirstSharing>, Windows<pass, In, FirstSharing>>;
  using Second =
      std::conditional_t<kData, KernelLines<In, SecondSharing>, MatrixRows<pass, In, SecondSharing>>;
};

#endif

}  // namespace halfstep::cuda
