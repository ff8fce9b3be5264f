// Mixed precision: what a network computes in, while its parameters stay as they are.
#pragma once

#include <cstdint>
#include <string_view>

#include "tensor/device.h"

namespace halfstep {

/// f32: everything in the dtype of the parameters. bf16: activations, and the factors of matrix products,
/// convolutions and attention, are bf16; sums, statistics, gains and biases of norms, the loss, the
/// parameters and what an optimiser keeps are f32 (Micikevicius et al. 2018, "Mixed Precision Training").
/// bf16 has the exponents of f32, so gradients do not underflow and the loss is not scaled as for f16
/// (Kalamkar et al. 2019, "A Study of BFLOAT16 for Deep Learning Training").
enum class Precision : uint8_t { f32, bf16 };

/// "f32", "bf16".
std::string_view name_of(Precision precision);
/// Throws Error for another name.
Precision precision_by_name(std::string_view name);
/// Throws Error where the device does not compute in it: bf16 on a GPU of compute capability below 8.0.
void require_precision(Precision precision, const Device& device);

}  // namespace halfstep
