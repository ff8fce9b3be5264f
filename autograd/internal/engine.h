// The engine that walks graphs. Internal to autograd/.
#pragma once

#include <functional>
#include <map>
#include <optional>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

#include "autograd/internal/anomaly_watch.h"
#include "autograd/internal/node.h"

namespace halfstep {

struct WalkOptions {
  bool retain_graph = false;
  bool create_graph = false;
  /// Targets are taken as independent of one another: a target's gradient is not passed on, and its hooks do
  /// not run. For rules that differentiate a piece of the graph on behalf of a walk that does the rest.
  bool cut_at_targets = false;
};

/// One walk over a graph, from outputs to leaves.
class Engine {
 public:
  explicit Engine(WalkOptions options) : options_(options) {}

  /// Walks from the outputs to all leaves, whose grad() accumulates.
  void accumulate(const std::vector<Variable>& outputs, const std::vector<Variable>& upstreams);

  /// Gradients of the targets, undefined where there is no path; no leaf is touched.
  std::vector<Variable> gradients(const std::vector<Variable>& outputs,
                                  const std::vector<Variable>& upstreams,
                                  const std::vector<NodePtr>& targets);

 private:
  void walk(const std::vector<Variable>& outputs, const std::vector<Variable>& upstreams);
  void find_path(const std::vector<NodePtr>& roots);
  bool leads_on(const Node& node) const;
  void add(const NodePtr& node, Variable gradient);
  Variable run_hooks(const Node& node, Variable gradient) const;
  void run_rule(const NodePtr& node, const Variable& gradient);
  void accumulate_leaf(const Node& node, Variable gradient) const;

  WalkOptions options_;
  bool to_leaves_ = false;                   ///< accumulate(), as against gradients()
  std::unordered_set<const Node*> targets_;  ///< of gradients()
  uint64_t oldest_target_ = 0;               ///< by sequence; 0: leaves, which may be of any age
  std::unordered_set<const Node*> on_path_;  ///< nodes that lie between the outputs and what is asked for
  std::unordered_map<const Node*, Variable> finished_;  ///< gradients of targets
  /// Gradients that are still being collected, newest node first. A node is reached only after all its
  /// consumers, because they are newer.
  std::map<uint64_t, std::pair<NodePtr, Variable>, std::greater<>> pending_;
  std::optional<AnomalyWatch> anomaly_;
};

/// The gradient as it is handed out: contiguous memory that nobody else holds, so that a change in place of
/// one gradient changes no other. Copies only where that is not so already.
Variable owned(Variable gradient);

}  // namespace halfstep
