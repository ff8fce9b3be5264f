// Which method convolutions use: see ConvMethod in tensor/backend.h.
#pragma once

#include <string_view>

#include "tensor/backend.h"

namespace halfstep {

/// "auto", "direct", "winograd".
std::string_view name_of(ConvMethod method);
/// Throws Error for any other name; `where` begins its message.
ConvMethod conv_method_by_name(std::string_view name, std::string_view where);

/// What conv2d and its gradients ask their backend for: HALFSTEP_CONV (by name) or automatic, unless
/// set_conv_method was called. Throws Error when HALFSTEP_CONV is no such name.
ConvMethod conv_method();
void set_conv_method(ConvMethod method);

}  // namespace halfstep
