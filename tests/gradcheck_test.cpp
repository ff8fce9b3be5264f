// gradcheck must find wrong rules and say where; so here rules are wrong on purpose. It must not blame right
// ones either, whatever the scale of their inputs.
#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <sstream>

#include "autograd/cases/op_cases.h"
#include "autograd/gradcheck.h"
#include "autograd/internal/differences.h"
#include "autograd/ops.h"
#include "tests/error_of.h"

using namespace halfstep;
using halfstep::test::error_of;

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

Variable normal(const Shape& shape, uint64_t stream, TensorOptions options = kF64) {
  return Variable(random_normal(shape, {11, stream}, 0, options));
}

/// `f` with gradients that `change` has altered.
DifferentiableFunction with_gradients(DifferentiableFunction f, std::function<In(In)> change) {
  return [f, change](const In& in) {
    In leaves;
    for (const Variable& v : in) leaves.emplace_back(v.value(), true);
    const Variable y = [&] {
      EnableGrad on;
      return f(leaves);
    }();
    return record("changed", y.value(), in,
                  [=](const Variable& g) { return change(grad(y, leaves, g, true)); });
  };
}

bool hints_say(const GradcheckReport& report, const std::string& text) {
  for (const std::string& hint : report.hints)
    if (hint.find(text) != std::string::npos) return true;
  MESSAGE(str(report));
  return false;
}

bool fits_terminal(const std::string& text) {
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);)
    if (line.size() > 80) return false;
  return true;
}

constexpr GradcheckMode kModes[] = {GradcheckMode::full, GradcheckMode::random_direction};

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

TEST_CASE("a relative error of 1e-5 is found in both modes, whatever the scale of input and gradient") {
  for (double x_scale : {1e-6, 1e-3, 1.0, 1e3, 1e6})
    for (double size : {1e-6, 1e-3, 1.0, 1e4, 1e6})
      for (GradcheckMode mode : kModes) {
        CAPTURE(x_scale);
        CAPTURE(size);
        for (double wrong : {0.0, 1e-5}) {
          const auto f = [=](const In& in) {
            const Variable& x = in[0];
            return record("scaled", affine(x.value(), size, 0), {x},
                          [=](const Variable& g) -> In { return {g * (size * (1 + wrong))}; });
          };
          const auto report = gradcheck(f, {points({0.3 * x_scale, 0.7 * x_scale})}, {.mode = mode});
          CHECK_MESSAGE(report.ok == (wrong == 0), str(report));
        }
      }
}

TEST_CASE("one wrong element among many is found, in both modes, and named by both") {
  // Jacobian of 40 x 60 elements of which one is off by a thousandth.
  const Variable x = normal({3, 20}, 0), w = normal({20, 13}, 1);
  const auto f = with_gradients([](const In& in) { return matmul(tanh(in[0]), in[1]); },
                                [](In g) {
                                  Tensor changed = g[0].value().clone();
                                  const Tensor one = changed.slice(0, 2, 3).slice(1, 7, 8);
                                  one.copy_(affine(one, 1.001, 0));
                                  return In{Variable(changed), g[1]};
                                });
  for (GradcheckMode mode : kModes) {
    const auto report = gradcheck(f, {x, w}, {.mode = mode, .input_names = {"x", "kernel"}});
    CHECK_FALSE(report.ok);
    CHECK(report.input == 0);
    CHECK(report.element == 47);
    REQUIRE(!report.worst.empty());
    CHECK(report.worst[0].index == Shape{2, 7});
    CHECK(report.worst[0].finding == GradcheckFinding::mismatch);
    CHECK(report.output_element / 13 == 2);  // row 2 of x meets row 2 of the output only
    CHECK(report.message.find("[gradcheck] input 0 'x' element 47 (2, 7), output element ") == 0);
    CHECK(std::abs(report.analytic / report.numeric - 1.001) <= 1e-6);
    CHECK(fits_terminal(report.message));
    if (mode == GradcheckMode::full) CHECK(report.failed == 13);
  }
}

