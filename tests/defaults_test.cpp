// Defaults and shorthands: what an argument that is left out means, and what the operators stand for.
#include <doctest/doctest.h>

#include <cmath>

#include "autograd/ops.h"
#include "tests/error_of.h"

using namespace halfstep;
using halfstep::test::error_of;

namespace {
using Doubles = std::vector<double>;
const TensorOptions kF64{DType::f64, &cpu_device()};
Variable row(const Doubles& values, bool requires_grad = false) {
  return Variable(Tensor::from(values, {static_cast<int64_t>(values.size())}, kF64), requires_grad);
}
Doubles values_of(const Variable& v) { return v.value().to_vector<double>(); }
}  // namespace

TEST_CASE("defaults of the backend's arguments") {
  const UnaryArgs unary{.op = UnaryOp::exp};
  CHECK(unary.derivative == 0);
  CHECK(unary.p0 == 0);
  CHECK(unary.p1 == 0);
  CHECK(kMaxDerivative == 3);
  const GemmArgs gemm;
  CHECK(gemm.alpha == 1);
  CHECK(gemm.beta == 0);
  CHECK(gemm.bias.absent());
  const Conv2dGeometry g;
  CHECK(g.stride_h == 1);
  CHECK(g.stride_w == 1);
  CHECK(g.pad_top == 0);
  CHECK(g.pad_bottom == 0);
  CHECK(g.pad_left == 0);
  CHECK(g.pad_right == 0);
  const GroupNormArgs norm;
  CHECK(norm.groups == 1);
  CHECK(norm.eps == 1e-6);
  CHECK(norm.activation == Activation::none);
  CHECK(AttentionArgs{}.scale == 1);
  const RandomArgs random{};
  CHECK(random.seed == 0);
  CHECK(random.stream == 0);
  CHECK(random.first_row == 0);
  const DropoutArgs dropout;
  CHECK(dropout.p == 0);
  CHECK(dropout.seed == 0);
  CHECK(dropout.stream == 0);
  CHECK(OptimizerControlArgs{}.max_norm == 0);
  const AdamArgs adam;
  for (double v : {adam.beta1, adam.beta2, adam.eps, adam.weight_decay, adam.l2}) CHECK(v == 0);

  Array array;
  CHECK(array.absent());
  float memory[6] = {};
  array = {memory, DType::f32, {2, 3}, {3, 1}};
  CHECK_FALSE(array.absent());
  CHECK(array.contiguous());
  CHECK(array.as<float>() == memory);
  array.strides = {1, 2};
  CHECK_FALSE(array.contiguous());
}

TEST_CASE("defaults of tensors") {
  const Tensor t = Tensor::zeros({2, 3});
  CHECK(t.dtype() == DType::f32);
  CHECK(&t.device() == &cpu_device());
  CHECK(t.options().dtype == DType::f32);
  CHECK(t.options().device == &cpu_device());
  CHECK(t.version() == 0);
  t.bump_version();
  CHECK(t.version() == 1);
  CHECK(t.offset() == 0);
  CHECK(t.slice(0, 1, 2).slice(1, 2, 3).offset() == 5);
  CHECK(t.rank() == 2);
  CHECK(t.numel() == 6);
  CHECK_FALSE(Tensor().defined());
  CHECK(t.defined());
  CHECK(Tensor::zeros({2}).to_vector<double>() == Doubles{0, 0});
  CHECK(Tensor::ones({2}).to_vector<double>() == Doubles{1, 1});
  CHECK(Tensor::full({2}, 2.5).to_vector<double>() == Doubles{2.5, 2.5});
  CHECK(Tensor::scalar(2.5).item() == 2.5);
  CHECK(Tensor::scalar(2.5).shape() == Shape{});

  const Tensor a = Tensor::from(Doubles{1, 2}, {2}), b = Tensor::from(Doubles{4, 3}, {2});
  CHECK(add(a, b).to_vector<double>() == Doubles{5, 5});
  CHECK(subtract(a, b).to_vector<double>() == Doubles{-3, -1});
  CHECK(multiply(a, b).to_vector<double>() == Doubles{4, 6});
  CHECK(divide(b, a).to_vector<double>() == Doubles{4, 1.5});
  CHECK(binary(BinaryOp::lerp, a, b).to_vector<double>() == Doubles{1, 2});  // p0 is 0
  const Tensor target = a.clone();
  binary_(BinaryOp::lerp, target, b);
  CHECK(target.to_vector<double>() == Doubles{1, 2});
  CHECK(sum(t).shape() == Shape{});
  CHECK(sum(t, {1}).shape() == Shape{2});
  CHECK(mean(t, {1}).shape() == Shape{2});
  CHECK(max(t, {1}).shape() == Shape{2});

  const RandomKey key;
  CHECK(key.seed == 0);
  CHECK(key.stream == 0);
  for (auto draw : {random_normal, random_uniform}) {
    const auto reference = draw({3, 5}, {0, 0}, 0, kF64).to_vector<double>();
    CHECK(draw({3, 5}, {}, 0, kF64).to_vector<double>() == reference);
  }
  CHECK(random_normal({3, 5}, {}).to_vector<double>() ==
        random_normal({3, 5}, {0, 0}, 0).to_vector<double>());
  CHECK(random_uniform({3, 5}, {}).to_vector<double>() ==
        random_uniform({3, 5}, {0, 0}, 0).to_vector<double>());
}

