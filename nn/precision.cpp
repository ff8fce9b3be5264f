#include "nn/precision.h"

#include "tensor/error.h"

namespace halfstep {

std::string_view name_of(Precision precision) {
  switch (precision) {
    case Precision::f32:
      return "f32";
    case Precision::bf16:
      return "bf16";
  }
  fail("precision", "expected f32 or bf16, got {}", static_cast<int>(precision));
}

Precision precision_by_name(std::string_view name) {
  for (const Precision precision : {Precision::f32, Precision::bf16}) {
    if (name_of(precision) == name) return precision;
  }
  fail("precision", "expected f32 or bf16, got \"{}\"", name);
}

void require_precision(Precision precision, const Device& device) {
  if (precision == Precision::bf16) require_bf16(device, "precision");
}

}  // namespace halfstep