TEST_CASE("the cost of random directions does not grow with the size") {
  int64_t evaluations[2] = {0, 0};
  for (int large : {0, 1}) {
    const auto report = gradcheck([](const In& in) { return silu(in[0]); }, {normal({large ? 4000 : 4}, 0)},
                                  {.mode = GradcheckMode::random_direction});
    CHECK_MESSAGE(report.ok, report.message);
    CHECK(report.checked == 2);
    CHECK_FALSE(report.full);
    evaluations[large] = report.evaluations;
  }
  CHECK(evaluations[0] == evaluations[1]);
  CHECK(gradcheck([](const In& in) { return silu(in[0]); }, {normal({200}, 0)}).full ==
        false);  // 40000 > 20000
  CHECK(gradcheck([](const In& in) { return silu(in[0]); }, {normal({20}, 0)}).full);
}

TEST_CASE("the worst elements are listed, worst first, and all failures are counted") {
  const auto f = cube_with([](const Variable& g, const Variable& x) {
    return g * x * x * Variable(Tensor::from(std::vector<double>{3, 3.1, 2, 3, 3.01, 3}, {6}, kF64));
  });
  const auto report = gradcheck(f, {points({1, 1, 1, 1, 1, 1})}, {.max_listed = 2});
  CHECK(report.checked == 36);
  CHECK(report.failed == 3);
  REQUIRE(report.worst.size() == 2);
  CHECK(report.worst[0].element == 2);
  CHECK(report.worst[1].element == 1);
  CHECK(report.message.find("3 of 36 elements of the Jacobian fail:") != std::string::npos);
  CHECK(report.worst_error == doctest::Approx(1.0 / 3.1));
  const auto passing = gradcheck([](const In& in) { return exp(in[0]); }, {points({0.5, 1})});
  CHECK(passing.worst.size() == 1);
  CHECK(passing.worst[0].finding == GradcheckFinding::none);
  std::ostringstream text;
  text << passing;
  CHECK(text.str().find("[gradcheck] ok: 4 elements of the Jacobian, worst error ") == 0);
}

TEST_CASE("a second derivative that is wrong is found by gradgradcheck only") {
  // The first gradient is right, but its own rule treats x^2 as constant.
  const auto f = cube_with([](const Variable& g, const Variable& x) { return g * (x * x).detach() * 3.0; });
  CHECK(gradcheck(f, {points({0.5, -1, 2})}));
  CHECK_FALSE(gradgradcheck(f, {points({0.5, -1, 2})}));
}

TEST_CASE("the derivative of any order can be checked") {
  // Right up to the second derivative, and wrong in the third.
  const auto f = cube_with([](const Variable& g, const Variable& x) {
    return g * 3.0 *
           record("square", multiply(x.value(), x.value()), {x},
                  [x = Saved(x)](const Variable& up) -> In { return {up * 2.0 * x.get().detach()}; });
  });
  const auto x = points({0.5, -1, 2});
  CHECK(gradcheck(f, {x}, {.order = 1}));
  CHECK(gradcheck(f, {x}, {.order = 2}));
  const auto report = gradcheck(f, {x}, {.order = 3});
  CHECK_FALSE(report.ok);
  CHECK(report.message.find("[gradcheck of order 3]") == 0);
  for (int order : {1, 2, 3})
    for (GradcheckMode mode : kModes) {
      const auto right = gradcheck([](const In& in) { return sum(silu(in[0]) * exp(in[1])); },
                                   {points({0.5, -1, 2}), points({0.2})}, {.mode = mode, .order = order});
      CHECK_MESSAGE(right.ok, right.message);
    }
  CHECK(error_of([&] { gradcheck(f, {x}, {.order = 0}); }).find("[gradcheck] expected an order") == 0);
}

TEST_CASE("kinks are recognised") {
  const auto report = gradcheck([](const In& in) { return relu(in[0]); }, {points({1, 0, -1})});
  CHECK_FALSE(report.ok);
  CHECK(report.kink);
  CHECK(report.element == 1);
  CHECK(report.failed == 1);
  CHECK(report.message.find("kink there (slope 0 from the left, 1 from the right)") != std::string::npos);
  CHECK(report.worst[0].left == 0);
  CHECK(report.worst[0].right == 1);
  CHECK(report.hints.empty());  // the rule is not blamed
  const auto direction = gradcheck([](const In& in) { return relu(in[0]); }, {points({1, 0, -1})},
                                   {.mode = GradcheckMode::random_direction});
  CHECK_FALSE(direction.ok);
  CHECK(direction.kink);
}

