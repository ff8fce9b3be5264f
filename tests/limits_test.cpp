// The limits of every argument: the last value that is taken and the first that is refused, one condition at
// a time. (What the messages say is the table of errors' matter.)
#include <doctest/doctest.h>

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "autograd/ops.h"
#include "tests/error_of.h"

using namespace halfstep;
using halfstep::test::error_of;

namespace {

/// Whether the call is refused with an error of this operation.
bool refused(const char* operation, const std::function<void()>& call) {
  const std::string error = error_of(call);
  return error.rfind("[" + std::string(operation) + "] ", 0) == 0;
}
bool taken(const std::function<void()>& call) { return error_of(call) == "(no error)"; }

Tensor zeros(const Shape& shape, DType dtype = DType::f32) {
  return Tensor::zeros(shape, {dtype, &cpu_device()});
}
Tensor elsewhere(const Shape& shape) { return Tensor::zeros(shape, {DType::f32, &reference_device()}); }
Variable variable(const Shape& shape) { return Variable(zeros(shape), true); }

}  // namespace

TEST_CASE("limits of views") {
  const Tensor t = zeros({4, 3});
  for (const std::pair<int, int>& range :
       std::vector<std::pair<int, int>>{{0, 4}, {-4, 4}, {4, 4}, {2, 2}, {-1, 4}, {0, -4}, {1, -1}, {0, 0}}) {
    const int begin = range.first, end = range.second;
    CAPTURE(begin);
    CAPTURE(end);
    CHECK(taken([&, b = begin, e = end] { t.slice(0, b, e); }));
  }
  for (const std::pair<int, int>& range :
       std::vector<std::pair<int, int>>{{0, 5}, {-5, 4}, {3, 2}, {0, -5}, {5, 5}, {-1, -2}}) {
    const int begin = range.first, end = range.second;
    CAPTURE(begin);
    CAPTURE(end);
    CHECK(refused("slice", [&, b = begin, e = end] { t.slice(0, b, e); }));
  }
  CHECK(refused("slice", [&] { t.slice(2, 0, 1); }));
  CHECK(refused("slice", [&] { t.slice(-3, 0, 1); }));
  CHECK(refused("permute", [&] { t.permute({0}); }));
  CHECK(refused("permute", [&] { t.permute({0, 1, 0}); }));
  CHECK(refused("permute", [&] { t.permute({1, -1}); }));
  CHECK(refused("permute", [&] { t.permute({0, 2}); }));
  CHECK(refused("transpose", [&] { t.transpose(0, 2); }));
  CHECK(refused("transpose", [&] { t.transpose(-3, 0); }));
  CHECK(refused("unsqueeze", [&] { t.unsqueeze(3); }));
  CHECK(refused("unsqueeze", [&] { t.unsqueeze(-4); }));
  CHECK(refused("squeeze", [&] { t.squeeze(0); }));
  CHECK(refused("squeeze", [&] { zeros({1, 0}).squeeze(1); }));
  CHECK(refused("size", [&] { t.size(2); }));
  CHECK(refused("expand", [&] { t.expand({3}); }));
  CHECK(refused("expand", [&] { t.expand({4, 4}); }));
  CHECK(taken([&] { t.expand({0, 4, 3}); }));
  CHECK(taken([] { zeros({1}).expand({0}); }));

  CHECK(refused("reshape", [&] { t.reshape({5, -1}); }));
  CHECK(refused("reshape", [&] { t.reshape({-1, -1}); }));
  CHECK(refused("reshape", [&] { t.reshape({13}); }));
  CHECK(refused("reshape", [&] { t.reshape({-3, -4}); }));  // the product would fit
  CHECK(refused("reshape", [&] { t.reshape({-2, 3, -2}); }));
  CHECK(refused("reshape", [] { zeros({0, 3}).reshape({0, -1}); }));  // any size would fit
  CHECK(zeros({0, 3}).reshape({-1, 3}).shape() == Shape{0, 3});
  CHECK(t.reshape({-1}).shape() == Shape{12});
  CHECK(zeros({}).reshape({-1, 1}).shape() == Shape{1, 1});
  CHECK(refused("empty", [] { Tensor::empty({2, -1}); }));
  CHECK(taken([] { Tensor::empty({2, 0}); }));
  CHECK(refused("from", [] { Tensor::from(std::vector<float>{1, 2}, {3}); }));
  CHECK(refused("from", [] { Tensor::from(std::vector<float>{1, 2}, {}); }));
  CHECK(refused("item", [] { zeros({2}).item(); }));
  CHECK(refused("item", [] { zeros({0}).item(); }));
  CHECK(zeros({1, 1}).item() == 0);
  CHECK(refused("copy_", [&] { t.copy_(elsewhere({4, 3})); }));
  CHECK(refused("expand", [&] { zeros({3}).copy_(t); }));
}

