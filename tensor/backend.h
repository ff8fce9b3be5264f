// The Backend table: everything that a device must be able to do, as one struct of function pointers.
//
// Rules that every entry keeps, so that the same table fits a device that works asynchronously and whose
// memory the host cannot read:
//   * data pointers are device pointers; only `upload` and `download` touch host memory;
//   * arguments are plain values (they may be queued); nothing is returned to the host except by `download`.
//     A std::span in them views memory of the caller that is valid during the call only: a backend copies
//     what it queues;
//   * numbers that change from one update of training to the next are read from device memory, so that a
//     recorded update can be repeated as it is;
//   * work is executed as if in order of the calls; `download` and `synchronize` wait for it;
//   * checks of shapes, dtypes and devices happen above (tensor/ops.h): entries may trust their arguments;
//   * results do not depend on the number of threads, and two equal calls give equal bits.
//
// bf16: where `computes_bf16` says so, every floating argument may be bf16, all of a call alike, except that
// statistics (mean, rstd, log_sum_exp) and the control block of an optimiser are never, and that gain and
// bias of a group norm may be f32. A call computes in f32 and rounds each bf16 result once, at its end.
//
// `reference` (tensor/reference.cpp) is the plain-loop oracle; `cpu` starts as a copy of it and replaces
// pointers; `cuda` fills the same table. To speed up a kernel, change one pointer.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "tensor/dtype.h"
#include "tensor/shape.h"

namespace halfstep {

/// A typed strided window on device memory. `data` points at element (0, ..., 0); strides count elements, may
/// be 0 (broadcast) and need not be ordered.
struct Array {
  void* data = nullptr;
  DType dtype = DType::f32;
  Shape shape;
  Strides strides;

