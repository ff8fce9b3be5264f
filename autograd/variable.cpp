#include "autograd/variable.h"

#include <algorithm>
#include <atomic>
#include <map>
#include <unordered_set>

#include "autograd/ops.h"
#include "tensor/error.h"

namespace halfstep {

// --- the graph ---------------------------------------------------------------------------------------------

/// One step of a computation (or a leaf, which has no inputs and no rule). Edges point to the nodes of the
/// inputs only, never forward, and hold no values: what a rule needs it captures itself.
struct Node {
  std::string_view name;
  uint64_t sequence;  ///< creation order: inputs always have smaller numbers
  Shape shape;
  DType dtype;
  Device* device;
  std::vector<std::shared_ptr<Node>> inputs;  ///< nullptr where no gradient is wanted
  GradientRule rule;
  std::vector<GradientHook> hooks;
  std::weak_ptr<Variable::State> leaf;  ///< where a leaf's gradient is accumulated
  bool is_leaf = false;
  bool freed = false;

  Node(std::string_view n, const Tensor& value)
      : name(n),
        sequence(next_sequence()),
        shape(value.shape()),
        dtype(value.dtype()),
        device(&value.device()) {}
  ~Node();

 private:
  static uint64_t next_sequence() {
    static std::atomic<uint64_t> counter{0};
    return counter++;
  }
};

struct Variable::State {
  Tensor value;
  Variable grad;
  std::shared_ptr<Node> node;  ///< nullptr where no gradient is wanted

  explicit State(Tensor v) : value(std::move(v)) {}
  ~State();
};

namespace {

// Dropping the last reference to a long chain would recurse once per node: ~Node drops its inputs, whose
// ~Node ... Instead the outermost call drains a list.
thread_local std::vector<std::shared_ptr<Node>>* graveyard = nullptr;

void dispose(std::vector<std::shared_ptr<Node>> nodes, GradientRule rule) {
  if (graveyard) {
    for (auto& n : nodes) graveyard->push_back(std::move(n));
    return;  // `rule` is destroyed here; what it captured lands in the same list
  }
  std::vector<std::shared_ptr<Node>> list = std::move(nodes);
  graveyard = &list;
  rule = nullptr;
  while (!list.empty()) {
    const std::shared_ptr<Node> last = std::move(list.back());
    list.pop_back();
  }
  graveyard = nullptr;
}

thread_local bool recording = true;

}  // namespace

Node::~Node() { dispose(std::move(inputs), std::move(rule)); }
Variable::State::~State() {
  if (node) dispose({std::move(node)}, nullptr);
}

bool is_recording() { return recording; }
NoGrad::NoGrad(bool on) : previous_(recording) { recording = on; }
NoGrad::~NoGrad() { recording = previous_; }

// --- Variable ----------------------------------------------------------------------------------------------

Variable::Variable(Tensor value, bool requires_grad) : state_(std::make_shared<State>(std::move(value))) {
  require(state_->value.defined(), "Variable",
          "expected a tensor, got an undefined one (default-constructed)");
  set_requires_grad(requires_grad);
}

const Tensor& Variable::value() const {
  require(defined(), "Variable", "expected a variable, got an undefined one (default-constructed)");
  return state_->value;
}

bool Variable::requires_grad() const { return defined() && state_->node != nullptr; }
bool Variable::is_leaf() const { return !requires_grad() || state_->node->is_leaf; }

void Variable::set_requires_grad(bool on) {
  require(is_leaf(), "requires_grad", "expected a leaf, got the result of '{}'; use detach()",
          requires_grad() ? state_->node->name : "");
  if (on == requires_grad()) return;
  if (!on) {
    state_->node = nullptr;
    return;
  }
  require(is_floating(value().dtype()), "requires_grad", "only f32 and f64 have gradients, got {}",
          name_of(value().dtype()));
  state_->node = std::make_shared<Node>("leaf", state_->value);
  state_->node->is_leaf = true;
  state_->node->leaf = state_;
}

Variable Variable::detach() const { return Variable(value()); }

void Variable::set_value(Tensor value) {
  require(defined() && is_leaf(), "set_value", "expected a leaf, got the result of an operation");
  const bool wanted = requires_grad();
  state_->node = nullptr;
  state_->grad = {};
  state_->value = std::move(value);
  set_requires_grad(wanted);
}

const Variable& Variable::grad() const {
  require(defined(), "grad", "expected a variable, got an undefined one (default-constructed)");
  return state_->grad;
}
void Variable::set_grad(Variable grad) {
  require(!grad.defined() || grad.shape() == shape(), "set_grad", "expected a gradient of shape {}, got {}",
          str(shape()), grad.defined() ? str(grad.shape()) : "");
  state_->grad = std::move(grad);
}
void Variable::zero_grad() { set_grad({}); }

void Variable::register_hook(GradientHook hook) const {
  require(requires_grad(), "register_hook",
          "expected a variable that requires a gradient, got one that does not: the hook would never run");
  state_->node->hooks.push_back(std::move(hook));
}

const Tensor& SavedTensor::get() const {
  require(value_.version() == version_, "backward",
          "a value saved for the gradient was changed in place (version {}, expected {}); change a clone() "
          "instead",
          value_.version(), version_);
  return value_;
}

const Variable& Saved::get() const {
  require(variable_.value().shares_storage(value_.get()), "backward",
          "a variable saved for the gradient was given another value by set_value; call it after backward()");
  return variable_;
}

Variable record(std::string_view name, Tensor value, std::vector<Variable> inputs, GradientRule rule) {
  Variable out(std::move(value));
  if (!recording ||
      std::none_of(inputs.begin(), inputs.end(), [](const Variable& v) { return v.requires_grad(); }))
    return out;
  auto node = std::make_shared<Node>(name, out.value());
  for (const Variable& input : inputs) node->inputs.push_back(input.defined() ? input.state_->node : nullptr);
  node->rule = std::move(rule);
  out.state_->node = std::move(node);
  return out;
}

// --- the engine --------------------------------------------------------------------------------------------

struct Engine {
  using NodePtr = std::shared_ptr<Node>;

