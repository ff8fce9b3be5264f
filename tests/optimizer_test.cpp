// nn/optimizer.h and nn/ema.h. PyTorch's and diffusers' numbers: tests/golden_runner/torch_optim.cpp.
#include "nn/optimizer.h"

#include <doctest/doctest.h>

#include <cmath>
#include <functional>
#include <limits>

#include "nn/ema.h"
#include "nn/layers.h"
#include "tensor/backend_entries.h"
#include "tensor/error.h"

using namespace halfstep;

namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

Variable leaf(const std::vector<double>& values, DType dtype = DType::f64) {
  return Variable(Tensor::from(values, {static_cast<int64_t>(values.size())}, {.dtype = dtype}), true);
}
std::vector<double> values(const Variable& v) { return v.value().to_vector<double>(); }
void set_grad(Variable v, const std::vector<double>& gradient) {
  v.set_grad(Variable(Tensor::from(gradient, v.shape(), v.options())));
}

}  // namespace

TEST_CASE("Adam: clipping, decay, l2 and bias correction in double loops") {
  // The formulas of the official training step, written out once more.
  const AdamConfig config{
      .beta1 = 0.8, .beta2 = 0.95, .eps = 1e-3, .weight_decay = 0.5, .l2 = 0.1, .max_grad_norm = 1};
  std::vector<std::vector<double>> p = {{0.5, -1.5, 2}, {3}}, m = {{0, 0, 0}, {0}}, v = m;
  Variable a = leaf(p[0]), b = leaf(p[1]);
  Adam adam({{"a", a}, {"b", b}}, config);
  for (int step = 0; step < 5; ++step) {
    // Norms below and above the limit.
    const double size = step % 2 ? 0.1 : 4;
    const std::vector<std::vector<double>> g = {{size, -2 * size, 0.3}, {size * step}};
    set_grad(a, g[0]);
    set_grad(b, g[1]);
    const double lr = 0.1 / (1 + step);
    adam.step(lr);

    double squares = 0;
    for (const auto& part : g)
      for (const double x : part) squares += x * x;
    const double scale = std::min(1.0, 1 / std::sqrt(squares));
    for (size_t i = 0; i < p.size(); ++i)
      for (size_t j = 0; j < p[i].size(); ++j) {
        const double gradient = scale * g[i][j] + config.l2 * p[i][j];
        m[i][j] = config.beta1 * m[i][j] + (1 - config.beta1) * gradient;
        v[i][j] = config.beta2 * v[i][j] + (1 - config.beta2) * gradient * gradient;
        const double m_hat = m[i][j] / (1 - std::pow(config.beta1, step + 1));
        const double v_hat = v[i][j] / (1 - std::pow(config.beta2, step + 1));
        p[i][j] += -lr * m_hat / (std::sqrt(v_hat) + config.eps) - lr * config.weight_decay * p[i][j];
      }
    for (size_t j = 0; j < 3; ++j) CHECK(std::abs(values(a)[j] - p[0][j]) <= 1e-13);
    CHECK(std::abs(values(b)[0] - p[1][0]) <= 1e-13);
    CHECK(std::abs(adam.stats().last_norm - std::sqrt(squares)) <= 1e-13);
  }
}

TEST_CASE("Adam: clip_eps makes the clipped norm a little smaller than its limit, as PyTorch does") {
  for (const double clip_eps : {0.0, 0.5}) {
    Variable p = leaf({0, 0});
    Adam adam({{"p", p}}, {.beta1 = 0, .max_grad_norm = 2, .clip_eps = clip_eps});
    set_grad(p, {3, -4});
    adam.step(0.1);
    const double scale = 2 / (5 + clip_eps);
    CHECK(std::abs(adam.state().at("adam.m.p").to_vector<double>()[1] + 4 * scale) <= 1e-15);
    CHECK(adam.stats().last_norm == 5);
    // Below the limit, though not with eps: PyTorch scales here too.
    set_grad(p, {0, -1.75});
    adam.step(0.1);
    const double expected = clip_eps == 0 ? -1.75 : -1.75 * 2 / 2.25;
    CHECK(std::abs(adam.state().at("adam.m.p").to_vector<double>()[1] - expected) <= 1e-15);
  }
  CHECK_THROWS_WITH_AS(Adam({{"p", leaf({1})}}, {.clip_eps = -1}), doctest::Contains("clip_eps = -1"), Error);
}

