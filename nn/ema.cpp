#include "nn/ema.h"

#include <algorithm>
#include <cmath>

#include "tensor/error.h"
#include "tensor/ops.h"

namespace halfstep {

EmaWarmup ema_warmup_by_name(std::string_view name) {
  for (const EmaWarmup warmup : {EmaWarmup::none, EmaWarmup::ramp, EmaWarmup::power})
    if (name == name_of(warmup)) return warmup;
  fail("ema_warmup", "expected none, ramp or power, got '{}'", name);
}

std::string_view name_of(EmaWarmup warmup) {
  switch (warmup) {
    case EmaWarmup::none:
      return "none";
    case EmaWarmup::ramp:
      return "ramp";
    case EmaWarmup::power:
      return "power";
  }
  fail("ema_warmup", "expected a warm-up of the list, got number {}", static_cast<int>(warmup));
}

Ema::Ema(Parameters parameters, double decay, EmaWarmup warmup)
    : parameters_(std::move(parameters)), decay_(decay), warmup_(warmup) {
  require(decay >= 0 && decay < 1, "Ema", "expected a decay in [0, 1), got {}", decay);
  detail::require_alike("Ema", parameters_);
  for (const auto& [name, p] : parameters_) averages_.push_back({name, Variable(p.value().clone())});
}

double Ema::decay_of(int64_t k) const {
  const double updates = static_cast<double>(k);
  switch (warmup_) {
    case EmaWarmup::none:
      return k == 0 ? 0 : decay_;
    case EmaWarmup::ramp:
      return std::min(decay_, (1 + updates) / (10 + updates));
    case EmaWarmup::power:
      return std::min(decay_, 1 - std::pow(1 + updates, -0.75));
  }
  fail("Ema", "expected a warm-up of the list, got number {}", static_cast<int>(warmup_));
}

void Ema::update() {
  advance();
  apply();
}

void Ema::advance() {
  const double weight = 1 - decay_of(updates_);
  if (weight_.defined())
    weight_.fill_(weight);
  else
    weight_ = Tensor::scalar(weight, {DType::f64, &averages_.front().variable.value().device()});
  ++updates_;
}

void Ema::apply() {
  require(weight_.defined(), "Ema",
          "expected an advance() before the first apply(), got none; call update()");
  std::vector<AveragedArray> list;
  for (size_t i = 0; i < parameters_.size(); ++i) {
    const Tensor& average = averages_[i].variable.value();
    detail::require_unchanged("Ema", parameters_[i], average.shape());
    list.push_back({.average = average.array(), .source = parameters_[i].variable.value().array()});
    average.bump_version();
  }
  weight_.device().backend.moving_average({list, weight_.array()});
}

TensorMap Ema::weights() const {
  TensorMap weights;
  for (const auto& [name, average] : averages_) weights.emplace(name, average.value());
  return weights;
}

TensorMap Ema::state() const {
  TensorMap state = {
      {"ema.updates", Tensor::from(std::vector<int64_t>{updates_}, {}, {.dtype = DType::i64})}};
  for (const auto& [name, average] : averages_) state.emplace("ema." + name, average.value());
  return state;
}

void Ema::load_state(const TensorMap& saved) {
  const TensorMap own = state();
  detail::copy_state("Ema", saved, own, "ema.");
  updates_ = own.at("ema.updates").to_vector<int64_t>()[0];
}

}  // namespace halfstep
