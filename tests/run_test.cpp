// Runs lose nothing: loops, records, manifests, and what happens when they are stopped.
#include "diffusion/run.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>

#include "diffusion/distill.h"
#include "diffusion/internal/json.h"
#include "diffusion/manifest.h"
#include "tensor/files.h"
#include "tests/error_of.h"
#include "tests/temporary_folder.h"
#include "tests/tiny_training.h"

using namespace halfstep;
using namespace halfstep::test;

namespace {

/// The files of a checkpoint.
std::vector<std::string> bytes_of(const std::string& checkpoint) {
  std::vector<std::string> all;
  for (const char* name : {"config.json", "model.safetensors", "state.safetensors"})
    all.push_back(read_file(checkpoint + "/" + name));
  return all;
}

std::vector<Json> lines_of(const std::string& path) {
  std::vector<Json> lines;
  std::string text = read_file(path);
  for (size_t begin = 0, end; (end = text.find('\n', begin)) != std::string::npos; begin = end + 1)
    lines.push_back(parse_json(text.substr(begin, end - begin), path));
  return lines;
}

/// Steps of the checkpoints in a run.
std::vector<int64_t> saved_steps(const std::string& run) {
  std::vector<int64_t> steps;
  for (const auto& entry : std::filesystem::directory_iterator(run))
    if (entry.path().filename().string().starts_with("step-"))
      steps.push_back(std::stoll(entry.path().filename().string().substr(5)));
  std::sort(steps.begin(), steps.end());
  return steps;
}

/// Removes the checkpoints behind `last`, as if the run had been killed right after that save.
void forget_after(const std::string& run, int64_t last) {
  for (const int64_t step : saved_steps(run))
    if (step > last) std::filesystem::remove_all(fmt::format("{}/step-{:08}", run, step));
}

/// Everything that changes with a run.
Config busy_config() {
  Config config = tiny_config();
  config.model.unet.dropout = 0.2;
  config.train.max_steps = 9;
  config.train.log_every = 4;
  config.train.warmup_steps = 3;
  config.train.ema_warmup = EmaWarmup::power;
  config.train.eval_every = 5;
  config.train.eval_samples = 4;
  config.train.eval_steps = 2;
  return config;
}

}  // namespace

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

TEST_CASE("a run that only skips updates ends with an error, and its checkpoints stay") {
  Config config = tiny_config();
  config.train.learning_rate = 1e30;  // diverges at once
  config.train.max_steps = 400;
  config.train.checkpoint_every = 30;
  config.train.anneal = false;
  config.train.log_every = 50;
  const TemporaryFolder folder;
  const std::string error =
      error_of([&] { train(config, tiny_data(), {.out = folder.path() + "/diverged"}); });
  CAPTURE(error);
  CHECK(contains(error, "the last 100 updates all had gradients that are not finite"));
  CHECK(load_checkpoint(folder.path() + "/diverged").info.step == 120);
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
  config.train.max_steps = 100;
  config.train.batch_size = 8;
  config.train.learning_rate = 1e-2;
  config.train.log_every = 20;
  config.train.flip = false;
  double first = 0, last = 0;
  RunOptions options{.out = folder.path() + "/run"};
  options.on_progress = [&](const Progress& p) { (p.step == 20 ? first : last) = p.loss; };
  train(config, tiny_data(), options);
  CHECK(last < 0.5 * first);
}

TEST_CASE("a run that stops after any update and continues equals the uninterrupted one in every byte") {
  const TemporaryFolder folder;
  const Dataset data = tiny_data();
  const Config config = busy_config();
  const std::string whole = train(config, data, {.out = folder / "whole"});
  const std::vector<std::string> expected = bytes_of(whole);
  for (int64_t stop_at = 1; stop_at < config.train.max_steps; ++stop_at) {
    CAPTURE(stop_at);
    const std::string run = folder / fmt::format("parts-{}", stop_at);
    // As if killed right after the save at stop_at: of what it did later the checkpoints are lost.
    Config part = config;
    part.train.checkpoint_every = stop_at;
    train(part, data, {.out = run});
    forget_after(run, stop_at);
    const std::string resumed = train(config, data, {.out = run, .resume = true});
    CHECK(bytes_of(resumed) == expected);
    // The record, too: no line is missing, none is there twice.
    std::vector<int64_t> steps;
    for (const Json& line : lines_of(run + "/log.jsonl")) steps.push_back(line["step"]);
    CHECK(steps == std::vector<int64_t>{4, 8, 9});
    const auto evaluations = lines_of(run + "/eval.jsonl"), all = lines_of(folder / "whole/eval.jsonl");
    CHECK(evaluations == all);
    CHECK(all.size() == 2);
    CHECK(read_file(run + "/samples/step-00000009.png") ==
          read_file(folder / "whole/samples/step-00000009.png"));
  }
}

