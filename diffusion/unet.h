// The UNet of Salimans & Ho, "Progressive Distillation for Fast Sampling of Diffusion Models" (2022), after
// Ho et al. (2020) and Nichol & Dhariwal (2021). Parameter names are the paths of the official code with '/'
// written as '.'.
#pragma once

#include "diffusion/unet_config.h"
#include "nn/layers.h"

namespace halfstep {

/// Whether a block keeps, halves or doubles height and width.
enum class Resample { none, down, up };

/// x + conv2(dropout(silu(FiLM(norm2(conv1(silu(norm1(x)))))))), FiLM by scale and shift from the
/// conditioning. With `resample`, both x and silu(norm1(x)) are halved (2x2 average) or doubled (nearest).
struct ResnetBlock {
  GroupNorm norm1;
  Conv2d conv1;
  Linear temb_proj;  ///< [emb, 2 * out]: scale, then shift
  GroupNorm norm2;
  Conv2d conv2;                        ///< kernel starts at 0: the block starts as its shortcut
  std::optional<Linear> nin_shortcut;  ///< 1x1 on x, where the number of channels changes
  Resample resample;
  double dropout_rate;

  ResnetBlock(const UNetConfig& config, int64_t in, int64_t out, Resample resample = Resample::none);
  /// x [B, H, W, in], activated_emb = silu(conditioning) [B, emb] -> [B, H', W', out]
  Variable operator()(const Variable& x, const Variable& activated_emb, ForwardContext& context) const;

  template <class Self, class Visitor>
  static void fields(Self& self, Visitor&& visit) {
    visit("norm1", self.norm1);
    visit("conv1", self.conv1);
    visit("temb_proj", self.temb_proj);
    visit("norm2", self.norm2);
    visit("conv2", self.conv2);
    visit("nin_shortcut", self.nin_shortcut);
  }
};

/// What joins two resolutions: a residual block, or a plain convolution (resblock_resample false).
using Resampler = std::variant<ResnetBlock, Conv2d>;

/// The blocks at one resolution on the way down or up.
struct Level {
  std::vector<ResnetBlock> blocks;
  std::vector<SelfAttention> attentions;  ///< empty, or one after each block
  std::optional<Resampler> downsample, upsample;

  template <class Self, class Visitor>
  static void fields(Self& self, Visitor&& visit) {
    visit("block", self.blocks);
    visit("attn", self.attentions);
    visit("downsample", self.downsample);
    visit("upsample", self.upsample);
  }
};

/// The blocks at the lowest resolution.
struct Middle {
  ResnetBlock block_1;
  SelfAttention attn_1;
  ResnetBlock block_2;

  template <class Self, class Visitor>
  static void fields(Self& self, Visitor&& visit) {
    visit("block_1", self.block_1);
    visit("attn_1", self.attn_1);
    visit("block_2", self.block_2);
  }
};

/// The network: a function of noisy images and their noise levels.
struct UNet {
  UNetConfig config;
  Linear dense0, dense1;            ///< sinusoids -> conditioning
  std::optional<Linear> class_emb;  ///< of the one-hot label
  Conv2d conv_in;
  std::vector<Level> down;
  Middle mid;
  std::vector<Level> up;  ///< up[i] has the resolution of down[i]
  GroupNorm norm_out;
  Conv2d conv_out;     ///< kernel starts at 0: the network starts by predicting 0
  Tensor frequencies;  ///< of the sinusoids; constant

  /// Validates `config` and draws the first values from `seed`.
  explicit UNet(const UNetConfig& config, uint64_t seed = 0, TensorOptions options = {});
  /// The same without values, which are to be loaded: see allocate_parameters.
  struct Unloaded {};
  UNet(const UNetConfig& config, Unloaded, TensorOptions options = {});

  /// z: [B, height, width, in_channels] in the parameters' dtype, like the output; with context.precision
  /// bf16 everything between conv_in and conv_out is in bf16, but the conditioning is not; logsnr: one per
  /// image, finite. label: i64 [B] in 0 ... num_classes-1 for a class-conditional network, otherwise undefined;
  /// one on another device is checked and sent to the network's. (Of one that lies on a GPU, a class out of
  /// range gives NaN: see gather in tensor/ops.h.) -> [B, height, width, out_channels]. What the output means
  /// is decided by diffusion/prediction.h.
  Variable operator()(const Variable& z, const NoiseLevels& logsnr, const Tensor& label,
                      ForwardContext& context) const;

  /// dense1(silu(dense0(sinusoids))) + class_emb(one-hot label): [B, emb]. (The product with a one-hot label
  /// is a row of the kernel.)
  Variable conditioning(const NoiseLevels& logsnr, const Tensor& label) const;

  template <class Self, class Visitor>
  static void fields(Self& self, Visitor&& visit) {
    visit("dense0", self.dense0);
    visit("dense1", self.dense1);
    visit("class_emb", self.class_emb);
    visit("conv_in", self.conv_in);
    visit("down", self.down);
    visit("mid", self.mid);
    visit("up", self.up);
    visit("norm_out", self.norm_out);
    visit("conv_out", self.conv_out);
  }

 private:
  /// The modules alone: parameters without memory.
  struct Structure {};
  UNet(const UNetConfig& config, Structure);
};

}  // namespace halfstep
