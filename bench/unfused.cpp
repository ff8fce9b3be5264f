#include "bench/unfused.h"

#include <cmath>
#include <utility>
#include <vector>

#include "tensor/device.h"

namespace halfstep::bench {
namespace {

const Backend* plain = nullptr;
Allocator* memory = nullptr;  // never destroyed with the process, as those of devices

// --- arrays ------------------------------------------------------------------------------------------------

/// Temporary arrays of one call. The device works in order, so what is released may be handed on at once.
class Scratch {
 public:
  Scratch() = default;
  ~Scratch() {
    for (const auto& [block, bytes] : blocks_) memory->release(block, bytes);
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  Array make(const Shape& shape, DType dtype) {
    const size_t bytes = static_cast<size_t>(numel(shape)) * size_of(dtype);
    blocks_.push_back({memory->allocate(bytes), bytes});
    return {blocks_.back().first, dtype, shape, contiguous_strides(shape)};
  }
  Array like(const Array& a) { return make(a.shape, a.dtype); }

 private:
  std::vector<std::pair<void*, size_t>> blocks_;
};

bool is_empty(const Array& a) { return numel(a.shape) == 0; }

/// A contiguous array in another shape.
Array reshaped(Array a, const Shape& shape) {
  a.shape = shape;
  a.strides = contiguous_strides(shape);
  return a;
}
/// Axes of size 1 widened to `shape`.
Array expanded(Array a, const Shape& shape) {
  for (int axis = 0; axis < shape.rank(); ++axis)
    if (a.shape[axis] == 1 && shape[axis] != 1) a.strides[axis] = 0;
  a.shape = shape;
  return a;
}
/// Two axes exchanged.
Array transposed(Array a, int first, int second) {
  std::swap(a.shape[first], a.shape[second]);
  std::swap(a.strides[first], a.strides[second]);
  return a;
}
/// Element i of a contiguous array, as an array that `shape` is expanded from.
Array element(const Array& a, int64_t i, const Shape& shape) {
  Array one = a;
  one.data = static_cast<char*>(a.data) + i * static_cast<int64_t>(size_of(a.dtype));
  one.shape = shape;
  one.strides = Dims::filled(shape.rank(), 0);
  return one;
}
/// `shape` with size 1 on an axis.
Shape without_axis(Shape shape, int axis) {
  shape[axis] = 1;
  return shape;
}

void affine(const Array& out, const Array& x, double factor, double summand = 0) {
  plain->unary({.op = UnaryOp::affine, .p0 = factor, .p1 = summand}, out, x);
}
void apply(UnaryOp op, const Array& out, const Array& x) { plain->unary({.op = op}, out, x); }
void combine(BinaryOp op, const Array& out, const Array& a, const Array& b) {
  plain->binary(op, 0, out, a, expanded(b, out.shape));
}
void add_bias(const Array& out, Array bias) {
  if (bias.absent() || is_empty(out)) return;
  Strides strides = Dims::filled(out.shape.rank(), 0);
  strides[out.shape.rank() - 1] = bias.strides[0];
  bias.shape = out.shape;
  bias.strides = strides;
  combine(BinaryOp::add, out, out, bias);
}

// --- matrices and elements ---------------------------------------------------------------------------------

void gemm(GemmArgs args) {
  const Array bias = std::exchange(args.bias, {});
  plain->gemm(args);
  add_bias(args.c, bias);
}

void conv2d_forward(Conv2dArgs args) {
  const Array bias = std::exchange(args.bias, {}), residual = std::exchange(args.residual, {});
  plain->conv2d_forward(args);
  add_bias(args.y, bias);
  if (!residual.absent()) combine(BinaryOp::add, args.y, args.y, residual);
}

void unary_chain(UnaryArgs op, Array out, Array upstream, Array x) {
  Scratch scratch;
  const Array slope = scratch.make(out.shape, out.dtype);
  plain->unary(op, slope, x);
  combine(BinaryOp::multiply, out, upstream, slope);
}

void softmax_backward(Array dx, Array dy, Array y) {
  if (is_empty(dx)) return;
  Scratch scratch;
  const int last = dx.shape.rank() - 1;
  const Array product = scratch.like(dx), sum = scratch.make(without_axis(dx.shape, last), dx.dtype);
  combine(BinaryOp::multiply, product, dy, y);
  plain->reduce(ReduceOp::sum, sum, product);
  combine(BinaryOp::subtract, product, dy, sum);
  combine(BinaryOp::multiply, dx, product, y);
}

// --- group norm --------------------------------------------------------------------------------------------

/// [B, P, C] as [B, P, G, C / G], and the statistics of the groups beside it.
struct Groups {
  Shape whole, split, row, statistics;
  double count;  ///< elements of a group

