#include <optional>

#include "autograd/ops.h"
#include "tensor/error.h"

namespace halfstep {

// --- functions of one argument -----------------------------------------------------------------------------
// The formula's derivatives of every order come from tensor/formulas.h, so one rule serves them all:
// d/dx f^(n)(x) = f^(n+1)(x), and the chain-rule product is itself an operation with that rule.

namespace {

UnaryArgs next_derivative(UnaryArgs op) {
  ++op.derivative;
  return op;
}

Variable unary_chain(UnaryArgs op, const Variable& upstream, const Variable& x) {
  return record(name_of(op.op), unary_chain(op, upstream.value(), x.value()), {upstream, x},
                [op, upstream = Saved(upstream), x = Saved(x)](const Variable& g) -> std::vector<Variable> {
                  return {unary_chain(op, g, x.get()),
                          unary_chain(next_derivative(op), multiply(g, upstream.get()), x.get())};
                });
}

Variable unary(UnaryArgs op, const Variable& x) {
  return record(name_of(op.op), unary(op, x.value()), {x},
                [op, x = Saved(x)](const Variable& g) -> std::vector<Variable> {
                  return {unary_chain(next_derivative(op), g, x.get())};
                });
}

}  // namespace

Variable affine(const Variable& x, double scale, double shift) {
  return record("affine", affine(x.value(), scale, shift), {x},
                [scale](const Variable& g) -> std::vector<Variable> { return {affine(g, scale, 0)}; });
}

Variable exp(const Variable& x) { return unary({.op = UnaryOp::exp}, x); }
Variable log(const Variable& x) { return unary({.op = UnaryOp::log}, x); }
Variable sqrt(const Variable& x) { return unary({.op = UnaryOp::sqrt}, x); }
Variable sin(const Variable& x) { return unary({.op = UnaryOp::sin}, x); }
Variable cos(const Variable& x) { return unary({.op = UnaryOp::cos}, x); }
Variable tanh(const Variable& x) { return unary({.op = UnaryOp::tanh}, x); }
Variable sigmoid(const Variable& x) { return unary({.op = UnaryOp::sigmoid}, x); }
Variable silu(const Variable& x) { return unary({.op = UnaryOp::silu}, x); }
Variable relu(const Variable& x) { return unary({.op = UnaryOp::relu}, x); }
Variable leaky_relu(const Variable& x, double slope) {
  return unary({.op = UnaryOp::leaky_relu, .p0 = slope}, x);
}
Variable gelu(const Variable& x) { return unary({.op = UnaryOp::gelu}, x); }
Variable gelu_tanh(const Variable& x) { return unary({.op = UnaryOp::gelu_tanh}, x); }
Variable softplus(const Variable& x) { return unary({.op = UnaryOp::softplus}, x); }
Variable erf(const Variable& x) { return unary({.op = UnaryOp::erf}, x); }
Variable abs(const Variable& x) { return unary({.op = UnaryOp::abs}, x); }
Variable reciprocal(const Variable& x) { return unary({.op = UnaryOp::reciprocal}, x); }
Variable pow(const Variable& x, double exponent) { return unary({.op = UnaryOp::pow, .p0 = exponent}, x); }
Variable square(const Variable& x) { return multiply(x, x); }
Variable clamp(const Variable& x, double low, double high) {
  require(low <= high, "clamp", "expected low <= high, got {} and {}", low, high);
  return unary({.op = UnaryOp::clamp, .p0 = low, .p1 = high}, x);
}

// --- functions of two arguments ----------------------------------------------------------------------------
// An operand is kept only if the other one needs it. The engine sums broadcast gradients back.

Variable add(const Variable& a, const Variable& b) {
  return record("add", add(a.value(), b.value()), {a, b}, [](const Variable& g) -> std::vector<Variable> {
    return {g, g};
  });
}

Variable subtract(const Variable& a, const Variable& b) {
  return record("subtract", subtract(a.value(), b.value()), {a, b},
                [](const Variable& g) -> std::vector<Variable> {
                  return {g, -g};
                });
}

namespace {
/// What a rule keeps of an operand that only some gradient needs.
std::optional<Saved> saved_if(bool needed, const Variable& x) {
  return needed ? std::optional<Saved>(Saved(x)) : std::nullopt;
}
}  // namespace

Variable multiply(const Variable& a, const Variable& b) {
  return record("multiply", multiply(a.value(), b.value()), {a, b},
                [a_kept = saved_if(b.requires_grad(), a),
                 b_kept = saved_if(a.requires_grad(), b)](const Variable& g) -> std::vector<Variable> {
                  return {b_kept ? multiply(g, b_kept->get()) : Variable(),
                          a_kept ? multiply(g, a_kept->get()) : Variable()};
                });
}

Variable divide(const Variable& a, const Variable& b) {
  return record(
      "divide", divide(a.value(), b.value()), {a, b},
      [a_kept = saved_if(b.requires_grad(), a), b = Saved(b)](const Variable& g) -> std::vector<Variable> {
        const Variable da = divide(g, b.get());
        return {da, a_kept ? -divide(multiply(da, a_kept->get()), b.get()) : Variable()};
      });
}

namespace {
/// The larger (or smaller) operand gets the gradient; equal ones share it.
Variable extremum(BinaryOp op, const Variable& a, const Variable& b) {
  return record(name_of(op), binary(op, a.value(), b.value()), {a, b},
                [op, a = Saved(a), b = Saved(b)](const Variable& g) -> std::vector<Variable> {
                  const Tensor &x = a.tensor(), &y = b.tensor();
                  const Tensor a_wins =
                      op == BinaryOp::maximum ? binary(BinaryOp::less, y, x) : binary(BinaryOp::less, x, y);
                  const Variable share_a(add(a_wins, affine(binary(BinaryOp::equal, x, y), 0.5, 0)));
                  return {multiply(g, share_a), multiply(g, 1 - share_a)};
                });
}
}  // namespace

Variable maximum(const Variable& a, const Variable& b) { return extremum(BinaryOp::maximum, a, b); }
Variable minimum(const Variable& a, const Variable& b) { return extremum(BinaryOp::minimum, a, b); }

Variable where(const Tensor& condition, const Variable& a, const Variable& b) {
  return record("where", where(condition, a.value(), b.value()), {a, b},
                [condition = SavedTensor(condition)](const Variable& g) -> std::vector<Variable> {
                  const Variable zero(Tensor::scalar(0, g.options()));
                  return {where(condition.get(), g, zero), where(condition.get(), zero, g)};
                });
}

Variable dropout(const Variable& x, double p, RandomKey key, const Tensor& row) {
  // The mask is not kept: the same place in the random sequence gives it again.
  const auto saved = row.defined() ? std::optional<SavedTensor>(row) : std::nullopt;
  return record("dropout", dropout(x.value(), p, key, row), {x},
                [p, key, saved](const Variable& g) -> std::vector<Variable> {
                  return {dropout(g, p, key, saved ? saved->get() : Tensor())};
                });
}

}  // namespace halfstep
