// Tensor: a cheap value handle on shared storage, with views. No gradients here (see autograd/).
#pragma once

#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

#include "tensor/backend.h"
#include "tensor/device.h"

namespace halfstep {

/// A block of device memory, shared by the tensors that view it.
struct Storage {
  Storage(Device& device, size_t bytes);
  ~Storage();
  Storage(const Storage&) = delete;
  Storage& operator=(const Storage&) = delete;

  Device& device;
  void* data;
  size_t bytes;
  /// Counts in-place writes; autograd compares it to notice that a saved value was changed.
  uint64_t version = 0;
};

/// Where and as what a new tensor lives.
struct TensorOptions {
  DType dtype = DType::f32;
  Device* device = &cpu_device();
};

/// Copies of a Tensor share memory (like a shared_ptr); `clone` copies the elements. A default-constructed
/// Tensor is undefined: only `defined()` may be asked of it. Images are [B, H, W, C].
class Tensor {
 public:
  Tensor() = default;

  // --- creation --------------------------------------------------------------------------------------------
  static Tensor empty(const Shape& shape, TensorOptions options = {});  ///< uninitialised
  static Tensor full(const Shape& shape, double value, TensorOptions options = {});
  static Tensor zeros(const Shape& shape, TensorOptions options = {}) { return full(shape, 0, options); }
  static Tensor ones(const Shape& shape, TensorOptions options = {}) { return full(shape, 1, options); }
  static Tensor scalar(double value, TensorOptions options = {}) { return full({}, value, options); }
  /// Copies host values (float, double or int64_t) in row-major order; converts to options.dtype.
  /// Throws if values.size() is not numel(shape).
  template <class T>
  static Tensor from(const std::vector<T>& values, const Shape& shape, TensorOptions options = {});

  // --- facts -----------------------------------------------------------------------------------------------
  bool defined() const { return storage_ != nullptr; }
  const Shape& shape() const { return shape_; }
  const Strides& strides() const { return strides_; }
  int64_t offset() const { return offset_; }
  int rank() const { return shape_.rank(); }
  /// Size of an axis; negative counts from the end.
  int64_t size(int axis) const;
  int64_t numel() const { return halfstep::numel(shape_); }
  DType dtype() const { return dtype_; }
  Device& device() const;
  /// dtype and device, to make companions of this tensor.
  TensorOptions options() const { return {dtype_, &device()}; }
  bool contiguous_layout() const { return is_contiguous(shape_, strides_); }
  bool shares_storage(const Tensor& other) const { return storage_ == other.storage_; }
  /// Whether its elements are all that its memory holds, in row-major order, and no other tensor views them.
  bool owns_memory() const;
  uint64_t version() const { return storage_->version; }
  /// To be called by whoever writes into the tensor in place (the functions ending in '_' do).
  void bump_version() const { ++storage_->version; }
  /// The window that Backend functions take.
  Array array() const;

  // --- views: share storage, copy nothing ------------------------------------------------------------------
  /// begin..end (exclusive) on one axis, every `step`-th (>= 1) element; negative indices count from the end.
  Tensor slice(int axis, int64_t begin, int64_t end, int64_t step = 1) const;
  /// The elements of these axes in reverse order (negative strides).
  Tensor flip(const std::vector<int>& axes) const;
  Tensor permute(const std::vector<int>& order) const;
  Tensor transpose(int axis_a, int axis_b) const;
  /// Broadcasts to `shape` by zero strides. Throws if it does not fit.
  Tensor expand(const Shape& shape) const;
  Tensor unsqueeze(int axis) const;  ///< inserts an axis of size 1 before `axis`; -1 appends one
  Tensor squeeze(int axis) const;    ///< removes an axis of size 1
  /// One size may be -1. A view where the strides allow it, otherwise a copy.
  Tensor reshape(const Shape& shape) const;

  // --- copies ----------------------------------------------------------------------------------------------
  Tensor clone() const;       ///< contiguous copy
  Tensor contiguous() const;  ///< itself, or a contiguous copy
  Tensor to(DType dtype) const;
  Tensor to(Device& device) const;

  // --- in place (counted by version) -----------------------------------------------------------------------
  void fill_(double value) const;
  /// Copies `source` (broadcast to this shape, converted to this dtype).
  void copy_(const Tensor& source) const;

  // --- to the host: waits for the device -------------------------------------------------------------------
  /// The only element. Throws if numel() is not 1.
  double item() const;
  /// All elements in row-major order, converted to T (float, double or int64_t).
  template <class T>
  std::vector<T> to_vector() const;

 private:
  Tensor view(const Shape& shape, const Strides& strides, int64_t offset) const;

  std::shared_ptr<Storage> storage_;
  Shape shape_;
  Strides strides_;
  int64_t offset_ = 0;  ///< in elements
  DType dtype_ = DType::f32;
};

}  // namespace halfstep
