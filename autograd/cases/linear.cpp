// Matrix products.
#include "autograd/cases/op_cases.h"
#include "autograd/ops.h"

namespace halfstep {

namespace {
using In = std::vector<Variable>;

}  // namespace

std::vector<OpCase> linear_cases() {
  return {
      {"matmul", [](const In& in) { return matmul(in[0], in[1]); }, {{4, 3}, {3, 5}}},
      {"matmul batched", [](const In& in) { return matmul(in[0], in[1]); }, {{2, 3, 4}, {2, 4, 2}}},
      {"matmul broadcast", [](const In& in) { return matmul(in[0], in[1]); }, {{2, 3, 4}, {4, 2}}},
      {"matmul transposed",
       [](const In& in) { return matmul(transpose(in[0], 0, 1), transpose(in[1], 0, 1)); },
       {{3, 4}, {5, 3}}},
      {"einsum: attention scores",
       [](const In& in) { return einsum("bqhd,bkhd->bhqk", in[0], in[1]); },
       {{2, 3, 2, 4}, {2, 2, 2, 4}}},
      {"einsum: axes of one operand summed, result reordered",
       [](const In& in) { return einsum("abc,dbe->eda", in[0], in[1]); },
       {{2, 3, 2}, {4, 3, 2}}},
      {"einsum: outer product", [](const In& in) { return einsum("i,j->ji", in[0], in[1]); }, {{3}, {4}}},
      {"einsum: one operand", [](const In& in) { return einsum("abc->ca", in[0]); }, {{2, 3, 4}}},
      {"einsum: to a scalar", [](const In& in) { return einsum("ab,ab->", in[0], in[1]); }, {{2, 3}, {2, 3}}},
      {"linear", [](const In& in) { return linear(in[0], in[1], in[2]); }, {{2, 3, 4}, {4, 5}, {5}}},
      {"linear without bias", [](const In& in) { return linear(in[0], in[1]); }, {{3, 4}, {4, 5}}},
  };
}

}  // namespace halfstep
