// gradcheck must find wrong rules and say where; so here rules are wrong on purpose.
#include <doctest/doctest.h>

#include <cmath>
#include <limits>

#include "autograd/gradcheck.h"
#include "autograd/ops.h"

using namespace halfstep;

namespace {

const TensorOptions kF64{DType::f64, &cpu_device()};
using In = std::vector<Variable>;

/// x^3 with a rule given by the test.
DifferentiableFunction cube_with(std::function<Variable(const Variable& g, const Variable& x)> rule) {
  return [rule](const In& in) {
    const Variable& x = in[0];
    return record("cube", multiply(multiply(x.value(), x.value()), x.value()), {x},
                  [rule, x = Saved(x)](const Variable& g) -> In { return {rule(g, x.get())}; });
  };
}

Variable points(std::vector<double> v) {
  const int64_t n = static_cast<int64_t>(v.size());
  return Variable(Tensor::from(v, {n}, kF64));
}

}  // namespace

TEST_CASE("a right rule passes, in every mode, and its error is small") {
  const auto f = cube_with([](const Variable& g, const Variable& x) { return g * x * x * 3.0; });
  for (auto mode : {GradcheckMode::full, GradcheckMode::random_direction, GradcheckMode::automatic}) {
    const auto report = gradcheck(f, {points({0.5, -1, 2})}, {.mode = mode});
    CHECK_MESSAGE(report.ok, report.message);
    CHECK(report.worst_error <= 1e-8);
  }
  CHECK(gradgradcheck(f, {points({0.5, -1, 2})}));
}

TEST_CASE("a wrong rule fails and the message names input, element and both values") {
  const auto f = cube_with([](const Variable& g, const Variable& x) {
    Tensor wrong = multiply(multiply(x.value(), x.value()), Tensor::full({3}, 3.0, kF64));
    wrong.slice(0, 1, 2).fill_(2.5);  // should be 3
    return multiply(g, Variable(wrong));
  });
  const auto report = gradcheck(f, {points({0.5, -1, 2})});
  CHECK_FALSE(report.ok);
  CHECK(report.input == 0);
  CHECK(report.element == 1);
  CHECK(report.numeric == doctest::Approx(3));
  CHECK(report.analytic == 2.5);
  CHECK_FALSE(report.kink);
  CHECK(report.message.find("[gradcheck] input 0 element 1, output element 1: numeric 3") == 0);
  CHECK_FALSE(gradcheck(f, {points({0.5, -1, 2})}, {.mode = GradcheckMode::random_direction}));
}

TEST_CASE("a relative error of 1e-5 is found in both modes, whatever the gradient's size") {
  for (double size : {1e-3, 1.0, 1e4}) {
    const auto f = [size](const In& in) {
      const Variable& x = in[0];
      return record("scaled", affine(x.value(), size, 0), {x},
                    [size](const Variable& g) -> In { return {g * (size * (1 + 1e-5))}; });
    };
    if (size >= 1) CHECK_FALSE(gradcheck(f, {points({0.3, 0.7})}, {.mode = GradcheckMode::full}));
    CHECK_FALSE(gradcheck(f, {points({0.3, 0.7})}, {.mode = GradcheckMode::random_direction}));
  }
}

TEST_CASE("a second derivative that is wrong is found by gradgradcheck only") {
  // The first gradient is right, but its own rule treats x^2 as constant.
  const auto f = cube_with([](const Variable& g, const Variable& x) { return g * (x * x).detach() * 3.0; });
  CHECK(gradcheck(f, {points({0.5, -1, 2})}));
  CHECK_FALSE(gradgradcheck(f, {points({0.5, -1, 2})}));
}

TEST_CASE("kinks are recognised") {
  const auto report = gradcheck([](const In& in) { return relu(in[0]); }, {points({1, 0, -1})});
  CHECK_FALSE(report.ok);
  CHECK(report.kink);
  CHECK(report.element == 1);
  CHECK(report.message.find("kink") != std::string::npos);
}

TEST_CASE("NaN never passes") {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const auto f = cube_with([&](const Variable& g, const Variable&) { return g * nan; });
  const auto report = gradcheck(f, {points({0.5})});
  CHECK_FALSE(report.ok);
  CHECK(report.message.find("NaN never passes") != std::string::npos);
  const auto both_nan =
      gradcheck([&](const In& in) { return in[0] * nan; }, {points({0.5})}, {.check_determinism = false});
  CHECK_FALSE(both_nan.ok);
}

TEST_CASE("a function that draws fresh numbers is not deterministic") {
  uint64_t calls = 0;
  const auto report = gradcheck(
      [&](const In& in) {
        return dropout(in[0], 0.5, {1, calls++});
      },
      {points({1, 2, 3, 4, 5, 6, 7, 8})});
  CHECK_FALSE(report.ok);
  CHECK(report.message.find("not deterministic") != std::string::npos);
}

TEST_CASE("an output without history is reported, not passed") {
  const auto report = gradcheck([](const In& in) { return in[0].detach(); }, {points({1})});
  CHECK_FALSE(report.ok);
  CHECK(report.message.find("does not depend on any input") != std::string::npos);
}

TEST_CASE("several inputs, strided and overlapping ones: the failing input is named") {
  const Variable base(random_normal({4, 3}, {3, 0}, 0, kF64));
  const Variable strided(base.value().transpose(0, 1));                    // [3, 4]
  const Variable overlapping(base.value().slice(0, 0, 1).expand({5, 3}));  // stride 0
  CHECK(gradcheck([](const In& in) { return matmul(in[0], in[0] * in[0]); },
                  {Variable(base.value().slice(0, 0, 3))}));
  CHECK(gradcheck([](const In& in) { return matmul(in[1], in[0]); }, {strided, overlapping}));
  const auto report =
      gradcheck([](const In& in) { return matmul(in[1].detach(), in[0]); }, {strided, overlapping});
  CHECK_FALSE(report.ok);
  CHECK(report.input == 1);
}

TEST_CASE("f32 inputs are checked with steps and tolerances of f32") {
  const Variable x(random_uniform({3, 4}, {9, 0}));
  CHECK(gradcheck([](const In& in) { return silu(in[0]); }, {x}));
  CHECK_FALSE(gradcheck([](const In& in) { return silu(in[0]) * in[0].detach(); }, {x}));
}
