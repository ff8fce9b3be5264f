// Differentiable operations on Variables. Shapes and errors are those of the functions of the same names in
// tensor/ops.h. In each .cpp a rule sits directly beside its forward call.
#pragma once

#include <string_view>
#include <vector>

#include "autograd/variable.h"
#include "tensor/ops.h"

namespace halfstep {

// --- arithmetic, with broadcasting -------------------------------------------------------------------------
Variable add(const Variable& a, const Variable& b);
Variable subtract(const Variable& a, const Variable& b);
Variable multiply(const Variable& a, const Variable& b);
Variable divide(const Variable& a, const Variable& b);
/// Where both are equal the gradient goes half to each.
Variable maximum(const Variable& a, const Variable& b);
Variable minimum(const Variable& a, const Variable& b);
/// condition != 0 ? a : b with broadcasting; the gradient goes to the side that was taken. See less, equal.
Variable where(const Tensor& condition, const Variable& a, const Variable& b);
Variable affine(const Variable& x, double scale, double shift);

inline Variable operator+(const Variable& a, const Variable& b) { return add(a, b); }
inline Variable operator-(const Variable& a, const Variable& b) { return subtract(a, b); }
inline Variable operator*(const Variable& a, const Variable& b) { return multiply(a, b); }
inline Variable operator/(const Variable& a, const Variable& b) { return divide(a, b); }
inline Variable operator+(const Variable& a, double b) { return affine(a, 1, b); }
inline Variable operator+(double a, const Variable& b) { return affine(b, 1, a); }
inline Variable operator-(const Variable& a, double b) { return affine(a, 1, -b); }
inline Variable operator-(double a, const Variable& b) { return affine(b, -1, a); }
inline Variable operator*(const Variable& a, double b) { return affine(a, b, 0); }
inline Variable operator*(double a, const Variable& b) { return affine(b, a, 0); }
inline Variable operator/(const Variable& a, double b) { return affine(a, 1 / b, 0); }
inline Variable operator-(const Variable& a) { return affine(a, -1, 0); }

// --- elementwise functions ---------------------------------------------------------------------------------
Variable exp(const Variable& x);
Variable log(const Variable& x);
Variable sqrt(const Variable& x);
Variable sin(const Variable& x);
Variable cos(const Variable& x);
Variable tanh(const Variable& x);
Variable sigmoid(const Variable& x);
Variable silu(const Variable& x);
Variable relu(const Variable& x);
/// x where x > 0, else slope * x; the gradient at 0 is `slope`.
Variable leaky_relu(const Variable& x, double slope = 0.01);
/// x Phi(x), Phi the normal distribution function (Hendrycks & Gimpel 2016).
Variable gelu(const Variable& x);
/// Its approximation 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))).
Variable gelu_tanh(const Variable& x);
/// log(1 + e^x), without overflow.
Variable softplus(const Variable& x);
Variable erf(const Variable& x);
/// The gradient at 0 is 0.
Variable abs(const Variable& x);
Variable reciprocal(const Variable& x);
Variable pow(const Variable& x, double exponent);
Variable square(const Variable& x);
/// Passes gradient 1 inside, 0 outside and at the bounds (as PyTorch since 2.15).
Variable clamp(const Variable& x, double low, double high);

// --- reductions --------------------------------------------------------------------------------------------
Variable sum(const Variable& x, const std::vector<int>& axes = {}, bool keep_dims = false);
Variable mean(const Variable& x, const std::vector<int>& axes = {}, bool keep_dims = false);
/// Extrema over `axes` (all if empty); elements that tie share the gradient equally.
Variable max(const Variable& x, const std::vector<int>& axes = {}, bool keep_dims = false);
Variable min(const Variable& x, const std::vector<int>& axes = {}, bool keep_dims = false);
/// Mean squared distance from the mean, with the divisor N - correction: 1 is the unbiased estimate
/// (PyTorch's default), 0 the biased one (NumPy's). Throws unless N > correction >= 0.
Variable variance(const Variable& x, const std::vector<int>& axes = {}, bool keep_dims = false,
                  int correction = 1);
/// sqrt(variance). Where all elements are equal the gradient is infinite or NaN, as the function has a kink
/// there.
Variable standard_deviation(const Variable& x, const std::vector<int>& axes = {}, bool keep_dims = false,
                            int correction = 1);
/// (sum |x|^p)^(1/p) over `axes` (all if empty), p >= 1 or infinity (the largest |x|). The gradient at a norm
/// of 0 is 0.
Variable norm(const Variable& x, const std::vector<int>& axes = {}, bool keep_dims = false, double p = 2);
/// log(sum(exp(x))) over `axes` (all if empty), without overflow.
Variable logsumexp(const Variable& x, const std::vector<int>& axes = {}, bool keep_dims = false);
/// out[.., i, ..] = x[.., 0, ..] + ... + x[.., i, ..] along `axis`.
Variable cumulative_sum(const Variable& x, int axis);
/// Mean of (a - b)^2 over `axes` (all if empty).
Variable mse(const Variable& a, const Variable& b, const std::vector<int>& axes = {});

// --- layout ------------------------------------------------------------------------------------------------
Variable reshape(const Variable& x, const Shape& shape);
Variable transpose(const Variable& x, int axis_a, int axis_b);
Variable permute(const Variable& x, const std::vector<int>& order);
Variable expand(const Variable& x, const Shape& shape);
/// Itself, or a contiguous copy.
Variable contiguous(const Variable& x);
/// Inverse of expand: sums x down to `shape`.
Variable sum_to(const Variable& x, const Shape& shape);
Variable slice(const Variable& x, int axis, int64_t begin, int64_t end, int64_t step = 1);
Variable flip(const Variable& x, const std::vector<int>& axes);
Variable unsqueeze(const Variable& x, int axis);
Variable squeeze(const Variable& x, int axis);
Variable concat(const std::vector<Variable>& parts, int axis);
/// Along a new axis, inserted before `axis` (-1: at the end).
Variable stack(const std::vector<Variable>& parts, int axis);
/// Consecutive parts of these sizes along `axis`; they must add up to its size.
std::vector<Variable> split(const Variable& x, const std::vector<int64_t>& sizes, int axis);
/// before[i] elements of `value` before and after[i] behind axis i, none negative.
Variable pad(const Variable& x, const std::vector<int64_t>& before, const std::vector<int64_t>& after,
             double value = 0);
/// Differentiable conversion between f32, f64 and bf16; the gradient comes back in x's dtype.
Variable to(const Variable& x, DType dtype);

// --- indices (see tensor/ops.h for indices out of range) ---------------------------------------------------
/// out[.., i, ..] = x[.., index[.., i, ..], ..] along `axis`.
Variable gather(const Variable& x, int axis, const Tensor& index);
/// The adjoint of gather.
Variable scatter_add(const Variable& source, int axis, const Tensor& index, int64_t size);
/// Rows of table [N, D] at ids [...] (i64) -> [..., D]. Rows that appear several times collect all gradients.
Variable embedding(const Variable& table, const Tensor& ids);

// --- linear algebra ----------------------------------------------------------------------------------------
Variable matmul(const Variable& a, const Variable& b);
/// x [..., K], kernel [K, N], bias [N] or undefined -> [..., N]
Variable linear(const Variable& x, const Variable& kernel, const Variable& bias = {});
Variable conv2d(const Variable& x, const Variable& kernel, const Variable& bias,
                const Conv2dGeometry& geometry, const Variable& residual = {});
Variable conv2d_backward_data(const Variable& dy, const Variable& kernel, int64_t height, int64_t width,
                              const Conv2dGeometry& geometry);
Variable conv2d_backward_kernel(const Variable& x, const Variable& dy, int64_t kernel_height,
                                int64_t kernel_width, const Conv2dGeometry& geometry);
Variable conv_transpose2d(const Variable& x, const Variable& kernel, const Variable& bias,
                          const Conv2dGeometry& geometry, int output_padding_h = 0, int output_padding_w = 0);
/// Einstein summation with an explicit result, for one or two operands: a letter per axis, letters that the
/// result does not name are summed over. einsum("bqhd,bkhd->bhqk", q, k), einsum("ij->ji", x). Equal letters
/// have equal sizes (nothing is broadcast); a letter stands once in each part (no diagonals). Two operands
/// become one batched matmul; operands whose axes do not lie in its order are copied.
Variable einsum(std::string_view formula, const Variable& a);
Variable einsum(std::string_view formula, const Variable& a, const Variable& b);

// --- images [B, H, W, C] -----------------------------------------------------------------------------------
/// Repeats each pixel factor x factor times.
Variable upsample_nearest(const Variable& x, int factor = 2);
/// Mean over factor x factor windows; an odd remainder at the bottom or right is dropped.
Variable average_pool(const Variable& x, int factor = 2);
/// The largest pixel of every window; its gradient goes to the pixel that won (see tensor/ops.h: the first of
/// equals).
Variable max_pool2d(const Variable& x, int window_h, int window_w, const Conv2dGeometry& geometry);
/// Mean over windows of any size, stride (1 unless given), padding and dilation: a depthwise convolution with
/// equal weights. Padding counts as zeros (PyTorch's count_include_pad).
Variable average_pool2d(const Variable& x, int window_h, int window_w, const Conv2dGeometry& geometry);
/// [B, H, W, C] -> [B, H/f, W/f, f*f*C]; channel order (row in block, column in block, channel).
Variable space_to_depth(const Variable& x, int factor = 2);
Variable depth_to_space(const Variable& x, int factor = 2);

// --- normalisation, attention, regularisation --------------------------------------------------------------
Variable softmax(const Variable& x, int axis = -1);
/// log(softmax(x)), without the logarithm of a number that was rounded to 0.
Variable log_softmax(const Variable& x, int axis = -1);

/// What becomes of the losses of single examples.
enum class Reduction : uint8_t { none, mean, sum };
/// -log softmax(logits)[label]: logits [..., classes], labels [...] (i64). Reduction::none gives [...].
Variable cross_entropy(const Variable& logits, const Tensor& labels, Reduction reduction = Reduction::mean);

/// x [B, ..., C]; gain, bias [C], [1, C] or [B, C], of x's dtype or f32 beside bf16. Fused forward and
/// backward; composed when differentiated twice.
Variable group_norm(const Variable& x, const Variable& gain, const Variable& bias, int groups,
                    double eps = 1e-6, Activation activation = Activation::none);
/// Layer normalisation (Ba et al. 2016) over the last axis: x [..., C]; gain, bias [C] or undefined (1 and
/// 0). A group_norm with one group and one pixel per row; its gradient takes two temporaries of x's size.
Variable layer_norm(const Variable& x, const Variable& gain, const Variable& bias, double eps = 1e-5);
/// Instance normalisation (Ulyanov et al. 2016): x [B, ..., C], over the pixels of each example and channel;
/// gain, bias [C], [B, C] or undefined. A group_norm with a group per channel.
Variable instance_norm(const Variable& x, const Variable& gain, const Variable& bias, double eps = 1e-5);
/// q [B, L, H, D], k, v [B, S, H, D]; scale defaults to 1/sqrt(D) where 0.
Variable attention(const Variable& q, const Variable& k, const Variable& v, double scale = 0);
/// `row`: see tensor/ops.h.
Variable dropout(const Variable& x, double p, RandomKey key, const Tensor& row = {});

}  // namespace halfstep