TEST_CASE("Adam: an update with a gradient that is not finite is left out and counted") {
  for (const double bad : {double{NAN}, kInfinity, -kInfinity}) {
    Variable a = leaf({1, 2}, DType::f32), b = leaf({3}, DType::f32);
    Variable a2 = leaf({1, 2}, DType::f32), b2 = leaf({3}, DType::f32);
    Adam adam({{"a", a}, {"b", b}}, {.weight_decay = 0.1}),
        never_met({{"a", a2}, {"b", b2}}, {.weight_decay = 0.1});
    for (int step = 0; step < 4; ++step) {
      set_grad(a, {0.5, -0.25 * step});
      set_grad(b, {step == 2 ? bad : 1.0});
      adam.step(0.1);
      if (step == 2) continue;
      set_grad(a2, {0.5, -0.25 * step});
      set_grad(b2, {1});
      never_met.step(0.1);
    }
    CHECK(values(a) == values(a2));
    CHECK(values(b) == values(b2));
    CHECK(adam.stats().applied == 3);
    CHECK(adam.stats().skipped == 1);
    CHECK(std::isfinite(adam.stats().last_norm));
    for (const auto& [name, tensor] : never_met.state())
      if (name != "adam.control")
        CHECK(adam.state().at(name).to_vector<double>() == tensor.to_vector<double>());
  }
}

TEST_CASE("Adam: gradients add up over backward calls, and a missing one counts as 0") {
  Variable used = leaf({2}), unused = leaf({5});
  Adam adam({{"used", used}, {"unused", unused}});
  CHECK_THROWS_WITH_AS(adam.step(0.1),
                       doctest::Contains("[Adam] expected a parameter with a gradient, got none"), Error);
  sum(used * used).backward();
  sum(used * 3).backward();
  adam.step(0.1);
  CHECK(adam.stats().last_norm == 7);
  CHECK(std::abs(values(used)[0] - 1.9) <= 1e-8);  // the first Adam step has size lr * g / (|g| + eps)
  CHECK(values(unused)[0] == 5);
  adam.zero_grad();
  CHECK(!used.grad().defined());
}

TEST_CASE("Adam: a step is noticed by a graph that saved the old parameters") {
  Variable p = leaf({2});
  Adam adam({{"p", p}});
  const Variable loss = sum(p * p);
  set_grad(p, {1});
  adam.step(0.1);
  CHECK_THROWS_AS(loss.backward(), Error);
}

TEST_CASE("Adam: training continues from a saved state to the bit") {
  const auto make = [] {
    Linear layer(3, 2);
    init_parameters(layer, 4);
    return layer;
  };
  const auto train = [](Linear& layer, Adam& adam, int from, int to) {
    for (int step = from; step < to; ++step) {
      adam.zero_grad();
      const Variable x(random_normal({4, 3}, {1, static_cast<uint64_t>(step)}));
      mean(square(layer(x) - 1)).backward();
      adam.step(0.01);
    }
  };
  Linear whole = make(), parts = make();
  Adam adam(parameters(whole), {.max_grad_norm = 0.5}), first(parameters(parts), {.max_grad_norm = 0.5});
  train(whole, adam, 0, 10);

  train(parts, first, 0, 6);
  TensorMap saved;
  for (const auto& [name, tensor] : first.state()) saved.emplace(name, tensor.clone());
  saved.emplace("model.kernel", Tensor::zeros({1}));  // somebody else's
  Linear resumed = clone(parts);
  Adam second(parameters(resumed), {.max_grad_norm = 0.5});
  second.load_state(saved);
  train(resumed, second, 6, 10);
  CHECK(resumed.kernel.value().to_vector<double>() == whole.kernel.value().to_vector<double>());
  CHECK(second.stats().applied == 10);
  CHECK(second.stats().last_norm == adam.stats().last_norm);

  saved.erase("adam.m.bias");
  CHECK_THROWS_WITH_AS(second.load_state(saved), doctest::Contains("missing: adam.m.bias"), Error);
}

