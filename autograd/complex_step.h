// Derivatives of analytic scalar formulas by the complex step, and checks of slopes against them.
//
// For an analytic f, f(x + i h) = f(x) + i h f'(x) - h^2 f''(x) / 2 - ..., so f'(x) = Im f(x + i h) / h with
// an error of order h^2. Unlike in a difference nothing is subtracted: h may be 1e-200, whose square is 0,
// and the slope is as exact as the formula itself (Squire & Trapp 1998).
//
//   auto f = [](auto x) { return exp(x) / (1 + x * x); };
//   auto slope = [](double x) { return std::exp(x) * (1 - x) * (1 - x) / ((1 + x * x) * (1 + x * x)); };
//   auto report = gradcheck_formula(f, slope, {-1, 0.5, 3});
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "autograd/gradcheck.h"
#include "tensor/backend.h"

namespace halfstep {

/// A complex number for generic formulas. Comparisons look at the real part alone: a formula takes the branch
/// that it takes for real numbers.
struct Complex {
  double re = 0, im = 0;
  constexpr Complex() = default;
  constexpr Complex(double real) : re(real) {}  // implicit: formulas mix in constants
  constexpr Complex(double real, double imaginary) : re(real), im(imaginary) {}
};

constexpr Complex operator+(Complex a, Complex b) { return {a.re + b.re, a.im + b.im}; }
constexpr Complex operator-(Complex a, Complex b) { return {a.re - b.re, a.im - b.im}; }
constexpr Complex operator-(Complex a) { return {-a.re, -a.im}; }
constexpr Complex operator*(Complex a, Complex b) {
  return {a.re * b.re - a.im * b.im, a.re * b.im + a.im * b.re};
}
/// By Smith's method, which neither overflows nor underflows on the way.
constexpr Complex operator/(Complex a, Complex b) {
  const double magnitude_re = b.re < 0 ? -b.re : b.re, magnitude_im = b.im < 0 ? -b.im : b.im;
  if (magnitude_re >= magnitude_im) {
    const double ratio = b.im / b.re, denominator = b.re + b.im * ratio;
    return {(a.re + a.im * ratio) / denominator, (a.im - a.re * ratio) / denominator};
  }
  const double ratio = b.re / b.im, denominator = b.re * ratio + b.im;
  return {(a.re * ratio + a.im) / denominator, (a.im * ratio - a.re) / denominator};
}
constexpr Complex& operator+=(Complex& a, Complex b) { return a = a + b; }
constexpr Complex& operator-=(Complex& a, Complex b) { return a = a - b; }
constexpr Complex& operator*=(Complex& a, Complex b) { return a = a * b; }
constexpr Complex& operator/=(Complex& a, Complex b) { return a = a / b; }
constexpr bool operator<(Complex a, Complex b) { return a.re < b.re; }
constexpr bool operator>(Complex a, Complex b) { return a.re > b.re; }
constexpr bool operator<=(Complex a, Complex b) { return a.re <= b.re; }
constexpr bool operator>=(Complex a, Complex b) { return a.re >= b.re; }
constexpr bool operator==(Complex a, Complex b) { return a.re == b.re; }
constexpr bool operator!=(Complex a, Complex b) { return a.re != b.re; }

/// These continue the real functions of the same names.
inline Complex exp(Complex z) {
  const double e = std::exp(z.re);
  return {e * std::cos(z.im), e * std::sin(z.im)};
}
/// On the real axis: NaN below 0, as for real numbers, not the principal value.
inline Complex log(Complex z) { return {std::log(z.re), std::atan2(z.im, z.re)}; }
inline Complex log1p(Complex z) { return {std::log1p(z.re), std::atan2(z.im, 1 + z.re)}; }
inline Complex expm1(Complex z) { return {std::expm1(z.re), std::exp(z.re) * std::sin(z.im)}; }
inline Complex sin(Complex z) { return {std::sin(z.re) * std::cosh(z.im), std::cos(z.re) * std::sinh(z.im)}; }
inline Complex cos(Complex z) {
  return {std::cos(z.re) * std::cosh(z.im), -std::sin(z.re) * std::sinh(z.im)};
}
inline Complex sinh(Complex z) {
  return {std::sinh(z.re) * std::cos(z.im), std::cosh(z.re) * std::sin(z.im)};
}
inline Complex cosh(Complex z) {
  return {std::cosh(z.re) * std::cos(z.im), std::sinh(z.re) * std::sin(z.im)};
}
inline Complex tan(Complex z) { return sin(z) / cos(z); }
/// tanh(a + i b) = (tanh a + i tan b) / (1 + i tanh a tan b); the imaginary part divided out by hand, because
/// 1 - tanh^2 a = 1 / cosh^2 a loses no digits.
inline Complex tanh(Complex z) {
  const double t = std::tanh(z.re), s = std::tan(z.im), c = std::cosh(z.re), d = 1 + t * t * s * s;
  return {t * (1 + s * s) / d, s / (c * c) / d};
}
/// For a real part above 0.
inline Complex sqrt(Complex z) {
  const double root = std::sqrt(z.re);
  if (!(z.re > 0)) return {root, z.im / (2 * root)};
  const double ratio = z.im / z.re, a = std::sqrt((1 + std::sqrt(1 + ratio * ratio)) / 2);
  return {root * a, root * ratio / (2 * a)};
}
/// 1 / (1 + e^-z), from whichever exponential does not overflow.
inline Complex sigmoid(Complex z) {
  return z.re >= 0 ? Complex(1) / (Complex(1) + exp(-z)) : exp(z) / (Complex(1) + exp(z));
}
inline Complex softplus(Complex z) { return z.re > 0 ? z + log1p(exp(-z)) : log1p(exp(z)); }
/// By polar form. A negative base takes whole exponents, as for real numbers.
inline Complex pow(Complex z, double p) {
  if (z.re < 0) {
    if (p != std::round(p)) return {std::numeric_limits<double>::quiet_NaN(), 0};
    const Complex positive = pow(-z, p);
    return std::fmod(std::abs(p), 2) == 1 ? -positive : positive;
  }
  const double r = std::pow(z.re, p), angle = p * std::atan2(z.im, z.re);
  if (z.re == 0) return {r, p * std::pow(z.re, p - 1) * z.im};
  return {r * std::cos(angle), r * std::sin(angle)};
}
/// To first order in the imaginary part: exact for complex steps, whose squares are 0, and for no other use.
inline Complex erf(Complex z) {
  constexpr double kTwoOverRootPi = 1.1283791670955126;
  return {std::erf(z.re), kTwoOverRootPi * std::exp(-z.re * z.re) * z.im};
}
/// |x| continued from the real axis: z or -z.
inline Complex abs(Complex z) { return z.re < 0 ? -z : z; }

/// Im f(x + i h) / h. f: a generic function of one number, made of the functions above.
template <class Formula>
double complex_step_slope(const Formula& formula, double x) {
  constexpr double kStep = 0x1p-664;  // 1e-200; a power of two, so that dividing by it is exact
  const Complex y = formula(Complex(x, kStep));
  return y.im / kStep;
}

/// Compares slope(x) with the complex step of `formula` at every point. Passes where
/// |complex step - slope| <= relative * |slope| (default: 32 machine epsilons; formulas that lose digits by
/// cancelling need more). In the report, input 0 element k is points[k].
template <class Formula, class SlopeFunction>
GradcheckReport gradcheck_formula(const Formula& formula, const SlopeFunction& slope,
                                  const std::vector<double>& points,
                                  double relative = 32 * std::numeric_limits<double>::epsilon()) {
  GradcheckReport report;
  std::vector<GradcheckEntry> failing;
  GradcheckEntry nearest;
  for (size_t k = 0; k < points.size(); ++k) {
    GradcheckEntry e;
    e.input = 0;
    e.element = static_cast<int64_t>(k);
    e.index = Shape{e.element};
    e.numeric = complex_step_slope(formula, points[k]);
    e.analytic = slope(points[k]);
    e.error = std::abs(e.numeric - e.analytic);
    const double size = std::max(std::abs(e.numeric), std::abs(e.analytic));
    e.tolerance = relative * size;
    ++report.checked;
    ++report.evaluations;
    const double relative_error = e.error == 0 ? 0 : e.error / size;
    if (!std::isnan(report.worst_error) && !(relative_error <= report.worst_error))
      report.worst_error = relative_error;
    if (e.error <= e.tolerance) {
      if (nearest.input < 0 || e.error * nearest.tolerance > nearest.error * e.tolerance) nearest = e;
      continue;
    }
    e.finding = std::isfinite(e.error) ? GradcheckFinding::mismatch : GradcheckFinding::not_finite;
    failing.push_back(e);
  }
  detail::finish_report(report, failing, nearest, "gradcheck_formula", {}, 1);
  return report;
}

/// The dual-number derivative of order `op.derivative` + 1 of an elementwise function (tensor/formulas.h)
/// against the complex step of its derivative of order `op.derivative`. Throws Error above kMaxDerivative
/// - 1. `relative` as for gradcheck_formula.
GradcheckReport complex_step_check(UnaryArgs op, const std::vector<double>& points,
                                   double relative = 32 * std::numeric_limits<double>::epsilon());

}  // namespace halfstep
