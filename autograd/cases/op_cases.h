// The case table: every operation with sample inputs. One table drives many checks: values and gradients of
// every backend against the reference, numeric gradients of first and second order, layouts, sizes, and (in
// bench/) timings. A new operation is one row in a file of this folder.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "autograd/gradcheck.h"

namespace halfstep {

struct OpCase {
  /// Begins with the operation's name in autograd/ops.h: "conv2d 3x3 stride 2".
  std::string name;
  DifferentiableFunction function;
  std::vector<Shape> inputs;
  /// Inputs are uniform in [low, high): chosen away from kinks and poles.
  double low = -1, high = 1;
  bool second_order = true;  ///< has gradients of gradients
  /// Inputs of other shapes, for comparing backends: sizes around vector widths, threads' shares, blocks. If
  /// empty they are derived from `inputs`, see larger_inputs.
  std::vector<std::vector<Shape>> larger = {};
  /// How many rounded terms one element of a result or gradient sums, for tolerances; 0: as many as the
  /// largest input or result has elements, which no single sum exceeds.
  int64_t terms = 0;
  /// Input shapes without elements that must work. Others may, or end in an Error of the operation.
  std::vector<std::vector<Shape>> empty = {};
};

const std::vector<OpCase>& op_cases();

/// The operation that a row is about: the identifier at the front of its name.
std::string op_of(const OpCase& c);

/// Inputs of a case, the same numbers for every dtype (f64 values are those of f32) and device.
std::vector<Variable> make_inputs(const OpCase& c, TensorOptions options, bool requires_grad = false);
/// The same with other shapes or another seed (the table's own is 42).
std::vector<Variable> make_inputs(const OpCase& c, const std::vector<Shape>& shapes, TensorOptions options,
                                  bool requires_grad, uint64_t seed = 42);

/// `c.larger`, or shapes made of `c.inputs` by changing each size n > 1 into 8n + 1, 8n - 1, n + 8 and 3n:
/// equal sizes stay equal and broadcasts stay broadcasts, so most functions take them. Those with more than
/// 20000 elements, and those that the function refuses, are left out.
std::vector<std::vector<Shape>> larger_inputs(const OpCase& c);

/// How a tensor lies in memory.
enum class InputLayout : uint8_t {
  contiguous,
  transposed,  ///< the memory order of the axes is reversed
  sliced,      ///< every axis is the inner part of a larger one
  expanded,    ///< stride 0 on the first axis of more than one element: equal values along it
  flipped,     ///< negative strides
};
constexpr InputLayout kInputLayouts[] = {InputLayout::contiguous, InputLayout::transposed,
                                         InputLayout::sliced, InputLayout::expanded, InputLayout::flipped};
std::string_view name_of(InputLayout layout);
/// Throws Error for another name.
InputLayout layout_by_name(std::string_view name);
/// The values of `x` in another layout; `expanded` repeats the first of them along an axis.
Tensor with_layout(const Tensor& x, InputLayout layout);

}  // namespace halfstep