  /// `data` as elements of type T; the caller knows that T fits dtype.
  template <class T>
  T* as() const {
    return static_cast<T*>(data);
  }
  bool contiguous() const { return is_contiguous(shape, strides); }
  /// True for the default value: an optional argument that was not given.
  bool absent() const { return data == nullptr; }
};

/// Elementwise functions of one argument; the formulas live in tensor/formulas.h. p0, p1 are in UnaryArgs.
enum class UnaryOp : uint8_t {
  affine,  ///< p0 * x + p1
  exp,
  log,
  sqrt,
  sin,
  cos,
  tanh,
  sigmoid,
  silu,  ///< x * sigmoid(x)
  relu,
  reciprocal,
  pow,         ///< x ^ p0
  clamp,       ///< min(max(x, p0), p1); the slope is 1 at the bounds themselves
  abs,         ///< slope 0 at 0
  leaky_relu,  ///< x where x > 0, else p0 * x; the slope at 0 is p0
  erf,
  gelu,       ///< x Phi(x), Phi the normal distribution function (Hendrycks & Gimpel 2016)
  gelu_tanh,  ///< its approximation 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))
  softplus,   ///< log(1 + e^x)
};

/// One elementwise function with its parameters.
struct UnaryArgs {
  UnaryOp op;
  /// 0: the function; n > 0: its n-th derivative (dual numbers, see formulas.h); at most kMaxDerivative.
  int derivative = 0;
  double p0 = 0, p1 = 0;
};
inline constexpr int kMaxDerivative = 3;

/// Elementwise functions of two arguments.
enum class BinaryOp : uint8_t {
  add,
  subtract,
  multiply,
  divide,
  maximum,
  minimum,
  less,   ///< 1 or 0 in the operands' dtype
  equal,  ///< 1 or 0
  lerp,   ///< a + p0 * (b - a)
};

/// What a reduction does with the elements that it joins.
enum class ReduceOp : uint8_t { sum, max, min };

/// C[i] = alpha * A[i] B[i] + beta * C[i] (+ bias over rows). A: [..., M, K], B: [..., K, N], C: [..., M, N],
/// any strides, equal leading axes (stride 0 broadcasts). bias: [N] or absent. beta is 0 or 1; with 0, C is
/// not read.
struct GemmArgs {
  Array a, b, c, bias;
  double alpha = 1, beta = 0;
};

/// Geometry of a 2-D convolution (cross-correlation) or pooling window. Padding per side, so the odd pixel
/// can go anywhere.
struct Conv2dGeometry {
  int stride_h = 1, stride_w = 1;
  int pad_top = 0, pad_bottom = 0, pad_left = 0, pad_right = 0;
  /// Image and output channels are cut into this many equal runs; run g of the output sees run g of the image
  /// only. groups = C is a depthwise convolution.
  int groups = 1;
  /// Distance in image pixels between neighbouring taps of the kernel: it spans dilation * (size - 1) + 1.
  int dilation_h = 1, dilation_w = 1;
};

/// How a convolution is computed; devices without a choice ignore it. direct: each product of its definition.
/// winograd: for f32 kernels of 3x3 at stride 1 without dilation or groups, and channels that fill vectors,
/// by Winograd's F(4x4, 3x3): 2 to 3 times faster, with rounding errors some times larger, and with the
/// values of a 4x4 tile of outputs near infinity or NaN lost where one is. automatic: winograd where it is
/// faster.
enum class ConvMethod : uint8_t { automatic, direct, winograd };

/// x: [B, H, W, C], kernel: [KH, KW, C / groups, O], y: [B, OH, OW, O]; all contiguous. bias: [O] or absent.
/// forward writes y; backward_data writes x (the gradient) from y (the upstream gradient) and kernel;
/// backward_kernel writes kernel (the gradient) from x and y. bias and residual are used by forward only: it
/// adds residual, of y's shape and contiguous, or absent; y may be rounded before.
struct Conv2dArgs {
  Array x, kernel, bias, y;
  Conv2dGeometry geometry;
  ConvMethod method = ConvMethod::automatic;
  Array residual = {};
};

/// A nonlinearity that is fused into another kernel.
enum class Activation : uint8_t { none, silu };

/// y = activation((x - mean) * rstd * gain + bias), statistics over the pixels and the channels of a group
/// (biased variance, two-pass). x, y: [B, P, C] contiguous (P = H*W); gain, bias: [B or 1, C] contiguous;
/// mean, rstd: [B, G], written by forward in x's dtype (f32 for bf16) and read by backward. For bf16 x gain
/// and bias may both be f32.
struct GroupNormArgs {
  Array x, gain, bias, y, mean, rstd;
  int groups = 1;
  double eps = 1e-6;
  Activation activation = Activation::none;
};
/// dx: [B, P, C]; dgain, dbias: [B, C] always per example (the caller sums over B when gain has one row), in
/// gain's dtype.
struct GroupNormBackwardArgs {
  GroupNormArgs forward;  ///< with y absent
  Array dy, dx, dgain, dbias;
};

/// Scaled dot-product attention. q: [B, L, H, D], k, v: [B, S, H, D], out: [B, L, H, D]; last axis has stride
/// 1, other strides are free. log_sum_exp: [B, H, L] contiguous, written by forward, read by backward; f32
/// for bf16.
struct AttentionArgs {
  Array q, k, v, out, log_sum_exp;
  double scale = 1;
};
/// The arguments of forward, and the gradients.
struct AttentionBackwardArgs {
  AttentionArgs forward;
  Array d_out, dq, dk, dv;  ///< gradients, contiguous
};

/// A distribution.
enum class RandomKind : uint8_t { uniform, normal };

/// Random numbers of Philox 4x32-10, indexed by element: element i of row r of `out` ([rows, n] contiguous)
/// depends only on (seed, stream, first_row + r, i). Uniform: [0, 1). Normal: standard. See tensor/philox.h.
struct RandomArgs {
  RandomKind kind;
  Array out;
  uint64_t seed = 0;
  uint64_t stream = 0;
  uint64_t first_row = 0;
};

/// y = x * (uniform(seed, stream, row, i) >= p) / (1 - p), contiguous; the same call on dy is the backward.
/// row: an i64 scalar in 0 ... 2^32-1 that is read when the call is executed; absent: row 0.
struct DropoutArgs {
  Array x, y;
  double p = 0;
  uint64_t seed = 0, stream = 0;
  Array row = {};  ///< or absent
};

/// Device-side control block of an optimiser, f64 [4]: {applied updates, skipped updates, gradient scale,
/// norm}. From the sum of squares of all gradients (f64 scalar): norm = sqrt; if it is finite, applied += 1
/// and scale = min(1, max_norm / (norm + clip_eps)) (1 where max_norm <= 0); otherwise skipped += 1 and scale
/// = 0.
struct OptimizerControlArgs {
  Array control, sum_squares;
  double max_norm = 0, clip_eps = 0;
};

/// out (f64 scalar) = the sum of the squares of all elements of all arrays of the list, accumulated in double
/// in an order that the sizes alone decide; 0 for an empty list. The arrays are contiguous and of one dtype.
struct SumOfSquaresArgs {
  std::span<const Array> list;
  Array out;
};

/// What Adam knows of one parameter; contiguous arrays of one shape.
struct AdamParameter {
  Array param, grad, m, v;
  Array v_max = {};  ///< or absent
};
/// One Adam/AdamW update of a list of parameters, in place; skipped where the control block says that the
/// norm is not finite. g' = scale * g (+ l2 * p); m = b1 m + (1-b1) g'; v = b2 v + (1-b2) g'^2; t = applied
/// updates; p -= lr * (m / (1-b1^t)) / (sqrt(v / (1-b2^t)) + eps) + lr * weight_decay * p_old. With v_max
/// (AMSGrad): v_max = max(v_max, v) takes the place of v in the denominator. All parameters have one dtype,
/// and all or none have a v_max. learning_rate: f64 scalar.
struct AdamArgs {
  std::span<const AdamParameter> list;
  Array control, learning_rate;
  double beta1 = 0, beta2 = 0, eps = 0, weight_decay = 0, l2 = 0;
};

/// What gradient descent knows of one parameter; contiguous arrays of one shape.
struct SgdParameter {
  Array param, grad;
  Array buffer = {};  ///< or absent
};
/// One step of gradient descent for a list of parameters, in place; skipped as in AdamArgs. g' = scale * g +
/// l2 * p; buffer = momentum * buffer + (1 - dampening) * g', at the first applied update buffer = g';
/// p -= lr * (nesterov ? g' + momentum * buffer : buffer), or p -= lr * g' without a buffer. All parameters
/// have one dtype, and all or none have a buffer. learning_rate: f64 scalar.
struct SgdArgs {
  std::span<const SgdParameter> list;
  Array control, learning_rate;
  double momentum = 0, dampening = 0, l2 = 0;
  bool nesterov = false;
};

/// An array and where it moves to; contiguous, of one shape.
struct AveragedArray {
  Array average, source;
};
/// average += weight * (source - average) for a list of arrays of one dtype. weight: f64 scalar, rounded to
/// that dtype; where it is 1, source is copied as it is. An average of many calls with weight 1 - decay is
/// the exponential moving average.
struct MovingAverageArgs {
  std::span<const AveragedArray> list;
  Array weight;
};

/// y = the largest pixel of each window, channel by channel; x: [B, H, W, C], y, index: [B, OH, OW, C]; all
/// contiguous. index (i64): the number h * W + w of that pixel, the first among equals; a NaN counts as
/// larger than any number. Every window reaches at least one pixel of x. groups of the geometry is 1.
struct MaxPool2dArgs {
  Array x, y, index;
  int window_h = 1, window_w = 1;
  Conv2dGeometry geometry;
};

/// The table; see the top of this file for the rules.
struct Backend {
  const char* name;
  /// Calls have finished when they return, and the host may read the memory cheaply: indices are then
  /// checked. An asynchronous device would have to be waited for; it gives NaN for an index out of range.
  bool synchronous;
  /// Entries take bf16 (see the top of this file); otherwise only fill and copy do.
  bool computes_bf16;

