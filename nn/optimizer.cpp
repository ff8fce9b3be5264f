#include "nn/optimizer.h"

#include <algorithm>

#include "tensor/error.h"
#include "tensor/ops.h"

namespace halfstep {

Adam::Adam(Parameters parameters, AdamConfig config) : parameters_(std::move(parameters)), config_(config) {
  require(!parameters_.empty(), "Adam", "expected at least one parameter, got none");
  const auto in_range = [](std::string_view name, double value, bool ok) {
    require(ok, "Adam",
            "{} = {} is out of range; betas lie in [0, 1), eps is positive, the others are not negative",
            name, value);
  };
  in_range("beta1", config.beta1, config.beta1 >= 0 && config.beta1 < 1);
  in_range("beta2", config.beta2, config.beta2 >= 0 && config.beta2 < 1);
  in_range("eps", config.eps, config.eps > 0);
  in_range("weight_decay", config.weight_decay, config.weight_decay >= 0);
  in_range("l2", config.l2, config.l2 >= 0);
  in_range("max_grad_norm", config.max_grad_norm, config.max_grad_norm >= 0);
  in_range("clip_eps", config.clip_eps, config.clip_eps >= 0);

  const TensorOptions options = parameters_.front().variable.options();
  for (const auto& [name, p] : parameters_) {
    require(is_floating(p.dtype()) && p.dtype() == options.dtype && p.options().device == options.device,
            "Adam", "expected all parameters as f32 or f64 on one device; {} is {} on {}, {} is {} on {}",
            parameters_.front().name, name_of(options.dtype), options.device->name(), name,
            name_of(p.dtype()), p.options().device->name());
    m_.push_back(Tensor::zeros(p.shape(), options));
    v_.push_back(Tensor::zeros(p.shape(), options));
  }
  control_ = Tensor::zeros({4}, {DType::f64, options.device});
}

void Adam::step(double lr) {
  require(lr >= 0, "Adam", "expected a learning rate >= 0, got {}", lr);
  std::vector<Tensor> gradients;
  bool any = false;
  for (const auto& [name, p] : parameters_) {
    require(p.value().contiguous_layout() && p.shape() == m_[gradients.size()].shape(), "Adam",
            "expected parameter {} contiguous and of shape {}, as the optimiser met it; it is now {}", name,
            str(m_[gradients.size()].shape()), str(p.shape()));
    any = any || p.grad().defined();
    gradients.push_back(p.grad().defined() ? p.grad().value().contiguous()
                                           : Tensor::zeros(p.shape(), p.options()));
  }
  require(any, "Adam", "expected a parameter with a gradient, got none; call backward() before step()");

  const Backend& backend = control_.device().backend;
  backend.optimizer_control({.control = control_.array(),
                             .sum_squares = sum_of_squares(gradients).array(),
                             .max_norm = config_.max_grad_norm,
                             .clip_eps = config_.clip_eps});
  control_.bump_version();
  for (size_t i = 0; i < parameters_.size(); ++i) {
    const Tensor& p = parameters_[i].variable.value();
    backend.adam({.param = p.array(),
                  .grad = gradients[i].array(),
                  .m = m_[i].array(),
                  .v = v_[i].array(),
                  .control = control_.array(),
                  .lr = lr,
                  .beta1 = config_.beta1,
                  .beta2 = config_.beta2,
                  .eps = config_.eps,
                  .weight_decay = config_.weight_decay,
                  .l2 = config_.l2});
    for (const Tensor& written : {p, m_[i], v_[i]}) written.bump_version();
  }
}

void Adam::zero_grad() {
  for (NamedVariable& p : parameters_) p.variable.zero_grad();
}

OptimizerStats Adam::stats() const {
  const std::vector<double> control = control_.to_vector<double>();
  return {static_cast<int64_t>(control[0]), static_cast<int64_t>(control[1]), control[3]};
}

TensorMap Adam::state() const {
  TensorMap state = {{"adam.control", control_}};
  for (size_t i = 0; i < parameters_.size(); ++i) {
    state.emplace("adam.m." + parameters_[i].name, m_[i]);
    state.emplace("adam.v." + parameters_[i].name, v_[i]);
  }
  return state;
}

void Adam::load_state(const TensorMap& saved) { detail::copy_state("Adam", saved, state(), "adam."); }

double LearningRateSchedule::operator()(int64_t step) const {
  require(step >= 0, "learning rate", "expected a step number >= 0, got {}", step);
  if (step < warmup_steps) return base * static_cast<double>(step + 1) / static_cast<double>(warmup_steps);
  if (anneal_total_steps == 0) return base;
  require(anneal_total_steps > warmup_steps, "learning rate",
          "expected more steps in total than in the warm-up, got {} and {}", anneal_total_steps,
          warmup_steps);
  return base * static_cast<double>(std::max<int64_t>(anneal_total_steps - step, 0)) /
         static_cast<double>(anneal_total_steps - warmup_steps);
}

}  // namespace halfstep
