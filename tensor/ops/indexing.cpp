// Picking and placing elements by index, and sorting.
#include <algorithm>
#include <numeric>

#include "tensor/error.h"
#include "tensor/ops.h"
#include "tensor/ops/check.h"

namespace halfstep {

namespace {

/// Throws where an index is outside 0..size-1, unless finding out would mean to wait for the device.
void require_indices(const Tensor& index, int64_t size, std::string_view where) {
  require(index.defined() && index.dtype() == DType::i64, where, "expected indices of type i64, got {}",
          index.defined() ? name_of(index.dtype()) : "an undefined tensor");
  if (!backend_of(index).synchronous) return;
  for (const int64_t i : index.to_vector<int64_t>())
    require(0 <= i && i < size, where, "expected indices in 0..{}, got {}", size - 1, i);
}

/// `index` expanded to `values`' shape off the axis.
Tensor index_beside(const Tensor& values, int axis, const Tensor& index, std::string_view where) {
  Shape shape = values.shape();
  require(index.rank() == values.rank(), where, "expected indices with {} axes for {}, got {}", values.rank(),
          str(values.shape()), str(index.shape()));
  require(&index.device() == &values.device(), where,
          "devices differ: '{}' and '{}'; move one with to(device)", values.device().name(),
          index.device().name());
  shape[axis] = index.shape()[axis];
  require(broadcasts_to(index.shape(), shape), where,
          "expected indices that broadcast to {} off axis {}, got {}", str(values.shape()), axis,
          str(index.shape()));
  return index.expand(shape);
}

}  // namespace

Tensor arange(int64_t n, TensorOptions options) {
  require(n >= 0, "arange", "expected a size of at least 0, got {}", n);
  std::vector<int64_t> values(static_cast<size_t>(n));
  std::iota(values.begin(), values.end(), 0);
  return Tensor::from(values, {n}, options);
}

Tensor gather(const Tensor& x, int axis, const Tensor& index) {
  require(x.defined(), "gather", "expected a tensor, got an undefined one (default-constructed)");
  if (x.dtype() == DType::bf16) require_bf16(x.device(), "gather");
  const int a = normalize_axis(axis, x.rank(), "gather");
  require_indices(index, x.size(a), "gather");
  const Tensor places = index_beside(x, a, index, "gather");
  Tensor out = Tensor::empty(places.shape(), x.options());
  backend_of(x).gather(out.array(), x.array(), places.array(), a);
  return out;
}

Tensor scatter_add(const Tensor& source, int axis, const Tensor& index, int64_t size) {
  require_floating(source, "scatter_add");
  const int a = normalize_axis(axis, source.rank(), "scatter_add");
  require(size >= 0, "scatter_add", "expected a size of at least 0, got {}", size);
  require_indices(index, size, "scatter_add");
  const Tensor places = index_beside(source, a, index, "scatter_add");
  require(places.shape() == source.shape(), "scatter_add",
          "expected one index for each of {} on axis {}, got {}", str(source.shape()), axis,
          str(index.shape()));
  Shape shape = source.shape();
  shape[a] = size;
  Tensor out = Tensor::empty(shape, source.options());
  backend_of(source).scatter_add(out.array(), source.array(), places.array(), a);
  return out;
}

Tensor one_hot(const Tensor& labels, int64_t classes, DType dtype) {
  require(is_full_precision(dtype), "one_hot", "expected a result of f32 or f64, got {}", name_of(dtype));
  require(classes > 0, "one_hot", "expected at least one class, got {}", classes);
  require_indices(labels, classes, "one_hot");
  const TensorOptions options{dtype, &labels.device()};
  return equal(labels.to(dtype).unsqueeze(-1), arange(classes, options));
}

Tensor argsort(const Tensor& x, int axis, bool descending) {
  require_floating(x, "argsort");
  const int a = normalize_axis(axis, x.rank(), "argsort");
  Tensor order = Tensor::empty(x.shape(), {DType::i64, &x.device()});
  backend_of(x).argsort(order.array(), x.array(), a, descending);
  return order;
}

Tensor sort(const Tensor& x, int axis, bool descending) {
  return gather(x, axis, argsort(x, axis, descending));
}

}  // namespace halfstep
