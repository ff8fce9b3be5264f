// Exponential moving average of parameters.
#pragma once

#include <string_view>

#include "nn/module.h"

namespace halfstep {

/// How the average forgets where it started.
enum class EmaWarmup {
  none,   ///< the first update copies the parameters, later ones use the full decay (the official code)
  ramp,   ///< update k = 0, 1, ... uses min(decay, (1 + k) / (10 + k)) (TensorFlow)
  power,  ///< update k uses min(decay, 1 - (1 + k)^-0.75): the first copies, and 0.999 is reached after
          ///< 10,000 (diffusers' use_ema_warmup with inv_gamma 1 and power 3/4)
};
/// "none", "ramp", "power"; throws Error for another name.
EmaWarmup ema_warmup_by_name(std::string_view name);
std::string_view name_of(EmaWarmup warmup);

/// average = d * average + (1 - d) * parameter, after each optimiser step. Parameters only: everything else
/// that a module holds is not averaged.
class Ema {
 public:
  /// Starts as a copy of `parameters`, which must be on one device and of one floating dtype. decay in [0,
  /// 1).
  Ema(Parameters parameters, double decay, EmaWarmup warmup);

  /// Takes the present values of the parameters in: advance() and apply(), which are apart so that who
  /// records what a device is asked to do may repeat an apply() as it is, with advance() before it.
  void update();
  /// Goes to the next update: counts it, and writes its weight, 1 - decay, on the device.
  void advance();
  /// average += weight * (parameter - average) with the weight of the last advance(); where that is 1, a
  /// copy. Throws Error where there was no advance().
  void apply();
  int64_t updates() const { return updates_; }
  /// The decay that update number `k` (0 is the first) uses.
  double decay_of(int64_t k) const;

  /// The averages by parameter name (shared memory): what a model file holds.
  TensorMap weights() const;
  /// Writes the averages into a module of the same kind, in place.
  template <Module M>
  void copy_to(const M& module) const {
    detail::copy_parameters(averages_, parameters(module));
  }

  /// The averages as `ema.NAME` and the counter `ema.updates` (i64 scalar); shared memory.
  TensorMap state() const;
  /// Copies a state() back, to the bit; names that do not start with "ema." are ignored. Throws Error.
  void load_state(const TensorMap& state);

 private:
  Parameters parameters_;  ///< the module's
  Parameters averages_;
  double decay_;
  EmaWarmup warmup_;
  int64_t updates_ = 0;
  Tensor weight_;  ///< of the parameters in the next apply(), f64 scalar; undefined before advance()
};

}  // namespace halfstep
