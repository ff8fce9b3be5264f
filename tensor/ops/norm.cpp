// Softmax and group norm.
#include <algorithm>
#include <cmath>

#include "tensor/error.h"
#include "tensor/ops.h"
#include "tensor/ops/check.h"

namespace halfstep {

Tensor softmax(const Tensor& x) {
  require_floating(x, "softmax");
  require(x.rank() >= 1, "softmax", "expected at least one axis, got a scalar");
  const Tensor xc = x.contiguous();
  Tensor y = Tensor::empty(x.shape(), x.options());
  backend_of(x).softmax(y.array(), xc.array());
  return y;
}

Tensor softmax_backward(const Tensor& dy, const Tensor& y) {
  require_alike({&dy, &y}, "softmax_backward");
  require(dy.shape() == y.shape(), "softmax_backward", "shapes differ: {} and {}", str(dy.shape()),
          str(y.shape()));
  const Tensor dyc = dy.contiguous(), yc = y.contiguous();
  Tensor dx = Tensor::empty(y.shape(), y.options());
  backend_of(y).softmax_backward(dx.array(), dyc.array(), yc.array());
  return dx;
}

namespace {
/// The arguments of group norm in the backend's layout; keeps the contiguous copies alive.
struct GroupNormCall {
  Tensor x, gain, bias;
  GroupNormArgs args;

