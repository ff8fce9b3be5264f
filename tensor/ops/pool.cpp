// Pooling over sliding windows.
#include "tensor/error.h"
#include "tensor/ops.h"
#include "tensor/ops/check.h"
#include "tensor/ops/window.h"

namespace halfstep {

namespace {
/// Whether each of the `count` windows along one axis reaches at least one of its `size` pixels.
bool all_windows_reach(int64_t count, int64_t size, int window, int stride, int pad, int dilation) {
  for (int64_t o = 0; o < count; ++o) {
    bool reaches = false;
    for (int64_t i = 0; i < window && !reaches; ++i) {
      const int64_t at = o * stride + i * dilation - pad;
      reaches = 0 <= at && at < size;
    }
    if (!reaches) return false;
  }
  return true;
}
}  // namespace

MaxPoolResult max_pool2d(const Tensor& x, int window_h, int window_w, const Conv2dGeometry& g) {
  require_floating(x, "max_pool2d");
  require_rank(x, 4, "max_pool2d", "an image batch [B, H, W, C]");
  require(g.groups == 1, "max_pool2d", "pooling has no groups; expected groups = 1, got {}", g.groups);
  const WindowSizes s = window_sizes(x.size(1), x.size(2), window_h, window_w, g, "max_pool2d", "window");
  require(all_windows_reach(s.out_height, x.size(1), window_h, g.stride_h, g.pad_top, g.dilation_h) &&
              all_windows_reach(s.out_width, x.size(2), window_w, g.stride_w, g.pad_left, g.dilation_w),
          "max_pool2d",
          "expected windows that reach the image, got one of {} x {} in the padding alone for image {}; use "
          "less padding",
          window_h, window_w, str(x.shape()));
  const Tensor xc = x.contiguous();
  const Shape shape = {x.size(0), s.out_height, s.out_width, x.size(3)};
  MaxPoolResult result{Tensor::empty(shape, x.options()), Tensor::empty(shape, {DType::i64, &x.device()})};
  backend_of(x).max_pool2d({.x = xc.array(),
                            .y = result.y.array(),
                            .index = result.index.array(),
                            .window_h = window_h,
                            .window_w = window_w,
                            .geometry = g});
  return result;
}

}  // namespace halfstep