TEST_CASE("limits of the elementwise functions") {
  const Tensor x = zeros({2, 3}), i64 = zeros({2, 3}, DType::i64), bf16 = zeros({2, 3}, DType::bf16),
               f64 = zeros({2, 3}, DType::f64);
  for (int order = 0; order <= kMaxDerivative; ++order)
    CHECK(taken([&] { unary({.op = UnaryOp::exp, .derivative = order}, x); }));
  for (int order : {-1, kMaxDerivative + 1}) {
    CHECK(refused("exp", [&] { unary({.op = UnaryOp::exp, .derivative = order}, x); }));
    CHECK(refused("exp", [&] { unary_chain({.op = UnaryOp::exp, .derivative = order}, x, x); }));
  }
  CHECK(refused("exp", [&] { unary({.op = UnaryOp::exp}, i64); }));
  CHECK(taken([&] { unary({.op = UnaryOp::exp}, bf16); }));
  CHECK(refused("exp", [&] { unary({.op = UnaryOp::exp}, Tensor()); }));
  CHECK(refused("exp", [&] { unary_chain({.op = UnaryOp::exp, .derivative = 1}, zeros({3}), x); }));
  CHECK(refused("exp", [&] { unary_chain({.op = UnaryOp::exp, .derivative = 1}, f64, x); }));
  for (const Tensor& other : {f64, bf16, i64, elsewhere({2, 3}), zeros({2}), Tensor()}) {
    CHECK(refused("add", [&] { add(x, other); }));
    CHECK(refused("add", [&] { add(other, x); }));
    if (!other.defined() || other.shape() == x.shape())
      CHECK(refused("add", [&] { binary_(BinaryOp::add, x, other); }));
  }
  CHECK(refused("expand", [&] { binary_(BinaryOp::add, zeros({3}), x); }));  // the target does not grow
  CHECK(taken([] { clamp(variable({3}), 1, 1); }));
  CHECK(refused("clamp", [] { clamp(variable({3}), 1, 0.5); }));
  CHECK(taken([&] { dropout(x, 0, {}); }));
  CHECK(refused("dropout", [&] { dropout(x, 1, {}); }));
  CHECK(refused("dropout", [&] { dropout(x, -1e-9, {}); }));
  CHECK(refused("dropout", [&] { dropout(i64, 0.5, {}); }));
  CHECK(dropout(affine(x, 0, 2), 0, {}).to_vector<double>() == std::vector<double>(6, 2.0));
  CHECK(refused("to", [] { to(variable({2}), DType::i64); }));
  CHECK(taken([] { to(variable({2}), DType::bf16); }));
}

TEST_CASE("limits of the reductions") {
  const Tensor nothing = zeros({0, 3});
  CHECK(sum(nothing).item() == 0);
  CHECK(sum(nothing, {0}).to_vector<double>() == std::vector<double>(3, 0.0));
  CHECK(refused("mean", [&] { mean(nothing); }));
  CHECK(refused("mean", [] { mean(variable({0, 3})); }));
  CHECK(refused("max", [&] { max(nothing, {0}); }));
  CHECK(taken([] { mean(zeros({1})); }));
  CHECK(taken([] { max(zeros({1})); }));
  for (int axis : {2, -3}) {
    CHECK(refused("sum", [&] { sum(nothing, {axis}); }));
    CHECK(refused("max", [&] { max(zeros({2, 3}), {axis}); }));
    CHECK(refused("mean", [&] { mean(zeros({2, 3}), {axis}); }));
  }
  CHECK(refused("sum", [] { sum(zeros({2}, DType::i64)); }));
  CHECK(refused("sum_to", [] { sum_to(zeros({2, 3}), {2}); }));
  CHECK(refused("sum_to", [] { sum_to(zeros({3}), {2, 3}); }));
  CHECK(taken([] { sum_to(zeros({2, 3}), {}); }));
  CHECK(refused("sum_of_squares", [] { sum_of_squares({}); }));
  CHECK(refused("sum_of_squares", [] { sum_of_squares({zeros({2}), elsewhere({2})}); }));
  CHECK(refused("sum_of_squares", [] { sum_of_squares({zeros({2}, DType::i64)}); }));
}

