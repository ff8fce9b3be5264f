// Checks that the Tensor functions share.
#pragma once

#include <initializer_list>
#include <string_view>

#include "tensor/tensor.h"

namespace halfstep {

/// Throws unless x is defined and of a floating dtype that its device computes in.
void require_floating(const Tensor& x, std::string_view where);
/// Throws unless every operand is floating, of one dtype and on one device.
void require_alike(std::initializer_list<const Tensor*> tensors, std::string_view where);
/// Throws unless x has `rank` axes; `what` says what x is ("an image batch [B, H, W, C]").
void require_rank(const Tensor& x, int rank, std::string_view where, std::string_view what);

inline const Backend& backend_of(const Tensor& x) { return x.device().backend; }

}  // namespace halfstep
