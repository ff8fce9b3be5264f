// Numerical verification of gradients: does a function's backward agree with differences of its forward?
//
//   auto report = gradcheck([](const std::vector<Variable>& in) { return my_op(in[0], in[1]); }, {x, w});
//   if (!report) std::puts(report.message.c_str());
//
// Central differences in f64 with a step of cbrt(eps) times the size of the input have a relative error near
// 1e-10, so a wrong rule stands out by many orders of magnitude. Where a first difference and the backward
// disagree, the difference itself is examined over a range of steps before the rule is blamed: kinks, jumps,
// edges of the domain and differences that do not settle are named as such. NaN never passes.
// docs/gradcheck.md has the mathematics and examples; autograd/complex_step.h checks scalar formulas.
#pragma once

#include <cstdint>
#include <functional>
#include <iosfwd>
#include <string>
#include <string_view>
#include <vector>

#include "autograd/functional.h"

namespace halfstep {

/// How much of the Jacobian is compared.
enum class GradcheckMode {
  automatic,  ///< full where inputs x outputs has at most 20000 elements, else random_direction
  full,       ///< every element of the Jacobian
  /// Per input, the slope of a random projection of the outputs along random directions: a few evaluations,
  /// whatever the size. A wrong rule found this way is traced to one element by halving.
  random_direction,
};

/// Where the differences are computed, if an input is f32.
enum class GradcheckDifferences {
  automatic,  ///< in f64; in f32 if the function throws for f64 inputs (it holds f32 tensors of its own)
  f64,        ///< on f64 copies of the inputs
  same,       ///< in the inputs' own dtypes
};

/// What becomes of an element at a kink.
enum class OnKink {
  fail,  ///< no gradient exists at a kink, so it cannot be right
  skip,  ///< passes, and is counted, if the analytic slope lies between those from the left and the right;
         ///< of orders above 1 also where the gradient jumps: a kink of the function, with no second
         ///< derivative
};

/// The defaults suit f64 inputs of ordinary size.
struct GradcheckOptions {
  GradcheckMode mode = GradcheckMode::automatic;
  /// Passes where |numeric - analytic| <= absolute + relative * max(|numeric|, |analytic|).
  /// A negative `relative` takes the default: 1e-6 where all is f64, 1e-4 for f32 gradients beside f64
  /// differences, 2e-2 where the differences are f32 too. A negative `absolute` is derived per element: what
  /// rounding of the function does to a difference, plus 1e-3 * relative (f32: relative) of the largest
  /// element of that input's gradient.
  double relative = -1, absolute = -1;
  /// Step of the differences; 0: cbrt(machine epsilon) times max(|element|, rms of the input).
  double step = 0;
  int directions = 2;  ///< per input, in random_direction mode
  uint64_t seed = 0;   ///< of directions, projections and (order > 1) upstream gradients
  /// Runs forward twice and backward three times and asks for equal bits.
  bool check_determinism = true;
  /// 1: the gradient; n: the n-th derivative, as the gradient of the (n-1)-th along random upstreams.
  int order = 1;
  GradcheckDifferences differences = GradcheckDifferences::automatic;
  OnKink on_kink = OnKink::fail;
  int max_listed = 5;                      ///< elements in GradcheckReport::worst
  std::vector<std::string> input_names{};  ///< for the report; may be shorter than the inputs
};

/// What is wrong with an element.
enum class GradcheckFinding : uint8_t {
  none,         ///< nothing
  mismatch,     ///< the difference is sound and the rule disagrees
  kink,         ///< the slopes from left and right differ, at every step
  jump,         ///< the function itself is discontinuous there
  domain_edge,  ///< the function is finite on one side only
  unreliable,   ///< differences of different steps disagree: neither right nor wrong can be shown
  not_finite,   ///< the function or the analytic gradient is NaN or infinite
};
/// "none", "mismatch", "kink", "jump", "domain edge", "unreliable", "not finite".
std::string_view name_of(GradcheckFinding finding);

/// One element of the Jacobian, or one random direction.
struct GradcheckEntry {
  int input = -1;
  int64_t element =
      -1;          ///< row-major index in that input; -1: a random direction that was not traced further
  Shape index;     ///< the same as a multi-index
  int output = 0;  ///< which result of the function
  int64_t output_element = -1;
  Shape output_index;
  int direction = -1;  ///< number of the random direction that led here; -1 in full mode
  double numeric = 0, analytic = 0, error = 0, tolerance = 0;
  double left = 0, right = 0;  ///< one-sided slopes, where the difference was examined
  GradcheckFinding finding = GradcheckFinding::none;
};

/// What a check found; true in a condition if the gradients are right.
struct GradcheckReport {
  bool ok = true;
  /// Empty if ok; otherwise text for a terminal of 80 columns: the first line names the worst element with
  /// both values, then a table of the worst few, and what the pattern of errors suggests.
  std::string message;
  /// Largest |numeric - analytic|, relative to the largest element of that input's gradient.
  double worst_error = 0;
  /// Of the worst element, as in worst[0].
  int input = -1;
  int64_t element = -1;
  int output = 0;
  int64_t output_element = -1;
  double numeric = 0, analytic = 0;
  bool kink = false;  ///< the worst element is a kink: no gradient exists there

  /// The failing elements, worst first, at most max_listed; if nothing fails, the one nearest to failing.
  std::vector<GradcheckEntry> worst;
  std::vector<std::string> hints;  ///< what the pattern of errors suggests; each is part of message
  int64_t checked = 0;             ///< elements (or directions) compared
  int64_t failed = 0;
  int64_t kinks_skipped = 0;  ///< on_kink = skip
  bool deterministic = true;
  bool full = true;  ///< every element was compared, not random directions
  DType differences = DType::f64;
  int64_t evaluations = 0;  ///< of the function, for differences
  double seconds = 0;
  explicit operator bool() const { return ok; }
};

/// The message, or one line that says what was found right.
std::string str(const GradcheckReport& report);
std::ostream& operator<<(std::ostream& out, const GradcheckReport& report);

/// Checks the gradients of `function` with respect to every input that is f32 or f64; results must not be
/// bf16. Inputs of any layout: the backward runs on them as they are, the differences on contiguous copies.
/// Inputs, their gradients and the recording mode are left as they were; a function that writes into its
/// inputs is reported. Throws Error for options out of range, and when `function` or its rules do.
GradcheckReport gradcheck(const DifferentiableFunction& function, const std::vector<Variable>& inputs,
                          const GradcheckOptions& options = {});
GradcheckReport gradcheck(const MultiFunction& function, const std::vector<Variable>& inputs,
                          const GradcheckOptions& options = {});

/// gradcheck with order 2: checks d/dx of <r, df/dx>, with r a fixed random upstream gradient that is
/// differentiated too.
GradcheckReport gradgradcheck(const DifferentiableFunction& function, const std::vector<Variable>& inputs,
                              const GradcheckOptions& options = {});
GradcheckReport gradgradcheck(const MultiFunction& function, const std::vector<Variable>& inputs,
                              const GradcheckOptions& options = {});

namespace detail {
/// Orders `failing` worst first, keeps the worst few, and writes the message and the facts of worst[0] into
/// the report. `where` stands in brackets at the front.
void finish_report(GradcheckReport& report, std::vector<GradcheckEntry> failing,
                   const GradcheckEntry& nearest, std::string_view where, const GradcheckOptions& options,
                   size_t num_outputs);
}  // namespace detail

}  // namespace halfstep
