// Sums, means and extrema over axes.
#include "autograd/ops.h"
#include "tensor/error.h"

namespace halfstep {

namespace {
/// `shape` with the given axes (all if empty) set to 1.
Shape with_ones(Shape shape, const std::vector<int>& axes) {
  if (axes.empty()) return Dims::filled(shape.rank(), 1);
  for (int axis : axes) shape[normalize_axis(axis, shape.rank(), "sum")] = 1;
  return shape;
}
}  // namespace

Variable sum(const Variable& x, const std::vector<int>& axes, bool keep_dims) {
  return record("sum", sum(x.value(), axes, keep_dims), {x},
                [shape = x.shape(), axes](const Variable& g) -> std::vector<Variable> {
                  return {expand(reshape(g, with_ones(shape, axes)), shape)};
                });
}

Variable mean(const Variable& x, const std::vector<int>& axes, bool keep_dims) {
  require(x.numel() > 0, "mean", "expected at least one element, got shape {}", str(x.shape()));
  const Variable total = sum(x, axes, keep_dims);
  return affine(total, static_cast<double>(total.numel()) / static_cast<double>(x.numel()), 0);
}

Variable mse(const Variable& a, const Variable& b, const std::vector<int>& axes) {
  return mean(square(subtract(a, b)), axes);
}

}  // namespace halfstep
