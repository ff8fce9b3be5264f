#include "nn/optimizer.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "tensor/error.h"
#include "tensor/ops.h"

namespace halfstep {

// --- what all share ----------------------------------------------------------------------------------------

Optimizer::Optimizer(std::string_view name, Parameters parameters)
    : parameters_(std::move(parameters)), name_(name) {
  detail::require_alike(name_, parameters_);
  for (const NamedVariable& p : parameters_) shapes_.push_back(p.variable.shape());
  control_ = Tensor::zeros({4}, {DType::f64, parameters_.front().variable.options().device});
}

void Optimizer::set_learning_rate(double lr) {
  require(lr >= 0, name_, "expected a learning rate >= 0, got {}", lr);
  if (learning_rate_.defined())
    learning_rate_.fill_(lr);
  else
    learning_rate_ = Tensor::scalar(lr, control_.options());
}

std::vector<Tensor> Optimizer::begin_update(double max_grad_norm, double clip_eps) {
  require(learning_rate_.defined(), name_,
          "expected a learning rate before the first update, got none; call set_learning_rate() or step(lr)");
  std::vector<Tensor> gradients, given;
  for (const NamedVariable& parameter : parameters_) {
    detail::require_unchanged(name_, parameter, shapes_[gradients.size()]);
    const Variable& p = parameter.variable;
    if (p.grad().defined())
      given.push_back(gradients.emplace_back(p.grad().value().contiguous()));
    else
      gradients.push_back(zero_gradient(p));
  }
  require(!given.empty(), name_,
          "expected a parameter with a gradient, got none; call backward() before step()");

  const Tensor sum_squares = sum_of_squares(given);
  control_.device().backend.optimizer_control({.control = control_.array(),
                                               .sum_squares = sum_squares.array(),
                                               .max_norm = max_grad_norm,
                                               .clip_eps = clip_eps});
  control_.bump_version();
  return gradients;
}

Tensor Optimizer::zero_gradient(const Variable& parameter) {
  if (!zeros_.defined()) {
    int64_t largest = 0;
    for (const Shape& shape : shapes_) largest = std::max(largest, numel(shape));
    zeros_ = Tensor::zeros({largest}, parameter.options());
  }
  return zeros_.slice(0, 0, parameter.numel()).reshape(parameter.shape());
}

std::vector<Tensor> Optimizer::zeros_like_parameters() const {
  std::vector<Tensor> zeros;
  for (const NamedVariable& p : parameters_)
    zeros.push_back(Tensor::zeros(p.variable.shape(), p.variable.options()));
  return zeros;
}

void Optimizer::add_to_state(TensorMap& state, const std::string& kind,
                             const std::vector<Tensor>& tensors) const {
  for (size_t i = 0; i < tensors.size(); ++i) state.emplace(kind + parameters_[i].name, tensors[i]);
}

void Optimizer::zero_grad() {
  for (NamedVariable& p : parameters_) p.variable.zero_grad();
}

OptimizerStats Optimizer::stats() const {
  const std::vector<double> control = control_.to_vector<double>();
  return {static_cast<int64_t>(control[0]), static_cast<int64_t>(control[1]), control[3]};
}

// --- Adam --------------------------------------------------------------------------------------------------

Adam::Adam(Parameters parameters, AdamConfig config)
    : Optimizer("Adam", std::move(parameters)), config_(config) {
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
  m_ = zeros_like_parameters();
  v_ = zeros_like_parameters();
  if (config.amsgrad) v_max_ = zeros_like_parameters();
}

void Adam::step(double lr) {
  set_learning_rate(lr);
  apply();
}

void Adam::apply() {
  const std::vector<Tensor> gradients = begin_update(config_.max_grad_norm, config_.clip_eps);
  std::vector<AdamParameter> list;
  for (size_t i = 0; i < parameters_.size(); ++i) {
    const Tensor& p = parameters_[i].variable.value();
    list.push_back({.param = p.array(),
                    .grad = gradients[i].array(),
                    .m = m_[i].array(),
                    .v = v_[i].array(),
                    .v_max = config_.amsgrad ? v_max_[i].array() : Array{}});
    for (const Tensor& written : {p, m_[i], v_[i]}) written.bump_version();
    if (config_.amsgrad) v_max_[i].bump_version();
  }
  control_.device().backend.adam({.list = list,
                                  .control = control_.array(),
                                  .learning_rate = learning_rate_.array(),
                                  .beta1 = config_.beta1,
                                  .beta2 = config_.beta2,
                                  .eps = config_.eps,
                                  .weight_decay = config_.weight_decay,
                                  .l2 = config_.l2});
}

TensorMap Adam::state() const {
  TensorMap state = {{"adam.control", control_}};
  add_to_state(state, "adam.m.", m_);
  add_to_state(state, "adam.v.", v_);
  add_to_state(state, "adam.v_max.", v_max_);
  return state;
}

void Adam::load_state(const TensorMap& saved) { detail::copy_state("Adam", saved, state(), "adam."); }

// --- SGD ---------------------------------------------------------------------------------------------------

Sgd::Sgd(Parameters parameters, SgdConfig config) : Optimizer("Sgd", std::move(parameters)), config_(config) {
  const auto in_range = [](std::string_view name, double value, bool ok) {
    require(
        ok, "Sgd",
        "{} = {} is out of range; momentum lies in [0, 1), dampening in [0, 1], the others are not negative",
        name, value);
  };
  in_range("momentum", config.momentum, config.momentum >= 0 && config.momentum < 1);
  in_range("dampening", config.dampening, config.dampening >= 0 && config.dampening <= 1);
  in_range("l2", config.l2, config.l2 >= 0);
  in_range("max_grad_norm", config.max_grad_norm, config.max_grad_norm >= 0);
  in_range("clip_eps", config.clip_eps, config.clip_eps >= 0);
  require(config.momentum > 0 || config.dampening == 0, "Sgd",
          "expected momentum > 0 with dampening = {}, got 0: dampening needs momentum, an average to dampen",
          config.dampening);
  require(!config.nesterov || (config.momentum > 0 && config.dampening == 0), "Sgd",
          "expected momentum > 0 and no dampening with nesterov, got momentum {} and dampening {}",
          config.momentum, config.dampening);
  if (config.momentum > 0) momentum_ = zeros_like_parameters();
}

void Sgd::step(double lr) {
  set_learning_rate(lr);
  apply();
}

void Sgd::apply() {
  const std::vector<Tensor> gradients = begin_update(config_.max_grad_norm, config_.clip_eps);
  std::vector<SgdParameter> list;
  for (size_t i = 0; i < parameters_.size(); ++i) {
    const Tensor& p = parameters_[i].variable.value();
    list.push_back({.param = p.array(),
                    .grad = gradients[i].array(),
                    .buffer = momentum_.empty() ? Array{} : momentum_[i].array()});
    p.bump_version();
    if (!momentum_.empty()) momentum_[i].bump_version();
  }
  control_.device().backend.sgd({.list = list,
                                 .control = control_.array(),
                                 .learning_rate = learning_rate_.array(),
                                 .momentum = config_.momentum,
                                 .dampening = config_.dampening,
                                 .l2 = config_.l2,
                                 .nesterov = config_.nesterov});
}

TensorMap Sgd::state() const {
  TensorMap state = {{"sgd.control", control_}};
  add_to_state(state, "sgd.momentum.", momentum_);
  return state;
}

void Sgd::load_state(const TensorMap& saved) { detail::copy_state("Sgd", saved, state(), "sgd."); }

// --- learning rate -----------------------------------------------------------------------------------------

AnnealShape anneal_shape_by_name(std::string_view name) {
  for (const AnnealShape shape : {AnnealShape::linear, AnnealShape::cosine})
    if (name == name_of(shape)) return shape;
  fail("anneal_shape", "expected linear or cosine, got '{}'", name);
}

std::string_view name_of(AnnealShape shape) { return shape == AnnealShape::linear ? "linear" : "cosine"; }

double LearningRateSchedule::operator()(int64_t step) const {
  require(step >= 0, "learning rate", "expected a step number >= 0, got {}", step);
  if (step < warmup_steps) return base * static_cast<double>(step + 1) / static_cast<double>(warmup_steps);
  if (anneal_total_steps == 0) return base;
  require(anneal_total_steps > warmup_steps, "learning rate",
          "expected more steps in total than in the warm-up, got {} and {}", anneal_total_steps,
          warmup_steps);
  const double left = static_cast<double>(std::max<int64_t>(anneal_total_steps - step, 0)) /
                      static_cast<double>(anneal_total_steps - warmup_steps);
  return base * (shape == AnnealShape::linear ? left : (1 - std::cos(std::numbers::pi * left)) / 2);
}

}  // namespace halfstep
