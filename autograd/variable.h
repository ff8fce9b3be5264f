// Reverse-mode automatic differentiation: Variable, the tape and backward().
//
// A Variable is a Tensor that may remember how it was computed. Each operation on Variables adds one Node to
// an implicit graph: the Node knows the Nodes of its inputs and a rule that turns the gradient of the output
// into gradients of the inputs. backward() walks the graph from the output to the leaves, newest node first.
// Only the engine (engine.cpp) accumulates, sums broadcast gradients back to the input's shape and checks
// shapes, dtypes and devices; rules just return gradients.
//
// Threads: recording, hooks and modes belong to a thread. Threads may build and walk graphs of their own at
// the same time and may read the same leaves, with grad(). Whatever changes a Variable that another thread
// uses (backward() into a shared leaf, set_value, hooks, walking one graph twice) needs a lock of the
// caller's: the order of additions, and with it the last bit, would depend on timing anyway.
//
// More: functional.h (vjp, jvp, jacobian, hessian), checkpoint.h (less memory), anomaly.h (where a NaN comes
// from), graph.h (pictures of graphs), gradcheck.h (is a rule right?).
#pragma once

#include <functional>
#include <memory>
#include <string_view>
#include <vector>

#include "tensor/tensor.h"

namespace halfstep {

class Variable;

/// Gradients of the inputs, in input order, from the gradient of the output. An undefined Variable means "no
/// gradient". Rules are written with differentiable ops: when gradients of gradients are asked for they are
/// recorded like any other computation.
using GradientRule = std::function<std::vector<Variable>(const Variable& upstream)>;

/// Called with the finished gradient of a Variable; a defined return value, of the same shape, replaces it.
using GradientHook = std::function<Variable(const Variable& gradient)>;
/// Called with a leaf whose grad() has just been added to.
using AccumulatedHook = std::function<void(const Variable& leaf)>;

struct VariableState;  // these four are private to autograd/
struct Hooks;
struct Hook;
struct Internals;

/// What register_hook returns: takes the hook away again. Dropping the handle leaves the hook in place.
class HookHandle {
 public:
  HookHandle() = default;
  /// From now on the hook does not run, not even later in a backward() that is under way, and what it
  /// captured is released. May be called from the hook itself, twice, and after the Variable is gone.
  void remove();

 private:
  friend struct Internals;
  std::weak_ptr<Hooks> hooks_;
  std::weak_ptr<Hook> hook_;
};

/// Value + gradient + optional history. Copies share all three (it is a handle). A Variable made from a
/// Tensor is a leaf: its gradient is accumulated by backward() if `requires_grad`.
class Variable {
 public:
  Variable() = default;
  explicit Variable(Tensor value, bool requires_grad = false);

  bool defined() const { return state_ != nullptr; }
  /// Throws Error while undefined.
  const Tensor& value() const;
  const Shape& shape() const { return value().shape(); }
  int64_t size(int axis) const { return value().size(axis); }
  int rank() const { return value().rank(); }
  int64_t numel() const { return value().numel(); }
  DType dtype() const { return value().dtype(); }
  TensorOptions options() const { return value().options(); }
  double item() const { return value().item(); }

  /// True for leaves that collect gradients and for results that depend on one.
  bool requires_grad() const;
  /// Only on leaves.
  void set_requires_grad(bool requires_grad);
  bool is_leaf() const;
  /// Same value, no history, requires no gradient. `y = y.detach()` releases the graph behind y.
  Variable detach() const;
  /// Replaces the value of a leaf (parameters moved to another dtype or device, loaded weights). The shape
  /// may change; a collected gradient is dropped, hooks stay. Graphs that used the old value say so when
  /// they are walked.
  void set_value(Tensor value);

  /// The accumulated gradient: undefined until a backward() reached this leaf. Its memory is contiguous and
  /// its own: a change in place reaches no other gradient and no upstream gradient. A Variable, because
  /// gradients may themselves be differentiated.
  const Variable& grad() const;
  void set_grad(Variable grad);
  void zero_grad();

  /// Runs in every backward() and grad() that reaches this Variable, leaf or result, once its gradient in
  /// that walk is complete and before it is passed on, returned or added to grad(). Several hooks run in the
  /// order of registration, each on what the one before made of the gradient. Hooks of a result go with its
  /// graph. A hook that captures its own Variable keeps it alive until it is removed: capture a detach().
  HookHandle register_hook(GradientHook hook) const;
  /// Only on leaves: runs after backward() has added to grad(), for example to take an optimiser step at
  /// once and drop the gradient. grad() accumulates nothing and does not run it.
  HookHandle register_accumulated_hook(AccumulatedHook hook) const;

