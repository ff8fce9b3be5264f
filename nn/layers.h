// Layers: those of the diffusion UNet, with the parameter names and shapes of the official Flax code, and two
// more normalisations.
//
// Layers compute in the dtype of x: beside x in bf16, kernels and biases of products are rounded to bf16 for
// the call (their gradients come back in the parameters' dtype), and parameters of norms are used as they
// are.
#pragma once

#include "autograd/ops.h"
#include "nn/module.h"
#include "nn/precision.h"

namespace halfstep {

/// What a forward pass needs besides its inputs. Every random layer takes the next key, so masks differ
/// between layers; a pass that starts from an equal context repeats its masks. Give each training step a key
/// of its own: `ForwardContext context{.training = true, .key = fold_in(key, step)}`, or one key and a row of
/// its own.
struct ForwardContext {
  bool training = false;  ///< false: dropout does nothing
  RandomKey key = {};
  uint64_t keys_taken = 0;
  /// Blocks are computed again in the backward pass instead of being kept (autograd/checkpoint.h).
  bool recompute = false;
  /// An i64 scalar on the device, read there: rows of one key have different masks (see dropout in
  /// tensor/ops.h).
  Tensor row = {};
  /// What a network that casts its own input computes in, such as UNet.
  Precision precision = Precision::f32;

  RandomKey next_key() { return fold_in(key, keys_taken++); }
};

/// Zeroes elements with probability `p` while training; otherwise returns x.
Variable dropout(const Variable& x, double p, ForwardContext& context);

/// x [..., in] -> x kernel + bias [..., out]
struct Linear {
  Parameter kernel;  ///< [in, out]
  Parameter bias;    ///< [out], starts at 0

  Linear(int64_t in, int64_t out, Initializer kernel_init = init::lecun_normal());
  Variable operator()(const Variable& x) const;

  template <class Self, class Visitor>
  static void fields(Self& self, Visitor&& visit) {
    visit("kernel", self.kernel);
    visit("bias", self.bias);
  }
};

/// 3x3 convolution with SAME zero padding: x [B, H, W, in] -> [B, H / stride, W / stride, out]. With stride
/// 2, H and W must be even; the single row and column of padding then lie at the bottom and right, as in
/// TensorFlow and JAX.
struct Conv2d {
  Parameter kernel;  ///< [3, 3, in, out]
  Parameter bias;    ///< [out], starts at 0
  int stride;        ///< 1 or 2

  Conv2d(int64_t in, int64_t out, int stride = 1, Initializer kernel_init = init::lecun_normal());
  /// residual: of the result's shape, added to it; or undefined.
  Variable operator()(const Variable& x, const Variable& residual = {}) const;

  template <class Self, class Visitor>
  static void fields(Self& self, Visitor&& visit) {
    visit("kernel", self.kernel);
    visit("bias", self.bias);
  }
};

/// Group normalisation (Wu & He 2018) of x [B, ..., C] over pixels and the contiguous channels of each group,
/// then `scale` and `bias` per channel, then `activation`: one fused kernel.
struct GroupNorm {
  Parameter scale, bias;  ///< [C]; start at 1 and 0
  int groups;
  double eps;

  GroupNorm(int64_t channels, int64_t groups, double eps = 1e-6);
  Variable operator()(const Variable& x, Activation activation = Activation::none) const;
  /// FiLM (Perez et al. 2018): activation(norm(x) * (1 + film_scale) + film_shift), film_scale and film_shift
  /// [B, C]. The modulation is folded into gain and bias of the same kernel.
  Variable operator()(const Variable& x, const Variable& film_scale, const Variable& film_shift,
                      Activation activation) const;

  template <class Self, class Visitor>
  static void fields(Self& self, Visitor&& visit) {
    visit("scale", self.scale);
    visit("bias", self.bias);
  }
};

/// Layer normalisation (Ba et al. 2016) of x [..., C] over the last axis, then `scale` and `bias` per
/// channel.
struct LayerNorm {
  Parameter scale, bias;  ///< [C]; start at 1 and 0
  double eps;

  explicit LayerNorm(int64_t channels, double eps = 1e-5);
  Variable operator()(const Variable& x) const;

  template <class Self, class Visitor>
  static void fields(Self& self, Visitor&& visit) {
    visit("scale", self.scale);
    visit("bias", self.bias);
  }
};

/// Instance normalisation (Ulyanov et al. 2016) of x [B, ..., C] over the pixels of each example and channel,
/// then `scale` and `bias` per channel.
struct InstanceNorm {
  Parameter scale, bias;  ///< [C]; start at 1 and 0
  double eps;

  explicit InstanceNorm(int64_t channels, double eps = 1e-5);
  Variable operator()(const Variable& x) const;

  template <class Self, class Visitor>
  static void fields(Self& self, Visitor&& visit) {
    visit("scale", self.scale);
    visit("bias", self.bias);
  }
};

/// x + proj_out(attention(q, k, v)) with q, k, v linear in norm(x); every pixel of x [B, H, W, C] attends to
/// all pixels of its image. Head h uses channels h*C/heads ... (h+1)*C/heads - 1 of q, k and v.
struct SelfAttention {
  GroupNorm norm;
  Linear q, k, v;
  Linear proj_out;  ///< kernel starts at 0: the block starts as the identity
  int64_t heads;

  SelfAttention(int64_t channels, int64_t heads, int64_t groups, double eps = 1e-6);
  Variable operator()(const Variable& x) const;

  template <class Self, class Visitor>
  static void fields(Self& self, Visitor&& visit) {
    visit("norm", self.norm);
    visit("q", self.q);
    visit("k", self.k);
    visit("v", self.v);
    visit("proj_out", self.proj_out);
  }
};

}  // namespace halfstep
