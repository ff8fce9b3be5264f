// Sgd of nn/optimizer.h
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "nn/layers.h"
#include "nn/optimizer.h"
#include "tensor/error.h"

using namespace halfstep;

namespace {

Variable leaf(const std::vector<double>& values, DType dtype = DType::f64) {
  return Variable(Tensor::from(values, {static_cast<int64_t>(values.size())}, {.dtype = dtype}), true);
}
std::vector<double> values(const Variable& v) { return v.value().to_vector<double>(); }
void set_grad(Variable v, const std::vector<double>& gradient) {
  v.set_grad(Variable(Tensor::from(gradient, v.shape(), v.options())));
}

}  // namespace

TEST_CASE("Sgd: momentum, dampening, Nesterov, l2 and clipping in double loops") {
  for (const SgdConfig& config :
       {SgdConfig{}, SgdConfig{.l2 = 0.1}, SgdConfig{.momentum = 0.9},
        SgdConfig{.momentum = 0.9, .dampening = 0.4}, SgdConfig{.momentum = 0.8, .nesterov = true},
        SgdConfig{.momentum = 0.5, .dampening = 1, .l2 = 0.3, .max_grad_norm = 1},
        SgdConfig{.momentum = 0.7, .nesterov = true, .l2 = 0.2, .max_grad_norm = 2}}) {
    CAPTURE(config.momentum);
    CAPTURE(config.dampening);
    CAPTURE(config.nesterov);
    std::vector<std::vector<double>> p = {{0.5, -1.5, 2}, {3}}, buffer = {{0, 0, 0}, {0}};
    Variable a = leaf(p[0]), b = leaf(p[1]);
    Sgd sgd({{"a", a}, {"b", b}}, config);
    for (int step = 0; step < 5; ++step) {
      const double size = step % 2 ? 0.1 : 4;  // norms below and above the limits
      const std::vector<std::vector<double>> g = {{size, -2 * size, 0.3}, {size * step}};
      set_grad(a, g[0]);
      set_grad(b, g[1]);
      const double lr = 0.1 / (1 + step);
      sgd.step(lr);

      double squares = 0;
      for (const auto& part : g)
        for (const double x : part) squares += x * x;
      const double norm = std::sqrt(squares);
      const double scale = config.max_grad_norm > 0 ? std::min(1.0, config.max_grad_norm / norm) : 1;
      for (size_t i = 0; i < p.size(); ++i)
        for (size_t j = 0; j < p[i].size(); ++j) {
          double d = scale * g[i][j] + config.l2 * p[i][j];
          if (config.momentum > 0) {
            double& m = buffer[i][j];
            m = step == 0 ? d : config.momentum * m + (1 - config.dampening) * d;
            d = config.nesterov ? d + config.momentum * m : m;
          }
          p[i][j] -= lr * d;
        }
      for (size_t j = 0; j < 3; ++j) CHECK(std::abs(values(a)[j] - p[0][j]) <= 1e-13);
      CHECK(std::abs(values(b)[0] - p[1][0]) <= 1e-13);
      CHECK(std::abs(sgd.stats().last_norm - norm) <= 1e-13);
    }
    CHECK(sgd.stats().applied == 5);
    CHECK(sgd.state().size() == (config.momentum > 0 ? 3 : 1));
  }
}

TEST_CASE("Sgd: an update with a gradient that is not finite is left out, also as the first one") {
  for (const double bad : {double{NAN}, std::numeric_limits<double>::infinity()}) {
    Variable a = leaf({1, 2}, DType::f32), twin = leaf({1, 2}, DType::f32);
    const SgdConfig config{.momentum = 0.9, .dampening = 0.5};
    Sgd sgd({{"a", a}}, config), never_met({{"a", twin}}, config);
    for (int step = 0; step < 5; ++step) {
      const bool skipped = step == 0 || step == 3;
      set_grad(a, {0.5, skipped ? bad : 0.25 * step});
      sgd.step(0.1);
      if (skipped) continue;
      set_grad(twin, {0.5, 0.25 * step});
      never_met.step(0.1);
    }
    CHECK(values(a) == values(twin));
    CHECK(sgd.state().at("sgd.momentum.a").to_vector<double>() ==
          never_met.state().at("sgd.momentum.a").to_vector<double>());
    CHECK(sgd.stats().applied == 3);
    CHECK(sgd.stats().skipped == 2);
  }
}

