// diffusion/prediction.h. The official code's numbers: tests/golden_runner/jax_prediction.cpp.
#include "diffusion/prediction.h"

#include <doctest/doctest.h>

#include "autograd/gradcheck.h"
#include "diffusion/train_step.h"
#include "tensor/error.h"
#include "tests/analytic_network.h"
#include "tests/worst.h"

using namespace halfstep;
using namespace halfstep::test;

namespace {

const std::vector<double> kLogsnr = {-20, -7, -0.3, 0, 2, 9, 20};

Variable normal(const Shape& shape, uint64_t stream) {
  return Variable(random_normal(shape, {42, stream}, 0, {DType::f64}));
}

/// Largest |a - b| in units of example k's `scale[k]`.
double worst(const Variable& a, const Variable& b, const std::vector<double>& scale) {
  const std::vector<double> va = a.value().to_vector<double>(), vb = b.value().to_vector<double>();
  REQUIRE(va.size() == vb.size());
  double result = 0;
  for (size_t i = 0; i < va.size(); ++i) {
    test::keep_worst(result, std::abs(va[i] - vb[i]) / scale[i * scale.size() / va.size()]);
  }
  return result;
}

}  // namespace

TEST_CASE("predictions: x, eps and v are three views of one prediction") {
  const Shape shape{7, 2, 3, 2};
  const Variable z = normal(shape, 1);
  for (const Prediction kind : kPredictions) {
    for (const bool clip : {false, true}) {
      INFO(name_of(kind), " clip ", clip);
      const Variable output = normal({7, 2, 3, output_channels(kind, 2)}, 2);
      const Predictions p = predictions(kind, output, z, kLogsnr, clip);
      const auto [alpha_t, sigma_t] = signal_and_noise(kLogsnr, z, "test");
      // Values up to 5 e^10 meet here, each with a few roundings of 1e-16.
      std::vector<double> scale;
      for (const double l : kLogsnr) scale.push_back(1e-14 * std::exp(std::abs(l) / 2));
      CHECK(worst(alpha_t * p.x + sigma_t * p.eps, z, scale) <= 1);
      CHECK(worst(alpha_t * p.eps - sigma_t * p.x, p.v, scale) <= 1);
      if (clip) {
        for (const double x : p.x.value().to_vector<double>()) CHECK(std::abs(x) <= 1);
      }
    }
  }
}

TEST_CASE("predictions: 'both' is sigma^2 x~ + alpha (z - sigma eps~)") {
  const Variable z = normal({7, 2, 2, 3}, 3), output = normal({7, 2, 2, 6}, 4);
  const Variable raw_x = slice(output, -1, 0, 3), raw_eps = slice(output, -1, 3, 6);
  const auto [alpha_t, sigma_t] = signal_and_noise(kLogsnr, z, "test");
  const Variable expected = sigma_t * sigma_t * raw_x + alpha_t * (z - sigma_t * raw_eps);
  CHECK(worst(predictions(Prediction::both, output, z, kLogsnr, false).x, expected, {1e-14}) <= 1);
}

TEST_CASE("predictions: what the network predicts is handed on untouched") {
  const Variable z = normal({7, 1, 1, 2}, 5), output = normal({7, 1, 1, 2}, 6);
  CHECK(predictions(Prediction::x, output, z, kLogsnr, false).x.same(output));
  CHECK(predictions(Prediction::eps, output, z, kLogsnr, false).eps.same(output));
  CHECK(predictions(Prediction::v, output, z, kLogsnr, false).v.same(output));
}

TEST_CASE("predictions: eps from v keeps its digits at logsnr 20 in f32") {
  // By way of x the error would be 1e-7 * alpha / sigma = 1e-3.
  const std::vector<double> logsnr = {20};
  const Variable z(random_normal({1, 8, 8, 1}, {1, 1})), v(random_normal({1, 8, 8, 1}, {1, 2}));
  const Variable eps = predictions(Prediction::v, v, z, logsnr, false).eps;
  const Variable exact = predictions(Prediction::v, to(v, DType::f64), to(z, DType::f64), logsnr, false).eps;
  CHECK(worst(eps, exact, {1e-6}) <= 1);
}

TEST_CASE("predictions: gradients in output and z, by numeric differences") {
  const std::vector<double> logsnr = {-4, 0.3, 5};
  const Variable z(normal({3, 1, 2, 2}, 8).value(), true);
  for (const Prediction kind : kPredictions) {
    const Variable output(normal({3, 1, 2, output_channels(kind, 2)}, 9).value(), true);
    for (const bool clip : {false, true}) {
      INFO(name_of(kind), " clip ", clip);
      const auto all = [&](const std::vector<Variable>& in) {
        const Predictions p = predictions(kind, in[0], in[1], logsnr, clip);
        return concat({p.x, p.eps, p.v}, -1);
      };
      const GradcheckReport report = gradcheck(all, {output, z});
      CHECK_MESSAGE(report.ok, report.message);
    }
  }
}

TEST_CASE("predictions: names and channels") {
  for (const Prediction kind : kPredictions) CHECK(prediction_by_name(name_of(kind)) == kind);
  CHECK_THROWS_WITH_AS(prediction_by_name("epsilon"),
                       "[prediction] expected x, eps, v or both, got \"epsilon\"", Error);
  CHECK(output_channels(Prediction::v, 3) == 3);
  CHECK(output_channels(Prediction::both, 3) == 6);
}

TEST_CASE("predictions: errors") {
  const Variable z = normal({7, 2, 2, 3}, 7);
  CHECK_THROWS_WITH_AS(predictions(Prediction::both, z, z, kLogsnr, false),
                       doctest::Contains("(7, 2, 2, 6) for prediction both, got (7, 2, 2, 3)"), Error);
  CHECK_THROWS_WITH_AS(predictions(Prediction::v, z, z, {1, 2}, false),
                       doctest::Contains("one scalar per example"), Error);
}
