// Products with Jacobians, Jacobians and Hessians: against functions whose derivatives are known by hand, and
// against differences.
#include "autograd/functional.h"

#include <doctest/doctest.h>

#include <cmath>

#include "autograd/gradcheck.h"
#include "autograd/ops.h"
#include "tests/error_of.h"
#include "tests/leaf.h"

using namespace halfstep;
using namespace halfstep::test;

namespace {
using In = std::vector<Variable>;

Variable random(const Shape& shape, uint64_t stream, bool requires_grad = false) {
  return Variable(random_normal(shape, {7, stream}, 0, kF64), requires_grad);
}

/// Largest difference; NaN if there is one.
double distance(const Variable& a, const Variable& b) {
  CHECK(a.shape() == b.shape());
  const auto x = values(a), y = values(b);
  double worst = 0;
  for (size_t i = 0; i < x.size(); ++i)
    if (const double d = std::abs(x[i] - y[i]); !(d <= worst)) worst = d;
  return worst;
}

/// A function without symmetries, of x [2, 3] and w [3, 2], with a result [2, 2].
Variable network(const In& in) { return softmax(tanh(matmul(in[0], in[1]))) + square(slice(in[0], 1, 0, 2)); }
/// The same with two results; the second is a scalar.
In two_results(const In& in) {
  const Variable h = tanh(matmul(in[0], in[1]));
  return {softmax(h), sum(h * slice(in[0], 1, 0, 2))};
}
Variable scalar(const In& in) {
  return sum(exp(0.3 * matmul(in[0], in[1])) * slice(in[0], 1, 1, 3)) + sum(square(in[1]));
}

/// Central differences: their error is h^2 times third derivatives of order 1, and eps / h.
constexpr double kStep = 1e-5, kDifferenceError = 1e-8;

In shifted(const In& in, const In& direction, double t) {
  In result;
  for (size_t i = 0; i < in.size(); ++i) {
    NoGrad no_grad;
    result.push_back(in[i] + direction[i] * t);
  }
  return result;
}
}  // namespace

TEST_CASE("vjp and jvp of a function known by hand") {
  // f(x, y) = (x y, x^2): J = [[y, x], [2 x, 0]]
  const auto f = [](const In& in) { return In{in[0] * in[1], in[0] * in[0]}; };
  const Variable x = constant({3}, {}), y = constant({5}, {});
  const MultiVjpResult back = vjp(f, {x, y}, {constant({10}, {}), constant({1}, {})});
  CHECK(back.outputs[0].item() == 15);
  CHECK(back.outputs[1].item() == 9);
  CHECK(back.gradients[0].item() == 10 * 5 + 1 * 6);
  CHECK(back.gradients[1].item() == 10 * 3);
  const MultiJvpResult forward = jvp(f, {x, y}, {constant({10}, {}), constant({1}, {})});
  CHECK(forward.outputs[0].item() == 15);
  CHECK(forward.tangents[0].item() == 10 * 5 + 1 * 3);
  CHECK(forward.tangents[1].item() == 10 * 6);
  CHECK_FALSE(forward.tangents[0].requires_grad());
  CHECK_FALSE(forward.outputs[0].requires_grad());
  // One output; an undefined upstream gradient is 1 for a scalar, an undefined tangent 0.
  const auto g = [](const In& in) { return in[0] * in[1]; };
  CHECK(vjp(g, {x, y}).gradients[1].item() == 3);
  CHECK(jvp(g, {x, y}, {Variable(), constant({2}, {})}).tangent.item() == 6);
}

TEST_CASE("jvp agrees with differences along the tangent, and vjp is its adjoint") {
  const In in{random({2, 3}, 1), random({3, 2}, 2)}, v{random({2, 3}, 3), random({3, 2}, 4)};
  const MultiJvpResult forward = jvp(two_results, in, v);
  const In plus = two_results(shifted(in, v, kStep)), minus = two_results(shifted(in, v, -kStep));
  for (size_t i = 0; i < 2; ++i)
    CHECK(distance(forward.tangents[i], (plus[i] - minus[i]) * (0.5 / kStep)) <= kDifferenceError);
  const In u{random({2, 2}, 5), random({}, 6)};
  const MultiVjpResult back = vjp(two_results, in, u);
  double left = 0, right = 0;
  for (size_t i = 0; i < 2; ++i) {
    left += sum(u[i] * forward.tangents[i]).item();
    right += sum(back.gradients[i] * v[i]).item();
  }
  CHECK(left == doctest::Approx(right).epsilon(1e-12));
  for (size_t i = 0; i < 2; ++i) CHECK(distance(back.outputs[i], two_results(in)[i]) == 0);
}

