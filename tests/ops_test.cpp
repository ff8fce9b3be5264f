// Runs the case table: every operation on every device, in both dtypes, layouts and orders of
// differentiation.
#include <doctest/doctest.h>

#include <cmath>
#include <limits>

#include "autograd/cases/op_cases.h"
#include "autograd/composed.h"
#include "autograd/gradcheck.h"
#include "autograd/ops.h"
#include "tests/unreadable_backend.h"

using namespace halfstep;

namespace {

/// The output and the gradients of all inputs for an all-ones-like upstream, as f64 on the host.
std::vector<std::vector<double>> results(const OpCase& c, std::vector<Variable> inputs) {
  const Variable y = c.function(inputs);
  const Tensor upstream =
      random_uniform(y.shape(), {5, 0}, 0, {DType::f32, &y.value().device()}).to(y.dtype());
  const auto gradients = grad(y, inputs, Variable(upstream));
  std::vector<std::vector<double>> all{y.value().to_vector<double>()};
  for (const Variable& g : gradients) all.push_back(g.value().to_vector<double>());
  return all;
}

/// |a - b| <= bound * max(1, max|b|), element by element; NaN never passes.
void check_close(const std::vector<double>& a, const std::vector<double>& b, double bound) {
  REQUIRE(a.size() == b.size());
  double largest = 1, error = 0;
  for (double v : b) largest = std::max(largest, std::abs(v));
  for (size_t i = 0; i < a.size(); ++i) {
    const double e = std::abs(a[i] - b[i]);
    if (!(e <= error)) error = e;
  }
  CHECK(error <= bound * largest);
}

/// The same values with the memory order of the axes reversed: nothing is contiguous any more.
Variable reversed_layout(const Variable& v) {
  std::vector<int> order;
  for (int i = v.rank() - 1; i >= 0; --i) order.push_back(i);
  return Variable(v.value().permute(order).clone().permute(order), v.requires_grad());
}

}  // namespace

TEST_CASE("gradients agree with differences in f64") {
  for (Device* device : {&reference_device(), &cpu_device()})
    for (const OpCase& c : op_cases()) {
      CAPTURE(c.name);
      CAPTURE(device->name());
      const auto report =
          gradcheck(c.function, make_inputs(c, {DType::f64, device}), {.mode = GradcheckMode::full});
      CHECK_MESSAGE(report.ok, report.message);
      const auto direction = gradcheck(c.function, make_inputs(c, {DType::f64, device}),
                                       {.mode = GradcheckMode::random_direction});
      CHECK_MESSAGE(direction.ok, direction.message);
    }
}

TEST_CASE("gradients of gradients agree with differences in f64") {
  for (const OpCase& c : op_cases()) {
    if (!c.second_order) continue;
    CAPTURE(c.name);
    const auto report = gradgradcheck(c.function, make_inputs(c, {DType::f64, &cpu_device()}));
    CHECK_MESSAGE(report.ok, report.message);
  }
}

TEST_CASE("the cpu and unreadable devices agree with reference, forward and backward") {
  for (const OpCase& c : op_cases()) {
    CAPTURE(c.name);
    for (DType dtype : {DType::f32, DType::f64}) {
      const auto expected = results(c, make_inputs(c, {dtype, &reference_device()}, true));
      // Sums here have fewer than 200 terms of order 1; reference accumulates in double.
      const double eps = dtype == DType::f32 ? std::numeric_limits<float>::epsilon() : 1e-16;
      const auto cpu = results(c, make_inputs(c, {dtype, &cpu_device()}, true));
      const auto unreadable = results(c, make_inputs(c, {dtype, &unreadable_device()}, true));
      for (size_t i = 0; i < expected.size(); ++i) {
        check_close(cpu[i], expected[i], 200 * eps);
        CHECK(unreadable[i] == expected[i]);  // the same kernels: the same bits
      }
    }
  }
}

TEST_CASE("any layout of the inputs gives the same results") {
  for (const OpCase& c : op_cases()) {
    CAPTURE(c.name);
    for (Device* device : {&reference_device(), &cpu_device()}) {
      auto inputs = make_inputs(c, {DType::f64, device}, true);
      const auto expected = results(c, inputs);
      for (Variable& v : inputs) v = reversed_layout(v);
      const auto got = results(c, inputs);
      for (size_t i = 0; i < expected.size(); ++i) check_close(got[i], expected[i], 1e-14);
    }
  }
}

TEST_CASE("fused operations equal their composed definitions") {
  const TensorOptions f64{DType::f64, &cpu_device()};
  const Variable x(random_normal({2, 4, 4, 6}, {1, 0}, 0, f64)), gain(random_normal({2, 6}, {1, 1}, 0, f64)),
      bias(random_normal({2, 6}, {1, 2}, 0, f64));
  for (Activation activation : {Activation::none, Activation::silu})
    check_close(group_norm(x, gain, bias, 3, 1e-6, activation).value().to_vector<double>(),
                composed::group_norm(x, gain, bias, 3, 1e-6, activation).value().to_vector<double>(), 1e-13);
  check_close(softmax(x).value().to_vector<double>(), composed::softmax(x).value().to_vector<double>(),
              1e-14);
  const Variable k(random_normal({2, 5, 4, 6}, {1, 3}, 0, f64)),
      v(random_normal({2, 5, 4, 6}, {1, 4}, 0, f64));
  check_close(attention(x, k, v, 0.7).value().to_vector<double>(),
              composed::attention(x, k, v, 0.7).value().to_vector<double>(), 1e-13);
}

