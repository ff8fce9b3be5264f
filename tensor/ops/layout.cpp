// Changes of layout that copy; views are members of Tensor.
#include "tensor/error.h"
#include "tensor/ops.h"
#include "tensor/ops/check.h"

namespace halfstep {

Tensor concat(const std::vector<Tensor>& parts, int axis) {
  require(!parts.empty(), "concat", "expected at least one tensor, got none");
  for (const Tensor& p : parts) require(p.defined(), "concat", "expected tensors, got an undefined one");
  const int a = normalize_axis(axis, parts[0].rank(), "concat");
  Shape shape = parts[0].shape();
  shape[a] = 0;
  for (const Tensor& p : parts) {
    require(p.dtype() == parts[0].dtype() && &p.device() == &parts[0].device(), "concat",
            "parts differ: {} on '{}' and {} on '{}'; convert or move one with to()",
            name_of(parts[0].dtype()), parts[0].device().name(), name_of(p.dtype()), p.device().name());
    Shape expected = p.shape();
    if (a < p.rank()) expected[a] = parts[0].shape()[a];
    require(expected == parts[0].shape(), "concat", "parts differ outside axis {}: {} and {}", axis,
            str(parts[0].shape()), str(p.shape()));
    shape[a] += p.shape()[a];
  }
  Tensor out = Tensor::empty(shape, parts[0].options());
  int64_t begin = 0;
  for (const Tensor& p : parts) {
    out.slice(a, begin, begin + p.shape()[a]).copy_(p);
    begin += p.shape()[a];
  }
  return out;
}

Tensor stack(const std::vector<Tensor>& parts, int axis) {
  require(!parts.empty(), "stack", "expected at least one tensor, got none");
  std::vector<Tensor> layers;
  for (const Tensor& part : parts) {
    require(part.defined(), "stack", "expected tensors, got an undefined one");
    require(part.shape() == parts[0].shape(), "stack", "expected parts of one shape, got {} and {}",
            str(parts[0].shape()), str(part.shape()));
    layers.push_back(part.unsqueeze(axis));
  }
  return concat(layers, normalize_axis(axis, layers[0].rank(), "stack"));
}

Tensor pad(const Tensor& x, const std::vector<int64_t>& before, const std::vector<int64_t>& after,
           double value) {
  require(x.defined(), "pad", "expected a tensor, got an undefined one (default-constructed)");
  const size_t rank = static_cast<size_t>(x.rank());
  require(before.size() == rank && after.size() == rank, "pad",
          "expected one size before and one after for each axis of {}, got {} and {}", str(x.shape()),
          before.size(), after.size());
  Shape shape = x.shape();
  for (int axis = 0; axis < x.rank(); ++axis) {
    const int64_t lead = before[static_cast<size_t>(axis)], tail = after[static_cast<size_t>(axis)];
    require(lead >= 0 && tail >= 0, "pad",
            "expected sizes of at least 0, got {} and {} for axis {}; crop with slice", lead, tail, axis);
    shape[axis] += lead + tail;
  }
  const Tensor out = Tensor::full(shape, value, x.options());
  Tensor inside = out;
  for (int axis = 0; axis < x.rank(); ++axis) {
    const int64_t lead = before[static_cast<size_t>(axis)];
    inside = inside.slice(axis, lead, lead + x.size(axis));
  }
  inside.copy_(x);
  return out;
}

}  // namespace halfstep
