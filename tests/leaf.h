// Small f64 leaves for the tests of autograd.
#pragma once

#include <vector>

#include "autograd/variable.h"

namespace halfstep::test {

inline const TensorOptions kF64{DType::f64, &cpu_device()};

inline Variable leaf(const std::vector<double>& values, const Shape& shape) {
  return Variable(Tensor::from(values, shape, kF64), true);
}
/// The same without a gradient.
inline Variable constant(const std::vector<double>& values, const Shape& shape) {
  return Variable(Tensor::from(values, shape, kF64));
}
inline std::vector<double> values(const Variable& v) { return v.value().to_vector<double>(); }

/// Bytes that tensors use on the CPU.
inline size_t bytes_in_use() { return cpu_device().allocator.current_bytes(); }

}  // namespace halfstep::test
