// Convolution and its two adjoints. Each is bilinear, and the gradients of each are the two others: that
// closes the family under differentiation, so no second-order rule is ever written.
#include "autograd/ops.h"
#include "tensor/error.h"

namespace halfstep {

Variable conv2d(const Variable& x, const Variable& kernel, const Variable& bias,
                const Conv2dGeometry& geometry, const Variable& residual) {
  const auto value_or_none = [](const Variable& v) { return v.defined() ? v.value() : Tensor(); };
  return record(
      "conv2d", conv2d(x.value(), kernel.value(), value_or_none(bias), geometry, value_or_none(residual)),
      {x, kernel, bias, residual},
      [x = Saved(x), kernel = Saved(kernel), geometry, with_bias = bias.requires_grad(),
       with_residual = residual.requires_grad()](const Variable& upstream) -> std::vector<Variable> {
        // Both adjoints read it contiguously: a part of a concatenation is copied once for both.
        const Variable g = contiguous(upstream);
        const Variable &in = x.get(), &k = kernel.get();
        return {
            in.requires_grad() ? conv2d_backward_data(g, k, in.size(1), in.size(2), geometry) : Variable(),
            k.requires_grad() ? conv2d_backward_kernel(in, g, k.size(0), k.size(1), geometry) : Variable(),
            with_bias ? sum(g, {0, 1, 2}) : Variable(), with_residual ? g : Variable()};
      });
}

Variable conv2d_backward_data(const Variable& dy, const Variable& kernel, int64_t height, int64_t width,
                              const Conv2dGeometry& geometry) {
  return record(
      "conv2d_backward_data", conv2d_backward_data(dy.value(), kernel.value(), height, width, geometry),
      {dy, kernel},
      [dy = Saved(dy), kernel = Saved(kernel), geometry](const Variable& g) -> std::vector<Variable> {
        const Variable &up = dy.get(), &k = kernel.get();
        return {
            up.requires_grad() ? conv2d(g, k, {}, geometry) : Variable(),
            k.requires_grad() ? conv2d_backward_kernel(g, up, k.size(0), k.size(1), geometry) : Variable()};
      });
}

Variable conv2d_backward_kernel(const Variable& x, const Variable& dy, int64_t kernel_height,
                                int64_t kernel_width, const Conv2dGeometry& geometry) {
  return record("conv2d_backward_kernel",
                conv2d_backward_kernel(x.value(), dy.value(), kernel_height, kernel_width, geometry), {x, dy},
                [x = Saved(x), dy = Saved(dy), geometry](const Variable& g) -> std::vector<Variable> {
                  const Variable &in = x.get(), &up = dy.get();
                  return {in.requires_grad() ? conv2d_backward_data(up, g, in.size(1), in.size(2), geometry)
                                             : Variable(),
                          up.requires_grad() ? conv2d(in, g, {}, geometry) : Variable()};
                });
}

Variable conv_transpose2d(const Variable& x, const Variable& kernel, const Variable& bias,
                          const Conv2dGeometry& geometry, int output_padding_h, int output_padding_w) {
  const Shape shape =
      conv_transpose2d_shape(x.value(), kernel.value(), geometry, output_padding_h, output_padding_w);
  if (bias.defined())
    require(bias.shape() == Shape{shape[3]}, "conv_transpose2d", "expected a bias of shape ({},), got {}",
            shape[3], str(bias.shape()));
  const Variable y = conv2d_backward_data(x, kernel, shape[1], shape[2], geometry);
  return bias.defined() ? y + bias : y;
}

}  // namespace halfstep
