#include "diffusion/train_step.h"

#include "autograd/ops.h"
#include "diffusion/forward.h"
#include "tensor/error.h"
#include "tensor/philox.h"

namespace halfstep {

namespace {

/// The first random word of a row: 32 uniform bits.
uint32_t word_of(RandomKey key, int64_t row) {
  return philox::words(key.seed, key.stream, static_cast<uint64_t>(row), 0).word[0];
}

}  // namespace

std::vector<double> draw_times(int64_t batch, RandomKey key) {
  std::vector<double> t;
  for (int64_t k = 0; k < batch; ++k) t.push_back(word_of(key, k) * 0x1p-32);
  return t;
}

std::vector<int64_t> draw_step_indices(int64_t batch, int64_t num_steps, RandomKey key) {
  require(num_steps >= 1 && num_steps < (int64_t{1} << 32), "draw_step_indices",
          "expected 1 to 2^32 - 1 steps, got {}", num_steps);
  std::vector<int64_t> i;
  for (int64_t k = 0; k < batch; ++k) {
    i.push_back(static_cast<int64_t>((word_of(key, k) * static_cast<uint64_t>(num_steps)) >> 32));
  }
  return i;
}

std::vector<double> step_times(const std::vector<int64_t>& i, int64_t num_steps) {
  std::vector<double> t;
  for (const int64_t index : i) {
    require(index >= 0 && index < num_steps, "step_times", "expected a step index in 0 ... {}, got {}",
            num_steps - 1, index);
    t.push_back(static_cast<double>(index + 1) / static_cast<double>(num_steps));
  }
  return t;
}

Predictions data_target(const Tensor& x, const Tensor& eps, const NoiseLevels& logsnr) {
  const Variable data(x), noise(eps);
  const auto [alpha_t, sigma_t] = signal_and_noise(logsnr, data, "data_target");
  return {data, noise, alpha_t * noise - sigma_t * data};
}

Variable diffusion_loss(const Denoiser& model, LossWeight weight, const Tensor& x, const Tensor& label,
                        const NoiseLevels& logsnr_t, const Tensor& eps) {
  const Tensor z_t = diffuse(x, eps, logsnr_t);
  const Predictions target = data_target(x, eps, logsnr_t);
  const Predictions prediction = model(Variable(z_t), logsnr_t, label);
  return batch_loss(weight, target, prediction, logsnr_t);
}

Variable diffusion_loss(const Denoiser& model, LossWeight weight, const CosineSchedule& schedule,
                        const Tensor& x, const Tensor& label, const std::vector<double>& t,
                        const Tensor& eps) {
  return diffusion_loss(model, weight, x, label, schedule.logsnr(t), eps);
}

}  // namespace halfstep