TEST_CASE("limits of the products") {
  CHECK(refused("matmul", [] { matmul(zeros({3}), zeros({3, 2})); }));
  CHECK(refused("matmul", [] { matmul(zeros({2, 3}), zeros({3})); }));
  CHECK(refused("matmul", [] { matmul(zeros({2, 3}), zeros({2, 3})); }));
  CHECK(refused("matmul", [] { matmul(zeros({2, 2, 3}), zeros({3, 3, 2})); }));
  CHECK(refused("matmul", [] { matmul(zeros({2, 3}), zeros({3, 2}, DType::f64)); }));
  CHECK(refused("matmul", [] { matmul(zeros({2, 3}), zeros({3, 2}), zeros({3})); }));
  CHECK(refused("matmul", [] { matmul(zeros({2, 3}), zeros({3, 2}), zeros({1, 2})); }));
  CHECK(refused("matmul", [] { matmul(zeros({2, 3}), zeros({3, 2}), zeros({2}, DType::f64)); }));
  CHECK(taken([] { matmul(zeros({2, 3}), zeros({3, 2}), zeros({2})); }));
  CHECK(refused("linear", [] { linear(variable({}), variable({3, 2})); }));
  CHECK(refused("linear", [] { linear(variable({3}), variable({3})); }));
  CHECK(refused("linear", [] { linear(variable({3}), variable({1, 3, 2})); }));
  CHECK(refused("linear", [] { linear(variable({4}), variable({3, 2})); }));
  CHECK(linear(variable({3}), variable({3, 2})).shape() == Shape{2});
  CHECK(linear(variable({2, 0}), variable({0, 5})).shape() == Shape{2, 5});
  CHECK(linear(variable({2, 3}), variable({3, 0})).shape() == Shape{2, 0});
}