TEST_CASE("with create_graph the products can be differentiated") {
  const In in{random({2, 3}, 1), random({3, 2}, 2)};
  const Variable u = random({2, 2}, 3), dx = random({2, 3}, 4), dw = random({3, 2}, 5);
  // With respect to the inputs, the tangents and the upstream gradient.
  const auto tangent = [](const In& all) {
    return jvp(network, {all[0], all[1]}, {all[2], all[3]}, /*create_graph=*/true).tangent;
  };
  auto report = gradcheck(tangent, {in[0], in[1], dx, dw});
  CHECK_MESSAGE(report.ok, report.message);
  const auto gradient = [](const In& all) {
    return vjp(network, {all[0], all[1]}, all[2], /*create_graph=*/true).gradients[1];
  };
  report = gradcheck(gradient, {in[0], in[1], u});
  CHECK_MESSAGE(report.ok, report.message);
  // And with respect to what the function captured.
  const Variable scale = leaf({3}, {});
  const auto f = [&](const In& x) { return x[0] * x[0] * scale; };
  const auto y = jvp(f, {constant({2}, {})}, {constant({1}, {})}, true);
  CHECK(y.tangent.item() == 12);
  CHECK(grad(y.tangent, {scale})[0].item() == 4);
}

TEST_CASE("inputs count as independent, whatever they were computed from") {
  const Variable x = leaf({3}, {});
  const auto f = [](const In& in) { return in[0] * in[1]; };
  for (bool create_graph : {false, true}) {
    CAPTURE(create_graph);
    const auto partial = vjp(f, {x, x * 2.0}, {}, create_graph).gradients;
    CHECK(partial[0].item() == 6);
    CHECK(partial[1].item() == 3);
    const auto same = vjp(f, {x, x}, {}, create_graph).gradients;
    CHECK(same[0].item() == 3);
    CHECK(jvp(f, {x, x}, {constant({1}, {}), {}}, create_graph).tangent.item() == 3);
  }
  // What comes out with a history is connected to x all the same: d/dx of d(a b)/da at b = 2 x.
  const Variable b = vjp(f, {x, x * 2.0}, {}, true).gradients[0];
  CHECK(grad(b, {x})[0].item() == 2);
  CHECK_FALSE(x.grad().defined());
}

TEST_CASE("outputs or inputs without a path give zeros, integers nothing") {
  const Variable x = constant({1, 2}, {2}), y = constant({3}, {});
  const Variable labels(Tensor::zeros({2}, {DType::i64, &cpu_device()}));
  const auto f = [](const In& in) { return In{in[0] * 2.0, constant({7}, {})}; };
  const auto back = vjp(f, {x, y, labels}, {constant({1, 1}, {2}), constant({1}, {})});
  CHECK(values(back.gradients[0]) == std::vector<double>{2, 2});
  CHECK(values(back.gradients[1]) == std::vector<double>{0});
  CHECK_FALSE(back.gradients[2].defined());
  const auto forward = jvp(f, {x, y, labels}, {constant({1, 5}, {2}), {}, {}});
  CHECK(values(forward.tangents[0]) == std::vector<double>{2, 10});
  CHECK(values(forward.tangents[1]) == std::vector<double>{0});
  const auto fixed = [](const In&) { return constant({1}, {}); };
  CHECK(values(vjp(fixed, {x}).gradients[0]) == std::vector<double>{0, 0});
  CHECK(values(jacobian(fixed, {x})[0]) == std::vector<double>{0, 0});
  const auto linear_function = [](const In& in) { return sum(in[0] * 3.0); };
  CHECK(values(hessian(linear_function, {x})[0][0]) == std::vector<double>{0, 0, 0, 0});
  CHECK(values(hvp(linear_function, {x}, {x}).products[0]) == std::vector<double>{0, 0});
}

TEST_CASE("jacobian has the output's axes, then the input's") {
  const Variable x = random({2, 3}, 1), w = random({3, 2}, 2);
  const auto j = jacobian(network, {x, w});
  REQUIRE(j[0].shape() == Shape{2, 2, 2, 3});
  REQUIRE(j[1].shape() == Shape{2, 2, 3, 2});
  // Column by column against differences.
  for (size_t i = 0; i < 2; ++i) {
    const In in{x, w};
    const int64_t n = in[i].numel();
    const Variable columns = reshape(j[i], {4, n});
    for (int64_t c = 0; c < n; ++c) {
      In direction{Variable(Tensor::zeros(x.shape(), kF64)), Variable(Tensor::zeros(w.shape(), kF64))};
      direction[i].value().reshape({n}).slice(0, c, c + 1).fill_(1);
      const Variable difference =
          (network(shifted(in, direction, kStep)) - network(shifted(in, direction, -kStep))) * (0.5 / kStep);
      CHECK(distance(reshape(slice(columns, 1, c, c + 1), {2, 2}), difference) <= kDifferenceError);
    }
  }
  // By hand: y = (a b, a, b^2) at (2, 5).
  const auto f = [](const In& in) {
    const Variable a = slice(in[0], 0, 0, 1), b = slice(in[0], 0, 1, 2);
    return concat({a * b, a, b * b}, 0);
  };
  CHECK(values(jacobian(f, {constant({2, 5}, {2})})[0]) == std::vector<double>{5, 2, 1, 0, 0, 10});
  // Empty inputs and outputs have empty Jacobians.
  const Variable none(Tensor::zeros({0}, kF64));
  CHECK(jacobian([](const In& in) { return in[0] * 2.0; }, {none})[0].shape() == Shape{0, 0});
}

