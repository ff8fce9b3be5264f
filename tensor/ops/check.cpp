#include "tensor/ops/check.h"

#include "tensor/error.h"

namespace halfstep {

void require_floating(const Tensor& x, std::string_view where) {
  require(x.defined(), where, "expected a tensor, got an undefined one (default-constructed)");
  require(is_floating(x.dtype()), where, "expected f32, f64 or bf16, got {}; convert with to(dtype)",
          name_of(x.dtype()));
  if (x.dtype() == DType::bf16) require_bf16(x.device(), where);
}

void require_alike(std::initializer_list<const Tensor*> tensors, std::string_view where) {
  const Tensor& first = **tensors.begin();
  for (const Tensor* t : tensors) {
    require_floating(*t, where);
    require(t->dtype() == first.dtype(), where, "dtypes differ: {} and {}; convert one with to(dtype)",
            name_of(first.dtype()), name_of(t->dtype()));
    require(&t->device() == &first.device(), where, "devices differ: '{}' and '{}'; move one with to(device)",
            first.device().name(), t->device().name());
  }
}

void require_rank(const Tensor& x, int rank, std::string_view where, std::string_view what) {
  require(x.rank() == rank, where, "expected {} with {} axes, got {}", what, rank, str(x.shape()));
}

}  // namespace halfstep