TEST_CASE("limits of the convolutions") {
  const Tensor x = zeros({2, 4, 5, 3}), kernel = zeros({2, 3, 3, 6});
  const Conv2dGeometry plain;
  CHECK(taken([&] { conv2d(x, kernel, zeros({6}), plain); }));
  const auto with = [](int Conv2dGeometry::*field, int value) {
    Conv2dGeometry g;
    g.*field = value;
    return g;
  };
  for (auto stride : {&Conv2dGeometry::stride_h, &Conv2dGeometry::stride_w}) {
    CHECK(refused("conv2d", [&] { conv2d(x, kernel, {}, with(stride, 0)); }));
    CHECK(refused("conv2d", [&] { conv2d(x, kernel, {}, with(stride, -1)); }));
    CHECK(taken([&] { conv2d(x, kernel, {}, with(stride, 9)); }));
  }
  for (auto pad : {&Conv2dGeometry::pad_top, &Conv2dGeometry::pad_bottom, &Conv2dGeometry::pad_left,
                   &Conv2dGeometry::pad_right})
    CHECK(refused("conv2d", [&] { conv2d(x, kernel, {}, with(pad, -1)); }));
  CHECK(refused("conv2d", [&] { conv2d(zeros({4, 5, 3}), kernel, {}, plain); }));
  CHECK(refused("conv2d", [&] { conv2d(x, zeros({3, 3, 6}), {}, plain); }));
  CHECK(refused("conv2d", [&] { conv2d(x, zeros({2, 3, 4, 6}), {}, plain); }));
  CHECK(refused("conv2d", [&] { conv2d(x, zeros({2, 3, 3, 6}, DType::f64), {}, plain); }));
  CHECK(refused("conv2d", [&] { conv2d(x, kernel, zeros({3}), plain); }));
  CHECK(refused("conv2d", [&] { conv2d(x, kernel, zeros({1, 6}), plain); }));
  CHECK(refused("conv2d", [&] { conv2d(x, kernel, zeros({6}, DType::f64), plain); }));
  // As large as the padded image is the most, in each direction.
  CHECK(conv2d(x, zeros({4, 5, 3, 6}), {}, plain).shape() == Shape{2, 1, 1, 6});
  CHECK(refused("conv2d", [&] { conv2d(x, zeros({5, 5, 3, 6}), {}, plain); }));
  CHECK(refused("conv2d", [&] { conv2d(x, zeros({4, 6, 3, 6}), {}, plain); }));
  CHECK(taken([&] { conv2d(x, zeros({5, 5, 3, 6}), {}, with(&Conv2dGeometry::pad_top, 1)); }));
  CHECK(taken([&] { conv2d(x, zeros({5, 5, 3, 6}), {}, with(&Conv2dGeometry::pad_bottom, 1)); }));
  CHECK(taken([&] { conv2d(x, zeros({4, 6, 3, 6}), {}, with(&Conv2dGeometry::pad_left, 1)); }));
  CHECK(taken([&] { conv2d(x, zeros({4, 6, 3, 6}), {}, with(&Conv2dGeometry::pad_right, 1)); }));

  for (auto dilation : {&Conv2dGeometry::dilation_h, &Conv2dGeometry::dilation_w}) {
    CHECK(refused("conv2d", [&] { conv2d(x, kernel, {}, with(dilation, 0)); }));
    CHECK(taken([&] { conv2d(x, kernel, {}, with(dilation, 2)); }));
  }
  CHECK(refused("conv2d",
                [&] { conv2d(x, kernel, {}, with(&Conv2dGeometry::dilation_h, 4)); }));  // spans 5 of 4
  CHECK(refused("conv2d",
                [&] { conv2d(x, kernel, {}, with(&Conv2dGeometry::dilation_w, 3)); }));  // spans 7 of 5
  CHECK(taken([&] { conv2d(x, kernel, {}, with(&Conv2dGeometry::dilation_h, 3)); }));
  for (int groups : {0, -1, 2, 3})
    CHECK(refused("conv2d", [&] { conv2d(x, kernel, {}, with(&Conv2dGeometry::groups, groups)); }));
  CHECK(taken([&] { conv2d(x, zeros({2, 3, 1, 6}), {}, with(&Conv2dGeometry::groups, 3)); }));
  CHECK(refused("conv2d", [&] { conv2d(x, zeros({2, 3, 1, 5}), {}, with(&Conv2dGeometry::groups, 3)); }));

  const Tensor dy = zeros({2, 3, 3, 6});
  CHECK(conv2d_backward_data(dy, kernel, 4, 5, plain).shape() == x.shape());
  CHECK(conv2d_backward_kernel(x, dy, 2, 3, plain).shape() == kernel.shape());
  for (int axis = 1; axis < 4; ++axis) {
    Shape wrong = dy.shape();
    wrong[axis] += 1;
    CHECK(refused("conv2d_backward_data", [&] { conv2d_backward_data(zeros(wrong), kernel, 4, 5, plain); }));
    if (axis < 3)
      CHECK(refused("conv2d_backward_kernel", [&] { conv2d_backward_kernel(x, zeros(wrong), 2, 3, plain); }));
  }
  CHECK(refused("conv2d_backward_data", [&] {
    conv2d_backward_data(zeros({3, 3, 6}), kernel, 4, 5, plain);
  }));
  CHECK(refused("conv2d_backward_data", [&] { conv2d_backward_data(dy, zeros({3, 3, 6}), 4, 5, plain); }));
  CHECK(refused("conv2d_backward_data", [&] {
    conv2d_backward_data(dy, zeros({2, 3, 3, 6}, DType::f64), 4, 5, plain);
  }));
  CHECK(refused("conv2d_backward_kernel", [&] {
    conv2d_backward_kernel(x, zeros({3, 3, 3, 6}), 2, 3, plain);
  }));
  CHECK(refused("conv2d_backward_kernel", [&] { conv2d_backward_kernel(x, zeros({3, 3, 6}), 2, 3, plain); }));
  CHECK(refused("conv2d_backward_kernel", [&] {
    conv2d_backward_kernel(zeros({4, 5, 3}), dy, 2, 3, plain);
  }));
  CHECK(refused("conv2d_backward_kernel", [&] {
    conv2d_backward_kernel(x, zeros({2, 3, 3, 6}, DType::f64), 2, 3, plain);
  }));
}

