// Derivatives of functions: products with the Jacobian from either side, and whole Jacobians and Hessians of
// small functions. A function here takes Variables and returns one or several; its inputs count as
// independent of one another and of what they were computed from.
//
//   auto [y, gradients] = vjp(f, {x, w}, upstream);   // upstream^T J:  a backward
//   auto [y, tangent] = jvp(f, {x, w}, {dx, dw});     // J (dx, dw):    a directional derivative
//
// Integer inputs are passed on as they are; they have no gradient (an undefined Variable) and an undefined
// tangent. Everywhere else "shape" means that of the corresponding input or output; other shapes throw Error.
//
// With `create_graph` the results carry the history of their own computation and can be differentiated, with
// respect to the inputs, the upstream gradients or tangents, and whatever the function captured. Without it
// they carry none.
#pragma once

#include <functional>
#include <vector>

#include "autograd/variable.h"

namespace halfstep {

/// A function of Variables with one result of any shape.
using DifferentiableFunction = std::function<Variable(const std::vector<Variable>&)>;
/// A function of Variables with several results.
using MultiFunction = std::function<std::vector<Variable>(const std::vector<Variable>&)>;

/// The output of a function and the products of vjp.
struct VjpResult {
  Variable output;
  std::vector<Variable> gradients;  ///< of the inputs, with their shapes; zeros without a path
};
struct MultiVjpResult {
  std::vector<Variable> outputs;
  std::vector<Variable> gradients;
};
struct JvpResult {
  Variable output;
  Variable tangent;  ///< of the output, with its shape
};
struct MultiJvpResult {
  std::vector<Variable> outputs;
  std::vector<Variable> tangents;
};

/// The gradient of <upstream, function(inputs)> with respect to each input: a vector-Jacobian product. An
/// undefined upstream gradient stands for 1 and needs a scalar output.
VjpResult vjp(const DifferentiableFunction& function, const std::vector<Variable>& inputs,
              const Variable& upstream = {}, bool create_graph = false);
MultiVjpResult vjp(const MultiFunction& function, const std::vector<Variable>& inputs,
                   const std::vector<Variable>& upstreams, bool create_graph = false);

/// The derivative of function(inputs + t tangents) by t at 0: a Jacobian-vector product. An undefined tangent
/// stands for zeros. Computed by two backwards: <u, J v> = <J^T u, v>, so J v is the gradient of
/// <J^T u, v> with respect to u, which needs no rules but those that exist (the double-backward trick).
/// It costs about three vjp.
JvpResult jvp(const DifferentiableFunction& function, const std::vector<Variable>& inputs,
              const std::vector<Variable>& tangents, bool create_graph = false);
MultiJvpResult jvp(const MultiFunction& function, const std::vector<Variable>& inputs,
                   const std::vector<Variable>& tangents, bool create_graph = false);

/// d output / d input for each input: shape [output's shape..., input's shape...]. One backward per element
/// of the output, so for small outputs. At most 8 axes in all.
std::vector<Variable> jacobian(const DifferentiableFunction& function, const std::vector<Variable>& inputs,
                               bool create_graph = false);

/// Second derivatives of a function with a scalar result: [i][j] is d^2 output / d input_i d input_j, of
/// shape [shape of input i..., shape of input j...]. One backward per element of all inputs.
std::vector<std::vector<Variable>> hessian(const DifferentiableFunction& function,
                                           const std::vector<Variable>& inputs, bool create_graph = false);

/// The output of a function, its gradients and the products of hvp.
struct HvpResult {
  Variable output;                  ///< a scalar
  std::vector<Variable> gradients;  ///< of the inputs
  std::vector<Variable> products;   ///< the Hessian times `vectors`, with the inputs' shapes
};
/// A Hessian-vector product by two backwards, for a function with a scalar result of any number of inputs;
/// `vectors` has one entry per input, undefined for zeros.
HvpResult hvp(const DifferentiableFunction& function, const std::vector<Variable>& inputs,
              const std::vector<Variable>& vectors, bool create_graph = false);

}  // namespace halfstep