  // Memory. allocate returns memory aligned to 64 bytes or nullptr; it is called by the caching allocator
  // only.
  void* (*allocate)(size_t bytes);
  void (*release)(void* memory, size_t bytes);
  void (*upload)(void* device, const void* host, size_t bytes);
  void (*download)(void* host, const void* device, size_t bytes);  ///< waits
  void (*synchronize)();
  int64_t (*launches)();  ///< kernels started since the process began; nullptr: not counted

  // Graphs: calls that are recorded once and started again as a whole. All four are nullptr on a device
  // without.
  /// From here on calls are recorded instead of executed, until end_capture. allocate works meanwhile;
  /// upload, download, synchronize and release must not be called.
  void (*begin_capture)() = nullptr;
  /// What was recorded, or an Error where something was called that cannot be; either way calls are executed
  /// again.
  void* (*end_capture)() = nullptr;
  void (*launch_graph)(void* graph) = nullptr;
  /// The graph may still be running.
  void (*destroy_graph)(void* graph) = nullptr;

  // Elementwise. Outputs and inputs have equal shapes (inputs expanded by stride 0); an output may be the
  // same array as an input, and has no zero strides.
  void (*fill)(Array out, double value);
  void (*copy)(Array out, Array in);  ///< converts between dtypes
  void (*unary)(UnaryArgs op, Array out, Array x);
  /// out = upstream * f'(x): a chain-rule step in one pass. `op.derivative` is that of the factor (>= 1).
  void (*unary_chain)(UnaryArgs op, Array out, Array upstream, Array x);
  void (*binary)(BinaryOp op, double p0, Array out, Array a, Array b);
  /// out = condition != 0 ? a : b; the side that is not taken is not computed with, so its NaN does not
  /// spread.
  void (*where)(Array out, Array condition, Array a, Array b);

