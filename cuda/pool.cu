// Pooling. A thread finds the largest pixel of one window in one channel, or in four neighbouring ones where
// they can be loaded at once; neighbouring threads take neighbouring channels, so that each tap of the window
// is read in whole lines. Windows that overlap read pixels again, but mostly from the caches.
#include "cuda/entries.h"
#include "cuda/loops.h"

namespace halfstep::cuda {
namespace {

/// What one launch covers: `rows` rows of outputs from row `first_row` on of each of `images` images.
struct Windows {
  Conv2dGeometry geometry;
  int window_h, window_w;
  int64_t height, width, channels, out_height, out_width;
  int64_t first_row;
  uint32_t total, rows;  ///< total: packs of channels of all outputs
  Divider by_channel_packs, by_out_width, by_rows;
};

template <class T, int Width>
__global__ void __launch_bounds__(kThreads)
    pool_windows(const __grid_constant__ Windows windows, const T* x, T* y, int64_t* index) {
  const Conv2dGeometry& g = windows.geometry;
  const int64_t channels = windows.channels;
  for (uint32_t i = blockIdx.x * blockDim.x + threadIdx.x; i < windows.total; i += gridDim.x * blockDim.x) {
    const uint32_t pixel = windows.by_channel_packs.divide(i);
    const uint32_t row = windows.by_out_width.divide(pixel);
    const uint32_t image = windows.by_rows.divide(row);
    const int64_t channel = (i - pixel * static_cast<uint32_t>(channels / Width)) * Width;
    const int64_t ox = pixel - row * static_cast<uint32_t>(windows.out_width);
    const int64_t oy = windows.first_row + (row - image * windows.rows);
    const T* const in = x + image * windows.height * windows.width * channels + channel;

    Pack<T, Width> best;
    Pack<int64_t, Width> where;
    // Until a pixel is found there is no value to compare with; initial values only satisfy the compiler.
#pragma unroll
    for (int k = 0; k < Width; ++k) best.at[k] = T(0), where.at[k] = -1;
    for (int ky = 0; ky < windows.window_h; ++ky) {
      const int64_t iy = oy * g.stride_h - g.pad_top + int64_t{ky} * g.dilation_h;
      if (iy < 0 || iy >= windows.height) continue;
      for (int kx = 0; kx < windows.window_w; ++kx) {
        const int64_t ix = ox * g.stride_w - g.pad_left + int64_t{kx} * g.dilation_w;
        if (ix < 0 || ix >= windows.width) continue;
        const int64_t place = iy * windows.width + ix;
        const auto values = *reinterpret_cast<const Pack<T, Width>*>(in + place * channels);
#pragma unroll
        for (int k = 0; k < Width; ++k) {
          const T value = values.at[k], largest = best.at[k];
          // NaN wins over numbers; the first of equals and the first NaN stay.
          const bool better = where.at[k] < 0 || value > largest || (value != value && largest == largest);
          if (better) best.at[k] = value, where.at[k] = place;
        }
      }
    }
    const int64_t output = ((image * windows.out_height + oy) * windows.out_width + ox) * channels + channel;
    *reinterpret_cast<Pack<T, Width>*>(y + output) = best;
#pragma unroll
    for (int k = 0; k < Width; k += 2) {
      if constexpr (Width == 1) {
        index[output] = where.at[0];
      } else {
        *reinterpret_cast<Pack<int64_t, 2>*>(index + output + k) = {{where.at[k], where.at[k + 1]}};
      }
    }
  }
}

template <class T, int Width>
void launch_pool(const MaxPool2dArgs& args) {
  const int64_t images = args.x.shape[0], image_size = args.x.shape[1] * args.x.shape[2] * args.x.shape[3];
  Windows windows{.geometry = args.geometry,
                  .window_h = args.window_h,
                  .window_w = args.window_w,
                  .height = args.x.shape[1],
                  .width = args.x.shape[2],
                  .channels = args.x.shape[3],
                  .out_height = args.y.shape[1],
                  .out_width = args.y.shape[2],
                  .first_row = 0,
                  .total = 0,
                  .rows = 0,
                  .by_channel_packs = Divider(args.x.shape[3] / Width),
                  .by_out_width = Divider(args.y.shape[2]),
                  .by_rows = {}};
  // Launches of whole images, or of rows of one where its outputs are too many to number with 31 bits.
  const int64_t row_packs = windows.out_width * windows.channels / Width;
  const int64_t rows_at_once = kMaxPart / row_packs > 0 ? kMaxPart / row_packs : 1;
  const int64_t most_rows = rows_at_once < windows.out_height ? rows_at_once : windows.out_height;
  const int64_t most_images = rows_at_once / most_rows;
  for (int64_t image = 0; image < images; image += most_images) {
    const int64_t image_count = most_images < images - image ? most_images : images - image;
    for (int64_t row = 0; row < windows.out_height; row += most_rows) {
      const int64_t rows = most_rows < windows.out_height - row ? most_rows : windows.out_height - row;
      windows.first_row = row;
      windows.rows = static_cast<uint32_t>(rows);
      windows.by_rows = Divider(rows);
      windows.total = static_cast<uint32_t>(image_count * rows * row_packs);
      const int64_t output = image * windows.out_height * windows.out_width * windows.channels;
      launch({grid_for(windows.total)}, pool_windows<T, Width>, windows,
             args.x.as<const T>() + image * image_size, args.y.as<T>() + output,
             args.index.as<int64_t>() + output);
    }
  }
}

}  // namespace

void max_pool2d(MaxPool2dArgs args) {
  if (numel(args.y.shape) == 0) return;
  if (args.x.dtype == DType::f64) return launch_pool<double, 1>(args);
  const bool wide = args.x.shape[3] % 4 == 0 && is_aligned(args.x.data, 16) && is_aligned(args.y.data, 16) &&
                    is_aligned(args.index.data, 16);
  wide ? launch_pool<float, 4>(args) : launch_pool<float, 1>(args);
}

}  // namespace halfstep::cuda
