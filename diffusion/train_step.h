// Algorithm 1 of the paper: standard diffusion training. (Algorithm 2, distillation, is in distill.h.)
#pragma once

#include <cstdint>
#include <vector>

#include "diffusion/loss.h"
#include "diffusion/prediction.h"
#include "diffusion/schedule.h"
#include "tensor/ops.h"

namespace halfstep {

/// t ~ U[0, 1) for each example: the continuous time of Algorithm 1. Drawn on the host; example k depends
/// only on (key, k).
std::vector<double> draw_times(int64_t batch, RandomKey key);

/// i uniform in 0 ... num_steps-1 for each example, drawn like draw_times. Step i of a sampler of num_steps
/// steps starts at step_time(i, num_steps). Throws Error unless 1 <= num_steps < 2^32.
std::vector<int64_t> draw_step_indices(int64_t batch, int64_t num_steps, RandomKey key);

/// t = (i + 1) / num_steps, never 0 and 1 for the last step. Throws Error for i outside 0 ... num_steps-1.
std::vector<double> step_times(const std::vector<int64_t>& i, int64_t num_steps);

/// The targets of Algorithm 1: clean data, its noise, and v = alpha eps - sigma x.
Predictions data_target(const Tensor& x, const Tensor& eps, const NoiseLevels& logsnr);

/// The loss of one step of Algorithm 1, a scalar that is differentiable in the model's parameters.
/// x: data [B, H, W, C] in [-1, 1]; label: i64 [B] or undefined; eps: standard normal like x. Everything
/// random comes in: a log-SNR per example, or a time, which gives it.
Variable diffusion_loss(const Denoiser& model, LossWeight weight, const Tensor& x, const Tensor& label,
                        const NoiseLevels& logsnr_t, const Tensor& eps);
Variable diffusion_loss(const Denoiser& model, LossWeight weight, const CosineSchedule& schedule,
                        const Tensor& x, const Tensor& label, const std::vector<double>& t,
                        const Tensor& eps);

}  // namespace halfstep
