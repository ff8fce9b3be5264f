// Matrix products: bilinear, so their gradients are products again and no second-order rule is ever written.
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

}  // namespace halfstep
