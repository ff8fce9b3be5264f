// The entries of convolutions: what they have in common, the choice of a method, and its simple parts.
//
// Most convolutions are implicit matrix products (cuda/conv2d.h), on tensor cores or on the ordinary units.
// Groups of few channels, depthwise convolutions above all, would leave most of a tile empty: they are
// computed directly, by a thread per element of the result. Neighbouring threads have neighbouring channels,
// so that their reads are contiguous; what the taps read again comes from the caches, and the traffic with
// memory is that of reading both arrays and writing the third once.
//
// Sums that are long beside the number of results (the gradient of a kernel sums over all pixels; a small
// image has few pixels) are split over blocks. The parts meet in the workspace, [splits, results], and a last
// pass adds them in a fixed order: equal calls give equal bits.
#include "cuda/conv2d.h"

#include <algorithm>

#include "cuda/entries.h"

namespace halfstep::cuda {
namespace {

// --- the finishing pass, and single results ----------------------------------------------------------------

/// out[at] = value + the channel's bias.
template <class In>
__device__ __forceinline__ void write_result(const Convolution& conv, int64_t at, Sum<In> value) {
  if (conv.bias) value += bias_of<In>(conv, at % conv.out_channels);
  if constexpr (std::is_same_v<In, Bf16>) {
    if (conv.out_bf16) {
      static_cast<Bf16*>(conv.out)[at] = to_bf16(value);
      return;
    }
  }
  static_cast<Sum<In>*>(conv.out)[at] = value;
}

template <class In>
__global__ void __launch_bounds__(kThreads) add_splits(const __grid_constant__ Convolution conv) {
  constexpr int kAtOnce = 4;  // sums that do not wait for one another
  const Sum<In>* const partial = static_cast<const Sum<In>*>(conv.partial);
  const int64_t stride = int64_t{gridDim.x} * blockDim.x;
  for (int64_t at = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; at < conv.out_elements; at += stride) {
    Sum<In> sums[kAtOnce] = {};
    for (int split = 0; split < conv.splits; split += kAtOnce) {
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) {
        if (split + i < conv.splits) sums[i] += partial[(split + i) * conv.out_elements + at];
      }
    }
    write_result<In>(conv, at, (sums[0] + sums[1]) + (sums[2] + sums[3]));
  }
}

// --- direct convolution ------------------------------------------------------------------------------------

/// The pixel that tap `tap` of output pixel `at` reads, or one outside the image.
template <Pass pass>
__device__ __forceinline__ int window_pixel(const Axis& axis, int at, int tap) {
  if constexpr (pass != Pass::data) return at * axis.stride + tap * axis.dilation - axis.pad;
  const int offset = at + axis.pad - tap * axis.dilation;
  return offset % axis.stride == 0 ? offset / axis.stride : -1;
}

/// forward and data: a thread per element of out.
template <Pass pass, class In>
__global__ void __launch_bounds__(kThreads) multiply_directly(const __grid_constant__ Convolution conv) {
  constexpr bool kData = pass == Pass::data;
  const In* const first = static_cast<const In*>(conv.first);
  const In* const kernel = static_cast<const In*>(conv.second);
  const int height = kData ? conv.h.out : conv.h.image, width = kData ? conv.w.out : conv.w.image;
  const Radices pixels = {kData ? conv.h.image : conv.h.out, kData ? conv.w.image : conv.w.out};
  const int64_t stride = int64_t{gridDim.x} * blockDim.x;
  for (int64_t at = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; at < conv.out_elements; at += stride) {
    const int64_t row = at / conv.out_channels;
    const int channel = static_cast<int>(at - row * conv.out_channels);
    const int group = channel / conv.columns, n = channel - group * conv.columns;
    const Counter pixel = count(row, pixels);
    Sum<In> sum = 0;
    for (int tap_y = 0; tap_y < conv.h.taps; ++tap_y) {
      const int y = window_pixel<pass>(conv.h, pixel.middle, tap_y);
      if (y < 0 || y >= height) continue;
      for (int tap_x = 0; tap_x < conv.w.taps; ++tap_x) {
        const int x = window_pixel<pass>(conv.w, pixel.low, tap_x);
        if (x < 0 || x >= width) continue;
        const In* const in = first + ((int64_t{pixel.high} * height + y) * width + x) * conv.first_channels +
                             int64_t{group} * conv.depth;
        const int64_t tap = int64_t{tap_y} * conv.w.taps + tap_x;
        const In* const factor =
            kernel + (kData ? (tap * conv.columns + n) * conv.second_pitch + int64_t{group} * conv.depth
                            : tap * conv.depth * conv.second_pitch + channel);
        const int64_t step = kData ? 1 : conv.second_pitch;
        for (int c = 0; c < conv.depth; ++c) sum += to_sum(in[c]) * to_sum(factor[c * step]);
      }
    }
    write_result<In>(conv, at, sum);
  }
}

/// weights: a thread per element of out and part of the pixels, [elements, splits].
template <class In>
__global__ void __launch_bounds__(kThreads) sum_directly(const __grid_constant__ Convolution conv) {
  constexpr int kRun = 64;  // sums of sums: rounding errors grow with the length of both, not their product
  const int64_t at = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (at >= conv.out_elements) return;
  const int64_t row = at / conv.out_channels;
  const int channel = static_cast<int>(at - row * conv.out_channels);
  const Counter tap = count(row, {conv.w.taps, conv.depth});
  const int64_t pixels = int64_t{conv.batch} * conv.h.out * conv.w.out;
  const int64_t split_pixels = (pixels + conv.splits - 1) / conv.splits;
  const int64_t begin = min(pixels, blockIdx.y * split_pixels), end = min(pixels, begin + split_pixels);
  const In* const x =
      static_cast<const In*>(conv.first) + int64_t{channel / conv.columns} * conv.depth + tap.low;
  const In* dy = static_cast<const In*>(conv.second) + begin * conv.second_pitch + channel;
  const Radices radices = {max(conv.h.out, 1), max(conv.w.out, 1)};
  Counter pixel = count(begin, radices);
  Sum<In> sum = 0;
  for (int64_t run = begin; run < end; run += kRun) {
    Sum<In> part = 0;
    const int length = static_cast<int>(min(int64_t{kRun}, end - run));
    for (int i = 0; i < length; ++i) {
      const int in_y = window_pixel<Pass::weights>(conv.h, pixel.middle, tap.high);
      const int in_x = window_pixel<Pass::weights>(conv.w, pixel.low, tap.middle);
      if (0 <= in_y && in_y < conv.h.image && 0 <= in_x && in_x < conv.w.image) {
        const int64_t in = (int64_t{pixel.high} * conv.h.image + in_y) * conv.w.image + in_x;
        part += to_sum(x[in * conv.first_channels]) * to_sum(*dy);
      }
      dy += conv.second_pitch;
      pixel = next(pixel, radices);
    }
    sum += part;
  }
  if (conv.partial) {
    static_cast<Sum<In>*>(conv.partial)[blockIdx.y * conv.out_elements + at] = sum;
  } else {
    write_result<In>(conv, at, sum);
  }
}

// --- choices -----------------------------------------------------------------------------------------------

constexpr int64_t kLargestWorkspace = int64_t{256} << 20;

/// Asks for the workspace of conv.splits parts.
void provide_partial(Convolution& conv, size_t sizeof_sum) {
  conv.partial = nullptr;
  if (conv.splits > 1) conv.partial = workspace(sizeof_sum * conv.out_elements * conv.splits);
}

/// A pass as matrix products [rows, sum] times [sum, columns], `count` of them. In the data pass they are
/// those of the phases, of which the largest is given.
struct Products {
  int64_t rows, columns, sum, count;
};

Products products_of(Pass pass, const Convolution& conv) {
  const int64_t taps = int64_t{conv.h.taps} * conv.w.taps;
  const int64_t out_pixels = int64_t{conv.batch} * conv.h.out * conv.w.out;
  switch (pass) {
    case Pass::forward:
      return {out_pixels, conv.columns, taps * conv.depth, conv.groups};
    case Pass::weights:
      return {taps * conv.depth, conv.columns, out_pixels, conv.groups};
    case Pass::data:
      break;
  }
  const auto phases = [](const Axis& axis) -> int64_t { return std::min(axis.stride, axis.image); };
  const auto phase_taps = [](const Axis& axis) {
    int period = 1;
    while (period * axis.dilation % axis.stride != 0) ++period;
    return ceil_div(axis.taps, period);
  };
  const int64_t rows =
      conv.batch * ceil_div(conv.h.image, conv.h.stride) * ceil_div(conv.w.image, conv.w.stride);
  return {rows, conv.columns, phase_taps(conv.h) * phase_taps(conv.w) * conv.depth,
          conv.groups * phases(conv.h) * phases(conv.w)};
}

int64_t tiles_of(const Products& products, TileShape tile) {
  return ceil_div(products.rows, tile.m) * ceil_div(products.columns, tile.n) * products.count;
}

/// Parts of a sum: enough blocks to fill the device twice, of enough terms to be worth the finishing pass,
/// and not of so many that rounding errors add up.
int64_t splits_of(const Convolution& conv, const Products& products, TileShape tile, size_t sizeof_sum) {
  constexpr int64_t kFewestTerms = 256, kAccurateTerms = 16384;
  const int64_t filling = 2 * multiprocessors() / tiles_of(products, tile);
  const int64_t useful = std::min(filling, products.sum / kFewestTerms);
  const int64_t wanted = std::max(useful, ceil_div(products.sum, kAccurateTerms));
  const int64_t possible = kLargestWorkspace / (conv.out_elements * static_cast<int64_t>(sizeof_sum));
  return std::clamp(wanted, int64_t{1}, std::max(possible, ceil_div(products.sum, kMostTerms / 2)));
}

bool is_aligned(const void* pointer) { return reinterpret_cast<uintptr_t>(pointer) % 16 == 0; }

Convolution describe(Pass pass, const Conv2dArgs& args) {
  const Conv2dGeometry& g = args.geometry;
  const auto axis = [&](int i, int stride, int pad, int dilation) {
    return Axis{static_cast<int>(args.x.shape[1 + i]),
                static_cast<int>(args.y.shape[1 + i]),
                static_cast<int>(args.kernel.shape[i]),
                stride,
                pad,
                dilation};
  };
  const int all_in = static_cast<int>(args.x.shape[3]), all_out = static_cast<int>(args.kernel.shape[3]);
  const int in = static_cast<int>(args.kernel.shape[2]), out = all_out / g.groups;
  const bool data = pass == Pass::data;
  const Array& first = data ? args.y : args.x;
  const Array& second = pass == Pass::weights ? args.y : args.kernel;
  const Array& result = pass == Pass::forward ? args.y : data ? args.x : args.kernel;

  Convolution conv = {};
  conv.first = first.data;
  conv.second = second.data;
  conv.out = result.data;
  if (pass == Pass::forward && !args.bias.absent()) {
    conv.bias = args.bias.data;
    conv.bias_stride = args.bias.strides[0];
    conv.bias_bf16 = args.bias.dtype == DType::bf16;
  }
  conv.out_elements = numel(result.shape);
  conv.h = axis(0, g.stride_h, g.pad_top, g.dilation_h);
  conv.w = axis(1, g.stride_w, g.pad_left, g.dilation_w);
  conv.batch = static_cast<int>(args.x.shape[0]);
  conv.groups = g.groups;
  conv.depth = data ? out : in;
  conv.columns = data ? in : out;
  conv.first_channels = data ? all_out : all_in;
  conv.second_pitch = all_out;
  conv.out_channels = data ? all_in : all_out;
  conv.splits = 1;
  const int vector = static_cast<int>(16 / size_of(first.dtype));
  conv.first_vectors = is_aligned(conv.first) && conv.depth % vector == 0;
  conv.second_vectors = is_aligned(conv.second) && (data ? conv.depth : conv.columns) % vector == 0;
  conv.out_vectors = is_aligned(conv.out) && conv.columns % std::max(vector, 4) == 0;
  conv.out_bf16 = result.dtype == DType::bf16;
  return conv;
}

template <class In>
void run_directly(Pass pass, Convolution conv) {
  if (pass == Pass::weights) {
    // Threads for 2048 on each multiprocessor.
    constexpr int64_t kMostSplits = 128, kFewestPixels = 64;
    const int64_t pixels = int64_t{conv.batch} * conv.h.out * conv.w.out;
    const int64_t filling = 2048 * int64_t{multiprocessors()} / conv.out_elements;
    conv.splits =
        static_cast<int>(std::clamp(std::min(filling, pixels / kFewestPixels), int64_t{1}, kMostSplits));
    provide_partial(conv, sizeof(Sum<In>));
    const dim3 grid(static_cast<unsigned>(ceil_div(conv.out_elements, kThreads)),
                    static_cast<unsigned>(conv.splits));
    launch({grid}, sum_directly<In>, conv);
    return finish_splits(conv, dtype_of_element<In>());
  }
  const Launch where{dim3(static_cast<unsigned>(grid_for(conv.out_elements)))};
  pass == Pass::forward ? launch(where, multiply_directly<Pass::forward, In>, conv)
                        : launch(where, multiply_directly<Pass::data, In>, conv);
}

/// Calls f(In{}) with the type of the elements of dtype.
template <class F>
void with_element(DType dtype, F&& f) {
  if (dtype == DType::bf16) return f(Bf16{});
  dtype == DType::f64 ? f(double{}) : f(float{});
}

void convolve(Pass pass, const Conv2dArgs& args) {
  const Convolution conv = describe(pass, args);
  const DType dtype = args.x.dtype;
  if (conv.out_elements == 0) return;
  constexpr int kFewColumns = 8;
  if (products_of(pass, conv).sum == 0 || (conv.groups > 1 && conv.columns <= kFewColumns)) {
    with_element(dtype, [&](auto tag) { run_directly<decltype(tag)>(pass, conv); });
    return;
  }
  const bool wanted = dtype == DType::bf16 || (dtype == DType::f32 && allow_tf32());
  // Either factor is read, and the result written, in vectors along depth or columns.
  const bool vectors = conv.first_vectors && conv.second_vectors && conv.out_vectors &&
                       conv.depth % (16 / static_cast<int>(size_of(dtype))) == 0;
  wanted&& vectors&& compute_capability() >= 80 ? multiply_on_tensor_cores(pass, conv, dtype)
                                                : multiply_simt(pass, conv, dtype);
}

}  // namespace

