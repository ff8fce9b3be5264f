// Changes of layout that copy; views are members of Tensor.
#include "tensor/error.h"
#include "tensor/ops.h"
#include "tensor/ops/check.h"

namespace halfstep {

Tensor concat(const std::vector<Tensor>& parts, int axis) {
  require(!parts.empty(), "concat", "expected at least one tensor, got none");
  require(parts[0].defined(), "concat", "expected tensors, got an undefined one");
  const int a = normalize_axis(axis, parts[0].rank(), "concat");
  Shape shape = parts[0].shape();
  shape[a] = 0;
  for (const Tensor& p : parts) {
    require(p.defined() && p.dtype() == parts[0].dtype() && &p.device() == &parts[0].device(), "concat",
            "parts differ in dtype or device");
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

}  // namespace halfstep
