// What the operations beyond the UNet's mean: hand-known values, ends and ties, NaN. Their gradients and
// their behaviour on all devices are checked by the case table (ops_test.cpp).
#include <doctest/doctest.h>

#include <cmath>
#include <limits>

#include "autograd/ops.h"
#include "tests/error_of.h"
#include "tests/unreadable_backend.h"

using namespace halfstep;
using halfstep::test::error_of;

namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kInfinity = std::numeric_limits<double>::infinity();
const TensorOptions kF64{DType::f64, &cpu_device()};

Tensor tensor(std::vector<double> values, const Shape& shape) { return Tensor::from(values, shape, kF64); }
Tensor indices(std::vector<int64_t> values, const Shape& shape) {
  return Tensor::from(values, shape, {DType::i64, &cpu_device()});
}
Variable leaf(std::vector<double> values, const Shape& shape) {
  return Variable(tensor(std::move(values), shape), true);
}
std::vector<double> values(const Tensor& t) { return t.to_vector<double>(); }
std::vector<double> values(const Variable& v) { return values(v.value()); }
std::vector<int64_t> integers(const Tensor& t) {
  CHECK(t.dtype() == DType::i64);
  return t.to_vector<int64_t>();
}
using Values = std::vector<double>;
using Integers = std::vector<int64_t>;

}  // namespace

TEST_CASE("activations at their ends, at 0 and at NaN") {
  const Variable x = leaf({-1000, 0, 1000}, {3});
  CHECK(values(softplus(x)) == Values{0, std::log(2.0), 1000});
  CHECK(values(grad(sum(softplus(x)), {x})[0]) == Values{0, 0.5, 1});
  CHECK(values(gelu(x)) == Values{0, 0, 1000});
  CHECK(values(gelu_tanh(x)) == Values{0, 0, 1000});
  CHECK(values(grad(sum(gelu(x)), {x})[0]) == Values{0, 0.5, 1});
  CHECK(values(leaky_relu(x, 0.1)) == Values{-100, 0, 1000});
  CHECK(values(grad(sum(leaky_relu(x, 0.1)), {x})[0]) == Values{0.1, 0.1, 1});
  CHECK(values(abs(x)) == Values{1000, 0, 1000});
  CHECK(values(grad(sum(abs(x)), {x})[0]) == Values{-1, 0, 1});
  CHECK_FALSE(std::signbit(abs(leaf({-0.0}, {})).item()));
  CHECK(values(erf(x)) == Values{-1, 0, 1});
  const Variable bad = leaf({kNan}, {});
  CHECK(std::isnan(softplus(bad).item()));
  CHECK(std::isnan(gelu(bad).item()));
  CHECK(std::isnan(gelu_tanh(bad).item()));
  CHECK(std::isnan(leaky_relu(bad).item()));
  CHECK(std::isnan(abs(bad).item()));
  // Phi(1) = 0.8413447460685429; the tanh form at 1 is 0.8411919906082768 (both from 50-digit arithmetic).
  CHECK(std::abs(gelu(leaf({1}, {})).item() - 0.8413447460685429) <= 1e-15);
  CHECK(std::abs(gelu_tanh(leaf({1}, {})).item() - 0.8411919906082768) <= 1e-15);
}

TEST_CASE("where: the side that is not taken does not matter, not even NaN") {
  const Variable a = leaf({1, kNan, 3}, {3}), b = leaf({kNan, 5, 6}, {3});
  const Tensor condition = tensor({1, 0, -7}, {3});
  const Variable y = where(condition, a, b);
  CHECK(values(y) == Values{1, 5, 3});
  const auto g = grad(sum(y * 2.0), {a, b});
  CHECK(values(g[0]) == Values{2, 0, 2});
  CHECK(values(g[1]) == Values{0, 2, 0});
  CHECK(values(where(less(tensor({1, 2, 3}, {3}), tensor({2}, {})), tensor({1}, {}), tensor({0}, {}))) ==
        Values{1, 0, 0});
}

