// Activation checkpointing: memory for time. What a function computes on the way is dropped, and computed
// again when backward() needs it (Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost").
//
//   h = checkpoint([&](const std::vector<Variable>& in) { return block(in[0], in[1]); }, {h, emb});
#pragma once

#include <vector>

#include "autograd/functional.h"

namespace halfstep {

/// function(inputs), keeping only the inputs. Gradients reach the inputs and all that the function captured
/// (parameters, other results) as if it had been called directly, and equal those of the direct call in every
/// bit; only where one and the same Variable is used both inside and outside, or in several places inside,
/// may the sum of its contributions be rounded in another order.
///
/// The function runs again in every backward, so it must do the same each time. Random draws do so when they
/// come from a fixed key, as dropout's masks do here. A change in place of an input or of a captured Variable
/// that requires a gradient is noticed; results of other number, shapes or dtypes in the second run throw
/// Error. The function is kept with the graph: capture by value what does not live that long.
///
/// Gradients of gradients work. They keep the second run's graph, and so save no memory there. Calls nest.
Variable checkpoint(const DifferentiableFunction& function, const std::vector<Variable>& inputs);
std::vector<Variable> checkpoint(const MultiFunction& function, const std::vector<Variable>& inputs);

}  // namespace halfstep
