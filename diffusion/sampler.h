// Samplers: from noise at time 1 to data at time 0 in num_steps equal steps.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "diffusion/prediction.h"
#include "diffusion/schedule.h"
#include "tensor/ops.h"

namespace halfstep {

/// Deterministic DDIM (Song et al. 2020), or ancestral sampling: p(z_s | z_t) with the mean of q(z_s | z_t,
/// x_hat).
enum class SamplerKind : uint8_t { ddim, ancestral };

/// "ddim", "ancestral".
std::string_view name_of(SamplerKind kind);
/// Throws Error for another name.
SamplerKind sampler_by_name(std::string_view name);

/// Variance of the ancestral sampler, between beta-tilde_t = (1 - r) sigma_s^2 (`large_part` 0) and
/// beta_t = (1 - r) sigma_t^2 (`large_part` 1), mixed in log space.
struct AncestralVariance {
  double large_part = 0;
};
/// "fixed_small" (0), "fixed_large" (1), "medium:f" with f in [0, 1]. Throws Error for anything else.
AncestralVariance ancestral_variance_by_name(std::string_view name);

/// How to sample; the defaults are the deterministic sampler of the paper.
struct SamplerOptions {
  SamplerKind kind = SamplerKind::ddim;
  int64_t num_steps = 16;
  /// Clamps x_hat to [-1, 1] at every step.
  bool clip = true;
  CosineSchedule schedule = {};

  // Only for the ancestral sampler:
  AncestralVariance variance = {};
  /// Noise of the steps, [num_steps, K, H, W, C], index i for the step from (i+1)/num_steps to i/num_steps
  /// (index 0 is never used); undefined: drawn from `seed`.
  Tensor step_noise = {};
  uint64_t seed = 0;
  /// Number of the first sample: sample k draws its own noise, however samples are divided into batches.
  uint64_t first_sample = 0;
};

/// What happened on the way, for n = 0 ... num_steps-1 in the order of the steps.
struct Trajectory {
  Tensor z;      ///< [num_steps+1, K, H, W, C]; z[0] is the noise, z[num_steps] the samples
  Tensor x_hat;  ///< [num_steps, K, H, W, C]; x_hat[n] is the denoiser's x at z[n], clamped if clip
};

/// Standard normal z at time 1 for samples first_sample, first_sample + 1, ...; shape: [K, H, W, C].
Tensor initial_noise(const Shape& shape, uint64_t seed, uint64_t first_sample, TensorOptions options);

/// One DDIM step to time s: the data predicted at time t, noised again with the noise predicted at time t,
/// alpha_s x_hat + sigma_s eps_hat. The paper writes it alpha_s x_hat + (sigma_s / sigma_t) (z_t - alpha_t
/// x_hat).
Tensor ddim_step(const Predictions& at_t, const NoiseLevels& logsnr_s);

/// One ancestral step: a draw from N(mean of q(z_s | z_t, x_hat), variance), with standard normal `noise`.
Tensor ancestral_step(const Predictions& at_t, const Tensor& z_t, const std::vector<double>& logsnr_s,
                      const std::vector<double>& logsnr_t, AncestralVariance variance, const Tensor& noise);
/// The same with `factors` [3, B], f64: z_s = factors[0] z_t + factors[1] x_hat + factors[2] noise.
Tensor ancestral_step(const Predictions& at_t, const Tensor& z_t, const Tensor& factors, const Tensor& noise);
Tensor ancestral_factors(const std::vector<double>& logsnr_s, const std::vector<double>& logsnr_t,
                         AncestralVariance variance, Device& device);

/// Samples [K, H, W, C] from `noise` of that shape and `label` (i64 [K] or undefined). The step that ends at
/// time 0 returns x_hat itself. Nothing is recorded for gradients; on a device with graphs the steps of a
/// denoiser that allows it are recorded and started as one (tensor/captured.h). `trajectory` is filled if
/// given. Throws Error for num_steps < 1 and for step_noise of a wrong shape or without the ancestral
/// sampler.
Tensor sample(const Denoiser& denoiser, const Tensor& noise, const Tensor& label,
              const SamplerOptions& options, Trajectory* trajectory = nullptr);

}  // namespace halfstep
