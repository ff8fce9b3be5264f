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

Variable contiguous(const Variable& x) {
  if (x.value().contiguous_layout()) return x;
  return record("contiguous", x.value().contiguous(), {x},
                [](const Variable& g) -> std::vector<Variable> { return {g}; });
}

Variable sum_to(const Variable& x, const Shape& shape) {
  return record("sum_to", sum_to(x.value(), shape), {x},
                [from = x.shape()](const Variable& g) -> std::vector<Variable> { return {expand(g, from)}; });
}

namespace {
/// Zeros of size `size` on `axis`, with x at begin, begin + step, ...: the adjoint of slice.
Variable place(const Variable& x, int axis, int64_t begin, int64_t size, int64_t step) {
  Shape shape = x.shape();
  shape[axis] = size;
  const int64_t end = x.shape()[axis] ? begin + (x.shape()[axis] - 1) * step + 1 : begin;
  const Tensor out = Tensor::zeros(shape, x.options());
  out.slice(axis, begin, end, step).copy_(x.value());
  return record("place", out, {x}, [axis, begin, end, step](const Variable& g) -> std::vector<Variable> {
    return {slice(g, axis, begin, end, step)};
  });
}
}  // namespace

Variable slice(const Variable& x, int axis, int64_t begin, int64_t end, int64_t step) {
  const Tensor out = x.value().slice(axis, begin, end, step);
  const int a = normalize_axis(axis, x.rank(), "slice");
  const int64_t size = x.shape()[a], first = begin < 0 ? begin + size : begin;
  return record("slice", out, {x}, [a, first, size, step](const Variable& g) -> std::vector<Variable> {
    return {place(g, a, first, size, step)};
  });
}

Variable flip(const Variable& x, const std::vector<int>& axes) {
  return record("flip", x.value().flip(axes), {x},
                [axes](const Variable& g) -> std::vector<Variable> { return {flip(g, axes)}; });
}

Variable unsqueeze(const Variable& x, int axis) { return reshape(x, x.value().unsqueeze(axis).shape()); }
Variable squeeze(const Variable& x, int axis) { return reshape(x, x.value().squeeze(axis).shape()); }

Variable pad(const Variable& x, const std::vector<int64_t>& before, const std::vector<int64_t>& after,
             double value) {
  return record("pad", pad(x.value(), before, after, value), {x},
                [before, from = x.shape()](const Variable& g) -> std::vector<Variable> {
                  Variable inside = g;
                  for (int axis = 0; axis < from.rank(); ++axis) {
                    const int64_t lead = before[static_cast<size_t>(axis)];
                    if (inside.size(axis) != from[axis])
                      inside = slice(inside, axis, lead, lead + from[axis]);
                  }
                  return {inside};
                });
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

Variable stack(const std::vector<Variable>& parts, int axis) {
  require(!parts.empty(), "stack", "expected at least one tensor, got none");
  std::vector<Variable> layers;
  for (const Variable& part : parts) {
    require(part.shape() == parts[0].shape(), "stack", "expected parts of one shape, got {} and {}",
            str(parts[0].shape()), str(part.shape()));
    layers.push_back(unsqueeze(part, axis));
  }
  return concat(layers, normalize_axis(axis, layers[0].rank(), "stack"));
}

std::vector<Variable> split(const Variable& x, const std::vector<int64_t>& sizes, int axis) {
  const int a = normalize_axis(axis, x.rank(), "split");
  int64_t total = 0;
  for (int64_t size : sizes) {
    require(size >= 0, "split", "expected sizes of at least 0, got {}", size);
    total += size;
  }
  require(total == x.size(a), "split", "expected sizes that add up to {} (axis {} of {}), got {}", x.size(a),
          axis, str(x.shape()), total);
  std::vector<Variable> parts;
  int64_t begin = 0;
  for (int64_t size : sizes) {
    parts.push_back(slice(x, a, begin, begin + size));
    begin += size;
  }
  return parts;
}

Variable to(const Variable& x, DType dtype) {
  require(is_floating(dtype), "to", "expected f32, f64 or bf16, got {}", name_of(dtype));
  if (dtype == x.dtype()) return x;
  return record("to", x.value().to(dtype), {x},
                [from = x.dtype()](const Variable& g) -> std::vector<Variable> { return {to(g, from)}; });
}

}  // namespace halfstep
