// nn/module.h, nn/init.h and nn/layers.h
#include "nn/module.h"

#include <doctest/doctest.h>

#include <cmath>

#include "nn/layers.h"
#include "tensor/error.h"

using namespace halfstep;

namespace {

/// Every kind of member that the walk knows.
struct Composed {
  Parameter offset{{2}, init::normal(1)};
  std::optional<Linear> shortcut;
  std::vector<Linear> blocks;
  std::variant<Linear, GroupNorm> head = GroupNorm(6, 3);

  template <class Self, class Visitor>
  static void fields(Self& self, Visitor&& visit) {
    visit("offset", self.offset);
    visit("shortcut", self.shortcut);
    visit("block", self.blocks);
    visit("head", self.head);
  }
};
static_assert(Module<Composed> && Module<Linear> && Module<SelfAttention>);
static_assert(!Module<int> && !Module<Variable>);

Composed composed(bool with_shortcut) {
  Composed module;
  if (with_shortcut) module.shortcut.emplace(2, 3);
  module.blocks = {Linear(3, 4), Linear(4, 5)};
  init_parameters(module, 9);
  return module;
}

std::vector<std::string> names(const Composed& module) {
  std::vector<std::string> result;
  for (const auto& [name, variable] : parameters(module)) result.push_back(name);
  return result;
}

struct Moments {
  double mean = 0, variance = 0, largest = 0;
};
Moments moments(const std::vector<double>& values) {
  Moments m;
  for (const double v : values) m.mean += v / static_cast<double>(values.size());
  for (const double v : values) {
    m.variance += (v - m.mean) * (v - m.mean) / static_cast<double>(values.size());
    m.largest = std::max(m.largest, std::abs(v));
  }
  return m;
}

std::vector<double> values(const Variable& v) { return v.value().to_vector<double>(); }

}  // namespace

TEST_CASE("module: one walk gives names, counts and handles") {
  CHECK(names(composed(true)) == std::vector<std::string>{"offset", "shortcut.kernel", "shortcut.bias",
                                                          "block_0.kernel", "block_0.bias", "block_1.kernel",
                                                          "block_1.bias", "head.scale", "head.bias"});
  Composed module = composed(false);
  CHECK(names(module).size() == 7);
  CHECK(parameter_count(module) == 2 + (12 + 4) + (20 + 5) + 12);
  CHECK(parameters(module)[1].variable.same(module.blocks[0].kernel));
  for (const auto& [name, variable] : parameters(module)) CHECK(variable.requires_grad());
  set_requires_grad(module, false);
  for (const auto& [name, variable] : parameters(module)) CHECK(!variable.requires_grad());
}

TEST_CASE("module: a parameter that was never initialised is an error where it is used") {
  const Linear layer(2, 2);
  CHECK(parameter_count(layer) == 6);
  CHECK_THROWS_AS(layer(Variable(Tensor::ones({1, 2}))), Error);
}

TEST_CASE("module: a copy shares its parameters, a clone does not") {
  Composed module = composed(true);
  sum(module.blocks[0](Variable(Tensor::ones({1, 3})))).backward();
  const Composed copy = module;
  Composed independent = clone(module);
  CHECK(copy.offset.same(module.offset));
  CHECK(!independent.offset.same(module.offset));
  CHECK(values(independent.blocks[0].kernel) == values(module.blocks[0].kernel));
  CHECK(independent.blocks[0].kernel.requires_grad());
  CHECK(module.blocks[0].kernel.grad().defined());
  CHECK(!independent.blocks[0].kernel.grad().defined());

  module.blocks[0].kernel.value().fill_(5);
  CHECK(values(copy.blocks[0].kernel)[0] == 5);
  CHECK(values(independent.blocks[0].kernel)[0] != 5);

  copy_parameters(module, independent);
  CHECK(values(independent.blocks[0].kernel)[0] == 5);
  CHECK_THROWS_WITH_AS(copy_parameters(module, composed(false)), doctest::Contains("[copy_parameters]"),
                       Error);

  zero_grad(module);
  CHECK(!module.blocks[0].kernel.grad().defined());
}

