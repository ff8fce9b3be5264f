// Operations, with and without gradients.
#include <doctest/doctest.h>

#include <cmath>

#include "autograd/ops.h"
#include "tests/device_without_bf16.h"
#include "tests/errors/rows.h"

using namespace halfstep;
using namespace halfstep::test;

TEST_CASE("errors of operations") {
  const Tensor m43 = ones({4, 3}), m52 = ones({5, 2}), labels = ones({4}, DType::i64);
  const Tensor image = ones({1, 4, 4, 3}), kernel = ones({3, 3, 3, 5}), heads = ones({1, 2, 1, 3});
  const Tensor norm_x = ones({2, 2, 6}), gain = ones({6});
  check_rows({
      {"undefined operand", [&] { add(m43, Tensor()); },
       "[add] expected a tensor, got an undefined one (default-constructed)"},
      {"integers", [&] { affine(labels, 1, 0); },
       "[affine] expected f32, f64 or bf16, got i64; convert with to(dtype)"},
      {"bf16 on an old GPU",
       [] { exp(Variable(Tensor::ones({2}, {DType::bf16, &device_without_bf16()}))); },
       "[exp] expected a device that computes in bf16, got 'old'; a GPU needs compute capability 8.0: use "
       "f32"},
      {"dtypes",
       [&] {
         multiply(m43, ones({4, 3}, DType::f64));
       },
       "[multiply] dtypes differ: f32 and f64; convert one with to(dtype)"},
      {"devices",
       [&] {
         divide(m43, elsewhere({4, 3}));
       },
       "[divide] devices differ: 'cpu' and 'reference'; move one with to(device)"},
      {"broadcasting", [&] { add(m43, m52); },
       "[add] shapes do not broadcast: (4, 3) and (5, 2); sizes must be equal or 1, aligned at the last "
       "axis"},
      {"order of a derivative", [&] { unary({.op = UnaryOp::exp, .derivative = 4}, m43); },
       "[exp] expected a derivative of order 0 to 3, got 4"},
      {"shape of a gradient", [&] { unary_chain({.op = UnaryOp::exp, .derivative = 1}, m52, m43); },
       "[exp] shapes differ: gradient (5, 2) and input (4, 3)"},
      {"mean of nothing", [] { mean(ones({0})); }, "[mean] expected at least one element, got shape (0,)"},
      {"mean of nothing, with gradient", [] { mean(leaf({0})); },
       "[mean] expected at least one element, got shape (0,)"},
      {"max of nothing", [] { max(ones({0})); }, "[max] expected at least one element, got shape (0,)"},
      {"sum_to",
       [&] {
         sum_to(m43, {4, 2});
       },
       "[sum_to] (4, 3) was not broadcast from (4, 2)"},
      {"sum of squares of nothing", [] { sum_of_squares({}); },
       "[sum_of_squares] expected at least one tensor, got none"},
      {"sum of squares on two devices",
       [&] {
         sum_of_squares({m43, elsewhere({2})});
       },
       "[sum_of_squares] devices differ: 'cpu' and 'reference'"},
      {"product of a vector", [&] { matmul(ones({3}), m43); },
       "[matmul] expected matrices, got (3,) x (4, 3); add an axis with unsqueeze"},
      {"inner sizes", [&] { matmul(m43, m52); },
       "[matmul] inner sizes differ: (4, 3) x (5, 2); is one operand to be transposed?"},
      {"bias of a product",
       [&] {
         matmul(m43, ones({3, 2}), ones({3}));
       },
       "[matmul] expected a bias of shape (2,), got (3,)"},
      {"product of batches",
       [] {
         matmul(ones({2, 4, 3}), ones({3, 3, 4}));
       },
       "[matmul] shapes do not broadcast: (2,) and (3,); sizes must be equal or 1, aligned at the last axis"},
      {"linear of a scalar",
       [&] {
         linear(leaf({}), leaf({3, 2}));
       },
       "[linear] expected x [..., K] and kernel [K, N], got () and (3, 2)"},
      {"inner sizes of linear",
       [&] {
         linear(leaf({4, 3}), leaf({5, 2}));
       },
       "[linear] inner sizes differ: (4, 3) x (5, 2)"},
      {"rank of an image", [&] { conv2d(m43, kernel, {}, {}); },
       "[conv2d] expected an image batch [B, H, W, C] with 4 axes, got (4, 3)"},
      {"channels",
       [&] {
         conv2d(image, ones({3, 3, 2, 5}), {}, {});
       },
       "[conv2d] channels differ: image (1, 4, 4, 3) and kernel (3, 3, 2, 5) (HWIO)"},
      {"kernel too large",
       [&] {
         conv2d(ones({1, 2, 2, 3}), kernel, {}, {});
       },
       "[conv2d] the kernel 3 x 3 is larger than the padded image 2 x 2"},
      {"strides", [&] { conv2d(image, kernel, {}, {.stride_h = 0}); },
       "[conv2d] strides must be positive, got 0 x 1"},
      {"padding", [&] { conv2d(image, kernel, {}, {.pad_left = -1}); },
       "[conv2d] padding must not be negative, got 0 and 0 rows, -1 and 0 columns"},
      {"bias of a convolution", [&] { conv2d(image, kernel, ones({3}), {}); },
       "[conv2d] expected a bias of shape (5,), got (3,)"},
      {"residual of a convolution", [&] { conv2d(image, kernel, {}, {}, ones({1, 2, 2, 1})); },
       "[conv2d] expected a residual of the result's shape (1, 2, 2, 5), got (1, 2, 2, 1)"},
      {"gradient of a convolution", [&] { conv2d_backward_data(image, kernel, 4, 4, {}); },
       "[conv2d_backward_data] expected a gradient (1, 2, 2, 5), got (1, 4, 4, 3)"},
      {"rank of a gradient", [&] { conv2d_backward_data(m43, kernel, 4, 4, {}); },
       "[conv2d_backward_data] expected a gradient [B, OH, OW, O] with 4 axes, got (4, 3)"},
      {"gradient of a kernel",
       [&] {
         conv2d_backward_kernel(image, ones({2, 2, 2, 5}), 3, 3, {});
       },
       "[conv2d_backward_kernel] expected a gradient (1, 2, 2, 5), got (2, 2, 2, 5)"},
      {"concat of nothing", [] { concat(std::vector<Tensor>{}, 0); },
       "[concat] expected at least one tensor, got none"},
      {"concat of undefined",
       [&] {
         concat({m43, Tensor()}, 0);
       },
       "[concat] expected tensors, got an undefined one"},
      {"concat of two dtypes",
       [&] {
         concat({m43, ones({4, 3}, DType::f64)}, 0);
       },
       "[concat] parts differ: f32 on 'cpu' and f64 on 'cpu'; convert or move one with to()"},
      {"concat of two shapes",
       [&] {
         concat({m43, m52}, 0);
       },
       "[concat] parts differ outside axis 0: (4, 3) and (5, 2)"},
      {"softmax of a scalar", [] { softmax(ones({})); },
       "[softmax] expected at least one axis, got a scalar"},
      {"gradient of softmax", [&] { softmax_backward(m43, m52); },
       "[softmax_backward] shapes differ: (4, 3) and (5, 2)"},
      {"norm of a vector", [&] { group_norm(gain, gain, gain, 1, 1e-6, Activation::none); },
       "[group_norm] expected [B, ..., C], got (6,)"},
      {"factors in f32 on another device",
       [&] {
         const Tensor f32 = elsewhere({6});
         group_norm(norm_x.to(DType::bf16), f32, f32, 2, 1e-6, Activation::none);
       },
       "[group_norm] devices differ: 'cpu' and 'reference'; move one with to(device)"},
      {"factors in f64 beside bf16",
       [&] {
         const Tensor f64 = ones({6}, DType::f64);
         group_norm(norm_x.to(DType::bf16), f64, f64, 2, 1e-6, Activation::none);
       },
       "[group_norm] dtypes differ: bf16 and f64; convert one with to(dtype)"},
      {"groups", [&] { group_norm(norm_x, gain, gain, 4, 1e-6, Activation::none); },
       "[group_norm] 6 channels do not divide into 4 groups"},
      {"gain", [&] { group_norm(norm_x, ones({3}), gain, 2, 1e-6, Activation::none); },
       "[group_norm] expected gain of shape (6,), (1, 6) or (2, 6), got (3,)"},
      {"gradient of group_norm",
       [&] { group_norm_backward(m43, norm_x, gain, gain, {}, 2, 1e-6, Activation::none); },
       "[group_norm_backward] shapes differ: (4, 3) and (2, 2, 6)"},
      {"attention",
       [&] {
         attention(heads, ones({1, 2, 1, 4}), ones({1, 2, 1, 4}), 1);
       },
       "[attention] expected q [B, L, H, D] and k, v [B, S, H, D], got (1, 2, 1, 3), (1, 2, 1, 4) and (1, 2, "
       "1, "
       "4)"},
      {"attention of a matrix", [&] { attention(m43, m43, m43, 1); },
       "[attention] expected [B, L, H, D] with 4 axes, got (4, 3)"},
      {"attention to nothing",
       [&] {
         attention(heads, ones({1, 0, 1, 3}), ones({1, 0, 1, 3}), 1);
       },
       "[attention] expected at least one key, got (1, 0, 1, 3)"},
      {"gradient of attention",
       [&] {
         attention_backward(ones({1, 1, 1, 3}), heads, heads, heads, {ones({1}), ones({1})}, 1);
       },
       "[attention_backward] shapes differ: (1, 1, 1, 3) and (1, 2, 1, 3)"},
      {"rows of random numbers",
       [] {
         random_normal({2, 1}, {}, (uint64_t{1} << 32) - 1);
       },
       "[random] rows must stay below 2^32, got 4294967295 + 2"},
      {"random integers", [] { random_normal({2}, {}, 0, {DType::i64}); },
       "[random] expected f32, f64 or bf16, got i64; convert with to(dtype)"},
      {"probability", [&] { dropout(m43, 1, {}); }, "[dropout] expected a probability in [0, 1), got 1"},
      {"probability is not a number", [&] { dropout(m43, NAN, {}); },
       "[dropout] expected a probability in [0, 1), got nan"},
      {"row of dropout", [&] { dropout(m43, 0.5, {}, ones({2}, DType::i64)); },
       "[dropout] expected the row as an i64 scalar on 'cpu', got i64 (2,) on 'cpu'"},
      {"bounds", [] { clamp(leaf({2}), 2, 1); }, "[clamp] expected low <= high, got 2 and 1"},
      {"pictures without channels",
       [] {
         average_pool(leaf({2, 4, 4}));
       },
       "[average_pool] expected an image batch [B, H, W, C], got (2, 4, 4)"},
      {"factor",
       [] {
         upsample_nearest(leaf({1, 2, 2, 1}), 0);
       },
       "[upsample_nearest] expected a factor of at least 1, got 0"},
      {"blocks of pixels",
       [] {
         space_to_depth(leaf({1, 3, 4, 1}), 2);
       },
       "[space_to_depth] image 3 x 4 does not divide into blocks of 2 x 2"},
      {"channels of pixels",
       [] {
         depth_to_space(leaf({1, 2, 2, 6}), 2);
       },
       "[depth_to_space] 6 channels do not divide into 2 x 2 pixels"},
      {"differentiable conversion to integers", [] { to(leaf({2}), DType::i64); },
       "[to] expected f32, f64 or bf16, got i64"},
  });
}

