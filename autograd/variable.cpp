#include "autograd/variable.h"

#include <algorithm>
#include <atomic>

#include "autograd/internal/anomaly_watch.h"
#include "autograd/internal/node.h"
#include "tensor/error.h"

namespace halfstep {

// --- nodes -------------------------------------------------------------------------------------------------

uint64_t next_sequence() {
  static std::atomic<uint64_t> counter{0};
  return ++counter;
}

ThreadState& thread_state() {
  thread_local ThreadState state;
  return state;
}

namespace {

// Dropping the last reference to a long chain would recurse once per node: ~Node drops its inputs, whose
// ~Node ... Instead the outermost call drains a list.
thread_local std::vector<NodePtr>* graveyard = nullptr;

void dispose(std::vector<NodePtr> nodes, GradientRule rule) {
  if (graveyard) {
    for (NodePtr& n : nodes) graveyard->push_back(std::move(n));
    return;  // `rule` is destroyed here; what it captured lands in the same list
  }
  std::vector<NodePtr> list = std::move(nodes);
  graveyard = &list;
  rule = nullptr;
  while (!list.empty()) {
    const NodePtr last = std::move(list.back());
    list.pop_back();
  }
  graveyard = nullptr;
}

}  // namespace

Node::Node(std::string_view node_name, const Tensor& value)
    : name(node_name),
      scope(thread_state().scope),
      sequence(next_sequence()),
      shape(value.shape()),
      dtype(value.dtype()),
      device(&value.device()) {}

Node::~Node() { dispose(std::move(inputs), std::move(rule)); }

void Node::release() {
  freed = true;
  hooks = nullptr;
  dispose(std::exchange(inputs, {}), std::exchange(rule, nullptr));
}

VariableState::~VariableState() {
  // Only the last owner can start a long teardown.
  if (node.use_count() == 1) dispose({std::move(node)}, nullptr);
}

Variable Internals::wrap(std::shared_ptr<VariableState> state) {
  Variable v;
  v.state_ = std::move(state);
  return v;
}

Variable Internals::with_history(Tensor value, const Variable& history) {
  auto state = std::make_shared<VariableState>(std::move(value));
  state->node = node(history);
  return wrap(std::move(state));
}

// --- Variable ----------------------------------------------------------------------------------------------

Variable::Variable(Tensor value, bool requires_grad)
    : state_(std::make_shared<VariableState>(std::move(value))) {
  require(state_->value.defined(), "Variable",
          "expected a tensor, got an undefined one (default-constructed)");
  set_requires_grad(requires_grad);
}

const Tensor& Variable::value() const {
  require(defined(), "Variable", "expected a variable, got an undefined one (default-constructed)");
  return state_->value;
}

bool Variable::requires_grad() const { return defined() && state_->node && state_->node->enabled; }
bool Variable::is_leaf() const { return !requires_grad() || state_->node->is_leaf; }

namespace {

NodePtr leaf_node(const std::shared_ptr<VariableState>& state) {
  require(is_floating(state->value.dtype()), "requires_grad", "only f32, f64 and bf16 have gradients, got {}",
          name_of(state->value.dtype()));
  auto node = std::make_shared<Node>("leaf", state->value);
  node->is_leaf = true;
  node->leaf = state;
  return node;
}

}  // namespace

void Variable::set_requires_grad(bool on) {
  require(is_leaf(), "requires_grad", "expected a leaf, got the result of '{}'; use detach()",
          requires_grad() ? state_->node->name : "");
  if (on == requires_grad()) return;
  if (state_->node)
    state_->node->enabled = on;
  else
    state_->node = leaf_node(state_);
}

Variable Variable::detach() const { return Variable(value()); }

void Variable::set_value(Tensor value) {
  require(defined() && is_leaf(), "set_value", "expected a leaf, got the result of an operation");
  require(value.defined(), "set_value", "expected a tensor, got an undefined one (default-constructed)");
  require(!requires_grad() || is_floating(value.dtype()), "set_value",
          "only f32, f64 and bf16 have gradients, got {}; call set_requires_grad(false) before",
          name_of(value.dtype()));
  state_->grad = {};
  state_->value = std::move(value);
  const NodePtr old = std::exchange(state_->node, nullptr);
  if (!old) return;
  old->replaced = true;
  if (!is_floating(state_->value.dtype())) return;
  state_->node = leaf_node(state_);
  state_->node->sequence = old->sequence;  // a search for the leaf still reaches graphs of the old value
  state_->node->hooks = old->hooks;
  state_->node->enabled = old->enabled;
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

// --- hooks -------------------------------------------------------------------------------------------------

HookHandle Internals::add_hook(const Variable& v, Hook hook) {
  Node& node = *state(v)->node;
  if (!node.hooks) node.hooks = std::make_shared<Hooks>();
  node.hooks->list.push_back(std::make_shared<Hook>(std::move(hook)));
  HookHandle handle;
  handle.hooks_ = node.hooks;
  handle.hook_ = node.hooks->list.back();
  return handle;
}

HookHandle Variable::register_hook(GradientHook hook) const {
  require(requires_grad(), "register_hook",
          "expected a variable that requires a gradient, got one that does not: the hook would never run");
  require(hook != nullptr, "register_hook", "expected a function, got an empty one");
  return Internals::add_hook(*this, {std::move(hook), nullptr});
}

HookHandle Variable::register_accumulated_hook(AccumulatedHook hook) const {
  require(requires_grad(), "register_accumulated_hook",
          "expected a variable that requires a gradient, got one that does not: the hook would never run");
  require(is_leaf(), "register_accumulated_hook",
          "expected a leaf, got the result of '{}', which accumulates nothing; use register_hook",
          state_->node->name);
  require(hook != nullptr, "register_accumulated_hook", "expected a function, got an empty one");
  return Internals::add_hook(*this, {nullptr, std::move(hook)});
}

void HookHandle::remove() {
  const std::shared_ptr<Hook> hook = hook_.lock();
  if (!hook) return;
  hook->removed = true;
  if (const std::shared_ptr<Hooks> hooks = hooks_.lock())
    hooks->list.erase(std::remove(hooks->list.begin(), hooks->list.end(), hook), hooks->list.end());
  hook_.reset();
}

// --- recording ---------------------------------------------------------------------------------------------

bool is_recording() { return thread_state().recording; }
NoGrad::NoGrad(bool on) : previous_(std::exchange(thread_state().recording, on)) {}
NoGrad::~NoGrad() { thread_state().recording = previous_; }

UseWatch::UseWatch() : outer_(std::exchange(thread_state().watch, this)) {}
UseWatch::~UseWatch() { thread_state().watch = outer_; }

namespace {
const Tensor& require_unchanged(const Tensor& saved, uint64_t version) {
  require(saved.version() == version, "backward",
          "a value saved for the gradient was changed in place (version {}, expected {}); change a clone() "
          "instead",
          saved.version(), version);
  return saved;
}
}  // namespace

const Tensor& SavedTensor::get() const { return require_unchanged(value_, version_); }

Saved::Saved(const Variable& variable)
    : variable_(Internals::with_history(variable.value(), variable)), version_(variable.value().version()) {}

const Variable& Saved::get() const {
  require_unchanged(variable_.value(), version_);
  return variable_;
}

namespace {
void note_copy(const Tensor& saved) {
  if (std::vector<Shape>* census = thread_state().census) census->push_back(saved.shape());
}
}  // namespace

SavedTensor::SavedTensor(const SavedTensor& other) : value_(other.value_), version_(other.version_) {
  note_copy(value_);
}

Saved::Saved(const Saved& other) : variable_(other.variable_), version_(other.version_) {
  note_copy(variable_.value());
}

Variable record(std::string_view name, Tensor value, std::vector<Variable> inputs, GradientRule rule) {
  Variable out(std::move(value));
  const ThreadState& thread = thread_state();
  if (thread.anomaly && thread.anomaly->forward && !thread.inside_walk)
    check_value(name, out.value(), inputs, *thread.anomaly);
  if (thread.watch)
    for (const Variable& input : inputs)
      if (input.requires_grad()) thread.watch->note(input);
  if (!thread.recording || !is_floating(out.dtype()) ||
      std::none_of(inputs.begin(), inputs.end(), [](const Variable& v) { return v.requires_grad(); }))
    return out;
  auto node = std::make_shared<Node>(name, out.value());
  node->inputs.reserve(inputs.size());
  for (const Variable& input : inputs) node->inputs.push_back(Internals::node(input));
  node->rule = std::move(rule);
  Internals::state(out)->node = std::move(node);
  return out;
}

}  // namespace halfstep