TEST_CASE("a finished run that is extended equals one that was that long from the start") {
  const TemporaryFolder folder;
  const Dataset data = tiny_data();
  Config config = busy_config();
  config.train.anneal = false;
  config.train.eval_every = 0;
  const std::string whole = train(config, data, {.out = folder / "whole"});
  Config shorter = config;
  shorter.train.max_steps = 6;  // between two reports
  train(shorter, data, {.out = folder / "parts"});
  const std::string extended = train(config, data, {.out = folder / "parts", .resume = true});
  CHECK(bytes_of(extended) == bytes_of(whole));
}

TEST_CASE(
    "what a killed run wrote after its last checkpoint is cut off, torn lines are, damaged ones are "
    "refused") {
  const TemporaryFolder folder;
  const Dataset data = tiny_data();
  Config config = busy_config();
  config.train.max_steps = 8;
  const std::string run = folder / "run";
  train(config, data, {.out = run});
  const std::string log = read_file(run + "/log.jsonl");
  write_file(run + "/log.jsonl", log + R"({"step": 12, "loss": 1})"
                                       "\n"
                                       R"({"step": 16, "lo)");
  config.train.max_steps = 9;
  train(config, data, {.out = run, .resume = true});
  const auto lines = lines_of(run + "/log.jsonl");
  REQUIRE(lines.size() == 3);
  CHECK(lines[2]["step"] == 9);
  CHECK(lines[2]["seconds"].get<double>() > lines[1]["seconds"].get<double>());
  write_file(run + "/log.jsonl", "{\"step\": 4\n" + log);
  config.train.max_steps = 10;
  CHECK(contains(error_of([&] { train(config, data, {.out = run, .resume = true}); }),
                 "log.jsonl, line 1: expected JSON"));
}

TEST_CASE("keep: older checkpoints go, the newest stay") {
  const TemporaryFolder folder;
  Config config = tiny_config();
  config.train.max_steps = 9;
  config.train.checkpoint_every = 2;
  config.train.keep = 2;
  train(config, tiny_data(), {.out = folder / "run"});
  CHECK(saved_steps(folder / "run") == std::vector<int64_t>{8, 9});
}

TEST_CASE("what a kill in the last pruning left of a finished run or halving goes when it is continued") {
  const TemporaryFolder folder;
  const Dataset data = tiny_data();
  Config config = tiny_config();
  config.train.max_steps = 4;
  config.train.checkpoint_every = 1;
  config.train.keep = 1;
  const std::string run = folder / "run", chain = folder / "chain", half = chain + "/student-2";
  const Checkpoint teacher = load_checkpoint(train(config, data, {.out = run}));
  distill(teacher, config, 4, 1, data, {.out = chain});
  for (const std::string& stage : {run, half}) {
    // One checkpoint not yet removed, and one half removed.
    std::filesystem::copy(stage + "/step-00000004", stage + "/step-00000003");
    std::filesystem::copy(stage + "/step-00000004", stage + "/step-00000002.halfstep-tmp-1");
  }
  train(config, data, {.out = run, .resume = true});
  distill(teacher, config, 4, 1, data, {.out = chain, .resume = true});
  for (const std::string& stage : {run, half}) {
    CAPTURE(stage);
    CHECK(saved_steps(stage) == std::vector<int64_t>{4});
    CHECK_FALSE(std::filesystem::exists(stage + "/step-00000002.halfstep-tmp-1"));
  }
}

TEST_CASE(
    "patience: a run whose loss does not fall ends early, is finished, and decides the same when continued") {
  const TemporaryFolder folder;
  const Dataset data = tiny_data();
  Config config = tiny_config();
  config.train.max_steps = 60;
  config.train.log_every = 2;
  config.train.learning_rate = 0;  // no update improves anything
  config.train.ema_decay = 0;
  config.train.patience = 3;
  config.train.min_improvement = 0.9;
  const std::string last = train(config, data, {.out = folder / "run"});
  const CheckpointInfo info = load_checkpoint_info(last);
  CHECK(info.stopped_early);
  CHECK(info.step >= 8);
  CHECK(info.step < 60);
  CHECK(train(config, data, {.out = folder / "run", .resume = true}) == last);
  // Continued in the middle of its patience.
  Config parts = config;
  parts.train.checkpoint_every = 4;
  train(parts, data, {.out = folder / "parts"});
  forget_after(folder / "parts", 4);
  CHECK(bytes_of(train(config, data, {.out = folder / "parts", .resume = true})) == bytes_of(last));
  // Without patience it goes on.
  config.train.patience = 0;
  CHECK(load_checkpoint_info(train(config, data, {.out = folder / "run", .resume = true})).step == 60);
}

