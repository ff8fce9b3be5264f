#include "diffusion/prediction.h"

#include "autograd/ops.h"
#include "diffusion/forward.h"
#include "tensor/error.h"

namespace halfstep {

namespace {

constexpr Prediction kAll[] = {Prediction::x, Prediction::eps, Prediction::v, Prediction::both};

Predictions predictions_of_v(const Variable& v, const Variable& z, const SignalAndNoise& at) {
  return {at.alpha * z - at.sigma * v, at.sigma * z + at.alpha * v, v};
}

/// The formulas are solved for what they use, so that nothing is subtracted which was added before: going
/// from v to eps by way of x, for example, would multiply x's rounding by alpha / sigma = 22026 at logsnr 20.
Predictions unclipped(Prediction kind, const Variable& output, const Variable& z, const NoiseLevels& logsnr) {
  const auto [alpha, sigma] = signal_and_noise(logsnr, z, "predictions");
  switch (kind) {
    case Prediction::x:
      return predictions_of_x(output, z, logsnr);
    case Prediction::eps:
      return {(z - sigma * output) / alpha, output, (output - sigma * z) / alpha};
    case Prediction::v:
      return predictions_of_v(output, z, {alpha, sigma});
    case Prediction::both: {
      const int64_t channels = z.size(-1);
      const Variable raw_x = slice(output, -1, 0, channels),
                     raw_eps = slice(output, -1, channels, 2 * channels);
      // x = sigma^2 x~ + alpha (z - sigma eps~) = alpha z - sigma (alpha eps~ - sigma x~): the bracket is v.
      return predictions_of_v(alpha * raw_eps - sigma * raw_x, z, {alpha, sigma});
    }
  }
  fail("predictions", "expected x, eps, v or both, got {}", static_cast<int>(kind));
}

}  // namespace

std::string_view name_of(Prediction kind) {
  switch (kind) {
    case Prediction::x:
      return "x";
    case Prediction::eps:
      return "eps";
    case Prediction::v:
      return "v";
    case Prediction::both:
      return "both";
  }
  fail("prediction", "expected x, eps, v or both, got {}", static_cast<int>(kind));
}

Prediction prediction_by_name(std::string_view name) {
  for (const Prediction kind : kAll) {
    if (name_of(kind) == name) return kind;
  }
  fail("prediction", "expected x, eps, v or both, got \"{}\"", name);
}

int64_t output_channels(Prediction kind, int64_t channels) {
  return kind == Prediction::both ? 2 * channels : channels;
}

Predictions predictions(Prediction kind, const Variable& output, const Variable& z, const NoiseLevels& logsnr,
                        bool clip) {
  require(z.rank() >= 2, "predictions", "expected z as [B, ..., C], got shape {}", str(z.shape()));
  Shape expected = z.shape();
  expected[z.rank() - 1] = output_channels(kind, z.size(-1));
  require(output.shape() == expected, "predictions",
          "expected a network output of shape {} for prediction {}, got {}", str(expected), name_of(kind),
          str(output.shape()));
  const Predictions free = unclipped(kind, output, z, logsnr);
  return clip ? predictions_of_x(clamp(free.x, -1, 1), z, logsnr) : free;
}

Predictions predictions_of_x(const Variable& x, const Variable& z, const NoiseLevels& logsnr) {
  require(x.shape() == z.shape(), "predictions", "expected x of the shape of z {}, got {}", str(z.shape()),
          str(x.shape()));
  const auto [alpha, sigma] = signal_and_noise(logsnr, z, "predictions");
  return {x, (z - alpha * x) / sigma, (alpha * z - x) / sigma};
}

}  // namespace halfstep
