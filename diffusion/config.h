// What a run is made of: the model, the schedule and how it is trained. One description serves configuration
// files (`--config`), checkpoints (`config.json`) and the command line. The JSON schema is in docs/config.md.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "diffusion/loss.h"
#include "diffusion/prediction.h"
#include "diffusion/schedule.h"
#include "diffusion/unet_config.h"
#include "nn/ema.h"
#include "nn/optimizer.h"
#include "nn/precision.h"

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
  bool anneal = true;  ///< to 0 at max_steps; otherwise constant
  AnnealShape anneal_shape = AnnealShape::linear;
  AdamConfig adam{.max_grad_norm = 1};
  double ema_decay = 0;  ///< 0: no average, the raw weights are used
  EmaWarmup ema_warmup = EmaWarmup::none;
  bool flip = true;  ///< mirror half of the pictures
  /// A batch is computed in this many equal parts, whose gradients add up: less memory, the same mathematics.
  int64_t micro_batches = 1;
  /// Blocks of the network are computed again in the backward pass instead of being kept: less memory, the
  /// same bits.
  bool recompute_blocks = false;
  /// What the network computes in, that of a teacher and of evaluations included; parameters, averages and
  /// checkpoints are f32 either way.
  Precision precision = Precision::f32;
  int64_t data_threads = 1;  ///< that prepare batches ahead of the updates; 0: each update prepares its own
  uint64_t seed = 0;
  int64_t checkpoint_every = 1000;  ///< steps; the last step is always saved. 0: only the last
  int64_t keep = 0;                 ///< newest checkpoints that are kept; 0: all
  int64_t log_every = 50;           ///< steps
  /// Steps between evaluations: a grid of samples and their distance to the data. 0: none in training, and
  /// in distillation one at the end of each halving.
  int64_t eval_every = 0;
  int64_t eval_samples = 64;  ///< pictures of an evaluation
  int64_t eval_steps = 16;    ///< its sampling steps; a student takes its own number if that is smaller
  /// Ends a training or halving after this many reports (log_every) in a row of which none had a loss below
  /// the best before by the part min_improvement. 0: it takes max_steps.
  int64_t patience = 0;
  double min_improvement = 0.01;
  bool tensorboard = false;  ///< write event files for TensorBoard, too

  /// What learning_rate, warmup_steps, anneal, anneal_shape and max_steps say together.
  LearningRateSchedule learning_rate_schedule() const {
    return {.base = learning_rate,
            .warmup_steps = warmup_steps,
            .anneal_total_steps = anneal ? max_steps : 0,
            .shape = anneal_shape};
  }
};

/// What concerns the chain of halvings.
struct DistillConfig {
  /// Updates of single halvings, by the student's number of steps; others take train.max_steps. The official
  /// configurations give the last two halvings twice as many.
  std::map<int64_t, int64_t> max_steps;
};

/// A configuration file: see docs/config.md.
struct Config {
  ModelConfig model;
  TrainConfig train;
  DistillConfig distill;

  /// Throws Error naming the key, its value and what is possible.
  void validate() const;
};

/// Reads the objects "model", "train" and "distill" of a JSON text over `base`: keys that are missing keep
/// base's values. An unknown key is an error that names it and the nearest known one; so is a value of a
/// wrong type. `source` names the text in errors. The result is validated.
Config config_from_json(const std::string& text, const std::string& source, const Config& base = {});
/// All values, as config_from_json reads them; two spaces of indentation.
std::string config_to_json(const Config& config);

}  // namespace halfstep
