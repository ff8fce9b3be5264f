// Identities that the paper (Salimans & Ho 2022) states in its text and appendices, for the functions here.
// docs/paper-map.md names each of them.
#include <doctest/doctest.h>

#include <cmath>
#include <numbers>

#include "autograd/ops.h"
#include "diffusion/distill.h"
#include "diffusion/forward.h"
#include "diffusion/sampler.h"
#include "diffusion/train_step.h"
#include "tests/worst.h"

using namespace halfstep;

namespace {

const TensorOptions kF64{DType::f64, &cpu_device()};

/// Times that stay away from the ends, where a difference quotient would need another step.
const std::vector<double> kTimes = {0.1, 0.35, 0.6, 0.9};
const std::vector<double> kEarlier = {0.05, 0.1, 0.55, 0.2};

Tensor pictures(uint64_t stream) { return random_normal({4, 2, 3, 1}, {5, stream}, 0, kF64); }

/// phi = arctan(sigma / alpha)
std::vector<double> angles(const std::vector<double>& logsnr) {
  std::vector<double> phi;
  for (const double l : logsnr) phi.push_back(std::atan(sigma(l) / alpha(l)));
  return phi;
}

std::vector<double> differences(const std::vector<double>& a, const std::vector<double>& b) {
  std::vector<double> result;
  for (size_t k = 0; k < a.size(); ++k) result.push_back(a[k] - b[k]);
  return result;
}

/// f(value) of each example, to be multiplied with pictures.
template <class F>
Variable factor(const std::vector<double>& values, F f) {
  std::vector<double> results;
  for (const double value : values) results.push_back(f(value));
  return Variable(per_example(results, 4, kF64));
}
Variable cosines(const std::vector<double>& phi) {
  return factor(phi, [](double p) { return std::cos(p); });
}
Variable sines(const std::vector<double>& phi) {
  return factor(phi, [](double p) { return std::sin(p); });
}

double largest_difference(const Variable& a, const Variable& b) {
  REQUIRE(a.shape() == b.shape());
  double largest = 0;
  const std::vector<double> x = a.value().to_vector<double>(), y = b.value().to_vector<double>();
  for (size_t k = 0; k < x.size(); ++k) test::keep_worst(largest, std::abs(x[k] - y[k]));
  return largest;
}

}  // namespace

TEST_CASE("the paper: alpha_t is cos(pi t / 2)") {
  const CosineSchedule schedule;  // lambda is cut to [-20, 20], which moves the angle by at most atan(e^-10)
  const double most = 2 * std::atan(std::exp(-10.0));
  for (const double t : {0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0}) {
    const double l = schedule.logsnr(t);
    CHECK(std::abs(alpha(l) - std::cos(std::numbers::pi * t / 2)) <= most);
    CHECK(std::abs(sigma(l) - std::sin(std::numbers::pi * t / 2)) <= most);
  }
}

TEST_CASE("the paper: v is the velocity of z in the angle") {
  const CosineSchedule schedule;
  const std::vector<double> logsnr = schedule.logsnr(kTimes), phi = angles(logsnr);
  const Tensor x = pictures(1), eps = pictures(2);
  const Variable z(diffuse(x, eps, logsnr));
  CHECK(largest_difference(z, cosines(phi) * Variable(x) + sines(phi) * Variable(eps)) <= 1e-14);

  // z at phi +- h: logsnr of an angle is -2 log tan.
  const double h = 1e-5;
  const auto z_at = [&](double shift) {
    std::vector<double> shifted;
    for (const double p : phi) shifted.push_back(-2 * std::log(std::tan(p + shift)));
    return Variable(diffuse(x, eps, shifted));
  };
  const Variable velocity = (z_at(h) - z_at(-h)) / (2 * h);
  const Variable v = data_target(x, eps, logsnr).v;
  CHECK(largest_difference(v, velocity) <= 1e-9);  // h^2 / 6 |z| and 1e-16 / h
  CHECK(largest_difference(v, cosines(phi) * Variable(eps) - sines(phi) * Variable(x)) <= 1e-14);
}

TEST_CASE("the paper: a DDIM step turns z by the difference of the angles") {
  const CosineSchedule schedule;
  const std::vector<double> logsnr_t = schedule.logsnr(kTimes), logsnr_s = schedule.logsnr(kEarlier);
  const std::vector<double> delta = differences(angles(logsnr_t), angles(logsnr_s));
  const Variable z(pictures(1)), v_hat(pictures(2));
  const Predictions at_t = predictions(Prediction::v, v_hat, z, logsnr_t, false);
  const Variable z_s(ddim_step(at_t, logsnr_s));
  CHECK(largest_difference(z_s, cosines(delta) * z - sines(delta) * v_hat) <= 1e-13);
}

