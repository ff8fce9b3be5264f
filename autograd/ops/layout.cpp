// Changes of layout. Their rules need shapes only, no values.
#include "autograd/ops.h"
#include "tensor/error.h"

namespace halfstep {

Variable reshape(const Variable& x, const Shape& shape) {
  return record(
      "reshape", x.value().reshape(shape), {x},
      [from = x.shape()](const Variable& g) -> std::vector<Variable> { return {reshape(g, from)}; });
}

Variable transpose(const Variable& x, int axis_a, int axis_b) {
  return record("transpose", x.value().transpose(axis_a, axis_b), {x},
                [axis_a, axis_b](const Variable& g) -> std::vector<Variable> {
                  return {transpose(g, axis_a, axis_b)};
                });
}

Variable permute(const Variable& x, const std::vector<int>& order) {
  return record("permute", x.value().permute(order), {x},
                [order](const Variable& g) -> std::vector<Variable> {
                  const int rank = static_cast<int>(order.size());
                  std::vector<int> inverse(order.size());
                  for (int i = 0; i < rank; ++i) inverse[normalize_axis(order[i], rank, "permute")] = i;
                  return {permute(g, inverse)};
                });
}

Variable expand(const Variable& x, const Shape& shape) {
  return record("expand", x.value().expand(shape), {x},
                [from = x.shape()](const Variable& g) -> std::vector<Variable> { return {sum_to(g, from)}; });
}

Variable sum_to(const Variable& x, const Shape& shape) {
  return record("sum_to", sum_to(x.value(), shape), {x},
                [from = x.shape()](const Variable& g) -> std::vector<Variable> { return {expand(g, from)}; });
}

namespace {
/// Zeros of size `size` on `axis`, with x at `begin`: the adjoint of slice.
Variable place(const Variable& x, int axis, int64_t begin, int64_t size) {
  Shape shape = x.shape();
  shape[axis] = size;
  const Tensor out = Tensor::zeros(shape, x.options());
  out.slice(axis, begin, begin + x.shape()[axis]).copy_(x.value());
  return record("place", out, {x},
                [axis, begin, length = x.shape()[axis]](const Variable& g) -> std::vector<Variable> {
                  return {slice(g, axis, begin, begin + length)};
                });
}
}  // namespace

Variable slice(const Variable& x, int axis, int64_t begin, int64_t end) {
  const int a = normalize_axis(axis, x.rank(), "slice");
  const int64_t size = x.shape()[a], first = begin < 0 ? begin + size : begin;
  return record(
      "slice", x.value().slice(axis, begin, end), {x},
      [a, first, size](const Variable& g) -> std::vector<Variable> { return {place(g, a, first, size)}; });
}

Variable concat(const std::vector<Variable>& parts, int axis) {
  std::vector<Tensor> values;
  for (const Variable& p : parts) values.push_back(p.value());
  const Tensor out = concat(values, axis);
  const int a = normalize_axis(axis, out.rank(), "concat");
  std::vector<int64_t> sizes;
  for (const Tensor& v : values) sizes.push_back(v.size(a));
  return record("concat", out, parts, [a, sizes](const Variable& g) {
    std::vector<Variable> gradients;
    int64_t begin = 0;
    for (int64_t size : sizes) {
      gradients.push_back(slice(g, a, begin, begin + size));
      begin += size;
    }
    return gradients;
  });
}

Variable to(const Variable& x, DType dtype) {
  require(is_floating(dtype), "to", "expected f32 or f64, got {}", name_of(dtype));
  if (dtype == x.dtype()) return x;
  return record("to", x.value().to(dtype), {x},
                [from = x.dtype()](const Variable& g) -> std::vector<Variable> { return {to(g, from)}; });
}

}  // namespace halfstep
