// halfstep demo: from nothing to pictures in one step, within a given time.
#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <memory>

#include "apps/commands.h"
#include "apps/demo_config.h"
#include "apps/progress.h"
#include "apps/run_log.h"
#include "diffusion/distill.h"
#include "diffusion/images.h"
#include "diffusion/model.h"
#include "diffusion/trainer.h"
#include "tensor/error.h"
#include "tensor/files.h"

namespace halfstep {

namespace {

constexpr int64_t kTeacherSteps = 16;  ///< of sampling; the students halve it down to 1
// Shares of the time: the teacher's, and each halving's.
constexpr double kTeacherShare = 10.0 / 18, kHalvingShare = 2.0 / 18;
constexpr double kSecondsPerLogLine = 10, kSecondsPerCheckpoint = 180;
constexpr int64_t kColumns = 12;  ///< samples in each row of pictures

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

/// What the demo does, decided once: configurations with their numbers of updates.
struct Plan {
  double minutes = 0;
  double seconds_per_update = 0, seconds_per_distillation_update = 0;  ///< as measured
  Config teacher, student;
};

Json to_json(const Plan& plan) {
  return {{"minutes", plan.minutes},
          {"seconds_per_update", plan.seconds_per_update},
          {"seconds_per_distillation_update", plan.seconds_per_distillation_update},
          {"teacher", to_json(plan.teacher)},
          {"student", to_json(plan.student)}};
}

Plan read_plan(const std::string& path) {
  const Json json = parse_json(read_file(path), path);
  require_known_keys(
      json, path, {"minutes", "seconds_per_update", "seconds_per_distillation_update", "teacher", "student"});
  Plan plan;
  read_field(json, path, "minutes", plan.minutes);
  read_field(json, path, "seconds_per_update", plan.seconds_per_update);
  read_field(json, path, "seconds_per_distillation_update", plan.seconds_per_distillation_update);
  for (const auto& [name, config] :
       {std::pair{"teacher", &plan.teacher}, std::pair{"student", &plan.student}}) {
    require(json.contains(name), "demo", "{}: expected '{}', found no such key; give another --out", path,
            name);
    read_json(json[name], path, *config);
    config->validate();
  }
  return plan;
}

double median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

/// Fills in the seconds of one update of each kind. The two alternate and the median counts, so that a
/// machine that is busy for a moment does not distort the plan.
void measure(Plan& plan, const Dataset& data, Device& device, const std::atomic<bool>& stop) {
  constexpr int kWarmUp = 2, kMeasured = 5;
  Trainer teacher(plan.teacher, device), student(plan.student, device);
  const Denoiser teacher_denoiser =
      make_denoiser(teacher.unet(), plan.teacher.model.prediction, plan.student.train.precision);
  const auto source_of = [&](const TrainConfig& train) {
    return BatchSource(data, train.batch_size, train.seed, train.flip, device);
  };
  BatchSource teacher_batches = source_of(plan.teacher.train),
              student_batches = source_of(plan.student.train);
  const auto seconds_of = [&](Trainer& trainer, BatchSource& batches, const auto& update) {
    const double start = now();
    update(batches.batch(trainer.step()));
    trainer.mean_loss();  // waits for the device
    if (stop) throw Interrupted("demo", "stopped while measuring; nothing is lost, start again");
    return now() - start;
  };
  std::vector<double> training, distillation;
  for (int i = 0; i < kWarmUp + kMeasured; ++i) {
    const double first =
        seconds_of(teacher, teacher_batches, [&](const Batch& batch) { teacher.update(batch); });
    const double second = seconds_of(student, student_batches, [&](const Batch& batch) {
      student.update(batch, teacher_denoiser, kTeacherSteps / 2);
    });
    if (i < kWarmUp) continue;
    training.push_back(first);
    distillation.push_back(second);
  }
  plan.seconds_per_update = median(training);
  plan.seconds_per_distillation_update = median(distillation);
}

/// Updates that fit into `seconds`, and settings that depend on their number.
void spend(TrainConfig& train, double seconds, double seconds_per_update) {
  const auto updates_in = [&](double time) {
    return std::max(int64_t{1}, static_cast<int64_t>(std::llround(time / seconds_per_update)));
  };
  train.max_steps = updates_in(seconds);
  train.warmup_steps = std::min(train.warmup_steps, train.max_steps / 10);
  train.log_every = updates_in(kSecondsPerLogLine);
  train.checkpoint_every = updates_in(kSecondsPerCheckpoint);
}

/// Measures and divides the time that is left then.
void make_plan(Plan& plan, const Dataset& data, Device& device, const std::atomic<bool>& stop) {
  fmt::print(stderr, "measuring the time of an update ...\n");
  const double start = now();
  measure(plan, data, device, stop);
  const double seconds = std::max(0.0, 60 * plan.minutes - (now() - start));
  spend(plan.teacher.train, kTeacherShare * seconds, plan.seconds_per_update);
  spend(plan.student.train, kHalvingShare * seconds, plan.seconds_per_distillation_update);
}

int64_t peak_memory_bytes() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return int64_t{usage.ru_maxrss} * 1024;
}

std::string steps_text(int64_t steps) { return fmt::format("{} step{}", steps, steps > 1 ? "s" : ""); }

struct DemoCommand {
  GeneralFlags general;
  DataFlag data;
  SettingFlags settings;
  std::string out;
  double minutes = 12;

