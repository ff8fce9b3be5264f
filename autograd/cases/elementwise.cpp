// Functions of one and two arguments.
#include "autograd/cases/op_cases.h"
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
}  // namespace

std::vector<OpCase> elementwise_cases() {
  return {
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
      {"leaky_relu positive", [](const In& in) { return leaky_relu(in[0], 0.2); }, {{3, 5}}, 0.1, 2},
      {"leaky_relu negative", [](const In& in) { return leaky_relu(in[0], 0.2); }, {{3, 5}}, -2, -0.1},
      unary_case("gelu", gelu, -3, 3),
      unary_case("gelu_tanh", gelu_tanh, -3, 3),
      unary_case("softplus", softplus, -4, 4),
      unary_case("erf", erf, -2, 2),
      unary_case("abs positive", abs, 0.1, 2),
      unary_case("abs negative", abs, -2, -0.1),
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
      {"where",
       [](const In& in) {
         const Tensor condition =
             Tensor::from(std::vector<double>{1, 0, 0, -2, 0, 1}, {2, 3}, in[0].options());
         return where(condition, in[0], in[1]);
       },
       {{2, 3}, {2, 3}}},
      {"where broadcast",
       [](const In& in) {
         const Tensor condition = Tensor::from(std::vector<double>{1, 0, 1}, {3}, in[0].options());
         return where(condition, in[0], in[1]);
       },
       {{4, 1}, {1, 3}}},
      {"dropout",
       [](const In& in) {
         return dropout(in[0], 0.4, {7, 3});
       },
       {{6, 7}}},
  };
}

}  // namespace halfstep