TEST_CASE("max and min: ties share the gradient, NaN wins") {
  const Variable x = leaf({1, 3, 3, 2, 0, 2}, {2, 3});
  CHECK(values(max(x, {1})) == Values{3, 2});
  CHECK(values(grad(sum(max(x, {1})), {x})[0]) == Values{0, 0.5, 0.5, 0.5, 0, 0.5});
  CHECK(values(min(x, {0}, true)) == Values{1, 0, 2});
  CHECK(min(x, {0}, true).shape() == Shape{1, 3});
  CHECK(values(grad(sum(min(x, {0})), {x})[0]) == Values{1, 0, 0, 0, 1, 1});
  CHECK(std::isnan(min(leaf({1, kNan, -1}, {3})).item()));
  CHECK(max(leaf({-kInfinity, -5}, {2})).item() == -5);
  CHECK(min(leaf({kInfinity, 5}, {2})).item() == 5);
}

TEST_CASE("argmax and argmin: the first of equals, the first NaN") {
  const Tensor x = tensor({1, 3, 3, 2, 0, 0}, {2, 3});
  CHECK(integers(argmax(x, 1)) == Integers{1, 0});
  CHECK(integers(argmin(x, -1)) == Integers{0, 1});
  CHECK(integers(argmax(x, 0)) == Integers{1, 0, 0});
  CHECK(argmax(x, 0, true).shape() == Shape{1, 3});
  CHECK(argmin(x, 0, true).shape() == Shape{1, 3});
  CHECK(argmax(x, 0).shape() == Shape{3});
  CHECK(argmin(x, 0).shape() == Shape{3});
  CHECK(integers(argmax(tensor({1, kNan, 5, kNan}, {4}), 0)) == Integers{1});
  CHECK(integers(argmin(tensor({1, kNan, -5}, {3}), 0)) == Integers{1});
  CHECK(integers(argmax(tensor({-kInfinity, -kInfinity}, {2}), 0)) == Integers{0});
}

TEST_CASE("argsort and sort: stable, either direction, NaN largest") {
  const Tensor x = tensor({2, 1, 2, kNan, -1}, {5});
  CHECK(integers(argsort(x, 0)) == Integers{4, 1, 0, 2, 3});
  CHECK(integers(argsort(x, 0, true)) == Integers{3, 0, 2, 1, 4});
  const Tensor y = tensor({3, 1, 2, 9, 7, 8}, {3, 2});
  CHECK(values(sort(y, 0)) == Values{2, 1, 3, 8, 7, 9});
  CHECK(values(sort(y, -1, true)) == Values{3, 1, 9, 2, 8, 7});
  CHECK(argsort(Tensor::zeros({0, 2}, kF64), 0).shape() == Shape{0, 2});
}

TEST_CASE("cumulative_sum, and its gradient from the end") {
  const Variable x = leaf({1, 2, 3, 4, 5, 6}, {2, 3});
  CHECK(values(cumulative_sum(x, 1)) == Values{1, 3, 6, 4, 9, 15});
  CHECK(values(cumulative_sum(x, 0)) == Values{1, 2, 3, 5, 7, 9});
  CHECK(values(grad(sum(cumulative_sum(x, 1)), {x})[0]) == Values{3, 2, 1, 3, 2, 1});
}