TEST_CASE("Adam: what it refuses") {
  Variable p = leaf({2});
  CHECK_THROWS_WITH_AS(Adam(Parameters{}), doctest::Contains("at least one parameter"), Error);
  CHECK_THROWS_WITH_AS(Adam({{"p", p}}, {.beta1 = 1}), doctest::Contains("beta1 = 1 is out of range"), Error);
  CHECK_THROWS_WITH_AS(Adam({{"p", p}}, {.eps = NAN}), doctest::Contains("eps = nan"), Error);
  CHECK_THROWS_WITH_AS(Adam({{"p", p}, {"q", leaf({1}, DType::f32)}}), doctest::Contains("q is f32"), Error);
  Adam adam({{"p", p}});
  set_grad(p, {1});
  CHECK_THROWS_WITH_AS(adam.step(-1), doctest::Contains("learning rate >= 0"), Error);
  CHECK_THROWS_AS(adam.step(NAN), Error);
}

TEST_CASE("Adam with amsgrad: the largest v so far, in double loops, saved and loaded to the bit") {
  const AdamConfig config{.beta1 = 0.6, .beta2 = 0.8, .eps = 1e-3, .l2 = 0.1, .amsgrad = true};
  std::vector<double> p = {0.5, -1.5}, m = {0, 0}, v = m, v_max = m;
  Variable a = leaf(p), resumed = leaf(p);
  Adam adam({{"a", a}}, config), second({{"a", resumed}}, config);
  for (int step = 0; step < 8; ++step) {
    // v falls after the third step, v_max does not.
    const std::vector<double> g = {step < 3 ? 5.0 : 0.25, step == 5 ? -3.0 : 0.5};
    set_grad(a, g);
    adam.step(0.1);
    for (size_t j = 0; j < p.size(); ++j) {
      const double gradient = g[j] + config.l2 * p[j];
      m[j] = config.beta1 * m[j] + (1 - config.beta1) * gradient;
      v[j] = config.beta2 * v[j] + (1 - config.beta2) * gradient * gradient;
      v_max[j] = std::max(v_max[j], v[j]);
      const double m_hat = m[j] / (1 - std::pow(config.beta1, step + 1));
      const double v_hat = v_max[j] / (1 - std::pow(config.beta2, step + 1));
      p[j] -= 0.1 * m_hat / (std::sqrt(v_hat) + config.eps);
      CHECK(std::abs(values(a)[j] - p[j]) <= 1e-13);
    }
    if (step == 4) {
      resumed.value().copy_(a.value());
      second.load_state(adam.state());
    } else if (step > 4) {
      set_grad(resumed, g);
      second.step(0.1);
    }
  }
  CHECK(v_max[0] > 2 * v[0]);
  CHECK(values(resumed) == values(a));
  CHECK(adam.state().contains("adam.v_max.a"));

  Adam plain({{"a", leaf(p)}});
  CHECK(plain.state().size() == 3);
  CHECK_THROWS_WITH_AS(plain.load_state(adam.state()), doctest::Contains("unexpected: adam.v_max.a"), Error);
}