  void run() const;

 private:
  Plan plan(const Dataset& dataset, Device& device, const std::atomic<bool>& stop) const;
  Json draw_rows(const std::string& path, const std::string& title,
                 const std::vector<std::pair<std::string, int64_t>>& rows, const Plan& plan,
                 Device& device) const;
  void print_summary(const Json& summary) const;
};

Plan DemoCommand::plan(const Dataset& dataset, Device& device, const std::atomic<bool>& stop) const {
  const std::string path = out + "/plan.json";
  if (std::filesystem::exists(path)) {
    const Plan recorded = read_plan(path);
    fmt::print(stderr, "continuing {}, planned for {} minutes\n", path, recorded.minutes);
    if (settings.any())
      fmt::print(stderr, "note: the plan has its settings; those of the command line change nothing\n");
    return recorded;
  }
  Plan plan{.minutes = minutes, .teacher = demo_config(), .student = {}};
  plan.student = plan.teacher;
  plan.student.train = demo_distillation();
  for (Config* config : {&plan.teacher, &plan.student})
    *config = settings.over(for_pictures_of(dataset, *config));
  make_plan(plan, dataset, device, stop);
  create_folders(out);
  write_file(path, to_json(plan).dump(2) + "\n");
  return plan;
}

/// Samples each (run, number of steps) from one noise; returns samples per second of each row.
Json DemoCommand::draw_rows(const std::string& path, const std::string& title,
                            const std::vector<std::pair<std::string, int64_t>>& rows, const Plan& plan,
                            Device& device) const {
  const UNetConfig& unet = plan.teacher.model.unet;
  const uint64_t noise_seed = plan.teacher.train.seed;
  const Tensor noise = initial_noise({kColumns, unet.height, unet.width, unet.in_channels}, noise_seed, 0,
                                     {DType::f32, &device});
  const Tensor label = unet.conditional() ? draw_labels(unet.num_classes, kColumns, noise_seed) : Tensor();
  std::vector<LabelledRow> pictures;
  Json rates = Json::array();
  for (const auto& [run, num_steps] : rows) {
    const Model model = load_model(run, device);
    SamplerOptions options{.num_steps = num_steps, .schedule = model.info.config.model.schedule};
    const double start = now();
    const Tensor samples =
        sample(model.denoiser(plan.student.train.precision), noise, label, options).to(cpu_device());
    rates.push_back(static_cast<double>(kColumns) / (now() - start));
    pictures.push_back(
        {fmt::format("{}, {}", model.info.num_steps > 0 ? "student" : "teacher", steps_text(num_steps)),
         samples});
  }
  write_rows(path, pictures, title, {.scale = 2});
  return rates;
}

void DemoCommand::print_summary(const Json& summary) const {
  fmt::print("{:<10} {:>8} {:>9} {:>9} {:>9} {:>11}\n", "", "updates", "loss", "images/s", "time",
             "samples/s");
  for (const Json& s : summary["stages"])
    fmt::print("{:<10} {:>8} {:>9.5f} {:>9.1f} {:>9} {:>11.1f}\n", s["name"].get<std::string>(),
               s["updates"].get<int64_t>(), s["final_loss"].get<double>(),
               s["images_per_second"].get<double>(), format_seconds(s["seconds"].get<double>()),
               s["samples_per_second"].get<double>());
  fmt::print("peak memory {:.0f} MiB; checkpoints in {}/teacher and {}/student-*\n",
             summary["peak_memory_bytes"].get<double>() / (1 << 20), out, out);
  fmt::print("pictures: {} (teacher and students)\n          {} (the teacher alone, with fewer steps)\n",
             summary["grid"].get<std::string>(), summary["grid_ddim"].get<std::string>());
}

void DemoCommand::run() const {
  const double start = now();
  Device& device = general.apply();
  const std::atomic<bool>& stop = catch_interrupt();
  const Dataset dataset = data.load();
  const Plan plan = this->plan(dataset, device, stop);
  fmt::print(stderr, "plan: {} updates of the teacher, {} of each student\n", plan.teacher.train.max_steps,
             plan.student.train.max_steps);

  ProgressDisplay display;
  RunOptions options{.out = out + "/teacher",
                     .resume = true,
                     .device = &device,
                     .on_progress = [&](const Progress& p) { display.show(p); },
                     .stop = &stop};
  try {
    const std::string teacher = train(plan.teacher, dataset, options);
    options.out = out;
    distill(load_checkpoint(teacher, device), plan.student, kTeacherSteps, 1, dataset, options);
  } catch (const Interrupted&) {
    fmt::print(stderr, "the same demo command continues from here\n");
    throw;
  }

  std::vector<std::pair<std::string, int64_t>> runs{{out + "/teacher", kTeacherSteps}}, teacher_alone = runs;
  for (const int64_t num_steps : halvings(kTeacherSteps, 1)) {
    runs.emplace_back(fmt::format("{}/student-{}", out, num_steps), num_steps);
    teacher_alone.emplace_back(out + "/teacher", num_steps);
  }
  Json summary{{"minutes", plan.minutes}, {"grid", out + "/grid.png"}, {"grid_ddim", out + "/grid-ddim.png"}};
  const Json rates =
      draw_rows(out + "/grid.png", "Progressive distillation, same noise in each column", runs, plan, device);
  draw_rows(out + "/grid-ddim.png", "The teacher alone (DDIM), same noise in each column", teacher_alone,
            plan, device);

  Json stages = Json::array();
  for (size_t i = 0; i < runs.size(); ++i) {
    const Checkpoint checkpoint = load_checkpoint(runs[i].first);
    const TrainingTime times =
        training_time(read_log(runs[i].first + "/log.jsonl"), checkpoint.info.config.train.batch_size);
    stages.push_back({{"name", std::filesystem::path(runs[i].first).filename().string()},
                      {"num_steps", runs[i].second},
                      {"updates", checkpoint.info.step},
                      {"final_loss", checkpoint.info.history.back().final_loss},
                      {"images_per_second", times.images_per_second},
                      {"seconds", times.seconds},
                      {"samples_per_second", rates[i]},
                      {"checkpoint", checkpoint.path}});
  }
  summary["stages"] = stages;
  summary["peak_memory_bytes"] = peak_memory_bytes();
  summary["seconds_of_this_call"] = now() - start;
  write_file(out + "/summary.json", summary.dump(2) + "\n");
  if (general.json) {
    fmt::print("{}\n", summary.dump(2));
  } else {
    print_summary(summary);
  }
}

}  // namespace

