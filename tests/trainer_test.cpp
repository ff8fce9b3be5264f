// Configuration, checkpoints and the loops: what a run promises.
#include "diffusion/trainer.h"

#include <doctest/doctest.h>

#include <cmath>
#include <filesystem>
#include <limits>

#include "diffusion/distill.h"
#include "diffusion/random_streams.h"
#include "tensor/files.h"
#include "tests/error_of.h"
#include "tests/temporary_folder.h"
#include "tests/unreadable_backend.h"

using namespace halfstep;
using halfstep::test::error_of;
using halfstep::test::TemporaryFolder;

namespace {

/// A network of a few thousand weights for 8x8 pictures.
Config tiny_config() {
  Config config;
  UNetConfig& u = config.model.unet;
  u.height = u.width = 8;
  u.channels = 8;
  u.channel_multipliers = {1, 2};
  u.num_res_blocks = 1;
  u.attention_resolutions = {4};
  u.groups = 4;
  config.train.batch_size = 4;
  config.train.max_steps = 6;
  config.train.log_every = 2;
  config.train.checkpoint_every = 0;
  config.train.ema_decay = 0.5;
  return config;
}

/// 32 pictures of two kinds: bright left or bright right half.
Dataset tiny_data() {
  Dataset d{.name = "halves",
            .count = 32,
            .height = 8,
            .width = 8,
            .channels = 1,
            .pixels = {},
            .labels = {},
            .num_classes = 2};
  for (int64_t n = 0; n < d.count; ++n) {
    d.labels.push_back(static_cast<uint8_t>(n % 2));
    for (int y = 0; y < 8; ++y)
      for (int x = 0; x < 8; ++x) d.pixels.push_back((x < 4) == (n % 2 == 0) ? 230 : 20);
  }
  return d;
}

void check_equal_bits(const TensorMap& a, const TensorMap& b) {
  REQUIRE(a.size() == b.size());
  for (const auto& entry : a) {
    const std::string& name = entry.first;
    CAPTURE(name);
    REQUIRE(b.contains(name));
    CHECK(entry.second.to_vector<double>() == b.at(name).to_vector<double>());
  }
}

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

}  // namespace

