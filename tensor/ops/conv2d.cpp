// Convolution and its two adjoints.
#include "tensor/error.h"
#include "tensor/ops.h"
#include "tensor/ops/check.h"

namespace halfstep {

namespace {
struct ConvSizes {
  int64_t out_height, out_width;
};

ConvSizes conv_sizes(int64_t height, int64_t width, int64_t kernel_height, int64_t kernel_width,
                     const Conv2dGeometry& g, std::string_view where) {
  require(g.stride_h > 0 && g.stride_w > 0, where, "strides must be positive, got {} x {}", g.stride_h,
          g.stride_w);
  require(g.pad_top >= 0 && g.pad_bottom >= 0 && g.pad_left >= 0 && g.pad_right >= 0, where,
          "padding must not be negative, got {} and {} rows, {} and {} columns", g.pad_top, g.pad_bottom,
          g.pad_left, g.pad_right);
  const int64_t h = height + g.pad_top + g.pad_bottom - kernel_height;
  const int64_t w = width + g.pad_left + g.pad_right - kernel_width;
  require(h >= 0 && w >= 0, where, "the kernel {} x {} is larger than the padded image {} x {}",
          kernel_height, kernel_width, height + g.pad_top + g.pad_bottom, width + g.pad_left + g.pad_right);
  return {h / g.stride_h + 1, w / g.stride_w + 1};
}
}  // namespace

Tensor conv2d(const Tensor& x, const Tensor& kernel, const Tensor& bias, const Conv2dGeometry& geometry) {
  require_alike({&x, &kernel}, "conv2d");
  require_rank(x, 4, "conv2d", "an image batch [B, H, W, C]");
  require_rank(kernel, 4, "conv2d", "a kernel [KH, KW, C, O]");
  require(x.size(3) == kernel.size(2), "conv2d", "channels differ: image {} and kernel {} (HWIO)",
          str(x.shape()), str(kernel.shape()));
  const ConvSizes s = conv_sizes(x.size(1), x.size(2), kernel.size(0), kernel.size(1), geometry, "conv2d");
  const Tensor xc = x.contiguous(), kc = kernel.contiguous();
  Tensor y = Tensor::empty({x.size(0), s.out_height, s.out_width, kernel.size(3)}, x.options());
  Conv2dArgs args{.x = xc.array(), .kernel = kc.array(), .bias = {}, .y = y.array(), .geometry = geometry};
  if (bias.defined()) {
    require_alike({&x, &bias}, "conv2d");
    require(bias.shape() == Shape{kernel.size(3)}, "conv2d", "expected a bias of shape ({},), got {}",
            kernel.size(3), str(bias.shape()));
    args.bias = bias.array();
  }
  backend_of(x).conv2d_forward(args);
  return y;
}

Tensor conv2d_backward_data(const Tensor& dy, const Tensor& kernel, int64_t height, int64_t width,
                            const Conv2dGeometry& geometry) {
  require_alike({&dy, &kernel}, "conv2d_backward_data");
  require_rank(dy, 4, "conv2d_backward_data", "a gradient [B, OH, OW, O]");
  require_rank(kernel, 4, "conv2d_backward_data", "a kernel [KH, KW, C, O]");
  const ConvSizes s =
      conv_sizes(height, width, kernel.size(0), kernel.size(1), geometry, "conv2d_backward_data");
  require(dy.shape() == Shape({dy.size(0), s.out_height, s.out_width, kernel.size(3)}),
          "conv2d_backward_data", "expected a gradient ({}, {}, {}, {}), got {}", dy.size(0), s.out_height,
          s.out_width, kernel.size(3), str(dy.shape()));
  const Tensor dyc = dy.contiguous(), kc = kernel.contiguous();
  Tensor dx = Tensor::empty({dy.size(0), height, width, kernel.size(2)}, dy.options());
  backend_of(dy).conv2d_backward_data(
      {.x = dx.array(), .kernel = kc.array(), .bias = {}, .y = dyc.array(), .geometry = geometry});
  return dx;
}

Tensor conv2d_backward_kernel(const Tensor& x, const Tensor& dy, int64_t kernel_height, int64_t kernel_width,
                              const Conv2dGeometry& geometry) {
  require_alike({&x, &dy}, "conv2d_backward_kernel");
  require_rank(x, 4, "conv2d_backward_kernel", "an image batch [B, H, W, C]");
  require_rank(dy, 4, "conv2d_backward_kernel", "a gradient [B, OH, OW, O]");
  const ConvSizes s =
      conv_sizes(x.size(1), x.size(2), kernel_height, kernel_width, geometry, "conv2d_backward_kernel");
  require(dy.shape() == Shape({x.size(0), s.out_height, s.out_width, dy.size(3)}), "conv2d_backward_kernel",
          "expected a gradient ({}, {}, {}, {}), got {}", x.size(0), s.out_height, s.out_width, dy.size(3),
          str(dy.shape()));
  const Tensor xc = x.contiguous(), dyc = dy.contiguous();
  Tensor dk = Tensor::empty({kernel_height, kernel_width, x.size(3), dy.size(3)}, x.options());
  backend_of(x).conv2d_backward_kernel(
      {.x = xc.array(), .kernel = dk.array(), .bias = {}, .y = dyc.array(), .geometry = geometry});
  return dk;
}

}  // namespace halfstep
