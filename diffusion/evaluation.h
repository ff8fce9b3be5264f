// How good a model is at a moment of its training, in numbers that need no other network.
#pragma once

#include <cstdint>
#include <optional>

#include "diffusion/batches.h"
#include "diffusion/config.h"
#include "diffusion/prediction.h"

namespace halfstep {

/// The result of one evaluation.
struct Evaluation {
  Tensor samples;               ///< [eval_samples, H, W, C], on the CPU
  double distance_to_data = 0;  ///< sliced_wasserstein() from as many training pictures
  /// rms_difference() from what the teacher draws of the same noise with twice the steps.
  std::optional<double> distance_to_teacher;
};

/// Draws the same eval_samples samples each time: noise, labels and the pictures to compare with come from
/// config.train.seed alone, so that evaluations of one run, and of teacher and students, can be compared.
class Evaluator {
 public:
  /// num_steps: sampling steps of the student; 0: a teacher. It is evaluated with eval_steps steps, a student
  /// with min(eval_steps, num_steps); its teacher, if given, is sampled once, with twice as many.
  Evaluator(const Config& config, int64_t num_steps, const Dataset& data, Device& device,
            const Denoiser* teacher = nullptr);

  Evaluation operator()(const Denoiser& model) const;

  int64_t sampling_steps() const { return sampling_steps_; }
  /// What distance_to_data is between two sets of training pictures of this size: no model needs to get below
  /// it.
  double floor() const;

 private:
  Tensor draw(const Denoiser& model, int64_t steps) const;

  Config config_;
  int64_t sampling_steps_;
  Tensor noise_, label_;
  Tensor pictures_, other_pictures_;  ///< of the data, [eval_samples, H, W, C]
  Tensor teacher_samples_;            ///< undefined without a teacher
};

}  // namespace halfstep