TEST_CASE("kinks may be skipped, but only with a slope between left and right") {
  for (GradcheckMode mode : kModes) {
    const GradcheckOptions skip{.mode = mode, .on_kink = OnKink::skip};
    const auto report = gradcheck([](const In& in) { return relu(in[0]); }, {points({1, 0, -1, 0})}, skip);
    CHECK_MESSAGE(report.ok, report.message);
    CHECK(report.kinks_skipped > 0);
    if (mode == GradcheckMode::full) CHECK(report.kinks_skipped == 2);
    CHECK(str(report).find("kinks skipped") != std::string::npos);
    const auto wrong = [](const In& in) {
      const Variable& x = in[0];
      return record("relu", relu(Variable(x.value())).value(), {x}, [x = Saved(x)](const Variable& g) -> In {
        return {g * Variable(Tensor::from(std::vector<double>{1, 7, 0}, {3}, kF64))};
      });
    };
    CHECK_FALSE(gradcheck(wrong, {points({1, 0, -1})}, skip).ok);
  }
}

TEST_CASE("near a kink the slope of the side counts") {
  for (double distance : {1e-3, 1e-6, 1e-8})
    for (double side : {-1.0, 1.0}) {
      CAPTURE(distance);
      const Variable x = points({1, side * distance});
      const auto right = gradcheck([](const In& in) { return relu(in[0]); }, {x});
      CHECK_MESSAGE(right.ok, right.message);
      const auto wrong = gradcheck([](const In& in) { return relu(-in[0]) * -1.0; }, {x});
      CHECK_MESSAGE(wrong.ok, wrong.message);
      const auto blamed = gradcheck(
          [](const In& in) {
            return record("relu", relu(Variable(in[0].value())).value(), in,
                          [](const Variable& g) -> In { return {g * 0.5}; });
          },
          {x});
      CHECK(blamed.worst[0].finding == GradcheckFinding::mismatch);
    }
}

TEST_CASE("rounding noise and curvature are not taken for kinks") {
  const auto wrong_by_a_tenth = [](DifferentiableFunction f) {
    return with_gradients(f, [](In g) { return In{g[0] * 1.1}; });
  };
  const DifferentiableFunction functions[] = {
      [](const In& in) { return (in[0] + 1e6) - 1e6; },  // noise far above eps |f|
      [](const In& in) { return square(in[0] * 1e4); },  // curvature
      [](const In& in) { return sin(in[0] * 1e5); },     // oscillates within the step
      [](const In& in) { return exp(in[0] * 50.0); },
      [](const In& in) { return sigmoid((in[0] - 1.0) * 1e4); },  // a steep flank
  };
  for (const auto& f : functions) {
    const auto right = gradcheck(f, {points({0.3, 1, -0.7})});
    CHECK_MESSAGE(right.ok, right.message);
    const auto wrong = gradcheck(wrong_by_a_tenth(f), {points({0.3, 1, -0.7})});
    CHECK_FALSE(wrong.ok);
    for (const auto& e : wrong.worst) CHECK(e.finding == GradcheckFinding::mismatch);
  }
}

