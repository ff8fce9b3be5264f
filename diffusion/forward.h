// The forward (noising) process q and its exact posterior, in continuous time.
//
// From the discrete notation of the literature (equations 1 to 8 of the paper) to the one used here: the
// paper's x_t at step t of T is z_t at time t in [0, 1], and its x_t', x_t'' in progressive distillation (t >
// t' > t'') are z_m and z_s. With l = logsnr(t), alpha = sqrt(sigmoid(l)) and sigma = sqrt(sigmoid(-l)):
//
//   alpha-bar_t     = alpha(l_t)^2                  1 - alpha-bar_t = sigma(l_t)^2
//   1 - beta_t      = alpha(l_t)^2 / alpha(l_s)^2   (one step, from s to t)
//   r               = e^(l_t - l_s) = SNR_t / SNR_s
//   beta_t          = (1 - r) sigma(l_t)^2
//   beta-tilde_t    = (1 - r) sigma(l_s)^2
//
// 1 - r is -expm1(l_t - l_s), exact also for neighbouring times.
#pragma once

#include <vector>

#include "autograd/variable.h"
#include "diffusion/noise_levels.h"
#include "diffusion/schedule.h"

namespace halfstep {

/// alpha and sigma of a batch, [B, 1, ..., 1], to be multiplied with `like` [B, ...]. Throws Error(where)
/// unless there is one finite logsnr per example.
struct SignalAndNoise {
  Variable alpha, sigma;
};
SignalAndNoise signal_and_noise(const NoiseLevels& logsnr, const Variable& like, std::string_view where);

/// A sample of q(z_t | x) = N(alpha x, sigma^2 I): z_t = alpha x + sigma eps (equations 3 and 4). x, eps: [B,
/// ...], eps standard normal; logsnr: one per example.
Tensor diffuse(const Tensor& x, const Tensor& eps, const NoiseLevels& logsnr);

/// N(mean, variance I), mean: [B, ...], one log-variance per example (-inf: no noise at all).
struct Gaussian {
  Tensor mean;
  std::vector<double> log_variance;
};
/// mean + standard deviation * noise.
Tensor draw(const Gaussian& gaussian, const Tensor& noise);

/// log((1 - r) sigma(l)^2), r = e^(logsnr_t - logsnr_s): log beta-tilde_t with l = logsnr_s, log beta_t with
/// l = logsnr_t. -inf where logsnr_t = logsnr_s.
double log_step_variance(double logsnr_s, double logsnr_t, double logsnr);

/// q(z_t | z_s) for s <= t (equation 1): mean (alpha_t / alpha_s) z_s, variance beta_t. Throws Error where
/// logsnr_t > logsnr_s.
Gaussian transition(const Tensor& z_s, const std::vector<double>& logsnr_s,
                    const std::vector<double>& logsnr_t);

/// The mean of q(z_s | z_t, x) is of_z z_t + of_x x (equation 7), with two numbers per example. Throws Error
/// where logsnr_t > logsnr_s.
struct PosteriorMean {
  std::vector<double> of_z, of_x;
};
PosteriorMean posterior_mean(const std::vector<double>& logsnr_s, const std::vector<double>& logsnr_t);

/// q(z_s | z_t, x) for s <= t (equations 7 and 8): mean r (alpha_s / alpha_t) z_t + (1 - r) alpha_s x,
/// variance beta-tilde_t. Throws Error where logsnr_t > logsnr_s.
Gaussian posterior(const Tensor& x, const Tensor& z_t, const std::vector<double>& logsnr_s,
                   const std::vector<double>& logsnr_t);

}  // namespace halfstep
