// Frechet distance between two sets of feature vectors, each taken as a Gaussian.
#pragma once

#include <cstdint>
#include <vector>

#include "tensor/tensor.h"

namespace halfstep::quality {

/// Mean and covariance of a set of feature vectors, in f64.
struct FeatureStatistics {
  std::vector<double> mean;        ///< [D]
  std::vector<double> covariance;  ///< [D, D], row-major, symmetric, positive semidefinite up to rounding
};

/// features: f32 or f64 [N, D], N >= 2. The divisor of the covariance is N - 1, as in numpy.cov and in all
/// published distances. Throws Error for other shapes and for values that are not finite.
FeatureStatistics feature_statistics(const Tensor& features);

/// The squared 2-Wasserstein distance of the Gaussians N(mu_a, S_a) and N(mu_b, S_b) (Dowson & Landau 1982;
/// Heusel et al. 2017, equation 6):
///   |mu_a - mu_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^{1/2})
/// Covariances may be singular. Throws Error if the dimensions differ or a value is not finite.
double frechet_distance(const FeatureStatistics& a, const FeatureStatistics& b);

}  // namespace halfstep::quality
