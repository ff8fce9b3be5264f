// Training, distillation and sampling with their steps recorded (tensor/captured.h) and without: the same
// bits.
#pragma once

#include <doctest/doctest.h>

#include <string>
#include <vector>

#include "diffusion/batches.h"
#include "diffusion/model.h"
#include "diffusion/sampler.h"
#include "diffusion/trainer.h"
#include "tests/tiny_training.h"

namespace halfstep::test {

/// What must not matter, switched while this lives.
struct GraphsSwitched {
  Device& device;
  GraphsSwitched(Device& d, bool on) : device(d) { device.use_graphs(on); }
  ~GraphsSwitched() { device.use_graphs(true); }
};

/// Random values everywhere: layers that start at 0 would hide most of the network.
inline void randomise(Trainer& trainer) {
  TensorMap weights = trainer.weights();
  for (const auto& [name, t] : weights)
    t.copy_(affine(random_normal(t.shape(), {7, static_cast<uint64_t>(t.numel())}, 0, t.options()), 0.1, 0));
  trainer.start_from(weights);
}

/// The state after updates on `batches` of these sizes, and how many of them were started as graphs.
struct Trained {
  TensorMap state;
  int64_t graph_launches = 0;
};
inline Trained train_tiny(const Config& config, Device& device, bool distilling, bool graphs,
                          const std::vector<int64_t>& sizes) {
  const GraphsSwitched switched(device, graphs);
  Trainer trainer(config, device);
  randomise(trainer);
  UNet teacher(config.model.unet, 3, {DType::f32, &device});
  load_state(teacher, trainer.weights());
  set_requires_grad(teacher, false);
  const Denoiser denoiser = make_denoiser(teacher, config.model.prediction);
  const Dataset data = tiny_data();
  const int64_t before = device.statistics().graph_launches;
  for (size_t k = 0; k < sizes.size(); ++k) {
    const Batch batch = BatchSource(data, sizes[k], 1, true, device).batch(static_cast<int64_t>(k));
    if (distilling)
      trainer.update(batch, denoiser, 4);
    else
      trainer.update(batch);
  }
  Trained result{{}, device.statistics().graph_launches - before};
  for (const auto& [name, t] : trainer.state()) result.state.emplace(name, t.to(cpu_device()));
  return result;
}

/// With a moving average, clipping, dropout, labels, parts of batches and recomputed blocks, for Algorithms 1
/// and 2.
inline void check_recorded_training(Device& device) {
  Config plain = tiny_config();
  plain.train.adam.max_grad_norm = 0.1;
  Config full = plain;
  full.model.unet.dropout = 0.3;
  full.model.unet.num_classes = 2;
  full.train.micro_batches = 2;
  full.train.ema_warmup = EmaWarmup::ramp;  // another weight for each update, as another learning rate
  full.train.loss = LossWeight::truncated_snr;
  Config recomputed = full;
  recomputed.train.micro_batches = 1;
  recomputed.train.recompute_blocks = true;
  struct Case {
    const char* name;
    const Config& config;
    bool distilling;
  };
  for (const Case& c : {Case{"full", full, false}, Case{"recomputed", recomputed, true}}) {
    CAPTURE(std::string(c.name));
    CAPTURE(c.distilling);
    // The first update is done as it is, the second recorded, the third repeated.
    const std::vector<int64_t> sizes = {2, 2, 2};
    const Trained with = train_tiny(c.config, device, c.distilling, true, sizes),
                  without = train_tiny(c.config, device, c.distilling, false, sizes);
    CHECK(with.graph_launches == 2);
    CHECK(without.graph_launches == 0);
    check_equal_bits(with.state, without.state);
  }
  // A batch of another size is recorded anew.
  const std::vector<int64_t> sizes = {2, 2, 1, 1, 2};
  const Trained with = train_tiny(plain, device, false, true, sizes),
                without = train_tiny(plain, device, false, false, sizes);
  CHECK(with.graph_launches == 2);
  check_equal_bits(with.state, without.state);
}

/// DDIM and ancestral sampling, with labels and with what happens on the way.
inline void check_recorded_sampling(Device& device) {
  Config config = tiny_config();
  config.model.unet.num_classes = 2;
  Trainer trainer(config, device);
  randomise(trainer);
  const Denoiser denoiser = make_denoiser(trainer.unet(), config.model.prediction);
  const Tensor noise = initial_noise({2, 8, 8, 1}, 5, 0, {DType::f32, &device});
  const Tensor label = Tensor::from(std::vector<int64_t>{1, 0}, {2}, {DType::i64});
  const Tensor step_noise = random_normal({5, 2, 8, 8, 1}, {3, 1}, 0, {DType::f32, &device});
  const SamplerOptions ddim{.num_steps = 5};
  const SamplerOptions ancestral{.kind = SamplerKind::ancestral, .num_steps = 5, .variance = {0.3}};
  SamplerOptions given = ancestral;
  given.step_noise = step_noise;
  for (const SamplerOptions& options : {ddim, ancestral, given}) {
    CAPTURE(std::string(name_of(options.kind)));
    const auto samples = [&](bool graphs, int64_t& launches) {
      const GraphsSwitched switched(device, graphs);
      const int64_t before = device.statistics().graph_launches;
      Trajectory way;
      const Tensor z = sample(denoiser, noise, label, options, &way);
      launches = device.statistics().graph_launches - before;
      return TensorMap{{"samples", z.to(cpu_device())},
                       {"z", way.z.to(cpu_device())},
                       {"x_hat", way.x_hat.to(cpu_device())}};
    };
    int64_t with = 0, without = 0;
    check_equal_bits(samples(true, with), samples(false, without));
    CHECK(with == 4);
    CHECK(without == 0);
  }
  // A table of noise levels for each of the 6 times; the labels of the host once to be checked, and once to
  // stay.
  const int64_t before = device.statistics().uploads;
  sample(denoiser, noise, label, ddim);
  CHECK(device.statistics().uploads - before == 6 + 2);
}

}  // namespace halfstep::test
