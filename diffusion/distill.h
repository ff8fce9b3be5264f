// Algorithm 2 of the paper: progressive distillation. One step of the student is taught to do what two DDIM
// steps of the teacher do.
#pragma once

#include <cstdint>
#include <vector>

#include "diffusion/loss.h"
#include "diffusion/prediction.h"
#include "diffusion/schedule.h"

namespace halfstep {

/// The target x~ of Algorithm 2 and what led to it. t' and t'' of the paper are m (middle) and s here: t > m
/// > s.
struct DistillationTarget {
  Predictions target;     ///< x~, and the eps and v that belong to it at z_t
  Predictions teacher_t;  ///< the teacher at z_t
  Predictions teacher_m;  ///< the teacher at z_m
  Tensor z_m, z_s;        ///< after the teacher's first and second DDIM step
  std::vector<double> logsnr_t, logsnr_m, logsnr_s;
};

/// The noise levels of a distillation step, and how x~ is weighed from the teacher's predictions: what it
/// needs of numbers that are computed on the host.
struct DistillationLevels {
  NoiseLevels t, m, s;
  Tensor weights;  ///< f64 [2, B]: of x_hat(z_t) and of x_hat(z_m) in x~; they add up to 1

  /// The tables of the levels on a device (see NoiseLevels) and `weights`; the same levels with others.
  std::vector<Tensor> tables(Device& device) const;
  DistillationLevels with_tables(const std::vector<Tensor>& tables) const;
  /// Examples begin ... end-1.
  DistillationLevels slice(int64_t begin, int64_t end) const;
};

/// For a student of num_steps steps (the teacher takes 2 num_steps).
///   i: one step index per example, 0 ... num_steps-1; t = (i+1)/N, m = t - 0.5/N, s = t - 1/N.
DistillationLevels distillation_levels(const std::vector<int64_t>& i, int64_t num_steps,
                                       const CosineSchedule& schedule, Device& device);

/// The target at z_t [B, H, W, C]. label: i64 [B] or undefined. The teacher is never clipped, nothing is
/// recorded, and the target requires no gradient. (A teacher with dropout must be evaluated without it: its
/// Network sees to that.)
///
/// x~ is the x for which one DDIM step from z_t ends at z_s. The paper solves for it,
///   x~ = (z_s - (sigma_s/sigma_t) z_t) / (alpha_s - (sigma_s/sigma_t) alpha_t),
/// which subtracts nearly equal numbers: in f32 the error grows like N (2e-3 at 4096 steps). Written with
/// r = alpha/sigma a DDIM step is z_s/sigma_s = z_t/sigma_t + (r_s - r_t) x_hat; two steps add up, z_t and
/// z_s cancel, and x~ is a weighted mean of the teacher's two predictions:
///   x~ = [(r_s - r_m) x_hat(z_m) + (r_m - r_t) x_hat(z_t)] / (r_s - r_t).
/// The step that ends at time 0 (i = 0) returns x_hat in every sampler, so there x~ is the teacher's second
/// x_hat.
DistillationTarget distillation_target(const Denoiser& teacher, const Tensor& z_t,
                                       const DistillationLevels& at, const Tensor& label);
DistillationTarget distillation_target(const Denoiser& teacher, const Tensor& z_t,
                                       const std::vector<int64_t>& i, int64_t num_steps,
                                       const CosineSchedule& schedule, const Tensor& label);

/// The loss of one step of Algorithm 2, a scalar that is differentiable in the student's parameters.
/// x: data [B, H, W, C] in [-1, 1]; eps: standard normal like x; i as above.
Variable distillation_loss(const Denoiser& student, const Denoiser& teacher, LossWeight weight,
                           const Tensor& x, const Tensor& label, const DistillationLevels& at,
                           const Tensor& eps);
Variable distillation_loss(const Denoiser& student, const Denoiser& teacher, LossWeight weight,
                           const CosineSchedule& schedule, const Tensor& x, const Tensor& label,
                           const std::vector<int64_t>& i, int64_t num_steps, const Tensor& eps);

/// Numbers of steps of the students, one per halving: (16, 1) -> {8, 4, 2, 1}. Throws Error unless to_steps
/// >= 1 and from_steps is to_steps times a power of two, at least 2.
std::vector<int64_t> halvings(int64_t from_steps, int64_t to_steps);

}  // namespace halfstep
