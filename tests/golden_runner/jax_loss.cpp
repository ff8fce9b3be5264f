// Training losses of the official code, without and with distillation, and their gradients.
#include <regex>

#include "diffusion/distill.h"
#include "diffusion/loss.h"
#include "diffusion/train_step.h"
#include "tests/analytic_network.h"
#include "tests/golden_runner/kinds.h"

namespace halfstep::test {
namespace {

bool is_distillation(const GoldenCase& golden) {
  return reference_text(golden).find("target_model_fn") != std::string::npos ||
         has_output(golden, "teacher_start/model_x");
}

bool has_given_draws(const GoldenCase& golden) {
  return golden.has("in/x") && golden.has("in/eps") && golden.facts.contains("analytic_model") &&
         reference_text(golden).find("training_losses") != std::string::npos;
}

std::vector<int64_t> step_indices(const GoldenRun& run) {
  const std::vector<double> i = run.values("in/i_given");
  return std::vector<int64_t>(i.begin(), i.end());
}

/// N of discrete time: config.num_steps, else what the description says.
int64_t num_steps(const GoldenRun& run) {
  const nlohmann::json config = run.golden.facts.value("config", nlohmann::json());
  if (config.is_object() && config.contains("num_steps")) return config.at("num_steps").get<int64_t>();
  const std::string what = run.golden.facts.value("what", "");
  std::smatch found;
  require(std::regex_search(what, found, std::regex(R"((num_steps|N) ?= ?(\d+))")), "golden",
          "expected config.num_steps beside the step indices in/i_given");
  return std::stoll(found[2]);
}

/// The student's predictions and losses at z against `target`, and the gradients with respect to its raw
/// output.
void check_losses(GoldenRun& run, Prediction kind, const Predictions& target, const Tensor& z,
                  const std::vector<double>& logsnr) {
  const std::string prefix = std::string(name_of(kind)) + "/";
  const Denoiser student = analytic_denoiser(run.golden.facts, 'S', kind);
  const Variable output(student.network(Variable(z), logsnr, {}).value(), true);
  const auto student_predictions = [&] { return predictions(kind, output, Variable(z), logsnr, false); };

  const Predictions p = student_predictions();
  run.output(prefix + "student/model_x", p.x);
  run.output(prefix + "student/model_eps", p.eps);
  run.output(prefix + "student/model_v", p.v);
  run.output(prefix + "x_target", target.x);
  run.output(prefix + "eps_target", target.eps);
  run.output(prefix + "v_target", target.v);
  run.output(prefix + "x_mse", example_losses(LossWeight::constant, target, p, logsnr));
  run.output(prefix + "eps_mse", example_losses(LossWeight::snr, target, p, logsnr));
  run.output(prefix + "v_mse", example_losses(LossWeight::snr_plus_1, target, p, logsnr));
  // The official names of the weightings.
  for (const auto& [name, weight] : {std::pair{"constant", LossWeight::constant},
                                     {"snr", LossWeight::snr},
                                     {"snr_trunc", LossWeight::truncated_snr},
                                     {"v_mse", LossWeight::snr_plus_1}}) {
    run.output(prefix + "loss/" + name, example_losses(weight, target, p, logsnr));
    run.output(prefix + "dmeanloss_doutput/" + name,
               grad(batch_loss(weight, target, student_predictions(), logsnr), {output})[0]);
  }
}

void run_loss(GoldenRun& run) {
  // Discrete time draws a step index instead of a time.
  const bool discrete = run.golden.has("in/i_given");
  const std::vector<double> t =
      discrete ? step_times(step_indices(run), num_steps(run)) : run.values("in/u_given");
  const std::vector<double> logsnr = CosineSchedule{}.logsnr(t);
  const Tensor x = run.tensor("in/x"), eps = run.tensor("in/eps"), z = diffuse(x, eps, logsnr);
  run.output("u", t);
  run.output("logsnr", logsnr);
  run.output("z", z);
  for (const Prediction kind : kPredictions) check_losses(run, kind, data_target(x, eps, logsnr), z, logsnr);
}

void run_distill(GoldenRun& run) {
  const CosineSchedule schedule;
  const int64_t steps = num_steps(run);
  const std::vector<int64_t> i = step_indices(run);
  std::vector<double> time_m, time_s;
  for (const int64_t index : i) {
    time_m.push_back((static_cast<double>(index) + 0.5) / static_cast<double>(steps));
    time_s.push_back(static_cast<double>(index) / static_cast<double>(steps));
  }
  const std::vector<double> t = step_times(i, steps), logsnr_t = schedule.logsnr(t);
  const Tensor z = diffuse(run.tensor("in/x"), run.tensor("in/eps"), logsnr_t);
  run.output("z", z);
  run.output("u", t);
  run.output("u_mid", time_m);
  run.output("u_s", time_s);
  for (const Prediction kind : kPredictions) {
    const std::string prefix = std::string(name_of(kind)) + "/";
    const Denoiser teacher = analytic_denoiser(run.golden.facts, 'T', kind);
    const DistillationTarget d = distillation_target(teacher, z, i, steps, schedule, {});
    if (kind == Prediction::x) {  // the same for all
      std::vector<double> fraction;
      for (size_t k = 0; k < i.size(); ++k) fraction.push_back(sigma(d.logsnr_s[k]) / sigma(d.logsnr_t[k]));
      run.output("logsnr", d.logsnr_t);
      run.output("logsnr_mid", d.logsnr_m);
      run.output("logsnr_s", d.logsnr_s);
      run.output("a_mid", alpha(d.logsnr_m));
      run.output("stdv_mid", sigma(d.logsnr_m));
      run.output("a_s", alpha(d.logsnr_s));
      run.output("stdv_s", sigma(d.logsnr_s));
      run.output("a_t", alpha(d.logsnr_t));
      run.output("stdv_frac", fraction);
    }
    run.output(prefix + "teacher_start/model_x", d.teacher_t.x);
    run.output(prefix + "teacher_start/model_eps", d.teacher_t.eps);
    run.output(prefix + "z_mid", d.z_m);
    run.output(prefix + "teacher_mid/model_x", d.teacher_m.x);
    run.output(prefix + "teacher_mid/model_eps", d.teacher_m.eps);
    run.output(prefix + "z_teacher", d.z_s);
    check_losses(run, kind, d.target, z, logsnr_t);
  }
}

}  // namespace

Kind jax_loss_kind() {
  return {"jax loss", "Algorithm 1 in continuous or discrete time: targets, losses, d(mean loss)/d(output)",
          [](const GoldenCase& golden) {
            return has_given_draws(golden) && !is_distillation(golden) &&
                   (golden.has("in/u_given") || golden.has("in/i_given"));
          },
          run_loss};
}

Kind jax_distill_kind() {
  return {"jax distillation", "Algorithm 2: every intermediate, targets, losses, d(mean loss)/d(output)",
          [](const GoldenCase& golden) {
            return has_given_draws(golden) && is_distillation(golden) && golden.has("in/i_given");
          },
          run_distill};
}

}  // namespace halfstep::test
