// Numerical verification of gradients: does a function's backward agree with finite differences of its
// forward?
//
//   auto report = gradcheck([](const std::vector<Variable>& in) { return my_op(in[0], in[1]); }, {x, w});
//   if (!report) std::puts(report.message.c_str());
//
// Central differences in f64 with the step cbrt(eps) * max(1, |x|) have a relative error near 1e-10, so a
// wrong rule stands out by many orders of magnitude. A NaN anywhere fails.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "autograd/variable.h"

namespace halfstep {

/// A function of Variables with one result of any shape.
using DifferentiableFunction = std::function<Variable(const std::vector<Variable>&)>;

/// How much of the Jacobian is compared.
enum class GradcheckMode {
  automatic,         ///< full where (inputs + outputs) is small, else random_direction
  full,              ///< every element of the Jacobian
  random_direction,  ///< per input, the slope of a random projection of the output along random directions
};

/// The defaults suit f64 inputs of ordinary size.
struct GradcheckOptions {
  GradcheckMode mode = GradcheckMode::automatic;
  /// Passes where |numeric - analytic| <= absolute + relative * max(|numeric|, |analytic|). A negative value
  /// takes the default of the inputs' dtype: 1e-6 for f64, 2e-2 for f32.
  double relative = -1, absolute = -1;
  /// Step of the differences; 0: cbrt(machine epsilon) of the dtype, times max(1, |x|).
  double step = 0;
  int directions = 2;  ///< per input, in random_direction mode
  uint64_t seed = 0;
  /// Runs forward and backward twice and asks for equal bits.
  bool check_determinism = true;
};

/// What a check found; true in a condition if the gradients are right.
struct GradcheckReport {
  bool ok = true;
  /// Empty if ok; otherwise which input and element failed with both values, and a hint (a kink, a missing or
  /// non-deterministic gradient).
  std::string message;
  double worst_error = 0;  ///< largest |numeric - analytic| / max(1, |numeric|, |analytic|) seen
  int input = -1;          ///< of the worst (or failing) element
  int64_t element = -1;    ///< row-major index in that input; -1 in random_direction mode
  double numeric = 0, analytic = 0;
  bool kink = false;  ///< the slopes from left and right differ: no gradient exists there
  explicit operator bool() const { return ok; }
};

/// Checks the gradients of `function` with respect to every input that is f32 or f64. Inputs of any layout:
/// the backward runs on them as they are, the differences on contiguous copies. The inputs are not changed.
/// Throws Error only when `function` does.
GradcheckReport gradcheck(const DifferentiableFunction& function, const std::vector<Variable>& inputs,
                          const GradcheckOptions& options = {});

/// The same for the gradient itself: checks d/dx of <r, df/dx>, with r a fixed random upstream gradient that
/// is differentiated too.
GradcheckReport gradgradcheck(const DifferentiableFunction& function, const std::vector<Variable>& inputs,
                              const GradcheckOptions& options = {});

}  // namespace halfstep
