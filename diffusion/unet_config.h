// Every choice that defines the architecture of a UNet.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "diffusion/noise_levels.h"

namespace halfstep {

/// How the network is told the noise level: a function of logsnr l = log(alpha^2 / sigma^2) that becomes the
/// argument of the sinusoidal embedding.
enum class LogsnrInput {
  linear,   ///< (l - logsnr_min) / (logsnr_max - logsnr_min), not clipped
  sigmoid,  ///< sigmoid(l)
  inv_cos,  ///< atan(exp(-clip(l, -20, 20) / 2)) / (pi / 2): the time u of the cosine schedule
};
/// "linear", "sigmoid", "inv_cos"; throws Error for another name.
LogsnrInput logsnr_input_by_name(std::string_view name);
std::string_view name_of(LogsnrInput input);

/// The defaults are those of the official code where it has any.
struct UNetConfig {
  int64_t height = 28, width = 28, in_channels = 1;
  int64_t out_channels = 1;  ///< 2 * in_channels when the network predicts both x and eps

  int64_t channels = 32;     ///< width of level 0 and of the sinusoidal embedding
  int64_t emb_channels = 0;  ///< width of the conditioning vector; 0: 4 * channels
  std::vector<int64_t> channel_multipliers = {
      1, 2};                   ///< one level each; every level but the last halves the image
  int64_t num_res_blocks = 2;  ///< per level on the way down; one more on the way up
  /// Levels with one of these heights get self-attention after every residual block; the middle always has
  /// it. Heights are counted inside the network, behind the space-to-depth stem; heights that do not occur
  /// have no effect.
  std::vector<int64_t> attention_resolutions = {};
  int64_t num_heads = 1;  ///< attention heads; must be left at 1 (or 0) when head_dim is given
  int64_t head_dim = 0;   ///< > 0: heads of this width, as many as fit
  double dropout = 0;     ///< in every residual block, before its second convolution
  int64_t groups = 32;    ///< of every group normalisation
  double norm_eps = 1e-6;

  LogsnrInput logsnr_input = LogsnrInput::inv_cos;
  double logsnr_min = -10, logsnr_max = 10;  ///< range of LogsnrInput::linear; unused by the others
  int64_t num_classes = 0;                   ///< 0 or 1: unconditional

  /// true: images are resized inside residual blocks by 2x2 average pooling and nearest up-sampling; false:
  /// by a convolution of stride 2 and by nearest up-sampling followed by a convolution.
  bool resblock_resample = true;
  /// Stem: factor x factor pixels become one pixel with factor^2 times the channels, and back at the end. 1:
  /// none.
  int64_t space_to_depth = 1;

  int64_t emb_width() const { return emb_channels > 0 ? emb_channels : 4 * channels; }
  bool conditional() const { return num_classes > 1; }
  /// Heads of an attention block on `block_width` channels.
  int64_t heads_for(int64_t block_width) const { return head_dim > 0 ? block_width / head_dim : num_heads; }
  bool attends_at(int64_t resolution) const;

  /// Throws Error that names the field, its value and a way out, if no network can be built.
  void validate() const;
};

/// The conditioning of a UNet before its first dense layer: t = 1000 logsnr_input, then [sin(t f_k), cos(t
/// f_k)] with the `frequencies` f_k, and one column 0 if config.channels is odd. t reaches 1000 radians,
/// where f32 would be wrong by 6e-5, so everything is computed in f64, on the device of `frequencies`, and
/// rounded once to `dtype`. -> [B, config.channels]
Tensor logsnr_embedding(const UNetConfig& config, const NoiseLevels& logsnr, const Tensor& frequencies,
                        DType dtype);

/// The argument of the embedding before it is multiplied by 1000, f64 [B].
Tensor logsnr_input(const UNetConfig& config, const NoiseLevels& logsnr, Device& device);

/// f_k = exp(-k ln(10000) / (half - 1)), k = 0 ... half-1, half = width / 2: f64 [half]. width >= 4.
Tensor embedding_frequencies(int64_t width, Device& device);

/// The embedding of given t, f64 [n]: [n, width].
Tensor sinusoidal_embedding(const Tensor& t, const Tensor& frequencies, int64_t width, DType dtype);

}  // namespace halfstep
