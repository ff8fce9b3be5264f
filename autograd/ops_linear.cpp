// Products: bilinear operations, whose gradients are products of the same family. That closes the family
// under differentiation: no second-order rule is ever written.
#include <algorithm>

#include "autograd/ops.h"
#include "tensor/error.h"

namespace halfstep {

Variable matmul(const Variable& a, const Variable& b) {
  return record("matmul", matmul(a.value(), b.value()), {a, b},
                [a = Saved(a), b = Saved(b)](const Variable& g) -> std::vector<Variable> {
                  return {a.get().requires_grad() ? matmul(g, transpose(b.get(), -1, -2)) : Variable(),
                          b.get().requires_grad() ? matmul(transpose(a.get(), -1, -2), g) : Variable()};
                });
}

Variable linear(const Variable& x, const Variable& kernel, const Variable& bias) {
  require(x.rank() >= 1 && kernel.rank() == 2, "linear",
          "expected x [..., K] and kernel [K, N], got {} and {}", str(x.shape()), str(kernel.shape()));
  require(x.size(-1) == kernel.size(0), "linear", "inner sizes differ: {} x {}", str(x.shape()),
          str(kernel.shape()));
  Shape out_shape = x.shape();
  out_shape[out_shape.rank() - 1] = kernel.size(1);
  const int64_t rows =
      x.size(-1) ? x.numel() / x.size(-1) : numel(out_shape) / std::max<int64_t>(kernel.size(1), 1);
  const Variable matrix = reshape(x, {rows, x.size(-1)});
  const Variable y = record(
      "linear", matmul(matrix.value(), kernel.value(), bias.defined() ? bias.value() : Tensor()),
      {matrix, kernel, bias},
      [x = Saved(matrix), kernel = Saved(kernel)](const Variable& g) -> std::vector<Variable> {
        return {x.get().requires_grad() ? matmul(g, transpose(kernel.get(), 0, 1)) : Variable(),
                kernel.get().requires_grad() ? matmul(transpose(x.get(), 0, 1), g) : Variable(), sum(g, {0})};
      });
  return reshape(y, out_shape);
}

Variable conv2d(const Variable& x, const Variable& kernel, const Variable& bias,
                const Conv2dGeometry& geometry) {
  return record(
      "conv2d", conv2d(x.value(), kernel.value(), bias.defined() ? bias.value() : Tensor(), geometry),
      {x, kernel, bias},
      [x = Saved(x), kernel = Saved(kernel), geometry,
       with_bias = bias.requires_grad()](const Variable& g) -> std::vector<Variable> {
        const Variable &in = x.get(), &k = kernel.get();
        return {
            in.requires_grad() ? conv2d_backward_data(g, k, in.size(1), in.size(2), geometry) : Variable(),
            k.requires_grad() ? conv2d_backward_kernel(in, g, k.size(0), k.size(1), geometry) : Variable(),
            with_bias ? sum(g, {0, 1, 2}) : Variable()};
      });
}

Variable conv2d_backward_data(const Variable& dy, const Variable& kernel, int64_t height, int64_t width,
                              const Conv2dGeometry& geometry) {
  return record(
      "conv2d_backward_data", conv2d_backward_data(dy.value(), kernel.value(), height, width, geometry),
      {dy, kernel},
      [dy = Saved(dy), kernel = Saved(kernel), geometry](const Variable& g) -> std::vector<Variable> {
        const Variable& k = kernel.get();
        return {conv2d(g, k, {}, geometry),
                conv2d_backward_kernel(g, dy.get(), k.size(0), k.size(1), geometry)};
      });
}

Variable conv2d_backward_kernel(const Variable& x, const Variable& dy, int64_t kernel_height,
                                int64_t kernel_width, const Conv2dGeometry& geometry) {
  return record("conv2d_backward_kernel",
                conv2d_backward_kernel(x.value(), dy.value(), kernel_height, kernel_width, geometry), {x, dy},
                [x = Saved(x), dy = Saved(dy), geometry](const Variable& g) -> std::vector<Variable> {
                  const Variable& in = x.get();
                  return {conv2d_backward_data(dy.get(), g, in.size(1), in.size(2), geometry),
                          conv2d(in, g, {}, geometry)};
                });
}

}  // namespace halfstep
