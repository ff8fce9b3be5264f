// The complex step, and with it every elementwise formula's derivatives of every order.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <limits>

#include "autograd/complex_step.h"
#include "tensor/ops.h"
#include "tests/error_of.h"

using namespace halfstep;
using halfstep::test::error_of;

namespace {

/// Points over a function's domain, without its kinks.
std::vector<double> spread(double low, double high) {
  std::vector<double> points;
  for (int k = 0; k < 41; ++k) points.push_back(low + (high - low) * (k + 0.37) / 41);
  return points;
}

}  // namespace

TEST_CASE("the complex step of each function is its derivative") {
  const auto check = [](auto formula, auto slope, double low, double high) {
    const GradcheckReport report = gradcheck_formula(formula, slope, spread(low, high));
    CHECK_MESSAGE(report.ok, report.message);
    CHECK(report.checked == 41);
  };
  const double pi_factor = 1.1283791670955126;
  check([](auto x) { return exp(x); }, [](double x) { return std::exp(x); }, -5, 5);
  check([](auto x) { return log(x); }, [](double x) { return 1 / x; }, 1e-6, 5);
  check([](auto x) { return log1p(x); }, [](double x) { return 1 / (1 + x); }, -0.9, 5);
  check([](auto x) { return expm1(x); }, [](double x) { return std::exp(x); }, -5, 5);
  check([](auto x) { return sqrt(x); }, [](double x) { return 0.5 / std::sqrt(x); }, 1e-6, 5);
  check([](auto x) { return sin(x); }, [](double x) { return std::cos(x); }, -5, 5);
  check([](auto x) { return cos(x); }, [](double x) { return -std::sin(x); }, -5, 5);
  check([](auto x) { return tan(x); }, [](double x) { return 1 / (std::cos(x) * std::cos(x)); }, -1.5, 1.5);
  check([](auto x) { return sinh(x); }, [](double x) { return std::cosh(x); }, -5, 5);
  check([](auto x) { return cosh(x); }, [](double x) { return std::sinh(x); }, -5, 5);
  check([](auto x) { return tanh(x); }, [](double x) { return 1 / (std::cosh(x) * std::cosh(x)); }, -9, 9);
  check([=](auto x) { return erf(x); }, [=](double x) { return pi_factor * std::exp(-x * x); }, -3, 3);
  check([](auto x) { return softplus(x); }, [](double x) { return 1 / (1 + std::exp(-x)); }, -30, 30);
  check([](auto x) { return pow(x, -1.5); }, [](double x) { return -1.5 * std::pow(x, -2.5); }, 0.1, 5);
  check([](auto x) { return pow(x, 3); }, [](double x) { return 3 * x * x; }, -2, 2);
  check([](auto x) { return abs(x); }, [](double x) { return x < 0 ? -1.0 : 1.0; }, -2, 2);
  check([](auto x) { return (1 + x * x) / (x - 7) * -x; },
        [](double x) { return -(2 * x * x * x - 21 * x * x - 7) / ((x - 7) * (x - 7)); }, -3, 0.2);
}

TEST_CASE("a slope that is wrong by 1e-13 is found, and NaN never passes") {
  const auto formula = [](auto x) { return exp(x); };
  const auto report = gradcheck_formula(
      formula, [](double x) { return std::exp(x) * (x > 1 ? 1 + 1e-13 : 1); }, {0.5, 2, 0.25});
  CHECK_FALSE(report.ok);
  CHECK(report.element == 1);
  CHECK(report.failed == 1);
  CHECK(report.message.find("[gradcheck_formula] input 0 element 1:") == 0);
  CHECK_FALSE(gradcheck_formula(formula, [](double) { return std::nan(""); }, {0.5}).ok);
  CHECK_FALSE(gradcheck_formula([](auto x) { return log(x); }, [](double x) { return 1 / x; }, {-1.0}).ok);
  CHECK(gradcheck_formula(
            formula, [](double x) { return std::exp(x) * (1 + 1e-13); }, {0.5}, 1e-12)
            .ok);
}

TEST_CASE("division by complex numbers is accurate and does not overflow") {
  const Complex q = Complex(1e300, 1e300) / Complex(1e300, 2e300);
  CHECK(q.re == doctest::Approx(0.6));
  CHECK(q.im == doctest::Approx(-0.2));
  const Complex p = Complex(3, -2) * Complex(2, 5) / Complex(2, 5);
  CHECK(p.re == doctest::Approx(3));
  CHECK(p.im == doctest::Approx(-2));
}

TEST_CASE("dual-number derivatives of every elementwise function equal the complex step, to order 3") {
  struct Row {
    UnaryArgs op;
    double low, high;
  };
  const Row rows[] = {
      {{.op = UnaryOp::affine, .p0 = -1.5, .p1 = 0.25}, -3, 3},
      {{.op = UnaryOp::exp}, -5, 5},
      {{.op = UnaryOp::log}, 1e-4, 5},
      {{.op = UnaryOp::sqrt}, 1e-4, 5},
      {{.op = UnaryOp::sin}, -5, 5},
      {{.op = UnaryOp::cos}, -5, 5},
      {{.op = UnaryOp::tanh}, -1.5, 1.5},  // beyond, 1 - tanh^2 cancels
      {{.op = UnaryOp::sigmoid}, -9, 9},
      {{.op = UnaryOp::silu}, -9, 9},
      {{.op = UnaryOp::relu}, -3, 3},
      {{.op = UnaryOp::reciprocal}, 0.01, 5},
      {{.op = UnaryOp::pow, .p0 = 1.5}, 0.01, 5},
      {{.op = UnaryOp::pow, .p0 = -2}, -5, -0.01},
      {{.op = UnaryOp::clamp, .p0 = -0.5, .p1 = 0.75}, -3, 3},
  };
  std::vector<Row> all(std::begin(rows), std::end(rows));
  for (int k = 0; name_of(static_cast<UnaryOp>(k)) != "unary"; ++k) {  // functions without a row of their own
    const auto op = static_cast<UnaryOp>(k);
    if (std::none_of(all.begin(), all.end(), [&](const Row& row) { return row.op.op == op; }))
      all.push_back({{.op = op, .p0 = 0.3, .p1 = 2}, 0.2, 1.5});
  }
  CHECK(all.size() >= 14);
  for (const Row& row : all)
    for (int derivative = 0; derivative < kMaxDerivative; ++derivative) {
      UnaryArgs op = row.op;
      op.derivative = derivative;
      CAPTURE(name_of(op.op));
      CAPTURE(derivative);
      // Higher derivatives are sums of terms that cancel near their zeros; there the error is relative to the
      // terms.
      const double relative = derivative == 0 ? 4e-15 : 2e-12;
      const auto report = complex_step_check(op, spread(row.low, row.high), relative);
      CHECK_MESSAGE(report.ok, report.message);
    }
  CHECK(error_of([] {
          complex_step_check({.op = UnaryOp::exp, .derivative = 3}, {1.0});
        }).find("[complex_step_check] expected a derivative of 0 to 2, got 3") == 0);
}
