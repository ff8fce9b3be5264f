#include "diffusion/run.h"

#include <chrono>
#include <cmath>
#include <ctime>
#include <limits>

#include "diffusion/batch_loader.h"
#include "diffusion/distill.h"
#include "diffusion/evaluation.h"
#include "diffusion/internal/run_record.h"
#include "diffusion/internal/sha256.h"
#include "diffusion/manifest.h"
#include "diffusion/model.h"
#include "diffusion/time_left.h"
#include "diffusion/trainer.h"
#include "tensor/files.h"
#include "tensor/threads.h"

namespace halfstep {

namespace {

/// A training that makes no progress any more should not burn hours.
constexpr int64_t kMaxSkippedInARow = 100;

/// Seconds since it was made.
class Stopwatch {
 public:
  double seconds() const { return std::chrono::duration<double>(Clock::now() - start_).count(); }

 private:
  using Clock = std::chrono::steady_clock;
  Clock::time_point start_ = Clock::now();
};

/// Whether the loss has stopped falling (TrainConfig::patience).
class Plateau {
 public:
  explicit Plateau(const TrainConfig& config) : config_(config) {}

  void add(double loss) {
    // Written so that NaN is no improvement.
    const bool better = loss < best_ * (1 - config_.min_improvement);
    best_ = better ? loss : best_;
    waited_ = better ? 0 : waited_ + 1;
  }
  bool reached() const { return config_.patience > 0 && waited_ >= config_.patience; }

 private:
  const TrainConfig& config_;
  double best_ = std::numeric_limits<double>::infinity();
  int64_t waited_ = 0;
};

/// What one training is about; StageRun does the rest.
struct Stage {
  std::string name, folder;
  CheckpointInfo info;   ///< what checkpoints say, but for the step and the last history entry
  HistoryEntry history;  ///< of this stage
  std::function<void(Trainer&, const Batch&)> update;
  const Denoiser* teacher = nullptr;  ///< to compare samples with
  bool evaluate_at_end = false;       ///< even without eval_every
  int64_t later_updates = 0;          ///< of the stages after this one, for the time left
  std::string newest;                 ///< checkpoint to continue from; empty: none
  std::function<void(StageStatus, const RunRecord&, const std::string& checkpoint)> on_saved;
};

/// One stage from its newest checkpoint to its end.
class StageRun {
 public:
  StageRun(Trainer& trainer, const Stage& stage, const Dataset& data, const RunOptions& options)
      : trainer_(trainer),
        config_(trainer.config().train),
        stage_(stage),
        data_(data),
        options_(options),
        record_(stage.folder, stage.name, trainer.step(), config_.tensorboard),
        batches_(data, config_.batch_size, stage_seed(config_.seed, stage.info.num_steps), config_.flip,
                 *options.device, trainer.step(), config_.data_threads),
        plateau_(config_),
        seconds_before_(record_.seconds()),
        reported_step_(trainer.step()),
        skipped_before_(trainer.optimizer_stats().skipped) {
    for (const RunRecord::Report& report : record_.reports())
      if (report.step % config_.log_every == 0) plateau_.add(report.loss);
    if (!stage_.newest.empty()) loss_ = load_checkpoint_info(stage_.newest).history.back().final_loss;
    time_left_.add(static_cast<double>(trainer_.step()), 0);
  }

  /// Returns the path of the last checkpoint.
  std::string run() {
    stage_.on_saved(StageStatus::running, record_, stage_.newest);
    std::string saved;
    for (bool ended = false; !ended;) {
      stage_.update(trainer_, batches_.next());
      const int64_t step = trainer_.step();
      const auto due = [&](int64_t every) { return every > 0 && step % every == 0; };
      const bool last = step == config_.max_steps;
      const bool stopping = options_.stop && options_.stop->load();
      if (due(config_.log_every) || last) report();
      ended = last || plateau_.reached();
      if (due(config_.eval_every) || (ended && (config_.eval_every > 0 || stage_.evaluate_at_end)))
        evaluate();
      if (!(ended || stopping || due(config_.checkpoint_every))) continue;
      saved = save(!last && ended);
      stage_.on_saved(ended      ? StageStatus::done
                      : stopping ? StageStatus::stopped
                                 : StageStatus::running,
                      record_, saved);
      prune_checkpoints(stage_.folder, config_.keep);
      if (stopping && !ended)
        throw Interrupted("train", fmt::format("stopped at step {} of {}; continue with --resume from {}",
                                               step, config_.max_steps, saved));
    }
    return saved;
  }

