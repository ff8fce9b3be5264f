// The noise schedule: how much signal and how much noise z_t has at time t in [0, 1].
//
// Everything derives from one number, the log signal-to-noise ratio l = log(alpha^2 / sigma^2), with
// alpha^2 + sigma^2 = 1. All scalars are doubles on the host and are rounded once, where they meet a tensor:
// in f32 sigmoid(20) is exactly 1 and logsnr(1) comes out as -20.0011.
#pragma once

#include <vector>

namespace halfstep {

/// Signal level sqrt(sigmoid(l)), in (0, 1).
double alpha(double logsnr);
/// Noise level sqrt(sigmoid(-l)), in (0, 1). Never sqrt(1 - alpha^2), which is 0 where alpha rounds to 1.
double sigma(double logsnr);
/// log sigma^2 = -log(1 + e^l).
double log_sigma2(double logsnr);
/// sqrt(SNR) = alpha / sigma = e^(l/2).
double signal_to_noise(double logsnr);

/// The functions above for every example of a batch.
std::vector<double> alpha(const std::vector<double>& logsnr);
std::vector<double> sigma(const std::vector<double>& logsnr);

/// logsnr(t) = -2 log tan(a t + b), with a and b such that logsnr(0) = logsnr_max and logsnr(1) = logsnr_min
/// (Salimans & Ho 2022, after Nichol & Dhariwal 2021). With wide limits alpha is close to cos(pi t / 2).
struct CosineSchedule {
  double logsnr_min = -20;
  double logsnr_max = 20;

  /// Decreases strictly. Throws Error for t outside [0, 1] (NaN included) and for limits that are not finite
  /// and in order.
  double logsnr(double t) const;
  std::vector<double> logsnr(const std::vector<double>& t) const;
  /// Derivative of logsnr, negative; same errors.
  double dlogsnr_dt(double t) const;
};

}  // namespace halfstep
