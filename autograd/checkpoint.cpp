#include "autograd/checkpoint.h"

#include <algorithm>
#include <memory>
#include <optional>
#include <unordered_set>

#include "autograd/internal/engine.h"
#include "tensor/error.h"

namespace halfstep {

namespace {

/// A node has one output. So each output of the function is a node on a common one, the hub, and leaves its
/// gradient here; the hub, which is older and therefore runs when all of them have, collects them.
class Mailbox {
 public:
  explicit Mailbox(size_t outputs) : gradients_(outputs) {}

  void put(size_t output, const Variable& gradient) {
    if (walk_ != thread_state().walk) {  // what an interrupted walk left
      std::fill(gradients_.begin(), gradients_.end(), Variable());
      walk_ = thread_state().walk;
    }
    gradients_[output] = gradient;
  }
  std::vector<Variable> take() {
    walk_ = 0;
    return std::exchange(gradients_, std::vector<Variable>(gradients_.size()));
  }

 private:
  std::vector<Variable> gradients_;
  uint64_t walk_ = 0;
};

/// What is kept between the two runs.
struct Segment {
  MultiFunction function;
  std::vector<std::optional<Saved>> inputs;
  std::vector<NodePtr> captured;  ///< nodes of the Variables that the function captured
  std::vector<SavedTensor> captured_values;
  std::vector<TensorOptions> options;  ///< of the outputs
  std::vector<Shape> shapes;

  std::vector<Variable> gradients(const std::vector<Variable>& upstreams) const;
};

std::vector<Variable> Segment::gradients(const std::vector<Variable>& upstreams) const {
  for (const SavedTensor& value : captured_values) value.get();
  const bool create_graph = is_recording();
  EnableGrad recording;
  std::vector<Variable> in;
  std::vector<NodePtr> targets;
  for (const std::optional<Saved>& saved : inputs) {
    if (!saved) {
      in.emplace_back();
    } else if (create_graph && saved->get().requires_grad()) {
      // A node of its own: the same Variable may be several inputs, or captured, too.
      in.push_back(record("input", saved->tensor(), {saved->get()},
                          [](const Variable& g) -> std::vector<Variable> { return {g}; }));
    } else {
      in.emplace_back(saved->tensor(), saved->get().requires_grad());
    }
    targets.push_back(Internals::node(in.back()));
  }
  targets.insert(targets.end(), captured.begin(), captured.end());

  const std::vector<Variable> outputs = function(in);
  require(outputs.size() == shapes.size(), "checkpoint",
          "the function returned {} outputs, then {} when it was run again; it must do the same each time",
          shapes.size(), outputs.size());
  std::vector<Variable> used, used_upstreams;
  for (size_t i = 0; i < outputs.size(); ++i) {
    require(outputs[i].shape() == shapes[i] && outputs[i].dtype() == options[i].dtype, "checkpoint",
            "output {} had shape {} and {}, then {} and {} when the function was run again; it must do the "
            "same each time",
            i, str(shapes[i]), name_of(options[i].dtype), str(outputs[i].shape()),
            name_of(outputs[i].dtype()));
    if (!upstreams[i].defined() || !outputs[i].requires_grad()) continue;
    used.push_back(outputs[i]);
    used_upstreams.push_back(upstreams[i]);
  }
  if (used.empty()) return std::vector<Variable>(targets.size());
  return Engine({.retain_graph = create_graph, .create_graph = create_graph, .cut_at_targets = true})
      .gradients(used, used_upstreams, targets);
}

}  // namespace

std::vector<Variable> checkpoint(const MultiFunction& function, const std::vector<Variable>& inputs) {
  if (!is_recording()) return function(inputs);

  // The first run records nothing; a watch finds what the function captured.
  const uint64_t start = next_sequence();
  std::vector<Variable> outputs, parents;
  std::vector<NodePtr> captured;
  std::vector<SavedTensor> captured_values;
  {
    NoGrad no_grad;
    UseWatch watch;
    std::vector<Variable> plain;
    for (const Variable& x : inputs) plain.push_back(x.defined() ? x.detach() : x);
    outputs = function(plain);
    std::vector<Variable> candidates = watch.used();
    candidates.insert(candidates.end(), outputs.begin(), outputs.end());  // a captured one may be returned
    std::unordered_set<const Node*> seen;
    for (const Variable& used : candidates) {
      const NodePtr node = Internals::node(used);
      if (!node || node->sequence > start || !seen.insert(node.get()).second) continue;
      parents.push_back(used);
      captured.push_back(node);
      captured_values.emplace_back(used.value());
    }
  }
  Segment segment;
  segment.function = function;
  segment.captured = std::move(captured);
  segment.captured_values = std::move(captured_values);
  for (const Variable& x : inputs)
    segment.inputs.push_back(x.defined() ? std::optional<Saved>(x) : std::nullopt);
  for (size_t i = 0; i < outputs.size(); ++i) {
    require(outputs[i].defined(), "checkpoint", "the function returned an undefined variable as output {}",
            i);
    segment.options.push_back(outputs[i].options());
    segment.shapes.push_back(outputs[i].shape());
  }
  parents.insert(parents.begin(), inputs.begin(), inputs.end());

  auto mailbox = std::make_shared<Mailbox>(outputs.size());
  const Variable hub = record("checkpoint", Tensor::zeros({}), parents,
                              [segment = std::move(segment), mailbox](const Variable&) {
                                return segment.gradients(mailbox->take());
                              });
  for (size_t i = 0; i < outputs.size(); ++i)
    outputs[i] = record("checkpoint_output", outputs[i].value(), {hub},
                        [i, mailbox](const Variable& g) -> std::vector<Variable> {
                          mailbox->put(i, g);
                          return {Variable(Tensor::zeros({}))};
                        });
  return outputs;
}

Variable checkpoint(const DifferentiableFunction& function, const std::vector<Variable>& inputs) {
  return checkpoint(MultiFunction([function](const std::vector<Variable>& in) {
                      return std::vector<Variable>{function(in)};
                    }),
                    inputs)[0];
}

}  // namespace halfstep
