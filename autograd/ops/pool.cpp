// Pooling over sliding windows.
#include "autograd/ops.h"
#include "tensor/error.h"

namespace halfstep {

Variable max_pool2d(const Variable& x, int window_h, int window_w, const Conv2dGeometry& geometry) {
  const MaxPoolResult forward = max_pool2d(x.value(), window_h, window_w, geometry);
  const Shape& out = forward.y.shape();
  // Pixels are one axis of x [B, H * W, C], along which the winners' numbers index.
  const Tensor index = forward.index.reshape({out[0], out[1] * out[2], out[3]});
  return record("max_pool2d", forward.y, {x},
                [index, from = x.shape()](const Variable& g) -> std::vector<Variable> {
                  return {reshape(scatter_add(reshape(g, index.shape()), 1, index, from[1] * from[2]), from)};
                });
}

Variable average_pool2d(const Variable& x, int window_h, int window_w, const Conv2dGeometry& geometry) {
  require(x.rank() == 4, "average_pool2d", "expected an image batch [B, H, W, C], got {}", str(x.shape()));
  require(window_h > 0 && window_w > 0, "average_pool2d",
          "expected a window of at least 1 x 1 pixels, got {} x {}", window_h, window_w);
  require(geometry.groups == 1, "average_pool2d", "pooling has no groups; expected groups = 1, got {}",
          geometry.groups);
  // A depthwise convolution with equal weights.
  Conv2dGeometry depthwise = geometry;
  depthwise.groups = static_cast<int>(x.size(3));
  const Variable kernel(Tensor::full({window_h, window_w, 1, x.size(3)},
                                     1 / (static_cast<double>(window_h) * window_w), x.options()));
  return conv2d(x, kernel, {}, depthwise);
}

}  // namespace halfstep