TEST_CASE("limits of concat and of the images") {
  const Tensor t = zeros({2, 3});
  CHECK(refused("concat", [] { concat(std::vector<Tensor>{}, 0); }));
  CHECK(refused("concat", [&] { concat({Tensor(), t}, 0); }));
  CHECK(refused("concat", [&] { concat({t, Tensor()}, 0); }));
  CHECK(refused("concat", [&] { concat({t, zeros({2, 3}, DType::f64)}, 0); }));
  CHECK(refused("concat", [&] { concat({t, elsewhere({2, 3})}, 0); }));
  CHECK(refused("concat", [&] { concat({t, zeros({2, 4})}, 0); }));
  CHECK(refused("concat", [&] { concat({t, zeros({1, 3})}, 1); }));
  CHECK(refused("concat", [&] { concat({t, zeros({2, 3, 1})}, 0); }));
  CHECK(refused("concat", [&] { concat({t, zeros({2})}, 1); }));
  CHECK(refused("concat", [&] { concat({t, t}, 2); }));
  CHECK(concat({t, zeros({0, 3})}, 0).shape() == Shape{2, 3});
  CHECK(concat({zeros({2}, DType::i64), zeros({1}, DType::i64)}, 0).shape() == Shape{3});

  const Variable image = variable({1, 4, 6, 8});
  const std::pair<const char*, Variable (*)(const Variable&, int)> functions[] = {
      {"upsample_nearest", upsample_nearest},
      {"average_pool", average_pool},
      {"space_to_depth", space_to_depth},
      {"depth_to_space", depth_to_space}};
  for (const auto& entry : functions) {
    const auto& name = entry.first;
    const auto& function = entry.second;
    CAPTURE(name);
    CHECK(function(image, 1).shape() == image.shape());
    CHECK(refused(name, [&, f = function] { f(image, 0); }));
    CHECK(refused(name, [&, f = function] { f(image, -1); }));
    CHECK(refused(name, [&, f = function] { f(variable({4, 6, 8}), 2); }));
  }
  CHECK(refused("space_to_depth", [] { space_to_depth(variable({1, 3, 4, 1})); }));
  CHECK(refused("space_to_depth", [] { space_to_depth(variable({1, 4, 3, 1})); }));
  CHECK(space_to_depth(variable({1, 6, 9, 2}), 3).shape() == Shape{1, 2, 3, 18});
  CHECK(refused("depth_to_space", [] { depth_to_space(variable({1, 4, 4, 6})); }));
  CHECK(depth_to_space(variable({1, 2, 3, 18}), 3).shape() == Shape{1, 6, 9, 2});
  CHECK(average_pool(variable({1, 5, 3, 2})).shape() == Shape{1, 2, 1, 2});
  CHECK(average_pool(variable({1, 7, 9, 2}), 3).shape() == Shape{1, 2, 3, 2});
  CHECK(upsample_nearest(variable({1, 2, 3, 2}), 3).shape() == Shape{1, 6, 9, 2});
  CHECK(refused("mean", [] { average_pool(variable({1, 1, 4, 2})); }));
}

