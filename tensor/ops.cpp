#include "tensor/ops.h"

#include <algorithm>
#include <cmath>

#include "tensor/error.h"

namespace halfstep {
namespace {

void require_floating(const Tensor& x, std::string_view where) {
  require(x.defined(), where, "expected a tensor, got an undefined one (default-constructed)");
  require(is_floating(x.dtype()), where, "expected f32 or f64, got {}; convert with to(dtype)",
          name_of(x.dtype()));
}

/// Every operand floating, of one dtype and on one device.
void require_alike(std::initializer_list<const Tensor*> tensors, std::string_view where) {
  const Tensor& first = **tensors.begin();
  for (const Tensor* t : tensors) {
    require_floating(*t, where);
    require(t->dtype() == first.dtype(), where, "dtypes differ: {} and {}; convert one with to(dtype)",
            name_of(first.dtype()), name_of(t->dtype()));
    require(&t->device() == &first.device(), where, "devices differ: '{}' and '{}'; move one with to(device)",
            first.device().name(), t->device().name());
  }
}

void require_rank(const Tensor& x, int rank, std::string_view where, std::string_view what) {
  require(x.rank() == rank, where, "expected {} with {} axes, got {}", what, rank, str(x.shape()));
}

void require_derivative(const UnaryArgs& op) {
  require(op.derivative >= 0 && op.derivative <= kMaxDerivative, name_of(op.op),
          "expected a derivative of order 0 to {}, got {}", kMaxDerivative, op.derivative);
}

const Backend& backend_of(const Tensor& x) { return x.device().backend; }

}  // namespace

// --- elementwise -------------------------------------------------------------------------------------------

std::string_view name_of(UnaryOp op) {
  switch (op) {
    case UnaryOp::affine:
      return "affine";
    case UnaryOp::exp:
      return "exp";
    case UnaryOp::log:
      return "log";
    case UnaryOp::sqrt:
      return "sqrt";
    case UnaryOp::sin:
      return "sin";
    case UnaryOp::cos:
      return "cos";
    case UnaryOp::tanh:
      return "tanh";
    case UnaryOp::sigmoid:
      return "sigmoid";
    case UnaryOp::silu:
      return "silu";
    case UnaryOp::relu:
      return "relu";
    case UnaryOp::reciprocal:
      return "reciprocal";
    case UnaryOp::pow:
      return "pow";
    case UnaryOp::clamp:
      return "clamp";
  }
  return "unary";
}

std::string_view name_of(BinaryOp op) {
  switch (op) {
    case BinaryOp::add:
      return "add";
    case BinaryOp::subtract:
      return "subtract";
    case BinaryOp::multiply:
      return "multiply";
    case BinaryOp::divide:
      return "divide";
    case BinaryOp::maximum:
      return "maximum";
    case BinaryOp::minimum:
      return "minimum";
    case BinaryOp::less:
      return "less";
    case BinaryOp::equal:
      return "equal";
    case BinaryOp::lerp:
      return "lerp";
  }
  return "binary";
}
Tensor unary(UnaryArgs op, const Tensor& x) {
  require_floating(x, name_of(op.op));
  require_derivative(op);
  Tensor out = Tensor::empty(x.shape(), x.options());
  backend_of(x).unary(op, out.array(), x.array());
  return out;
}

Tensor unary_chain(UnaryArgs op, const Tensor& upstream, const Tensor& x) {
  require_alike({&upstream, &x}, name_of(op.op));
  require(upstream.shape() == x.shape(), name_of(op.op), "shapes differ: gradient {} and input {}",
          str(upstream.shape()), str(x.shape()));
  require_derivative(op);
  Tensor out = Tensor::empty(x.shape(), x.options());
  backend_of(x).unary_chain(op, out.array(), upstream.array(), x.array());
  return out;
}

Tensor binary(BinaryOp op, const Tensor& a, const Tensor& b, double p0) {
  require_alike({&a, &b}, name_of(op));
  const Shape shape = broadcast_shapes(a.shape(), b.shape(), name_of(op));
  Tensor out = Tensor::empty(shape, a.options());
  backend_of(a).binary(op, p0, out.array(), a.expand(shape).array(), b.expand(shape).array());
  return out;
}

void binary_(BinaryOp op, const Tensor& a, const Tensor& b, double p0) {
  require_alike({&a, &b}, name_of(op));
  backend_of(a).binary(op, p0, a.array(), a.array(), b.expand(a.shape()).array());
  a.bump_version();
}

Tensor affine(const Tensor& x, double scale, double shift) {
  return unary({.op = UnaryOp::affine, .p0 = scale, .p1 = shift}, x);
}
Tensor clamp(const Tensor& x, double low, double high) {
  return unary({.op = UnaryOp::clamp, .p0 = low, .p1 = high}, x);
}
Tensor sqrt(const Tensor& x) { return unary({.op = UnaryOp::sqrt}, x); }

// --- reductions --------------------------------------------------------------------------------------------

namespace {
Tensor reduce(ReduceOp op, const Tensor& x, const std::vector<int>& axes, bool keep_dims,
              std::string_view where) {
  require_floating(x, where);
  Shape kept = x.shape();
  std::vector<bool> reduced(static_cast<size_t>(x.rank()), axes.empty());
  for (int axis : axes) reduced[static_cast<size_t>(normalize_axis(axis, x.rank(), where))] = true;
  for (int i = 0; i < x.rank(); ++i)
    if (reduced[static_cast<size_t>(i)]) kept[i] = 1;
  Tensor out = Tensor::empty(kept, x.options());
  backend_of(x).reduce(op, out.array(), x.array());
  if (keep_dims) return out;
  Shape shape;
  for (int i = 0; i < x.rank(); ++i)
    if (!reduced[static_cast<size_t>(i)]) shape.push_back(kept[i]);
  return out.reshape(shape);
}
}  // namespace

Tensor sum(const Tensor& x, const std::vector<int>& axes, bool keep_dims) {
  return reduce(ReduceOp::sum, x, axes, keep_dims, "sum");
}

Tensor mean(const Tensor& x, const std::vector<int>& axes, bool keep_dims) {
  const Tensor total = reduce(ReduceOp::sum, x, axes, keep_dims, "mean");
  require(x.numel() > 0, "mean", "expected at least one element, got shape {}", str(x.shape()));
  return affine(total, static_cast<double>(total.numel()) / static_cast<double>(x.numel()), 0);
}

Tensor max(const Tensor& x, const std::vector<int>& axes, bool keep_dims) {
  require(x.numel() > 0, "max", "expected at least one element, got shape {}", str(x.shape()));
  return reduce(ReduceOp::max, x, axes, keep_dims, "max");
}

Tensor sum_to(const Tensor& x, const Shape& shape) {
  if (x.shape() == shape) return x;
  require(broadcasts_to(shape, x.shape()), "sum_to", "{} was not broadcast from {}", str(x.shape()),
          str(shape));
  Shape kept = Dims::filled(x.rank(), 1);
  for (int i = 1; i <= shape.rank(); ++i) kept[x.rank() - i] = shape[shape.rank() - i];
  Tensor out = Tensor::empty(kept, x.options());
  backend_of(x).reduce(ReduceOp::sum, out.array(), x.array());
  return out.reshape(shape);
}

Tensor sum_of_squares(const std::vector<Tensor>& tensors) {
  require(!tensors.empty(), "sum_of_squares", "expected at least one tensor, got none");
  const TensorOptions f64{DType::f64, &tensors[0].device()};
  Tensor total = Tensor::zeros({}, f64);
  for (const Tensor& t : tensors) {
    require(&t.device() == f64.device, "sum_of_squares", "devices differ: '{}' and '{}'", f64.device->name(),
            t.device().name());
    const Tensor square = multiply(t, t);
    Tensor part = Tensor::empty(Dims::filled(t.rank(), 1), f64);
    backend_of(t).reduce(ReduceOp::sum, part.array(), square.array());
    binary_(BinaryOp::add, total, part.reshape({}));
  }
  return total;
}

// --- linear algebra ----------------------------------------------------------------------------------------

Tensor matmul(const Tensor& a, const Tensor& b, const Tensor& bias) {
  require_alike({&a, &b}, "matmul");
  require(a.rank() >= 2 && b.rank() >= 2, "matmul",
          "expected matrices, got {} x {}; add an axis with unsqueeze", str(a.shape()), str(b.shape()));
  const int64_t m = a.size(-2), k = a.size(-1), n = b.size(-1);
  require(b.size(-2) == k, "matmul", "inner sizes differ: {} x {}; is one operand to be transposed?",
          str(a.shape()), str(b.shape()));
  Shape lead_a = a.shape(), lead_b = b.shape();
  for (Shape* s : {&lead_a, &lead_b}) {
    s->erase(s->rank() - 1);
    s->erase(s->rank() - 1);
  }
  Shape lead = broadcast_shapes(lead_a, lead_b, "matmul");
  const auto with_tail = [&](int64_t rows, int64_t cols) {
    Shape s = lead;
    s.push_back(rows);
    s.push_back(cols);
    return s;
  };
  Tensor c = Tensor::empty(with_tail(m, n), a.options());
  GemmArgs args{.a = a.expand(with_tail(m, k)).array(),
                .b = b.expand(with_tail(k, n)).array(),
                .c = c.array(),
                .bias = {}};
  if (bias.defined()) {
    require_alike({&a, &bias}, "matmul");
    require(bias.shape() == Shape{n}, "matmul", "expected a bias of shape ({},), got {}", n,
            str(bias.shape()));
    args.bias = bias.array();
  }
  backend_of(a).gemm(args);
  return c;
}

namespace {
struct ConvSizes {
  int64_t out_height, out_width;
};

ConvSizes conv_sizes(int64_t height, int64_t width, int64_t kernel_height, int64_t kernel_width,
                     const Conv2dGeometry& g, std::string_view where) {
  require(g.stride_h > 0 && g.stride_w > 0, where, "strides must be positive, got {} x {}", g.stride_h,
          g.stride_w);
  require(g.pad_top >= 0 && g.pad_bottom >= 0 && g.pad_left >= 0 && g.pad_right >= 0, where,
          "padding must not be negative, got {} and {} rows, {} and {} columns", g.pad_top, g.pad_bottom,
          g.pad_left, g.pad_right);
  const int64_t h = height + g.pad_top + g.pad_bottom - kernel_height;
  const int64_t w = width + g.pad_left + g.pad_right - kernel_width;
  require(h >= 0 && w >= 0, where, "the kernel {} x {} is larger than the padded image {} x {}",
          kernel_height, kernel_width, height + g.pad_top + g.pad_bottom, width + g.pad_left + g.pad_right);
  return {h / g.stride_h + 1, w / g.stride_w + 1};
}
}  // namespace

Tensor conv2d(const Tensor& x, const Tensor& kernel, const Tensor& bias, const Conv2dGeometry& geometry) {
  require_alike({&x, &kernel}, "conv2d");
  require_rank(x, 4, "conv2d", "an image batch [B, H, W, C]");
  require_rank(kernel, 4, "conv2d", "a kernel [KH, KW, C, O]");
  require(x.size(3) == kernel.size(2), "conv2d", "channels differ: image {} and kernel {} (HWIO)",
          str(x.shape()), str(kernel.shape()));
  const ConvSizes s = conv_sizes(x.size(1), x.size(2), kernel.size(0), kernel.size(1), geometry, "conv2d");
  const Tensor xc = x.contiguous(), kc = kernel.contiguous();
  Tensor y = Tensor::empty({x.size(0), s.out_height, s.out_width, kernel.size(3)}, x.options());
  Conv2dArgs args{.x = xc.array(), .kernel = kc.array(), .bias = {}, .y = y.array(), .geometry = geometry};
  if (bias.defined()) {
    require_alike({&x, &bias}, "conv2d");
    require(bias.shape() == Shape{kernel.size(3)}, "conv2d", "expected a bias of shape ({},), got {}",
            kernel.size(3), str(bias.shape()));
    args.bias = bias.array();
  }
  backend_of(x).conv2d_forward(args);
  return y;
}

Tensor conv2d_backward_data(const Tensor& dy, const Tensor& kernel, int64_t height, int64_t width,
                            const Conv2dGeometry& geometry) {
  require_alike({&dy, &kernel}, "conv2d_backward_data");
  require_rank(dy, 4, "conv2d_backward_data", "a gradient [B, OH, OW, O]");
  require_rank(kernel, 4, "conv2d_backward_data", "a kernel [KH, KW, C, O]");
  const ConvSizes s =
      conv_sizes(height, width, kernel.size(0), kernel.size(1), geometry, "conv2d_backward_data");
  require(dy.shape() == Shape({dy.size(0), s.out_height, s.out_width, kernel.size(3)}),
          "conv2d_backward_data", "expected a gradient ({}, {}, {}, {}), got {}", dy.size(0), s.out_height,
          s.out_width, kernel.size(3), str(dy.shape()));
  const Tensor dyc = dy.contiguous(), kc = kernel.contiguous();
  Tensor dx = Tensor::empty({dy.size(0), height, width, kernel.size(2)}, dy.options());
  backend_of(dy).conv2d_backward_data(
      {.x = dx.array(), .kernel = kc.array(), .bias = {}, .y = dyc.array(), .geometry = geometry});
  return dx;
}

Tensor conv2d_backward_kernel(const Tensor& x, const Tensor& dy, int64_t kernel_height, int64_t kernel_width,
                              const Conv2dGeometry& geometry) {
  require_alike({&x, &dy}, "conv2d_backward_kernel");
  require_rank(x, 4, "conv2d_backward_kernel", "an image batch [B, H, W, C]");
  require_rank(dy, 4, "conv2d_backward_kernel", "a gradient [B, OH, OW, O]");
  const ConvSizes s =
      conv_sizes(x.size(1), x.size(2), kernel_height, kernel_width, geometry, "conv2d_backward_kernel");
  require(dy.shape() == Shape({x.size(0), s.out_height, s.out_width, dy.size(3)}), "conv2d_backward_kernel",
          "expected a gradient ({}, {}, {}, {}), got {}", x.size(0), s.out_height, s.out_width, dy.size(3),
          str(dy.shape()));
  const Tensor xc = x.contiguous(), dyc = dy.contiguous();
  Tensor dk = Tensor::empty({kernel_height, kernel_width, x.size(3), dy.size(3)}, x.options());
  backend_of(x).conv2d_backward_kernel(
      {.x = xc.array(), .kernel = dk.array(), .bias = {}, .y = dyc.array(), .geometry = geometry});
  return dk;
}

// --- layout ------------------------------------------------------------------------------------------------

Tensor concat(const std::vector<Tensor>& parts, int axis) {
  require(!parts.empty(), "concat", "expected at least one tensor, got none");
  require(parts[0].defined(), "concat", "expected tensors, got an undefined one");
  const int a = normalize_axis(axis, parts[0].rank(), "concat");
  Shape shape = parts[0].shape();
  shape[a] = 0;
  for (const Tensor& p : parts) {
    require(p.defined(), "concat", "expected tensors, got an undefined one");
    require(p.dtype() == parts[0].dtype() && &p.device() == &parts[0].device(), "concat",
            "parts differ: {} on '{}' and {} on '{}'; convert or move one with to()",
            name_of(parts[0].dtype()), parts[0].device().name(), name_of(p.dtype()), p.device().name());
    Shape expected = p.shape();
    if (a < p.rank()) expected[a] = parts[0].shape()[a];
    require(expected == parts[0].shape(), "concat", "parts differ outside axis {}: {} and {}", axis,
            str(parts[0].shape()), str(p.shape()));
    shape[a] += p.shape()[a];
  }
  Tensor out = Tensor::empty(shape, parts[0].options());
  int64_t begin = 0;
  for (const Tensor& p : parts) {
    out.slice(a, begin, begin + p.shape()[a]).copy_(p);
    begin += p.shape()[a];
  }
  return out;
}

// --- normalisation and attention ---------------------------------------------------------------------------

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
    require_alike({&x_in, &gain_in, &bias_in}, "group_norm");
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
  GroupNormResult result{Tensor::empty(x.shape(), x.options()),
                         Tensor::empty({x.size(0), groups}, x.options()),
                         Tensor::empty({x.size(0), groups}, x.options())};
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
  GroupNormCall call(x, gain, bias, groups, eps, activation);
  call.args.mean = forward.mean.array();
  call.args.rstd = forward.rstd.array();
  const Tensor dyc = dy.contiguous();
  GroupNormGradients result{Tensor::empty(x.shape(), x.options()),
                            Tensor::empty({x.size(0), x.size(-1)}, x.options()),
                            Tensor::empty({x.size(0), x.size(-1)}, x.options())};
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
  AttentionResult result{Tensor::empty(q.shape(), q.options()),
                         Tensor::empty({q.size(0), q.size(2), q.size(1)}, q.options())};
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

// --- random ------------------------------------------------------------------------------------------------

namespace {
Tensor random(RandomKind kind, const Shape& shape, RandomKey key, uint64_t first_row, TensorOptions options) {
  Tensor out = Tensor::empty(shape, options);
  require_floating(out, "random");
  const int64_t rows = shape.rank() ? shape[0] : 1;
  require(first_row + static_cast<uint64_t>(rows) <= uint64_t{1} << 32, "random",
          "rows must stay below 2^32, got {} + {}", first_row, rows);
  if (out.numel() == 0) return out;
  backend_of(out).random({.kind = kind,
                          .out = out.reshape({rows, out.numel() / rows}).array(),
                          .seed = key.seed,
                          .stream = key.stream,
                          .first_row = first_row});
  return out;
}
}  // namespace

Tensor random_normal(const Shape& shape, RandomKey key, uint64_t first_row, TensorOptions options) {
  return random(RandomKind::normal, shape, key, first_row, options);
}

Tensor random_uniform(const Shape& shape, RandomKey key, uint64_t first_row, TensorOptions options) {
  return random(RandomKind::uniform, shape, key, first_row, options);
}

Tensor dropout(const Tensor& x, double p, RandomKey key) {
  require_floating(x, "dropout");
  require(p >= 0 && p < 1, "dropout", "expected a probability in [0, 1), got {}", p);
  const Tensor xc = x.contiguous();
  Tensor y = Tensor::empty(x.shape(), x.options());
  backend_of(x).dropout({.x = xc.array(), .y = y.array(), .p = p, .seed = key.seed, .stream = key.stream});
  return y;
}

}  // namespace halfstep