TEST_CASE("gather and scatter_add by hand; equal indices add up") {
  const Variable x = leaf({1, 2, 3, 4, 5, 6}, {3, 2});
  const Tensor rows = indices({2, 0, 2}, {3, 1});
  CHECK(values(gather(x, 0, rows)) == Values{5, 6, 1, 2, 5, 6});
  CHECK(values(grad(sum(gather(x, 0, rows)), {x})[0]) == Values{1, 1, 0, 0, 2, 2});
  CHECK(values(gather(x, 1, indices({1, 0, 0}, {3, 1}))) == Values{2, 3, 5});
  CHECK(values(scatter_add(x, 0, rows, 4)) == Values{3, 4, 0, 0, 6, 8, 0, 0});
  CHECK(integers(gather(indices({7, 8, 9}, {3}), 0, indices({2, 2, 0}, {3}))) == Integers{9, 9, 7});
  CHECK(values(embedding(x, indices({1, 1, 0, 2}, {2, 2}))) == Values{3, 4, 3, 4, 1, 2, 5, 6});
  CHECK(embedding(x, indices({1, 1, 0, 2}, {2, 2})).shape() == Shape{2, 2, 2});
  CHECK(values(one_hot(indices({2, 0}, {2}), 3)) == Values{0, 0, 1, 1, 0, 0});
  CHECK(one_hot(indices({2, 0}, {2}), 3, DType::f64).dtype() == DType::f64);
  CHECK(values(arange(4)) == Values{0, 1, 2, 3});
}

TEST_CASE("an index outside is an error on the cpu, and NaN where the host cannot look") {
  const Variable x = leaf({1, 2, 3}, {3});
  CHECK(error_of([&] { gather(x, 0, indices({0, 3}, {2})); }) == "[gather] expected indices in 0..2, got 3");
  CHECK(error_of([&] { gather(x, 0, indices({-1}, {1})); }) == "[gather] expected indices in 0..2, got -1");
  CHECK(error_of([&] {
          scatter_add(x, 0, indices({0, 1, 2}, {3}), 2);
        }) == "[scatter_add] expected indices in 0..1, got 2");
  CHECK(error_of([&] { one_hot(indices({5}, {1}), 5); }) == "[one_hot] expected indices in 0..4, got 5");

  Device& device = unreadable_device();
  const Tensor far = x.value().to(device), places = indices({0, 3, -1}, {3}).to(device);
  const auto got = values(gather(far, 0, places));
  CHECK(got[0] == 1);
  CHECK(std::isnan(got[1]));
  CHECK(std::isnan(got[2]));
  CHECK(values(scatter_add(far, 0, places, 2)) == Values{1, 0});
}

TEST_CASE("views and layout: strided slices, flips, stack, split, pad") {
  const Variable x = leaf({0, 1, 2, 3, 4, 5, 6}, {7});
  CHECK(values(slice(x, 0, 1, 7, 2)) == Values{1, 3, 5});
  CHECK(values(slice(x, 0, 0, 7, 3)) == Values{0, 3, 6});
  CHECK(values(slice(x, 0, -3, -1, 5)) == Values{4});
  CHECK(values(slice(x, 0, 2, 2, 2)).empty());
  CHECK(values(grad(sum(slice(x, 0, 1, 6, 2)), {x})[0]) == Values{0, 1, 0, 1, 0, 1, 0});
  CHECK(values(flip(x, {0})) == Values{6, 5, 4, 3, 2, 1, 0});
  CHECK(x.value().flip({0}).shares_storage(x.value()));
  const Tensor m = tensor({1, 2, 3, 4, 5, 6}, {2, 3});
  CHECK(values(m.flip({1})) == Values{3, 2, 1, 6, 5, 4});
  CHECK(values(m.flip({0, 1})) == Values{6, 5, 4, 3, 2, 1});
  CHECK(values(m.flip({-1}).flip({1}).transpose(0, 1)) == Values{1, 4, 2, 5, 3, 6});
  CHECK(values(m.flip({0}).reshape({6})) == Values{4, 5, 6, 1, 2, 3});

  const Variable a = leaf({1, 2}, {2}), b = leaf({3, 4}, {2});
  CHECK(values(stack({a, b}, 0)) == Values{1, 2, 3, 4});
  CHECK(values(stack({a, b}, -1)) == Values{1, 3, 2, 4});
  CHECK(stack({a, b, a}, 1).shape() == Shape{2, 3});
  CHECK(values(stack(std::vector<Tensor>{a.value(), b.value()}, 1)) == Values{1, 3, 2, 4});
  const auto parts = split(x, {2, 0, 5}, 0);
  CHECK(values(parts[0]) == Values{0, 1});
  CHECK(values(parts[1]).empty());
  CHECK(values(parts[2]) == Values{2, 3, 4, 5, 6});
  CHECK(values(pad(a, {1}, {2}, 9)) == Values{9, 1, 2, 9, 9});
  CHECK(values(pad(m, {1, 0}, {0, 1})) == Values{0, 0, 0, 0, 1, 2, 3, 0, 4, 5, 6, 0});
  CHECK(values(grad(sum(square(pad(a, {1}, {2}, 9))), {a})[0]) == Values{2, 4});
  CHECK(unsqueeze(a, -1).shape() == Shape{2, 1});
  CHECK(squeeze(unsqueeze(a, 0), 0).shape() == Shape{2});
}

