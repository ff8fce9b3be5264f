#include <memory>

#include "bench/cases.h"
#include "diffusion/distill.h"
#include "diffusion/sampler.h"
#include "diffusion/trainer.h"

namespace halfstep::bench {
namespace {

constexpr RandomKey kPictures{.seed = 1, .stream = 0};

Batch noise_batch(const Config& config, Device& device) {
  const UNetConfig& unet = config.model.unet;
  const int64_t batch = config.train.batch_size;
  const std::vector<int64_t> labels(static_cast<size_t>(batch), 0);
  return {
      random_normal({batch, unet.height, unet.width, unet.in_channels}, kPictures, 0, {DType::f32, &device}),
      Tensor::from(labels, {batch}, {.dtype = DType::i64})};
}

/// The labels that the network wants.
Tensor labels_for(const Config& config, const Batch& batch) {
  return config.model.unet.conditional() ? batch.label : Tensor();
}

std::function<void()> network_call(const Config& config, Device& device) {
  const auto unet = std::make_shared<UNet>(config.model.unet, 0, TensorOptions{DType::f32, &device});
  const Batch batch = noise_batch(config, device);
  require_precision(config.train.precision, device);
  return [=] {
    const NoGrad guard;
    ForwardContext context{.precision = config.train.precision};
    const std::vector<double> logsnr(static_cast<size_t>(batch.x.size(0)), 0.5);
    (*unet)(Variable(batch.x), logsnr, labels_for(config, batch), context);
  };
}

std::function<void()> training_step(const Config& config, Device& device) {
  const auto trainer = std::make_shared<Trainer>(config, device);
  const Batch batch = noise_batch(config, device);
  return [=] { trainer->update(batch); };
}

std::function<void()> distillation_step(const Config& config, Device& device) {
  constexpr int64_t kStudentSteps = 4;
  const auto trainer = std::make_shared<Trainer>(config, device);
  const auto teacher = std::make_shared<UNet>(config.model.unet, 0, TensorOptions{DType::f32, &device});
  const Batch batch = noise_batch(config, device);
  // One for all calls: updates with the same teacher are recorded.
  const Denoiser denoiser = make_denoiser(*teacher, config.model.prediction, config.train.precision);
  return [=] {
    (void)teacher;  // the denoiser refers to it
    trainer->update(batch, denoiser, kStudentSteps);
  };
}

std::function<void()> sampling_step(const Config& config, Device& device) {
  const auto unet = std::make_shared<UNet>(config.model.unet, 0, TensorOptions{DType::f32, &device});
  const Batch batch = noise_batch(config, device);
  require_precision(config.train.precision, device);
  return [=] {
    const SamplerOptions options{.num_steps = 1, .schedule = config.model.schedule, .step_noise = {}};
    sample(make_denoiser(*unet, config.model.prediction, config.train.precision), batch.x,
           labels_for(config, batch), options);
  };
}

}  // namespace

std::vector<Case> model_cases(const Config& config) {
  const auto with = [config](std::function<void()> (*prepare)(const Config&, Device&)) {
    return [config, prepare](Device& device) { return prepare(config, device); };
  };
  return {{"network call", with(network_call)},
          {"training step", with(training_step)},
          {"distillation step", with(distillation_step)},
          {"sampling step", with(sampling_step)}};
}

}  // namespace halfstep::bench