TEST_CASE("errors of operations with indices and layouts") {
  const Tensor m43 = ones({4, 3}), none = ones({0, 3});
  const auto indices = [](std::vector<int64_t> values, const Shape& shape) {
    return Tensor::from(values, shape, {DType::i64});
  };
  const Tensor two = indices({0, 1}, {2}), column = indices({0, 1}, {2, 1});
  check_rows({
      {"indices that are floats", [&] { gather(m43, 0, m43); },
       "[gather] expected indices of type i64, got f32"},
      {"no indices", [&] { gather(m43, 0, Tensor()); },
       "[gather] expected indices of type i64, got an undefined tensor"},
      {"negative index",
       [&] {
         gather(m43, 0, indices({-1}, {1, 1}));
       },
       "[gather] expected indices in 0..3, got -1"},
      {"label out of range", [&] { one_hot(two, 1); }, "[one_hot] expected indices in 0..0, got 1"},
      {"id out of range",
       [&] {
         embedding(leaf({1, 2}), two);
       },
       "[gather] expected indices in 0..0, got 1"},
      {"index out of range",
       [&] {
         gather(m43, 0, indices({4}, {1, 1}));
       },
       "[gather] expected indices in 0..3, got 4"},
      {"rank of indices", [&] { gather(m43, 0, two); },
       "[gather] expected indices with 2 axes for (4, 3), got (2,)"},
      {"shape of indices",
       [&] {
         gather(m43, 0, indices({0, 1}, {1, 2}));
       },
       "[gather] expected indices that broadcast to (4, 3) off axis 0, got (1, 2)"},
      {"indices on another device",
       [&] {
         gather(elsewhere({4, 3}), 0, column);
       },
       "[gather] devices differ: 'reference' and 'cpu'; move one with to(device)"},
      {"gather from nothing", [&] { gather(Tensor(), 0, two); },
       "[gather] expected a tensor, got an undefined one (default-constructed)"},
      {"negative size of arange", [] { arange(-1); }, "[arange] expected a size of at least 0, got -1"},
      {"negative size of scatter_add", [&] { scatter_add(m43, 0, column, -1); },
       "[scatter_add] expected a size of at least 0, got -1"},
      {"too few indices", [&] { scatter_add(m43, 0, column, 2); },
       "[scatter_add] expected one index for each of (4, 3) on axis 0, got (2, 1)"},
      {"one_hot of integers", [&] { one_hot(two, 2, DType::i64); },
       "[one_hot] expected a result of f32 or f64, got i64"},
      {"no class", [&] { one_hot(two, 0); }, "[one_hot] expected at least one class, got 0"},
      {"table of embedding", [&] { embedding(leaf({3}), two); },
       "[embedding] expected a table [N, D], got (3,)"},
      {"no ids",
       [] {
         embedding(leaf({3, 2}), Tensor());
       },
       "[embedding] expected ids, got an undefined tensor"},
      {"argmax of nothing", [&] { argmax(none, 0); },
       "[argmax] expected at least one element on axis 0, got shape (0, 3)"},
      {"argmin of nothing", [&] { argmin(none, 0); },
       "[argmin] expected at least one element on axis 0, got shape (0, 3)"},
      {"argmax of a long f32 axis", [] { argmax(ones({1}).expand({(1 << 24) + 1}), 0); },
       "[argmax] expected at most 2^24 elements on axis 0, as far as f32 can count, got shape (16777217,); "
       "convert with "
       "to(DType::f64)"},
      {"min of nothing", [&] { min(none); }, "[min] expected at least one element, got shape (0, 3)"},
      {"axis of cumulative_sum", [&] { cumulative_sum(m43, 2); },
       "[cumulative_sum] axis 2 is outside -2..1 of a tensor with 2 axes"},
      {"axis of argsort", [&] { argsort(m43, 2); },
       "[argsort] axis 2 is outside -2..1 of a tensor with 2 axes"},
      {"axis of sort", [&] { sort(m43, 2); }, "[argsort] axis 2 is outside -2..1 of a tensor with 2 axes"},
      {"stack of nothing", [] { stack(std::vector<Tensor>{}, 0); },
       "[stack] expected at least one tensor, got none"},
      {"stack of no variables", [] { stack(std::vector<Variable>{}, 0); },
       "[stack] expected at least one tensor, got none"},
      {"stack of undefined",
       [&] {
         stack({m43, Tensor()}, 0);
       },
       "[stack] expected tensors, got an undefined one"},
      {"stack of two shapes",
       [&] {
         stack({m43, none}, 0);
       },
       "[stack] expected parts of one shape, got (4, 3) and (0, 3)"},
      {"stack of variables of two shapes",
       [] {
         stack({leaf({4}), leaf({3})}, 0);
       },
       "[stack] expected parts of one shape, got (4,) and (3,)"},
      {"pad of undefined", [] { pad(Tensor(), {}, {}); },
       "[pad] expected a tensor, got an undefined one (default-constructed)"},
      {"sizes of pad",
       [&] {
         pad(m43, {1}, {1, 1});
       },
       "[pad] expected one size before and one after for each axis of (4, 3), got 1 and 2"},
      {"negative pad",
       [&] {
         pad(m43, {0, -1}, {0, 0});
       },
       "[pad] expected sizes of at least 0, got -1 and 0 for axis 1; crop with slice"},
      {"negative part",
       [] {
         split(leaf({4}), {5, -1}, 0);
       },
       "[split] expected sizes of at least 0, got -1"},
      {"axis of split", [] { split(leaf({4}), {4}, 1); },
       "[split] axis 1 is outside -1..0 of a tensor with 1 axes"},
      {"parts of another size",
       [] {
         split(leaf({4}), {2, 3}, 0);
       },
       "[split] expected sizes that add up to 4 (axis 0 of (4,)), got 5"},
      {"step", [&] { m43.slice(0, 0, 4, 0); },
       "[slice] expected a step of at least 1, got 0; reverse with flip"},
      {"condition of where that is a number",
       [&] {
         where(indices({1, 0, 1}, {3}), m43, m43);
       },
       "[where] expected f32, f64 or bf16, got i64; convert with to(dtype)"},
      {"condition of where", [&] { where(none, m43, m43); },
       "[where] shapes do not broadcast: (4, 3) and (0, 3); sizes must be equal or 1, aligned at the last "
       "axis"},
      {"flip of an axis twice",
       [&] {
         m43.flip({0, -2});
       },
       "[flip] expected each axis once, got axis -2 twice"},
      {"log_softmax of nothing", [] { log_softmax(leaf({0})); },
       "[log_softmax] expected at least one element, got shape (0,)"},
      {"logsumexp of nothing", [] { logsumexp(leaf({0})); },
       "[logsumexp] expected at least one element, got shape (0,)"},
      {"cross entropy without labels",
       [] {
         cross_entropy(leaf({2, 3}), Tensor());
       },
       "[cross_entropy] expected logits [..., classes] and labels, got (2, 3) and an undefined tensor"},
      {"shape of labels",
       [&] {
         cross_entropy(leaf({3, 3}), two);
       },
       "[cross_entropy] expected labels of shape (3,) for logits (3, 3), got (2,)"},
      {"variance of one", [] { variance(leaf({1})); },
       "[variance] expected more elements than the correction, which is at least 0; got 1 elements and "
       "correction "
       "1"},
      {"axis of variance", [] { variance(leaf({2}), {1}); },
       "[variance] axis 1 is outside -1..0 of a tensor with 1 axes"},
      {"order of a norm", [] { norm(leaf({2}), {}, false, 0.5); },
       "[norm] expected an order p of at least 1 (or infinity), got 0.5"},
  });
}