TEST_CASE("limits of the normalisations and of attention") {
  CHECK(refused("softmax", [] { softmax(zeros({})); }));
  CHECK(refused("softmax", [] { softmax(zeros({2}, DType::i64)); }));
  CHECK(taken([] { softmax(zeros({1})); }));
  CHECK(refused("softmax_backward", [] { softmax_backward(zeros({2, 3}), zeros({3})); }));
  CHECK(refused("softmax_backward", [] { softmax_backward(zeros({3}), zeros({3}, DType::f64)); }));

  const Tensor x = zeros({2, 5, 6}), row = zeros({6});
  const auto norm = [&](const Tensor& in, const Tensor& gain, const Tensor& bias, int groups) {
    return [=] { group_norm(in, gain, bias, groups, 1e-6, Activation::none); };
  };
  for (int groups : {1, 2, 3, 6}) CHECK(taken(norm(x, row, row, groups)));
  for (int groups : {0, -1, 4, 5, 12}) CHECK(refused("group_norm", norm(x, row, row, groups)));
  CHECK(refused("group_norm", norm(row, row, row, 2)));
  CHECK(taken(norm(zeros({2, 6}), row, row, 2)));
  for (const Shape& good : {Shape{6}, Shape{1, 6}, Shape{2, 6}}) {
    CHECK(taken(norm(x, zeros(good), row, 2)));
    CHECK(taken(norm(x, row, zeros(good), 2)));
  }
  for (const Shape& wrong : {Shape{5}, Shape{3, 6}, Shape{2, 5}, Shape{1, 1, 6}, Shape{2, 1, 6}, Shape{1}}) {
    CAPTURE(str(wrong));
    CHECK(refused("group_norm", norm(x, zeros(wrong), row, 2)));
    CHECK(refused("group_norm", norm(x, row, zeros(wrong), 2)));
  }
  CHECK(refused("group_norm", norm(x, zeros({6}, DType::f64), row, 2)));
  CHECK(refused("group_norm", norm(x, row, elsewhere({6}), 2)));
  const auto forward = group_norm(x, row, row, 2, 1e-6, Activation::none);
  const auto norm_back = [&](const Tensor& dy) {
    return [&, dy] { group_norm_backward(dy, x, row, row, forward, 2, 1e-6, Activation::none); };
  };
  CHECK(taken(norm_back(zeros({2, 5, 6}))));
  CHECK(refused("group_norm_backward", norm_back(zeros({2, 6, 5}))));
  CHECK(refused("group_norm_backward", norm_back(zeros({2, 5, 6}, DType::f64))));

  const Shape q{2, 4, 3, 5}, kv{2, 7, 3, 5};
  const auto attend = [](const Shape& a, const Shape& b, const Shape& c) {
    return [=] { attention(zeros(a), zeros(b), zeros(c), 1); };
  };
  CHECK(taken(attend(q, kv, kv)));
  CHECK(refused("attention", attend(q, kv, {2, 8, 3, 5})));
  for (int axis : {0, 2, 3}) {
    Shape other = kv;
    other[axis] += 1;
    CHECK(refused("attention", attend(q, other, other)));
  }
  CHECK(refused("attention", attend(q, {2, 0, 3, 5}, {2, 0, 3, 5})));
  CHECK(taken(attend({2, 0, 3, 5}, kv, kv)));
  CHECK(refused("attention", attend({2, 4, 5}, kv, kv)));
  CHECK(refused("attention", attend(q, {2, 7, 5}, {2, 7, 5})));
  CHECK(refused("attention", [&] { attention(zeros(q), zeros(kv, DType::f64), zeros(kv), 1); }));
  const auto result = attention(zeros(q), zeros(kv), zeros(kv), 1);
  const auto attend_back = [&](const Tensor& d_out) {
    return [&, d_out] { attention_backward(d_out, zeros(q), zeros(kv), zeros(kv), result, 1); };
  };
  CHECK(taken(attend_back(zeros(q))));
  CHECK(refused("attention_backward", attend_back(zeros(kv))));
  CHECK(refused("attention_backward", attend_back(zeros(q, DType::f64))));
}

TEST_CASE("limits of the random numbers") {
  constexpr uint64_t kRows = uint64_t{1} << 32;
  for (auto draw : {random_normal, random_uniform}) {
    CHECK(taken([&] { draw({2, 3}, {}, kRows - 2, {}); }));
    CHECK(refused("random", [&] { draw({2, 3}, {}, kRows - 1, {}); }));
    CHECK(taken([&] { draw({}, {}, kRows - 1, {}); }));
    CHECK(refused("random", [&] { draw({}, {}, kRows, {}); }));
    CHECK(refused("random", [&] { draw({2}, {}, 0, {DType::i64, &cpu_device()}); }));
    CHECK(draw({0, 3}, {}, 0, {}).shape() == Shape{0, 3});
    CHECK(draw({3, 0}, {}, 0, {}).shape() == Shape{3, 0});
  }
}
