#include "tensor/cpu/kernels.h"

namespace halfstep::cpu::inline HALFSTEP_ISA {

void override_entries(Backend& backend) {
  backend.fill = fill;
  backend.copy = copy;
  backend.unary = unary;
  backend.unary_chain = unary_chain;
  backend.binary = binary;
  backend.where = where;
  backend.reduce = reduce;
  backend.cumulative_sum = cumulative_sum;
  backend.gather = gather;
  backend.scatter_add = scatter_add;
  backend.gemm = gemm;
  backend.conv2d_forward = conv2d_forward;
  backend.conv2d_backward_data = conv2d_backward_data;
  backend.conv2d_backward_kernel = conv2d_backward_kernel;
  backend.softmax = softmax;
  backend.softmax_backward = softmax_backward;
  backend.attention = attention;
  backend.attention_backward = attention_backward;
  backend.group_norm = group_norm;
  backend.group_norm_backward = group_norm_backward;
  backend.sum_of_squares = sum_of_squares;
  backend.adam = adam;
  backend.sgd = sgd;
  backend.moving_average = moving_average;
  backend.max_pool2d = max_pool2d;
  backend.random = random;
  backend.dropout = dropout;
}

}  // namespace halfstep::cpu::inline HALFSTEP_ISA
