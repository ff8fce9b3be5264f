// Configuration, checkpoints and single updates. (The loops around them are tested in run_test.cpp.)
#include "diffusion/trainer.h"

#include <doctest/doctest.h>

#include <cmath>
#include <limits>

#include "diffusion/checkpoint.h"
#include "tensor/files.h"
#include "tests/error_of.h"
#include "tests/recorded_training.h"
#include "tests/temporary_folder.h"
#include "tests/tiny_training.h"
#include "tests/unreadable_backend.h"

using namespace halfstep;
using namespace halfstep::test;

TEST_CASE("configurations survive a round trip; missing keys keep their values") {
  Config config = tiny_config();
  config.model.prediction = Prediction::both;
  config.model.unet.out_channels = 2;
  config.train.loss = LossWeight::truncated_snr;
  config.train.ema_warmup = EmaWarmup::ramp;
  config.train.seed = 12345678901234567ull;
  config.train.anneal_shape = AnnealShape::cosine;
  config.distill.max_steps = {{2, 100}, {16, 50}};
  const std::string text = config_to_json(config);
  CHECK(config_to_json(config_from_json(text, "test")) == text);
  const Config partial = config_from_json(R"({"train": {"learning_rate": 0.5}})", "test", config);
  CHECK(partial.train.learning_rate == 0.5);
  CHECK(partial.train.batch_size == config.train.batch_size);
}

TEST_CASE("errors in configurations name the key and a way out") {
  const auto error = [](const char* text) { return error_of([&] { config_from_json(text, "my.json"); }); };
  CHECK(error(R"({"model": {"chanels": 3}})") ==
        "[config] my.json, section 'model': unknown key 'chanels'; did you mean 'channels'?");
  CHECK(error(R"({"trian": {}})") == "[config] my.json: unknown key 'trian'; did you mean 'train'?");
  CHECK(contains(error(R"({"train": {"batch_size": "many"}})"),
                 "expected a number as the value of 'batch_size', got \"many\""));
  CHECK(contains(error(R"({"train": {"batch_size": true}})"),
                 "expected a number as the value of 'batch_size'"));
  CHECK(contains(error(R"({"train": {"batch_size": 2.5}})"),
                 "expected a whole number as the value of 'batch_size'"));
  CHECK(contains(error(R"({"train": {"seed": -1}})"),
                 "expected a whole number, at least 0, as the value of 'seed'"));
  CHECK(contains(error(R"({"train": {"flip": 1}})"), "expected true or false as the value of 'flip', got 1"));
  CHECK(contains(error(R"({"train": {"learning_rate": true}})"), "expected a number"));
  CHECK(contains(error(R"({"model": {"channel_multipliers": [1, 2.5]}})"), "expected a list of numbers"));
  CHECK(error(R"({"train": {"zebra": 1}})") == "[config] my.json, section 'train': unknown key 'zebra'");
  CHECK(config_from_json(R"({"train": {"max_steps": 1e3}})", "my.json").train.max_steps == 1000);
  CHECK(contains(error(R"({"train": {"loss": "l2"}})"), "'loss'"));
  CHECK(contains(error(R"({"train": {"batch_size": 0}})"), "expected batch_size >= 1, got 0"));
  CHECK(contains(error(R"({"train": {"ema_decay": 1}})"), "expected ema_decay < 1"));
  CHECK(contains(error(R"({"train": {"anneal_shape": "step"}})"),
                 "'anneal_shape': [anneal_shape] expected linear"));
  CHECK(contains(error(R"({"train": {"batch_size": 6, "micro_batches": 4}})"),
                 "expected a batch_size that micro_batches divides, got 6 and 4"));
  CHECK(contains(error(R"({"train": {"eval_samples": 1}})"), "expected eval_samples >= 2, got 1"));
  CHECK(contains(error(R"({"distill": {"max_steps": {"two": 5}}})"),
                 "expected numbers of steps as the keys of 'max_steps', got 'two'"));
  CHECK(contains(error(R"({"distill": {"max_steps": [5]}})"), "expected an object of numbers"));
  CHECK(contains(error(R"({"distill": {"max_steps": {"2": 0}}})"), "got 2: 0"));
  CHECK(contains(error(R"({"model": {"prediction": "both"}})"), "expected out_channels = 2"));
  CHECK(contains(error("{\"model\": {"), "my.json: expected JSON, got an error at byte"));
  CHECK(contains(error(R"({"model": []})"), "expected an object for 'model'"));
}

