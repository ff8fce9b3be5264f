// The Frechet distance against closed forms and against pytorch-fid.
#include "tests/quality/frechet.h"

#include <doctest/doctest.h>

#include <cmath>
#include <limits>

#include "tensor/error.h"
#include "tensor/ops.h"
#include "tests/golden_case.h"

using namespace halfstep;
using namespace halfstep::quality;
using halfstep::test::GoldenCase;

namespace {

FeatureStatistics diagonal(std::vector<double> mean, const std::vector<double>& variances) {
  FeatureStatistics result{std::move(mean), std::vector<double>(variances.size() * variances.size(), 0.0)};
  for (size_t i = 0; i < variances.size(); ++i) result.covariance[i * variances.size() + i] = variances[i];
  return result;
}

Tensor normal_features(int64_t count, int64_t dimension, uint64_t stream) {
  return random_normal({count, dimension}, {7, stream}, 0, {DType::f64});
}

double trace(const FeatureStatistics& s) {
  double sum = 0;
  for (size_t i = 0; i < s.mean.size(); ++i) sum += s.covariance[i * (s.mean.size() + 1)];
  return sum;
}

}  // namespace

TEST_CASE("mean and covariance of a set by hand, divisor N - 1") {
  const FeatureStatistics s = feature_statistics(Tensor::from<double>({1, 10, 2, 30, 6, 20}, {3, 2}));
  CHECK(s.mean[0] == doctest::Approx(3).epsilon(1e-15));
  CHECK(s.mean[1] == doctest::Approx(20).epsilon(1e-15));
  // Deviations (-2, -1, 3) and (-10, 10, 0).
  CHECK(s.covariance[0] == doctest::Approx(14.0 / 2).epsilon(1e-15));
  CHECK(s.covariance[1] == doctest::Approx(10.0 / 2).epsilon(1e-15));
  CHECK(s.covariance[2] == s.covariance[1]);
  CHECK(s.covariance[3] == doctest::Approx(200.0 / 2).epsilon(1e-15));
}

TEST_CASE("a large mean does not spoil the covariance") {
  const Tensor x = normal_features(50, 3, 1);
  const FeatureStatistics plain = feature_statistics(x), shifted = feature_statistics(affine(x, 1, 1e6));
  // Adding 1e6 rounds each value by up to 1e6 * 2^-53 = 1.2e-10.
  for (size_t i = 0; i < plain.covariance.size(); ++i) {
    CHECK(std::abs(shifted.covariance[i] - plain.covariance[i]) <= 1e-8);
  }
}

TEST_CASE("diagonal covariances: sum of (mu_a - mu_b)^2 + (sd_a - sd_b)^2, zeros included") {
  // Differences of means 3, 4, 0, 0; of standard deviations 1 - 3, 2 - 2, 0 - 5, 0 - 0.
  const double distance =
      frechet_distance(diagonal({3, 0, 1, 1}, {1, 4, 0, 0}), diagonal({0, 4, 1, 1}, {9, 4, 25, 0}));
  CHECK(distance == doctest::Approx(9 + 16 + 4 + 0 + 25 + 0).epsilon(1e-14));
  CHECK(frechet_distance(diagonal({0, 3}, {0, 0}), diagonal({4, 0}, {0, 0})) == 25);  // two points
}

TEST_CASE("2 x 2 covariances that do not commute") {
  // For 2 x 2 matrices tr(M^{1/2})^2 = tr(M) + 2 det(M)^{1/2}.
  const FeatureStatistics a{{0, 0}, {2, 1, 1, 3}}, b{{0, 0}, {5, -2, -2, 1}};
  const double trace_of_product = 2 * 5 + 1 * -2 + 1 * -2 + 3 * 1;
  const double determinant_of_product = (2 * 3 - 1 * 1) * (5 * 1 - 2 * 2);
  const double expected =
      2 + 3 + 5 + 1 - 2 * std::sqrt(trace_of_product + 2 * std::sqrt(determinant_of_product));
  CHECK(frechet_distance(a, b) == doctest::Approx(expected).epsilon(1e-13));
  CHECK(frechet_distance(b, a) == doctest::Approx(expected).epsilon(1e-13));
}

