#include "tests/quality/frechet.h"

#include <Eigen/Dense>
#include <algorithm>
#include <limits>

#include "tensor/error.h"

namespace halfstep::quality {
namespace {

using RowMajorMatrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

/// F [D, rank] with S = F F^T, from the eigenvectors of S. Eigenvalues that rounding cannot tell from 0 are
/// left out: the square root of such a remainder, 1e-16 of the largest, would be as large as 1e-8 of it.
Eigen::MatrixXd factor(const Eigen::MatrixXd& covariance) {
  const Eigen::SelfAdjointEigenSolver<Eigen::MatrixXd> eigen(covariance);
  require(eigen.info() == Eigen::Success, "frechet", "the eigenvalues of a covariance did not converge");
  const Eigen::VectorXd& values = eigen.eigenvalues();  // in increasing order
  const Eigen::Index dimension = values.size();
  const double negligible = static_cast<double>(dimension) * std::numeric_limits<double>::epsilon() *
                            std::max(values(dimension - 1), 0.0);
  const Eigen::Index rank = (values.array() > negligible).count();
  return eigen.eigenvectors().rightCols(rank) * values.tail(rank).cwiseSqrt().asDiagonal();
}

Eigen::Map<const Eigen::VectorXd> mean_of(const FeatureStatistics& s) {
  return {s.mean.data(), static_cast<Eigen::Index>(s.mean.size())};
}

Eigen::MatrixXd covariance_of(const FeatureStatistics& s) {
  const auto dimension = static_cast<Eigen::Index>(s.mean.size());
  require(dimension > 0 && s.covariance.size() == s.mean.size() * s.mean.size(), "frechet",
          "expected a mean [D] and a covariance [D, D] with D > 0, got {} and {} values", s.mean.size(),
          s.covariance.size());
  Eigen::MatrixXd covariance = Eigen::Map<const RowMajorMatrix>(s.covariance.data(), dimension, dimension);
  require(covariance.allFinite() && mean_of(s).allFinite(), "frechet",
          "expected finite statistics, got an infinity or NaN");
  return covariance;
}

}  // namespace

FeatureStatistics feature_statistics(const Tensor& features) {
  require(features.rank() == 2 && features.size(0) >= 2 && features.size(1) >= 1, "frechet",
          "expected features [N, D] with N >= 2, got {}", str(features.shape()));
  const auto count = static_cast<Eigen::Index>(features.size(0));
  const auto dimension = static_cast<Eigen::Index>(features.size(1));
  const std::vector<double> values = features.to_vector<double>();
  const Eigen::Map<const RowMajorMatrix> rows(values.data(), count, dimension);
  require(rows.allFinite(), "frechet", "expected finite features, got an infinity or NaN");

  const Eigen::RowVectorXd mean = rows.colwise().mean();
  // Centred first: E[x^2] - E[x]^2 would cancel where the mean is large.
  const RowMajorMatrix centred = rows.rowwise() - mean;
  const RowMajorMatrix covariance = centred.transpose() * centred / static_cast<double>(count - 1);
  return {{mean.data(), mean.data() + mean.size()},
          {covariance.data(), covariance.data() + covariance.size()}};
}

double frechet_distance(const FeatureStatistics& a, const FeatureStatistics& b) {
  const Eigen::MatrixXd covariance_a = covariance_of(a), covariance_b = covariance_of(b);
  require(a.mean.size() == b.mean.size(), "frechet", "expected features of one dimension, got {} and {}",
          a.mean.size(), b.mean.size());
  // With S_a = A A^T and S_b = B B^T the eigenvalues of S_a S_b are the squares of the singular values of
  // A^T B, so the trace of the square root is their sum. Nothing is squared and then rooted again, which
  // would turn rounding errors of 1e-16 into 1e-8 in each direction that a covariance lacks.
  const Eigen::MatrixXd product = factor(covariance_a).transpose() * factor(covariance_b);
  const double trace_of_root =
      product.size() == 0 ? 0 : Eigen::JacobiSVD<Eigen::MatrixXd>(product).singularValues().sum();
  return (mean_of(a) - mean_of(b)).squaredNorm() + covariance_a.trace() + covariance_b.trace() -
         2 * trace_of_root;
}

}  // namespace halfstep::quality
