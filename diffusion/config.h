// What a run is made of: the model, the schedule and how it is trained. One description serves configuration
// files (`--config`), checkpoints (`config.json`) and the command line. The JSON schema is in docs/config.md.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "diffusion/loss.h"
#include "diffusion/prediction.h"
#include "diffusion/schedule.h"
#include "diffusion/unet_config.h"
#include "nn/ema.h"
#include "nn/optimizer.h"

namespace halfstep {

/// Everything that decides what the weights mean.
struct ModelConfig {
  UNetConfig unet;
  Prediction prediction = Prediction::v;
  CosineSchedule schedule;
};

/// How weights are found, in training (Algorithm 1) as well as in each halving of distillation (Algorithm 2).
struct TrainConfig {
  LossWeight loss = LossWeight::snr_plus_1;
  int64_t batch_size = 64;
  int64_t max_steps = 2000;     ///< updates; of each halving in distillation
  int64_t num_train_steps = 0;  ///< 0: continuous time; N: t in {1/N, ..., 1}. Not used by distillation
  double learning_rate = 1e-3;
  int64_t warmup_steps = 0;
  bool anneal = true;  ///< linearly to 0 at max_steps; otherwise constant
  AdamConfig adam{.max_grad_norm = 1};
  double ema_decay = 0;  ///< 0: no average, the raw weights are used
  EmaWarmup ema_warmup = EmaWarmup::none;
  bool flip = true;  ///< mirror half of the pictures
  uint64_t seed = 0;
  int64_t checkpoint_every = 1000;  ///< steps; the last step is always saved. 0: only the last
  int64_t log_every = 50;           ///< steps

  /// What learning_rate, warmup_steps, anneal and max_steps say together.
  LearningRateSchedule learning_rate_schedule() const {
    return {
        .base = learning_rate, .warmup_steps = warmup_steps, .anneal_total_steps = anneal ? max_steps : 0};
  }
};

/// A configuration file: see docs/config.md.
struct Config {
  ModelConfig model;
  TrainConfig train;

  /// Throws Error naming the key, its value and what is possible.
  void validate() const;
};

/// Reads the objects "model" and "train" of a JSON text over `base`: keys that are missing keep base's
/// values. An unknown key is an error that names it and the nearest known one; so is a value of a wrong type.
/// `source` names the text in errors. The result is validated.
Config config_from_json(const std::string& text, const std::string& source, const Config& base = {});
/// All values, as config_from_json reads them; two spaces of indentation.
std::string config_to_json(const Config& config);

}  // namespace halfstep