TEST_CASE("a covariance of rank 1 against one of full rank") {
  // S_a = u u^T: the only eigenvalue of S_a S_b is u^T S_b u.
  const int64_t dimension = 40;
  const std::vector<double> u = random_normal({dimension}, {7, 4}, 0, {DType::f64}).to_vector<double>();
  const FeatureStatistics b = feature_statistics(normal_features(300, dimension, 5));
  FeatureStatistics a{b.mean, {}};
  double eigenvalue = 0;
  for (size_t i = 0; i < u.size(); ++i) {
    for (size_t j = 0; j < u.size(); ++j) {
      a.covariance.push_back(u[i] * u[j]);
      eigenvalue += u[i] * b.covariance[i * u.size() + j] * u[j];
    }
  }
  const double expected = trace(a) + trace(b) - 2 * std::sqrt(eigenvalue);
  CHECK(frechet_distance(a, b) == doctest::Approx(expected).epsilon(1e-12));
  CHECK(frechet_distance(b, a) == doctest::Approx(expected).epsilon(1e-12));
}

TEST_CASE("a set has distance 0 to itself, also where its covariance is singular") {
  for (const int64_t count : {2, 20, 300}) {  // ranks 1, 19 and 40
    CAPTURE(count);
    const FeatureStatistics s = feature_statistics(normal_features(count, 40, 2));
    // The traces cancel: rounding leaves 1e-16 of each of 40 eigenvalues, that is 1e-14 of the trace.
    CHECK(std::abs(frechet_distance(s, s)) <= 1e-13 * trace(s));
  }
}

TEST_CASE("a shift of one of two equal sets is its squared length") {
  const Tensor x = normal_features(60, 5, 3);
  const Tensor shift = Tensor::from<double>({1, -2, 0, 0.5, 4}, {5}, {DType::f64});
  const double distance = frechet_distance(feature_statistics(x), feature_statistics(add(x, shift)));
  CHECK(distance == doctest::Approx(1 + 4 + 0.25 + 16).epsilon(1e-12));
}

TEST_CASE("singular covariances: golden case of pytorch-fid") {
  const GoldenCase golden(halfstep::test::golden_folder("torch/fid/rankdef_100x128"));
  const auto& results = golden.facts.at("results");
  const FeatureStatistics a = feature_statistics(golden.tensor("features1", {DType::f32, &cpu_device()}));
  const FeatureStatistics b = feature_statistics(golden.tensor("features2", {DType::f32, &cpu_device()}));
  const std::vector<double> mean = golden.values("mu1.f64");
  for (size_t i = 0; i < mean.size(); ++i) CHECK(std::abs(a.mean[i] - mean[i]) <= 1e-14);
  const double distance = frechet_distance(a, b);
  CHECK(distance == doctest::Approx(results.at("fid_pytorch_fid").get<double>())
                        .epsilon(golden.facts.at("tolerance").at("fid_rel").get<double>()));
  // pytorch-fid itself is 1e-6 away from the value that comes from the known ranks.
  CHECK(distance == doctest::Approx(results.at("fid_exact_rank_svd_helper").get<double>()).epsilon(1e-12));
}

TEST_CASE("misuse is explained") {
  const FeatureStatistics s = diagonal({0, 0}, {1, 1});
  CHECK_THROWS_WITH_AS(feature_statistics(Tensor::ones({1, 4})),
                       "[frechet] expected features [N, D] with N >= 2, got (1, 4)", Error);
  CHECK_THROWS_AS(feature_statistics(Tensor::ones({4})), Error);
  CHECK_THROWS_WITH_AS(feature_statistics(Tensor::full({3, 2}, std::numeric_limits<double>::quiet_NaN())),
                       "[frechet] expected finite features, got an infinity or NaN", Error);
  CHECK_THROWS_WITH_AS(frechet_distance(s, diagonal({0}, {1})),
                       "[frechet] expected features of one dimension, got 2 and 1", Error);
  CHECK_THROWS_AS(frechet_distance(s, diagonal({0, 0}, {1, std::numeric_limits<double>::infinity()})), Error);
  CHECK_THROWS_AS(frechet_distance(s, {{0, 0}, {1}}), Error);
}
