#include "autograd/anomaly.h"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>

#include "autograd/internal/anomaly_watch.h"
#include "tensor/error.h"

namespace halfstep {

DetectAnomaly::DetectAnomaly(AnomalyOptions options)
    : options_(options), previous_(std::exchange(thread_state().anomaly, &options_)) {}
DetectAnomaly::~DetectAnomaly() { thread_state().anomaly = previous_; }

NameScope::NameScope(const std::string& name) : previous_(thread_state().scope) {
  thread_state().scope = std::make_shared<const std::string>(previous_ ? *previous_ + "/" + name : name);
}
NameScope::~NameScope() { thread_state().scope = std::move(previous_); }

namespace {

/// How many names of the chain are shown on each side of the node.
constexpr int kShownSteps = 6;

/// What is not finite in a tensor.
struct Badness {
  int64_t nans = 0, infinities = 0, first = -1;

  bool bad(const AnomalyOptions& options) const { return nans > 0 || (options.infinity && infinities > 0); }
  std::string_view kind() const {
    return nans > 0 ? (infinities > 0 ? "NaN and Inf" : "NaN") : infinities > 0 ? "Inf" : "finite values";
  }
  /// "shape (3,), 1 of 3 elements (first at element 2)"
  std::string extent(const Shape& shape) const {
    return fmt::format("shape {}, {} of {} elements (first at element {})", str(shape), nans + infinities,
                       numel(shape), first);
  }
};

/// Counts NaN, and Inf.
Badness examine(const Tensor& t) {
  Badness result;
  if (t.dtype() == DType::i64) return result;
  const std::vector<double> values = t.to_vector<double>();
  for (size_t i = 0; i < values.size(); ++i) {
    if (std::isfinite(values[i])) continue;
    ++(std::isnan(values[i]) ? result.nans : result.infinities);
    if (result.first < 0) result.first = static_cast<int64_t>(i);
  }
  return result;
}

/// The same, with only what the options call bad.
Badness find_bad(const Tensor& t, const AnomalyOptions& options) {
  Badness result = examine(t);
  if (!result.bad(options)) return {};
  if (options.infinity) return result;
  const std::vector<double> values = t.to_vector<double>();
  const auto is_nan = [](double v) { return std::isnan(v); };
  result.first = std::find_if(values.begin(), values.end(), is_nan) - values.begin();
  result.infinities = 0;
  return result;
}

std::string in_scope(const std::shared_ptr<const std::string>& scope) {
  return scope ? fmt::format(", scope {}", *scope) : std::string();
}

}  // namespace

void check_value(std::string_view name, const Tensor& value, const std::vector<Variable>& inputs,
                 const AnomalyOptions& options) {
  const Badness bad = find_bad(value, options);
  if (!bad.bad(options)) return;
  std::string from = "from finite inputs";
  for (size_t i = 0; i < inputs.size(); ++i) {
    if (!inputs[i].defined()) continue;
    const Badness before = examine(inputs[i].value());
    if (before.nans + before.infinities == 0) continue;
    from = fmt::format("{} its input {} {} {} already: {}", before.bad(options) ? "but" : "and", i,
                       before.bad(options) ? "contains" : "contained", before.kind(),
                       before.extent(inputs[i].shape()));
    if (before.bad(options)) break;
  }
  std::string chain(name);
  const Node* node = nullptr;
  for (const Variable& input : inputs)
    if (!node) node = Internals::node(input).get();
  for (int i = 0; node && i < kShownSteps; ++i) {
    chain += fmt::format(" <- {}", node->name);
    const auto next =
        std::find_if(node->inputs.begin(), node->inputs.end(), [](const NodePtr& n) { return n != nullptr; });
    node = next == node->inputs.end() ? nullptr : next->get();
  }
  fail("anomaly", "the value of '{}' contains {}: {}, {}; in {}{}", name, bad.kind(),
       bad.extent(value.shape()), from, chain, in_scope(thread_state().scope));
}

// --- gradients ---------------------------------------------------------------------------------------------

void AnomalyWatch::note(const Node& node, const Node* consumer) {
  steps_[&node] = {std::string(node.name), consumer};
}

std::string AnomalyWatch::whereabouts(const Node& node, size_t input) const {
  std::vector<std::string_view> up;  // from the node to the output
  for (auto step = steps_.find(&node); step != steps_.end(); step = steps_.find(step->second.consumer))
    up.push_back(step->second.name);
  std::string chain;
  if (static_cast<int>(up.size()) > kShownSteps) {
    chain = fmt::format("{} <- ... <- ", up.back());
    up.resize(kShownSteps);
  }
  for (auto name = up.rbegin(); name != up.rend(); ++name)
    chain += fmt::format("{}{}", name == up.rbegin() ? "" : " <- ", *name);
  const Node* at = input < node.inputs.size() ? node.inputs[input].get() : nullptr;
  for (int i = 0; at; ++i) {
    if (i == kShownSteps) {
      chain += " <- ...";
      break;
    }
    chain += fmt::format(" <- {}", at->name);
    const auto next =
        std::find_if(at->inputs.begin(), at->inputs.end(), [](const NodePtr& n) { return n != nullptr; });
    at = next == at->inputs.end() ? nullptr : next->get();
  }
  return fmt::format("in {}{}", chain, in_scope(node.scope));
}

void AnomalyWatch::check_upstream(const Node& output, const Variable& upstream) const {
  const Badness bad = find_bad(upstream.value(), options_);
  if (bad.bad(options_))
    fail("anomaly", "the upstream gradient given for '{}' contains {} before any rule has run: {}; {}",
         output.name, bad.kind(), bad.extent(upstream.shape()), whereabouts(output, 0));
}

void AnomalyWatch::check_hook(const Node& node, const Variable& gradient) const {
  const Badness bad = find_bad(gradient.value(), options_);
  if (bad.bad(options_))
    fail("anomaly", "a hook of '{}' returned {}: {}; {}", node.name, bad.kind(), bad.extent(gradient.shape()),
         whereabouts(node, 0));
}

void AnomalyWatch::check_rule(const Node& node, const Variable& upstream,
                              const std::vector<Variable>& gradients) const {
  for (size_t i = 0; i < gradients.size(); ++i) {
    if (!node.inputs[i] || !gradients[i].defined()) continue;
    const Badness bad = find_bad(gradients[i].value(), options_);
    if (!bad.bad(options_)) continue;
    const Badness before = examine(upstream.value());  // contains nothing bad, or it would have been named
    const std::string from = before.infinities > 0 ? fmt::format("from an upstream gradient with Inf: {}",
                                                                 before.extent(upstream.shape()))
                                                   : "from a finite upstream gradient";
    fail("anomaly", "the backward of '{}' produced {}: gradient of its input {}, {}, {}; {}", node.name,
         bad.kind(), i, bad.extent(gradients[i].shape()), from, whereabouts(node, i));
  }
}

void AnomalyWatch::check_sum(const Node& node, const Variable& sum) const {
  const Badness bad = find_bad(sum.value(), options_);
  if (bad.bad(options_))
    fail("anomaly", "adding up the gradients of the uses of '{}' gave {}: {}; {}", node.name, bad.kind(),
         bad.extent(sum.shape()), whereabouts(node, 0));
}

}  // namespace halfstep
