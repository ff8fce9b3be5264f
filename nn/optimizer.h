// Adam, AdamW and SGD with momentum, gradient clipping, learning-rate schedules.
#pragma once

#include <string_view>

#include "nn/module.h"
#include "tensor/backend.h"

namespace halfstep {

/// What the device has counted.
struct OptimizerStats {
  int64_t applied = 0;   ///< updates done
  int64_t skipped = 0;   ///< updates left out because a gradient was not finite
  double last_norm = 0;  ///< gradient norm of the last step, before clipping
};

/// What all optimisers share. A step reads nothing back to the host: the norm over all gradients, the
/// clipping factor, the number of updates and the decision to skip a step whose gradients are not finite stay
/// in a small control block on the device.
///
/// A parameter without a gradient is treated as having the gradient 0 (a module may not use all of its
/// parameters); a step in which no parameter has one is an error. Gradients add up over several backward()
/// calls until zero_grad(): to accumulate over k micro-batches, call backward() on each loss divided by k,
/// then step().
///
/// The classes that derive have step(lr), which is set_learning_rate(lr) and apply(). All that changes from
/// one apply() to the next lies on the device, the learning rate included: who records what a device is asked
/// to do may repeat an apply() as it is, with set_learning_rate() before it.
class Optimizer {
 public:
  /// The learning rate, >= 0, of every apply() from now on. One number that is written on the device, at the
  /// same place each time.
  void set_learning_rate(double lr);
  /// Drops all gradients.
  void zero_grad();
  /// Waits for the device: for log lines, not for every step.
  OptimizerStats stats() const;

 protected:
  /// `name` is that of the class, for errors. `parameters` must be on one device and of one floating dtype.
  Optimizer(std::string_view name, Parameters parameters);
  ~Optimizer() = default;

  /// Checks the parameters, brings the control block up to date and returns the gradients, contiguous and in
  /// the order of parameters_. The limits of clipping are those of AdamConfig.
  std::vector<Tensor> begin_update(double max_grad_norm, double clip_eps);
  /// Zeros like the parameters, in their order.
  std::vector<Tensor> zeros_like_parameters() const;
  /// Adds `kind`NAME for every parameter to `state`, sharing memory with `tensors`.
  void add_to_state(TensorMap& state, const std::string& kind, const std::vector<Tensor>& tensors) const;

  Parameters parameters_;
  Tensor control_;        ///< see OptimizerControlArgs
  Tensor learning_rate_;  ///< f64 scalar; undefined before set_learning_rate()

 private:
  /// The gradient of a parameter that has none.
  Tensor zero_gradient(const Variable& parameter);

  std::string_view name_;
  Tensor zeros_;               ///< for all zero gradients, made when the first is needed
  std::vector<Shape> shapes_;  ///< of the parameters when the optimiser met them
};

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
  /// AMSGrad (Reddi et al. 2018): the largest v so far takes the place of v in the denominator, so that the
  /// step of a weight never grows again after large gradients. The maximum is taken before the bias
  /// correction (as in PyTorch).
  bool amsgrad = false;
};

/// Adam (Kingma & Ba 2015), with eps outside the square root and bias-corrected moments:
///   m = b1 m + (1-b1) g,  v = b2 v + (1-b2) g^2,  p -= lr m/(1-b1^t) / (sqrt(v/(1-b2^t)) + eps).
class Adam : public Optimizer {
 public:
  explicit Adam(Parameters parameters, AdamConfig config = {});

  /// One update from the gradients collected since zero_grad(). `lr`: learning rate of this step, >= 0.
  void step(double lr);
  /// The same with the rate of the last set_learning_rate(). Throws Error where there was none.
  void apply();

  /// Everything that the next step depends on besides parameters and config: `adam.m.NAME`, `adam.v.NAME`,
  /// with amsgrad `adam.v_max.NAME`, and `adam.control` (f64 [4], see OptimizerControlArgs). The tensors
  /// share memory with the optimiser.
  TensorMap state() const;
  /// Copies a state() back, to the bit. Tensors of `state` whose names do not start with "adam." are ignored,
  /// so that one file may hold more. Throws Error for missing, unexpected or misshapen ones.
  void load_state(const TensorMap& state);

  const AdamConfig& config() const { return config_; }

 private:
  AdamConfig config_;
  std::vector<Tensor> m_, v_;  ///< in the order of parameters_
  std::vector<Tensor> v_max_;  ///< with amsgrad only
};

/// Constants of SGD; the defaults are plain gradient descent.
struct SgdConfig {
  double momentum = 0;   ///< in [0, 1)
  double dampening = 0;  ///< in [0, 1]
  /// Nesterov's look-ahead (Sutskever et al. 2013); needs momentum and no dampening.
  bool nesterov = false;
  /// Added to the gradient as l2 * p (PyTorch's SGD(weight_decay)).
  double l2 = 0;
  /// As in AdamConfig.
  double max_grad_norm = 0, clip_eps = 0;
};

/// Stochastic gradient descent with PyTorch's form of momentum, in which the learning rate stands outside the
/// average: g' = g + l2 p;  buf = momentum buf + (1 - dampening) g', but buf = g' at the first update;
/// p -= lr buf, or with nesterov p -= lr (g' + momentum buf).
class Sgd : public Optimizer {
 public:
  explicit Sgd(Parameters parameters, SgdConfig config = {});

  /// One update from the gradients collected since zero_grad(). `lr`: learning rate of this step, >= 0.
  void step(double lr);
  /// The same with the rate of the last set_learning_rate(). Throws Error where there was none.
  void apply();

  /// As Adam's: `sgd.control` and, with momentum, `sgd.momentum.NAME`.
  TensorMap state() const;
  void load_state(const TensorMap& state);

  const SgdConfig& config() const { return config_; }

 private:
  SgdConfig config_;
  std::vector<Tensor> momentum_;  ///< the averages, with momentum only
};

/// How a learning rate goes down to 0.
enum class AnnealShape {
  linear,  ///< in equal steps (the paper)
  cosine,  ///< along half a cosine: slowly, quickly, slowly (Loshchilov & Hutter 2017, without restarts)
};
/// "linear", "cosine"; throws Error for another name.
AnnealShape anneal_shape_by_name(std::string_view name);
std::string_view name_of(AnnealShape shape);

/// Learning rate as a function of the step number 0, 1, 2, ...: a linear warm-up, then constant or annealed
/// to 0.
struct LearningRateSchedule {
  double base = 1e-3;
  /// Step i < warmup_steps uses base * (i + 1) / warmup_steps; 0: no warm-up.
  int64_t warmup_steps = 0;
  /// Anneal over the steps after the warm-up. With r = (total_steps - i) / (total_steps - warmup_steps), the
  /// part of them that is left, step i uses base * r (linear) or base * (1 - cos(pi r)) / 2 (cosine), so that
  /// the rate reaches 0 just after the last step, total_steps - 1. 0: constant.
  int64_t anneal_total_steps = 0;
  AnnealShape shape = AnnealShape::linear;

  /// The rate of step `step` >= 0.
  double operator()(int64_t step) const;
};

}  // namespace halfstep
