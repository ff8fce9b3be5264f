// The case table: every operation with sample inputs. One table drives many checks: values and gradients of
// every backend against the reference, numeric gradients of first and second order, layouts, and (in bench/)
// timings. A new operation is one row in a file of this folder.
#pragma once

#include <string>
#include <vector>

#include "autograd/gradcheck.h"

namespace halfstep {

struct OpCase {
  std::string name;
  DifferentiableFunction function;
  std::vector<Shape> inputs;
  /// Inputs are uniform in [low, high): chosen away from kinks and poles.
  double low = -1, high = 1;
  bool second_order = true;  ///< has gradients of gradients
};

const std::vector<OpCase>& op_cases();

/// Inputs of a case, the same numbers for every dtype (f64 values are those of f32) and device.
std::vector<Variable> make_inputs(const OpCase& c, TensorOptions options, bool requires_grad = false);

}  // namespace halfstep
