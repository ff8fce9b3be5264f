// How gradcheck words what it found, and what it reads from the pattern of errors. Internal to gradcheck.
#pragma once

#include <string>
#include <vector>

#include "autograd/gradcheck.h"

namespace halfstep::detail {

/// The part of the Jacobian that belongs to one input: d output r / d input c at [r * columns + c]. Outputs
/// of several results follow each other.
struct JacobianBlock {
  int input;
  Shape shape;  ///< of the input
  size_t rows, columns;
  std::vector<double> analytic, numeric;
  std::vector<bool> failing;  ///< mismatches and values that are not finite
  std::vector<bool> ignored;  ///< kinks and others where the numeric value says nothing
};

/// "input 1", or "input 1 'kernel'".
std::string describe_input(int input, const GradcheckOptions& options);

/// Row-major index -> multi-index.
Shape index_of(int64_t element, const Shape& shape);

/// Sentences about blocks that fail: a constant factor, a sign, a detached input, transposed or swapped
/// gradients. Sizes of axes explain factors.
std::vector<std::string> diagnose(const std::vector<JacobianBlock>& blocks,
                                  const std::vector<Shape>& output_shapes, const GradcheckOptions& options);

/// The same from slopes along random directions of one input.
std::vector<std::string> diagnose_directions(int input, const std::vector<double>& analytic,
                                             const std::vector<double>& numeric, const Shape& shape,
                                             const std::vector<Shape>& output_shapes,
                                             const GradcheckOptions& options);

}  // namespace halfstep::detail