  explicit Groups(const GroupNormArgs& args)
      : whole(args.x.shape),
        split{whole[0], whole[1], args.groups, whole[2] / args.groups},
        row{whole[0], 1, whole[2]},
        statistics{whole[0], 1, args.groups, 1},
        count(static_cast<double>(split[1] * split[3])) {}

  /// [B or 1, C] -> [B or 1, 1, C]
  static Array channels(const Array& a) { return reshaped(a, {a.shape[0], 1, a.shape[1]}); }
};

void group_norm(GroupNormArgs args) {
  if (is_empty(args.x)) return plain->group_norm(args);
  const Groups g(args);
  Scratch scratch;
  const Array x = reshaped(args.x, g.split), mean = reshaped(args.mean, g.statistics),
              rstd = reshaped(args.rstd, g.statistics), normal = scratch.make(g.split, args.x.dtype),
              square = scratch.make(g.split, args.x.dtype);
  plain->reduce(ReduceOp::sum, mean, x);
  affine(mean, mean, 1 / g.count);
  combine(BinaryOp::subtract, normal, x, mean);
  combine(BinaryOp::multiply, square, normal, normal);
  plain->reduce(ReduceOp::sum, rstd, square);
  affine(rstd, rstd, 1 / g.count, args.eps);
  apply(UnaryOp::sqrt, rstd, rstd);
  apply(UnaryOp::reciprocal, rstd, rstd);
  combine(BinaryOp::multiply, normal, normal, rstd);
  combine(BinaryOp::multiply, args.y, reshaped(normal, g.whole), Groups::channels(args.gain));
  combine(BinaryOp::add, args.y, args.y, Groups::channels(args.bias));
  if (args.activation == Activation::silu) apply(UnaryOp::silu, args.y, args.y);
}

void group_norm_backward(GroupNormBackwardArgs args) {
  const GroupNormArgs& forward = args.forward;
  if (is_empty(forward.x)) return plain->group_norm_backward(args);
  const Groups g(forward);
  Scratch scratch;
  const DType dtype = forward.x.dtype;
  const Array gain = Groups::channels(forward.gain), mean = reshaped(forward.mean, g.statistics),
              rstd = reshaped(forward.rstd, g.statistics);
  const Array normal = scratch.make(g.whole, dtype), groups = reshaped(normal, g.split);
  combine(BinaryOp::subtract, groups, reshaped(forward.x, g.split), mean);
  combine(BinaryOp::multiply, groups, groups, rstd);

  const Array product = scratch.make(g.whole, dtype), slope = scratch.make(g.whole, dtype);
  Array dy = args.dy;  // of what the activation is applied to
  if (forward.activation == Activation::silu) {
    combine(BinaryOp::multiply, product, normal, gain);
    combine(BinaryOp::add, product, product, Groups::channels(forward.bias));
    unary_chain({.op = UnaryOp::silu, .derivative = 1}, slope, args.dy, product);
    dy = slope;
  }
  plain->reduce(ReduceOp::sum, reshaped(args.dbias, g.row), dy);
  combine(BinaryOp::multiply, product, dy, normal);
  plain->reduce(ReduceOp::sum, reshaped(args.dgain, g.row), product);

  // dx = rstd * (d - mean(d) - normal * mean(d * normal)) with d = dy * gain, means over the groups.
  const Array d = reshaped(slope, g.split), dx = reshaped(args.dx, g.split),
              split_product = reshaped(product, g.split);
  const Array mean_d = scratch.make(g.statistics, dtype), mean_product = scratch.make(g.statistics, dtype);
  combine(BinaryOp::multiply, slope, dy, gain);
  combine(BinaryOp::multiply, split_product, d, groups);
  plain->reduce(ReduceOp::sum, mean_d, d);
  plain->reduce(ReduceOp::sum, mean_product, split_product);
  affine(mean_d, mean_d, 1 / g.count);
  affine(mean_product, mean_product, 1 / g.count);
  combine(BinaryOp::subtract, d, d, mean_d);
  combine(BinaryOp::multiply, groups, groups, mean_product);
  combine(BinaryOp::subtract, d, d, groups);
  combine(BinaryOp::multiply, dx, d, rstd);
}

// --- attention ---------------------------------------------------------------------------------------------

/// [B, L, H, D] as a matrix [L, D] for each of [B, H].
Array heads(const Array& a) { return transposed(a, 1, 2); }

/// scale q k^T as [B, H, L, S].
Array scores_of(const AttentionArgs& args, Scratch& scratch) {
  const Shape &q = args.q.shape, &k = args.k.shape;
  const Array scores = scratch.make({q[0], q[2], q[1], k[1]}, args.q.dtype);
  plain->gemm({.a = heads(args.q),
               .b = transposed(heads(args.k), 2, 3),
               .c = scores,
               .bias = {},
               .alpha = args.scale});
  return scores;
}
/// [B, H, L] as [B, H, L, 1].
Array column(const Array& a) { return reshaped(a, {a.shape[0], a.shape[1], a.shape[2], 1}); }

void attention(AttentionArgs args) {
  if (is_empty(args.out)) return plain->attention(args);
  Scratch scratch;
  const Array scores = scores_of(args, scratch), weights = scratch.like(scores);
  plain->softmax(weights, scores);
  plain->gemm({.a = weights, .b = heads(args.v), .c = heads(args.out), .bias = {}});
  // Of the largest score m the weight is exp(m - log_sum_exp).
  const Array result = column(args.log_sum_exp), largest = scratch.like(result);
  plain->reduce(ReduceOp::max, largest, weights);
  apply(UnaryOp::log, largest, largest);
  plain->reduce(ReduceOp::max, result, scores);
  combine(BinaryOp::subtract, result, result, largest);
}

void attention_backward(AttentionBackwardArgs args) {
  const AttentionArgs& forward = args.forward;
  if (is_empty(forward.q) || is_empty(forward.k)) return plain->attention_backward(args);
  Scratch scratch;
  const Array weights = scores_of(forward, scratch), d_weights = scratch.like(weights);
  combine(BinaryOp::subtract, weights, weights, column(forward.log_sum_exp));
  apply(UnaryOp::exp, weights, weights);
  const Array d_out = heads(args.d_out), transposed_weights = transposed(weights, 2, 3);
  plain->gemm({.a = transposed_weights, .b = d_out, .c = heads(args.dv), .bias = {}});
  plain->gemm({.a = d_out, .b = transposed(heads(forward.v), 2, 3), .c = d_weights, .bias = {}});
  softmax_backward(d_weights, d_weights, weights);
  plain->gemm(
      {.a = d_weights, .b = heads(forward.k), .c = heads(args.dq), .bias = {}, .alpha = forward.scale});
  plain->gemm({.a = transposed(d_weights, 2, 3),
               .b = heads(forward.q),
               .c = heads(args.dk),
               .bias = {},
               .alpha = forward.scale});
}

// --- optimiser ---------------------------------------------------------------------------------------------

/// What Adam takes from the control block, made on the device.
enum Factor : int64_t { kScale, kFinite, kFirst, kSecond, kDecay, kFactors };

/// The factors of an update, in the parameter's dtype: the scale of gradients; 1, or 0 where the norm is not
/// finite; lr / (1 - beta1^t), 1 / (1 - beta2^t) and lr * weight_decay. In an update that is skipped the
/// first and the last are 0 and the middle one is 1.
Array adam_factors(const AdamArgs& args, Scratch& scratch) {
  const Shape one{1};
  const Array f = scratch.make({kFactors}, DType::f64), zero = scratch.make(one, DType::f64),
              unit = scratch.make(one, DType::f64);
  const auto at = [&](Factor i) { return element(f, i, one); };
  const Array applied = element(args.control, 0, one), scale = element(args.control, 2, one),
              norm = element(args.control, 3, one);
  plain->fill(zero, 0);
  plain->fill(unit, 1);
  plain->copy(at(kScale), scale);
  combine(BinaryOp::subtract, at(kFinite), norm, norm);  // 0, or NaN
  combine(BinaryOp::equal, at(kFinite), at(kFinite), zero);
  const auto correction = [&](Factor i, double beta, const Array& numerator, const Array& otherwise) {
    affine(at(i), applied, std::log(beta));
    apply(UnaryOp::exp, at(i), at(i));
    affine(at(i), at(i), -1, 1);
    apply(UnaryOp::reciprocal, at(i), at(i));
    combine(BinaryOp::multiply, at(i), at(i), numerator);
    plain->where(at(i), at(kFinite), at(i), otherwise);
  };
  const Array learning_rate = element(args.learning_rate, 0, one);
  correction(kFirst, args.beta1, learning_rate, zero);
  correction(kSecond, args.beta2, unit, unit);
  affine(at(kDecay), at(kFinite), args.weight_decay);
  combine(BinaryOp::multiply, at(kDecay), at(kDecay), learning_rate);
  const Array result = scratch.make({kFactors}, args.list.front().param.dtype);
  plain->copy(result, f);
  return result;
}

void adam_parameter(const AdamArgs& args, const AdamParameter& p, const Array& factors) {
  if (is_empty(p.param)) return;
  Scratch scratch;
  const auto factor = [&](Factor i) { return element(factors, i, p.param.shape); };
  const Array g = scratch.like(p.param), square = scratch.like(p.param), decay = square;
  combine(BinaryOp::multiply, g, p.grad, factor(kScale));
  if (args.l2 != 0) {
    affine(square, p.param, args.l2);
    combine(BinaryOp::add, g, g, square);
  }
  // Towards itself an average stays what it is.
  combine(BinaryOp::multiply, square, g, g);
  plain->where(g, factor(kFinite), g, p.m);
  plain->binary(BinaryOp::lerp, 1 - args.beta1, p.m, p.m, g);
  plain->where(square, factor(kFinite), square, p.v);
  plain->binary(BinaryOp::lerp, 1 - args.beta2, p.v, p.v, square);
  const Array largest = p.v_max.absent() ? p.v : p.v_max;
  if (!p.v_max.absent()) {
    combine(BinaryOp::maximum, square, p.v_max, p.v);
    plain->where(largest, factor(kFinite), square, largest);
  }

  const Array update = g;
  combine(BinaryOp::multiply, square, largest, factor(kSecond));
  apply(UnaryOp::sqrt, square, square);
  affine(square, square, 1, args.eps);
  combine(BinaryOp::divide, update, p.m, square);
  combine(BinaryOp::multiply, update, update, factor(kFirst));
  if (args.weight_decay != 0) {
    combine(BinaryOp::multiply, decay, p.param, factor(kDecay));
    combine(BinaryOp::add, update, update, decay);
  }
  combine(BinaryOp::subtract, p.param, p.param, update);
}

void adam(AdamArgs args) {
  if (args.list.empty()) return;
  Scratch scratch;
  const Array factors = adam_factors(args, scratch);
  for (const AdamParameter& parameter : args.list) adam_parameter(args, parameter, factors);
}

void sum_of_squares(SumOfSquaresArgs args) {
  plain->fill(args.out, 0);
  for (const Array& x : args.list) {
    if (is_empty(x)) continue;
    Scratch scratch;
    Shape one = x.shape;
    for (int axis = 0; axis < one.rank(); ++axis) one[axis] = 1;
    const Array wide = scratch.make(x.shape, DType::f64), sum = scratch.make(one, DType::f64);
    plain->copy(wide, x);
    combine(BinaryOp::multiply, wide, wide, wide);
    plain->reduce(ReduceOp::sum, sum, wide);
    combine(BinaryOp::add, args.out, args.out, reshaped(sum, args.out.shape));
  }
}

void moving_average(MovingAverageArgs args) {
  for (const auto& [average, source] : args.list) {
    if (is_empty(average)) continue;
    Scratch scratch;
    // weight = 1 copies, whatever the average was.
    const Array weight = scratch.make({1}, average.dtype), unit = scratch.make({1}, average.dtype),
                difference = scratch.like(average);
    plain->copy(weight, element(args.weight, 0, {1}));
    plain->fill(unit, 1);
    const auto wide = [&](const Array& a) { return element(a, 0, average.shape); };
    combine(BinaryOp::subtract, difference, source, average);
    combine(BinaryOp::multiply, difference, difference, wide(weight));
    combine(BinaryOp::add, difference, average, difference);
    combine(BinaryOp::equal, weight, weight, unit);
    plain->where(average, wide(weight), source, difference);
  }
}

}  // namespace

const Backend& unfused(const Backend& inner) {
  static Backend table;
  if (plain != &inner) {
    if (memory) memory->trim();
    delete memory;
    memory = new Allocator(inner);
    plain = &inner;
  }
  table = inner;
  table.gemm = gemm;
  table.conv2d_forward = conv2d_forward;
  table.unary_chain = unary_chain;
  table.softmax_backward = softmax_backward;
  table.group_norm = group_norm;
  table.group_norm_backward = group_norm_backward;
  table.attention = attention;
  table.attention_backward = attention_backward;
  table.adam = adam;
  table.sum_of_squares = sum_of_squares;
  table.moving_average = moving_average;
  return table;
}

}  // namespace halfstep::bench