double estimate(Pass pass, const Convolution& conv, TileShape tile) {
  const Products products = products_of(pass, conv);
  const int64_t splits = splits_of(conv, products, tile, sizeof(float));
  const int64_t rounds = ceil_div(tiles_of(products, tile) * splits, multiprocessors());
  return static_cast<double>(rounds) * tile.m * tile.n * static_cast<double>(ceil_div(products.sum, splits)) /
         tile.speed;
}

unsigned plan_grid(Pass pass, Convolution& conv, TileShape tile, size_t sizeof_sum) {
  const Products products = products_of(pass, conv);
  conv.tiles_m = static_cast<int>(ceil_div(products.rows, tile.m));
  conv.tiles_n = static_cast<int>(ceil_div(products.columns, tile.n));
  conv.splits = static_cast<int>(splits_of(conv, products, tile, sizeof_sum));
  provide_partial(conv, sizeof_sum);
  return static_cast<unsigned>(tiles_of(products, tile) * conv.splits);
}

void finish_splits(const Convolution& conv, DType dtype) {
  if (conv.splits == 1) return;
  const Launch where{dim3(static_cast<unsigned>(grid_for(conv.out_elements)))};
  with_element(dtype, [&](auto tag) { launch(where, add_splits<decltype(tag)>, conv); });
}

void conv2d_forward(Conv2dArgs args) {
  convolve(Pass::forward, args);
  if (!args.residual.absent()) binary(BinaryOp::add, 0, args.y, args.y, args.residual);
}
void conv2d_backward_data(Conv2dArgs args) { convolve(Pass::data, args); }
void conv2d_backward_kernel(Conv2dArgs args) { convolve(Pass::weights, args); }

}  // namespace halfstep::cuda
