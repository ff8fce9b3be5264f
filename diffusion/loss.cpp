#include "diffusion/loss.h"

#include <algorithm>

#include "autograd/ops.h"
#include "diffusion/forward.h"
#include "tensor/error.h"

namespace halfstep {

namespace {

constexpr LossWeight kAll[] = {LossWeight::constant, LossWeight::snr, LossWeight::truncated_snr,
                               LossWeight::snr_plus_1};

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
  switch (weight) {
    case LossWeight::constant:
      return sigma2;
    case LossWeight::snr:
      return alpha2;
    case LossWeight::truncated_snr:
      return std::max(sigma2, alpha2);
    case LossWeight::snr_plus_1:
      return 1;
  }
  fail("loss", "expected constant, snr, truncated-snr or snr+1, got {}", static_cast<int>(weight));
}

Variable example_losses(LossWeight weight, const Predictions& target, const Predictions& prediction,
                        const std::vector<double>& logsnr) {
  const Shape& shape = prediction.v.shape();
  require(target.v.shape() == shape && shape.rank() >= 2, "loss",
          "expected target and prediction of one shape [B, ...], got {} and {}", str(target.v.shape()),
          str(shape));
  require(static_cast<int64_t>(logsnr.size()) == shape[0], "loss",
          "expected one logsnr per example, got {} for {}", logsnr.size(), str(shape));
  require(!target.v.requires_grad(), "loss", "expected a target without gradient; detach it");
  std::vector<int> axes;
  for (int axis = 1; axis < shape.rank(); ++axis) axes.push_back(axis);
  std::vector<double> weights;
  for (const double l : logsnr) weights.push_back(weight_of_v(weight, l));
  return Variable(per_example(weights, 1, prediction.v.options())) * mse(prediction.v, target.v, axes);
}

Variable batch_loss(LossWeight weight, const Predictions& target, const Predictions& prediction,
                    const std::vector<double>& logsnr) {
  return mean(example_losses(weight, target, prediction, logsnr));
}

}  // namespace halfstep