TEST_CASE("module: state and load_state, with the shapes of old checkpoints") {
  const Composed source = composed(false);
  TensorMap saved;
  for (const auto& [name, tensor] : state(source)) saved.emplace(name, tensor.clone());
  saved.at("head.scale") = saved.at("head.scale").reshape({1, 1, 1, 6});
  saved.at("block_1.kernel") = saved.at("block_1.kernel").reshape({4, 5, 1}).to(DType::f64);

  Composed target = composed(false);
  init_parameters(target, 10);
  CHECK(values(target.offset) != values(source.offset));
  load_state(target, saved);
  for (size_t i = 0; i < parameters(target).size(); ++i) {
    const Variable loaded = parameters(target)[i].variable, original = parameters(source)[i].variable;
    CHECK(values(loaded) == values(original));
    CHECK(loaded.shape() == original.shape());
    CHECK(loaded.dtype() == DType::f32);
  }
  // The module keeps values of its own.
  saved.at("offset").fill_(3);
  CHECK(values(target.offset) == values(source.offset));
}

TEST_CASE("module: load_state lists everything that does not fit, and then loads nothing") {
  Composed module = composed(false);
  TensorMap saved;
  for (const auto& [name, tensor] : state(module)) saved.emplace(name, Tensor::full(tensor.shape(), 7));
  saved.emplace("block_0.kernle", saved.at("block_0.kernel"));
  saved.erase("block_0.kernel");
  saved.erase("head.bias");
  saved.at("offset") = Tensor::zeros({3});
  const std::vector<double> before = values(module.blocks[1].kernel);
  const auto load = [&] { load_state(module, saved); };
  CHECK_THROWS_WITH_AS(load(), doctest::Contains("[load_state]"), Error);
  CHECK_THROWS_WITH_AS(load(), doctest::Contains("missing: block_0.kernel, head.bias;"), Error);
  CHECK_THROWS_WITH_AS(load(), doctest::Contains("unexpected: block_0.kernle (nearest: block_0.kernel);"),
                       Error);
  CHECK_THROWS_WITH_AS(load(), doctest::Contains("wrong size: offset (expected (2,), got (3,));"), Error);
  CHECK(values(module.blocks[1].kernel) == before);
}

TEST_CASE("module: convert changes the dtype in place") {
  Composed module = composed(false);
  const std::vector<double> before = values(module.blocks[0].kernel);
  convert(module, DType::f64);
  CHECK(module.blocks[0].kernel.dtype() == DType::f64);
  CHECK(module.blocks[0].kernel.requires_grad());
  CHECK(values(module.blocks[0].kernel) == before);
  convert(module, reference_device());
  CHECK(module.blocks[0].kernel.options().device == &reference_device());
  CHECK(values(module.blocks[0].kernel) == before);
}

TEST_CASE("init: a parameter's stream depends on the seed and its name only") {
  const Composed without = composed(false), with = composed(true);
  for (const auto& [name, tensor] : state(without))
    CHECK(state(with).at(name).to_vector<double>() == tensor.to_vector<double>());
  std::vector<Linear> twins = {Linear(3, 4), Linear(3, 4)};
  Composed module;
  module.blocks = twins;
  init_parameters(module, 9);
  CHECK(values(module.blocks[0].kernel) == values(without.blocks[0].kernel));
  CHECK(values(module.blocks[0].kernel) != values(module.blocks[1].kernel));
  init_parameters(module, 10);
  CHECK(values(module.blocks[0].kernel) != values(without.blocks[0].kernel));
}

TEST_CASE("init: fold_in tells names, numbers and earlier keys apart") {
  const RandomKey key{1, 2};
  CHECK(fold_in(key, "a").seed == 1);
  CHECK(fold_in(key, "a").stream == fold_in(key, "a").stream);
  CHECK(fold_in(key, "a").stream != fold_in(key, "b").stream);
  CHECK(fold_in(key, uint64_t{0}).stream != fold_in(key, uint64_t{1}).stream);
  CHECK(fold_in(key, uint64_t{0}).stream != key.stream);
  CHECK(fold_in(fold_in(key, "a"), "b").stream != fold_in(fold_in(key, "b"), "a").stream);
}