TEST_CASE("learning rate: the cosine leaves its height and reaches 0 with slope 0") {
  const LearningRateSchedule cosine{
      .base = 2, .warmup_steps = 4, .anneal_total_steps = 104, .shape = AnnealShape::cosine};
  CHECK(cosine(0) == 0.5);
  CHECK(cosine(4) == doctest::Approx(2).epsilon(1e-15));
  CHECK(cosine(54) == doctest::Approx(1).epsilon(1e-15));
  CHECK(cosine(4 + 25) == doctest::Approx(1 + std::sqrt(0.5)).epsilon(1e-15));
  CHECK(cosine(104) == 0);
  // The first and the last step change it by (pi / 200)^2, half of a linear step's square.
  const double first = cosine(4) - cosine(5), last = cosine(103) - cosine(104);
  CHECK(first == doctest::Approx(last).epsilon(1e-9));
  CHECK(first == doctest::Approx(std::pow(std::numbers::pi / 100, 2) / 2).epsilon(1e-3));
  for (const AnnealShape shape : {AnnealShape::linear, AnnealShape::cosine})
    CHECK(anneal_shape_by_name(name_of(shape)) == shape);
}

TEST_CASE("learning rate: warm-up, constant, linear anneal") {
  const LearningRateSchedule constant{.base = 0.5};
  CHECK(constant(0) == 0.5);
  CHECK(constant(1000000) == 0.5);

  const LearningRateSchedule warm{.base = 0.5, .warmup_steps = 4};
  CHECK(warm(0) == 0.125);
  CHECK(warm(3) == 0.5);
  CHECK(warm(4) == 0.5);

  const LearningRateSchedule both{.base = 1, .warmup_steps = 2, .anneal_total_steps = 10};
  CHECK(both(0) == 0.5);
  CHECK(both(1) == 1);
  CHECK(both(2) == 1);
  CHECK(both(6) == 0.5);
  CHECK(both(9) == 0.125);
  CHECK(both(10) == 0);
  CHECK(both(11) == 0);
  CHECK_THROWS_AS(both(-1), Error);
  CHECK_THROWS_AS((LearningRateSchedule{.warmup_steps = 5, .anneal_total_steps = 5}(7)), Error);
}

TEST_CASE("Ema: without warm-up the first update copies, to the bit") {
  Variable p = leaf({0.1, -0.7});
  Ema ema({{"p", p}}, 0.9, EmaWarmup::none);
  CHECK(ema.weights().at("p").to_vector<double>() == values(p));
  p.value().copy_(Tensor::from(std::vector<double>{1e8, 1. / 3}, {2}, {.dtype = DType::f64}));
  CHECK(ema.weights().at("p").to_vector<double>() != values(p));  // memory of its own
  ema.update();
  CHECK(ema.weights().at("p").to_vector<double>() == values(p));
  p.value().fill_(2);
  ema.update();
  CHECK(std::abs(ema.weights().at("p").to_vector<double>()[1] - (0.9 / 3 + 0.1 * 2)) <= 1e-15);
  CHECK(ema.updates() == 2);
}

TEST_CASE("Ema: the official update of golden 08 and decay 0") {
  Variable p = leaf({4});
  Ema ema({{"p", p}}, 0, EmaWarmup::none);  // the distillation configurations: the average is the raw student
  for (const double value : {1.5, -2.25}) {
    p.value().fill_(value);
    ema.update();
    CHECK(ema.weights().at("p").item() == value);
  }
}

TEST_CASE("Ema: the ramp") {
  Variable p = leaf({4});
  Ema ema({{"p", p}}, 0.3, EmaWarmup::ramp);
  CHECK(ema.decay_of(0) == 0.1);
  CHECK(ema.decay_of(1) == 2.0 / 11);
  CHECK(ema.decay_of(2) == 0.25);
  CHECK(ema.decay_of(3) == 0.3);
  p.value().fill_(14);
  ema.update();
  CHECK(std::abs(ema.weights().at("p").item() - 13) <= 1e-14);
}

TEST_CASE("Ema: the power warm-up copies first and reaches the decay in the end") {
  Variable p = leaf({4});
  Ema ema({{"p", p}}, 0.999, EmaWarmup::power);
  CHECK(ema.decay_of(0) == 0);
  CHECK(std::abs(ema.decay_of(15) - 0.875) <= 1e-15);  // 16^(3/4) = 8
  CHECK(std::abs(ema.decay_of(9998) - (1 - std::pow(9999, -0.75))) <= 1e-15);
  CHECK(ema.decay_of(20000) == 0.999);
  p.value().fill_(14);
  ema.update();
  CHECK(ema.weights().at("p").item() == 14);
  p.value().fill_(0);
  ema.update();
  CHECK(std::abs(ema.weights().at("p").item() - 14 * (1 - std::pow(2, -0.75))) <= 1e-14);
}

