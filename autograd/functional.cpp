#include "autograd/functional.h"

#include <utility>

#include "autograd/ops.h"
#include "tensor/error.h"

namespace halfstep {

namespace {

/// The inputs as independent variables that all require a gradient. With `connected` they remember what they
/// stand for, so that derivatives of the result flow on.
std::vector<Variable> independent(const std::vector<Variable>& inputs, bool connected,
                                  std::string_view where) {
  std::vector<Variable> result;
  for (size_t i = 0; i < inputs.size(); ++i) {
    const Variable& x = inputs[i];
    require(x.defined(), where, "expected variables, got an undefined one as input {}", i);
    if (connected && x.requires_grad()) {
      EnableGrad recording;
      result.push_back(
          record("input", x.value(), {x}, [](const Variable& g) -> std::vector<Variable> { return {g}; }));
    } else {
      result.emplace_back(x.value(), is_floating(x.dtype()));
    }
  }
  return result;
}

/// Gradients of the outputs that depend on anything; undefined ones for integer inputs.
std::vector<Variable> gradients_of(const std::vector<Variable>& outputs, const std::vector<Variable>& inputs,
                                   const std::vector<Variable>& upstreams, bool retain_graph,
                                   bool create_graph) {
  std::vector<Variable> used, used_upstreams, wanted;
  for (size_t i = 0; i < outputs.size(); ++i) {
    if (!outputs[i].requires_grad()) continue;
    used.push_back(outputs[i]);
    used_upstreams.push_back(upstreams[i]);
  }
  for (const Variable& x : inputs)
    if (is_floating(x.dtype())) wanted.push_back(x);
  std::vector<Variable> found;
  if (used.empty() || wanted.empty())
    for (const Variable& x : wanted) found.emplace_back(Tensor::zeros(x.shape(), x.options()));
  else
    found = grad(used, wanted, used_upstreams, retain_graph, create_graph);
  std::vector<Variable> result(inputs.size());
  size_t next = 0;
  for (size_t i = 0; i < inputs.size(); ++i)
    if (is_floating(inputs[i].dtype())) result[i] = std::move(found[next++]);
  return result;
}

/// `given`, one per variable, with undefined ones replaced by zeros; checked. `kind` is the word for them.
std::vector<Variable> filled(const std::vector<Variable>& given, const std::vector<Variable>& variables,
                             std::string_view kind, std::string_view where) {
  require(given.size() == variables.size(), where, "expected one {} per input, {} in all, got {}", kind,
          variables.size(), given.size());
  std::vector<Variable> result;
  for (size_t i = 0; i < given.size(); ++i) {
    const Variable& x = variables[i];
    if (!given[i].defined()) {
      result.emplace_back(Tensor::zeros(x.shape(), x.options()));
      continue;
    }
    require(given[i].shape() == x.shape() && given[i].dtype() == x.dtype(), where,
            "expected a {} of shape {} and {} for input {}, got {} and {}", kind, str(x.shape()),
            name_of(x.dtype()), i, str(given[i].shape()), name_of(given[i].dtype()));
    result.push_back(given[i]);
  }
  return result;
}

std::vector<Variable> without_history(std::vector<Variable> variables, bool keep) {
  if (!keep)
    for (Variable& v : variables)
      if (v.requires_grad()) v = v.detach();
  return variables;
}

MultiFunction several(const DifferentiableFunction& function) {
  return [&function](const std::vector<Variable>& in) { return std::vector<Variable>{function(in)}; };
}

/// The scalar result of a function, for second derivatives.
Variable scalar_result(const DifferentiableFunction& function, const std::vector<Variable>& in,
                       std::string_view where) {
  const Variable y = function(in);
  require(y.defined() && y.numel() == 1, where, "expected a function with a scalar result, got shape {}",
          y.defined() ? str(y.shape()) : "(undefined)");
  return y;
}

Shape joined(const Shape& a, const Shape& b, std::string_view where) {
  require(a.rank() + b.rank() <= kMaxRank, where,
          "expected at most {} axes in all, got output {} and input {}; reshape one of them", kMaxRank,
          str(a), str(b));
  Shape result = a;
  for (int64_t d : b) result.push_back(d);
  return result;
}

/// Rows d y[r] / d inputs, stacked, for each input: shape [y's shape..., input's shape...]. The graph behind
/// y is kept.
std::vector<Variable> stacked_rows(const Variable& y, const std::vector<Variable>& inputs, bool create_graph,
                                   std::string_view where) {
  for (const Variable& x : inputs)
    if (is_floating(x.dtype())) joined(y.shape(), x.shape(), where);
  std::vector<std::vector<Variable>> rows(inputs.size());  // by input
  for (int64_t r = 0; r < y.numel(); ++r) {
    std::vector<double> one_hot(static_cast<size_t>(y.numel()), 0.0);
    one_hot[static_cast<size_t>(r)] = 1;
    const Variable upstream(Tensor::from(one_hot, y.shape(), y.options()));
    const auto gradients = gradients_of({y}, inputs, {upstream}, /*retain_graph=*/true, create_graph);
    for (size_t i = 0; i < inputs.size(); ++i)
      if (gradients[i].defined()) rows[i].push_back(reshape(gradients[i], {1, gradients[i].numel()}));
  }
  std::vector<Variable> result(inputs.size());
  for (size_t i = 0; i < inputs.size(); ++i) {
    if (!is_floating(inputs[i].dtype())) continue;
    const Shape shape = joined(y.shape(), inputs[i].shape(), where);
    result[i] = rows[i].empty() ? Variable(Tensor::zeros(shape, inputs[i].options()))
                                : reshape(concat(rows[i], 0), shape);
  }
  return result;
}

}  // namespace

MultiVjpResult vjp(const MultiFunction& function, const std::vector<Variable>& inputs,
                   const std::vector<Variable>& upstreams, bool create_graph) {
  EnableGrad recording;
  const std::vector<Variable> in = independent(inputs, create_graph, "vjp");
  std::vector<Variable> outputs = function(in);
  require(upstreams.size() == outputs.size(), "vjp",
          "expected one upstream gradient per output, {} in all, got {}", outputs.size(), upstreams.size());
  for (size_t i = 0; i < outputs.size(); ++i) {
    require(outputs[i].defined(), "vjp", "the function returned an undefined variable as output {}", i);
    require(upstreams[i].defined() ? upstreams[i].shape() == outputs[i].shape() : outputs[i].numel() == 1,
            "vjp", "expected an upstream gradient of shape {} for output {}, got {}", str(outputs[i].shape()),
            i, upstreams[i].defined() ? str(upstreams[i].shape()) : "none");
  }
  std::vector<Variable> gradients = gradients_of(outputs, in, upstreams, create_graph, create_graph);
  return {without_history(std::move(outputs), create_graph), std::move(gradients)};
}

VjpResult vjp(const DifferentiableFunction& function, const std::vector<Variable>& inputs,
              const Variable& upstream, bool create_graph) {
  MultiVjpResult all = vjp(several(function), inputs, std::vector<Variable>{upstream}, create_graph);
  return {std::move(all.outputs[0]), std::move(all.gradients)};
}

MultiJvpResult jvp(const MultiFunction& function, const std::vector<Variable>& inputs,
                   const std::vector<Variable>& tangents, bool create_graph) {
  EnableGrad recording;
  const std::vector<Variable> in = independent(inputs, create_graph, "jvp");
  const std::vector<Variable> directions = filled(tangents, in, "tangent", "jvp");
  std::vector<Variable> outputs = function(in);
  // J^T u is linear in u, so any u does.
  std::vector<Variable> u;
  for (size_t i = 0; i < outputs.size(); ++i) {
    require(outputs[i].defined(), "jvp", "the function returned an undefined variable as output {}", i);
    u.emplace_back(Tensor::ones(outputs[i].shape(), outputs[i].options()), is_floating(outputs[i].dtype()));
  }
  const auto products = gradients_of(outputs, in, u, /*retain_graph=*/true, /*create_graph=*/true);
  std::vector<Variable> along, along_upstreams;
  for (size_t i = 0; i < in.size(); ++i) {
    if (!products[i].defined()) continue;
    along.push_back(products[i]);
    along_upstreams.push_back(directions[i]);
  }
  std::vector<Variable> result = gradients_of(along, u, along_upstreams, create_graph, create_graph);
  return {without_history(std::move(outputs), create_graph), std::move(result)};
}

JvpResult jvp(const DifferentiableFunction& function, const std::vector<Variable>& inputs,
              const std::vector<Variable>& tangents, bool create_graph) {
  MultiJvpResult all = jvp(several(function), inputs, tangents, create_graph);
  return {std::move(all.outputs[0]), std::move(all.tangents[0])};
}

std::vector<Variable> jacobian(const DifferentiableFunction& function, const std::vector<Variable>& inputs,
                               bool create_graph) {
  EnableGrad recording;
  const std::vector<Variable> in = independent(inputs, create_graph, "jacobian");
  const Variable y = function(in);
  require(y.defined(), "jacobian", "expected the function to return a variable, got an undefined one");
  return stacked_rows(y, in, create_graph, "jacobian");
}

std::vector<std::vector<Variable>> hessian(const DifferentiableFunction& function,
                                           const std::vector<Variable>& inputs, bool create_graph) {
  EnableGrad recording;
  const std::vector<Variable> in = independent(inputs, create_graph, "hessian");
  const auto gradients = gradients_of({scalar_result(function, in, "hessian")}, in, {Variable()},
                                      /*retain_graph=*/true, /*create_graph=*/true);
  std::vector<std::vector<Variable>> result;
  for (const Variable& g : gradients)
    result.push_back(g.defined() ? stacked_rows(g, in, create_graph, "hessian")
                                 : std::vector<Variable>(in.size()));
  return result;
}

HvpResult hvp(const DifferentiableFunction& function, const std::vector<Variable>& inputs,
              const std::vector<Variable>& vectors, bool create_graph) {
  EnableGrad recording;
  const std::vector<Variable> in = independent(inputs, create_graph, "hvp");
  const std::vector<Variable> directions = filled(vectors, in, "vector", "hvp");
  Variable y = scalar_result(function, in, "hvp");
  std::vector<Variable> gradients = gradients_of({y}, in, {Variable()}, /*retain_graph=*/true,
                                                 /*create_graph=*/true);
  std::vector<Variable> along, along_upstreams;
  for (size_t i = 0; i < in.size(); ++i) {
    if (!gradients[i].defined()) continue;
    along.push_back(gradients[i]);
    along_upstreams.push_back(directions[i]);
  }
  std::vector<Variable> products = gradients_of(along, in, along_upstreams, create_graph, create_graph);
  return {create_graph ? y : y.detach(), without_history(std::move(gradients), create_graph),
          std::move(products)};
}

}  // namespace halfstep
