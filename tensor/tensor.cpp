#include "tensor/tensor.h"

#include <algorithm>

#include "tensor/error.h"

namespace halfstep {

Storage::Storage(Device& d, size_t n) : device(d), data(d.allocator.allocate(n)), bytes(n) {}
Storage::~Storage() { device.allocator.release(data, bytes); }

Tensor Tensor::empty(const Shape& shape, TensorOptions options) {
  for (int64_t d : shape) require(d >= 0, "empty", "sizes must not be negative, got {}", str(shape));
  Tensor t;
  t.storage_ = std::make_shared<Storage>(
      *options.device, static_cast<size_t>(halfstep::numel(shape)) * size_of(options.dtype));
  t.shape_ = shape;
  t.strides_ = contiguous_strides(shape);
  t.dtype_ = options.dtype;
  return t;
}

Tensor Tensor::full(const Shape& shape, double value, TensorOptions options) {
  Tensor t = empty(shape, options);
  t.device().backend.fill(t.array(), value);
  return t;
}

template <class T>
Tensor Tensor::from(const std::vector<T>& values, const Shape& shape, TensorOptions options) {
  require(static_cast<int64_t>(values.size()) == halfstep::numel(shape), "from",
          "expected {} values for shape {}, got {}", halfstep::numel(shape), str(shape), values.size());
  Tensor host = empty(shape, {dtype_of<T>(), options.device});
  host.device().upload(host.storage_->data, values.data(), values.size() * sizeof(T));
  return host.to(options.dtype);
}
template Tensor Tensor::from(const std::vector<float>&, const Shape&, TensorOptions);
template Tensor Tensor::from(const std::vector<double>&, const Shape&, TensorOptions);
template Tensor Tensor::from(const std::vector<int64_t>&, const Shape&, TensorOptions);

int64_t Tensor::size(int axis) const { return shape_[normalize_axis(axis, rank(), "size")]; }

Device& Tensor::device() const {
  require(defined(), "tensor", "expected a tensor, got an undefined one (default-constructed)");
  return storage_->device;
}

Array Tensor::array() const {
  require(defined(), "tensor", "expected a tensor, got an undefined one (default-constructed)");
  return {static_cast<char*>(storage_->data) + static_cast<size_t>(offset_) * size_of(dtype_), dtype_, shape_,
          strides_};
}

Tensor Tensor::view(const Shape& shape, const Strides& strides, int64_t offset) const {
  Tensor t = *this;
  t.shape_ = shape;
  t.strides_ = strides;
  t.offset_ = offset;
  return t;
}

Tensor Tensor::slice(int axis, int64_t begin, int64_t end, int64_t step) const {
  const int a = normalize_axis(axis, rank(), "slice");
  const int64_t n = shape_[a];
  const int64_t b = begin < 0 ? begin + n : begin, e = end < 0 ? end + n : end;
  require(b >= 0 && b <= e && e <= n, "slice", "range {}..{} is outside axis {} of {}", begin, end, axis,
          str(shape_));
  require(step >= 1, "slice", "expected a step of at least 1, got {}; reverse with flip", step);
  Shape shape = shape_;
  Strides strides = strides_;
  shape[a] = (e - b + step - 1) / step;
  strides[a] *= step;
  // Of a flipped axis the place behind the end lies before the storage; an empty slice starts anywhere.
  return view(shape, strides, offset_ + (b < e ? b * strides_[a] : 0));
}

Tensor Tensor::flip(const std::vector<int>& axes) const {
  Strides strides = strides_;
  int64_t offset = offset_;
  std::vector<bool> seen(static_cast<size_t>(rank()));
  for (int axis : axes) {
    const int a = normalize_axis(axis, rank(), "flip");
    require(!seen[static_cast<size_t>(a)], "flip", "expected each axis once, got axis {} twice", axis);
    seen[static_cast<size_t>(a)] = true;
    if (shape_[a] <= 1 || numel() == 0) continue;  // keeps the strides of a contiguous layout
    offset += (shape_[a] - 1) * strides_[a];
    strides[a] = -strides_[a];
  }
  return view(shape_, strides, offset);
}

Tensor Tensor::permute(const std::vector<int>& order) const {
  require(static_cast<int>(order.size()) == rank(), "permute", "expected {} axes for {}, got {}", rank(),
          str(shape_), order.size());
  Shape shape = shape_;
  Strides strides = strides_;
  std::vector<bool> seen(order.size());
  for (int i = 0; i < rank(); ++i) {
    const int from = normalize_axis(order[i], rank(), "permute");
    require(!seen[from], "permute", "expected each axis once, got axis {} twice", from);
    seen[from] = true;
    shape[i] = shape_[from];
    strides[i] = strides_[from];
  }
  return view(shape, strides, offset_);
}

Tensor Tensor::transpose(int axis_a, int axis_b) const {
  const int a = normalize_axis(axis_a, rank(), "transpose"), b = normalize_axis(axis_b, rank(), "transpose");
  Shape shape = shape_;
  Strides strides = strides_;
  std::swap(shape[a], shape[b]);
  std::swap(strides[a], strides[b]);
  return view(shape, strides, offset_);
}

Tensor Tensor::expand(const Shape& shape) const {
  if (shape == shape_) return *this;
  require(broadcasts_to(shape_, shape), "expand",
          "{} does not broadcast to {}; sizes must be equal or 1, aligned at the last axis", str(shape_),
          str(shape));
  Strides strides = Dims::filled(shape.rank(), 0);
  for (int i = 1; i <= rank(); ++i)
    if (shape_[rank() - i] != 1) strides[shape.rank() - i] = strides_[rank() - i];
  return view(shape, strides, offset_);
}

Tensor Tensor::unsqueeze(int axis) const {
  const int a = normalize_axis(axis, rank() + 1, "unsqueeze");
  Shape shape = shape_;
  Strides strides = strides_;
  shape.insert(a, 1);
  strides.insert(a, 0);
  return view(shape, strides, offset_);
}

Tensor Tensor::squeeze(int axis) const {
  const int a = normalize_axis(axis, rank(), "squeeze");
  require(shape_[a] == 1, "squeeze", "expected size 1 on axis {} of {}, got {}", axis, str(shape_),
          shape_[a]);
  Shape shape = shape_;
  Strides strides = strides_;
  shape.erase(a);
  strides.erase(a);
  return view(shape, strides, offset_);
}

namespace {
/// Strides that make `to` a view of (from, strides), if there are any: every group of old axes that merges
/// into, or splits from, a group of new axes must be contiguous in itself. Both have the same number of
/// elements, not 0.
bool view_strides(const Shape& from, const Strides& strides, const Shape& to, Strides& result) {
  Shape sizes;  // of the old axes; those of size 1 say nothing about memory
  Strides steps;
  for (int i = 0; i < from.rank(); ++i)
    if (from[i] != 1) {
      sizes.push_back(from[i]);
      steps.push_back(strides[i]);
    }
  result = Dims::filled(to.rank(), 1);
  int i = 0, j = 0;
  while (j < to.rank()) {
    if (to[j] == 1) {
      ++j;
      continue;
    }
    int64_t old_size = sizes[i], new_size = to[j];
    int i_end = i + 1, j_end = j + 1;
    while (old_size != new_size) {
      if (old_size > new_size) {
        new_size *= to[j_end++];
        continue;
      }
      if (steps[i_end - 1] != sizes[i_end] * steps[i_end]) return false;
      old_size *= sizes[i_end++];
    }
    int64_t step = steps[i_end - 1];
    for (int k = j_end - 1; k >= j; --k) {
      result[k] = step;
      step *= to[k];
    }
    i = i_end;
    j = j_end;
  }
  return true;
}
}  // namespace

Tensor Tensor::reshape(const Shape& requested) const {
  Shape shape = requested;
  int64_t known = 1;
  int unknown = -1;
  for (int i = 0; i < shape.rank(); ++i) {
    if (shape[i] == -1) {
      require(unknown < 0, "reshape", "at most one size may be -1, got {}", str(requested));
      unknown = i;
    } else {
      known *= shape[i];
    }
  }
  if (unknown >= 0 && known > 0) shape[unknown] = numel() / known;
  require(halfstep::numel(shape) == numel() &&
              std::all_of(shape.begin(), shape.end(), [](int64_t d) { return d >= 0; }),
          "reshape", "{} has {} elements and does not fit {}", str(shape_), numel(), str(requested));
  if (numel() == 0) return view(shape, contiguous_strides(shape), offset_);
  Strides strides;
  if (view_strides(shape_, strides_, shape, strides)) return view(shape, strides, offset_);
  const Tensor copy = clone();
  return copy.view(shape, contiguous_strides(shape), copy.offset_);
}

bool Tensor::owns_memory() const {
  return storage_.use_count() == 1 && contiguous_layout() &&
         static_cast<size_t>(numel()) * size_of(dtype_) == storage_->bytes;
}

Tensor Tensor::clone() const {
  Tensor t = empty(shape_, options());
  device().backend.copy(t.array(), array());
  return t;
}

Tensor Tensor::contiguous() const { return contiguous_layout() ? *this : clone(); }

Tensor Tensor::to(DType dtype) const {
  if (dtype == dtype_) return *this;
  Tensor t = empty(shape_, {dtype, &device()});
  device().backend.copy(t.array(), array());
  return t;
}

Tensor Tensor::to(Device& target) const {
  if (&target == &device()) return *this;
  const Tensor source = contiguous();
  const size_t bytes = static_cast<size_t>(numel()) * size_of(dtype_);
  std::vector<char> host(bytes);
  device().download(host.data(), source.array().data, bytes);
  Tensor t = empty(shape_, {dtype_, &target});
  target.upload(t.array().data, host.data(), bytes);
  return t;
}

void Tensor::fill_(double value) const {
  device().backend.fill(array(), value);
  bump_version();
}

void Tensor::copy_(const Tensor& source) const {
  require(&source.device() == &device(), "copy_",
          "expected a tensor on '{}', got one on '{}'; use to(device)", device().name(),
          source.device().name());
  device().backend.copy(array(), source.expand(shape_).array());
  bump_version();
}

double Tensor::item() const {
  require(numel() == 1, "item", "expected one element, got shape {}", str(shape_));
  return to_vector<double>()[0];
}

template <class T>
std::vector<T> Tensor::to_vector() const {
  const Tensor source = to(dtype_of<T>()).contiguous();
  std::vector<T> values(static_cast<size_t>(numel()));
  device().download(values.data(), source.array().data, values.size() * sizeof(T));
  return values;
}
template std::vector<float> Tensor::to_vector() const;
template std::vector<double> Tensor::to_vector() const;
template std::vector<int64_t> Tensor::to_vector() const;

}  // namespace halfstep