TEST_CASE("init: mean, variance and range of each distribution") {
  // n independent values: the mean strays by stddev / sqrt(n), the variance by at most sqrt(2 / n) of itself.
  // Five of these are allowed.
  const Shape shape = {3, 3, 40, 100};
  const double n = 36000, fan_in = 360, fan_out = 900;
  const auto check = [&](const Initializer& init, double mean, double variance, double limit) {
    for (const DType dtype : {DType::f32, DType::f64}) {
      const Tensor t = init(shape, {3, 4}, {.dtype = dtype});
      CHECK(t.shape() == shape);
      CHECK(t.dtype() == dtype);
      const Moments m = moments(t.to_vector<double>());
      CHECK(std::abs(m.mean - mean) <= 5 * std::sqrt(variance / n));
      CHECK(std::abs(m.variance - variance) <= 5 * std::sqrt(2 / n) * variance);
      CHECK(m.largest <= limit * (1 + 1e-6));
      CHECK(m.largest >= 0.5 * std::min(limit, 4 * std::sqrt(variance)));
    }
  };
  using init::Distribution, init::Fan;
  check(init::normal(0.5), 0, 0.25, INFINITY);
  check(init::uniform(-1, 3), 1, 16.0 / 12, 3);
  check(init::lecun_normal(), 0, 1 / fan_in, 2 / std::sqrt(fan_in) / 0.87962566103423978);
  check(init::glorot_uniform(), 0, 2 / (fan_in + fan_out), std::sqrt(6 / (fan_in + fan_out)));
  check(init::variance_scaling(2, Fan::out, Distribution::normal), 0, 2 / fan_out, INFINITY);
  check(init::variance_scaling(2, Fan::in, Distribution::uniform), 0, 2 / fan_in, std::sqrt(6 / fan_in));

  CHECK(moments(init::zeros()(shape, {}, {}).to_vector<double>()).largest == 0);
  CHECK(init::ones()({2}, {}, {}).to_vector<double>() == std::vector<double>{1, 1});
  CHECK_THROWS_WITH_AS(init::lecun_normal()({4}, {}, {}), doctest::Contains("[variance_scaling]"), Error);
}

TEST_CASE("layers: dropout takes a new key at each call and repeats from an equal context") {
  const Variable x(Tensor::ones({4, 50}));
  ForwardContext training{.training = true, .key = {1, 2}};
  const ForwardContext start = training;
  const auto first = values(dropout(x, 0.5, training)), second = values(dropout(x, 0.5, training));
  CHECK(training.keys_taken == 2);
  CHECK(first != second);
  ForwardContext again = start;
  CHECK(values(dropout(x, 0.5, again)) == first);
  for (const double v : first) CHECK((v == 0 || v == 2));

  ForwardContext evaluation;
  CHECK(dropout(x, 0.5, evaluation).same(x));
  CHECK(evaluation.keys_taken == 0);
}

TEST_CASE("layers: padding of convolutions lies where TensorFlow and JAX put it") {
  // With a kernel of ones each output counts the pixels under its window.
  const Variable x(Tensor::ones({1, 4, 4, 1}));
  const auto counts = [&](int stride) {
    Conv2d conv(1, 1, stride, init::ones());
    init_parameters(conv, 0);
    return values(conv(x));
  };
  CHECK(counts(1) == std::vector<double>{4, 6, 6, 4, 6, 9, 9, 6, 6, 9, 9, 6, 4, 6, 6, 4});
  CHECK(counts(2) == std::vector<double>{9, 6, 6, 4});

  Conv2d strided(1, 1, 2);
  init_parameters(strided, 0);
  CHECK_THROWS_WITH_AS(strided(Variable(Tensor::ones({1, 3, 4, 1}))),
                       doctest::Contains("even height and width"), Error);
  CHECK_THROWS_WITH_AS(Conv2d(1, 1, 3), doctest::Contains("stride 1 or 2"), Error);
}

