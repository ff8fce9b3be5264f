// The tape itself: accumulation, hooks, freeing, in-place damage, long chains.
#include <doctest/doctest.h>

#include "autograd/ops.h"
#include "tests/error_of.h"

using namespace halfstep;
using halfstep::test::error_of;

namespace {
const TensorOptions kF64{DType::f64, &cpu_device()};
Variable leaf(std::vector<double> values, const Shape& shape) {
  return Variable(Tensor::from(values, shape, kF64), true);
}
std::vector<double> values(const Variable& v) { return v.value().to_vector<double>(); }
}  // namespace

TEST_CASE("backward accumulates over uses and over calls") {
  const Variable x = leaf({2, 3}, {2});
  sum(x * x + x).backward();
  CHECK(values(x.grad()) == std::vector<double>{5, 7});
  sum(x * 2.0).backward();
  CHECK(values(x.grad()) == std::vector<double>{7, 9});
  Variable(x).zero_grad();
  CHECK_FALSE(x.grad().defined());
}

TEST_CASE("a value used by several consumers waits for all of them") {
  const Variable x = leaf({3}, {1});
  const Variable y = x * x;  // consumed by two nodes of different depth
  const Variable z = exp(y * 0.0) * y + y;
  sum(z).backward();
  CHECK(x.grad().item() == doctest::Approx(12));  // d(2 x^2) = 4x; the exponential's slope cancels
}

TEST_CASE("the upstream gradient has the output's shape") {
  const Variable x = leaf({1, 2}, {2});
  const Variable y = x * 3.0;
  CHECK(error_of([&] { y.backward(); }) ==
        "[backward] expected a scalar output, got shape (2,); pass an upstream gradient");
  y.backward(leaf({10, 100}, {2}).detach());
  CHECK(values(x.grad()) == std::vector<double>{30, 300});
}

TEST_CASE("a freed graph says so; retain_graph keeps it") {
  const Variable x = leaf({2}, {});
  const Variable y = x * x;
  y.backward(/*retain_graph=*/true);
  y.backward();
  CHECK(x.grad().item() == 8);
  CHECK(
      error_of([&] { y.backward(); }) ==
      "[backward] the graph of 'multiply' was freed by an earlier backward; pass retain_graph = true there");
}

TEST_CASE("in-place changes to a saved value are noticed") {
  const Variable x = leaf({2, 4}, {2});
  const Variable y = sum(x * x);
  x.value().slice(0, 0, 1).fill_(7);  // through a view, too
  CHECK(error_of([&] { y.backward(); }).find("changed in place") != std::string::npos);

  Variable w = leaf({2, 4}, {2});
  const Variable z = sum(w * w);
  w.set_value(Tensor::ones({2}, kF64));
  CHECK(error_of([&] { z.backward(); }).find("another value") != std::string::npos);

  const Variable a = leaf({1, 2}, {1, 2});
  const Variable p = softmax(a);
  p.value().fill_(0);  // the rule reads the output
  CHECK(error_of([&] { sum(p).backward(); }).find("changed in place") != std::string::npos);
}

TEST_CASE("no_grad records nothing; detach cuts") {
  const Variable x = leaf({2}, {});
  {
    NoGrad no_grad;
    CHECK_FALSE((x * x).requires_grad());
    EnableGrad again;
    CHECK((x * x).requires_grad());
  }
  CHECK((x * x).requires_grad());
  (x * x.detach()).backward();
  CHECK(x.grad().item() == 2);
}

TEST_CASE("grad leaves other leaves alone and gives zeros without a path") {
  const Variable x = leaf({2}, {}), w = leaf({5}, {}), unused = leaf({1, 1}, {2});
  const auto g = grad(x * w, {x, unused});
  CHECK(g[0].item() == 5);
  CHECK(values(g[1]) == std::vector<double>{0, 0});
  CHECK_FALSE(x.grad().defined());
  CHECK_FALSE(w.grad().defined());
  // An intermediate result may be asked for, too.
  const Variable y = x * x;
  CHECK(grad(y * 3.0, {y})[0].item() == 3);
}

TEST_CASE("gradients of gradients") {
  const Variable x = leaf({1.5}, {});
  const Variable first = grad(x * x * x, {x}, {}, false, /*create_graph=*/true)[0];
  CHECK(first.item() == doctest::Approx(3 * 1.5 * 1.5));
  const Variable second = grad(first, {x}, {}, false, true)[0];
  CHECK(second.item() == doctest::Approx(6 * 1.5));
  CHECK(grad(second, {x})[0].item() == doctest::Approx(6));
}

TEST_CASE("hooks see the finished gradient once and may replace it") {
  const Variable x = leaf({1, 2}, {2});
  const Variable y = x * 2.0;
  int calls = 0;
  y.register_hook([&](const Variable& g) {
    ++calls;
    CHECK(values(g) == std::vector<double>{3, 3});
    return g * 10.0;
  });
  sum(y + y + y).backward();
  CHECK(calls == 1);
  CHECK(values(x.grad()) == std::vector<double>{60, 60});
}

TEST_CASE("rules that misbehave are named") {
  const Variable x = leaf({1, 2}, {2});
  const auto op = [&](GradientRule rule) { return sum(record("my_op", x.value(), {x}, std::move(rule))); };
  CHECK(error_of([&] { op([](const Variable&) { return std::vector<Variable>{}; }).backward(); }) ==
        "[backward] the rule of 'my_op' returned 0 gradients for 1 inputs");
  CHECK(error_of([&] {
          op([](const Variable&) {
            return std::vector<Variable>{Variable(Tensor::ones({3}, kF64))};
          }).backward();
        }).find("'my_op' gave a gradient of shape (3,) for a value of shape (2,)") != std::string::npos);
  CHECK(error_of([&] {
          op([](const Variable&) { return std::vector<Variable>{Variable(Tensor::ones({2}))}; }).backward();
        }).find("'my_op' gave a gradient of f32") != std::string::npos);
}

TEST_CASE("a chain of 100,000 nodes is walked and torn down without recursion or leak") {
  const size_t before = cpu_device().allocator.current_bytes();
  {
    const Variable x = leaf({1}, {});
    Variable y = x;
    for (int i = 0; i < 100000; ++i) y = y + x;
    y.backward();
    CHECK(x.grad().item() == 100001);
    Variable never_walked = x;
    for (int i = 0; i < 100000; ++i) never_walked = never_walked * x;
  }
  CHECK(cpu_device().allocator.current_bytes() == before);
}

TEST_CASE("only what rules need is kept") {
  const Variable x = Variable(Tensor::ones({1000}, kF64), true);
  const size_t before = cpu_device().allocator.current_bytes();
  const Variable y = sum(affine(x + x, 2, 1));  // neither rule reads a value
  CHECK(cpu_device().allocator.current_bytes() < before + 1000);
  y.backward();
}

TEST_CASE("requires_grad belongs to floating leaves") {
  Variable labels(Tensor::zeros({2}, {DType::i64, &cpu_device()}));
  CHECK(error_of([&] { labels.set_requires_grad(true); }) ==
        "[requires_grad] only f32 and f64 have gradients, got i64");
  const Variable x = leaf({1}, {});
  Variable y = x * 2.0;
  CHECK(error_of([&] { y.set_requires_grad(false); }).find("'affine'") != std::string::npos);
  CHECK(error_of([&] { x.detach().backward(); }).find("does not depend on anything") != std::string::npos);
}
