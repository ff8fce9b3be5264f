// The Tensor algebra: functions of values, without gradients. Each checks its arguments, allocates its result
// and calls one entry of the Backend. autograd/ops.h has the same names for Variables.
//
// Unless said otherwise operands are f32, f64 or bf16, of one dtype and on one device, and results are
// contiguous. In bf16 each function computes in f32 and rounds its result once.
// Every function throws Error "[name] ..." when its arguments do not fit.
#pragma once

#include <vector>

#include "tensor/tensor.h"

namespace halfstep {

// --- elementwise -------------------------------------------------------------------------------------------
/// As errors and graphs print them: "exp", "multiply".
std::string_view name_of(UnaryOp op);
std::string_view name_of(BinaryOp op);
Tensor unary(UnaryArgs op, const Tensor& x);
/// upstream * f^(n)(x); shapes equal.
Tensor unary_chain(UnaryArgs op, const Tensor& upstream, const Tensor& x);
/// With broadcasting.
Tensor binary(BinaryOp op, const Tensor& a, const Tensor& b, double p0 = 0);
/// a = op(a, b), in place; b broadcasts to a.
void binary_(BinaryOp op, const Tensor& a, const Tensor& b, double p0 = 0);

inline Tensor add(const Tensor& a, const Tensor& b) { return binary(BinaryOp::add, a, b); }
inline Tensor subtract(const Tensor& a, const Tensor& b) { return binary(BinaryOp::subtract, a, b); }
inline Tensor multiply(const Tensor& a, const Tensor& b) { return binary(BinaryOp::multiply, a, b); }
inline Tensor divide(const Tensor& a, const Tensor& b) { return binary(BinaryOp::divide, a, b); }
/// scale * x + shift
Tensor affine(const Tensor& x, double scale, double shift);
Tensor clamp(const Tensor& x, double low, double high);
Tensor sqrt(const Tensor& x);
/// 1 or 0 in the operands' dtype, with broadcasting; comparisons with NaN are 0.
inline Tensor less(const Tensor& a, const Tensor& b) { return binary(BinaryOp::less, a, b); }
inline Tensor equal(const Tensor& a, const Tensor& b) { return binary(BinaryOp::equal, a, b); }
/// condition != 0 ? a : b, all three of one dtype, with broadcasting. NaN in the side that is not taken does
/// not spread.
Tensor where(const Tensor& condition, const Tensor& a, const Tensor& b);

// --- reductions --------------------------------------------------------------------------------------------
/// Over `axes` (all axes if empty); reduced axes stay with size 1 if keep_dims.
Tensor sum(const Tensor& x, const std::vector<int>& axes = {}, bool keep_dims = false);
Tensor mean(const Tensor& x, const std::vector<int>& axes = {}, bool keep_dims = false);
/// Extrema of at least one element; NaN wins.
Tensor max(const Tensor& x, const std::vector<int>& axes = {}, bool keep_dims = false);
Tensor min(const Tensor& x, const std::vector<int>& axes = {}, bool keep_dims = false);
/// Index (i64) of the first largest or smallest element along `axis`, which must not be empty; the first NaN
/// wins. f32: axes of up to 2^24 elements.
Tensor argmax(const Tensor& x, int axis, bool keep_dims = false);
Tensor argmin(const Tensor& x, int axis, bool keep_dims = false);
/// out[.., i, ..] = x[.., 0, ..] + ... + x[.., i, ..] along `axis`.
Tensor cumulative_sum(const Tensor& x, int axis);
/// Inverse of broadcasting: sums x down to `shape`.
Tensor sum_to(const Tensor& x, const Shape& shape);
/// Sum of squares of all elements of all tensors, accumulated in f64, as an f64 scalar on their device.
Tensor sum_of_squares(const std::vector<Tensor>& tensors);

// --- linear algebra ----------------------------------------------------------------------------------------
/// [..., M, K] x [..., K, N] -> [..., M, N]; leading axes broadcast. bias: [N] or undefined.
Tensor matmul(const Tensor& a, const Tensor& b, const Tensor& bias = {});
/// Cross-correlation with zero padding: x [B, H, W, C], kernel [KH, KW, C / groups, O] (HWIO), bias [O] or
/// undefined -> [B, OH, OW, O], OH = floor((H + pad_top + pad_bottom - dilation_h (KH - 1) - 1) / stride_h)
/// + 1. Groups must divide C and O; groups = C is a depthwise convolution. residual, of the result's shape or
/// undefined, is added in the same pass over memory.
Tensor conv2d(const Tensor& x, const Tensor& kernel, const Tensor& bias, const Conv2dGeometry& geometry,
              const Tensor& residual = {});
/// Gradient of conv2d with respect to its input, whose height and width are given.
Tensor conv2d_backward_data(const Tensor& dy, const Tensor& kernel, int64_t height, int64_t width,
                            const Conv2dGeometry& geometry);
/// Gradient of conv2d with respect to its kernel, whose height and width are given.
Tensor conv2d_backward_kernel(const Tensor& x, const Tensor& dy, int64_t kernel_height, int64_t kernel_width,
                              const Conv2dGeometry& geometry);
/// Transposed convolution ("deconvolution"): the adjoint of the conv2d with this kernel and geometry, plus
/// bias. x [B, H, W, C], kernel [KH, KW, O / groups, C], bias [O] or undefined -> [B, OH, OW, O] with
/// OH = (H - 1) stride_h - pad_top - pad_bottom + dilation_h (KH - 1) + output_padding_h + 1. A convolution
/// with a stride maps several image sizes to one: output_padding, in 0..stride - 1, chooses among them.
/// PyTorch's ConvTranspose2d has the weight [C, O / groups, KH, KW]: kernel = weight.permute(2, 3, 1, 0).
Tensor conv_transpose2d(const Tensor& x, const Tensor& kernel, const Tensor& bias,
                        const Conv2dGeometry& geometry, int output_padding_h = 0, int output_padding_w = 0);
/// The shape of its result, with all checks.
Shape conv_transpose2d_shape(const Tensor& x, const Tensor& kernel, const Conv2dGeometry& geometry,
                             int output_padding_h = 0, int output_padding_w = 0);

/// The largest pixels and where they were.
struct MaxPoolResult {
  Tensor y, index;
};
/// The largest pixel of every window, channel by channel: x [B, H, W, C] -> y [B, OH, OW, C], sizes as for
/// conv2d with a kernel of window_h x window_w (strides are 1 unless given). index (i64, of y's shape): where
/// it was, as h * W + w. Padding counts as minus infinity; the first of equal pixels wins, and a NaN wins
/// over numbers. Throws where a window would lie in the padding alone.
MaxPoolResult max_pool2d(const Tensor& x, int window_h, int window_w, const Conv2dGeometry& geometry);

// --- layout ------------------------------------------------------------------------------------------------
/// Joins along an axis that exists; the other axes must agree.
Tensor concat(const std::vector<Tensor>& parts, int axis);
/// Joins tensors of one shape along a new axis, inserted before `axis` (-1: at the end).
Tensor stack(const std::vector<Tensor>& parts, int axis);
/// Surrounds x with `value`: before[i] elements before and after[i] behind axis i, none negative.
Tensor pad(const Tensor& x, const std::vector<int64_t>& before, const std::vector<int64_t>& after,
           double value = 0);

// --- indices -----------------------------------------------------------------------------------------------
// An index outside its axis is an Error on the CPU. On a device that works asynchronously it cannot be looked
// at without waiting: gather gives NaN there, and scatter_add leaves the element out.

/// 0, 1, ..., n - 1. For i64 as well as f32 and f64.
Tensor arange(int64_t n, TensorOptions options = {});
/// out[.., i, ..] = x[.., index[.., i, ..], ..] along `axis`. index (i64) has x's rank; off the axis its
/// sizes are x's or 1 (broadcast). x may be of any dtype.
Tensor gather(const Tensor& x, int axis, const Tensor& index);
/// The adjoint of gather: zeros of size `size` along `axis`, to which source[.., i, ..] is added at
/// index[.., i, ..]. index: as for gather.
Tensor scatter_add(const Tensor& source, int axis, const Tensor& index, int64_t size);
/// [...] labels (i64) in 0..classes-1 -> [..., classes] of `dtype`, f32 or f64: 1 at the label, else 0.
Tensor one_hot(const Tensor& labels, int64_t classes, DType dtype = DType::f32);
/// The order (i64) that sorts x along `axis`, so that gather(x, axis, argsort(x, axis)) is sorted. Equal
/// elements keep their order; NaN counts as the largest.
Tensor argsort(const Tensor& x, int axis, bool descending = false);
Tensor sort(const Tensor& x, int axis, bool descending = false);

// --- normalisation and attention ---------------------------------------------------------------------------
/// Over the last axis.
Tensor softmax(const Tensor& x);
Tensor softmax_backward(const Tensor& dy, const Tensor& y);

/// The output, and mean and 1/deviation per example and group [B, G], which the backward needs.
struct GroupNormResult {
  Tensor y, mean, rstd;
};
/// x [B, ..., C]; gain, bias [C], [1, C] or [B, C]; C must be divisible by groups. See GroupNormArgs. Beside
/// x in bf16, gain and bias may be f32; mean and rstd then are, too.
GroupNormResult group_norm(const Tensor& x, const Tensor& gain, const Tensor& bias, int groups, double eps,
                           Activation activation);
/// Gradients of group_norm.
struct GroupNormGradients {
  Tensor dx, dgain, dbias;  ///< dgain, dbias: [B, C]
};
GroupNormGradients group_norm_backward(const Tensor& dy, const Tensor& x, const Tensor& gain,
                                       const Tensor& bias, const GroupNormResult& forward, int groups,
                                       double eps, Activation activation);

/// The output, and the logarithm of the softmax's denominator [B, H, L] (f32 for bf16), which the backward
/// needs.
struct AttentionResult {
  Tensor out, log_sum_exp;
};
/// q [B, L, H, D], k and v [B, S, H, D] -> out [B, L, H, D]: softmax(scale q k^T) v per head.
AttentionResult attention(const Tensor& q, const Tensor& k, const Tensor& v, double scale);
/// Gradients of attention with respect to q, k and v, in their shapes.
struct AttentionGradients {
  Tensor dq, dk, dv;
};
AttentionGradients attention_backward(const Tensor& d_out, const Tensor& q, const Tensor& k, const Tensor& v,
                                      const AttentionResult& forward, double scale);

// --- random ------------------------------------------------------------------------------------------------
/// A place in the counter-based random sequence. Equal places give equal numbers on every device.
struct RandomKey {
  uint64_t seed = 0;
  uint64_t stream = 0;
};
/// Rows are the first axis: row r depends only on (key, first_row + r), not on how many rows are drawn
/// together.
Tensor random_normal(const Shape& shape, RandomKey key, uint64_t first_row = 0, TensorOptions options = {});
Tensor random_uniform(const Shape& shape, RandomKey key, uint64_t first_row = 0, TensorOptions options = {});
/// Zeroes each element with probability p in [0, 1) and scales the others by 1 / (1 - p). `row`: an i64
/// scalar on x's device in 0 ... 2^32-1, each value of which stands for a mask of its own under the same key;
/// undefined: row 0. It is read on the device, so that a call that is repeated as it is (tensor/captured.h)
/// draws new masks.
Tensor dropout(const Tensor& x, double p, RandomKey key, const Tensor& row = {});

}  // namespace halfstep