TEST_CASE("errors of grouped, dilated and transposed convolutions") {
  const Tensor pair = ones({1, 4, 4, 2}), three = ones({1, 4, 4, 3}), kernel = ones({3, 3, 2, 3});
  check_rows({
      {"no groups", [&] { conv2d(pair, kernel, {}, {.groups = 0}); },
       "[conv2d] expected at least one group, got 0"},
      {"groups of a convolution", [&] { conv2d(pair, kernel, {}, {.groups = 2}); },
       "[conv2d] 2 groups do not divide both the 2 channels of the image and the 3 of the output"},
      {"groups of the output",
       [&] {
         conv2d(ones({1, 4, 4, 3}), ones({3, 3, 1, 4}), {}, {.groups = 3});
       },
       "[conv2d] 3 groups do not divide both the 3 channels of the image and the 4 of the output"},
      {"channels of a group",
       [&] {
         conv2d(pair, ones({3, 3, 2, 4}), {}, {.groups = 2});
       },
       "[conv2d] channels differ: image (1, 4, 4, 2) and kernel (3, 3, 2, 4) (HWIO); with 2 groups the "
       "kernel takes 1 "
       "input channels"},
      {"groups of a gradient",
       [&] {
         conv2d_backward_data(ones({1, 4, 4, 3}), kernel, 6, 6, {.groups = 2});
       },
       "[conv2d_backward_data] 2 groups do not divide both the 4 channels of the image and the 3 of the "
       "output"},
      {"dilation", [&] { conv2d(pair, kernel, {}, {.dilation_h = 0}); },
       "[conv2d] dilations must be positive, got 0 x 1"},
      {"dilated kernel too large", [&] { conv2d(pair, kernel, {}, {.dilation_w = 2}); },
       "[conv2d] the kernel 3 x 5 (with its dilation) is larger than the padded image 4 x 4"},
      {"empty kernel",
       [&] {
         conv2d(pair, ones({0, 3, 2, 3}), {}, {});
       },
       "[conv2d] expected a kernel of at least 1 x 1 pixels, got 0 x 3"},
      {"channels of a transposed convolution", [&] { conv_transpose2d(pair, kernel, {}, {}); },
       "[conv_transpose2d] channels differ: image (1, 4, 4, 2) and kernel (3, 3, 2, 3) (HWOI)"},
      {"groups of a transposed convolution", [&] { conv_transpose2d(three, kernel, {}, {.groups = 2}); },
       "[conv_transpose2d] 2 groups do not divide both the 3 channels of the image and the 4 of the output"},
      {"transposed convolution of nothing",
       [&] {
         conv_transpose2d(ones({1, 0, 4, 3}), kernel, {}, {});
       },
       "[conv_transpose2d] expected at least one pixel, got (1, 0, 4, 3)"},
      {"output padding", [&] { conv_transpose2d(three, kernel, {}, {.stride_h = 2}, 2); },
       "[conv_transpose2d] expected output padding in 0..stride - 1, got 2 x 0 with strides 2 x 1"},
      {"padding of a transposed convolution",
       [&] {
         conv_transpose2d(ones({1, 1, 4, 3}), ones({1, 1, 2, 3}), {}, {.pad_top = 1});
       },
       "[conv_transpose2d] expected at least one pixel of the output, got 0 x 4; use less padding"},
      {"bias of a transposed convolution", [&] { conv_transpose2d(three, kernel, ones({5}), {}); },
       "[conv_transpose2d] expected a bias of shape (2,), got (5,)"},
      {"bias of a transposed convolution, with gradient",
       [&] { conv_transpose2d(Variable(three), Variable(kernel), leaf({5}, DType::f32), {}); },
       "[conv_transpose2d] expected a bias of shape (2,), got (5,)"},
  });
}