  /// out has x's rank, with size 1 on the reduced axes. f32 sums keep an error of the order of pairwise
  /// summation. dtype of out: x's, or f64 for an f32 or bf16 x.
  void (*reduce)(ReduceOp op, Array out, Array x);
  /// out[.., i, ..] = x[.., 0, ..] + ... + x[.., i, ..] along `axis`; accumulated in double.
  void (*cumulative_sum)(Array out, Array x, int axis);
  /// out (i64): the order that sorts x along `axis`; equal elements keep their order, NaN counts as largest.
  void (*argsort)(Array out, Array x, int axis, bool descending);

  /// out[.., i, ..] = x[.., index[.., i, ..], ..] along `axis`, for every dtype. index (i64) has out's
  /// shape; x differs from it on `axis` only. An index outside the axis gives NaN (-1 for i64).
  void (*gather)(Array out, Array x, Array index, int axis);
  /// The adjoint of gather: out = 0, then out[.., index[.., i, ..], ..] += source[.., i, ..] in the order of
  /// i. index has source's shape; out differs from it on `axis` only. An index outside the axis adds nothing.
  void (*scatter_add)(Array out, Array source, Array index, int axis);

  void (*gemm)(GemmArgs);
  void (*conv2d_forward)(Conv2dArgs);
  void (*conv2d_backward_data)(Conv2dArgs);
  void (*conv2d_backward_kernel)(Conv2dArgs);

  /// Over the last axis, contiguous.
  void (*softmax)(Array y, Array x);
  void (*softmax_backward)(Array dx, Array dy, Array y);
  void (*attention)(AttentionArgs);
  void (*attention_backward)(AttentionBackwardArgs);
  void (*group_norm)(GroupNormArgs);
  void (*group_norm_backward)(GroupNormBackwardArgs);

  void (*random)(RandomArgs);
  void (*dropout)(DropoutArgs);

  void (*sum_of_squares)(SumOfSquaresArgs);
  void (*optimizer_control)(OptimizerControlArgs);
  void (*adam)(AdamArgs);
  void (*sgd)(SgdArgs);
  void (*moving_average)(MovingAverageArgs);

  void (*max_pool2d)(MaxPool2dArgs);
};

/// The plain-loop oracle.
const Backend& reference_backend();
/// The fast CPU kernels for this machine's instruction set (HALFSTEP_CPU=portable|avx2|avx512 forces one).
const Backend& cpu_backend();

/// What an emulated GPU counts: tensor/kernel_counts.h.
struct CudaCounters;

/// What a look for a GPU found.
struct CudaProbe {
  const Backend* backend = nullptr;        ///< the table, if a GPU answers
  const char* reason = "";                 ///< otherwise why not, in a user's words
  bool emulated = false;                   ///< it is no real one: for tests, and slow
  const CudaCounters* counters = nullptr;  ///< of an emulated one
};
/// Looks for a usable GPU; defined in cuda/, the only function that leads there. Never throws.
CudaProbe probe_cuda();

}  // namespace halfstep
