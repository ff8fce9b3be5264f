#include "tests/op_cases.h"

#include "autograd/composed.h"
#include "autograd/ops.h"

namespace halfstep {

namespace {

using In = std::vector<Variable>;

OpCase unary_case(std::string name, Variable (*f)(const Variable&), double low, double high) {
  return {std::move(name), [f](const In& in) { return f(in[0]); }, {{3, 5}}, low, high};
}

OpCase binary_case(std::string name, Variable (*f)(const Variable&, const Variable&), Shape a, Shape b,
                   double low = 0.5, double high = 2) {
  return {
      name + " " + str(a) + " " + str(b), [f](const In& in) { return f(in[0], in[1]); }, {a, b}, low, high};
}

OpCase conv_case(std::string name, Shape x, Shape kernel, Conv2dGeometry g, bool bias = true) {
  std::vector<Shape> inputs{x, kernel};
  if (bias) inputs.push_back({kernel[3]});
  return {"conv2d " + name,
          [g, bias](const In& in) { return conv2d(in[0], in[1], bias ? in[2] : Variable(), g); }, inputs};
}

OpCase group_norm_case(std::string name, Shape x, Shape gain, int groups, Activation activation) {
  return {"group_norm " + name,
          [=](const In& in) { return group_norm(in[0], in[1], in[2], groups, 1e-6, activation); },
          {x, gain, gain}};
}

OpCase attention_case(std::string name, Shape q, Shape kv) {
  return {"attention " + name, [](const In& in) { return attention(in[0], in[1], in[2]); }, {q, kv, kv}};
}

std::vector<OpCase> make_cases() {
  std::vector<OpCase> cases{
      unary_case("exp", exp, -2, 2),
      unary_case("log", log, 0.2, 3),
      unary_case("sqrt", sqrt, 0.2, 3),
      unary_case("sin", sin, -3, 3),
      unary_case("cos", cos, -3, 3),
      unary_case("tanh", tanh, -2, 2),
      unary_case("sigmoid", sigmoid, -4, 4),
      unary_case("silu", silu, -4, 4),
      unary_case("relu positive", relu, 0.1, 2),
      unary_case("relu negative", relu, -2, -0.1),
      unary_case("reciprocal", reciprocal, 0.3, 2),
      unary_case("square", square, -2, 2),
      {"pow 1.5", [](const In& in) { return pow(in[0], 1.5); }, {{4, 3}}, 0.2, 2},
      {"affine", [](const In& in) { return affine(in[0], -1.5, 0.25); }, {{4, 3}}},
      {"clamp inside and outside", [](const In& in) { return clamp(in[0], -0.503, 0.497); }, {{40}}},
      {"silu overlapping input", [](const In& in) { return silu(add(in[0], in[0])); }, {{7}}},

      binary_case("add", add, {3, 4}, {3, 4}),
      binary_case("add", add, {2, 1, 4}, {3, 1}),
      binary_case("subtract", subtract, {3, 4}, {4}),
      binary_case("subtract", subtract, {4}, {3, 4}),
      binary_case("multiply", multiply, {3, 4}, {3, 4}),
      binary_case("multiply", multiply, {2, 3, 4, 5}, {2, 1, 1, 1}),
      binary_case("multiply", multiply, {2, 3, 4, 5}, {5}),
      binary_case("multiply", multiply, {}, {3}),
      binary_case("divide", divide, {3, 4}, {3, 1}),
      binary_case("divide", divide, {4}, {3, 4}),
      binary_case("maximum", maximum, {5, 4}, {4}),
      binary_case("minimum", minimum, {5, 4}, {5, 1}),

      {"sum all", [](const In& in) { return sum(in[0]); }, {{2, 3, 4}}},
      {"sum axes 0 2",
       [](const In& in) {
         return sum(in[0], {0, 2});
       },
       {{2, 3, 4}}},
      {"sum axis -1 keep", [](const In& in) { return sum(in[0], {-1}, true); }, {{2, 3, 4}}},
      {"mean axes 1 2 3",
       [](const In& in) {
         return mean(in[0], {1, 2, 3});
       },
       {{2, 3, 4, 5}}},
      {"mse per example",
       [](const In& in) {
         return mse(in[0], in[1], {1, 2});
       },
       {{3, 4, 2}, {3, 4, 2}}},

      {"reshape",
       [](const In& in) {
         return reshape(in[0], {4, -1});
       },
       {{2, 6}}},
      {"transpose then reshape",
       [](const In& in) { return reshape(transpose(in[0], 0, 1), {12}); },
       {{3, 4}}},
      {"permute",
       [](const In& in) {
         return permute(in[0], {2, 0, 1});
       },
       {{2, 3, 4}}},
      {"expand",
       [](const In& in) {
         return expand(in[0], {4, 3, 2});
       },
       {{3, 1}}},
      {"sum_to",
       [](const In& in) {
         return sum_to(in[0], {3, 1});
       },
       {{4, 3, 2}}},
      {"slice", [](const In& in) { return slice(in[0], 1, -3, -1); }, {{2, 5, 2}}},
      {"concat axis -1",
       [](const In& in) {
         return concat({in[0], in[1], in[0]}, -1);
       },
       {{2, 3}, {2, 1}}},
      {"concat axis 0",
       [](const In& in) {
         return concat({in[0], in[1]}, 0);
       },
       {{2, 3}, {4, 3}}},
      {"slices that overlap",
       [](const In& in) { return multiply(slice(in[0], 0, 0, 4), slice(in[0], 0, 2, 6)); },
       {{6, 2}}},

      {"matmul", [](const In& in) { return matmul(in[0], in[1]); }, {{4, 3}, {3, 5}}},
      {"matmul batched", [](const In& in) { return matmul(in[0], in[1]); }, {{2, 3, 4}, {2, 4, 2}}},
      {"matmul broadcast", [](const In& in) { return matmul(in[0], in[1]); }, {{2, 3, 4}, {4, 2}}},
      {"matmul transposed",
       [](const In& in) { return matmul(transpose(in[0], 0, 1), transpose(in[1], 0, 1)); },
       {{3, 4}, {5, 3}}},
      {"linear", [](const In& in) { return linear(in[0], in[1], in[2]); }, {{2, 3, 4}, {4, 5}, {5}}},
      {"linear without bias", [](const In& in) { return linear(in[0], in[1]); }, {{3, 4}, {4, 5}}},

      conv_case("3x3", {2, 5, 4, 3}, {3, 3, 3, 4}, {1, 1, 1, 1, 1, 1}),
      conv_case("1x1", {2, 3, 3, 4}, {1, 1, 4, 2}, {}),
      conv_case("3x3 stride 2, padded after", {1, 6, 6, 2}, {3, 3, 2, 3}, {2, 2, 0, 1, 0, 1}),
      conv_case("3x3 stride 2, odd size", {1, 5, 7, 2}, {3, 3, 2, 2}, {2, 2, 1, 1, 1, 1}, false),
      conv_case("2x3 stride 1x2, lopsided", {1, 4, 7, 1}, {2, 3, 1, 2}, {1, 2, 1, 0, 2, 1}),
      conv_case("one channel in and out", {1, 6, 5, 1}, {3, 3, 1, 1}, {1, 1, 1, 1, 1, 1}, false),

      {"upsample_nearest", [](const In& in) { return upsample_nearest(in[0], 2); }, {{2, 3, 2, 3}}},
      {"average_pool", [](const In& in) { return average_pool(in[0], 2); }, {{2, 4, 6, 3}}},
      {"average_pool odd", [](const In& in) { return average_pool(in[0], 2); }, {{1, 5, 3, 2}}},
      {"space_to_depth", [](const In& in) { return space_to_depth(in[0], 2); }, {{2, 4, 6, 3}}},
      {"depth_to_space", [](const In& in) { return depth_to_space(in[0], 2); }, {{2, 2, 3, 8}}},

      {"softmax", [](const In& in) { return softmax(in[0]); }, {{3, 5}}, -3, 3},
      group_norm_case("", {2, 3, 2, 6}, {6}, 3, Activation::none),
      group_norm_case("silu", {2, 3, 3, 4}, {4}, 2, Activation::silu),
      group_norm_case("silu per example (FiLM)", {3, 2, 2, 4}, {3, 4}, 2, Activation::silu),
      group_norm_case("one channel per group", {2, 5, 4}, {1, 4}, 4, Activation::none),
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
      {"dropout",
       [](const In& in) {
         return dropout(in[0], 0.4, {7, 3});
       },
       {{6, 7}}},
  };
  return cases;
}

}  // namespace

const std::vector<OpCase>& op_cases() {
  static const std::vector<OpCase> cases = make_cases();
  return cases;
}

std::vector<Variable> make_inputs(const OpCase& c, TensorOptions options, bool requires_grad) {
  std::vector<Variable> inputs;
  for (size_t i = 0; i < c.inputs.size(); ++i) {
    const Tensor u = random_uniform(c.inputs[i], {42, i}, 0, {DType::f32, options.device});
    inputs.emplace_back(affine(u, c.high - c.low, c.low).to(options.dtype), requires_grad);
  }
  return inputs;
}

}  // namespace halfstep
