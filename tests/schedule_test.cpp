// diffusion/schedule.h and diffusion/forward.h. The official code's numbers:
// tests/golden_runner/jax_schedule.cpp.
#include "diffusion/schedule.h"

#include <doctest/doctest.h>

#include <cmath>
#include <limits>

#include "diffusion/forward.h"
#include "tensor/error.h"

using namespace halfstep;

namespace {

/// Relative comparison: doctest adds an absolute part unless told otherwise.
doctest::Approx near(double value, double relative) {
  return doctest::Approx(value).epsilon(relative).scale(0);
}

}  // namespace

TEST_CASE("schedule: both ends are exact, also for other limits") {
  for (const auto& [low, high] :
       {std::pair{-20.0, 20.0}, {-10.0, 10.0}, {-15.0, 12.0}, {-3.0, 9.5}, {-30.0, 30.0}}) {
    const CosineSchedule schedule{low, high};
    // A few roundings of a number of the limit's size: no loss next to pi/2 (which would be 1e-12 at -20).
    const double tolerance = 8 * std::numeric_limits<double>::epsilon() * 30;
    CHECK(std::abs(schedule.logsnr(0.0) - high) <= tolerance);
    CHECK(std::abs(schedule.logsnr(1.0) - low) <= tolerance);
  }
}

TEST_CASE("schedule: decreases, and its derivative is its slope") {
  const CosineSchedule schedule{-18, 14};
  double previous = schedule.logsnr(0.0);
  for (int k = 1; k <= 1000; ++k) {
    const double l = schedule.logsnr(k / 1000.0);
    CHECK(l < previous);
    previous = l;
  }
  for (const double t : {0.01, 0.2, 0.4999, 0.5, 0.5001, 0.8, 0.99}) {
    // Central difference: error h^2/6 l''' ~ (h/t)^2 relative, plus rounding 1e-15/h.
    const double h = 1e-6;
    const double slope = (schedule.logsnr(t + h) - schedule.logsnr(t - h)) / (2 * h);
    CHECK(std::abs(schedule.dlogsnr_dt(t) - slope) <= 1e-7 * std::abs(slope));
  }
}

TEST_CASE("schedule: alpha and sigma keep their digits where sigmoid rounds to 1") {
  for (const double l : {-20.0, -5.0, 0.0, 3.0, 20.0, 100.0}) {
    CHECK(std::abs(alpha(l) * alpha(l) + sigma(l) * sigma(l) - 1) <= 1e-15);
    CHECK(std::abs(signal_to_noise(l) * sigma(l) / alpha(l) - 1) <= 1e-14);
    CHECK(std::abs(log_sigma2(l) - 2 * std::log(sigma(l))) <= 1e-14 * (1 + std::abs(l)));
  }
  CHECK(std::abs(sigma(100) / std::exp(-50) - 1) <= 1e-14);  // sqrt(1 - alpha^2) would be 0
}

TEST_CASE("schedule: errors") {
  const CosineSchedule schedule;
  for (const double t : {-1e-9, 1 + 1e-9, std::nan(""), std::numeric_limits<double>::infinity()}) {
    CHECK_THROWS_WITH_AS(schedule.logsnr(t), doctest::Contains("expected a time in [0, 1]"), Error);
    CHECK_THROWS_AS(schedule.dlogsnr_dt(t), Error);
  }
  CHECK_THROWS_WITH_AS((CosineSchedule{5, 5}.logsnr(0.5)), doctest::Contains("logsnr_min < logsnr_max"),
                       Error);
  CHECK_THROWS_AS((CosineSchedule{-20, std::nan("")}.logsnr(0.5)), Error);
}

namespace {

double only(const Tensor& t) { return t.to_vector<double>().at(0); }
Tensor one(double value) { return Tensor::full({1, 1, 1, 1}, value, {DType::f64}); }

}  // namespace

TEST_CASE("per_example: rounds once, to the data's dtype") {
  const double third = 1.0 / 3;
  const Tensor f32 = per_example({third, 20}, 4, {DType::f32});
  CHECK(f32.shape() == Shape{2, 1, 1, 1});
  CHECK(f32.to_vector<double>() == std::vector<double>{static_cast<double>(static_cast<float>(third)), 20});
  CHECK(per_example({third}, 2, {DType::f64}).to_vector<double>() == std::vector<double>{third});
  CHECK_THROWS_AS(per_example({1}, 0, {}), Error);
}

TEST_CASE("diffuse: z = alpha x + sigma eps with each example's own logsnr") {
  const Tensor x = Tensor::from(std::vector<double>{1, -1, 0.5, 0.25}, {2, 1, 1, 2}, {DType::f64});
  const Tensor eps = Tensor::from(std::vector<double>{2, 3, -4, 1}, {2, 1, 1, 2}, {DType::f64});
  const std::vector<double> z = diffuse(x, eps, {3, -1}).to_vector<double>();
  CHECK(z[0] == near(alpha(3) * 1 + sigma(3) * 2, 1e-15));
  CHECK(z[1] == near(alpha(3) * -1 + sigma(3) * 3, 1e-15));
  CHECK(z[2] == near(alpha(-1) * 0.5 + sigma(-1) * -4, 1e-15));
  CHECK(z[3] == near(alpha(-1) * 0.25 + sigma(-1) * 1, 1e-15));

  CHECK_THROWS_WITH_AS(diffuse(x, eps, {3}), doctest::Contains("one scalar per example"), Error);
  CHECK_THROWS_WITH_AS(diffuse(x, one(1), {3, 3}), doctest::Contains("noise of the data's shape"), Error);
  CHECK_THROWS_WITH_AS(diffuse(x, eps, {3, std::nan("")}), doctest::Contains("finite logsnr"), Error);
}

