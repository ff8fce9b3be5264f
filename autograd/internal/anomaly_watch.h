// The checks behind DetectAnomaly. Internal to autograd/.
#pragma once

#include <string>
#include <unordered_map>
#include <vector>

#include "autograd/internal/node.h"

namespace halfstep {

/// Checks the value of an operation that has just been computed. Called by record() in anomaly mode.
void check_value(std::string_view name, const Tensor& value, const std::vector<Variable>& inputs,
                 const AnomalyOptions& options);

/// Checks the gradients of one walk. Edges disappear as the walk frees the graph, so the way from the output
/// to each node is noted before.
class AnomalyWatch {
 public:
  explicit AnomalyWatch(AnomalyOptions options) : options_(options) {}

  /// `consumer` is the first node found that uses `node`; nullptr for an output.
  void note(const Node& node, const Node* consumer);

  void check_upstream(const Node& output, const Variable& upstream) const;
  void check_hook(const Node& node, const Variable& gradient) const;
  void check_rule(const Node& node, const Variable& upstream, const std::vector<Variable>& gradients) const;
  void check_sum(const Node& node, const Variable& sum) const;

 private:
  /// "in sum <- log <- multiply <- leaf, scope encoder": from the output through `node` to a leaf, following
  /// `input` first.
  std::string whereabouts(const Node& node, size_t input) const;

  struct Step {
    std::string name;
    const Node* consumer;  ///< a key of steps_, never dereferenced: the node may be gone
  };
  AnomalyOptions options_;
  std::unordered_map<const Node*, Step> steps_;
};

}  // namespace halfstep
