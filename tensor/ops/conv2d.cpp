// Convolution, its two adjoints, and transposed convolution, which is one of them.
#include "tensor/conv_method.h"
#include "tensor/error.h"
#include "tensor/ops.h"
#include "tensor/ops/check.h"
#include "tensor/ops/window.h"

namespace halfstep {

namespace {
void require_groups(int groups, int64_t image_channels, int64_t out_channels, std::string_view where) {
  require(groups > 0, where, "expected at least one group, got {}", groups);
  require(image_channels % groups == 0 && out_channels % groups == 0, where,
          "{} groups do not divide both the {} channels of the image and the {} of the output", groups,
          image_channels, out_channels);
}

void require_bias(const Tensor& x, const Tensor& bias, int64_t channels, std::string_view where) {
  require_alike({&x, &bias}, where);
  require(bias.shape() == Shape{channels}, where, "expected a bias of shape ({},), got {}", channels,
          str(bias.shape()));
}

Conv2dArgs args_of(const Tensor& x, const Tensor& kernel, const Tensor& y, const Conv2dGeometry& geometry) {
  return {.x = x.array(),
          .kernel = kernel.array(),
          .bias = {},
          .y = y.array(),
          .geometry = geometry,
          .method = conv_method()};
}

/// backward_data without checks.
Tensor scatter_through(const Tensor& dy, const Tensor& kernel, int64_t height, int64_t width,
                       const Conv2dGeometry& geometry) {
  const Tensor dyc = dy.contiguous(), kc = kernel.contiguous();
  Tensor dx = Tensor::empty({dy.size(0), height, width, kernel.size(2) * geometry.groups}, dy.options());
  backend_of(dy).conv2d_backward_data(args_of(dx, kc, dyc, geometry));
  return dx;
}
}  // namespace

Tensor conv2d(const Tensor& x, const Tensor& kernel, const Tensor& bias, const Conv2dGeometry& geometry,
              const Tensor& residual) {
  require_alike({&x, &kernel}, "conv2d");
  require_rank(x, 4, "conv2d", "an image batch [B, H, W, C]");
  require_rank(kernel, 4, "conv2d", "a kernel [KH, KW, C / groups, O]");
  require_groups(geometry.groups, x.size(3), kernel.size(3), "conv2d");
  require(x.size(3) == kernel.size(2) * geometry.groups, "conv2d",
          "channels differ: image {} and kernel {} (HWIO){}", str(x.shape()), str(kernel.shape()),
          geometry.groups == 1 ? ""
                               : fmt::format("; with {} groups the kernel takes {} input channels",
                                             geometry.groups, x.size(3) / geometry.groups));
  const WindowSizes s =
      window_sizes(x.size(1), x.size(2), kernel.size(0), kernel.size(1), geometry, "conv2d", "kernel");
  const Tensor xc = x.contiguous(), kc = kernel.contiguous();
  Tensor y = Tensor::empty({x.size(0), s.out_height, s.out_width, kernel.size(3)}, x.options());
  Conv2dArgs args = args_of(xc, kc, y, geometry);
  Tensor bias_row, added;
  if (bias.defined()) {
    require_bias(x, bias, kernel.size(3), "conv2d");
    bias_row = bias.contiguous();
    args.bias = bias_row.array();
  }
  if (residual.defined()) {
    require_alike({&x, &residual}, "conv2d");
    require(residual.shape() == y.shape(), "conv2d", "expected a residual of the result's shape {}, got {}",
            str(y.shape()), str(residual.shape()));
    added = residual.contiguous();
    args.residual = added.array();
  }
  backend_of(x).conv2d_forward(args);
  return y;
}

Tensor conv2d_backward_data(const Tensor& dy, const Tensor& kernel, int64_t height, int64_t width,
                            const Conv2dGeometry& geometry) {
  require_alike({&dy, &kernel}, "conv2d_backward_data");
  require_rank(dy, 4, "conv2d_backward_data", "a gradient [B, OH, OW, O]");
  require_rank(kernel, 4, "conv2d_backward_data", "a kernel [KH, KW, C / groups, O]");
  require_groups(geometry.groups, kernel.size(2) * geometry.groups, kernel.size(3), "conv2d_backward_data");
  const WindowSizes s =
      window_sizes(height, width, kernel.size(0), kernel.size(1), geometry, "conv2d_backward_data", "kernel");
  require(dy.shape() == Shape({dy.size(0), s.out_height, s.out_width, kernel.size(3)}),
          "conv2d_backward_data", "expected a gradient ({}, {}, {}, {}), got {}", dy.size(0), s.out_height,
          s.out_width, kernel.size(3), str(dy.shape()));
  return scatter_through(dy, kernel, height, width, geometry);
}

Tensor conv2d_backward_kernel(const Tensor& x, const Tensor& dy, int64_t kernel_height, int64_t kernel_width,
                              const Conv2dGeometry& geometry) {
  require_alike({&x, &dy}, "conv2d_backward_kernel");
  require_rank(x, 4, "conv2d_backward_kernel", "an image batch [B, H, W, C]");
  require_rank(dy, 4, "conv2d_backward_kernel", "a gradient [B, OH, OW, O]");
  require_groups(geometry.groups, x.size(3), dy.size(3), "conv2d_backward_kernel");
  const WindowSizes s = window_sizes(x.size(1), x.size(2), kernel_height, kernel_width, geometry,
                                     "conv2d_backward_kernel", "kernel");
  require(dy.shape() == Shape({x.size(0), s.out_height, s.out_width, dy.size(3)}), "conv2d_backward_kernel",
          "expected a gradient ({}, {}, {}, {}), got {}", x.size(0), s.out_height, s.out_width, dy.size(3),
          str(dy.shape()));
  const Tensor xc = x.contiguous(), dyc = dy.contiguous();
  Tensor dk =
      Tensor::empty({kernel_height, kernel_width, x.size(3) / geometry.groups, dy.size(3)}, x.options());
  backend_of(x).conv2d_backward_kernel(args_of(xc, dk, dyc, geometry));
  return dk;
}

Shape conv_transpose2d_shape(const Tensor& x, const Tensor& kernel, const Conv2dGeometry& g,
                             int output_padding_h, int output_padding_w) {
  constexpr std::string_view where = "conv_transpose2d";
  require_alike({&x, &kernel}, where);
  require_rank(x, 4, where, "an image batch [B, H, W, C]");
  require_rank(kernel, 4, where, "a kernel [KH, KW, O / groups, C]");
  require(x.size(3) == kernel.size(3), where, "channels differ: image {} and kernel {} (HWOI)",
          str(x.shape()), str(kernel.shape()));
  require(x.size(1) > 0 && x.size(2) > 0, where, "expected at least one pixel, got {}", str(x.shape()));
  require_groups(g.groups, x.size(3), kernel.size(2) * g.groups, where);
  require_window(kernel.size(0), kernel.size(1), g, where, "kernel");
  require(0 <= output_padding_h && output_padding_h < g.stride_h && 0 <= output_padding_w &&
              output_padding_w < g.stride_w,
          where, "expected output padding in 0..stride - 1, got {} x {} with strides {} x {}",
          output_padding_h, output_padding_w, g.stride_h, g.stride_w);
  const int64_t height = (x.size(1) - 1) * g.stride_h - g.pad_top - g.pad_bottom +
                         g.dilation_h * (kernel.size(0) - 1) + output_padding_h + 1;
  const int64_t width = (x.size(2) - 1) * g.stride_w - g.pad_left - g.pad_right +
                        g.dilation_w * (kernel.size(1) - 1) + output_padding_w + 1;
  require(height > 0 && width > 0, where,
          "expected at least one pixel of the output, got {} x {}; use less padding", height, width);
  return {x.size(0), height, width, kernel.size(2) * g.groups};
}

Tensor conv_transpose2d(const Tensor& x, const Tensor& kernel, const Tensor& bias,
                        const Conv2dGeometry& geometry, int output_padding_h, int output_padding_w) {
  const Shape shape = conv_transpose2d_shape(x, kernel, geometry, output_padding_h, output_padding_w);
  if (bias.defined()) require_bias(x, bias, shape[3], "conv_transpose2d");
  Tensor y = scatter_through(x, kernel, shape[1], shape[2], geometry);
  if (bias.defined()) binary_(BinaryOp::add, y, bias);
  return y;
}

}  // namespace halfstep
