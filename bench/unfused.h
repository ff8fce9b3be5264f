// A Backend whose fused entries are compositions of another one's plain entries, as a framework without such
// kernels would run them: to compare launches and memory traffic before and after fusion.
#pragma once

#include "tensor/backend.h"

namespace halfstep::bench {

/// The table of `inner`, but for
///   group_norm           two reductions, and one elementwise call for each operation of the formula
///   group_norm_backward  four reductions and elementwise calls
///   attention            gemm, softmax, gemm, with the scores [B, H, L, S] in memory; the log-sum-exp that the
///                        entry owes takes two more reductions of the scores
///   attention_backward   the scores again, exp, four gemms and softmax_backward
///   softmax_backward     multiply, sum, subtract, multiply
///   gemm, conv2d_forward without bias and residual, which are binary adds
///   unary_chain          the derivative, and a multiply
///   adam                 for each parameter elementwise calls; what the control block says is made into
///                        factors on the device
///   sum_of_squares       for each array a copy in f64, a product and a sum
///   moving_average       for each array elementwise calls
/// Results differ from those of `inner` by rounding. There is one such table in a process: the last call's
/// `inner` counts. Temporary memory is `inner`'s, recycled for the life of the process.
const Backend& unfused(const Backend& inner);

}  // namespace halfstep::bench