TEST_CASE("layers: group norm with FiLM equals the formula written out") {
  const int64_t batch = 2, pixels = 6, channels = 4, groups = 2, per_group = channels / groups;
  GroupNorm norm(channels, groups, 1e-3);
  init_parameters(norm, 0, {.dtype = DType::f64});
  const TensorOptions f64{.dtype = DType::f64};
  norm.scale.set_value(random_normal({channels}, {1, 1}, 0, f64));
  norm.bias.set_value(random_normal({channels}, {1, 2}, 0, f64));
  const Variable x(random_normal({batch, 2, 3, channels}, {1, 3}, 0, f64));
  const Variable film_scale(random_normal({batch, channels}, {1, 4}, 0, f64));
  const Variable film_shift(random_normal({batch, channels}, {1, 5}, 0, f64));

  const auto xs = values(x), a = values(film_scale), b = values(film_shift), scale = values(norm.scale),
             bias = values(norm.bias);
  const auto plain = values(norm(x)), film = values(norm(x, film_scale, film_shift, Activation::silu));
  for (int64_t n = 0; n < batch; ++n)
    for (int64_t c = 0; c < channels; ++c) {
      double mean = 0, variance = 0;
      const auto at = [&](int64_t p, int64_t channel) {
        return static_cast<size_t>((n * pixels + p) * channels + channel);
      };
      const int64_t begin = c / per_group * per_group;
      const double count = static_cast<double>(pixels * per_group);
      for (int64_t p = 0; p < pixels; ++p)
        for (int64_t k = begin; k < begin + per_group; ++k) mean += xs[at(p, k)] / count;
      for (int64_t p = 0; p < pixels; ++p)
        for (int64_t k = begin; k < begin + per_group; ++k)
          variance += (xs[at(p, k)] - mean) * (xs[at(p, k)] - mean) / count;
      for (int64_t p = 0; p < pixels; ++p) {
        const size_t i = at(p, c), bc = static_cast<size_t>(n * channels + c), ci = static_cast<size_t>(c);
        const double y = (xs[i] - mean) / std::sqrt(variance + 1e-3) * scale[ci] + bias[ci];
        const double modulated = y * (1 + a[bc]) + b[bc];
        CHECK(std::abs(plain[i] - y) <= 1e-12);
        CHECK(std::abs(film[i] - modulated / (1 + std::exp(-modulated))) <= 1e-12);
      }
    }
  CHECK_THROWS_WITH_AS(GroupNorm(6, 4), doctest::Contains("4 groups do not divide 6 channels"), Error);
}

TEST_CASE("layers: layer norm and instance norm use their parameters and eps") {
  LayerNorm layer(4, 1e-2);
  InstanceNorm instance(4, 1e-1);
  init_parameters(layer, 0, {.dtype = DType::f64});
  init_parameters(instance, 0, {.dtype = DType::f64});
  const TensorOptions f64{.dtype = DType::f64};
  const Variable x(random_normal({2, 3, 4}, {1, 0}, 0, f64));
  CHECK(values(layer(x)) == values(layer_norm(x, {}, {}, 1e-2)));
  CHECK(values(instance(x)) == values(instance_norm(x, {}, {}, 1e-1)));
  const Variable scale(random_normal({4}, {1, 1}, 0, f64)), bias(random_normal({4}, {1, 2}, 0, f64));
  for (NamedVariable& p : parameters(layer))
    p.variable.set_value(p.name == "scale" ? scale.value() : bias.value());
  for (NamedVariable& p : parameters(instance))
    p.variable.set_value(p.name == "scale" ? scale.value() : bias.value());
  CHECK(values(layer(x)) == values(layer_norm(x, scale, bias, 1e-2)));
  CHECK(values(instance(x)) == values(instance_norm(x, scale, bias, 1e-1)));
}

TEST_CASE("layers: self-attention starts as the identity, and heads use their own channels") {
  SelfAttention block(6, 2, 3);
  init_parameters(block, 0);
  const Variable x(random_normal({2, 2, 3, 6}, {1, 1}));
  CHECK(values(block(x)) == values(x));

  // With v = norm(x), proj_out = 1 and q = 0 every pixel receives the mean over its image; a q and k that
  // only head 1 sees leave the channels of head 0 alone.
  const auto identity = [] {
    std::vector<double> eye(36);
    for (size_t i = 0; i < 6; ++i) eye[i * 7] = 1;
    return Tensor::from(eye, {6, 6});
  };
  block.v.kernel.set_value(identity());
  block.proj_out.kernel.set_value(identity());
  block.q.kernel.set_value(Tensor::zeros({6, 6}));
  const auto averaged = values(block(x) - x), normed = values(mean(block.norm(x), {1, 2}));
  for (size_t i = 0; i < averaged.size(); ++i)
    CHECK(std::abs(averaged[i] - normed[i / 36 * 6 + i % 6]) <= 1e-6);
  block.q.bias.set_value(Tensor::from(std::vector<double>{0, 0, 0, 1, 1, 1}, {6}));
  const auto attended = values(block(x) - x);
  double head0 = 0, head1 = 0;
  for (size_t i = 0; i < attended.size(); ++i) {
    double& changed = i % 6 < 3 ? head0 : head1;
    REQUIRE(std::isfinite(attended[i]));
    changed = std::max(changed, std::abs(attended[i] - averaged[i]));
  }
  CHECK(head0 <= 1e-6);
  CHECK(head1 >= 1e-3);
  CHECK_THROWS_WITH_AS(SelfAttention(6, 4, 3), doctest::Contains("4 heads do not divide 6 channels"), Error);
}
