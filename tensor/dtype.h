// Element types.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace halfstep {

/// f32 and f64 are computed with everywhere. bf16, the upper half of an f32 (8 bits of mantissa with the
/// hidden one), is what activations and products are kept in where memory and speed count more than digits;
/// sums are in f32. i64 holds labels and indices.
enum class DType : uint8_t { f32, f64, bf16, i64 };

/// Bytes of an element, and the name: "f32".
size_t size_of(DType dtype);
std::string_view name_of(DType dtype);
/// "f32", "f64", "bf16", "i64"; throws Error for another name.
DType dtype_by_name(std::string_view name);
/// f32 or f64: what parameters, statistics and noise are kept in.
constexpr bool is_full_precision(DType dtype) { return dtype == DType::f32 || dtype == DType::f64; }
/// f32, f64 or bf16: types with arithmetic and gradients.
constexpr bool is_floating(DType dtype) { return is_full_precision(dtype) || dtype == DType::bf16; }
/// What the statistics of numbers of this type are kept in: f32 for bf16, otherwise the same.
constexpr DType statistics_dtype(DType dtype) { return dtype == DType::bf16 ? DType::f32 : dtype; }

/// The dtype of float, double or int64_t.
template <class T>
constexpr DType dtype_of();
template <>
constexpr DType dtype_of<float>() {
  return DType::f32;
}
template <>
constexpr DType dtype_of<double>() {
  return DType::f64;
}
template <>
constexpr DType dtype_of<int64_t>() {
  return DType::i64;
}

}  // namespace halfstep
