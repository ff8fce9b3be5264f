// Where does a NaN come from? Anomaly detection checks every value and every gradient as soon as it is there,
// and names the operation that produced the first bad one:
//
//   DetectAnomaly guard;
//   loss(model, batch).backward();
//   // [anomaly] the backward of 'sqrt' produced NaN: gradient of its input 0, shape (3,), 1 of 3 elements
//   // (first at element 2), from an upstream gradient without NaN; in sum <- sqrt <- multiply <- leaf, scope
//   // decoder/norm
//
// It costs a copy of every value to the host, so it is for debugging.
#pragma once

#include <memory>
#include <string>

namespace halfstep {

/// What is looked for, and when.
struct AnomalyOptions {
  /// Inf counts as bad, too. Off, because log(0) = -inf and masks of -inf are often meant.
  bool infinity = false;
  /// Also values are checked, of every operation that runs, recorded or not; off: only gradients.
  bool forward = true;
};

/// While it lives, on this thread, operations and backward() throw Error at the first value or gradient that
/// contains NaN. The message says which operation made it, of which input the gradient is, whether what came
/// in was bad already (then the user's own upstream gradient, hook or data is named, not the operation), the
/// operations between the output and it and before it, and the NameScopes it was made in. Guards nest; the
/// innermost counts.
class DetectAnomaly {
 public:
  explicit DetectAnomaly(AnomalyOptions options = {});
  ~DetectAnomaly();
  DetectAnomaly(const DetectAnomaly&) = delete;
  DetectAnomaly& operator=(const DetectAnomaly&) = delete;

 private:
  AnomalyOptions options_;
  const AnomalyOptions* previous_;
};

/// Operations made while it lives, on this thread, carry this name in anomaly reports and pictures of graphs.
/// Scopes nest: "encoder/block1".
class NameScope {
 public:
  explicit NameScope(const std::string& name);
  ~NameScope();
  NameScope(const NameScope&) = delete;
  NameScope& operator=(const NameScope&) = delete;

 private:
  std::shared_ptr<const std::string> previous_;
};

}  // namespace halfstep
