// diffusion/sampler.h. The official code's trajectories: tests/golden_runner/jax_sampler.cpp.
#include "diffusion/sampler.h"

#include <doctest/doctest.h>

#include "diffusion/forward.h"
#include "tensor/error.h"
#include "tests/analytic_network.h"

using namespace halfstep;
using namespace halfstep::test;

namespace {

const Coefficients kSmooth{0.7, 0.1, 3.0, 0.05, 0.3};

Denoiser smooth_denoiser() { return {analytic_network(Prediction::v, kSmooth, kSmooth), Prediction::v}; }

/// Knows the data: predicts x = `value` everywhere.
Denoiser knowing_denoiser(double value) {
  return {[value](const Variable& z, const NoiseLevels&, const Tensor&) {
            return Variable(Tensor::full(z.shape(), value, z.options()));
          },
          Prediction::x};
}

double largest_difference(const Tensor& a, const Tensor& b) {
  const std::vector<double> va = a.to_vector<double>(), vb = b.to_vector<double>();
  REQUIRE(va.size() == vb.size());
  double result = 0;
  for (size_t n = 0; n < va.size(); ++n) {
    if (!(std::abs(va[n] - vb[n]) <= result)) result = std::abs(va[n] - vb[n]);
  }
  return result;
}

Tensor step_of(const Tensor& trajectory, int64_t n) { return trajectory.slice(0, n, n + 1).squeeze(0); }

}  // namespace

TEST_CASE("DDIM: with a denoiser that knows x, every z is on the line from the first noise to x") {
  const Tensor noise = initial_noise({2, 2, 2, 1}, 1, 0, {DType::f64});
  for (const int64_t num_steps : {1, 2, 3, 16}) {
    SamplerOptions options;
    options.num_steps = num_steps;
    Trajectory trajectory;
    const Tensor samples = sample(knowing_denoiser(0.25), noise, {}, options, &trajectory);
    CHECK(largest_difference(samples, Tensor::full(noise.shape(), 0.25, noise.options())) == 0);
    // eps follows from z = alpha x + sigma eps at time 1 and stays the same.
    const double l_1 = options.schedule.logsnr(1.0);
    const Tensor eps = affine(noise, 1 / sigma(l_1), -0.25 * alpha(l_1) / sigma(l_1));
    for (int64_t n = 1; n < num_steps; ++n) {
      const double l =
          options.schedule.logsnr(static_cast<double>(num_steps - n) / static_cast<double>(num_steps));
      const Tensor expected = affine(eps, sigma(l), alpha(l) * 0.25);
      CHECK(largest_difference(step_of(trajectory.z, n), expected) <= 1e-13);
    }
  }
}

TEST_CASE("ancestral: with a denoiser that knows x, fixed_small keeps q(z_t | x) at every time") {
  SamplerOptions options;
  options.kind = SamplerKind::ancestral;
  options.num_steps = 8;
  options.seed = 5;
  const Tensor noise = initial_noise({4, 64, 64, 1}, 5, 0, {DType::f64});
  Trajectory trajectory;
  sample(knowing_denoiser(-0.5), noise, {}, options, &trajectory);
  for (int64_t n = 1; n < 8; ++n) {
    const double l = options.schedule.logsnr(static_cast<double>(8 - n) / 8);
    double sum = 0, squares = 0;
    const std::vector<double> z = step_of(trajectory.z, n).to_vector<double>();
    const double count = static_cast<double>(z.size());
    for (const double value : z) {
      const double standard = (value - alpha(l) * -0.5) / sigma(l);
      sum += standard;
      squares += standard * standard;
    }
    // Five standard errors of the mean and of the variance.
    CHECK(std::abs(sum / count) <= 5 / std::sqrt(count));
    CHECK(std::abs(squares / count - 1) <= 5 * std::sqrt(2 / count));
  }
}

TEST_CASE("sampling: sample k depends neither on the number of samples nor on the batches") {
  for (const SamplerKind kind : {SamplerKind::ddim, SamplerKind::ancestral}) {
    SamplerOptions options;
    options.kind = kind;
    options.num_steps = 4;
    options.seed = 99;
    const auto draw_samples = [&](int64_t first, int64_t count) {
      options.first_sample = static_cast<uint64_t>(first);
      const Tensor noise = initial_noise({count, 3, 3, 2}, options.seed, options.first_sample, {});
      return sample(smooth_denoiser(), noise, {}, options);
    };
    const Tensor all = draw_samples(0, 5);
    CHECK(largest_difference(draw_samples(0, 2), all.slice(0, 0, 2)) == 0);
    CHECK(largest_difference(draw_samples(2, 3), all.slice(0, 2, 5)) == 0);
    CHECK(largest_difference(draw_samples(4, 1), all.slice(0, 3, 4)) > 0.01);
  }
}