 private:
  void report() {
    const int64_t step = trainer_.step(), updates = step - reported_step_;
    loss_ = trainer_.mean_loss();
    // The report at the end of a stage may come early; the mean goes on as if it had not been asked for, so
    // that a stage that is extended later equals one that was that long from the start.
    const bool regular = step % config_.log_every == 0;
    if (regular) {
      trainer_.restart_mean_loss();
      plateau_.add(loss_);
    }
    const OptimizerStats stats = trainer_.optimizer_stats();
    const double now = watch_.seconds(), seconds = now - reported_seconds_;
    time_left_.add(static_cast<double>(step), now);
    const double per_update = time_left_.seconds_per_step();
    Progress p{.stage = stage_.name, .step = step, .total_steps = config_.max_steps, .loss = loss_};
    p.learning_rate = trainer_.learning_rate();
    p.gradient_norm = stats.last_norm;
    p.skipped = stats.skipped;
    p.images_per_second = static_cast<double>(updates * config_.batch_size) / seconds;
    p.seconds = seconds_before_ + now;
    p.data_wait = (batches_.seconds_waited() - reported_wait_) / seconds;
    p.seconds_left = per_update * static_cast<double>(config_.max_steps - step);
    p.chain_seconds_left = p.seconds_left + per_update * static_cast<double>(stage_.later_updates);
    record_.report(p);
    if (options_.on_progress) options_.on_progress(p);

    skipped_in_a_row_ = stats.skipped - skipped_before_ == updates ? skipped_in_a_row_ + updates : 0;
    require(
        skipped_in_a_row_ < kMaxSkippedInARow, "train",
        "the last {} updates all had gradients that are not finite (loss {}); lower the learning rate, or "
        "look at the data; the checkpoints in '{}' are whole",
        skipped_in_a_row_, loss_, stage_.folder);
    skipped_before_ = stats.skipped;
    reported_step_ = step;
    reported_seconds_ = now;
    reported_wait_ = batches_.seconds_waited();
  }

  void evaluate() {
    const Config& config = trainer_.config();
    if (!evaluator_)
      evaluator_.emplace(config, stage_.info.num_steps, data_, *options_.device, stage_.teacher);
    const Model model = make_model({stage_.info, trainer_.weights(), {}}, *options_.device);
    record_.evaluation(trainer_.step(), (*evaluator_)(model.denoiser(stage_.info.config.train.precision)));
  }

  std::string save(bool stopped_early) {
    CheckpointInfo info = stage_.info;
    info.step = trainer_.step();
    info.stopped_early = stopped_early;
    info.history.push_back(stage_.history);
    info.history.back().updates = trainer_.step();
    info.history.back().final_loss = loss_;
    return save_checkpoint(stage_.folder, info, trainer_.weights(), trainer_.state());
  }