  GroupNormCall(const Tensor& x_in, const Tensor& gain_in, const Tensor& bias_in, int groups, double eps,
                Activation activation) {
    require_alike({&gain_in, &bias_in}, "group_norm");
    // Factors per channel may be finer than bf16 pixels.
    const bool finer = x_in.defined() && x_in.dtype() == DType::bf16 && gain_in.dtype() == DType::f32;
    require_alike({&x_in, finer ? &x_in : &gain_in}, "group_norm");
    require(&gain_in.device() == &x_in.device(), "group_norm",
            "devices differ: '{}' and '{}'; move one with to(device)", x_in.device().name(),
            gain_in.device().name());
    require(x_in.rank() >= 2, "group_norm", "expected [B, ..., C], got {}", str(x_in.shape()));
    const int64_t batch = x_in.size(0), channels = x_in.size(-1);
    require(groups > 0 && channels % groups == 0, "group_norm", "{} channels do not divide into {} groups",
            channels, groups);
    const auto rows = [&](const Tensor& t, std::string_view what) {
      const bool fits = (t.rank() == 1 || (t.rank() == 2 && (t.size(0) == 1 || t.size(0) == batch))) &&
                        t.size(-1) == channels;
      require(fits, "group_norm", "expected {} of shape ({},), (1, {}) or ({}, {}), got {}", what, channels,
              channels, batch, channels, str(t.shape()));
      return t.reshape({t.rank() == 1 ? 1 : t.size(0), channels}).contiguous();
    };
    x = x_in.contiguous().reshape(
        {batch, channels ? x_in.numel() / std::max<int64_t>(batch * channels, 1) : 0, channels});
    gain = rows(gain_in, "gain");
    bias = rows(bias_in, "bias");
    args = {.x = x.array(),
            .gain = gain.array(),
            .bias = bias.array(),
            .y = {},
            .mean = {},
            .rstd = {},
            .groups = groups,
            .eps = eps,
            .activation = activation};
  }
};
}  // namespace

GroupNormResult group_norm(const Tensor& x, const Tensor& gain, const Tensor& bias, int groups, double eps,
                           Activation activation) {
  GroupNormCall call(x, gain, bias, groups, eps, activation);
  const TensorOptions statistics{statistics_dtype(x.dtype()), &x.device()};
  GroupNormResult result{Tensor::empty(x.shape(), x.options()),
                         Tensor::empty({x.size(0), groups}, statistics),
                         Tensor::empty({x.size(0), groups}, statistics)};
  call.args.y = result.y.array();
  call.args.mean = result.mean.array();
  call.args.rstd = result.rstd.array();
  backend_of(x).group_norm(call.args);
  return result;
}

GroupNormGradients group_norm_backward(const Tensor& dy, const Tensor& x, const Tensor& gain,
                                       const Tensor& bias, const GroupNormResult& forward, int groups,
                                       double eps, Activation activation) {
  require_alike({&dy, &x}, "group_norm_backward");
  require(dy.shape() == x.shape(), "group_norm_backward", "shapes differ: {} and {}", str(dy.shape()),
          str(x.shape()));
  if (dy.numel() ==
      0) {  // kernels that loop over pixels would leave the gradients of gain and bias unwritten
    const Tensor none = Tensor::zeros({x.size(0), x.size(-1)}, gain.options());
    return {Tensor::zeros(x.shape(), x.options()), none, none};
  }
  GroupNormCall call(x, gain, bias, groups, eps, activation);
  call.args.mean = forward.mean.array();
  call.args.rstd = forward.rstd.array();
  const Tensor dyc = dy.contiguous();
  GroupNormGradients result{Tensor::empty(x.shape(), x.options()),
                            Tensor::empty({x.size(0), x.size(-1)}, gain.options()),
                            Tensor::empty({x.size(0), x.size(-1)}, gain.options())};
  backend_of(x).group_norm_backward({.forward = call.args,
                                     .dy = dyc.array(),
                                     .dx = result.dx.array(),
                                     .dgain = result.dgain.array(),
                                     .dbias = result.dbias.array()});
  return result;
}

namespace {
/// The backend wants stride 1 on the last axis.
Tensor unit_last_stride(const Tensor& t) {
  return t.strides().back() == 1 || t.size(-1) <= 1 ? t : t.clone();
}

void require_attention(const Tensor& q, const Tensor& k, const Tensor& v, std::string_view where) {
  require_alike({&q, &k, &v}, where);
  for (const Tensor* t : {&q, &k, &v}) require_rank(*t, 4, where, "[B, L, H, D]");
  require(
      k.shape() == v.shape() && q.size(0) == k.size(0) && q.size(2) == k.size(2) && q.size(3) == k.size(3),
      where, "expected q [B, L, H, D] and k, v [B, S, H, D], got {}, {} and {}", str(q.shape()),
      str(k.shape()), str(v.shape()));
  require(k.size(1) > 0, where, "expected at least one key, got {}", str(k.shape()));
}
}  // namespace

AttentionResult attention(const Tensor& q, const Tensor& k, const Tensor& v, double scale) {
  require_attention(q, k, v, "attention");
  const Tensor qc = unit_last_stride(q), kc = unit_last_stride(k), vc = unit_last_stride(v);
  AttentionResult result{
      Tensor::empty(q.shape(), q.options()),
      Tensor::empty({q.size(0), q.size(2), q.size(1)}, {statistics_dtype(q.dtype()), &q.device()})};
  backend_of(q).attention({.q = qc.array(),
                           .k = kc.array(),
                           .v = vc.array(),
                           .out = result.out.array(),
                           .log_sum_exp = result.log_sum_exp.array(),
                           .scale = scale});
  return result;
}

AttentionGradients attention_backward(const Tensor& d_out, const Tensor& q, const Tensor& k, const Tensor& v,
                                      const AttentionResult& forward, double scale) {
  require_attention(q, k, v, "attention_backward");
  require_alike({&q, &d_out, &forward.out}, "attention_backward");
  require(d_out.shape() == q.shape(), "attention_backward", "shapes differ: {} and {}", str(d_out.shape()),
          str(q.shape()));
  if (d_out.numel() == 0)  // no query: kernels that loop over queries would leave dk and dv unwritten
    return {Tensor::zeros(q.shape(), q.options()), Tensor::zeros(k.shape(), k.options()),
            Tensor::zeros(v.shape(), v.options())};
  const Tensor qc = unit_last_stride(q), kc = unit_last_stride(k), vc = unit_last_stride(v),
               g = d_out.contiguous();
  AttentionGradients result{Tensor::empty(q.shape(), q.options()), Tensor::empty(k.shape(), k.options()),
                            Tensor::empty(v.shape(), v.options())};
  backend_of(q).attention_backward({.forward = {.q = qc.array(),
                                                .k = kc.array(),
                                                .v = vc.array(),
                                                .out = forward.out.array(),
                                                .log_sum_exp = forward.log_sum_exp.array(),
                                                .scale = scale},
                                    .d_out = g.array(),
                                    .dq = result.dq.array(),
                                    .dk = result.dk.array(),
                                    .dv = result.dv.array()});
  return result;
}

}  // namespace halfstep