TEST_CASE("a checkpoint is found by its own name, its run's and its chain's") {
  const TemporaryFolder folder;
  const Config config = tiny_config();
  Trainer trainer(config, cpu_device());
  CheckpointInfo info{
      .config = config, .step = 5, .num_steps = 0, .data = "halves", .history = {{0, 0, 5, 0.25}}};
  const std::string run = folder.path() + "/run";
  CHECK(contains(error_of([&] { resolve_checkpoint(run); }), "not there"));
  const std::string five = save_checkpoint(run, info, trainer.weights(), trainer.state());
  info.step = 12;
  const std::string twelve = save_checkpoint(run, info, trainer.weights(), trainer.state());
  CHECK(resolve_checkpoint(five) == five);
  CHECK(resolve_checkpoint(run) == twelve);
  CHECK(contains(error_of([&] { save_checkpoint(run, info, trainer.weights(), trainer.state()); }),
                 "step-00000012"));
  const std::string chain = folder.path() + "/chain";
  create_folders(chain);
  CHECK(contains(error_of([&] { resolve_checkpoint(chain); }), "holds no checkpoint"));
  for (int64_t n : {8, 16, 4}) {
    info.num_steps = n;
    save_checkpoint(fmt::format("{}/student-{}", chain, n), info, trainer.weights(), trainer.state());
  }
  CHECK(load_checkpoint(chain).info.num_steps == 4);

  const Checkpoint loaded = load_checkpoint(five);
  CHECK(loaded.info.step == 5);
  CHECK(loaded.info.data == "halves");
  CHECK(loaded.info.history.size() == 1);
  CHECK(loaded.info.history[0].final_loss == 0.25);
  CHECK(config_to_json(loaded.info.config) == config_to_json(config));
  check_equal_bits(loaded.weights, trainer.weights());
}

TEST_CASE("foreign and damaged checkpoints are refused") {
  const TemporaryFolder folder;
  const std::string path = folder.path() + "/fake";
  create_folders(path);
  write_file(path + "/config.json", R"({"format": "other"})");
  CHECK(contains(error_of([&] { load_checkpoint(path); }),
                 "expected \"format\": \"halfstep-checkpoint\", got \"other\""));
  write_file(path + "/config.json", R"({"format": "halfstep-checkpoint", "version": 9})");
  CHECK(contains(error_of([&] { load_checkpoint(path); }), "expected version 1, got 9"));
  write_file(path + "/config.json", R"({"format": "halfstep-checkpoint", "version": 1})");
  CHECK(contains(error_of([&] { load_checkpoint(path); }), "model.safetensors"));
}

TEST_CASE("a student starts as its teacher and the teacher's parameters get no gradient") {
  Config config = tiny_config();
  Trainer teacher(config, cpu_device());
  const Dataset data = tiny_data();
  BatchSource batches(data, 4, 1);
  const Batch batch = batches.batch(0);
  for (int i = 0; i < 3; ++i) teacher.update(batch);
  Trainer student(config, cpu_device());
  student.start_from(teacher.weights());
  check_equal_bits(student.weights(), teacher.weights());
  CHECK(student.step() == 0);
  UNet frozen(config.model.unet, 0);
  load_state(frozen, teacher.weights());
  set_requires_grad(frozen, false);
  const auto bits = [&] {
    std::vector<std::vector<float>> all;
    for (const auto& [name, t] : state(frozen)) all.push_back(t.to_vector<float>());
    return all;
  };
  const auto before = bits();
  student.update(batch, make_denoiser(frozen, config.model.prediction), 2);
  CHECK(bits() == before);
  for (const NamedVariable& p : parameters(frozen)) CHECK_FALSE(p.variable.grad().defined());
  CHECK(student.step() == 1);
}

TEST_CASE("one update runs on a device whose memory the host cannot read, and reads nothing back") {
  Config config = tiny_config();
  config.model.unet.dropout = 0.1;
  const Dataset data = tiny_data();
  const auto run = [&](Device& device, bool distilling) {
    Trainer trainer(config, device);
    UNet teacher(config.model.unet, 3, {DType::f32, &device});
    set_requires_grad(teacher, false);
    BatchSource batches(data, 4, 1, true, device);
    const Batch batch = batches.batch(0);
    const int64_t downloads = unreadable_downloads();
    for (int i = 0; i < 2; ++i) {
      if (distilling)
        trainer.update(batch, make_denoiser(teacher, config.model.prediction), 4);
      else
        trainer.update(batch);
    }
    CHECK(unreadable_downloads() == downloads);
    TensorMap result;
    for (const auto& [name, t] : trainer.weights()) result.emplace(name, t.to(cpu_device()));
    result.emplace("loss", Tensor::scalar(trainer.mean_loss()));
    return result;
  };
  for (bool distilling : {false, true})
    check_equal_bits(run(unreadable_device(), distilling), run(reference_device(), distilling));
}

TEST_CASE("recorded updates and sampling steps have the bits of those that are not") {
  check_recorded_training(unreadable_device());
  check_recorded_sampling(unreadable_device());
}

TEST_CASE("a trainer that starts anew, and another teacher, forget what was recorded") {
  const Config config = tiny_config();
  Device& device = unreadable_device();
  const Dataset data = tiny_data();
  const Batch batch = BatchSource(data, 2, 1, true, device).batch(0);
  UNet first(config.model.unet, 3, {DType::f32, &device}),
      second(config.model.unet, 4, {DType::f32, &device});
  const auto run = [&](bool graphs) {
    const GraphsSwitched switched(device, graphs);
    Trainer trainer(config, device);
    randomise(trainer);
    const TensorMap start = trainer.weights();
    for (const UNet* teacher : {&first, &second}) {
      randomise(trainer);
      const Denoiser denoiser = make_denoiser(*teacher, config.model.prediction);
      for (int i = 0; i < 2; ++i) trainer.update(batch, denoiser, 4);
      for (int i = 0; i < 2; ++i) trainer.update(batch);
    }
    TensorMap result;
    for (const auto& [name, t] : trainer.state()) result.emplace(name, t.to(cpu_device()));
    return result;
  };
  check_equal_bits(run(true), run(false));
}

