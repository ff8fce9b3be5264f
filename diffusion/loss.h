// The training objectives: how far a prediction is from its target.
#pragma once

#include <string_view>

#include "diffusion/prediction.h"

namespace halfstep {

/// The weight w(SNR) of the squared error in x, w ||x - x_hat||^2, with SNR = alpha^2 / sigma^2.
enum class LossWeight : uint8_t {
  constant,       ///< 1: the error of x
  snr,            ///< SNR: the error of eps (the paper's L_simple)
  truncated_snr,  ///< max(SNR, 1): the larger of the two, equation (9)
  snr_plus_1,     ///< SNR + 1: the error of v, equation (10)
};

/// "constant", "snr", "truncated-snr", "snr+1".
std::string_view name_of(LossWeight weight);
/// Throws Error for another name.
LossWeight loss_weight_by_name(std::string_view name);

/// w / (1 + SNR), the weight of ||v - v_hat||^2: sigma^2, alpha^2, max(sigma^2, alpha^2) or 1.
double weight_of_v(LossWeight weight, double logsnr);

/// One loss per example, [B]: squared errors averaged over all axes but the first. `target` carries no
/// gradient; logsnr: one per example.
///
/// Errors of x, eps and v at one z differ by a factor only: x - x_hat = -sigma (v - v_hat) and
/// eps - eps_hat = alpha (v - v_hat). So every loss is taken from v and weighted once per example, after the
/// mean. This is more than convenient: near t = 0 two values of x agree to sigma, near t = 1 two values of
/// eps agree to alpha, and their difference would have lost that part of its digits (1e-3 of the loss in
/// f32). v has no such end. For the same reason truncated_snr, max(mean (x - x_hat)^2, mean (eps -
/// eps_hat)^2), needs no second mean.
Variable example_losses(LossWeight weight, const Predictions& target, const Predictions& prediction,
                        const NoiseLevels& logsnr);

/// The mean of example_losses over the batch, a scalar.
Variable batch_loss(LossWeight weight, const Predictions& target, const Predictions& prediction,
                    const NoiseLevels& logsnr);

}  // namespace halfstep
