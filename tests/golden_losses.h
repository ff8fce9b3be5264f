// What the golden cases of training losses (04a, 04b) and of distillation losses (04c) have in common.
#pragma once

#include <doctest/doctest.h>

#include <string>
#include <utility>

#include "diffusion/loss.h"
#include "tests/analytic_network.h"
#include "tests/golden_case.h"

namespace halfstep::test {

inline constexpr LossWeight kLossWeights[] = {LossWeight::constant, LossWeight::snr,
                                              LossWeight::truncated_snr, LossWeight::snr_plus_1};

/// Compares outputs of a case one by one and counts them, so that a test can tell that it left none out.
class GoldenChecks {
 public:
  GoldenChecks(const GoldenCase& golden, DType dtype) : golden_(golden), dtype_(dtype) {}

  void operator()(const std::string& name, const Tensor& value) {
    INFO(name, " ", name_of(dtype_));
    CHECK(value.dtype() == dtype_);
    CHECK(golden_.error(name, value) <= 1);
    ++count_;
  }
  void operator()(const std::string& name, const Variable& value) { (*this)(name, value.value()); }

  const GoldenCase& golden() const { return golden_; }
  size_t count() const { return count_; }

 private:
  const GoldenCase& golden_;
  DType dtype_;
  size_t count_ = 0;
};

/// The student's predictions and losses at z against `target`, and the gradients with respect to the raw
/// output.
inline void check_losses(GoldenChecks& check, Prediction kind, const Predictions& target, const Tensor& z,
                         const std::vector<double>& logsnr) {
  const std::string prefix = std::string(name_of(kind)) + "/";
  const Denoiser student = analytic_denoiser(check.golden().facts, 'S', kind);
  const Variable output(student.network(Variable(z), logsnr, {}).value(), true);
  const auto student_predictions = [&] { return predictions(kind, output, Variable(z), logsnr, false); };

  const Predictions p = student_predictions();
  check(prefix + "student/model_x", p.x);
  check(prefix + "student/model_eps", p.eps);
  check(prefix + "student/model_v", p.v);
  check(prefix + "x_target", target.x);
  check(prefix + "eps_target", target.eps);
  check(prefix + "v_target", target.v);
  check(prefix + "x_mse", example_losses(LossWeight::constant, target, p, logsnr));
  check(prefix + "eps_mse", example_losses(LossWeight::snr, target, p, logsnr));
  check(prefix + "v_mse", example_losses(LossWeight::snr_plus_1, target, p, logsnr));
  for (const auto& [name, weight] : {std::pair{"constant", LossWeight::constant},
                                     {"snr", LossWeight::snr},
                                     {"snr_trunc", LossWeight::truncated_snr},
                                     {"v_mse", LossWeight::snr_plus_1}}) {
    check(prefix + "loss/" + name, example_losses(weight, target, p, logsnr));
    check(prefix + "dmeanloss_doutput/" + name,
          grad(batch_loss(weight, target, student_predictions(), logsnr), {output})[0]);
  }
}

}  // namespace halfstep::test
