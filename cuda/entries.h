// The entries of the CUDA backend's table; tensor/backend.h says what each does. Arrays lie in device memory,
// and a call returns when its kernels are queued on stream() (cuda/runtime.h).
#pragma once

#include "tensor/backend.h"

namespace halfstep::cuda {

void fill(Array out, double value);
void copy(Array out, Array in);
void unary(UnaryArgs op, Array out, Array x);
void unary_chain(UnaryArgs op, Array out, Array upstream, Array x);
void binary(BinaryOp op, double p0, Array out, Array a, Array b);
void where(Array out, Array condition, Array a, Array b);
void reduce(ReduceOp op, Array out, Array x);
void cumulative_sum(Array out, Array x, int axis);
void argsort(Array out, Array x, int axis, bool descending);
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
void random(RandomArgs args);
void dropout(DropoutArgs args);
void sum_of_squares(SumOfSquaresArgs args);
void optimizer_control(OptimizerControlArgs args);
void adam(AdamArgs args);
void sgd(SgdArgs args);
void moving_average(MovingAverageArgs args);
void max_pool2d(MaxPool2dArgs args);

}  // namespace halfstep::cuda