TEST_CASE("updates that are not finite are skipped and counted") {
  Config config = tiny_config();
  Trainer trainer(config, cpu_device());
  const Dataset data = tiny_data();
  BatchSource batches(data, 4, 1);
  const Batch batch = batches.batch(0);
  trainer.update(batch);
  const TensorMap before = [&] {
    TensorMap copy;
    for (const auto& [name, t] : state(trainer.unet())) copy.emplace(name, t.clone());
    return copy;
  }();
  Batch poisoned = batch;
  poisoned.x = batch.x.clone();
  poisoned.x.slice(0, 0, 1).fill_(std::numeric_limits<double>::quiet_NaN());
  trainer.update(poisoned);
  CHECK(trainer.optimizer_stats().skipped == 1);
  CHECK(trainer.optimizer_stats().applied == 1);
  check_equal_bits(state(trainer.unet()), before);
  trainer.update(batch);
  CHECK(trainer.optimizer_stats().applied == 2);
}

TEST_CASE("a batch in parts has the gradient of the whole, and its loss") {
  for (const bool distilling : {false, true}) {
    CAPTURE(distilling);
    Config config = tiny_config();
    config.train.adam = {.beta1 = 0, .beta2 = 0, .eps = 1e6};  // a step is lr / eps times the gradient
    config.train.learning_rate = 1e6;
    config.train.anneal = false;
    config.train.batch_size = 8;
    const Dataset data = tiny_data();
    const Batch batch = BatchSource(data, 8, 1).batch(0);
    UNet teacher(config.model.unet, 3);
    set_requires_grad(teacher, false);
    const auto updated = [&](int64_t parts) {
      config.train.micro_batches = parts;
      Trainer trainer(config, cpu_device());
      // Its zero-initialised layers would hide most gradients.
      TensorMap weights = trainer.weights();
      for (const auto& [name, t] : weights) t.copy_(random_normal(t.shape(), {7, t.numel() + 0ul}));
      trainer.start_from(weights);
      if (distilling)
        trainer.update(batch, make_denoiser(teacher, config.model.prediction), 4);
      else
        trainer.update(batch);
      TensorMap result;
      for (const auto& [name, t] : state(trainer.unet())) result.emplace(name, t.clone());
      return std::pair(result, trainer.mean_loss());
    };
    const auto [whole, whole_loss] = updated(1);
    for (const int64_t parts : {2, 8}) {
      const auto [split, split_loss] = updated(parts);
      CHECK(split_loss == doctest::Approx(whole_loss).epsilon(1e-5));
      for (const auto& entry : whole) {
        const std::string& name = entry.first;
        CAPTURE(name);
        const std::vector<double> a = entry.second.to_vector<double>(),
                                  b = split.at(name).to_vector<double>();
        double error = 0, size = 0;
        for (size_t i = 0; i < a.size(); ++i) {
          error = std::max(error, std::abs(a[i] - b[i]));
          size = std::max(size, std::abs(a[i]));
        }
        CHECK(error <= 2e-4 * size);
      }
    }
  }
  Config config = tiny_config();
  config.train.micro_batches = 4;
  Trainer trainer(config, cpu_device());
  const Dataset data = tiny_data();
  CHECK(contains(error_of([&] { trainer.update(BatchSource(data, 6, 1).batch(0)); }),
                 "expected a batch that divides into 4 equal parts, got 6 examples"));
}

TEST_CASE("recomputed blocks: the same update, dropout included, in less memory") {
  Config config = tiny_config();
  config.model.unet.dropout = 0.3;
  config.train.batch_size = 16;
  const Dataset data = tiny_data();
  const Batch batch = BatchSource(data, 16, 1).batch(0);
  Allocator& allocator = cpu_device().allocator;
  const auto updated = [&](bool recompute, size_t& peak) {
    config.train.recompute_blocks = recompute;
    Trainer trainer(config, cpu_device());
    TensorMap weights = trainer.weights();
    for (const auto& [name, t] : weights) t.copy_(random_normal(t.shape(), {7, t.numel() + 0ul}));
    trainer.start_from(weights);
    const size_t before = allocator.current_bytes();
    allocator.reset_peak();
    trainer.update(batch);
    peak = allocator.peak_bytes() - before;
    return trainer.mean_loss();
  };
  size_t kept_peak = 0, recomputed_peak = 0;
  const double kept = updated(false, kept_peak), recomputed = updated(true, recomputed_peak);
  CHECK(recomputed == kept);
  CHECK(5 * recomputed_peak < 4 * kept_peak);
}
