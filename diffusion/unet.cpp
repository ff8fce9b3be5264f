#include "diffusion/unet.h"

#include <memory>

#include "autograd/checkpoint.h"
#include "tensor/error.h"

namespace halfstep {
namespace {

const UNetConfig& validated(const UNetConfig& config) {
  config.validate();
  return config;
}

Variable resized(const Variable& x, Resample resample) {
  switch (resample) {
    case Resample::down:
      return average_pool(x);
    case Resample::up:
      return upsample_nearest(x);
    case Resample::none:
      break;
  }
  return x;
}

Resampler make_resampler(const UNetConfig& config, int64_t width, Resample resample) {
  if (config.resblock_resample) return ResnetBlock(config, width, width, resample);
  return Conv2d(width, width, resample == Resample::down ? 2 : 1);
}

/// block(inputs, context), kept for the backward pass or, with context.recompute, computed again there: from
/// the context that it met, so that dropout draws the same masks.
template <class Block>
Variable run(const Block& block, const std::vector<Variable>& inputs, ForwardContext& context) {
  if (!context.recompute) return block(inputs, context);
  const auto keys_taken = std::make_shared<uint64_t>();
  const Variable h = checkpoint(
      [block, keys_taken, start = context](const std::vector<Variable>& in) {
        ForwardContext again = start;
        const Variable out = block(in, again);
        *keys_taken = again.keys_taken;
        return out;
      },
      inputs);
  context.keys_taken = *keys_taken;
  return h;
}

Variable apply(const Resampler& resampler, Resample resample, const Variable& x,
               const Variable& activated_emb, ForwardContext& context) {
  return run(
      [&resampler, resample](const std::vector<Variable>& in, ForwardContext& c) {
        if (const auto* block = std::get_if<ResnetBlock>(&resampler)) return (*block)(in[0], in[1], c);
        // Down: the convolution strides. Up: it smooths the enlarged image.
        return std::get<Conv2d>(resampler)(resample == Resample::up ? upsample_nearest(in[0]) : in[0]);
      },
      {x, activated_emb}, context);
}

/// Block `i` of a level and the attention behind it. `skip`: more channels beside x, or undefined.
Variable apply(const Level& level, size_t i, const Variable& x, const Variable& skip,
               const Variable& activated_emb, ForwardContext& context) {
  std::vector<Variable> inputs = {x, activated_emb};
  if (skip.defined()) inputs.push_back(skip);
  return run(
      [&level, i](const std::vector<Variable>& in, ForwardContext& c) {
        const Variable h = level.blocks[i](in.size() > 2 ? concat({in[0], in[2]}, -1) : in[0], in[1], c);
        return level.attentions.empty() ? h : level.attentions[i](h);
      },
      inputs, context);
}

}  // namespace

ResnetBlock::ResnetBlock(const UNetConfig& config, int64_t in, int64_t out, Resample resample_)
    : norm1(in, config.groups, config.norm_eps),
      conv1(in, out),
      temb_proj(config.emb_width(), 2 * out),
      norm2(out, config.groups, config.norm_eps),
      conv2(out, out, 1, init::zeros()),
      resample(resample_),
      dropout_rate(config.dropout) {
  if (in != out) nin_shortcut.emplace(in, out);
}

Variable ResnetBlock::operator()(const Variable& x, const Variable& activated_emb,
                                 ForwardContext& context) const {
  const Variable film = temb_proj(activated_emb);
  const int64_t out = film.size(1) / 2;
  const Variable scale = slice(film, 1, 0, out), shift = slice(film, 1, out, 2 * out);

  Variable h = conv1(resized(norm1(x, Activation::silu), resample));
  h = norm2(h, scale, shift, Activation::silu);
  const Variable shortcut = resized(x, resample);
  return conv2(dropout(h, dropout_rate, context), nin_shortcut ? (*nin_shortcut)(shortcut) : shortcut);
}

UNet::UNet(const UNetConfig& config_, uint64_t seed, TensorOptions options) : UNet(config_, Structure{}) {
  init_parameters(*this, seed, options);
  frequencies = embedding_frequencies(config.channels, *options.device);
}

UNet::UNet(const UNetConfig& config_, Unloaded, TensorOptions options) : UNet(config_, Structure{}) {
  allocate_parameters(*this, options);
  frequencies = embedding_frequencies(config.channels, *options.device);
}

UNet::UNet(const UNetConfig& config_, Structure)
    : config(validated(config_)),
      dense0(config.channels, config.emb_width()),
      dense1(config.emb_width(), config.emb_width()),
      conv_in(config.in_channels * config.space_to_depth * config.space_to_depth, config.channels),
      mid([&] {
        const int64_t width = config.channels * config.channel_multipliers.back();
        return Middle{.block_1 = {config, width, width},
                      .attn_1 = {width, config.heads_for(width), config.groups, config.norm_eps},
                      .block_2 = {config, width, width}};
      }()),
      norm_out(config.channels * config.channel_multipliers.front(), config.groups, config.norm_eps),
      conv_out(config.channels * config.channel_multipliers.front(),
               config.out_channels * config.space_to_depth * config.space_to_depth, 1, init::zeros()) {
  if (config.conditional()) class_emb.emplace(config.num_classes, config.emb_width());

  const size_t levels = config.channel_multipliers.size();
  const auto add_block = [&](Level& level, size_t i, int64_t in) {
    const int64_t out = config.channels * config.channel_multipliers[i];
    level.blocks.emplace_back(config, in, out);
    if (config.attends_at(config.height / config.space_to_depth >> i))
      level.attentions.emplace_back(out, config.heads_for(out), config.groups, config.norm_eps);
    return out;
  };

  // Widths of everything that the way down leaves for the way up, in the order of forward().
  int64_t width = config.channels;
  std::vector<int64_t> skips = {width};
  down.resize(levels);
  for (size_t i = 0; i < levels; ++i) {
    for (int64_t j = 0; j < config.num_res_blocks; ++j) skips.push_back(width = add_block(down[i], i, width));
    if (i + 1 == levels) continue;
    down[i].downsample = make_resampler(config, width, Resample::down);
    skips.push_back(width);
  }
  up.resize(levels);
  for (size_t i = levels; i-- > 0;) {
    for (int64_t j = 0; j <= config.num_res_blocks; ++j) {
      width = add_block(up[i], i, width + skips.back());
      skips.pop_back();
    }
    if (i > 0) up[i].upsample = make_resampler(config, width, Resample::up);
  }
}

Variable UNet::conditioning(const NoiseLevels& logsnr, const Tensor& label) const {
  const Variable sinusoids{logsnr_embedding(config, logsnr, frequencies, dense0.kernel.dtype())};
  const Variable emb = dense1(silu(dense0(sinusoids)));
  if (!class_emb) {
    require(!label.defined(), "UNet", "got labels, but the network is unconditional (num_classes {})",
            config.num_classes);
    return emb;
  }
  require(label.defined() && label.dtype() == DType::i64 && label.shape() == Shape{logsnr.size()}, "UNet",
          "a network with {} classes expects an i64 label for each of the {} images, got {}",
          config.num_classes, logsnr.size(), label.defined() ? str(label.shape()) : "none");
  Device& device = frequencies.device();
  if (&label.device() != &device || device.backend.synchronous) {
    for (const int64_t l : label.to_vector<int64_t>())
      require(l >= 0 && l < config.num_classes, "UNet", "expected labels in 0 ... {}, got {}",
              config.num_classes - 1, l);
  }
  return emb + (embedding(class_emb->kernel, label.to(device)) + class_emb->bias);
}

Variable UNet::operator()(const Variable& z, const NoiseLevels& logsnr, const Tensor& label,
                          ForwardContext& context) const {
  const Shape expected = {logsnr.size(), config.height, config.width, config.in_channels};
  require(z.shape() == expected, "UNet", "expected images {} ({} log-SNRs), got {}", str(expected),
          logsnr.size(), str(z.shape()));
  const int factor = static_cast<int>(config.space_to_depth);
  // Every residual block starts with silu(conditioning): computed once. It stays as fine as the parameters:
  // its products have one row per image, a small part of the work, and it only meets gains and biases of
  // norms.
  const Variable emb = silu(conditioning(logsnr, label));

  const Variable images = context.precision == Precision::bf16 ? to(z, DType::bf16) : z;
  Variable h = conv_in(factor > 1 ? space_to_depth(images, factor) : images);
  std::vector<Variable> skips = {h};
  for (const Level& level : down) {
    for (size_t j = 0; j < level.blocks.size(); ++j)
      skips.push_back(h = apply(level, j, h, {}, emb, context));
    if (level.downsample) skips.push_back(h = apply(*level.downsample, Resample::down, h, emb, context));
  }

  h = run(
      [this](const std::vector<Variable>& in, ForwardContext& c) {
        return mid.block_2(mid.attn_1(mid.block_1(in[0], in[1], c)), in[1], c);
      },
      {h, emb}, context);

  for (auto level = up.rbegin(); level != up.rend(); ++level) {
    for (size_t j = 0; j < level->blocks.size(); ++j) {
      h = apply(*level, j, h, skips.back(), emb, context);
      skips.pop_back();
    }
    if (level->upsample) h = apply(*level->upsample, Resample::up, h, emb, context);
  }

  // The last convolution makes few channels, and nothing sums over what it rounds: it is as fine as z.
  h = conv_out(to(norm_out(h, Activation::silu), z.dtype()));
  return factor > 1 ? depth_to_space(h, factor) : h;
}

}  // namespace halfstep