TEST_CASE("Ema: copy_to, and continuing from a saved state to the bit") {
  Linear layer(3, 2);
  init_parameters(layer, 4);
  const auto train = [&](Ema& ema, int from, int to) {
    for (int step = from; step < to; ++step) {
      layer.kernel.value().copy_(random_normal({3, 2}, {2, static_cast<uint64_t>(step)}));
      ema.update();
    }
  };
  Ema whole(parameters(layer), 0.9, EmaWarmup::none), first(parameters(layer), 0.9, EmaWarmup::none);
  train(whole, 0, 6);
  train(first, 0, 3);
  TensorMap saved;
  for (const auto& [name, tensor] : first.state()) saved.emplace(name, tensor.clone());
  Ema second(parameters(layer), 0.9, EmaWarmup::none);
  second.load_state(saved);
  CHECK(second.updates() == 3);
  train(second, 3, 6);
  CHECK(second.weights().at("kernel").to_vector<double>() ==
        whole.weights().at("kernel").to_vector<double>());

  Linear target = clone(layer);
  whole.copy_to(target);
  CHECK(target.kernel.value().to_vector<double>() == whole.weights().at("kernel").to_vector<double>());
  CHECK(layer.kernel.value().to_vector<double>() != target.kernel.value().to_vector<double>());

  CHECK_THROWS_WITH_AS(Ema(parameters(layer), 1, EmaWarmup::none), doctest::Contains("decay in [0, 1)"),
                       Error);
  CHECK_THROWS_AS(ema_warmup_by_name("linear"), Error);
  for (const EmaWarmup warmup : {EmaWarmup::none, EmaWarmup::ramp, EmaWarmup::power})
    CHECK(ema_warmup_by_name(name_of(warmup)) == warmup);
}

namespace {

std::vector<std::function<void()>>* recorded = nullptr;  ///< where calls are kept, if they are

/// The entries of the plain loops, which keep what they are asked to do.
template <auto Entry>
struct Recorded;
template <class... Args, void (*Backend::*Entry)(Args...)>
struct Recorded<Entry> {
  static void call(Args... args) {
    if (recorded) recorded->push_back(later<Entry>(reference_backend(), std::tuple{Kept<Args>(args)...}));
    (reference_backend().*Entry)(args...);
  }
};

Device& recording_device() {
  static const Backend& backend = *new Backend([] {
    Backend b = reference_backend();
    for_each_entry([&]<auto Entry>(std::string_view) { b.*Entry = Recorded<Entry>::call; });
    return b;
  }());
  static Device& device = *new Device(backend);
  return device;
}

/// What f asks the device to do.
std::vector<std::function<void()>> calls_of(const std::function<void()>& f) {
  std::vector<std::function<void()>> calls;
  recorded = &calls;
  f();
  recorded = nullptr;
  return calls;
}

/// Two parameters, an optimiser and averages of them. Gradients are written in place, so that what is
/// recorded finds the next ones.
template <class Optimiser, class Config>
struct Trained {
  Variable a = leaf_there({1, -2, 3}), b = leaf_there({0.5});
  Optimiser optimizer;
  Ema ema{{{"a", a}, {"b", b}}, 0.9, EmaWarmup::ramp};