TEST_CASE("q in discrete steps: equations 1, 3, 7 and 8 in alpha-bar and beta") {
  const CosineSchedule schedule{-10, 10};
  const int steps = 50;
  double alpha_bar = alpha(schedule.logsnr(0.0)) * alpha(schedule.logsnr(0.0));
  for (int k = 1; k <= steps; ++k) {
    const double l_s = schedule.logsnr((k - 1.0) / steps),
                 l_t = schedule.logsnr(static_cast<double>(k) / steps);
    const double alpha_bar_s = alpha_bar;
    const Gaussian step = transition(one(1), {l_s}, {l_t});
    const double beta = std::exp(step.log_variance[0]);
    CHECK(only(step.mean) == near(std::sqrt(1 - beta), 1e-12));  // (1)
    alpha_bar *= 1 - beta;
    CHECK(alpha_bar == near(alpha(l_t) * alpha(l_t), 1e-12));  // (3)

    const Gaussian q = posterior(one(0.7), one(-1.3), {l_s}, {l_t});
    const double beta_tilde = (1 - alpha_bar_s) / (1 - alpha_bar) * beta;  // (7)
    const double mean = std::sqrt(alpha_bar_s) * beta / (1 - alpha_bar) * 0.7 +
                        std::sqrt(1 - beta) * (1 - alpha_bar_s) / (1 - alpha_bar) * -1.3;
    // The reference itself subtracts: 1 - alpha_bar_s has lost e^10 = 22026 epsilons at l = 10.
    CHECK(std::exp(q.log_variance[0]) == near(beta_tilde, 1e-10));
    CHECK(only(q.mean) == near(mean, 1e-10));
  }
}

TEST_CASE("q(z_s | z_t, x) is Bayes' rule for q(z_t | z_s) and q(z_s | x)") {
  for (const auto& [l_s, l_t] : {std::pair{4.0, 1.0}, {1.0, -6.0}, {20.0, 3.0}, {-2.0, -2.001}}) {
    const double x = 0.4, z_t = -1.1;
    const double beta = std::exp(log_step_variance(l_s, l_t, l_t)), scale = alpha(l_t) / alpha(l_s);
    const double precision = 1 / (sigma(l_s) * sigma(l_s)) + scale * scale / beta;
    const double mean = (alpha(l_s) * x / (sigma(l_s) * sigma(l_s)) + scale * z_t / beta) / precision;
    const Gaussian q = posterior(one(x), one(z_t), {l_s}, {l_t});
    CHECK(only(q.mean) == near(mean, 1e-11));
    CHECK(std::exp(q.log_variance[0]) == near(1 / precision, 1e-11));
  }
}

TEST_CASE("q between neighbouring times keeps its digits") {
  // 1 - r for l_t = l_s - d is d - d^2/2 + ...; computed as 1 - exp(-d) it would keep only 4 digits.
  const double d = std::ldexp(1.0, -40);
  const Gaussian q = posterior(one(1), one(1), {2}, {2 - d});
  CHECK(std::exp(q.log_variance[0]) == near(d * (1 - d / 2) * sigma(2) * sigma(2), 1e-13));
  CHECK(only(posterior(one(1), one(0), {2}, {2 - d}).mean) == near(d * (1 - d / 2) * alpha(2), 1e-13));
  // No step at all: z_s = z_t without noise.
  const Gaussian same = posterior(one(5), one(1.25), {2}, {2});
  CHECK(only(same.mean) == 1.25);
  CHECK(only(draw(same, one(3))) == 1.25);
}

TEST_CASE("draw: mean + standard deviation * noise, per example") {
  const Tensor mean = Tensor::from(std::vector<double>{1, 2}, {2, 1}, {DType::f64});
  const Tensor noise = Tensor::from(std::vector<double>{3, -1}, {2, 1}, {DType::f64});
  const std::vector<double> z = draw({mean, {std::log(4.0), std::log(0.25)}}, noise).to_vector<double>();
  CHECK(z[0] == near(7, 1e-15));
  CHECK(z[1] == near(1.5, 1e-15));
}

TEST_CASE("q: swapped times are an error") {
  CHECK_THROWS_WITH_AS(posterior(one(1), one(1), {1}, {2}), doctest::Contains("swapped"), Error);
  CHECK_THROWS_WITH_AS(transition(one(1), {1}, {2}), doctest::Contains("swapped"), Error);
  CHECK_THROWS_AS(transition(one(1), {1, 1}, {0}), Error);
}
