// The loops: training a teacher (Algorithm 1 until max_steps) and progressive distillation (Algorithm 2, once
// per halving). One update is one call of Trainer::update; the loop around it logs, saves and stops.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <string>

#include "diffusion/batches.h"
#include "diffusion/checkpoint.h"
#include "diffusion/unet.h"
#include "tensor/error.h"

namespace halfstep {

/// A network as samplers and losses want it: `unet` (held by reference) in evaluation mode, or in training
/// mode with dropout masks from `dropout_key`.
Denoiser make_denoiser(const UNet& unet, Prediction prediction);
Denoiser make_training_denoiser(const UNet& unet, Prediction prediction, RandomKey dropout_key);

/// The weights under training with everything that changes with them. Every random draw of update number k
/// comes from (seed, purpose, k), so the state has no generator in it.
class Trainer {
 public:
  /// Fresh weights from config.train.seed.
  Trainer(const Config& config, Device& device);
  Trainer(const Trainer&) = delete;
  Trainer& operator=(const Trainer&) = delete;

  /// One update of Algorithm 1 on a batch. Nothing is read back from the device.
  void update(const Batch& batch);
  /// One update of Algorithm 2: the student, this, has num_steps steps, the teacher twice as many.
  void update(const Batch& batch, const Denoiser& teacher, int64_t num_steps);

  int64_t step() const { return step_; }
  /// Learning rate of the next update.
  double learning_rate() const;
  /// Mean loss since the last call; waits for the device. NaN if there was no update.
  double take_mean_loss();
  OptimizerStats optimizer_stats() const { return adam_->stats(); }

  /// The weights to use: the moving average if there is one, else the raw ones. Shared memory.
  TensorMap weights() const;
  /// Everything but config: raw weights, optimiser, average, step.
  TensorMap state() const;
  /// Copies a state() back, to the bit. Throws Error if it does not fit.
  void load_state(const TensorMap& state);
  /// Copies weights in and forgets optimiser, average and step: a student starts from its teacher.
  void start_from(const TensorMap& weights);

  const UNet& unet() const { return unet_; }
  const Config& config() const { return config_; }

 private:
  void reset();
  /// The labels if the network takes any: data sets always have some.
  Tensor label_of(const Batch& batch) const;
  void apply(const Variable& loss);

  Config config_;
  UNet unet_;
  std::unique_ptr<Adam> adam_;
  std::unique_ptr<Ema> ema_;
  Tensor loss_sum_;  ///< on the device
  int64_t losses_ = 0;
  int64_t step_ = 0;
};

/// For progress displays and log files.
struct Progress {
  std::string stage;  ///< "train", "student-8"
  int64_t step = 0, total_steps = 0;
  double loss = 0;  ///< mean since the last report
  double learning_rate = 0, gradient_norm = 0;
  int64_t skipped = 0;  ///< updates left out because a gradient was not finite
  double images_per_second = 0, seconds_left = 0;
};

/// Where a run writes, where it computes and who watches it.
struct RunOptions {
  std::string out;      ///< run folder; created
  bool resume = false;  ///< continue from the newest checkpoint in `out`; otherwise a run there is an error
  Device* device = &cpu_device();
  std::function<void(const Progress&)> on_progress = {};  ///< every log_every steps and at the end
  /// Set from outside (a signal handler) to stop: the run is saved, then Interrupted is thrown.
  const std::atomic<bool>* stop = nullptr;
};

/// Thrown after a run was stopped and saved.
class Interrupted : public Error {
 public:
  using Error::Error;
};

/// Trains a teacher on `data`; returns the path of its last checkpoint. Losses and rates go to OUT/log.jsonl
/// too.
std::string train(const Config& config, const Dataset& data, const RunOptions& options);

/// What a student takes over from the training of its teacher: everything but warm-up, moving average and a
/// constant learning rate. A halving starts from good weights and ends with the rate at 0, and its last
/// weights are the next teacher (the official configurations, too, distil without average).
TrainConfig distillation_defaults(const TrainConfig& teacher);

/// Progressive distillation from `teacher`, a checkpoint of from_steps steps, down to to_steps: one run
/// OUT/student-N per halving, each of config.train.max_steps updates with a fresh optimiser and the learning
/// rate annealed to 0; a finished student is the next teacher. Model and schedule are the teacher's,
/// without dropout (paper, section 5); config.model is not used. Returns the path of the last checkpoint.
/// With `resume`, finished halvings are kept and the unfinished one continues.
std::string distill(const Checkpoint& teacher, const Config& config, int64_t from_steps, int64_t to_steps,
                    const Dataset& data, const RunOptions& options);

}  // namespace halfstep
