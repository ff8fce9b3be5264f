#include "nn/layers.h"

#include "tensor/error.h"

namespace halfstep {

Variable dropout(const Variable& x, double p, ForwardContext& context) {
  if (!context.training || p == 0) return x;
  return dropout(x, p, context.next_key(), context.row);
}

Linear::Linear(int64_t in, int64_t out, Initializer kernel_init)
    : kernel({in, out}, std::move(kernel_init)), bias({out}, init::zeros()) {}

namespace {
/// A parameter as a product with x takes it.
Variable as_factor(const Variable& parameter, const Variable& x) {
  return x.dtype() == DType::bf16 ? to(parameter, DType::bf16) : parameter;
}
}  // namespace

Variable Linear::operator()(const Variable& x) const {
  return linear(x, as_factor(kernel, x), as_factor(bias, x));
}

Conv2d::Conv2d(int64_t in, int64_t out, int stride_, Initializer kernel_init)
    : kernel({3, 3, in, out}, std::move(kernel_init)), bias({out}, init::zeros()), stride(stride_) {
  require(stride == 1 || stride == 2, "Conv2d", "expected stride 1 or 2, got {}", stride);
}

Variable Conv2d::operator()(const Variable& x, const Variable& residual) const {
  const Variable k = as_factor(kernel, x), b = as_factor(bias, x);
  if (stride == 1)
    return conv2d(x, k, b, {.pad_top = 1, .pad_bottom = 1, .pad_left = 1, .pad_right = 1}, residual);
  require(x.rank() == 4 && x.size(1) % 2 == 0 && x.size(2) % 2 == 0, "Conv2d",
          "expected images [B, H, W, C] of even height and width for stride 2, got {}", str(x.shape()));
  return conv2d(x, k, b, {.stride_h = 2, .stride_w = 2, .pad_bottom = 1, .pad_right = 1}, residual);
}

GroupNorm::GroupNorm(int64_t channels, int64_t groups_, double eps_)
    : scale({channels}, init::ones()),
      bias({channels}, init::zeros()),
      groups(static_cast<int>(groups_)),
      eps(eps_) {
  require(groups_ > 0 && channels % groups_ == 0, "GroupNorm", "{} groups do not divide {} channels", groups_,
          channels);
}

Variable GroupNorm::operator()(const Variable& x, Activation activation) const {
  return group_norm(x, scale, bias, groups, eps, activation);
}

Variable GroupNorm::operator()(const Variable& x, const Variable& film_scale, const Variable& film_shift,
                               Activation activation) const {
  const Variable modulation = 1 + film_scale;
  return group_norm(x, scale * modulation, bias * modulation + film_shift, groups, eps, activation);
}

LayerNorm::LayerNorm(int64_t channels, double eps_)
    : scale({channels}, init::ones()), bias({channels}, init::zeros()), eps(eps_) {}

Variable LayerNorm::operator()(const Variable& x) const { return layer_norm(x, scale, bias, eps); }

InstanceNorm::InstanceNorm(int64_t channels, double eps_)
    : scale({channels}, init::ones()), bias({channels}, init::zeros()), eps(eps_) {}

Variable InstanceNorm::operator()(const Variable& x) const { return instance_norm(x, scale, bias, eps); }

SelfAttention::SelfAttention(int64_t channels, int64_t heads_, int64_t groups, double eps)
    : norm(channels, groups, eps),
      q(channels, channels),
      k(channels, channels),
      v(channels, channels),
      proj_out(channels, channels, init::zeros()),
      heads(heads_) {
  require(heads > 0 && channels % heads == 0, "SelfAttention", "{} heads do not divide {} channels", heads,
          channels);
}

Variable SelfAttention::operator()(const Variable& x) const {
  require(x.rank() == 4, "SelfAttention", "expected images [B, H, W, C], got {}", str(x.shape()));
  const int64_t batch = x.size(0), pixels = x.size(1) * x.size(2), channels = x.size(3);
  const Shape per_head = {batch, pixels, heads, channels / heads};
  const Variable h = reshape(norm(x), {batch, pixels, channels});
  const Variable mixed = attention(reshape(q(h), per_head), reshape(k(h), per_head), reshape(v(h), per_head));
  return x + reshape(proj_out(reshape(mixed, {batch, pixels, channels})), x.shape());
}

}  // namespace halfstep
