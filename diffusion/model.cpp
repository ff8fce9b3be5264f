#include "diffusion/model.h"

#include <algorithm>

#include "diffusion/random_streams.h"
#include "diffusion/train_step.h"
#include "diffusion/trainer.h"

namespace halfstep {

Denoiser Model::denoiser(Precision precision) const {
  require_precision(precision, unet.conv_in.kernel.value().device());
  return make_denoiser(unet, info.config.model.prediction, precision);
}

Model make_model(const Checkpoint& checkpoint, Device& device, DType dtype) {
  UNet unet(checkpoint.info.config.model.unet, UNet::Unloaded{}, {dtype, &device});
  load_state(unet, checkpoint.weights);
  set_requires_grad(unet, false);
  return {checkpoint.info, checkpoint.path, std::move(unet)};
}

Model load_model(const std::string& path, Device& device, DType dtype) {
  return make_model(load_checkpoint(path, device), device, dtype);
}

Tensor draw_labels(int64_t num_classes, int64_t count, uint64_t seed) {
  return Tensor::from(draw_step_indices(count, num_classes, random_key(seed, RandomUse::sample_label)),
                      {count}, {DType::i64});
}

Tensor sample_in_batches(const Denoiser& denoiser, const Tensor& noise, const Tensor& label,
                         const SamplerOptions& options, int64_t batch_size, Trajectory* trajectory) {
  std::vector<Tensor> samples, z, x_hat;
  for (int64_t begin = 0; begin < noise.size(0); begin += batch_size) {
    const int64_t end = std::min(begin + batch_size, noise.size(0));
    SamplerOptions part = options;
    part.first_sample = options.first_sample + static_cast<uint64_t>(begin);
    if (options.step_noise.defined()) part.step_noise = options.step_noise.slice(1, begin, end);
    Trajectory way;
    samples.push_back(sample(denoiser, noise.slice(0, begin, end),
                             label.defined() ? label.slice(0, begin, end) : label, part,
                             trajectory ? &way : nullptr));
    z.push_back(way.z);
    x_hat.push_back(way.x_hat);
  }
  if (trajectory) *trajectory = {concat(z, 1), concat(x_hat, 1)};
  return concat(samples, 0);
}

}  // namespace halfstep
