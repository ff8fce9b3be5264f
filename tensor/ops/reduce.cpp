// Sums and extrema over axes, and what is made of them.
#include "tensor/error.h"
#include "tensor/ops.h"
#include "tensor/ops/check.h"

namespace halfstep {

namespace {
Tensor reduce(ReduceOp op, const Tensor& x, const std::vector<int>& axes, bool keep_dims,
              std::string_view where) {
  require_floating(x, where);
  Shape kept = x.shape();
  std::vector<bool> reduced(static_cast<size_t>(x.rank()), axes.empty());
  for (int axis : axes) reduced[static_cast<size_t>(normalize_axis(axis, x.rank(), where))] = true;
  for (int i = 0; i < x.rank(); ++i)
    if (reduced[static_cast<size_t>(i)]) kept[i] = 1;
  Tensor out = Tensor::empty(kept, x.options());
  backend_of(x).reduce(op, out.array(), x.array());
  if (keep_dims) return out;
  Shape shape;
  for (int i = 0; i < x.rank(); ++i)
    if (!reduced[static_cast<size_t>(i)]) shape.push_back(kept[i]);
  return out.reshape(shape);
}
}  // namespace

Tensor sum(const Tensor& x, const std::vector<int>& axes, bool keep_dims) {
  return reduce(ReduceOp::sum, x, axes, keep_dims, "sum");
}

Tensor mean(const Tensor& x, const std::vector<int>& axes, bool keep_dims) {
  const Tensor total = reduce(ReduceOp::sum, x, axes, keep_dims, "mean");
  require(x.numel() > 0, "mean", "expected at least one element, got shape {}", str(x.shape()));
  return affine(total, static_cast<double>(total.numel()) / static_cast<double>(x.numel()), 0);
}

Tensor max(const Tensor& x, const std::vector<int>& axes, bool keep_dims) {
  require(x.numel() > 0, "max", "expected at least one element, got shape {}", str(x.shape()));
  return reduce(ReduceOp::max, x, axes, keep_dims, "max");
}

Tensor min(const Tensor& x, const std::vector<int>& axes, bool keep_dims) {
  require(x.numel() > 0, "min", "expected at least one element, got shape {}", str(x.shape()));
  return reduce(ReduceOp::min, x, axes, keep_dims, "min");
}

namespace {
/// The first place where x equals its extremum, as the smallest of the places that do.
Tensor first_extremum(ReduceOp op, const Tensor& x, int axis, bool keep_dims, std::string_view where_name) {
  require_floating(x, where_name);
  const int a = normalize_axis(axis, x.rank(), where_name);
  const int64_t n = x.size(a);
  require(n > 0, where_name, "expected at least one element on axis {}, got shape {}", axis, str(x.shape()));
  require(x.dtype() == DType::f64 || n <= int64_t{1} << 24, where_name,
          "expected at most 2^24 elements on axis {}, as far as f32 can count, got shape {}; convert with "
          "to(DType::f64)",
          axis, str(x.shape()));
  const Tensor extremum = reduce(op, x, {a}, true, where_name);
  // Equal to the extremum, or NaN where the extremum is NaN (nothing equals NaN, itself included).
  const Tensor is_number = equal(extremum, extremum), is_nan = affine(equal(x, x), -1, 1);
  const Tensor found = where(is_number, equal(x, extremum), is_nan);
  Shape along = Dims::filled(x.rank(), 1);
  along[a] = n;
  const Tensor place = where(found, arange(n, x.options()).reshape(along),
                             Tensor::scalar(static_cast<double>(n), x.options()));
  return reduce(ReduceOp::min, place, {a}, keep_dims, where_name).to(DType::i64);
}
}  // namespace

Tensor argmax(const Tensor& x, int axis, bool keep_dims) {
  return first_extremum(ReduceOp::max, x, axis, keep_dims, "argmax");
}
Tensor argmin(const Tensor& x, int axis, bool keep_dims) {
  return first_extremum(ReduceOp::min, x, axis, keep_dims, "argmin");
}

Tensor cumulative_sum(const Tensor& x, int axis) {
  require_floating(x, "cumulative_sum");
  const int a = normalize_axis(axis, x.rank(), "cumulative_sum");
  Tensor out = Tensor::empty(x.shape(), x.options());
  backend_of(x).cumulative_sum(out.array(), x.array(), a);
  return out;
}

Tensor sum_to(const Tensor& x, const Shape& shape) {
  if (x.shape() == shape) return x;
  require(broadcasts_to(shape, x.shape()), "sum_to", "{} was not broadcast from {}", str(x.shape()),
          str(shape));
  Shape kept = Dims::filled(x.rank(), 1);
  for (int i = 1; i <= shape.rank(); ++i) kept[x.rank() - i] = shape[shape.rank() - i];
  Tensor out = Tensor::empty(kept, x.options());
  backend_of(x).reduce(ReduceOp::sum, out.array(), x.array());
  return out.reshape(shape);
}

Tensor sum_of_squares(const std::vector<Tensor>& tensors) {
  require(!tensors.empty(), "sum_of_squares", "expected at least one tensor, got none");
  Device& device = tensors[0].device();
  DType dtype = tensors[0].dtype();
  for (const Tensor& t : tensors) {
    require(&t.device() == &device, "sum_of_squares", "devices differ: '{}' and '{}'", device.name(),
            t.device().name());
    require_floating(t, "sum_of_squares");
    if (t.dtype() != dtype) dtype = DType::f64;
  }
  std::vector<Tensor> held;  // contiguous, of one dtype
  std::vector<Array> list;
  for (const Tensor& t : tensors) list.push_back(held.emplace_back(t.to(dtype).contiguous()).array());
  Tensor sum = Tensor::empty({}, {DType::f64, &device});
  device.backend.sum_of_squares({list, sum.array()});
  return sum;
}

}  // namespace halfstep