TEST_CASE("ancestral: the noise depends on the seed and on the step") {
  SamplerOptions options;
  options.kind = SamplerKind::ancestral;
  options.num_steps = 4;
  const Tensor noise = initial_noise({1, 4, 4, 1}, 0, 0, {DType::f64});
  Trajectory trajectory;
  const Tensor first = sample(knowing_denoiser(0), noise, {}, options, &trajectory);
  const auto noise_added = [&](int64_t n) {
    const double l_t = options.schedule.logsnr(static_cast<double>(4 - n) / 4);
    const double l_s = options.schedule.logsnr(static_cast<double>(3 - n) / 4);
    const Gaussian q =
        posterior(Tensor::zeros(noise.shape(), noise.options()), step_of(trajectory.z, n), {l_s}, {l_t});
    return affine(subtract(step_of(trajectory.z, n + 1), q.mean), std::exp(-q.log_variance[0] / 2), 0);
  };
  CHECK(largest_difference(noise_added(0), noise_added(1)) > 0.1);
  CHECK(largest_difference(noise_added(0), noise) > 0.1);
  options.seed = 1;
  Trajectory other;
  sample(knowing_denoiser(0), noise, {}, options, &other);
  CHECK(largest_difference(step_of(other.z, 1), step_of(trajectory.z, 1)) > 0.1);
}

TEST_CASE("sampling: trajectories") {
  SamplerOptions options;
  options.num_steps = 3;
  const Tensor noise = affine(initial_noise({2, 2, 2, 1}, 1, 0, {}), 3, 0);
  Trajectory trajectory;
  const Tensor samples = sample(smooth_denoiser(), noise, {}, options, &trajectory);
  CHECK(trajectory.z.shape() == Shape{4, 2, 2, 2, 1});
  CHECK(trajectory.x_hat.shape() == Shape{3, 2, 2, 2, 1});
  CHECK(largest_difference(step_of(trajectory.z, 0), noise) == 0);
  CHECK(largest_difference(step_of(trajectory.z, 3), samples) == 0);
  // The step that ends at time 0 returns x_hat, and clipping is on unless switched off.
  CHECK(largest_difference(step_of(trajectory.x_hat, 2), samples) == 0);
  for (const double x : trajectory.x_hat.to_vector<double>()) CHECK(std::abs(x) <= 1);
  options.clip = false;
  sample(smooth_denoiser(), noise, {}, options, &trajectory);
  CHECK(largest_difference(trajectory.x_hat, clamp(trajectory.x_hat, -1, 1)) > 0);
}

TEST_CASE("sampling: records nothing, passes labels on") {
  const Variable gain(Tensor::scalar(0.5), true);
  const Tensor label = Tensor::from(std::vector<int64_t>{7}, {1}, {DType::i64});
  int calls = 0;
  const Denoiser denoiser{[&](const Variable& z, const NoiseLevels& logsnr, const Tensor& given) {
                            ++calls;
                            CHECK_FALSE(is_recording());
                            CHECK(logsnr.size() == 1);
                            CHECK(given.to_vector<int64_t>() == std::vector<int64_t>{7});
                            return gain * z;
                          },
                          Prediction::v};
  SamplerOptions options;
  options.num_steps = 5;
  sample(denoiser, initial_noise({1, 2, 2, 1}, 0, 0, {}), label, options);
  CHECK(calls == 5);
  CHECK(is_recording());
}

TEST_CASE("sampling: names and errors") {
  CHECK(sampler_by_name("ddim") == SamplerKind::ddim);
  CHECK(sampler_by_name(name_of(SamplerKind::ancestral)) == SamplerKind::ancestral);
  CHECK_THROWS_WITH_AS(sampler_by_name("noisy"), "[sampler] expected ddim or ancestral, got \"noisy\"",
                       Error);
  CHECK(ancestral_variance_by_name("fixed_small").large_part == 0);
  CHECK(ancestral_variance_by_name("fixed_large").large_part == 1);
  CHECK(ancestral_variance_by_name("medium:0.25").large_part == 0.25);
  for (const char* name :
       {"medium:", "medium:1.5", "medium:-0.1", "medium:nan", "medium:0.3x", "small", ""}) {
    CHECK_THROWS_WITH_AS(ancestral_variance_by_name(name), doctest::Contains("medium:f with f in [0, 1]"),
                         Error);
  }

  const Tensor noise = initial_noise({2, 2, 2, 1}, 0, 0, {});
  SamplerOptions options;
  options.num_steps = 0;
  CHECK_THROWS_WITH_AS(sample(smooth_denoiser(), noise, {}, options), doctest::Contains("at least 1 step"),
                       Error);
  options.num_steps = 3;
  options.step_noise = Tensor::zeros({3, 2, 2, 2, 1});
  CHECK_THROWS_WITH_AS(sample(smooth_denoiser(), noise, {}, options), doctest::Contains("only the ancestral"),
                       Error);
  options.kind = SamplerKind::ancestral;
  sample(smooth_denoiser(), noise, {}, options);
  options.step_noise = Tensor::zeros({2, 2, 2, 2, 1});
  CHECK_THROWS_WITH_AS(sample(smooth_denoiser(), noise, {}, options), doctest::Contains("(3, 2, 2, 2, 1)"),
                       Error);
}
