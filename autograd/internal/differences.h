// Numeric slopes: what finite differences can say about a function of one number, and how far to believe it.
// For gradcheck.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

namespace halfstep::detail {

/// t -> all outputs, as f64. t = 0 is the point of interest.
using LineFunction = std::function<std::vector<double>(double t)>;

/// What the one-sided slopes look like as the step shrinks.
enum class SlopeKind : uint8_t { smooth, kink, jump, left_only, right_only, not_finite };

struct Slope {
  double value = 0;        ///< the best estimate
  double uncertainty = 0;  ///< of value: how far estimates of neighbouring steps lie apart
  double step = 0;         ///< the smallest that value was made from
  double left = 0, right = 0;
  SlopeKind kind = SlopeKind::smooth;
  std::vector<double> differences{};  ///< the plain central ones, of all steps
};

/// cbrt(eps) rounded to a power of two, which balances the truncation error h^2 f'''/6 of a central
/// difference against its rounding error eps f / h. Steps are powers of two so that x + h and x - h are
/// exact.
double central_step(double eps);
/// The power of two nearest to x > 0.
double power_of_two_near(double x);

/// (f(h) - f(-h)) / 2h for every output.
std::vector<double> central_difference(const LineFunction& f, double h);

/// Slopes of every output at t = 0 from differences with steps from 4^5 h down to 4^-8 h, extrapolated to
/// step 0 (Ridders: Richardson extrapolation, stopped where estimates are closest). `at`: f(0). `eps`:
/// relative rounding error of f. `smallest`: no step below this.
std::vector<Slope> examine_slopes(const LineFunction& f, const std::vector<double>& at, double h, double eps,
                                  double smallest);

}  // namespace halfstep::detail
