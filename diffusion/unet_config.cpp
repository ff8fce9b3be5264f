#include "diffusion/unet_config.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <numeric>
#include <utility>

#include "tensor/error.h"
#include "tensor/ops.h"

namespace halfstep {

LogsnrInput logsnr_input_by_name(std::string_view name) {
  for (const LogsnrInput input : {LogsnrInput::linear, LogsnrInput::sigmoid, LogsnrInput::inv_cos})
    if (name == name_of(input)) return input;
  fail("logsnr_input", "expected linear, sigmoid or inv_cos, got {}", name);
}

std::string_view name_of(LogsnrInput input) {
  switch (input) {
    case LogsnrInput::linear:
      return "linear";
    case LogsnrInput::sigmoid:
      return "sigmoid";
    case LogsnrInput::inv_cos:
      break;
  }
  return "inv_cos";
}

bool UNetConfig::attends_at(int64_t resolution) const {
  return std::find(attention_resolutions.begin(), attention_resolutions.end(), resolution) !=
         attention_resolutions.end();
}

void UNetConfig::validate() const {
  constexpr std::string_view where = "UNetConfig";
  const auto positive = [&](std::string_view field, int64_t value) {
    require(value > 0, where, "{} must be positive, got {}", field, value);
  };
  positive("height", height);
  positive("width", width);
  positive("in_channels", in_channels);
  positive("out_channels", out_channels);
  positive("num_res_blocks", num_res_blocks);
  positive("groups", groups);
  positive("space_to_depth", space_to_depth);
  require(channels >= 4, where,
          "channels must be at least 4 (the sinusoidal embedding has that width), got {}", channels);
  require(emb_channels >= 0, where, "emb_channels must not be negative, got {}; 0 means 4 * channels",
          emb_channels);
  require(num_classes >= 0, where, "num_classes must not be negative, got {}; 0 means unconditional",
          num_classes);
  require(!channel_multipliers.empty() && channel_multipliers.size() < 32, where,
          "channel_multipliers must name 1 to 31 levels, got {}", channel_multipliers.size());
  require(dropout >= 0 && dropout < 1, where, "dropout must lie in [0, 1), got {}", dropout);
  require(norm_eps > 0, where, "norm_eps must be positive, got {}", norm_eps);
  require(logsnr_min < logsnr_max, where, "logsnr_min must be below logsnr_max, got {} and {}", logsnr_min,
          logsnr_max);
  require(head_dim >= 0 && num_heads >= 0 && (head_dim > 0 ? num_heads <= 1 : num_heads > 0), where,
          "expected num_heads or head_dim, got num_heads {} and head_dim {}; leave the other at its default",
          num_heads, head_dim);

  const int64_t levels = static_cast<int64_t>(channel_multipliers.size());
  const int64_t divisor = space_to_depth * (int64_t{1} << (levels - 1));
  for (const auto& [field, size] : {std::pair<std::string_view, int64_t>{"height", height}, {"width", width}})
    require(size % divisor == 0, where,
            "{} {} is not divisible by {} (space_to_depth {} and {} levels); use fewer channel_multipliers "
            "or pad the "
            "images",
            field, size, divisor, space_to_depth, levels);

  require(channels % groups == 0, where, "groups {} does not divide channels {}; use groups {}", groups,
          channels, std::gcd(groups, channels));
  for (int64_t level = 0; level < levels; ++level) {
    positive("channel_multipliers", channel_multipliers[level]);
    const int64_t level_width = channels * channel_multipliers[level];
    // The middle attends at the width of the last level.
    if (level + 1 != levels && !attends_at(height / space_to_depth >> level)) continue;
    if (head_dim > 0)
      require(level_width % head_dim == 0, where, "head_dim {} does not divide the {} channels of level {}",
              head_dim, level_width, level);
    else
      require(level_width % num_heads == 0, where, "num_heads {} does not divide the {} channels of level {}",
              num_heads, level_width, level);
  }
}

Tensor logsnr_input(const UNetConfig& config, const NoiseLevels& logsnr, Device& device) {
  for (const double l : logsnr.logsnr())
    require(std::isfinite(l), "logsnr_embedding", "expected finite log-SNRs, got {}", l);
  const auto scalar = [&](double value) { return Tensor::scalar(value, {DType::f64, &device}); };
  switch (config.logsnr_input) {
    case LogsnrInput::linear:
      return divide(subtract(logsnr.logsnr(device), scalar(config.logsnr_min)),
                    scalar(config.logsnr_max - config.logsnr_min));
    case LogsnrInput::sigmoid:
      return unary({.op = UnaryOp::sigmoid}, logsnr.logsnr(device));
    case LogsnrInput::inv_cos:
      break;
  }
  // The angle falls with the log-SNR: its limits are those of clip(l, -20, 20).
  const Tensor angle = clamp(logsnr.angle(device), std::atan(std::exp(-10.0)), std::atan(std::exp(10.0)));
  return divide(angle, scalar(std::numbers::pi / 2));
}

Tensor embedding_frequencies(int64_t width, Device& device) {
  require(width >= 4, "sinusoidal_embedding", "expected a width of at least 4, got {}", width);
  const int64_t half = width / 2;
  std::vector<double> frequencies;
  for (int64_t k = 0; k < half; ++k)
    frequencies.push_back(
        std::exp(-std::log(10000.0) * static_cast<double>(k) / static_cast<double>(half - 1)));
  return Tensor::from(frequencies, {half}, {DType::f64, &device});
}

Tensor sinusoidal_embedding(const Tensor& t, const Tensor& frequencies, int64_t width, DType dtype) {
  const Tensor arguments = multiply(t.unsqueeze(-1), frequencies);
  std::vector<Tensor> columns = {unary({.op = UnaryOp::sin}, arguments),
                                 unary({.op = UnaryOp::cos}, arguments)};
  if (width % 2 == 1) columns.push_back(Tensor::zeros({t.numel(), 1}, t.options()));
  return concat(columns, -1).to(dtype);
}

Tensor logsnr_embedding(const UNetConfig& config, const NoiseLevels& logsnr, const Tensor& frequencies,
                        DType dtype) {
  const Tensor input = logsnr_input(config, logsnr, frequencies.device());
  return sinusoidal_embedding(affine(input, 1000, 0), frequencies, config.channels, dtype);
}

}  // namespace halfstep