TEST_CASE("convolution is cross-correlation with zero padding (hand-computed)") {
  // 3x3 image 1..9, kernel picks the right neighbour: y(i, j) = x(i, j + 1), 0 outside.
  std::vector<double> image{1, 2, 3, 4, 5, 6, 7, 8, 9}, kernel(9, 0.0);
  kernel[5] = 1;
  const TensorOptions f64{DType::f64, &cpu_device()};
  const Tensor y = conv2d(Tensor::from(image, {1, 3, 3, 1}, f64), Tensor::from(kernel, {3, 3, 1, 1}, f64), {},
                          {1, 1, 1, 1, 1, 1});
  CHECK(y.to_vector<double>() == std::vector<double>{2, 3, 0, 5, 6, 0, 8, 9, 0});
}

TEST_CASE("extreme arguments: no NaN from overflow, NaN is passed on") {
  const double huge = 120, nan = std::numeric_limits<double>::quiet_NaN();
  for (DType dtype : {DType::f32, DType::f64})
    for (Device* device : {&reference_device(), &cpu_device()}) {
      const Variable x(Tensor::from(std::vector<double>{-huge, -80, 0, 80, huge}, {5}, {dtype, device}),
                       true);
      for (auto f : {silu, sigmoid, tanh}) {
        const Variable y = f(x);
        const auto g = grad(sum(y), {x}, {}, true)[0].value().to_vector<double>();
        for (double v : y.value().to_vector<double>()) CHECK(std::isfinite(v));
        for (double v : g) CHECK(std::isfinite(v));
        CHECK(g[0] == doctest::Approx(0).epsilon(1e-6));
      }
      CHECK(silu(x).value().to_vector<double>()[4] == huge);
      const Variable bad(Tensor::from(std::vector<double>{nan, 1}, {2}, {dtype, device}), true);
      for (auto f : {silu, sigmoid, exp, relu, sqrt})
        CHECK(std::isnan(f(bad).value().to_vector<double>()[0]));
      CHECK(std::isnan(clamp(bad, -1, 1).value().to_vector<double>()[0]));
      CHECK(std::isnan(
          maximum(bad, Variable(Tensor::zeros({2}, {dtype, device}))).value().to_vector<double>()[0]));
      CHECK(std::isnan(max(bad.value()).item()));
    }
}

TEST_CASE("clamp has no gradient at its bounds, relu none at 0; maximum shares ties") {
  const TensorOptions f64{DType::f64, &cpu_device()};
  const Variable x(Tensor::from(std::vector<double>{-1, 0, 1, 1.5}, {4}, f64), true);
  CHECK(grad(sum(clamp(x, -1, 1)), {x})[0].value().to_vector<double>() == std::vector<double>{0, 1, 0, 0});
  CHECK(clamp(x, -1, 1).value().to_vector<double>() == std::vector<double>{-1, 0, 1, 1});
  const double inf = std::numeric_limits<double>::infinity();
  const Variable ends(Tensor::from(std::vector<double>{-inf, 3, inf}, {3}, f64));
  CHECK(clamp(ends, -inf, inf).value().to_vector<double>() == std::vector<double>{-inf, 3, inf});
  CHECK(grad(sum(relu(x)), {x})[0].value().to_vector<double>() == std::vector<double>{0, 0, 1, 1});
  const auto g = grad(sum(maximum(x, Variable(Tensor::zeros({4}, f64)))), {x})[0].value().to_vector<double>();
  CHECK(g == std::vector<double>{0, 0.5, 1, 1});
}

TEST_CASE("conversions hand gradients back in the dtype they came from") {
  const Variable x(Tensor::from(std::vector<double>{1, 2}, {2}), true);  // f32
  const Variable g = grad(sum(square(to(x, DType::f64))), {x})[0];
  CHECK(g.dtype() == DType::f32);
  CHECK(g.value().to_vector<double>() == std::vector<double>{2, 4});
}

TEST_CASE(
    "space_to_depth orders channels by (row in block, column in block, channel); depth_to_space undoes it") {
  const TensorOptions f64{DType::f64, &cpu_device()};
  std::vector<double> v(16);  // [1, 2, 4, 2]: value = 100 row + 10 column + channel
  for (size_t i = 0; i < v.size(); ++i) v[i] = static_cast<double>(100 * (i / 8) + 10 * (i / 2 % 4) + i % 2);
  const Variable x(Tensor::from(v, {1, 2, 4, 2}, f64));
  const Variable d = space_to_depth(x);
  CHECK(d.shape() == Shape{1, 1, 2, 8});
  CHECK(d.value().to_vector<double>() ==
        std::vector<double>{0, 1, 10, 11, 100, 101, 110, 111, 20, 21, 30, 31, 120, 121, 130, 131});
  CHECK(depth_to_space(d).value().to_vector<double>() == v);
}

TEST_CASE("empty tensors go through") {
  const TensorOptions f64{DType::f64, &cpu_device()};
  const Variable x(Tensor::zeros({0, 3}, f64), true);
  const Variable kernel(Tensor::ones({3, 2}, f64), true);
  const Variable y = linear(silu(x), kernel, Variable(Tensor::zeros({2}, f64)));
  CHECK(y.shape() == Shape{0, 2});
  sum(y).backward();
  CHECK(kernel.grad().value().to_vector<double>() == std::vector<double>(6, 0.0));
  CHECK(sum(x).item() == 0);
}
