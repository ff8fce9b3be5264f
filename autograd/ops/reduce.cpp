// Reductions over axes, and sums along one. Those after max and min are composed: every step has a rule.
#include <algorithm>
#include <cmath>

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

namespace {
Variable extremum(ReduceOp op, const Variable& x, const std::vector<int>& axes, bool keep_dims) {
  const bool largest = op == ReduceOp::max;
  const Tensor kept = largest ? max(x.value(), axes, true) : min(x.value(), axes, true);
  const Tensor out = keep_dims ? kept : largest ? max(x.value(), axes) : min(x.value(), axes);
  return record(largest ? "max" : "min", out, {x},
                [axes, x = Saved(x), kept](const Variable& g) -> std::vector<Variable> {
                  const Tensor ties = equal(x.tensor(), kept);
                  const Variable share(divide(ties, sum(ties, axes, true)));
                  return {multiply(reshape(g, kept.shape()), share)};
                });
}

int64_t reduced_count(const Variable& x, const std::vector<int>& axes, std::string_view where) {
  if (axes.empty()) return x.numel();
  int64_t count = 1;
  for (int axis : axes) count *= x.shape()[normalize_axis(axis, x.rank(), where)];
  return count;
}
}  // namespace

Variable max(const Variable& x, const std::vector<int>& axes, bool keep_dims) {
  return extremum(ReduceOp::max, x, axes, keep_dims);
}
Variable min(const Variable& x, const std::vector<int>& axes, bool keep_dims) {
  return extremum(ReduceOp::min, x, axes, keep_dims);
}

Variable variance(const Variable& x, const std::vector<int>& axes, bool keep_dims, int correction) {
  const int64_t n = reduced_count(x, axes, "variance");
  require(
      correction >= 0 && n > correction, "variance",
      "expected more elements than the correction, which is at least 0; got {} elements and correction {}", n,
      correction);
  const Variable centred = subtract(x, mean(x, axes, true));
  return affine(sum(square(centred), axes, keep_dims), 1.0 / static_cast<double>(n - correction), 0);
}

Variable standard_deviation(const Variable& x, const std::vector<int>& axes, bool keep_dims, int correction) {
  return sqrt(variance(x, axes, keep_dims, correction));
}

Variable norm(const Variable& x, const std::vector<int>& axes, bool keep_dims, double p) {
  require(p >= 1, "norm", "expected an order p of at least 1 (or infinity), got {}", p);
  if (std::isinf(p)) return max(abs(x), axes, keep_dims);
  if (p == 1) return sum(abs(x), axes, keep_dims);
  const Variable total = sum(p == 2 ? square(x) : pow(abs(x), p), axes, keep_dims);
  // The root has an infinite slope at 0. There the sum is replaced by 1 and the root by root - 1 = 0, whose
  // gradient is the sum's, 0.
  const Variable zero(equal(total.value(), Tensor::scalar(0, total.options())));
  const Variable shifted = add(total, zero);
  return subtract(p == 2 ? sqrt(shifted) : pow(shifted, 1 / p), zero);
}

Variable logsumexp(const Variable& x, const std::vector<int>& axes, bool keep_dims) {
  require(x.numel() > 0, "logsumexp", "expected at least one element, got shape {}", str(x.shape()));
  // Any finite shift gives the same result, so it needs no gradient; the largest element avoids overflow.
  const double limit = x.dtype() == DType::f64 ? 1e308 : 3e38;
  const Tensor shift = clamp(max(x.value(), axes, true), -limit, limit);
  const Variable total = log(sum(exp(subtract(x, Variable(shift))), axes, keep_dims));
  return add(total, Variable(shift.reshape(total.shape())));
}

Variable cumulative_sum(const Variable& x, int axis) {
  return record("cumulative_sum", cumulative_sum(x.value(), axis), {x},
                [axis](const Variable& g) -> std::vector<Variable> {
                  // Element i is part of all later sums: the gradient is summed from the end.
                  return {flip(cumulative_sum(flip(g, {axis}), axis), {axis})};
                });
}

Variable mse(const Variable& a, const Variable& b, const std::vector<int>& axes) {
  return mean(square(subtract(a, b)), axes);
}

}  // namespace halfstep
