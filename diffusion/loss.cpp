#include "diffusion/loss.h"

#include <algorithm>

#include "autograd/ops.h"
#include "diffusion/schedule.h"
#include "tensor/error.h"
#include "tensor/ops.h"

namespace halfstep {

namespace {

constexpr LossWeight kAll[] = {LossWeight::constant, LossWeight::snr, LossWeight::truncated_snr,
                               LossWeight::snr_plus_1};

/// w / (1 + SNR), for numbers or for tensors.
template <class Value, class Maximum>
Value weight_of_v(LossWeight weight, const Value& sigma2, const Value& alpha2, const Value& one,
                  Maximum maximum) {
  switch (weight) {
    case LossWeight::constant:
      return sigma2;
    case LossWeight::snr:
      return alpha2;
    case LossWeight::truncated_snr:
      return maximum(sigma2, alpha2);
    case LossWeight::snr_plus_1:
      return one;
  }
  fail("loss", "expected constant, snr, truncated-snr or snr+1, got {}", static_cast<int>(weight));
}

/// weight_of_v of every example, f64 [B].
Tensor weights_of_v(LossWeight weight, const NoiseLevels& logsnr, Device& device) {
  const Tensor sigma = logsnr.sigma(device), alpha = logsnr.alpha(device);
  return weight_of_v(weight, multiply(sigma, sigma), multiply(alpha, alpha),
                     Tensor::ones(alpha.shape(), alpha.options()),
                     [](const Tensor& a, const Tensor& b) { return binary(BinaryOp::maximum, a, b); });
}

}  // namespace

std::string_view name_of(LossWeight weight) {
  switch (weight) {
    case LossWeight::constant:
      return "constant";
    case LossWeight::snr:
      return "snr";
    case LossWeight::truncated_snr:
      return "truncated-snr";
    case LossWeight::snr_plus_1:
      return "snr+1";
  }
  fail("loss", "expected constant, snr, truncated-snr or snr+1, got {}", static_cast<int>(weight));
}

LossWeight loss_weight_by_name(std::string_view name) {
  for (const LossWeight weight : kAll) {
    if (name_of(weight) == name) return weight;
  }
  fail("loss", "expected constant, snr, truncated-snr or snr+1, got \"{}\"", name);
}

double weight_of_v(LossWeight weight, double logsnr) {
  const double sigma2 = sigma(logsnr) * sigma(logsnr), alpha2 = alpha(logsnr) * alpha(logsnr);
  return weight_of_v(weight, sigma2, alpha2, 1.0, [](double a, double b) { return std::max(a, b); });
}

Variable example_losses(LossWeight weight, const Predictions& target, const Predictions& prediction,
                        const NoiseLevels& logsnr) {
  const Shape& shape = prediction.v.shape();
  require(target.v.shape() == shape && shape.rank() >= 2, "loss",
          "expected target and prediction of one shape [B, ...], got {} and {}", str(target.v.shape()),
          str(shape));
  require(logsnr.size() == shape[0], "loss", "expected one logsnr per example, got {} for {}", logsnr.size(),
          str(shape));
  require(!target.v.requires_grad(), "loss", "expected a target without gradient; detach it");
  std::vector<int> axes;
  for (int axis = 1; axis < shape.rank(); ++axis) axes.push_back(axis);
  const Tensor weights = weights_of_v(weight, logsnr, prediction.v.value().device());
  return Variable(weights.to(prediction.v.dtype())) * mse(prediction.v, target.v, axes);
}

Variable batch_loss(LossWeight weight, const Predictions& target, const Predictions& prediction,
                    const NoiseLevels& logsnr) {
  return mean(example_losses(weight, target, prediction, logsnr));
}

}  // namespace halfstep