  explicit Trained(const Config& config) : optimizer({{"a", a}, {"b", b}}, config) {
    for (Variable v : {a, b}) v.set_grad(Variable(Tensor::zeros(v.shape(), v.options())));
  }
  static Variable leaf_there(const std::vector<double>& values) {
    return Variable(leaf(values).value().to(recording_device()), true);
  }
  void set_gradients(int step) {
    a.grad().value().fill_(step == 2 ? NAN : 0.5 + step);  // the third update is left out
    b.grad().value().fill_(step - 2.5);
  }
  TensorMap state() const {
    TensorMap all = optimizer.state();
    all.merge(ema.state());
    all.emplace("a", a.value());
    all.emplace("b", b.value());
    return all;
  }
};

void check_same(const TensorMap& got, const TensorMap& expected) {
  for (const auto& entry : expected) {
    const std::string& name = entry.first;
    CAPTURE(name);
    CHECK(got.at(name).to_vector<double>() == entry.second.to_vector<double>());
  }
}

template <class Optimiser, class Config>
void check_repeated(const Config& config) {
  const auto lr = [](int step) { return 0.1 / (1 + step); };
  Trained<Optimiser, Config> plain(config), repeated(config);
  repeated.set_gradients(0);
  repeated.optimizer.set_learning_rate(lr(0));
  repeated.ema.advance();
  const auto calls = calls_of([&] {
    repeated.optimizer.apply();
    repeated.ema.apply();
  });
  // The sum of squares, the control block, the update and the average, whatever the number of parameters.
  CHECK(calls.size() == 4);
  for (int step = 0; step < 6; ++step) {
    plain.set_gradients(step);
    plain.optimizer.step(lr(step));
    plain.ema.update();
    if (step == 0) continue;
    repeated.set_gradients(step);
    repeated.optimizer.set_learning_rate(lr(step));
    repeated.ema.advance();
    for (const auto& call : calls) call();
  }
  CHECK(plain.optimizer.stats().applied == 5);
  CHECK(plain.ema.updates() == 6);
  check_same(repeated.state(), plain.state());
}

}  // namespace

TEST_CASE("optimisers and averages: what a device was asked to do in one update, repeated, is the next one") {
  check_repeated<Adam>(AdamConfig{.weight_decay = 0.1, .max_grad_norm = 1, .amsgrad = true});
  check_repeated<Sgd>(SgdConfig{.momentum = 0.9, .max_grad_norm = 1});
}

TEST_CASE("optimisers: a parameter without a gradient costs the device no call") {
  const auto there = [](const std::vector<double>& v) {
    return Variable(leaf(v).value().to(recording_device()), true);
  };
  Variable used = there({1, 2}), unused = there({3, 4, 5}), scalar(Tensor::ones({}, used.options()), true);
  Adam adam({{"unused", unused}, {"used", used}, {"scalar", scalar}}, {.l2 = 0.1});
  set_grad(used, {1, 1});
  adam.step(0.1);
  CHECK(calls_of([&] { adam.apply(); }).size() == 3);
  // As with a gradient of zeros: l2 alone moves it.
  Variable same = leaf({3, 4, 5});
  Adam other({{"same", same}}, {.l2 = 0.1});
  set_grad(same, {0, 0, 0});
  for (int step = 0; step < 2; ++step) other.step(0.1);
  for (size_t i = 0; i < 3; ++i) CHECK(std::abs(values(unused)[i] - values(same)[i]) <= 1e-13);
  CHECK(values(scalar)[0] < 1);
}

TEST_CASE("Ema: what it refuses") {
  CHECK_THROWS_WITH_AS(Ema(Parameters{}, 0.5, EmaWarmup::none), doctest::Contains("at least one parameter"),
                       Error);
  CHECK_THROWS_WITH_AS(Ema({{"p", leaf({1})}, {"q", leaf({1}, DType::f32)}}, 0.5, EmaWarmup::none),
                       doctest::Contains("q is f32"), Error);
  Variable p = leaf({1, 2});
  Ema ema({{"p", p}}, 0.5, EmaWarmup::none);
  CHECK_THROWS_WITH_AS(ema.apply(), doctest::Contains("expected an advance()"), Error);
  p.set_value(Tensor::ones({3}, p.options()));
  CHECK_THROWS_WITH_AS(ema.update(), doctest::Contains("it is now (3,)"), Error);
}
