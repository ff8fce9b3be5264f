// Adam and AdamW, gradient clipping, learning-rate schedules.
#pragma once

#include "nn/module.h"

namespace halfstep {

/// Constants of Adam (Kingma & Ba 2015); the defaults are those of the paper.
struct AdamConfig {
  double beta1 = 0.9, beta2 = 0.999, eps = 1e-8;
  /// Decoupled (AdamW, Loshchilov & Hutter 2019; also the official progressive distillation code): p -= lr *
  /// weight_decay * p, with p before the update.
  double weight_decay = 0;
  /// Added to the gradient as l2 * p (PyTorch's Adam(weight_decay)).
  double l2 = 0;
  /// Gradients are scaled by min(1, max_grad_norm / (norm + clip_eps)), norm over all parameters together; 0
  /// switches it off.
  double max_grad_norm = 0;
  /// 0 in the official progressive distillation code; PyTorch's clip_grad_norm_ uses 1e-6.
  double clip_eps = 0;
};

/// What the device has counted.
struct OptimizerStats {
  int64_t applied = 0;   ///< updates done
  int64_t skipped = 0;   ///< updates left out because a gradient was not finite
  double last_norm = 0;  ///< gradient norm of the last step, before clipping
};

/// Adam (Kingma & Ba 2015), with eps outside the square root and bias-corrected moments:
///   m = b1 m + (1-b1) g,  v = b2 v + (1-b2) g^2,  p -= lr m/(1-b1^t) / (sqrt(v/(1-b2^t)) + eps).
/// A step reads nothing back to the host: the norm, the clipping factor, t and the decision to skip a step
/// whose gradients are not finite stay in a small control block on the device.
///
/// A parameter without a gradient is treated as having the gradient 0 (a module may not use all of its
/// parameters); a step in which no parameter has one is an error. Gradients add up over several backward()
/// calls until zero_grad(): to accumulate over k micro-batches, call backward() on each loss divided by k,
/// then step().
class Adam {
 public:
  /// `parameters` must be on one device and of one floating dtype.
  explicit Adam(Parameters parameters, AdamConfig config = {});

  /// One update from the gradients collected since zero_grad(). `lr`: learning rate of this step, >= 0.
  void step(double lr);
  /// Drops all gradients.
  void zero_grad();

  /// Waits for the device: for log lines, not for every step.
  OptimizerStats stats() const;

  /// Everything that the next step depends on besides parameters and config: `adam.m.NAME`, `adam.v.NAME` and
  /// `adam.control` (f64 [4], see OptimizerControlArgs). The tensors share memory with the optimiser.
  TensorMap state() const;
  /// Copies a state() back, to the bit. Tensors of `state` whose names do not start with "adam." are ignored,
  /// so that one file may hold more. Throws Error for missing, unexpected or misshapen ones.
  void load_state(const TensorMap& state);

  const AdamConfig& config() const { return config_; }

 private:
  Parameters parameters_;
  AdamConfig config_;
  std::vector<Tensor> m_, v_;  ///< in the order of parameters_
  Tensor control_;
};

/// Learning rate as a function of the step number 0, 1, 2, ...: a linear warm-up, then constant or annealed
/// to 0.
struct LearningRateSchedule {
  double base = 1e-3;
  /// Step i < warmup_steps uses base * (i + 1) / warmup_steps; 0: no warm-up.
  int64_t warmup_steps = 0;
  /// Linear anneal over the steps after the warm-up: step i uses base * (total_steps - i) / (total_steps -
  /// warmup_steps), so that the rate reaches 0 just after the last step, total_steps - 1. 0: constant.
  int64_t anneal_total_steps = 0;

  /// The rate of step `step` >= 0.
  double operator()(int64_t step) const;
};

}  // namespace halfstep
