// The fused operations written in elementary ones: their specification, their test oracle, and the path that
// second derivatives take. Arguments as in autograd/ops.h.
#pragma once

#include "autograd/variable.h"

namespace halfstep::composed {

Variable softmax(const Variable& x);
Variable group_norm(const Variable& x, const Variable& gain, const Variable& bias, int groups, double eps,
                    Activation activation);
Variable attention(const Variable& q, const Variable& k, const Variable& v, double scale);

}  // namespace halfstep::composed