TEST_CASE("the paper: DDIM is an integrator of the probability flow ODE") {
  // In lambda the ODE is dz = (alpha x_hat - alpha^2 z) / 2 d lambda: f = (d log alpha / d lambda) z with
  // d log alpha / d lambda = sigma^2 / 2, g^2 = -sigma^2, and the score (alpha x_hat - z) / sigma^2.
  const CosineSchedule schedule;
  const std::vector<double> logsnr = schedule.logsnr(kTimes);
  const Variable z(pictures(1)), x_hat(pictures(2));
  const Predictions at_t = predictions_of_x(x_hat, z, logsnr);
  const double h = 1e-5;
  const auto step = [&](double d_lambda) {
    std::vector<double> shifted;
    for (const double l : logsnr) shifted.push_back(l + d_lambda);
    return Variable(ddim_step(at_t, shifted));
  };
  CHECK(largest_difference(step(0), z) <= 1e-14);
  const Variable slope = (step(h) - step(-h)) / (2 * h);
  const Variable alpha_t = factor(logsnr, [](double l) { return alpha(l); });
  CHECK(largest_difference(slope, 0.5 * (alpha_t * x_hat - square(alpha_t) * z)) <= 1e-9);
}

TEST_CASE("the paper: g^2 of the diffusion is the slope of the step variance") {
  const CosineSchedule schedule;
  const double h = 1e-5;
  for (const double t : kTimes) {
    const auto slope_of = [&](auto f) {
      return (f(schedule.logsnr(t + h)) - f(schedule.logsnr(t - h))) / (2 * h);
    };
    const double l = schedule.logsnr(t), sigma2 = sigma(l) * sigma(l);
    const double d_log_alpha = slope_of([](double x) { return std::log(alpha(x)); });
    const double d_sigma2 = slope_of([](double x) { return sigma(x) * sigma(x); });
    const double g2 = d_sigma2 - 2 * d_log_alpha * sigma2;
    CHECK(std::abs(g2 / (-schedule.dlogsnr_dt(t) * sigma2) - 1) <= 1e-7);
    // The variance that a step from t - h to t adds is g^2 h, up to terms of order h^2.
    const double added = std::exp(log_step_variance(schedule.logsnr(t - h), l, l));
    CHECK(std::abs(added / (g2 * h) - 1) <= 1e-3);
  }
}

TEST_CASE("the paper: the ancestral variance is mixed in log space") {
  const CosineSchedule schedule;
  const std::vector<double> logsnr_t = schedule.logsnr(kTimes), logsnr_s = schedule.logsnr(kEarlier);
  const Variable z(pictures(1)), x_hat(pictures(2));
  const Tensor noise = pictures(3);
  const Predictions at_t = predictions_of_x(x_hat, z, logsnr_t);
  for (const double gamma : {0.0, 0.3, 1.0}) {
    const Variable got(ancestral_step(at_t, z.value(), logsnr_s, logsnr_t, {gamma}, noise));
    std::vector<double> of_z, of_x, deviation;
    for (size_t k = 0; k < logsnr_t.size(); ++k) {
      const double r = std::exp(logsnr_t[k] - logsnr_s[k]);
      const double alpha_s = alpha(logsnr_s[k]), sigma_s = sigma(logsnr_s[k]), sigma_t = sigma(logsnr_t[k]);
      of_z.push_back(r * alpha_s / alpha(logsnr_t[k]));
      of_x.push_back((1 - r) * alpha_s);
      deviation.push_back(std::sqrt(std::pow((1 - r) * sigma_s * sigma_s, 1 - gamma) *
                                    std::pow((1 - r) * sigma_t * sigma_t, gamma)));
    }
    const auto same = [](double value) { return value; };
    const Variable expected =
        factor(of_z, same) * z + factor(of_x, same) * x_hat + factor(deviation, same) * Variable(noise);
    CHECK(largest_difference(got, expected) <= 1e-12);
  }
}

TEST_CASE("the paper: solving one DDIM step for x gives the target") {
  // The derivation of appendix G: z_s = alpha_s x + (sigma_s / sigma_t) (z_t - alpha_t x), solved for x.
  const CosineSchedule schedule;
  const std::vector<double> logsnr_t = schedule.logsnr(kTimes), logsnr_s = schedule.logsnr(kEarlier);
  const Variable z_t(pictures(1)), x(pictures(2));
  const Variable z_s(ddim_step(predictions_of_x(x, z_t, logsnr_t), logsnr_s));
  std::vector<double> ratio, denominator;
  for (size_t k = 0; k < logsnr_t.size(); ++k) {
    ratio.push_back(sigma(logsnr_s[k]) / sigma(logsnr_t[k]));
    denominator.push_back(alpha(logsnr_s[k]) - ratio[k] * alpha(logsnr_t[k]));
  }
  const auto same = [](double value) { return value; };
  const Variable solved = (z_s - factor(ratio, same) * z_t) / factor(denominator, same);
  CHECK(largest_difference(solved, x) <= 1e-13);

  // distillation_target finds that x for the two steps of a teacher.
  const auto network = [](const Variable& z, const NoiseLevels&, const Tensor&) { return 0.5 * z; };
  const std::vector<int64_t> i = {1, 3, 4, 7};
  const DistillationTarget target =
      distillation_target({network, Prediction::v}, z_t.value(), i, 8, schedule, {});
  const Variable arrived(ddim_step(target.target, target.logsnr_s));
  CHECK(largest_difference(arrived, Variable(target.z_s)) <= 1e-13);
}
