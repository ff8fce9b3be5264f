// The Backend entries of one instruction set. Every kernel source is compiled once per instruction set, in a
// namespace of that name (HALFSTEP_ISA, given by the build).
//
// The linker keeps one copy of an inline function or template that several sources use, and it might keep the
// copy that this machine cannot execute. Kernel sources therefore include nothing but tensor/backend.h (plain
// data and spans), tensor/formulas.h, tensor/philox.h and the headers of this folder (everything inline in a
// namespace of that name), and the C headers; no standard containers or algorithms.
#pragma once

#include "tensor/backend.h"

namespace halfstep::cpu::inline HALFSTEP_ISA {

void fill(Array out, double value);
void copy(Array out, Array in);
void unary(UnaryArgs op, Array out, Array x);
void unary_chain(UnaryArgs op, Array out, Array upstream, Array x);
void binary(BinaryOp op, double p0, Array out, Array a, Array b);
void where(Array out, Array condition, Array a, Array b);
void reduce(ReduceOp op, Array out, Array x);
void cumulative_sum(Array out, Array x, int axis);
void gather(Array out, Array x, Array index, int axis);
void scatter_add(Array out, Array source, Array index, int axis);
void gemm(GemmArgs args);
void conv2d_forward(Conv2dArgs args);
void conv2d_backward_data(Conv2dArgs args);
void conv2d_backward_kernel(Conv2dArgs args);
void softmax(Array y, Array x);
void softmax_backward(Array dx, Array dy, Array y);
void attention(AttentionArgs args);
void attention_backward(AttentionBackwardArgs args);
void group_norm(GroupNormArgs args);
void group_norm_backward(GroupNormBackwardArgs args);
void sum_of_squares(SumOfSquaresArgs args);
void adam(AdamArgs args);
void sgd(SgdArgs args);
void moving_average(MovingAverageArgs args);
void max_pool2d(MaxPool2dArgs args);
void random(RandomArgs args);
void dropout(DropoutArgs args);

/// Replaces the entries of `backend` that this instruction set has kernels for.
void override_entries(Backend& backend);

}  // namespace halfstep::cpu::inline HALFSTEP_ISA
