// What a network predicts, and the one place where its raw output becomes predictions of x, eps and v.
#pragma once

#include <functional>
#include <memory>
#include <string_view>

#include "autograd/variable.h"
#include "diffusion/noise_levels.h"

namespace halfstep {

/// The meaning of the raw output (Salimans & Ho 2022, section 4): the data x; the noise eps; v = alpha eps -
/// sigma x; or x and eps side by side ("both", twice the channels, x first).
enum class Prediction : uint8_t { x, eps, v, both };

/// "x", "eps", "v", "both".
std::string_view name_of(Prediction kind);
/// Throws Error for another name.
Prediction prediction_by_name(std::string_view name);
/// Channels that a network must put out for images of `channels` channels.
int64_t output_channels(Prediction kind, int64_t channels);

/// Three views of one prediction at z = alpha x + sigma eps; each is [B, ...] like z.
struct Predictions {
  Variable x, eps, v;
};

/// Predictions from the raw output of a network.
///   z: [B, ...]; output: like z, with output_channels(kind, C) on the last axis; logsnr: one per example.
/// For `both`, x = sigma^2 x~ + alpha (z - sigma eps~), and eps and v belong to that x. Without `clip` a raw
/// x, eps or v is handed on as it is. With `clip`, x is clamped to [-1, 1] and eps and v are those of the
/// clamped x, for every kind. Differentiable in output and z. Throws Error where shapes, dtypes or the number
/// of logsnr do not fit.
///
/// The paper's line below equation (10) prints `x_hat = alpha z - sigma eps_hat`: a slip, that is the form
/// for v_hat.
Predictions predictions(Prediction kind, const Variable& output, const Variable& z, const NoiseLevels& logsnr,
                        bool clip);

/// eps and v of a given x: eps = (z - alpha x) / sigma, v = (alpha z - x) / sigma.
Predictions predictions_of_x(const Variable& x, const Variable& z, const NoiseLevels& logsnr);

/// A network's raw output from z: [B, H, W, C], one logsnr per example, and labels (i64 [B], undefined for an
/// unconditional network).
using Network = std::function<Variable(const Variable& z, const NoiseLevels& logsnr, const Tensor& label)>;

/// A network together with the meaning of its output; whoever holds a Denoiser need not ask what it predicts.
struct Denoiser {
  Network network;
  Prediction kind = Prediction::v;
  /// Given where the network computes from what lies on the device alone (NoiseLevels::table, never the
  /// numbers on the host), so that its work may be recorded (tensor/captured.h). Equal for copies, and only
  /// for them: what was recorded with one network is not started for another.
  std::shared_ptr<const void> recordable = {};

  Predictions operator()(const Variable& z, const NoiseLevels& logsnr, const Tensor& label,
                         bool clip = false) const {
    return predictions(kind, network(z, logsnr, label), z, logsnr, clip);
  }
};

}  // namespace halfstep