TEST_CASE("hessian and its products") {
  const In in{random({2, 3}, 1), random({3, 2}, 2)}, v{random({2, 3}, 3), random({3, 2}, 4)};
  const auto h = hessian(scalar, in);
  REQUIRE(h[0][1].shape() == Shape{2, 3, 3, 2});
  REQUIRE(h[1][0].shape() == Shape{3, 2, 2, 3});
  // Symmetric.
  CHECK(distance(reshape(h[0][1], {6, 6}), transpose(reshape(h[1][0], {6, 6}), 0, 1)) <= 1e-13);
  // Times a vector: as hvp, and as the difference of gradients.
  const HvpResult product = hvp(scalar, in, v);
  const auto plus = vjp(scalar, shifted(in, v, kStep)).gradients;
  const auto minus = vjp(scalar, shifted(in, v, -kStep)).gradients;
  for (size_t i = 0; i < 2; ++i) {
    CHECK(distance(product.products[i], (plus[i] - minus[i]) * (0.5 / kStep)) <= 10 * kDifferenceError);
    Variable rows = constant(std::vector<double>(6, 0.0), {6, 1});
    for (size_t j = 0; j < 2; ++j) rows = rows + matmul(reshape(h[i][j], {6, 6}), reshape(v[j], {6, 1}));
    CHECK(distance(reshape(rows, in[i].shape()), product.products[i]) <= 1e-12);
    CHECK(distance(product.gradients[i], vjp(scalar, in).gradients[i]) <= 1e-14);
  }
  CHECK(product.output.item() == scalar(in).item());
  // By hand: a^2 b at (2, 5) has [[2 b, 2 a], [2 a, 0]].
  const auto f = [](const In& x) { return x[0] * x[0] * x[1]; };
  const In point{constant({2}, {}), constant({5}, {})};
  const auto known = hessian(f, point);
  CHECK(known[0][0].item() == 10);
  CHECK(known[0][1].item() == 4);
  CHECK(known[1][0].item() == 4);
  CHECK(known[1][1].item() == 0);
}

TEST_CASE("third derivatives: jacobian, hessian and hvp with create_graph") {
  const Variable x = leaf({2}, {});
  const auto f = [](const In& in) { return in[0] * in[0] * in[0] * in[0]; };
  CHECK(grad(jacobian(f, {x}, true)[0], {x})[0].item() == 12 * 4);
  CHECK(grad(hessian(f, {x}, true)[0][0], {x})[0].item() == 24 * 2);
  CHECK(grad(hvp(f, {x}, {constant({1}, {})}, true).products[0], {x})[0].item() == 24 * 2);
  CHECK_FALSE(hessian(f, {x})[0][0].requires_grad());
  const Variable constant_jacobian = jacobian(f, {x})[0];
  CHECK_FALSE(constant_jacobian.requires_grad());
}

TEST_CASE("derivatives are taken also where the caller has switched recording off") {
  NoGrad no_grad;
  const auto f = [](const In& in) { return in[0] * in[0]; };
  CHECK(vjp(f, {constant({3}, {})}).gradients[0].item() == 6);
  CHECK(jvp(f, {constant({3}, {})}, {constant({2}, {})}).tangent.item() == 12);
}

TEST_CASE("misuse is explained") {
  const auto f = [](const In& in) { return in[0] * 2.0; };
  const auto two = [](const In& in) { return In{in[0] * 2.0, in[0]}; };
  const Variable x = constant({1, 2}, {2});
  CHECK(error_of([&] { vjp(f, {x}); }) ==
        "[vjp] expected an upstream gradient of shape (2,) for output 0, got none");
  CHECK(error_of([&] { vjp(f, {x}, constant({1}, {})); }) ==
        "[vjp] expected an upstream gradient of shape (2,) for output 0, got ()");
  CHECK(error_of([&] { vjp(two, {x}, {x}); }) ==
        "[vjp] expected one upstream gradient per output, 2 in all, got 1");
  CHECK(error_of([&] {
          vjp(f, {x, Variable()}, x);
        }) == "[vjp] expected variables, got an undefined one as input 1");
  CHECK(error_of([&] { vjp([](const In&) { return Variable(); }, {x}, x); }) ==
        "[vjp] the function returned an undefined variable as output 0");
  CHECK(error_of([&] { jvp(f, {x}, {}); }) == "[jvp] expected one tangent per input, 1 in all, got 0");
  CHECK(error_of([&] { jvp(f, {x}, {constant({1}, {1})}); }) ==
        "[jvp] expected a tangent of shape (2,) and f64 for input 0, got (1,) and f64");
  CHECK(error_of([&] { hvp(f, {x}, {x}); }) ==
        "[hvp] expected a function with a scalar result, got shape (2,)");
  CHECK(error_of([&] { hessian(f, {x}); }) ==
        "[hessian] expected a function with a scalar result, got shape (2,)");
  const Variable deep = constant({1}, {1, 1, 1, 1, 1});
  CHECK(error_of([&] { jacobian(f, {deep}); }) ==
        "[jacobian] expected at most 8 axes in all, got output (1, 1, 1, 1, 1) and input (1, 1, 1, 1, 1); "
        "reshape one of them");
}
