// Elementwise functions of one and two arguments.
#include "tensor/error.h"
#include "tensor/ops.h"
#include "tensor/ops/check.h"

namespace halfstep {

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
    case UnaryOp::abs:
      return "abs";
    case UnaryOp::leaky_relu:
      return "leaky_relu";
    case UnaryOp::erf:
      return "erf";
    case UnaryOp::gelu:
      return "gelu";
    case UnaryOp::gelu_tanh:
      return "gelu_tanh";
    case UnaryOp::softplus:
      return "softplus";
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

namespace {
void require_derivative(const UnaryArgs& op) {
  require(op.derivative >= 0 && op.derivative <= kMaxDerivative, name_of(op.op),
          "expected a derivative of order 0 to {}, got {}", kMaxDerivative, op.derivative);
}
}  // namespace

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

Tensor where(const Tensor& condition, const Tensor& a, const Tensor& b) {
  require_alike({&a, &b, &condition}, "where");
  const Shape shape =
      broadcast_shapes(broadcast_shapes(a.shape(), b.shape(), "where"), condition.shape(), "where");
  Tensor out = Tensor::empty(shape, a.options());
  backend_of(a).where(out.array(), condition.expand(shape).array(), a.expand(shape).array(),
                      b.expand(shape).array());
  return out;
}

}  // namespace halfstep
