// Pooling. Rows of the output are shared out over the threads; the loops run over the channels.
#include "tensor/cpu/kernels.h"
#include "tensor/cpu/simd.h"
#include "tensor/cpu/thread_pool.h"

namespace halfstep::cpu::inline HALFSTEP_ISA {
namespace {

template <class T>
void max_pool2d_of(const MaxPool2dArgs& args) {
  const int64_t h = args.x.shape[1], w = args.x.shape[2], channels = args.x.shape[3];
  const int64_t oh = args.y.shape[1], ow = args.y.shape[2];
  const Conv2dGeometry& g = args.geometry;
  parallel_for(args.x.shape[0] * oh, max(1, 16384 / max(1, ow * channels * args.window_h * args.window_w)),
               [=, &args, &g](int64_t begin, int64_t end) {
                 for (int64_t row = begin; row < end; ++row) {
                   const T* const image = args.x.as<const T>() + row / oh * h * w * channels;
                   for (int64_t ox = 0; ox < ow; ++ox) {
                     T* const best = args.y.as<T>() + (row * ow + ox) * channels;
                     int64_t* const where = args.index.as<int64_t>() + (row * ow + ox) * channels;
                     bool found = false;
                     for (int i = 0; i < args.window_h; ++i) {
                       const int64_t y = row % oh * g.stride_h + i * g.dilation_h - g.pad_top;
                       if (y < 0 || y >= h) continue;
                       for (int j = 0; j < args.window_w; ++j) {
                         const int64_t x = ox * g.stride_w + j * g.dilation_w - g.pad_left;
                         if (x < 0 || x >= w) continue;
                         const int64_t pixel = y * w + x;
                         const T* const in = image + pixel * channels;
                         if (!found) {
                           for (int64_t c = 0; c < channels; ++c) best[c] = in[c], where[c] = pixel;
                           found = true;
                           continue;
                         }
                         independent_loop(channels, [=](int64_t c) {
                           const T v = in[c], b = best[c];
                           const int64_t old = where[c];
                           // NaN wins over numbers; the first of equals and the first NaN stay.
                           const bool better = v > b || (v != v && b == b);
                           best[c] = better ? v : b;
                           where[c] = better ? pixel : old;
                         });
                       }
                     }
                   }
                 }
               });
}

}  // namespace

void max_pool2d(MaxPool2dArgs args) {
  args.x.dtype == DType::f32 ? max_pool2d_of<float>(args) : max_pool2d_of<double>(args);
}

}  // namespace halfstep::cpu::inline HALFSTEP_ISA
