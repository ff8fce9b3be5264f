#include "diffusion/evaluation.h"

#include <algorithm>

#include "diffusion/distance.h"
#include "diffusion/model.h"
#include "diffusion/sampler.h"

namespace halfstep {

Evaluator::Evaluator(const Config& config, int64_t num_steps, const Dataset& data, Device& device,
                     const Denoiser* teacher)
    : config_(config),
      sampling_steps_(num_steps > 0 ? std::min(num_steps, config.train.eval_steps)
                                    : config.train.eval_steps) {
  const UNetConfig& unet = config.model.unet;
  const TrainConfig& t = config.train;
  noise_ = initial_noise({t.eval_samples, unet.height, unet.width, unet.in_channels}, t.seed, 0,
                         {DType::f32, &device});
  if (unet.conditional()) label_ = draw_labels(unet.num_classes, t.eval_samples, t.seed);
  BatchSource pictures(data, t.eval_samples, t.seed, t.flip);
  pictures_ = pictures.batch(0).x;
  other_pictures_ = pictures.batch(1).x;
  if (teacher) teacher_samples_ = draw(*teacher, 2 * sampling_steps_);
}

Tensor Evaluator::draw(const Denoiser& model, int64_t steps) const {
  const SamplerOptions options{.num_steps = steps, .schedule = config_.model.schedule};
  return sample_in_batches(model, noise_, label_, options, config_.train.batch_size).to(cpu_device());
}

Evaluation Evaluator::operator()(const Denoiser& model) const {
  Evaluation result;
  result.samples = draw(model, sampling_steps_);
  result.distance_to_data = sliced_wasserstein(result.samples, pictures_);
  if (teacher_samples_.defined())
    result.distance_to_teacher = rms_difference(result.samples, teacher_samples_);
  return result;
}

double Evaluator::floor() const { return sliced_wasserstein(pictures_, other_pictures_); }

}  // namespace halfstep
