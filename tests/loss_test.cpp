// diffusion/loss.h and diffusion/train_step.h. The official code's numbers: tests/golden_runner/jax_loss.cpp.
#include "diffusion/loss.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <set>

#include "autograd/gradcheck.h"
#include "diffusion/random_streams.h"
#include "diffusion/train_step.h"
#include "tensor/error.h"
#include "tests/analytic_network.h"

using namespace halfstep;
using namespace halfstep::test;

namespace {

Tensor normal(const Shape& shape, uint64_t stream, DType dtype = DType::f64) {
  return random_normal(shape, {7, stream}, 0, {dtype});
}

const std::vector<double> kLogsnr = {-19, -4, 0, 0.5, 6, 18};

/// A batch with its targets, and the raw output of a network that is not the target.
struct Batch {
  explicit Batch(Prediction kind)
      : x(normal({6, 2, 2, 3}, 1)),
        eps(normal({6, 2, 2, 3}, 2)),
        z(diffuse(x, eps, kLogsnr)),
        target(data_target(x, eps, kLogsnr)),
        output(normal({6, 2, 2, output_channels(kind, 3)}, 3), true) {}
  Tensor x, eps, z;
  Predictions target;
  Variable output;
};

std::vector<double> losses(LossWeight weight, const Batch& batch, Prediction kind) {
  const Predictions p = predictions(kind, batch.output, Variable(batch.z), kLogsnr, false);
  return example_losses(weight, batch.target, p, kLogsnr).value().to_vector<double>();
}

}  // namespace

TEST_CASE("losses: the errors of x, eps and v that they are named after, equations (9) and (10)") {
  const auto mean_square = [](const Variable& a, const Variable& b) {
    return mse(a, b, {1, 2, 3}).value().to_vector<double>();
  };
  for (const Prediction kind : kPredictions) {
    const Batch batch(kind);
    const Predictions p = predictions(kind, batch.output, Variable(batch.z), kLogsnr, false);
    const auto x_mse = mean_square(batch.target.x, p.x), eps_mse = mean_square(batch.target.eps, p.eps),
               v_mse = mean_square(batch.target.v, p.v);
    const auto constant = losses(LossWeight::constant, batch, kind),
               snr = losses(LossWeight::snr, batch, kind),
               truncated = losses(LossWeight::truncated_snr, batch, kind),
               snr_plus_1 = losses(LossWeight::snr_plus_1, batch, kind);
    for (size_t k = 0; k < kLogsnr.size(); ++k) {
      INFO(name_of(kind), " logsnr ", kLogsnr[k]);
      const double ratio = std::exp(kLogsnr[k]);
      // The plain difference x - x_hat has lost up to e^9.5 = 13000 of its terms' digits, and is squared.
      const auto near = [&](double value) { return doctest::Approx(value).epsilon(1e-9).scale(0); };
      CHECK(constant[k] == near(x_mse[k]));
      CHECK(snr[k] == near(eps_mse[k]));
      CHECK(snr_plus_1[k] == near(v_mse[k]));
      CHECK(truncated[k] == near(std::max(x_mse[k], eps_mse[k])));   // (9), on the left
      CHECK(truncated[k] == near(std::max(ratio, 1.0) * x_mse[k]));  // (9), on the right
      CHECK((1 + ratio) * x_mse[k] == near(v_mse[k]));               // (10)
    }
  }
}

TEST_CASE("losses: in f32 a small error keeps its digits at both ends of time") {
  // An output that misses v by 1e-2, so that x (near t = 0) and eps (near t = 1) are missed by 5e-7 only:
  // their plain differences in f32 are all rounding.
  const std::vector<double> logsnr = {20, -20};
  const Tensor x = normal({2, 4, 4, 1}, 1, DType::f32), eps = normal({2, 4, 4, 1}, 2, DType::f32);
  const Tensor z = diffuse(x, eps, logsnr);
  const Predictions target = data_target(x, eps, logsnr);
  const Predictions p = predictions(Prediction::v, target.v + 0.01, Variable(z), logsnr, false);
  for (const LossWeight weight : {LossWeight::constant, LossWeight::snr}) {
    const auto loss = example_losses(weight, target, p, logsnr).value().to_vector<double>();
    // v + 0.01 is rounded to 2^-23 (|v| < 4), which is 1e-5 of the difference, once per pixel.
    for (size_t k = 0; k < 2; ++k) {
      CHECK(loss[k] == doctest::Approx(1e-4 * weight_of_v(weight, logsnr[k])).epsilon(3e-5).scale(0));
    }
  }
}

TEST_CASE("losses: the batch loss is the mean of the examples' losses") {
  const Batch batch(Prediction::v);
  const auto each = losses(LossWeight::snr_plus_1, batch, Prediction::v);
  const Predictions p = predictions(Prediction::v, batch.output, Variable(batch.z), kLogsnr, false);
  double sum = 0;
  for (const double loss : each) sum += loss;
  CHECK(batch_loss(LossWeight::snr_plus_1, batch.target, p, kLogsnr).item() ==
        doctest::Approx(sum / 6).epsilon(1e-14));
  CHECK(example_losses(LossWeight::snr, batch.target, p, kLogsnr).shape() == Shape{6});
}

