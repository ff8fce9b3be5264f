// The loops: training a teacher (Algorithm 1 until max_steps) and progressive distillation (Algorithm 2, once
// per halving). One update is one call of Trainer::update; the loops around it log, evaluate, save, and can
// be killed at any moment: they continue from the last checkpoint to the bit.
//
// A run folder holds checkpoints step-*, log.jsonl and eval.jsonl (a line per report and evaluation),
// samples/step-*.png, and the manifest; a chain of halvings a run folder student-N per halving and a
// manifest.
#pragma once

#include <atomic>
#include <functional>
#include <string>

#include "diffusion/checkpoint.h"
#include "diffusion/idx.h"
#include "tensor/device.h"
#include "tensor/error.h"

namespace halfstep {

/// For progress displays and log files.
struct Progress {
  std::string stage;  ///< "train", "student-8"
  int64_t step = 0, total_steps = 0;
  double loss = 0;  ///< mean since the last report
  double learning_rate = 0, gradient_norm = 0;
  int64_t skipped = 0;  ///< updates left out because a gradient was not finite
  double images_per_second = 0;
  double seconds = 0;             ///< of this stage, over all calls that contributed to it
  double data_wait = 0;           ///< part of the time since the last report that was spent waiting for data
  double seconds_left = 0;        ///< of this stage
  double chain_seconds_left = 0;  ///< of this and all later halvings
};

/// Where a run writes, where it computes and who watches it.
struct RunOptions {
  std::string out;      ///< run folder; created
  bool resume = false;  ///< continue from the newest checkpoint in `out`; otherwise a run there is an error
  Device* device = &cpu_device();
  std::function<void(const Progress&)> on_progress = {};  ///< every log_every steps and at the end
  /// Set from outside (a signal handler) to stop: the run is saved, then Interrupted is thrown.
  const std::atomic<bool>* stop = nullptr;
  std::string command = {};  ///< for the manifest: what the user typed
  std::string program = {};  ///< for the manifest: name and version
};

/// Thrown after a run was stopped and saved.
class Interrupted : public Error {
 public:
  using Error::Error;
};

/// Trains a teacher on `data`; returns the path of its last checkpoint. Throws Error where another process
/// writes to the folder, where the data does not fit the model, or when the last 100 updates all had
/// gradients that are not finite; the checkpoints so far stay.
std::string train(const Config& config, const Dataset& data, const RunOptions& options);

/// What a student takes over from the training of its teacher: everything but warm-up, moving average and a
/// constant learning rate. A halving starts from good weights and ends with the rate at 0, and its last
/// weights are the next teacher (the official configurations, too, distil without average).
TrainConfig distillation_defaults(const TrainConfig& teacher);

/// Progressive distillation from `teacher`, a checkpoint of from_steps steps, down to to_steps: one run
/// OUT/student-N per halving, each of config.train.max_steps updates (or what config.distill says for it)
/// with a fresh optimiser and the learning rate annealed to 0; a finished student is the next teacher. Model
/// and schedule are the teacher's, without dropout (paper, section 5); config.model is not used. Each halving
/// ends with an evaluation. Returns the path of the last checkpoint. With `resume`, finished halvings are
/// kept and the unfinished one continues; a teacher with other weights than at the start is an Error.
std::string distill(const Checkpoint& teacher, const Config& config, int64_t from_steps, int64_t to_steps,
                    const Dataset& data, const RunOptions& options);

}  // namespace halfstep