TEST_CASE("defaults of variables and their functions") {
  CHECK_FALSE(Variable().defined());
  CHECK_FALSE(row({1}).requires_grad());
  CHECK(row({1}).defined());
  const Variable x = row({1, 2, 4}, true);
  CHECK(x.same(x));
  CHECK_FALSE(x.same(row({1, 2, 4})));
  CHECK(x.rank() == 1);
  CHECK(x.size(0) == 3);
  CHECK(x.numel() == 3);
  CHECK(x.dtype() == DType::f64);
  CHECK(x.options().device == &cpu_device());
  CHECK(sum(x).item() == 7);

  // Without retain_graph the graph is freed, without create_graph gradients have no history.
  const Variable y = sum(square(x));
  y.backward();
  CHECK_FALSE(x.grad().requires_grad());
  CHECK(error_of([&] { y.backward(); }) != "(no error)");
  const Variable z = square(x);
  z.backward(row({1, 1, 1}));
  CHECK_FALSE(x.grad().requires_grad());
  CHECK(error_of([&] { z.backward(row({1, 1, 1})); }) != "(no error)");
  const Variable w = sum(square(x));
  CHECK_FALSE(grad(w, {x})[0].requires_grad());
  CHECK(error_of([&] { grad(w, {x}); }) != "(no error)");
  {
    NoGrad off;
    CHECK_FALSE(is_recording());
    {
      EnableGrad on;
      CHECK(is_recording());
    }
    CHECK_FALSE(is_recording());
  }
  CHECK(is_recording());

  CHECK(sum(x).shape() == Shape{});
  CHECK(mean(x).shape() == Shape{});
  CHECK(mean(x).item() == doctest::Approx(7.0 / 3));
  const Variable image(Tensor::zeros({1, 2, 4, 4}, kF64));
  CHECK(upsample_nearest(image).shape() == Shape{1, 4, 8, 4});
  CHECK(average_pool(image).shape() == Shape{1, 1, 2, 4});
  CHECK(space_to_depth(image).shape() == Shape{1, 1, 2, 16});
  CHECK(depth_to_space(image).shape() == Shape{1, 4, 8, 1});

  // eps = 1e-6, seen where it is large beside the variance.
  const Variable tiny(Tensor::from(Doubles{1e-3, -1e-3}, {1, 1, 2}, kF64)), one = row({1, 1}),
                                                                            zero = row({0, 0});
  CHECK(values_of(group_norm(tiny, one, zero, 1))[0] == doctest::Approx(1 / std::sqrt(2)).epsilon(1e-12));
  CHECK(values_of(group_norm(tiny, one, row({1, 1}), 1))[1] ==
        doctest::Approx(1 - 1 / std::sqrt(2)).epsilon(1e-12));
  // The default scale is 1 / sqrt(D).
  const auto random = [](uint64_t stream) {
    return Variable(random_normal({1, 3, 1, 4}, {1, stream}, 0, kF64));
  };
  const Variable q = random(1), k = random(2), v = random(3);
  CHECK(values_of(attention(q, k, v)) == values_of(attention(q, k, v, 0.5)));
  CHECK(values_of(attention(q, k, v)) != values_of(attention(q, k, v, 1)));
}

TEST_CASE("operators stand for their functions, with numbers on either side") {
  const Variable a = row({1, 2}), b = row({4, 8});
  CHECK(values_of(a + b) == Doubles{5, 10});
  CHECK(values_of(a - b) == Doubles{-3, -6});
  CHECK(values_of(a * b) == Doubles{4, 16});
  CHECK(values_of(b / a) == Doubles{4, 4});
  CHECK(values_of(a + 3.0) == Doubles{4, 5});
  CHECK(values_of(3.0 + a) == Doubles{4, 5});
  CHECK(values_of(a - 3.0) == Doubles{-2, -1});
  CHECK(values_of(3.0 - a) == Doubles{2, 1});
  CHECK(values_of(a * 3.0) == Doubles{3, 6});
  CHECK(values_of(3.0 * a) == Doubles{3, 6});
  CHECK(values_of(a / 4.0) == Doubles{0.25, 0.5});
  CHECK(values_of(-a) == Doubles{-1, -2});
}