  static NodePtr node_of(const Variable& v) { return v.requires_grad() ? v.state_->node : nullptr; }

  /// Nodes on a path from `root` to one of `targets` (to any leaf if there are no targets).
  static std::unordered_set<const Node*> nodes_on_path(const NodePtr& root,
                                                       const std::vector<NodePtr>& targets) {
    std::unordered_set<const Node*> seen{root.get()}, wanted;
    std::vector<const Node*> order{root.get()};
    for (size_t i = 0; i < order.size(); ++i)
      for (const NodePtr& input : order[i]->inputs)
        if (input && seen.insert(input.get()).second) order.push_back(input.get());
    if (targets.empty()) return seen;
    for (const NodePtr& t : targets) wanted.insert(t.get());
    // Inputs are older than their consumers, so in order of age a node's inputs are decided before itself.
    std::sort(order.begin(), order.end(),
              [](const Node* a, const Node* b) { return a->sequence < b->sequence; });
    for (const Node* node : order)
      for (const NodePtr& input : node->inputs)
        if (input && wanted.count(input.get())) wanted.insert(node);
    return wanted;
  }

  /// Walks from `output` to the leaves, newest node first. With `targets` the gradients of those are returned
  /// and no leaf is touched; otherwise leaves accumulate.
  static std::vector<Variable> run(const Variable& output, Variable upstream,
                                   const std::vector<Variable>& targets, bool retain_graph,
                                   bool create_graph) {
    const NodePtr root = node_of(output);
    require(root != nullptr, "backward", "the output does not depend on anything that requires a gradient");
    if (!upstream.defined()) {
      require(output.numel() == 1, "backward",
              "expected a scalar output, got shape {}; pass an upstream gradient", str(output.shape()));
      upstream = Variable(Tensor::ones(output.shape(), output.options()));
    }
    struct Recording : NoGrad {
      explicit Recording(bool on) : NoGrad(on) {}
    } guard(create_graph);

    std::vector<NodePtr> target_nodes;
    for (const Variable& t : targets)
      if (NodePtr n = node_of(t)) target_nodes.push_back(n);
    const auto on_path = nodes_on_path(root, targets.empty() ? std::vector<NodePtr>{} : target_nodes);

    // Gradients that are still being collected, newest node first. A node is reached only after all its
    // consumers, because they are newer.
    std::map<uint64_t, std::pair<NodePtr, Variable>, std::greater<>> pending;
    std::map<const Node*, Variable> finished;
    pending[root->sequence] = {root, fit(*root, upstream, "upstream gradient")};

    while (!pending.empty()) {
      auto [node, gradient] = std::move(pending.begin()->second);
      pending.erase(pending.begin());
      if (!on_path.count(node.get())) continue;
      for (size_t i = 0; i < node->hooks.size(); ++i)
        if (Variable replaced = node->hooks[i](gradient); replaced.defined())
          gradient = fit(*node, replaced, "hook of");
      if (!targets.empty() && std::find(target_nodes.begin(), target_nodes.end(), node) != target_nodes.end())
        finished[node.get()] = gradient;
      if (node->is_leaf) {
        if (targets.empty()) accumulate_leaf(*node, gradient);
        continue;
      }
      const bool leads_on = std::any_of(node->inputs.begin(), node->inputs.end(),
                                        [&](const NodePtr& n) { return n && on_path.count(n.get()); });
      if (!leads_on && !node->freed) continue;  // a target with nothing wanted behind it
      require(!node->freed, "backward",
              "the graph of '{}' was freed by an earlier backward; pass retain_graph = true there",
              node->name);
      std::vector<Variable> gradients = node->rule(gradient);
      require(gradients.size() == node->inputs.size(), "backward",
              "the rule of '{}' returned {} gradients for {} inputs", node->name, gradients.size(),
              node->inputs.size());
      for (size_t i = 0; i < gradients.size(); ++i) {
        const NodePtr& input = node->inputs[i];
        if (!input || !gradients[i].defined()) continue;
        Variable g = fit(*input, gradients[i], node->name);
        auto& slot = pending[input->sequence];
        slot = {input, slot.second.defined() ? add(slot.second, g) : g};
      }
      if (!retain_graph) {
        node->freed = true;
        dispose(std::move(node->inputs), std::move(node->rule));
        node->inputs.clear();
        node->rule = nullptr;
      }
    }

    std::vector<Variable> result;
    for (const Variable& t : targets) {
      const NodePtr n = node_of(t);
      const auto it = n ? finished.find(n.get()) : finished.end();
      result.push_back(it != finished.end() ? it->second : Variable(Tensor::zeros(t.shape(), t.options())));
    }
    return result;
  }