TEST_CASE("Sgd: training continues from a saved state to the bit") {
  const SgdConfig config{.momentum = 0.9, .dampening = 0.3, .l2 = 0.01, .max_grad_norm = 0.5};
  const auto make = [] {
    Linear layer(3, 2);
    init_parameters(layer, 4);
    return layer;
  };
  const auto train = [](Linear& layer, Sgd& sgd, int from, int to) {
    for (int step = from; step < to; ++step) {
      sgd.zero_grad();
      const Variable x(random_normal({4, 3}, {1, static_cast<uint64_t>(step)}));
      mean(square(layer(x) - 1)).backward();
      sgd.step(0.05);
    }
  };
  Linear whole = make(), parts = make();
  Sgd sgd(parameters(whole), config), first(parameters(parts), config);
  train(whole, sgd, 0, 8);
  train(parts, first, 0, 5);
  TensorMap saved;
  for (const auto& [name, tensor] : first.state()) saved.emplace(name, tensor.clone());
  saved.emplace("model.kernel", Tensor::zeros({1}));  // somebody else's
  Linear resumed = clone(parts);
  Sgd second(parameters(resumed), config);
  second.load_state(saved);
  train(resumed, second, 5, 8);
  CHECK(resumed.kernel.value().to_vector<double>() == whole.kernel.value().to_vector<double>());
  CHECK(second.stats().applied == 8);

  saved.erase("sgd.momentum.bias");
  CHECK_THROWS_WITH_AS(second.load_state(saved), doctest::Contains("missing: sgd.momentum.bias"), Error);
  // A step is noticed by a graph that saved the old parameters.
  const Variable loss = sum(resumed.kernel * resumed.kernel);
  train(resumed, second, 8, 9);
  CHECK_THROWS_AS(loss.backward(), Error);
}

TEST_CASE("Sgd: what it refuses") {
  Variable p = leaf({2});
  CHECK_THROWS_WITH_AS(Sgd(Parameters{}), doctest::Contains("[Sgd] expected at least one parameter"), Error);
  CHECK_THROWS_WITH_AS(Sgd({{"p", p}}, {.momentum = 1}), doctest::Contains("momentum = 1 is out of range"),
                       Error);
  CHECK_THROWS_WITH_AS(Sgd({{"p", p}}, {.momentum = 0.5, .dampening = 2}),
                       doctest::Contains("dampening = 2 is out of range"), Error);
  CHECK_THROWS_WITH_AS(Sgd({{"p", p}}, {.l2 = NAN}), doctest::Contains("l2 = nan"), Error);
  CHECK_THROWS_WITH_AS(Sgd({{"p", p}}, {.dampening = 0.5}), doctest::Contains("dampening needs momentum"),
                       Error);
  CHECK_THROWS_WITH_AS(Sgd({{"p", p}}, {.nesterov = true}),
                       doctest::Contains("expected momentum > 0 and no dampening with nesterov"), Error);
  CHECK_THROWS_WITH_AS(Sgd({{"p", p}}, {.momentum = 0.5, .dampening = 0.1, .nesterov = true}),
                       doctest::Contains("got momentum 0.5 and dampening 0.1"), Error);
  Sgd sgd({{"p", p}});
  CHECK_THROWS_WITH_AS(sgd.step(0.1), doctest::Contains("[Sgd] expected a parameter with a gradient"), Error);
  set_grad(p, {1});
  CHECK_THROWS_WITH_AS(sgd.step(-1), doctest::Contains("learning rate >= 0"), Error);
}
