// Picking elements by index.
#include "autograd/cases/op_cases.h"
#include "autograd/ops.h"

namespace halfstep {

namespace {
using In = std::vector<Variable>;

/// Indices on the device of `x`.
Tensor indices(const std::vector<int64_t>& values, const Shape& shape, const Variable& x) {
  return Tensor::from(values, shape, {DType::i64, &x.value().device()});
}
}  // namespace

std::vector<OpCase> indexing_cases() {
  return {
      {"gather axis 0, repeated rows",
       [](const In& in) {
         return gather(in[0], 0, indices({3, 0, 3, 1, 3}, {5, 1}, in[0]));
       },
       {{4, 3}}},
      {"gather axis 1, an index for each element",
       [](const In& in) {
         return gather(in[0], 1, indices({0, 2, 1, 1, 3, 3}, {3, 2}, in[0]));
       },
       {{3, 4}}},
      {"gather axis -2",
       [](const In& in) {
         return gather(in[0], -2, indices({2, 0}, {1, 2, 1}, in[0]));
       },
       {{2, 3, 4}}},
      {"scatter_add axis 0",
       [](const In& in) {
         return scatter_add(in[0], 0, indices({1, 4, 1, 0}, {4, 1}, in[0]), 6);
       },
       {{4, 3}}},
      {"scatter_add axis 1, an index for each element",
       [](const In& in) {
         return scatter_add(in[0], 1, indices({0, 2, 1, 1, 2, 2}, {3, 2}, in[0]), 3);
       },
       {{3, 2}}},
      {"embedding",
       [](const In& in) {
         return embedding(in[0], indices({4, 1, 1, 0, 4, 4}, {2, 3}, in[0]));
       },
       {{5, 3}}},
  };
}

}  // namespace halfstep