TEST_CASE("configurations survive a round trip; missing keys keep their values") {
  Config config = tiny_config();
  config.model.prediction = Prediction::both;
  config.model.unet.out_channels = 2;
  config.train.loss = LossWeight::truncated_snr;
  config.train.ema_warmup = EmaWarmup::ramp;
  config.train.seed = 12345678901234567ull;
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

TEST_CASE("training continues from a checkpoint to the very bits of an uninterrupted run") {
  const TemporaryFolder folder;
  const Dataset data = tiny_data();
  Config config = tiny_config();
  config.model.unet.dropout = 0.2;
  const std::string whole = train(config, data, {.out = folder.path() + "/whole"});

  std::atomic<bool> stop{false};
  RunOptions options{.out = folder.path() + "/parts"};
  options.stop = &stop;
  options.on_progress = [&](const Progress& p) { stop = p.step >= 2; };
  CHECK_THROWS_AS(train(config, data, options), Interrupted);
  CHECK(contains(error_of([&] { train(config, data, {.out = folder.path() + "/parts"}); }), "--resume"));
  options.stop = nullptr;
  options.resume = true;
  const std::string resumed = train(config, data, options);
  check_equal_bits(load_checkpoint(resumed).weights, load_checkpoint(whole).weights);
  check_equal_bits(load_checkpoint_state(resumed), load_checkpoint_state(whole));
  // A finished run that is resumed stays as it is.
  CHECK(train(config, data, options) == resumed);
}

TEST_CASE("distillation: a chain of students, a teacher that never changes, history that tells") {
  const TemporaryFolder folder;
  const Dataset data = tiny_data();
  Config config = tiny_config();
  config.model.unet.dropout = 0.1;
  const Checkpoint teacher = load_checkpoint(train(config, data, {.out = folder.path() + "/teacher"}));
  const std::string before = read_file(teacher.path + "/model.safetensors");
  std::vector<std::string> stages;
  RunOptions options{.out = folder.path() + "/chain"};
  options.on_progress = [&](const Progress& p) {
    if (stages.empty() || stages.back() != p.stage) stages.push_back(p.stage);
  };
  const Checkpoint last = load_checkpoint(distill(teacher, config, 4, 1, data, options));
  CHECK(stages == std::vector<std::string>{"student-2", "student-1"});
  CHECK(last.info.num_steps == 1);
  CHECK(teacher.info.config.model.unet.dropout == 0.1);
  CHECK(last.info.config.model.unet.dropout == 0);
  REQUIRE(last.info.history.size() == 3);
  CHECK(last.info.history[1].teacher_steps == 4);
  CHECK(last.info.history[1].num_steps == 2);
  CHECK(last.info.history[2].teacher_steps == 2);
  CHECK(last.info.history[2].updates == config.train.max_steps);
  CHECK(std::isfinite(last.info.history[2].final_loss));
  CHECK(read_file(teacher.path + "/model.safetensors") == before);
  CHECK(contains(error_of([&] { distill(last, config, 4, 1, data, {.out = folder.path() + "/other"}); }),
                 "the teacher was distilled for 1 steps"));
  CHECK(contains(error_of([&] { distill(teacher, config, 4, 1, data, {.out = folder.path() + "/chain"}); }),
                 "--resume"));
  CHECK(contains(error_of([&] { distill(teacher, config, 5, 1, data, {.out = folder.path() + "/odd"}); }),
                 "5"));
  options.resume = true;
  CHECK(distill(teacher, config, 4, 1, data, options) == last.path);
}

TEST_CASE(
    "a halving anneals to 0 from its first update on and keeps no average, however its teacher was trained") {
  TrainConfig teacher = tiny_config().train;
  teacher.anneal = false;
  teacher.warmup_steps = 3;
  teacher.learning_rate = 0.5;
  const TrainConfig student = distillation_defaults(teacher);
  CHECK(student.ema_decay == 0);
  CHECK(student.learning_rate_schedule()(0) == 0.5);
  CHECK(student.learning_rate_schedule()(student.max_steps - 1) == doctest::Approx(0.5 / 6).scale(0));
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

TEST_CASE(
    "updates that are not finite are skipped and counted, and a run that only skips ends with an error") {
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

  config.train.learning_rate = 1e30;  // diverges at once
  config.train.max_steps = 400;
  config.train.anneal = false;
  config.train.log_every = 50;
  const TemporaryFolder folder;
  CHECK(contains(error_of([&] { train(config, tiny_data(), {.out = folder.path() + "/diverged"}); }),
                 "not finite"));
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
    result.emplace("loss", Tensor::scalar(trainer.take_mean_loss()));
    return result;
  };
  for (bool distilling : {false, true})
    check_equal_bits(run(unreadable_device(), distilling), run(reference_device(), distilling));
}

TEST_CASE("data that does not fit the model is refused before training") {
  const TemporaryFolder folder;
  Dataset data = tiny_data();
  Config config = tiny_config();
  config.model.unet.height = 16;
  CHECK(contains(error_of([&] { train(config, data, {.out = folder.path() + "/a"}); }),
                 "the model is for pictures of 16 x 8 x 1, the data 'halves' has 8 x 8 x 1"));
}

TEST_CASE("a short training learns two kinds of pictures") {
  const TemporaryFolder folder;
  Config config = tiny_config();
  config.train.max_steps = 300;
  config.train.batch_size = 16;
  config.train.learning_rate = 3e-3;
  config.train.log_every = 50;
  config.train.flip = false;
  double first = 0, last = 0;
  RunOptions options{.out = folder.path() + "/run"};
  options.on_progress = [&](const Progress& p) { (p.step == 50 ? first : last) = p.loss; };
  train(config, tiny_data(), options);
  CHECK(last < 0.5 * first);
}
