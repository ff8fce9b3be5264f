// Softmax, group norm and attention: fused kernels with fused gradients. A fused gradient cannot be
// differentiated, so when a graph of the gradient is wanted the rule goes through the operation's composed
// definition instead. That definition is also the specification and the test oracle of the kernel.
#include <cmath>
#include <functional>

#include "autograd/composed.h"
#include "autograd/functional.h"
#include "autograd/ops.h"
#include "tensor/error.h"

namespace halfstep {

namespace composed {

Variable group_norm(const Variable& x, const Variable& gain, const Variable& bias, int groups, double eps,
                    Activation activation) {
  const int64_t batch = x.size(0), channels = x.size(-1);
  const int64_t pixels = x.numel() / (batch * channels);
  // In gain's dtype, which is finer where x is bf16.
  const Variable grouped = reshape(to(x, gain.dtype()), {batch, pixels, groups, channels / groups});
  const Variable centred = subtract(grouped, mean(grouped, {1, 3}, true));
  const Variable variance = mean(square(centred), {1, 3}, true);
  const Variable h = reshape(divide(centred, sqrt(variance + eps)), {batch, pixels, channels});
  const auto per_channel = [&](const Variable& v) {
    return reshape(v, {v.rank() == 1 ? 1 : v.size(0), 1, channels});
  };
  const Variable u = reshape(add(multiply(h, per_channel(gain)), per_channel(bias)), x.shape());
  return to(activation == Activation::silu ? silu(u) : u, x.dtype());
}

Variable softmax(const Variable& x) {
  // Subtracting a constant changes nothing, so the maximum needs no gradient.
  const Variable e = exp(subtract(x, Variable(max(x.value(), {-1}, true))));
  return divide(e, sum(e, {-1}, true));
}

Variable attention(const Variable& q, const Variable& k, const Variable& v, double scale) {
  const auto heads_first = [](const Variable& t) { return permute(t, {0, 2, 1, 3}); };
  const Variable scores = scale * matmul(heads_first(q), transpose(heads_first(k), -1, -2));
  return permute(matmul(composed::softmax(scores), heads_first(v)), {0, 2, 1, 3});
}

}  // namespace composed

namespace {
using In = std::vector<Variable>;

/// Differentiable gradients of `definition` at `inputs`, each taken by itself: one may be computed from
/// another, or be the same Variable, and the engine adds up.
std::vector<Variable> composed_gradients(const DifferentiableFunction& definition, const In& inputs,
                                         const Variable& upstream) {
  return vjp(definition, inputs, upstream, /*create_graph=*/true).gradients;
}
}  // namespace

Variable softmax(const Variable& x, int axis) {
  const int a = normalize_axis(axis, x.rank(), "softmax");
  if (a != x.rank() - 1) return transpose(softmax(transpose(x, a, -1)), a, -1);
  const Tensor y = softmax(x.value());
  return record(
      "softmax", y, {x}, [x = Saved(x), y = SavedTensor(y)](const Variable& g) -> std::vector<Variable> {
        if (is_recording())
          return composed_gradients([](const In& in) { return composed::softmax(in[0]); }, {x.get()}, g);
        return {Variable(softmax_backward(g.value(), y.get()))};
      });
}

Variable log_softmax(const Variable& x, int axis) {
  require(x.numel() > 0, "log_softmax", "expected at least one element, got shape {}", str(x.shape()));
  // Shifted first (a constant changes nothing): x - logsumexp(x) would round at the size of x.
  const Variable shifted = subtract(x, Variable(max(x.value(), {axis}, true)));
  return subtract(shifted, logsumexp(shifted, {axis}, true));
}

Variable cross_entropy(const Variable& logits, const Tensor& labels, Reduction reduction) {
  require(logits.rank() >= 1 && labels.defined(), "cross_entropy",
          "expected logits [..., classes] and labels, got {} and {}", str(logits.shape()),
          labels.defined() ? str(labels.shape()) : "an undefined tensor");
  Shape expected = logits.shape();
  expected.erase(expected.rank() - 1);
  require(labels.shape() == expected, "cross_entropy", "expected labels of shape {} for logits {}, got {}",
          str(expected), str(logits.shape()), str(labels.shape()));
  const Variable chosen = gather(log_softmax(logits), -1, labels.unsqueeze(-1));
  const Variable losses = -reshape(chosen, expected);
  switch (reduction) {
    case Reduction::mean:
      return mean(losses);
    case Reduction::sum:
      return sum(losses);
    case Reduction::none:
      break;
  }
  return losses;
}

Variable group_norm(const Variable& x, const Variable& gain, const Variable& bias, int groups, double eps,
                    Activation activation) {
  const GroupNormResult forward = group_norm(x.value(), gain.value(), bias.value(), groups, eps, activation);
  const GroupNormResult statistics{{}, forward.mean, forward.rstd};
  return record(
      "group_norm", forward.y, {x, gain, bias},
      [=, x = Saved(x), gain = Saved(gain), bias = Saved(bias)](const Variable& g) -> std::vector<Variable> {
        if (is_recording())
          return composed_gradients(
              [&](const In& in) {
                return composed::group_norm(in[0], in[1], in[2], groups, eps, activation);
              },
              {x.get(), gain.get(), bias.get()}, g);
        const GroupNormGradients d = group_norm_backward(g.value(), x.tensor(), gain.tensor(), bias.tensor(),
                                                         statistics, groups, eps, activation);
        return {Variable(d.dx), Variable(d.dgain), Variable(d.dbias)};
      });
}

namespace {
/// A gain or bias, or a constant that goes with x and the other of the two.
Variable or_constant(const Variable& given, double value, const Variable& x, const Variable& other) {
  if (given.defined()) return given;
  const DType dtype = other.defined() ? other.dtype() : statistics_dtype(x.dtype());
  return Variable(Tensor::full({x.size(-1)}, value, {dtype, &x.value().device()}));
}
}  // namespace

Variable layer_norm(const Variable& x, const Variable& gain, const Variable& bias, double eps) {
  require(x.rank() >= 1, "layer_norm", "expected x [..., C], got a scalar");
  const int64_t channels = x.size(-1);
  for (const Variable* v : {&gain, &bias})
    if (v->defined())
      require(v->shape() == Shape{channels}, "layer_norm",
              "expected gain and bias of shape ({},) or none, got {}", channels, str(v->shape()));
  const int64_t rows = channels ? x.numel() / channels : 0;
  const Variable y = group_norm(reshape(x, {rows, 1, channels}), or_constant(gain, 1, x, bias),
                                or_constant(bias, 0, x, gain), 1, eps);
  return reshape(y, x.shape());
}

Variable instance_norm(const Variable& x, const Variable& gain, const Variable& bias, double eps) {
  require(x.rank() >= 3 && x.size(-1) > 0, "instance_norm",
          "expected x [B, ..., C] with axes of pixels between and at least one channel, got {}",
          str(x.shape()));
  return group_norm(x, or_constant(gain, 1, x, bias), or_constant(bias, 0, x, gain),
                    static_cast<int>(x.size(-1)), eps);
}

Variable attention(const Variable& q, const Variable& k, const Variable& v, double requested_scale) {
  const double scale =
      requested_scale != 0 ? requested_scale : 1 / std::sqrt(static_cast<double>(q.rank() ? q.size(-1) : 1));
  const AttentionResult forward = attention(q.value(), k.value(), v.value(), scale);
  return record("attention", forward.out, {q, k, v},
                [scale, q = Saved(q), k = Saved(k), v = Saved(v), out = SavedTensor(forward.out),
                 log_sum_exp = forward.log_sum_exp](const Variable& g) -> std::vector<Variable> {
                  if (is_recording())
                    return composed_gradients(
                        [&](const In& in) { return composed::attention(in[0], in[1], in[2], scale); },
                        {q.get(), k.get(), v.get()}, g);
                  const AttentionGradients d = attention_backward(
                      g.value(), q.tensor(), k.tensor(), v.tensor(), {out.get(), log_sum_exp}, scale);
                  return {Variable(d.dq), Variable(d.dk), Variable(d.dv)};
                });
}

}  // namespace halfstep
