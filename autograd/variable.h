// Reverse-mode automatic differentiation: Variable, the tape and backward().
//
// A Variable is a Tensor that may remember how it was computed. Each operation on Variables adds one Node to
// an implicit graph: the Node knows its input Variables and a rule that turns the gradient of the output into
// gradients of the inputs. backward() walks the graph from the output to the leaves, newest node first. Only
// the engine (variable.cpp) accumulates, sums broadcast gradients back to the input's shape and checks
// shapes, dtypes and devices; rules just return gradients.
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

/// Called with the finished gradient of a Variable; a defined return value replaces it.
using GradientHook = std::function<Variable(const Variable& gradient)>;

struct Node;  // private to variable.cpp

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
  /// Same value, no history, requires no gradient.
  Variable detach() const;
  /// Replaces the value of a leaf (parameters moved to another dtype or device, loaded weights). The shape
  /// may change; a collected gradient is dropped.
  void set_value(Tensor value);

  /// The accumulated gradient: undefined until a backward() reached this leaf. A Variable, because gradients
  /// may themselves be differentiated.
  const Variable& grad() const;
  void set_grad(Variable grad);
  void zero_grad();

  /// Runs when the gradient of this Variable is complete, before it is passed on or accumulated.
  void register_hook(GradientHook hook) const;

  /// Gradient of this scalar with respect to all leaves, added to their grad(). The graph is freed unless
  /// `retain_graph`; using it afterwards is an error. `create_graph` records the gradients' own computation.
  void backward(bool retain_graph = false, bool create_graph = false) const;
  /// The same from a given upstream gradient, for outputs of any shape.
  void backward(const Variable& upstream, bool retain_graph = false, bool create_graph = false) const;

  /// Identity of the handle (not of the values).
  bool same(const Variable& other) const { return state_ == other.state_; }

 private:
  friend struct Engine;
  friend struct Node;
  friend Variable record(std::string_view, Tensor, std::vector<Variable>, GradientRule);
  struct State;
  std::shared_ptr<State> state_;
};

/// Gradients of `output` (any shape; `upstream` defaults to ones for a scalar) with respect to `inputs`,
/// without touching grad() of any leaf. An input that does not influence the output gets zeros.
std::vector<Variable> grad(const Variable& output, const std::vector<Variable>& inputs,
                           const Variable& upstream = {}, bool retain_graph = false,
                           bool create_graph = false);

// --- writing operations ------------------------------------------------------------------------------------

/// Makes the result of an operation: remembers `inputs` and `rule` if recording is on and an input requires a
/// gradient. `name` appears in errors.
Variable record(std::string_view name, Tensor value, std::vector<Variable> inputs, GradientRule rule);

/// A tensor kept for a rule, such as the operation's own output.
class SavedTensor {
 public:
  explicit SavedTensor(Tensor value) : value_(std::move(value)), version_(value_.version()) {}
  const Tensor& get() const;  ///< throws Error if it was changed in place since

 private:
  Tensor value_;
  uint64_t version_;
};

/// An input kept for a rule, with its history, so that the rule can be differentiated. Never keep the output
/// this way: a rule that captured its own output would be a reference cycle.
class Saved {
 public:
  explicit Saved(const Variable& variable) : variable_(variable), value_(variable.value()) {}
  const Variable& get() const;  ///< throws Error if its value was changed in place since
  const Tensor& tensor() const { return get().value(); }

 private:
  Variable variable_;
  SavedTensor value_;
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