  /// Gradient of this scalar with respect to all leaves, added to their grad(). What a node kept is released
  /// as soon as its rule has run, unless `retain_graph`; walking a released graph is an error. `create_graph`
  /// records the gradients' own computation (and retains the graph). If a rule or hook throws, leaves that
  /// were reached keep what they got, and the graph is as after a backward() up to that point.
  void backward(bool retain_graph = false, bool create_graph = false) const;
  /// The same from a given upstream gradient of this shape, for outputs of any shape.
  void backward(const Variable& upstream, bool retain_graph = false, bool create_graph = false) const;

  /// Identity of the handle (not of the values).
  bool same(const Variable& other) const { return state_ == other.state_; }

 private:
  friend struct Internals;
  std::shared_ptr<VariableState> state_;
};

/// backward() of several outputs in one walk: the gradient of the sum of <output, upstream> over all outputs.
/// `upstreams` is empty or has one entry per output; an undefined one means 1 and needs a scalar output.
void backward(const std::vector<Variable>& outputs, const std::vector<Variable>& upstreams = {},
              bool retain_graph = false, bool create_graph = false);

/// Gradients of the sum of <output, upstream> with respect to `inputs`, leaves or intermediate results,
/// without touching grad() of any leaf. Each has the shape of its input and memory of its own. An input that
/// does not influence the outputs gets zeros. Arguments as for backward().
std::vector<Variable> grad(const std::vector<Variable>& outputs, const std::vector<Variable>& inputs,
                           const std::vector<Variable>& upstreams = {}, bool retain_graph = false,
                           bool create_graph = false);
/// The same for one output of any shape; `upstream` defaults to 1 for a scalar.
std::vector<Variable> grad(const Variable& output, const std::vector<Variable>& inputs,
                           const Variable& upstream = {}, bool retain_graph = false,
                           bool create_graph = false);

// --- writing operations ------------------------------------------------------------------------------------

/// Makes the result of an operation: remembers `inputs` and `rule` if recording is on, an input requires a
/// gradient and the value is f32, f64 or bf16. `name`, a string literal, appears in errors and pictures.
Variable record(std::string_view name, Tensor value, std::vector<Variable> inputs, GradientRule rule);

/// A tensor kept for a rule, such as the operation's own output.
class SavedTensor {
 public:
  explicit SavedTensor(Tensor value) : value_(std::move(value)), version_(value_.version()) {}
  const Tensor& get() const;  ///< throws Error if it was changed in place since

  SavedTensor(const SavedTensor& other);  ///< tells graph_of(), which copies rules to see what they keep
  SavedTensor(SavedTensor&&) = default;
  SavedTensor& operator=(const SavedTensor&) = default;
  SavedTensor& operator=(SavedTensor&&) = default;

 private:
  Tensor value_;
  uint64_t version_;
};

/// An input kept for a rule, with its history, so that the rule can be differentiated. get() throws if the
/// value was changed in place since. It keeps value and history but not grad(), so a gradient whose graph
/// leads back to the leaf that holds it is no reference cycle. Never keep the output this way: a rule that
/// captured its own output would be one.
class Saved {
 public:
  explicit Saved(const Variable& variable);
  const Variable& get() const;  ///< throws Error if its value was changed in place since
  const Tensor& tensor() const { return get().value(); }

  Saved(const Saved& other);  ///< as SavedTensor's
  Saved(Saved&&) = default;
  Saved& operator=(const Saved&) = default;
  Saved& operator=(Saved&&) = default;

 private:
  Variable variable_;
  uint64_t version_ = 0;
};

/// Whether operations are recorded on this thread.
bool is_recording();

/// Switches recording off (or on) for a scope: `NoGrad guard;`.
class NoGrad {
 public:
  NoGrad() : NoGrad(false) {}
  ~NoGrad();
  NoGrad(const NoGrad&) = delete;
  NoGrad& operator=(const NoGrad&) = delete;

 protected:
  explicit NoGrad(bool recording);

 private:
  bool previous_;
};
/// Switches recording on for a scope, inside a NoGrad.
class EnableGrad : public NoGrad {
 public:
  EnableGrad() : NoGrad(true) {}
};

}  // namespace halfstep