TEST_CASE("a jump, the edge of a domain and an unreliable difference are named") {
  const auto found = [](const DifferentiableFunction& f, double x) {
    const auto report = gradcheck(f, {points({x})});
    CHECK_FALSE(report.ok);
    REQUIRE(!report.worst.empty());
    CHECK(fits_terminal(report.message));
    return report.worst[0].finding;
  };
  // A step: 1 to the right of 0.5.
  const auto step = [](const In& in) {
    const Variable& x = in[0];
    const Tensor on = binary(BinaryOp::less, Tensor::full(x.shape(), 0.5, kF64), x.value());
    return record("step", on, {x}, [](const Variable& g) -> In { return {g * 0.0}; });
  };
  CHECK(found(step, 0.5) == GradcheckFinding::jump);
  CHECK(gradcheck(step, {points({0.4, 0.6})}).ok);
  CHECK(found([](const In& in) { return sqrt(in[0]); }, 0) == GradcheckFinding::domain_edge);
  CHECK(found([](const In& in) { return pow(in[0], 1.5) + in[0] * 2.0; }, 0) ==
        GradcheckFinding::domain_edge);
  // Noise that is deterministic and large: no step resolves the slope.
  const auto noisy = [](const In& in) {
    const Variable& x = in[0];
    auto v = x.value().to_vector<double>();
    for (double& e : v) e += 1e-3 * std::sin(1e13 * e);
    return record("noisy", Tensor::from(v, x.shape(), kF64), {x},
                  [](const Variable& g) -> In { return {g}; });
  };
  const auto report = gradcheck(noisy, {points({0.33333})});
  CHECK_FALSE(report.ok);
  CHECK(report.worst[0].finding == GradcheckFinding::unreliable);
  CHECK(report.message.find("the difference itself is unreliable") != std::string::npos);
}

TEST_CASE("a jump from which both sides are equally far is named, too") {
  // The gradient of a maximum at a tie: half to each, all to the one that moves ahead.
  const auto report =
      gradgradcheck([](const In& in) { return maximum(in[0], in[1]); }, {points({1}), points({1})});
  CHECK_FALSE(report.ok);
  for (const auto& e : report.worst) CHECK(e.finding == GradcheckFinding::jump);
}

TEST_CASE("a gradient that vanishes may be rounding, but no more than that") {
  // Softmax does not change when all its arguments are shifted.
  const auto shifted = [](const In& in) { return softmax(in[0] + in[1]) * in[2]; };
  for (DType dtype : {DType::f32, DType::f64})
    for (double scale : {1e-3, 1.0})
      for (GradcheckMode mode : kModes)
        for (int order : {1, 2}) {
          const TensorOptions options{dtype, &cpu_device()};
          const In inputs{normal({4, 6}, 0, options), Variable(Tensor::full({1}, scale, options)),
                          normal({4, 6}, 1, options)};
          const auto report = gradcheck(shifted, inputs, {.mode = mode, .order = order});
          CHECK_MESSAGE(report.ok, report.message);
          if (order > 1) continue;
          const auto wrong = gradcheck(with_gradients(shifted,
                                                      [scale](In g) {
                                                        return In{g[0], g[1] + 1e-3 / scale, g[2]};
                                                      }),
                                       inputs, {.mode = mode});
          CHECK_FALSE(wrong.ok);
          CHECK(wrong.input == 1);
        }
}

