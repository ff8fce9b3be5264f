// Normalisation and attention.
#include "autograd/cases/op_cases.h"
#include "autograd/ops.h"

namespace halfstep {

namespace {
using In = std::vector<Variable>;

OpCase group_norm_case(std::string name, Shape x, Shape gain, int groups, Activation activation) {
  return {"group_norm " + name,
          [=](const In& in) { return group_norm(in[0], in[1], in[2], groups, 1e-6, activation); },
          {x, gain, gain}};
}

OpCase cross_entropy_case(std::string name, Reduction reduction) {
  return {"cross_entropy " + name,
          [reduction](const In& in) {
            const Tensor labels = Tensor::from(std::vector<int64_t>{4, 0, 2, 2, 1, 3}, {2, 3},
                                               {DType::i64, &in[0].value().device()});
            return cross_entropy(in[0], labels, reduction);
          },
          {{2, 3, 5}},
          -3,
          3};
}

OpCase attention_case(std::string name, Shape q, Shape kv) {
  return {"attention " + name, [](const In& in) { return attention(in[0], in[1], in[2]); }, {q, kv, kv}};
}
}  // namespace

std::vector<OpCase> norm_cases() {
  return {
      {"softmax", [](const In& in) { return softmax(in[0]); }, {{3, 5}}, -3, 3},
      {"softmax axis 0", [](const In& in) { return softmax(in[0], 0); }, {{3, 5}}, -3, 3},
      {"log_softmax", [](const In& in) { return log_softmax(in[0]); }, {{3, 5}}, -3, 3},
      {"log_softmax axis 1", [](const In& in) { return log_softmax(in[0], 1); }, {{2, 3, 4}}, -3, 3},
      cross_entropy_case("mean", Reduction::mean),
      cross_entropy_case("sum", Reduction::sum),
      cross_entropy_case("none", Reduction::none),
      group_norm_case("", {2, 3, 2, 6}, {6}, 3, Activation::none),
      group_norm_case("silu", {2, 3, 3, 4}, {4}, 2, Activation::silu),
      group_norm_case("silu per example (FiLM)", {3, 2, 2, 4}, {3, 4}, 2, Activation::silu),
      group_norm_case("one channel per group", {2, 5, 4}, {1, 4}, 4, Activation::none),
      {"layer_norm", [](const In& in) { return layer_norm(in[0], in[1], in[2]); }, {{2, 3, 5}, {5}, {5}}},
      {"layer_norm of one axis, no gain and bias",
       [](const In& in) { return layer_norm(in[0], {}, {}); },
       {{6}}},
      {"layer_norm without bias",
       [](const In& in) { return layer_norm(in[0], in[1], {}, 1e-2); },
       {{4, 3}, {3}}},
      {"instance_norm",
       [](const In& in) { return instance_norm(in[0], in[1], in[2]); },
       {{2, 3, 2, 3}, {3}, {3}}},
      {"instance_norm without gain and bias",
       [](const In& in) { return instance_norm(in[0], {}, {}); },
       {{2, 5, 2}}},
      attention_case("two heads", {2, 5, 2, 3}, {2, 5, 2, 3}),
      attention_case("other number of keys", {1, 3, 1, 4}, {1, 6, 1, 4}),
      attention_case("one key", {1, 2, 1, 3}, {1, 1, 1, 3}),
      {"attention on strided heads",
       [](const In& in) {
         const Variable qkv = reshape(in[0], {2, 4, 3, 2, 3});
         const auto part = [&](int i) { return reshape(slice(qkv, 2, i, i + 1), {2, 4, 2, 3}); };
         return attention(part(0), part(1), part(2));
       },
       {{2, 4, 18}}},
  };
}

}  // namespace halfstep
