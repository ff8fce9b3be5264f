#include "diffusion/distill.h"

#include "autograd/ops.h"
#include "diffusion/forward.h"
#include "diffusion/sampler.h"
#include "diffusion/train_step.h"
#include "tensor/error.h"

namespace halfstep {

namespace {

/// Weights of x_hat(z_t) and x_hat(z_m) in x~, per example; they add up to 1.
struct TargetWeights {
  std::vector<double> of_t, of_m;
};

TargetWeights target_weights(const std::vector<int64_t>& i, const std::vector<double>& logsnr_t,
                             const std::vector<double>& logsnr_m, const std::vector<double>& logsnr_s) {
  TargetWeights weights;
  for (size_t k = 0; k < i.size(); ++k) {
    const double r_t = signal_to_noise(logsnr_t[k]), r_m = signal_to_noise(logsnr_m[k]),
                 r_s = signal_to_noise(logsnr_s[k]);
    const bool ends_at_0 = i[k] == 0;
    weights.of_t.push_back(ends_at_0 ? 0 : (r_m - r_t) / (r_s - r_t));
    weights.of_m.push_back(ends_at_0 ? 1 : (r_s - r_m) / (r_s - r_t));
  }
  return weights;
}

/// t - fraction / N, with t = (i + 1) / N the time at which a student's step starts.
std::vector<double> times_before(const std::vector<int64_t>& i, double fraction, int64_t num_steps) {
  std::vector<double> times;
  for (const int64_t index : i) {
    times.push_back((static_cast<double>(index + 1) - fraction) / static_cast<double>(num_steps));
  }
  return times;
}

}  // namespace

DistillationTarget distillation_target(const Denoiser& teacher, const Tensor& z_t,
                                       const std::vector<int64_t>& i, int64_t num_steps,
                                       const CosineSchedule& schedule, const Tensor& label) {
  const NoGrad guard;
  const std::vector<double> logsnr_t = schedule.logsnr(step_times(i, num_steps));
  const std::vector<double> logsnr_m = schedule.logsnr(times_before(i, 0.5, num_steps));
  const std::vector<double> logsnr_s = schedule.logsnr(times_before(i, 1, num_steps));

  // Two steps of DDIM with the teacher.
  const Predictions teacher_t = teacher(Variable(z_t), logsnr_t, label);
  const Tensor z_m = ddim_step(teacher_t, logsnr_m);
  const Predictions teacher_m = teacher(Variable(z_m), logsnr_m, label);
  const Tensor z_s = ddim_step(teacher_m, logsnr_s);

  const TargetWeights weights = target_weights(i, logsnr_t, logsnr_m, logsnr_s);
  const Variable weight_t(per_example(weights.of_t, z_t.rank(), z_t.options()));
  const Variable weight_m(per_example(weights.of_m, z_t.rank(), z_t.options()));
  const Variable x_target = weight_m * teacher_m.x + weight_t * teacher_t.x;
  return {predictions_of_x(x_target, Variable(z_t), logsnr_t),
          teacher_t,
          teacher_m,
          z_m,
          z_s,
          logsnr_t,
          logsnr_m,
          logsnr_s};
}

Variable distillation_loss(const Denoiser& student, const Denoiser& teacher, LossWeight weight,
                           const CosineSchedule& schedule, const Tensor& x, const Tensor& label,
                           const std::vector<int64_t>& i, int64_t num_steps, const Tensor& eps) {
  const std::vector<double> logsnr_t = schedule.logsnr(step_times(i, num_steps));
  const Tensor z_t = diffuse(x, eps, logsnr_t);
  const Predictions target = distillation_target(teacher, z_t, i, num_steps, schedule, label).target;
  const Predictions prediction = student(Variable(z_t), logsnr_t, label);
  return batch_loss(weight, target, prediction, logsnr_t);
}

std::vector<int64_t> halvings(int64_t from_steps, int64_t to_steps) {
  require(to_steps >= 1, "distill", "expected to distil to at least 1 step, got {}", to_steps);
  require(from_steps > to_steps, "distill",
          "expected more steps of the teacher than of the last student, got {} and {}", from_steps, to_steps);
  std::vector<int64_t> steps;
  int64_t num_steps = from_steps;
  while (num_steps > to_steps) {
    require(num_steps % 2 == 0, "distill", "expected to halve {} steps down to {}, got the odd number {}; {}",
            from_steps, to_steps, num_steps, "start from a power of two times the last student's steps");
    num_steps /= 2;
    steps.push_back(num_steps);
  }
  require(num_steps == to_steps, "distill", "expected to reach {} steps by halving {}, got {}; {}", to_steps,
          from_steps, num_steps, "start from a power of two times the last student's steps");
  return steps;
}

}  // namespace halfstep