TEST_CASE("near the edge of the domain small steps are taken") {
  for (double small : {1e-2, 1e-4, 1e-6, 1e-8}) {
    CAPTURE(small);
    for (GradcheckMode mode : kModes)
      for (auto f : {log, sqrt, reciprocal}) {
        const auto report =
            gradcheck([f](const In& in) { return f(in[0]); }, {points({small, 3 * small})}, {.mode = mode});
        CHECK_MESSAGE(report.ok, report.message);
      }
    const auto mixed = gradcheck([](const In& in) { return log(in[0]); }, {points({1, small, 1e3})});
    CHECK_MESSAGE(mixed.ok, mixed.message);
  }
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

TEST_CASE("NaN of the function and NaN of the rule are told apart") {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  for (GradcheckMode mode : kModes) {
    const auto rule = gradcheck(cube_with([&](const Variable& g, const Variable&) { return g * nan; }),
                                {points({0.5})}, {.mode = mode});
    CHECK_FALSE(rule.ok);
    CHECK(rule.worst[0].finding == GradcheckFinding::not_finite);
    CHECK(rule.message.find("the analytic gradient is not finite; NaN never passes") != std::string::npos);
    CHECK(std::isnan(rule.worst_error));
    const auto function = gradcheck([](const In& in) { return log(in[0]); }, {points({-1})}, {.mode = mode});
    CHECK_FALSE(function.ok);
    CHECK(function.message.find("NaN never passes") != std::string::npos);
  }
  const auto some = gradcheck(cube_with([&](const Variable& g, const Variable& x) {
                                Tensor factor = Tensor::full({3}, 3, kF64);
                                factor.slice(0, 1, 2).fill_(nan);
                                return g * x * x * Variable(factor);
                              }),
                              {points({0.5, 1, 2})});
  CHECK(hints_say(some, "is NaN or infinite in 3 of 9 elements"));
  CHECK(some.element == 1);
}

TEST_CASE("a function that draws fresh numbers is not deterministic") {
  uint64_t calls = 0;
  const auto report = gradcheck(
      [&](const In& in) {
        return dropout(in[0], 0.5, {1, calls++});
      },
      {points({1, 2, 3, 4, 5, 6, 7, 8})});
  CHECK_FALSE(report.ok);
  CHECK_FALSE(report.deterministic);
  CHECK(report.message.find("the output differs between two equal calls") != std::string::npos);
  CHECK(report.message.find("not deterministic") != std::string::npos);
}

TEST_CASE("gradients that differ from run to run are told from values that do") {
  double drift = 0;
  const auto f = cube_with(
      [&](const Variable& g, const Variable& x) { return g * x * x * 3.0 * (1 + (drift += 1e-15)); });
  const auto report = gradcheck(f, {points({0.5, 1})}, {.input_names = {"x"}});
  CHECK_FALSE(report.ok);
  CHECK_FALSE(report.deterministic);
  CHECK(report.message.find("the gradient of input 0 'x' differs between two equal backward passes") !=
        std::string::npos);
  CHECK(gradcheck(f, {points({0.5, 1})}, {.check_determinism = false}).ok);  // too small for differences
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

TEST_CASE("f32 gradients are held to differences in f64") {
  const Variable x(random_uniform({3, 4}, {9, 0}));
  const auto right = gradcheck([](const In& in) { return silu(in[0]); }, {x});
  CHECK_MESSAGE(right.ok, right.message);
  CHECK(right.differences == DType::f64);
  CHECK(right.worst_error <= 1e-6);
  CHECK_FALSE(gradcheck([](const In& in) { return silu(in[0]) * in[0].detach(); }, {x}));
  // An error of a thousandth, which differences in f32 cannot see.
  const auto f =
      with_gradients([](const In& in) { return silu(in[0]); }, [](In g) { return In{g[0] * 1.001}; });
  for (GradcheckMode mode : kModes) {
    CHECK_FALSE(gradcheck(f, {x}, {.mode = mode}).ok);
    const auto same = gradcheck(f, {x}, {.mode = mode, .differences = GradcheckDifferences::same});
    CHECK_MESSAGE(same.ok, same.message);
    CHECK(same.differences == DType::f32);
    CHECK_FALSE(gradcheck(with_gradients([](const In& in) { return silu(in[0]); },
                                         [](In g) { return In{g[0] * 1.1}; }),
                          {x}, {.mode = mode, .differences = GradcheckDifferences::same})
                    .ok);
  }
}

TEST_CASE("a function that holds f32 tensors is checked by differences in f32, or says why not") {
  const Variable x(random_uniform({2, 3}, {9, 0})), w(random_uniform({3, 2}, {9, 1}));
  const auto f = [w](const In& in) { return matmul(in[0], w); };
  const auto report = gradcheck(f, {x});
  CHECK_MESSAGE(report.ok, report.message);
  CHECK(report.differences == DType::f32);
  CHECK(error_of([&] { gradcheck(f, {x}, {.differences = GradcheckDifferences::f64}); }) != "");
  // f32 within, unseen from outside but for its result.
  const auto within = gradcheck([](const In& in) { return exp(to(in[0], DType::f32)); }, {points({0.5, 1})});
  CHECK_MESSAGE(within.ok, within.message);
  CHECK(within.differences == DType::f32);
}

TEST_CASE("several results: the failing one is named") {
  const auto halves = [](bool wrong) {
    return [wrong](const In& in) -> In {
      const Variable a = slice(in[0], 0, 0, 2), b = slice(in[0], 0, 2, 4);
      return {square(a), Variable(Tensor::zeros({1}, {DType::i64, &cpu_device()})),
              wrong ? b * b.detach() : square(b), in[1] * 2.0};
    };
  };
  const In inputs{normal({4, 2}, 0), normal({}, 1)};
  for (GradcheckMode mode : kModes) {
    const auto right = gradcheck(halves(false), inputs, {.mode = mode});
    CHECK_MESSAGE(right.ok, right.message);
    CHECK(gradgradcheck(halves(false), inputs, {.mode = mode}).ok);
    const auto report = gradcheck(halves(true), inputs, {.mode = mode});
    CHECK_FALSE(report.ok);
    CHECK(report.output == 2);
    CHECK(report.input == 0);
    CHECK(report.element >= 4);
    CHECK(report.message.find("output 2 element ") != std::string::npos);
  }
  // A result that is cut off from the inputs has gradient 0, which is wrong if it depends on them.
  CHECK_FALSE(gradcheck(
                  [](const In& in) -> In {
                    return {in[0] * 2.0, exp(in[0]).detach()};
                  },
                  {points({1})})
                  .ok);
}

TEST_CASE("inputs without elements, scalars and single elements") {
  const auto empty =
      gradcheck([](const In& in) { return silu(in[0]) * in[1]; }, {normal({0, 3}, 0), normal({3}, 1)});
  CHECK_MESSAGE(empty.ok, empty.message);
  CHECK(empty.checked == 0);
  CHECK(empty.input == -1);
  CHECK(empty.element == -1);
  CHECK(empty.output_element == -1);
  CHECK(gradcheck([](const In& in) { return exp(in[0]) * in[1]; }, {normal({}, 0), normal({1, 1}, 1)}).ok);
  // sum over nothing is 0, and so is every gradient through it.
  CHECK(gradcheck([](const In& in) { return sum(in[0]) + in[1]; }, {normal({0}, 0), normal({}, 1)}).ok);
  const auto invented = gradcheck(
      [](const In& in) {
        return record("invented", Tensor::zeros({0}, kF64), in,
                      [](const Variable&) -> In { return {Variable(Tensor::ones({2}, kF64))}; });
      },
      {points({1, 2})});
  CHECK_FALSE(invented.ok);
  CHECK(invented.message.find("an output without elements, (0,), gives a gradient of 1") !=
        std::string::npos);
  CHECK_FALSE(gradcheck([](const In& in) { return exp(in[0]) * in[0].detach(); }, {normal({}, 0)}).ok);
}

TEST_CASE("inputs are left as they were, and a function that writes into them is reported") {
  const Variable x(random_normal({3, 2}, {3, 0}, 0, kF64).transpose(0, 1), true);
  const Variable marker(Tensor::ones({2, 3}, kF64));
  x.value();
  Variable handle = x;
  handle.set_grad(marker);
  const auto before = x.value().to_vector<double>();
  const uint64_t version = x.value().version();
  {
    NoGrad off;
    CHECK(gradcheck([](const In& in) { return exp(in[0]); }, {x}).ok);
    CHECK_FALSE(is_recording());
  }
  CHECK(is_recording());
  CHECK(x.value().to_vector<double>() == before);
  CHECK(x.value().version() == version);
  CHECK(x.grad().same(marker));
  CHECK(x.requires_grad());
  const auto report = gradcheck(
      [](const In& in) {
        const Variable y = in[0] * 2.0;
        in[0].value().slice(0, 1, 2).fill_(3);
        return y;
      },
      {points({1, 2})}, {.check_determinism = false});
  CHECK_FALSE(report.ok);
  CHECK(report.message.find("writes into input 0 (element 1 was 2)") != std::string::npos);
}

// --- what the pattern of errors suggests -------------------------------------------------------------------

TEST_CASE("hints: factor, sign, detached, missing parts") {
  const Variable x = normal({4, 3}, 0), b = normal({3}, 1);
  const auto biased = [](const In& in) { return tanh(in[0]) + in[1] * in[1]; };
  const auto report_for = [&](std::function<In(In)> change, GradcheckMode mode = GradcheckMode::full) {
    const auto report = gradcheck(with_gradients(biased, change), {x, b}, {.mode = mode});
    CHECK_FALSE(report.ok);
    CHECK_MESSAGE(fits_terminal(report.message), report.message);
    for (const std::string& hint : report.hints)
      CHECK(report.message.find("hint: " + hint.substr(0, 20)) != std::string::npos);
    return report;
  };
  for (GradcheckMode mode : kModes) {
    CHECK(hints_say(report_for(
                        [](In g) {
                          return In{g[0] * 2.0, g[1]};
                        },
                        mode),
                    "input 0 is 2 x the numeric one"));
    CHECK(hints_say(report_for([](In g) { return In{g[0], -g[1]}; }, mode), "input 1 has the opposite sign"));
    CHECK(hints_say(report_for(
                        [](In g) {
                          return In{g[0] * 0.25, g[1]};
                        },
                        mode),
                    "4 is the size of axis 0 of the input"));
    CHECK(hints_say(report_for(
                        [](In g) {
                          return In{g[0], g[1] * 12.0};
                        },
                        mode),
                    "12 is the number of elements of the output"));
    CHECK(hints_say(report_for(
                        [](In g) {
                          return In{g[0], Variable()};
                        },
                        mode),
                    "input 1 is zero everywhere"));
  }
  // The bias is broadcast over 4 rows; the rule takes the first row of the upstream gradient only.
  const auto not_summed = gradcheck(
      [](const In& in) {
        return record("bias", add(in[0].value(), in[1].value()), in, [](const Variable& g) -> In {
          return {g, reshape(slice(g, 0, 0, 1), {3})};
        });
      },
      {x, b});
  CHECK(hints_say(not_summed, "a broadcast axis that is not summed"));
  // A right rule gives no hint.
  CHECK(gradcheck(with_gradients(biased, [](In g) { return g; }), {x, b}).hints.empty());
}

TEST_CASE("hints: transposed and swapped gradients") {
  for (const Shape& shape : {Shape{3, 3}, Shape{2, 4}}) {
    const Variable x = normal(shape, 0);
    const auto transposed =
        gradcheck(with_gradients([](const In& in) { return tanh(in[0]); },
                                 [shape](In g) { return In{reshape(transpose(g[0], 0, 1), shape)}; }),
                  {x});
    CHECK(hints_say(transposed, "input 0 looks transposed: with axes 0 and 1 exchanged"));
  }
  const Variable w = normal({3, 3}, 1);
  const auto wrong_side = gradcheck(
      [w](const In& in) {
        return record("matmul", matmul(in[0].value(), w.value()), in,
                      [w](const Variable& g) -> In { return {matmul(g, w)}; });  // not w^T
      },
      {normal({1, 3}, 0)});
  CHECK(hints_say(wrong_side, "applies the Jacobian where its transpose belongs"));
  const auto swapped = gradcheck(with_gradients([](const In& in) { return divide(in[0], in[1]); },
                                                [](In g) {
                                                  return In{g[1], g[0]};
                                                }),
                                 {normal({4}, 2), points({1, 2, 3, 4})});
  CHECK(hints_say(swapped, "the gradients of input 0 and input 1 look swapped"));
  // It explains both inputs: that each is off by a factor, too, is not said.
  const auto swapped_factors = gradcheck(with_gradients([](const In& in) { return 2 * in[0] + 3 * in[1]; },
                                                        [](In g) {
                                                          return In{g[1], g[0]};
                                                        }),
                                         {normal({4}, 2), normal({4}, 3)});
  CHECK(hints_say(swapped_factors, "look swapped"));
  CHECK(swapped_factors.hints.size() == 1);
}

// --- right rules pass --------------------------------------------------------------------------------------

TEST_CASE("right rules pass at every scale of their inputs") {
  for (double scale : {1e-6, 1e-4, 1e-2, 1.0, 1e2, 1e4, 1e6}) {
    CAPTURE(scale);
    const Variable x(affine(random_uniform({3, 4}, {5, 0}, 0, kF64), scale, 0.5 * scale));
    const Variable y(affine(random_normal({3, 4}, {5, 1}, 0, kF64), scale, 0));
    const std::pair<const char*, DifferentiableFunction> functions[] = {
        {"log", [](const In& in) { return log(in[0]); }},
        {"sqrt", [](const In& in) { return sqrt(in[0]); }},
        {"reciprocal", [](const In& in) { return reciprocal(in[0]); }},
        {"pow", [](const In& in) { return pow(in[0], 2.5); }},
        {"divide", [](const In& in) { return divide(in[1], in[0]); }},
        {"multiply", [](const In& in) { return multiply(in[1], in[0]); }},
        {"tanh", [](const In& in) { return tanh(in[1]); }},
        {"sigmoid", [](const In& in) { return sigmoid(in[1]); }},
        {"silu", [](const In& in) { return silu(in[1]); }},
        {"sin", [](const In& in) { return sin(in[1]); }},
        {"softmax", [](const In& in) { return softmax(in[1]); }},
        {"mse", [](const In& in) { return mse(in[0], in[1]); }},
        {"normalised", [](const In& in) { return in[1] / sqrt(sum(square(in[1]), {-1}, true)); }},
        {"maximum", [](const In& in) { return maximum(in[0], in[1]); }},
    };
    for (const auto& named : functions)
      for (GradcheckMode mode : kModes) {
        CAPTURE(named.first);
        const auto report = gradcheck(named.second, {x, y}, {.mode = mode});
        CHECK_MESSAGE(report.ok, report.message);
      }
  }
}

TEST_CASE("every row of the case table passes with other numbers and other directions") {
  for (const OpCase& c : op_cases())
    for (uint64_t seed : {1, 2, 3}) {
      CAPTURE(c.name);
      CAPTURE(seed);
      const auto inputs = make_inputs(c, c.inputs, kF64, false, seed);
      for (GradcheckMode mode : kModes) {
        if (mode == GradcheckMode::full && seed > 1) continue;  // the costly one
        const auto report =
            gradcheck(c.function, inputs, {.mode = mode, .seed = seed, .on_kink = OnKink::skip});
        CHECK_MESSAGE(report.ok, report.message);
      }
    }
}

// --- the differences themselves ----------------------------------------------------------------------------

TEST_CASE("extrapolated slopes are near machine precision, and their uncertainty is honest") {
  const double eps = std::numeric_limits<double>::epsilon(), h = detail::central_step(eps);
  CHECK(h == std::exp2(-17));
  const std::pair<std::function<double(double)>, std::pair<double, double>> functions[] = {
      {[](double t) { return std::exp(1 + t); }, {std::exp(1.0), std::exp(1.0)}},
      {[](double t) { return std::sin(2 + 30 * t); }, {std::sin(2.0), 30 * std::cos(2.0)}},
      {[](double t) { return std::pow(1 + t, -3); }, {1, -3}},
      {[](double t) { return 5 + 1e-3 * t; }, {5, 1e-3}},
  };
  for (const auto& f : functions) {
    const auto slope = detail::examine_slopes([&](double t) { return std::vector<double>{f.first(t)}; },
                                              {f.second.first}, h, eps, 0)[0];
    CHECK(std::abs(slope.value - f.second.second) <= 3 * slope.uncertainty);
    CHECK(slope.uncertainty <= 1e-10 * std::max(1.0, std::abs(f.second.second)));
    CHECK(slope.kind == detail::SlopeKind::smooth);
  }
}

TEST_CASE("a gradient that jumps at a kink is skipped on demand, and only from the second order on") {
  // At a tie the maximum's slope is shared, which its central difference confirms; the slope itself jumps.
  const auto f = [](const std::vector<Variable>& in) { return max(in[0]); };
  const Variable tied(Tensor::from(std::vector<double>{1, 2, 2}, {3}, {DType::f64, &cpu_device()}));
  CHECK_FALSE(gradgradcheck(f, {tied}));
  const GradcheckReport report = gradgradcheck(f, {tied}, {.on_kink = OnKink::skip});
  CHECK_MESSAGE(report.ok, report.message);
  CHECK(report.kinks_skipped > 0);
  // A function that jumps is wrong in first order, whatever was asked for.
  const auto jump = [](const std::vector<Variable>& in) {
    return in[0] * 2.0 + Variable(less(Tensor::zeros({3}, in[0].options()), in[0].value()));
  };
  const Variable at_jump(Tensor::from(std::vector<double>{0, 1, -1}, {3}, {DType::f64, &cpu_device()}));
  CHECK_FALSE(gradcheck(jump, {at_jump}, {.on_kink = OnKink::skip}));
}