Command add_demo(CLI::App& program) {
  const auto command = std::make_shared<DemoCommand>();
  CLI::App& app = *program.add_subcommand(
      "demo",
      "The whole path in minutes: train, distil 16 -> 8 -> 4 -> 2 -> 1, show.\n"
      "Measures once how long an update takes, turns the minutes into numbers of updates and records them in "
      "DIR/plan.json; from then on the plan alone counts, and a second call continues. Writes DIR/grid.png "
      "(teacher and "
      "students), DIR/grid-ddim.png (the teacher alone with as few steps), DIR/summary.json and the runs "
      "DIR/teacher, "
      "DIR/student-8 ... DIR/student-1.");
  app.add_option("--out", command->out, "folder for all results; created")->type_name("DIR")->required();
  app.add_option("--minutes", command->minutes, "time for training and distillation (default 12)")
      ->type_name("M")
      ->check(positive_number());
  command->data.add_to(app);
  const std::string why = "the plan derives it from --minutes";
  command->settings.add_config_flags(
      app, {{"train.max_steps", why}, {"train.log_every", why}, {"train.checkpoint_every", why}});
  command->settings.add_seed_flag(app, "Options");
  command->settings.add_precision_flag(app, "Options");
  command->general.add_to(app);
  app.footer(example("halfstep demo --out out/demo --minutes 12"));
  return {&app, [command] { command->run(); }};
}

}  // namespace halfstep
