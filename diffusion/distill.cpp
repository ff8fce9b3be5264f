#include "diffusion/distill.h"

#include "autograd/ops.h"
#include "diffusion/forward.h"
#include "diffusion/sampler.h"
#include "diffusion/train_step.h"
#include "tensor/error.h"

namespace halfstep {

namespace {

/// Rows of weights of x_hat(z_t) and x_hat(z_m) in x~.
std::vector<double> target_weights(const std::vector<int64_t>& i, const NoiseLevels& t, const NoiseLevels& m,
                                   const NoiseLevels& s) {
  std::vector<double> of_t, of_m;
  for (size_t k = 0; k < i.size(); ++k) {
    const double r_t = signal_to_noise(t.logsnr()[k]), r_m = signal_to_noise(m.logsnr()[k]),
                 r_s = signal_to_noise(s.logsnr()[k]);
    const bool ends_at_0 = i[k] == 0;
    of_t.push_back(ends_at_0 ? 0 : (r_m - r_t) / (r_s - r_t));
    of_m.push_back(ends_at_0 ? 1 : (r_s - r_m) / (r_s - r_t));
  }
  of_t.insert(of_t.end(), of_m.begin(), of_m.end());
  return of_t;
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

std::vector<Tensor> DistillationLevels::tables(Device& device) const {
  return {t.table(device), m.table(device), s.table(device), weights};
}

DistillationLevels DistillationLevels::with_tables(const std::vector<Tensor>& tables) const {
  return {t.with_table(tables.at(0)), m.with_table(tables.at(1)), s.with_table(tables.at(2)), tables.at(3)};
}

DistillationLevels DistillationLevels::slice(int64_t begin, int64_t end) const {
  return {t.slice(begin, end), m.slice(begin, end), s.slice(begin, end), weights.slice(1, begin, end)};
}

DistillationLevels distillation_levels(const std::vector<int64_t>& i, int64_t num_steps,
                                       const CosineSchedule& schedule, Device& device) {
  const NoiseLevels t = schedule.logsnr(step_times(i, num_steps));
  const NoiseLevels m = schedule.logsnr(times_before(i, 0.5, num_steps));
  const NoiseLevels s = schedule.logsnr(times_before(i, 1, num_steps));
  return {t, m, s, Tensor::from(target_weights(i, t, m, s), {2, t.size()}, {DType::f64, &device})};
}

DistillationTarget distillation_target(const Denoiser& teacher, const Tensor& z_t,
                                       const DistillationLevels& at, const Tensor& label) {
  const NoGrad guard;
  // Two steps of DDIM with the teacher.
  const Predictions teacher_t = teacher(Variable(z_t), at.t, label);
  const Tensor z_m = ddim_step(teacher_t, at.m);
  const Predictions teacher_m = teacher(Variable(z_m), at.m, label);
  const Tensor z_s = ddim_step(teacher_m, at.s);

  const Variable weight_t(per_example(at.weights.slice(0, 0, 1), z_t.rank(), z_t.dtype()));
  const Variable weight_m(per_example(at.weights.slice(0, 1, 2), z_t.rank(), z_t.dtype()));
  const Variable x_target = weight_m * teacher_m.x + weight_t * teacher_t.x;
  return {predictions_of_x(x_target, Variable(z_t), at.t),
          teacher_t,
          teacher_m,
          z_m,
          z_s,
          at.t.logsnr(),
          at.m.logsnr(),
          at.s.logsnr()};
}

DistillationTarget distillation_target(const Denoiser& teacher, const Tensor& z_t,
                                       const std::vector<int64_t>& i, int64_t num_steps,
                                       const CosineSchedule& schedule, const Tensor& label) {
  return distillation_target(teacher, z_t, distillation_levels(i, num_steps, schedule, z_t.device()), label);
}

Variable distillation_loss(const Denoiser& student, const Denoiser& teacher, LossWeight weight,
                           const Tensor& x, const Tensor& label, const DistillationLevels& at,
                           const Tensor& eps) {
  const Tensor z_t = diffuse(x, eps, at.t);
  const Predictions target = distillation_target(teacher, z_t, at, label).target;
  const Predictions prediction = student(Variable(z_t), at.t, label);
  return batch_loss(weight, target, prediction, at.t);
}

Variable distillation_loss(const Denoiser& student, const Denoiser& teacher, LossWeight weight,
                           const CosineSchedule& schedule, const Tensor& x, const Tensor& label,
                           const std::vector<int64_t>& i, int64_t num_steps, const Tensor& eps) {
  const DistillationLevels at = distillation_levels(i, num_steps, schedule, x.device());
  return distillation_loss(student, teacher, weight, x, label, at, eps);
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