TEST_CASE("errors of einsum") {
  const Variable m = leaf({2, 3}), v = leaf({3});
  const auto two = [&](std::string_view formula) { return [&m, &v, formula] { einsum(formula, m, v); }; };
  check_rows({
      {"formula without result", two("ij,j"),
       "[einsum] expected a formula such as \"ij,jk->ik\", got \"ij,j\" without ->"},
      {"dots in a formula", two("...j,j->..."), "[einsum] expected letters, got '.' in \"...j,j->...\""},
      {"comma in the result", two("ij,j->i,"), "[einsum] expected letters, got ',' in \"ij,j->i,\""},
      {"diagonal", two("ii,i->i"),
       "[einsum] expected each axis once in a part of \"ii,i->i\", got 'i' twice; diagonals are not "
       "supported"},
      {"result with an axis twice", two("ij,j->ii"),
       "[einsum] expected each axis once in a part of \"ij,j->ii\", got 'i' twice; diagonals are not "
       "supported"},
      {"too many operands", two("ij->i"), "[einsum] expected 1 operands for \"ij->i\", got 2"},
      {"too few operands", [&] { einsum("ij,jk->ik", m); },
       "[einsum] expected 2 operands for \"ij,jk->ik\", got 1"},
      {"axis from nowhere", two("ij,j->k"),
       "[einsum] expected an operand with each axis of the result of \"ij,j->k\", got none with 'k'"},
      {"rank of an operand", two("ijk,k->i"), "[einsum] expected 3 axes ('ijk' of \"ijk,k->i\"), got (2, 3)"},
      {"size of an axis", two("ij,i->j"),
       "[einsum] expected one size for axis 'i' of \"ij,i->j\", got 2 and 3; sizes are not broadcast"},
  });
}

