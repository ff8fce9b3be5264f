// The engine, and with it everything that happens in backward() and grad().
#include <algorithm>
#include <atomic>

#include "autograd/internal/engine.h"
#include "autograd/ops.h"
#include "tensor/error.h"

namespace halfstep {

namespace {

/// Recording on or off for the rules of a walk.
struct Recording : NoGrad {
  explicit Recording(bool on) : NoGrad(on) {}
};

void require_companion(const Node& node, const Variable& gradient, std::string_view from) {
  require(gradient.dtype() == node.dtype && &gradient.value().device() == node.device, "backward",
          "{} gave a gradient of {} on '{}' for a value of {} on '{}'", from, name_of(gradient.dtype()),
          gradient.value().device().name(), name_of(node.dtype), node.device->name());
}

/// Whether nobody else can see the gradient's memory.
bool is_owned(const Variable& gradient) {
  return Internals::state(gradient).use_count() == 1 && gradient.value().owns_memory();
}

/// a + b, in the memory of one of them where that can be: without a third array there is less to write and to
/// fetch. Never while gradients are recorded, whose graph may hold both.
Variable sum_of(const Variable& a, const Variable& b, bool create_graph) {
  const auto add_to = [](const Variable& sum, const Variable& term) {
    binary_(BinaryOp::add, sum.value(), term.value());
    return sum;
  };
  const auto may_change = [](const Variable& v) { return is_owned(v) && !v.requires_grad(); };
  if (!create_graph && may_change(a)) return add_to(a, b);
  if (!create_graph && may_change(b)) return add_to(b, a);
  return add(a, b);
}

/// Sums a broadcast gradient down to the shape of the value it belongs to, and checks dtype and device.
Variable fit(const Node& node, Variable gradient, std::string_view operation) {
  require_companion(node, gradient, fmt::format("'{}'", operation));
  if (gradient.shape() == node.shape) return gradient;
  require(broadcasts_to(node.shape, gradient.shape()), "backward",
          "'{}' gave a gradient of shape {} for a value of shape {}", operation, str(gradient.shape()),
          str(node.shape));
  return sum_to(gradient, node.shape);
}

/// Where there are several outputs: which one is meant.
std::string output_name(size_t index, size_t count) {
  return count == 1 ? "the output" : fmt::format("output {}", index);
}

}  // namespace

Variable owned(Variable gradient) {
  if (is_owned(gradient)) return gradient;
  return Internals::with_history(gradient.value().clone(), gradient);
}

void Engine::accumulate(const std::vector<Variable>& outputs, const std::vector<Variable>& upstreams) {
  to_leaves_ = true;
  walk(outputs, upstreams);
}

std::vector<Variable> Engine::gradients(const std::vector<Variable>& outputs,
                                        const std::vector<Variable>& upstreams,
                                        const std::vector<NodePtr>& targets) {
  oldest_target_ = ~uint64_t{0};  // without any target nothing is walked
  for (const NodePtr& t : targets) {
    if (!t) continue;
    targets_.insert(t.get());
    oldest_target_ = std::min(oldest_target_, t->sequence);
  }
  walk(outputs, upstreams);
  std::vector<Variable> result;
  result.reserve(targets.size());
  for (const NodePtr& t : targets) {
    const auto found = finished_.find(t.get());
    result.push_back(found == finished_.end() ? Variable() : found->second);
  }
  finished_.clear();
  for (Variable& gradient : result)
    if (gradient.defined()) gradient = owned(std::move(gradient));
  return result;
}

void Engine::walk(const std::vector<Variable>& outputs, const std::vector<Variable>& upstreams) {
  static std::atomic<uint64_t> walks{0};
  const Assign identity(thread_state().walk, ++walks);
  const Assign inside(thread_state().inside_walk, true);
  const Recording recording(options_.create_graph);
  if (const AnomalyOptions* anomaly = thread_state().anomaly) anomaly_.emplace(*anomaly);

  require(!outputs.empty(), "backward", "expected at least one output, got none");
  require(upstreams.empty() || upstreams.size() == outputs.size(), "backward",
          "expected one upstream gradient for each of {} outputs, got {}; an undefined one stands for 1",
          outputs.size(), upstreams.size());
  std::vector<NodePtr> roots;
  for (size_t i = 0; i < outputs.size(); ++i) {
    require(outputs[i].defined(), "backward", "expected results, got an undefined variable as {}",
            output_name(i, outputs.size()));
    roots.push_back(Internals::node(outputs[i]));
    require(roots[i] != nullptr, "backward", "{} does not depend on anything that requires a gradient",
            output_name(i, outputs.size()));
  }
  find_path(roots);
  for (size_t i = 0; i < outputs.size(); ++i) {
    Variable upstream = upstreams.empty() ? Variable() : upstreams[i];
    if (!upstream.defined()) {
      require(outputs[i].numel() == 1, "backward",
              "expected a scalar output, got {}shape {}; pass an upstream gradient",
              outputs.size() == 1 ? "" : output_name(i, outputs.size()) + " of ", str(outputs[i].shape()));
      upstream = Variable(Tensor::ones(outputs[i].shape(), outputs[i].options()));
    }
    require(upstream.shape() == roots[i]->shape, "backward",
            "expected an upstream gradient of the shape {} of {}, got {}", str(roots[i]->shape),
            output_name(i, outputs.size()), str(upstream.shape()));
    require_companion(*roots[i], upstream, "the caller");
    if (anomaly_) anomaly_->check_upstream(*roots[i], upstream);
    add(roots[i], upstream);
  }

  while (!pending_.empty()) {
    const auto newest = pending_.begin();
    const NodePtr node = std::move(newest->second.first);
    Variable gradient = std::move(newest->second.second);
    pending_.erase(newest);

    const bool is_target = targets_.count(node.get()) != 0;
    if (is_target && options_.cut_at_targets) {
      finished_[node.get()] = std::move(gradient);
      continue;
    }
    if (node->hooks) gradient = run_hooks(*node, std::move(gradient));
    if (is_target) finished_[node.get()] = gradient;
    if (node->is_leaf) {
      if (to_leaves_) accumulate_leaf(*node, std::move(gradient));
      continue;
    }
    if (!leads_on(*node)) continue;  // a target with nothing wanted behind it
    require(!node->freed, "backward",
            "the graph of '{}' was freed by an earlier backward; pass retain_graph = true there", node->name);
    run_rule(node, gradient);
    if (!options_.retain_graph) node->release();
  }
}

/// Fills on_path_.
void Engine::find_path(const std::vector<NodePtr>& roots) {
  std::unordered_set<const Node*> seen;
  std::vector<const Node*> order;
  const auto visit = [&](const NodePtr& node, const Node* consumer) {
    if (!seen.insert(node.get()).second) return;
    require(!node->replaced, "backward",
            "a leaf of shape {} in the graph was given another value by set_value; call it after backward()",
            str(node->shape));
    order.push_back(node.get());
    if (anomaly_) anomaly_->note(*node, consumer);
  };
  for (const NodePtr& root : roots) visit(root, nullptr);
  for (size_t i = 0; i < order.size(); ++i) {
    const Node& node = *order[i];
    // No target is older than the oldest one.
    if (!to_leaves_ && node.sequence <= oldest_target_) continue;
    if (options_.cut_at_targets && targets_.count(&node)) continue;
    for (const NodePtr& input : node.inputs)
      if (input) visit(input, &node);
  }
  if (to_leaves_) {
    on_path_ = std::move(seen);
    return;
  }
  // Inputs are older than their consumers, so in order of age a node's inputs are decided before itself.
  std::sort(order.begin(), order.end(),
            [](const Node* a, const Node* b) { return a->sequence < b->sequence; });
  for (const Node* node : order)
    if (targets_.count(node) || leads_on(*node)) on_path_.insert(node);
}

/// Whether something wanted lies behind the node. A freed one does not know any more what is behind it, and
/// anything older than it may be.
bool Engine::leads_on(const Node& node) const {
  if (node.freed) return to_leaves_ || oldest_target_ < node.sequence;
  return std::any_of(node.inputs.begin(), node.inputs.end(),
                     [&](const NodePtr& n) { return n && on_path_.count(n.get()); });
}

/// Adds to the gradient that is being collected for `node`.
void Engine::add(const NodePtr& node, Variable gradient) {
  if (!on_path_.count(node.get())) return;
  auto& [pending_node, collected] = pending_[node->sequence];
  pending_node = node;
  collected = collected.defined() ? sum_of(collected, gradient, options_.create_graph) : std::move(gradient);
  if (anomaly_) anomaly_->check_sum(*node, collected);
}

Variable Engine::run_hooks(const Node& node, Variable gradient) const {
  const Assign outside(thread_state().inside_walk, false);
  const auto list = node.hooks->list;  // hooks may add and remove hooks
  for (const std::shared_ptr<Hook>& hook : list) {
    if (hook->removed || !hook->on_gradient) continue;
    const Variable replaced = hook->on_gradient(gradient);
    if (!replaced.defined()) continue;
    require_companion(node, replaced, fmt::format("a hook of '{}'", node.name));
    require(replaced.shape() == node.shape, "backward",
            "a hook of '{}' gave a gradient of shape {} for a value of shape {}", node.name,
            str(replaced.shape()), str(node.shape));
    gradient = replaced;
    if (anomaly_) anomaly_->check_hook(node, gradient);
  }
  return gradient;
}

void Engine::run_rule(const NodePtr& node, const Variable& gradient) {
  std::vector<Variable> gradients = node->rule(gradient);
  require(gradients.size() == node->inputs.size(), "backward",
          "the rule of '{}' returned {} gradients for {} inputs", node->name, gradients.size(),
          node->inputs.size());
  if (anomaly_) anomaly_->check_rule(*node, gradient, gradients);
  for (size_t i = 0; i < gradients.size(); ++i) {
    const NodePtr& input = node->inputs[i];
    if (input && gradients[i].defined()) add(input, fit(*input, std::move(gradients[i]), node->name));
  }
}

void Engine::accumulate_leaf(const Node& node, Variable gradient) const {
  const std::shared_ptr<VariableState> state = node.leaf.lock();
  if (!state || !node.enabled) return;  // nobody can or wants to ask for it any more
  state->grad = state->grad.defined() ? sum_of(state->grad, gradient, options_.create_graph)
                                      : owned(std::move(gradient));
  if (!node.hooks) return;
  const Assign outside(thread_state().inside_walk, false);
  const Variable leaf = Internals::wrap(state);
  const auto list = node.hooks->list;
  for (const std::shared_ptr<Hook>& hook : list)
    if (!hook->removed && hook->on_accumulated) hook->on_accumulated(leaf);
}

// --- the public doors --------------------------------------------------------------------------------------

void backward(const std::vector<Variable>& outputs, const std::vector<Variable>& upstreams, bool retain_graph,
              bool create_graph) {
  Engine({.retain_graph = retain_graph || create_graph, .create_graph = create_graph})
      .accumulate(outputs, upstreams);
}

void Variable::backward(bool retain_graph, bool create_graph) const {
  halfstep::backward({*this}, {}, retain_graph, create_graph);
}

void Variable::backward(const Variable& upstream, bool retain_graph, bool create_graph) const {
  halfstep::backward({*this}, {upstream}, retain_graph, create_graph);
}

std::vector<Variable> grad(const std::vector<Variable>& outputs, const std::vector<Variable>& inputs,
                           const std::vector<Variable>& upstreams, bool retain_graph, bool create_graph) {
  require(!inputs.empty(), "grad", "expected at least one input, got none");
  std::vector<NodePtr> targets;
  for (size_t i = 0; i < inputs.size(); ++i) {
    require(inputs[i].defined(), "grad", "expected variables, got an undefined one as input {}", i);
    targets.push_back(Internals::node(inputs[i]));
  }
  Engine engine({.retain_graph = retain_graph || create_graph, .create_graph = create_graph});
  std::vector<Variable> result = engine.gradients(outputs, upstreams, targets);
  for (size_t i = 0; i < inputs.size(); ++i)
    if (!result[i].defined()) result[i] = Variable(Tensor::zeros(inputs[i].shape(), inputs[i].options()));
  return result;
}

std::vector<Variable> grad(const Variable& output, const std::vector<Variable>& inputs,
                           const Variable& upstream, bool retain_graph, bool create_graph) {
  return grad(std::vector<Variable>{output}, inputs, std::vector<Variable>{upstream}, retain_graph,
              create_graph);
}

}  // namespace halfstep