TEST_CASE("losses: gradients of every loss for every prediction, by numeric differences") {
  const std::vector<double> logsnr = {-5, -0.5, 0, 4};
  const Tensor x = normal({4, 1, 2, 2}, 1), eps = normal({4, 1, 2, 2}, 2), z = diffuse(x, eps, logsnr);
  for (const Prediction kind : kPredictions) {
    const Variable output(normal({4, 1, 2, output_channels(kind, 2)}, 3), true);
    for (const LossWeight weight : kLossWeights) {
      INFO(name_of(kind), " ", name_of(weight));
      GradcheckOptions options;
      options.mode = GradcheckMode::full;
      options.absolute = 1e-9;  // the smallest slopes are near 1e-3
      const auto loss = [&](const std::vector<Variable>& in) {
        return example_losses(weight, data_target(x, eps, logsnr),
                              predictions(kind, in[0], Variable(z), logsnr, false), logsnr);
      };
      const GradcheckReport report = gradcheck(loss, {output}, options);
      CHECK_MESSAGE(report.ok, report.message);
    }
  }
}

TEST_CASE("losses: names and errors") {
  for (const LossWeight weight : kLossWeights) CHECK(loss_weight_by_name(name_of(weight)) == weight);
  CHECK(loss_weight_by_name("snr+1") == LossWeight::snr_plus_1);
  CHECK_THROWS_WITH_AS(loss_weight_by_name("snr_trunc"),
                       "[loss] expected constant, snr, truncated-snr or snr+1, got \"snr_trunc\"", Error);
  const Batch batch(Prediction::v);
  const Predictions p = predictions(Prediction::v, batch.output, Variable(batch.z), kLogsnr, false);
  CHECK_THROWS_WITH_AS(batch_loss(LossWeight::constant, p, p, kLogsnr), doctest::Contains("without gradient"),
                       Error);
  CHECK_THROWS_WITH_AS(batch_loss(LossWeight::constant, batch.target, p, {0}),
                       doctest::Contains("one logsnr"), Error);
  const Predictions none = predictions(Prediction::v, Variable(normal({6, 1, 1, 3}, 1)),
                                       Variable(normal({6, 1, 1, 3}, 2)), kLogsnr, false);
  CHECK_THROWS_WITH_AS(batch_loss(LossWeight::constant, batch.target, none, kLogsnr),
                       doctest::Contains("one shape"), Error);
}

TEST_CASE("Algorithm 1: the training loss is that of the parts, and reaches the network's parameters") {
  const Tensor x = normal({3, 2, 2, 1}, 10), eps = normal({3, 2, 2, 1}, 11);
  const std::vector<double> t = {0, 0.3, 1};
  const Variable gain(Tensor::scalar(0.7, {DType::f64}), true);
  const Denoiser model{[&](const Variable& z, const NoiseLevels&, const Tensor&) { return gain * z; },
                       Prediction::v};
  const Variable loss = diffusion_loss(model, LossWeight::snr_plus_1, CosineSchedule{}, x, {}, t, eps);

  double expected = 0, slope = 0;
  const auto vx = x.to_vector<double>(), ve = eps.to_vector<double>();
  for (size_t n = 0; n < 12; ++n) {
    const double l = CosineSchedule{}.logsnr(t[n / 4]);
    const double z = alpha(l) * vx[n] + sigma(l) * ve[n], v = alpha(l) * ve[n] - sigma(l) * vx[n];
    expected += (0.7 * z - v) * (0.7 * z - v) / 12;
    slope += 2 * (0.7 * z - v) * z / 12;
  }
  CHECK(loss.item() == doctest::Approx(expected).epsilon(1e-13));
  loss.backward();
  CHECK(gain.grad().item() == doctest::Approx(slope).epsilon(1e-13));
}

TEST_CASE("draw_times: uniform, and example k depends on k alone") {
  const RandomKey key = random_key(3, RandomUse::time, 17);
  const std::vector<double> t = draw_times(10000, key);
  CHECK(draw_times(10, key) == std::vector<double>(t.begin(), t.begin() + 10));
  CHECK(draw_times(10, random_key(3, RandomUse::time, 18)) != draw_times(10, key));
  CHECK(*std::min_element(t.begin(), t.end()) >= 0);
  CHECK(*std::max_element(t.begin(), t.end()) < 1);
  // Kolmogorov-Smirnov: P(D > 1.95 / sqrt(n)) = 0.1 %.
  std::vector<double> sorted = t;
  std::sort(sorted.begin(), sorted.end());
  double distance = 0;
  for (size_t k = 0; k < sorted.size(); ++k) {
    distance = std::max(distance, std::abs(sorted[k] - static_cast<double>(k) / 10000));
  }
  CHECK(distance <= 1.95 / 100);
}

TEST_CASE("draw_step_indices: every step, equally often; times (i + 1) / N never take 0 and take 1") {
  const std::vector<int64_t> i = draw_step_indices(8000, 8, {1, 2});
  std::vector<double> counts(8);
  for (const int64_t index : i) {
    REQUIRE(index >= 0);
    REQUIRE(index < 8);
    ++counts[static_cast<size_t>(index)];
  }
  for (const double count : counts) CHECK(std::abs(count - 1000) <= 5 * std::sqrt(1000));
  const std::vector<double> t = step_times(i, 8);
  CHECK(*std::min_element(t.begin(), t.end()) == 1.0 / 8);
  CHECK(*std::max_element(t.begin(), t.end()) == 1);
  CHECK(draw_step_indices(3, 1, {5, 6}) == std::vector<int64_t>{0, 0, 0});
  CHECK_THROWS_AS(draw_step_indices(3, 0, {}), Error);
  CHECK_THROWS_WITH_AS(step_times({8}, 8), doctest::Contains("in 0 ... 7, got 8"), Error);
  CHECK_THROWS_AS(step_times({-1}, 8), Error);
}

TEST_CASE("random_key: no two purposes share numbers") {
  std::set<uint64_t> streams;
  for (uint8_t use = 1; use <= 8; ++use) {
    for (uint64_t index = 0; index < 100; ++index) {
      streams.insert(random_key(0, static_cast<RandomUse>(use), index).stream);
    }
  }
  CHECK(streams.size() == 800);
}
