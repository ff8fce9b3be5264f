// The graph behind Variables: nodes, hooks and what a thread is doing. Internal to autograd/.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "autograd/anomaly.h"
#include "autograd/variable.h"

namespace halfstep {

struct Node;
using NodePtr = std::shared_ptr<Node>;

/// One of the two is set.
struct Hook {
  GradientHook on_gradient;
  AccumulatedHook on_accumulated;
  bool removed = false;  ///< a walk under way holds copies of the list
};

struct Hooks {
  std::vector<std::shared_ptr<Hook>> list;  ///< in order of registration
};

/// One step of a computation, or a leaf, which has no inputs and no rule. Edges point to the nodes of the
/// inputs only, never forward, and hold no values: what a rule needs it captures itself.
struct Node {
  std::string_view name;
  std::shared_ptr<const std::string> scope;  ///< the NameScopes it was made in; nullptr outside of any
  uint64_t sequence;                         ///< creation order: inputs always have smaller numbers
  Shape shape;
  DType dtype;
  Device* device;
  std::vector<NodePtr> inputs;  ///< nullptr where no gradient is wanted
  GradientRule rule;
  std::shared_ptr<Hooks> hooks;       ///< nullptr until the first one is registered
  std::weak_ptr<VariableState> leaf;  ///< where a leaf's gradient is accumulated
  bool is_leaf = false;
  bool enabled = true;    ///< off in a leaf that has stopped to require a gradient
  bool freed = false;     ///< rule and inputs were released
  bool replaced = false;  ///< of a leaf: set_value gave the Variable another value

  Node(std::string_view node_name, const Tensor& value);
  ~Node();
  /// Drops rule, inputs and hooks, and with them all memory that only this node kept.
  void release();
};

struct VariableState {
  Tensor value;
  Variable grad;
  NodePtr node;  ///< nullptr where no gradient was ever wanted

  explicit VariableState(Tensor v) : value(std::move(v)) {}
  ~VariableState();
};

/// The way from a Variable to its parts.
struct Internals {
  static const std::shared_ptr<VariableState>& state(const Variable& v) { return v.state_; }
  /// nullptr where no gradient is wanted.
  static NodePtr node(const Variable& v) { return v.requires_grad() ? v.state_->node : nullptr; }
  static Variable wrap(std::shared_ptr<VariableState> state);
  /// Another handle with this value and the history of `history`, but without its grad().
  static Variable with_history(Tensor value, const Variable& history);
  static HookHandle add_hook(const Variable& v, Hook hook);
};

/// The next number of Node::sequence, process-wide.
uint64_t next_sequence();

/// Notes the Variables that require a gradient and are used while it lives, whether or not operations are
/// recorded. checkpoint() finds in it what a function captured.
class UseWatch {
 public:
  UseWatch();
  ~UseWatch();
  UseWatch(const UseWatch&) = delete;
  UseWatch& operator=(const UseWatch&) = delete;
  void note(const Variable& used) { used_.push_back(used); }
  const std::vector<Variable>& used() const { return used_; }

 private:
  std::vector<Variable> used_;
  UseWatch* outer_;
};

/// What this thread is doing.
struct ThreadState {
  bool recording = true;
  bool inside_walk = false;  ///< operations are those of rules and the engine, not the user's
  uint64_t walk = 0;         ///< identifies the walk under way; 0: none
  const AnomalyOptions* anomaly = nullptr;
  std::shared_ptr<const std::string> scope;
  UseWatch* watch = nullptr;
  std::vector<Shape>* census = nullptr;  ///< where copies of saved tensors note their shapes
};
ThreadState& thread_state();

/// Sets something for a scope.
template <class T>
class Assign {
 public:
  Assign(T& place, T value) : place_(place), previous_(std::exchange(place, std::move(value))) {}
  ~Assign() { place_ = std::move(previous_); }
  Assign(const Assign&) = delete;
  Assign& operator=(const Assign&) = delete;

 private:
  T& place_;
  T previous_;
};

}  // namespace halfstep
