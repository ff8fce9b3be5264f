// Modules, averages and optimisers.
#include <doctest/doctest.h>

#include "nn/ema.h"
#include "nn/init.h"
#include "nn/layers.h"
#include "nn/module.h"
#include "nn/optimizer.h"
#include "tests/errors/rows.h"

using namespace halfstep;
using namespace halfstep::test;

namespace {

struct Two {
  Linear first{2, 3}, second{3, 1};

  template <class Self, class Visitor>
  static void fields(Self& self, Visitor&& visit) {
    visit("first", self.first);
    visit("second", self.second);
  }
};
Two two() {
  Two module;
  init_parameters(module, 1);
  return module;
}

/// The gradients that an optimiser needs.
void fill_gradients(const Parameters& all) {
  for (NamedVariable p : all) p.variable.set_grad(Variable(Tensor::ones(p.variable.shape())));
}

}  // namespace

TEST_CASE("errors of modules and optimisers") {
  const Two module = two();
  const Parameters all = parameters(module);
  const auto sgd = [](SgdConfig config) { Sgd(Parameters{{"p", leaf({1})}}, config); };
  check_rows({
      {"state without its tensors",
       [] {
         Two target = two();
         TensorMap saved = state(target);
         saved.erase("first.bias");
         saved["second.kernel"] = ones({3, 2});
         saved["first.bais"] = ones({3});
         load_state(target, saved);
       },
       "[load_state] expected exactly 4 tensors; missing: first.bias; unexpected: first.bais (nearest: "
       "first.bias); "
       "wrong size: second.kernel (expected (3, 1), got (3, 2)); was the state saved with another "
       "configuration?"},
      {"another state of an optimiser",
       [&] {
         Adam adam(all, {});
         adam.load_state({{"adam.m.frist.kernel", ones({1})}});
       },
       "[Adam] expected exactly 9 tensors; missing: *; unexpected: adam.m.frist.kernel (nearest: "
       "adam.m.first.kernel); was the state saved with another configuration?"},
      {"copy between different modules", [&] { detail::copy_parameters(all, {all[0]}); },
       "[copy_parameters] expected equal modules, got 4 and 1 parameters"},
      {"copy between modules of other names", [&] { detail::copy_parameters({all[0]}, {all[1]}); },
       "[copy_parameters] expected equal modules, got first.kernel (2, 3) and first.bias (3,)"},
      {"parameter that was not initialised",
       [] {
         Linear(2, 3)(leaf({1, 2}, DType::f32));
       },
       "[Variable] expected a variable, got an undefined one (default-constructed)"},
      {"initialiser of a bias", [] { init::lecun_normal()({3}, {}, {}); },
       "[variance_scaling] expected a kernel [..., in, out] without empty axes, got shape (3,); use zeros or "
       "ones "
       "for biases and scales"},
      {"stride of a layer", [] { Conv2d(3, 3, 3); }, "[Conv2d] expected stride 1 or 2, got 3"},
      {"odd image",
       [] {
         Conv2d layer(1, 1, 2);
         init_parameters(layer, 1);
         layer(leaf({1, 3, 4, 1}, DType::f32));
       },
       "[Conv2d] expected images [B, H, W, C] of even height and width for stride 2, got (1, 3, 4, 1)"},
      {"groups of a layer", [] { GroupNorm(6, 4); }, "[GroupNorm] 4 groups do not divide 6 channels"},
      {"heads of a layer", [] { SelfAttention(6, 4, 1); },
       "[SelfAttention] 4 heads do not divide 6 channels"},
      {"attention without images",
       [] {
         SelfAttention layer(2, 1, 1);
         init_parameters(layer, 1);
         layer(leaf({1, 3, 2}, DType::f32));
       },
       "[SelfAttention] expected images [B, H, W, C], got (1, 3, 2)"},
      {"decay", [&] { Ema(all, 1, EmaWarmup::none); }, "[Ema] expected a decay in [0, 1), got 1"},
      {"shape of an anneal", [] { anneal_shape_by_name("step"); },
       "[anneal_shape] expected linear or cosine, got 'step'"},
      {"warm-up of an average", [] { ema_warmup_by_name("slow"); },
       "[ema_warmup] expected none, ramp or power, got 'slow'"},
      {"name of no warm-up", [] { name_of(static_cast<EmaWarmup>(9)); },
       "[ema_warmup] expected a warm-up of the list, got number 9"},
      {"average with no warm-up", [&] { Ema(all, 0.5, static_cast<EmaWarmup>(9)).update(); },
       "[Ema] expected a warm-up of the list, got number 9"},
      {"optimiser of nothing", [] { Adam({}, {}); }, "[Adam] expected at least one parameter, got none"},
      {"constant of an optimiser", [&] { Adam(all, {.beta1 = 1}); },
       "[Adam] beta1 = 1 is out of range; betas lie in [0, 1), eps is positive, the others are not negative"},
      {"momentum", [&] { sgd({.momentum = 1}); },
       "[Sgd] momentum = 1 is out of range; momentum lies in [0, 1), dampening in [0, 1], the others are not "
       "negative"},
      {"dampening alone", [&] { sgd({.dampening = 0.5}); },
       "[Sgd] expected momentum > 0 with dampening = 0.5, got 0: dampening needs momentum, an average to "
       "dampen"},
      {"nesterov alone", [&] { sgd({.nesterov = true}); },
       "[Sgd] expected momentum > 0 and no dampening with nesterov, got momentum 0 and dampening 0"},
      {"parameters of two dtypes",
       [&] {
         Adam({all[0], {"odd", leaf({1}, DType::f64)}}, {});
       },
       "[Adam] expected all parameters as f32 or f64 on one device; first.kernel is f32 on cpu, odd is f64 "
       "on cpu"},
      {"learning rate",
       [&] {
         Adam adam(all, {});
         fill_gradients(all);
         adam.step(-1);
       },
       "[Adam] expected a learning rate >= 0, got -1"},
      {"update without a learning rate", [&] { Adam(all, {}).apply(); },
       "[Adam] expected a learning rate before the first update, got none; call set_learning_rate() or "
       "step(lr)"},
      {"average that was not advanced", [&] { Ema(all, 0.5, EmaWarmup::none).apply(); },
       "[Ema] expected an advance() before the first apply(), got none; call update()"},
      {"step without gradients",
       [&] {
         Two fresh = two();
         Adam adam(parameters(fresh), {});
         adam.step(0.1);
       },
       "[Adam] expected a parameter with a gradient, got none; call backward() before step()"},
      {"parameter of another shape",
       [] {
         Two changed = two();
         Parameters parts = parameters(changed);
         Adam adam(parts, {});
         parts[0].variable.set_value(ones({5, 5}));
         fill_gradients(parts);
         adam.step(0.1);
       },
       "[Adam] expected parameter first.kernel contiguous and of shape (2, 3), as it was at first; it is now "
       "(5, 5)"},
      {"learning rate of no step", [] { LearningRateSchedule{.base = 1}(-1); },
       "[learning rate] expected a step number >= 0, got -1"},
      {"warm-up longer than the training",
       [] { LearningRateSchedule{.base = 1, .warmup_steps = 5, .anneal_total_steps = 4}(6); },
       "[learning rate] expected more steps in total than in the warm-up, got 4 and 5"},
  });
}
