#include "tensor/bf16_entries.h"

namespace halfstep::detail {

F32Copies::~F32Copies() {
  for (const Copy& copy : copies_)
    allocator_.release(copy.f32.data, static_cast<size_t>(numel(copy.f32.shape)) * sizeof(float));
}

void F32Copies::replace(Array& array, Use use) {
  if (array.absent() || array.dtype != DType::bf16) return;
  Array given = array;
  for (int axis = 0; axis < given.shape.rank(); ++axis)
    if (given.strides[axis] == 0 && given.shape[axis] > 1) given.shape[axis] = 1;
  const Array f32{allocator_.allocate(static_cast<size_t>(numel(given.shape)) * sizeof(float)), DType::f32,
                  given.shape, contiguous_strides(given.shape)};
  copies_.push_back({given, f32, use});
  if (use != Use::write) backend_.copy(f32, given);
  const Strides before = array.strides;
  array.data = f32.data;
  array.dtype = DType::f32;
  array.strides = f32.strides;
  for (int axis = 0; axis < given.shape.rank(); ++axis)
    if (before[axis] == 0) array.strides[axis] = 0;
}

void F32Copies::write_back() const {
  for (const Copy& copy : copies_)
    if (copy.use != Use::read) backend_.copy(copy.given, copy.f32);
}

}  // namespace halfstep::detail