  Trainer& trainer_;
  const TrainConfig& config_;
  const Stage& stage_;
  const Dataset& data_;
  const RunOptions& options_;
  RunRecord record_;
  BatchLoader batches_;
  Plateau plateau_;
  TimeLeft time_left_;
  std::optional<Evaluator> evaluator_;
  Stopwatch watch_;
  double loss_ = std::numeric_limits<double>::quiet_NaN();  ///< of the last report
  double seconds_before_;                                   ///< of earlier calls
  double reported_seconds_ = 0, reported_wait_ = 0;
  int64_t reported_step_, skipped_before_, skipped_in_a_row_ = 0;
};

/// The newest checkpoint of `folder` to continue from (empty: none); an error if there is one and the caller
/// did not ask for that.
std::string checkpoint_to_resume(const std::string& folder, bool resume) {
  const auto newest = newest_checkpoint(folder);
  require(!newest || resume, "train",
          "'{}' holds a run already ({}); continue it with --resume or choose another folder", folder,
          newest.value_or(""));
  return newest.value_or("");
}

/// Whether a stage has nothing left to do.
bool is_finished(const CheckpointInfo& info, const TrainConfig& config) {
  return info.step >= config.max_steps || (info.stopped_early && config.patience > 0);
}

/// Weights and picture sizes must fit the data before hours are spent.
void require_fit(const UNetConfig& unet, const Dataset& data) {
  require(unet.height == data.height && unet.width == data.width && unet.in_channels == data.channels,
          "train", "the model is for pictures of {} x {} x {}, the data '{}' has {} x {} x {}", unet.height,
          unet.width, unet.in_channels, data.name, data.height, data.width, data.channels);
  require(!unet.conditional() || data.num_classes <= unet.num_classes, "train",
          "the model has {} classes, the data '{}' has {}", unet.num_classes, data.name, data.num_classes);
}

std::string utc_now() {
  const std::time_t now = std::time(nullptr);
  std::tm parts{};
  gmtime_r(&now, &parts);
  return fmt::format("{:04}-{:02}-{:02}T{:02}:{:02}:{:02}Z", parts.tm_year + 1900, parts.tm_mon + 1,
                     parts.tm_mday, parts.tm_hour, parts.tm_min, parts.tm_sec);
}

/// The manifest that this call adds its command to: that of the folder, or a new one.
Manifest begin_manifest(const std::string& kind, const Config& config, const Dataset& data,
                        const RunOptions& options) {
  Manifest manifest = read_manifest(options.out).value_or(Manifest{});
  require(manifest.kind.empty() || manifest.kind == kind, "manifest",
          "'{}' holds the manifest of another command ({}); choose another folder", options.out,
          manifest.kind);
  manifest.kind = kind;
  manifest.commands.push_back({.line = options.command,
                               .started = utc_now(),
                               .program = options.program,
                               .device = options.device->description(),
                               .threads = num_threads()});
  manifest.data_name = data.name;
  manifest.data_images = data.count;
  manifest.config = config;
  return manifest;
}

/// What the manifest says of a stage after a save: `entry` brought up to date.
ManifestStage describe(ManifestStage entry, StageStatus status, const RunRecord& record,
                       const std::string& checkpoint) {
  entry.status = status;
  entry.seconds = record.seconds();
  const std::string prefix = entry.folder == "." ? "" : entry.folder + "/";
  if (!checkpoint.empty()) {
    const CheckpointInfo info = load_checkpoint_info(checkpoint);
    entry.step = info.step;
    entry.checkpoint = prefix + checkpoint.substr(checkpoint.rfind('/') + 1);
    const double loss = info.history.back().final_loss;
    entry.final_loss = std::isfinite(loss) ? std::optional(loss) : std::nullopt;
    // Not of every save: the file may be large.
    if (status == StageStatus::done) entry.model_sha256 = sha256_of_file(checkpoint + "/model.safetensors");
  }
  if (const auto& last = record.last_evaluation()) {
    entry.grid = prefix + last->grid;
    entry.distance_to_data = last->distance_to_data;
    entry.distance_to_teacher = last->distance_to_teacher;
  }
  return entry;
}

double data_floor(const Config& config, int64_t num_steps, const Dataset& data) {
  return Evaluator(config, num_steps, data, cpu_device()).floor();
}

}  // namespace

std::string train(const Config& config, const Dataset& data, const RunOptions& options) {
  require_fit(config.model.unet, data);
  const FolderLock lock(options.out);
  const std::string newest = checkpoint_to_resume(options.out, options.resume);
  Trainer trainer(config, *options.device);
  if (!newest.empty()) trainer.load_state(load_checkpoint_state(newest, *options.device));

  Manifest manifest = begin_manifest("train", config, data, options);
  if (config.train.eval_every > 0) manifest.data_floor = data_floor(config, 0, data);
  manifest.stages.resize(1);
  ManifestStage& entry = manifest.stages.front();
  entry.name = "train";
  entry.folder = ".";
  entry.max_steps = config.train.max_steps;
  const auto on_saved = [&](StageStatus status, const RunRecord& record, const std::string& checkpoint) {
    entry = describe(entry, status, record, checkpoint);
    write_manifest(options.out, manifest);
  };
  const Stage stage{.name = "train",
                    .folder = options.out,
                    .info = {.config = config, .data = data.name, .history = {}},
                    .history = {},
                    .update = [](Trainer& t, const Batch& batch) { t.update(batch); },
                    .newest = newest,
                    .on_saved = on_saved};
  if (!newest.empty() && is_finished(load_checkpoint_info(newest), config.train)) {
    on_saved(StageStatus::done, RunRecord(options.out, stage.name, trainer.step()), newest);
    prune_checkpoints(options.out, config.train.keep);  // a kill may have come before it, or in it
    return newest;
  }
  return StageRun(trainer, stage, data, options).run();
}

TrainConfig distillation_defaults(const TrainConfig& teacher) {
  TrainConfig student = teacher;
  student.warmup_steps = 0;
  student.anneal = true;
  student.ema_decay = 0;
  return student;
}

std::string distill(const Checkpoint& first_teacher, const Config& requested, int64_t from_steps,
                    int64_t to_steps, const Dataset& data, const RunOptions& options) {
  Config config = requested;
  config.model = first_teacher.info.config.model;
  config.model.unet.dropout = 0;  // the paper's students learn without it: their target is exact
  config.validate();
  require_fit(config.model.unet, data);
  const std::vector<int64_t> halving_steps = halvings(from_steps, to_steps);
  require(first_teacher.info.num_steps == 0 || first_teacher.info.num_steps == from_steps, "distill",
          "the teacher was distilled for {} steps, so --from-steps must be {}, got {}",
          first_teacher.info.num_steps, first_teacher.info.num_steps, from_steps);
  const auto name_of_student = [](int64_t num_steps) { return fmt::format("student-{}", num_steps); };
  const auto config_of = [&](int64_t num_steps) {
    Config one = config;
    const auto own = config.distill.max_steps.find(num_steps);
    if (own != config.distill.max_steps.end()) one.train.max_steps = own->second;
    return one;
  };
  const FolderLock lock(options.out);
  for (int64_t num_steps : halving_steps)
    checkpoint_to_resume(options.out + "/" + name_of_student(num_steps), options.resume);

  Manifest manifest = begin_manifest("distill", config, data, options);
  manifest.data_floor = data_floor(config, to_steps, data);
  std::string parent = sha256_of_file(first_teacher.path + "/model.safetensors");
  require(!manifest.teacher || manifest.teacher->model_sha256 == parent, "distill",
          "'{}' was started from another teacher ({}); choose another folder", options.out,
          manifest.teacher ? manifest.teacher->checkpoint : "");
  manifest.teacher = {first_teacher.path, from_steps, parent};
  manifest.stages.clear();
  int64_t later_updates = 0;
  for (int64_t num_steps : halving_steps) {
    ManifestStage& entry = manifest.stages.emplace_back();
    entry.name = entry.folder = name_of_student(num_steps);
    entry.teacher_steps = 2 * num_steps;
    entry.num_steps = num_steps;
    entry.max_steps = config_of(num_steps).train.max_steps;
    later_updates += entry.max_steps;
  }

  Checkpoint teacher = first_teacher;
  for (ManifestStage& entry : manifest.stages) {
    const int64_t num_steps = entry.num_steps;
    const Config stage_config = config_of(num_steps);
    const std::string folder = options.out + "/" + entry.folder;
    create_folders(folder);
    entry.parent_sha256 = parent;
    later_updates -= entry.max_steps;
    const auto on_saved = [&](StageStatus status, const RunRecord& record, const std::string& checkpoint) {
      entry = describe(entry, status, record, checkpoint);
      write_manifest(options.out, manifest);
    };

    const std::string newest = newest_checkpoint(folder).value_or("");
    std::string last;
    if (!newest.empty() && is_finished(load_checkpoint_info(newest), stage_config.train)) {
      last = newest;
      on_saved(StageStatus::done, RunRecord(folder, entry.name, load_checkpoint_info(newest).step), newest);
      prune_checkpoints(folder, stage_config.train.keep);  // a kill may have come before it, or in it
    } else {
      const Model teacher_model = make_model(teacher, *options.device);
      const Denoiser teacher_denoiser = teacher_model.denoiser(stage_config.train.precision);
      Trainer trainer(stage_config, *options.device);
      trainer.start_from(teacher.weights);
      if (!newest.empty()) trainer.load_state(load_checkpoint_state(newest, *options.device));
      const Stage stage{
          .name = entry.name,
          .folder = folder,
          .info = {.config = stage_config,
                   .num_steps = num_steps,
                   .data = data.name,
                   .history = teacher.info.history},
          .history = {.teacher_steps = 2 * num_steps, .num_steps = num_steps},
          .update = [&](Trainer& t, const Batch& batch) { t.update(batch, teacher_denoiser, num_steps); },
          .teacher = &teacher_denoiser,
          .evaluate_at_end = true,
          .later_updates = later_updates,
          .newest = newest,
          .on_saved = on_saved};
      last = StageRun(trainer, stage, data, options).run();
    }
    teacher = load_checkpoint(last, *options.device);
    parent = *entry.model_sha256;
  }
  return teacher.path;
}

}  // namespace halfstep