TEST_CASE("variance, standard deviation and norms by hand") {
  const Variable x = leaf({1, 2, 3, 6}, {2, 2});  // mean 3: squares 4 + 1 + 0 + 9 = 14
  CHECK(std::abs(variance(x).item() - 14.0 / 3) <= 1e-15);
  CHECK(std::abs(variance(x, {}, false, 0).item() - 14.0 / 4) <= 1e-15);
  CHECK(values(variance(x, {1})) == Values{0.5, 4.5});
  CHECK(variance(x, {1}, true).shape() == Shape{2, 1});
  CHECK(std::abs(standard_deviation(x, {0}).value().to_vector<double>()[0] - std::sqrt(2.0)) <= 1e-15);
  const Variable v = leaf({3, -4}, {2});
  CHECK(norm(v).item() == 5);
  CHECK(norm(v, {}, false, 1).item() == 7);
  CHECK(norm(v, {}, false, kInfinity).item() == 4);
  CHECK(std::abs(norm(v, {}, false, 3).item() - std::cbrt(91.0)) <= 1e-14);
  const auto slope = values(grad(norm(v), {v})[0]);
  CHECK(std::abs(slope[0] - 0.6) <= 1e-15);
  CHECK(std::abs(slope[1] + 0.8) <= 1e-15);
  // At 0: the value and the gradient are 0, and the rows beside it are not disturbed.
  const Variable z = leaf({0, 0, 3, 4}, {2, 2});
  for (double p : {2.0, 3.0}) {
    const Variable n = norm(z, {1}, false, p);
    CHECK(values(n)[0] == 0);
    const auto g = values(grad(sum(n), {z})[0]);
    CHECK(g[0] == 0);
    CHECK(g[1] == 0);
    CHECK(g[3] > 0.5);
  }
}

TEST_CASE("logsumexp, log_softmax and cross entropy do not overflow") {
  const Variable x = leaf({1000, 1000, -1000, 0}, {2, 2});
  CHECK(values(logsumexp(x, {1})) == Values{1000 + std::log(2.0), 0});
  CHECK(values(log_softmax(x)) == Values{-std::log(2.0), -std::log(2.0), -1000, 0});
  CHECK(values(logsumexp(leaf({-kInfinity, -kInfinity}, {2}))) == Values{-kInfinity});
  CHECK(values(logsumexp(leaf({kInfinity, 1}, {2}))) == Values{kInfinity});
  CHECK(values(cross_entropy(x, indices({0, 0}, {2}), Reduction::none)) == Values{std::log(2.0), 1000});
  CHECK(cross_entropy(x, indices({0, 1}, {2})).item() == std::log(2.0) / 2);
  CHECK(cross_entropy(x, indices({0, 1}, {2}), Reduction::sum).item() == std::log(2.0));
  // d/d logits of the mean: (softmax - one_hot) / N.
  CHECK(values(grad(cross_entropy(x, indices({0, 1}, {2})), {x})[0]) == Values{-0.25, 0.25, 0, 0});
  const Variable f32 = Variable(x.value().to(DType::f32), true);
  for (double g : values(grad(cross_entropy(f32, indices({0, 0}, {2})), {f32})[0])) CHECK(std::isfinite(g));
}