TEST_CASE("one run writes to a folder at a time") {
  const TemporaryFolder folder;
  const FolderLock lock(folder / "run");
  CHECK(
      contains(error_of([&] { train(tiny_config(), tiny_data(), {.out = folder / "run"}); }), "only writer"));
}

TEST_CASE("halvings of their own lengths, the manifest of the chain, and a teacher that must stay") {
  const TemporaryFolder folder;
  const Dataset data = tiny_data();
  Config config = tiny_config();
  config.train.eval_samples = 16;
  const Checkpoint teacher = load_checkpoint(train(config, data, {.out = folder / "teacher"}));
  config.distill.max_steps = {{1, 3}};
  config.train.max_steps = 5;
  const RunOptions options{.out = folder / "chain", .command = "halfstep distill x", .program = "halfstep 1"};
  distill(teacher, config, 4, 1, data, options);
  const Manifest manifest = read_manifest(options.out).value();
  CHECK(manifest.kind == "distill");
  REQUIRE(manifest.commands.size() == 1);
  CHECK(manifest.commands[0].line == "halfstep distill x");
  CHECK(manifest.commands[0].started.size() == 20);
  CHECK(manifest.commands[0].device == cpu_device().description());
  CHECK(manifest.data_name == "halves");
  CHECK(manifest.data_floor > 0);
  REQUIRE(manifest.stages.size() == 2);
  const ManifestStage &two = manifest.stages[0], &one = manifest.stages[1];
  CHECK(two.name == "student-2");
  CHECK(two.status == StageStatus::done);
  CHECK(two.step == 5);
  CHECK(two.checkpoint == "student-2/step-00000005");
  CHECK(two.parent_sha256 == manifest.teacher.value().model_sha256);
  CHECK(one.parent_sha256 == two.model_sha256);
  CHECK(one.model_sha256 != two.model_sha256);
  CHECK(one.step == 3);
  CHECK(one.max_steps == 3);
  CHECK(std::filesystem::exists(folder / ("chain/" + one.grid.value())));
  CHECK(one.distance_to_data.value() > 0);
  CHECK(one.distance_to_teacher.value() > 0);
  CHECK(load_checkpoint_info(folder / "chain/student-1").config.train.max_steps == 3);

  Checkpoint other = teacher;
  other.path = train(tiny_config(), data, {.out = folder / "other"});
  std::filesystem::copy_file(folder / "chain/student-1/step-00000003/model.safetensors",
                             other.path + "/model.safetensors",
                             std::filesystem::copy_options::overwrite_existing);
  RunOptions again = options;
  again.resume = true;
  CHECK(contains(error_of([&] { distill(other, config, 4, 1, data, again); }),
                 "was started from another teacher"));
}

TEST_CASE("a chain that is stopped in the middle of a halving continues there to the same bytes") {
  const TemporaryFolder folder;
  const Dataset data = tiny_data();
  Config config = tiny_config();
  config.train.eval_samples = 4;
  const Checkpoint teacher = load_checkpoint(train(config, data, {.out = folder / "teacher"}));
  const std::string whole = distill(teacher, config, 8, 1, data, {.out = folder / "whole"});
  std::atomic<bool> stop{false};
  RunOptions options{.out = folder / "parts"};
  options.stop = &stop;
  options.on_progress = [&](const Progress& p) { stop = p.stage == "student-2" && p.step == 2; };
  CHECK_THROWS_AS(distill(teacher, config, 8, 1, data, options), Interrupted);
  const auto statuses = [&] {
    std::vector<std::string_view> names;
    const Manifest manifest = read_manifest(options.out).value();
    for (const ManifestStage& s : manifest.stages) names.push_back(name_of(s.status));
    return names;
  };
  CHECK(statuses() == std::vector<std::string_view>{"done", "stopped", "waiting"});
  stop = false;
  options.on_progress = {};
  options.resume = true;
  const std::string resumed = distill(teacher, config, 8, 1, data, options);
  CHECK(bytes_of(resumed) == bytes_of(whole));
  CHECK(statuses() == std::vector<std::string_view>{"done", "done", "done"});
}

TEST_CASE("halving from 8192 steps to 1 is a matter of 13 short runs") {
  const TemporaryFolder folder;
  const Dataset data = tiny_data();
  Config config = tiny_config();
  config.train.max_steps = 1;
  config.train.eval_samples = 2;
  config.train.eval_steps = 2;
  const Checkpoint teacher = load_checkpoint(train(config, data, {.out = folder / "teacher"}));
  const CheckpointInfo last =
      load_checkpoint_info(distill(teacher, config, 8192, 1, data, {.out = folder / "chain"}));
  CHECK(last.num_steps == 1);
  CHECK(last.history.size() == 14);
}