 private:
  /// Sums a broadcast gradient down to the shape of the value it belongs to, and checks dtype and device.
  static Variable fit(const Node& node, const Variable& gradient, std::string_view from) {
    require(gradient.dtype() == node.dtype && &gradient.value().device() == node.device, "backward",
            "'{}' gave a gradient of {} on '{}' for a value of {} on '{}'", from, name_of(gradient.dtype()),
            gradient.value().device().name(), name_of(node.dtype), node.device->name());
    if (gradient.shape() == node.shape) return gradient;
    require(broadcasts_to(node.shape, gradient.shape()), "backward",
            "'{}' gave a gradient of shape {} for a value of shape {}", from, str(gradient.shape()),
            str(node.shape));
    return sum_to(gradient, node.shape);
  }

  static void accumulate_leaf(Node& node, const Variable& gradient) {
    const auto state = node.leaf.lock();
    if (!state) return;  // nobody can ask for it any more
    state->grad = state->grad.defined() ? add(state->grad, gradient) : gradient;
  }
};

void Variable::backward(bool retain_graph, bool create_graph) const {
  backward({}, retain_graph, create_graph);
}

void Variable::backward(const Variable& upstream, bool retain_graph, bool create_graph) const {
  Engine::run(*this, upstream, {}, retain_graph || create_graph, create_graph);
}

std::vector<Variable> grad(const Variable& output, const std::vector<Variable>& inputs,
                           const Variable& upstream, bool retain_graph, bool create_graph) {
  require(!inputs.empty(), "grad", "expected at least one input, got none");
  return Engine::run(output, upstream, inputs, retain_graph || create_graph, create_graph);
}

}  // namespace halfstep