TEST_CASE("errors of pooling and norms") {
  const Tensor image = ones({1, 4, 4, 2});
  const Variable batch(image), scalar(ones({})), row(ones({3}));
  check_rows({
      {"pooling in groups", [&] { max_pool2d(image, 2, 2, {.groups = 2}); },
       "[max_pool2d] pooling has no groups; expected groups = 1, got 2"},
      {"window in the padding alone", [&] { max_pool2d(image, 1, 1, {.pad_top = 1}); },
       "[max_pool2d] expected windows that reach the image, got one of 1 x 1 in the padding alone for image "
       "(1, 4, 4, 2); use less padding"},
      {"size of a window", [&] { max_pool2d(image, 0, 2, {}); },
       "[max_pool2d] expected a window of at least 1 x 1 pixels, got 0 x 2"},
      {"pooling of a vector", [] { max_pool2d(ones({3}), 2, 2, {}); },
       "[max_pool2d] expected an image batch [B, H, W, C] with 4 axes, got (3,)"},
      {"size of an averaged window", [&] { average_pool2d(batch, 0, 2, {}); },
       "[average_pool2d] expected a window of at least 1 x 1 pixels, got 0 x 2"},
      {"average in groups", [&] { average_pool2d(batch, 2, 2, {.groups = 2}); },
       "[average_pool2d] pooling has no groups; expected groups = 1, got 2"},
      {"average over a vector", [&] { average_pool2d(row, 2, 2, {}); },
       "[average_pool2d] expected an image batch [B, H, W, C], got (3,)"},
      {"layer norm of a scalar", [&] { layer_norm(scalar, {}, {}); },
       "[layer_norm] expected x [..., C], got a scalar"},
      {"gain of a layer norm", [&] { layer_norm(row, Variable(ones({2})), {}); },
       "[layer_norm] expected gain and bias of shape (3,) or none, got (2,)"},
      {"bias of a layer norm", [&] { layer_norm(row, {}, Variable(ones({4}))); },
       "[layer_norm] expected gain and bias of shape (3,) or none, got (4,)"},
      {"instance norm without pixels", [&] { instance_norm(row, {}, {}); },
       "[instance_norm] expected x [B, ..., C] with axes of pixels between and at least one channel, got "
       "(3,)"},
  });
}
