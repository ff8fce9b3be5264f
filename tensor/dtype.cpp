#include "tensor/dtype.h"

#include "tensor/error.h"

namespace halfstep {

size_t size_of(DType dtype) {
  switch (dtype) {
    case DType::f32:
      return 4;
    case DType::f64:
      return 8;
    case DType::bf16:
      return 2;
    case DType::i64:
      return 8;
  }
  fail("dtype", "unknown dtype number {}", static_cast<int>(dtype));
}

std::string_view name_of(DType dtype) {
  switch (dtype) {
    case DType::f32:
      return "f32";
    case DType::f64:
      return "f64";
    case DType::bf16:
      return "bf16";
    case DType::i64:
      return "i64";
  }
  fail("dtype", "unknown dtype number {}", static_cast<int>(dtype));
}

DType dtype_by_name(std::string_view name) {
  for (DType d : {DType::f32, DType::f64, DType::bf16, DType::i64})
    if (name == name_of(d)) return d;
  fail("dtype", "expected f32, f64, bf16 or i64, got '{}'", name);
}

}  // namespace halfstep
