// One update of the weights: Algorithm 1 (training on data) or Algorithm 2 (distillation). The loops around
// it are in run.h.
#pragma once

#include <functional>
#include <memory>

#include "diffusion/batches.h"
#include "diffusion/config.h"
#include "diffusion/unet.h"
#include "tensor/captured.h"

namespace halfstep {

/// A network as samplers and losses want it: `unet` (held by reference) in evaluation mode, or in training
/// mode with dropout masks from `dropout_key` and `dropout_row` (ForwardContext); `recompute`: see
/// TrainConfig::recompute_blocks. Both compute in `precision`. Samplers may record the former's work; keep one
/// for all calls of the same network.
Denoiser make_denoiser(const UNet& unet, Prediction prediction, Precision precision = Precision::f32);
Denoiser make_training_denoiser(const UNet& unet, Prediction prediction, RandomKey dropout_key,
                                bool recompute = false, const Tensor& dropout_row = {},
                                Precision precision = Precision::f32);

/// The seed of a stage's draws: each halving has its own, as equal data order, times and noise would tie the
/// errors of the stages together. num_steps: of the student; 0: the training on data, which has `seed`
/// itself.
uint64_t stage_seed(uint64_t seed, int64_t num_steps);

/// The weights under training with everything that changes with them. Every random draw of update number k
/// comes from (seed, purpose, k), so the state has no generator in it.
class Trainer {
 public:
  /// Fresh weights from config.train.seed. Throws Error where the device lacks config.train.precision.
  Trainer(const Config& config, Device& device);
  Trainer(const Trainer&) = delete;
  Trainer& operator=(const Trainer&) = delete;

  /// One update of Algorithm 1 on a batch, in config.train.micro_batches equal parts. Nothing is read back
  /// from the device. On a device with graphs updates are recorded and started as one (tensor/captured.h).
  /// Throws Error where the parts do not divide the batch.
  void update(const Batch& batch);
  /// One update of Algorithm 2: the student, this, has num_steps steps, the teacher twice as many. Recorded
  /// where the teacher allows it (Denoiser::recordable), anew when it is another.
  void update(const Batch& batch, const Denoiser& teacher, int64_t num_steps);

  int64_t step() const { return step_; }
  /// Learning rate of the next update.
  double learning_rate() const;
  /// Mean loss of the updates since restart_mean_loss(); waits for the device. NaN if there was none.
  double mean_loss() const;
  void restart_mean_loss();
  OptimizerStats optimizer_stats() const { return adam_->stats(); }

  /// The weights to use: the moving average if there is one, else the raw ones. Shared memory.
  TensorMap weights() const;
  /// Everything but config: raw weights, optimiser, average, step, the sum behind mean_loss().
  TensorMap state() const;
  /// Copies a state() back, to the bit. Throws Error if it does not fit.
  void load_state(const TensorMap& state);
  /// Copies weights in and forgets optimiser, average and step: a student starts from its teacher.
  void start_from(const TensorMap& weights);

  const UNet& unet() const { return unet_; }
  const Config& config() const { return config_; }

 private:
  void reset();
  /// Work that is recorded for one kind of update.
  struct Recorded {
    Captured update;
    std::shared_ptr<const void> teacher;  ///< the one it was recorded with
    int64_t num_steps = 0;
  };
  /// A part of a batch, examples begin ... end-1, with its noise and the model to train; `numbers` are those
  /// of the whole batch, from where the update's work reads them.
  struct Part {
    const Denoiser& model;
    Tensor x, label, eps;
    const std::vector<Tensor>& numbers;
    int64_t begin, end;
  };
  using LossOfPart = std::function<Variable(const Part& part)>;
  /// One update from the mean of the losses of the parts. `seed`: of the stage; `numbers`: what else the
  /// losses need that is computed on the host; `recorded`: nullptr where the work must not be recorded.
  void update_in_parts(const Batch& batch, uint64_t seed, const std::vector<Tensor>& numbers,
                       Recorded* recorded, const LossOfPart& loss_of);

  Config config_;
  UNet unet_;
  std::unique_ptr<Adam> adam_;
  std::unique_ptr<Ema> ema_;
  Tensor loss_sum_;  ///< on the device
  int64_t losses_ = 0;
  int64_t step_ = 0;
  Recorded of_data_, of_teacher_;
};

}  // namespace halfstep
