#include "diffusion/trainer.h"

#include <chrono>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <limits>

#include "diffusion/distill.h"
#include "diffusion/internal/json.h"
#include "diffusion/model.h"
#include "diffusion/random_streams.h"
#include "diffusion/train_step.h"
#include "tensor/error.h"
#include "tensor/files.h"

namespace halfstep {

Denoiser make_denoiser(const UNet& unet, Prediction prediction) {
  return {[&unet](const Variable& z, const std::vector<double>& logsnr, const Tensor& label) {
            ForwardContext context;
            return unet(z, logsnr, label, context);
          },
          prediction};
}

Denoiser make_training_denoiser(const UNet& unet, Prediction prediction, RandomKey dropout_key) {
  return {[&unet, dropout_key](const Variable& z, const std::vector<double>& logsnr, const Tensor& label) {
            ForwardContext context{.training = true, .key = dropout_key};
            return unet(z, logsnr, label, context);
          },
          prediction};
}

namespace {
/// Each halving draws its own data order, times and noise: equal ones would tie the errors of the stages
/// together.
uint64_t stage_seed(uint64_t seed, int64_t num_steps) {
  return num_steps == 0 ? seed : fold_in(RandomKey{seed, 0}, static_cast<uint64_t>(num_steps)).stream;
}
}  // namespace

// --- Trainer -----------------------------------------------------------------------------------------------

Trainer::Trainer(const Config& config, Device& device)
    : config_(config), unet_(config.model.unet, config.train.seed, {DType::f32, &device}) {
  config_.validate();
  reset();
}

void Trainer::reset() {
  adam_ = std::make_unique<Adam>(parameters(unet_), config_.train.adam);
  ema_ = config_.train.ema_decay > 0
             ? std::make_unique<Ema>(parameters(unet_), config_.train.ema_decay, config_.train.ema_warmup)
             : nullptr;
  Device& device = unet_.conv_in.kernel.value().device();
  loss_sum_ = Tensor::zeros({}, {DType::f64, &device});
  losses_ = 0;
  step_ = 0;
}

Tensor Trainer::label_of(const Batch& batch) const {
  return config_.model.unet.conditional() ? batch.label : Tensor();
}

void Trainer::update(const Batch& batch) {
  const TrainConfig& t = config_.train;
  const auto key = [&](RandomUse use) { return random_key(t.seed, use, static_cast<uint64_t>(step_)); };
  const int64_t size = batch.x.size(0);
  const std::vector<double> times =
      t.num_train_steps > 0
          ? step_times(draw_step_indices(size, t.num_train_steps, key(RandomUse::time)), t.num_train_steps)
          : draw_times(size, key(RandomUse::time));
  const Tensor eps = random_normal(batch.x.shape(), key(RandomUse::noise), 0, batch.x.options());
  const Denoiser model = make_training_denoiser(unet_, config_.model.prediction, key(RandomUse::dropout));
  apply(diffusion_loss(model, t.loss, config_.model.schedule, batch.x, label_of(batch), times, eps));
}

void Trainer::update(const Batch& batch, const Denoiser& teacher, int64_t num_steps) {
  const TrainConfig& t = config_.train;
  const uint64_t seed = stage_seed(t.seed, num_steps);
  const auto key = [&](RandomUse use) { return random_key(seed, use, static_cast<uint64_t>(step_)); };
  const std::vector<int64_t> i = draw_step_indices(batch.x.size(0), num_steps, key(RandomUse::time));
  const Tensor eps = random_normal(batch.x.shape(), key(RandomUse::noise), 0, batch.x.options());
  const Denoiser student = make_training_denoiser(unet_, config_.model.prediction, key(RandomUse::dropout));
  apply(distillation_loss(student, teacher, t.loss, config_.model.schedule, batch.x, label_of(batch), i,
                          num_steps, eps));
}

void Trainer::apply(const Variable& loss) {
  adam_->zero_grad();
  loss.backward();
  adam_->step(learning_rate());
  if (ema_) ema_->update();
  binary_(BinaryOp::add, loss_sum_, loss.value().to(DType::f64));
  ++losses_;
  ++step_;
}

double Trainer::learning_rate() const { return config_.train.learning_rate_schedule()(step_); }

double Trainer::take_mean_loss() {
  const double mean =
      losses_ ? loss_sum_.item() / static_cast<double>(losses_) : std::numeric_limits<double>::quiet_NaN();
  loss_sum_.fill_(0);
  losses_ = 0;
  return mean;
}

TensorMap Trainer::weights() const { return ema_ ? ema_->weights() : halfstep::state(unet_); }

TensorMap Trainer::state() const {
  TensorMap all = adam_->state();
  if (ema_) all.merge(ema_->state());
  for (const auto& [name, tensor] : halfstep::state(unet_)) all.emplace("raw." + name, tensor);
  all.emplace("step", Tensor::from(std::vector<int64_t>{step_}, {}, {DType::i64, &loss_sum_.device()}));
  return all;
}

void Trainer::load_state(const TensorMap& saved) {
  TensorMap raw;
  for (const auto& [name, tensor] : saved)
    if (name.starts_with("raw.")) raw.emplace(name.substr(4), tensor);
  halfstep::load_state(unet_, raw);
  adam_->load_state(saved);
  if (ema_) ema_->load_state(saved);
  const auto step = saved.find("step");
  require(step != saved.end(), "load_state", "expected the tensor 'step' in the saved state, found none");
  step_ = static_cast<int64_t>(step->second.item());
  loss_sum_.fill_(0);
  losses_ = 0;
}

void Trainer::start_from(const TensorMap& weights) {
  halfstep::load_state(unet_, weights);
  reset();
}

// --- the loops ---------------------------------------------------------------------------------------------

namespace {

using Clock = std::chrono::steady_clock;

/// Wall time and images since the last report.
class Stopwatch {
 public:
  double seconds() const { return std::chrono::duration<double>(Clock::now() - start_).count(); }
  void restart() { start_ = Clock::now(); }

 private:
  Clock::time_point start_ = Clock::now();
};

/// A training that makes no progress any more should not burn hours.
constexpr int64_t kMaxSkippedInARow = 100;

/// One stage: a run folder that gets config.max_steps updates.
struct Stage {
  std::string name, folder;
  CheckpointInfo info;   ///< what checkpoints say, but for the step and the last history entry
  HistoryEntry history;  ///< of this stage
  std::function<void(Trainer&, const Batch&)> update;
};

void append_log(const std::string& path, const Progress& p) {
  const Json line{{"stage", p.stage},
                  {"step", p.step},
                  {"loss", p.loss},
                  {"learning_rate", p.learning_rate},
                  {"gradient_norm", p.gradient_norm},
                  {"skipped", p.skipped},
                  {"images_per_second", p.images_per_second}};
  std::ofstream file(path, std::ios::app);
  file << line.dump() << '\n';
  file.flush();
  require(file.good(), "log", "cannot append to '{}'; is the disk full?", path);
}

std::string save(const Trainer& trainer, const Stage& stage, double loss) {
  CheckpointInfo info = stage.info;
  info.step = trainer.step();
  info.history.push_back(stage.history);
  info.history.back().updates = trainer.step();
  info.history.back().final_loss = loss;
  return save_checkpoint(stage.folder, info, trainer.weights(), trainer.state());
}

/// Runs the remaining updates of a stage; returns the path of its last checkpoint.
std::string run_stage(Trainer& trainer, const Stage& stage, const Dataset& data, const RunOptions& options) {
  const TrainConfig& config = trainer.config().train;
  BatchSource batches(data, config.batch_size, stage_seed(config.seed, stage.info.num_steps), config.flip,
                      *options.device);
  double loss = std::numeric_limits<double>::quiet_NaN();
  int64_t reported_step = trainer.step(), skipped_before = trainer.optimizer_stats().skipped,
          skipped_in_a_row = 0;
  std::string saved;
  Stopwatch watch;
  while (trainer.step() < config.max_steps) {
    stage.update(trainer, batches.batch(trainer.step()));

    const bool last = trainer.step() == config.max_steps;
    const bool stopping = options.stop && options.stop->load();
    if (trainer.step() % config.log_every == 0 || last || stopping) {
      loss = trainer.take_mean_loss();
      const OptimizerStats stats = trainer.optimizer_stats();
      const int64_t updates = trainer.step() - reported_step;
      const double seconds = watch.seconds();
      Progress p{.stage = stage.name, .step = trainer.step(), .total_steps = config.max_steps, .loss = loss};
      p.learning_rate = trainer.learning_rate();
      p.gradient_norm = stats.last_norm;
      p.skipped = stats.skipped;
      p.images_per_second = static_cast<double>(updates * config.batch_size) / seconds;
      p.seconds_left =
          seconds / static_cast<double>(updates) * static_cast<double>(config.max_steps - trainer.step());
      append_log(stage.folder + "/log.jsonl", p);
      if (options.on_progress) options.on_progress(p);
      skipped_in_a_row = stats.skipped - skipped_before == updates ? skipped_in_a_row + updates : 0;
      require(skipped_in_a_row < kMaxSkippedInARow, "train",
              "the last {} updates all had gradients that are not finite (loss {}); lower the learning rate, "
              "or look at "
              "the data",
              skipped_in_a_row, loss);
      skipped_before = stats.skipped;
      reported_step = trainer.step();
      watch.restart();
    }
    if (last || stopping || (config.checkpoint_every > 0 && trainer.step() % config.checkpoint_every == 0))
      saved = save(trainer, stage, loss);
    if (stopping && !last)
      throw Interrupted("train", fmt::format("stopped at step {} of {}; continue with --resume from {}",
                                             trainer.step(), config.max_steps, saved));
  }
  return saved;
}

/// The newest checkpoint of `folder` to continue from; an error if there is one and the caller did not ask
/// for that.
std::optional<std::string> checkpoint_to_resume(const std::string& folder, bool resume) {
  const auto newest = newest_checkpoint(folder);
  require(!newest || resume, "train",
          "'{}' holds a run already ({}); continue it with --resume or choose another folder", folder,
          newest.value_or(""));
  return newest;
}

/// Weights and picture sizes must fit the data before hours are spent.
void require_fit(const UNetConfig& unet, const Dataset& data) {
  require(unet.height == data.height && unet.width == data.width && unet.in_channels == data.channels,
          "train", "the model is for pictures of {} x {} x {}, the data '{}' has {} x {} x {}", unet.height,
          unet.width, unet.in_channels, data.name, data.height, data.width, data.channels);
  require(!unet.conditional() || data.num_classes <= unet.num_classes, "train",
          "the model has {} classes, the data '{}' has {}", unet.num_classes, data.name, data.num_classes);
}

}  // namespace

std::string train(const Config& config, const Dataset& data, const RunOptions& options) {
  require_fit(config.model.unet, data);
  const auto newest = checkpoint_to_resume(options.out, options.resume);
  create_folders(options.out);
  Trainer trainer(config, *options.device);
  if (newest) trainer.load_state(load_checkpoint_state(*newest, *options.device));
  const Stage stage{"train",
                    options.out,
                    {.config = config, .data = data.name, .history = {}},
                    {},
                    [](Trainer& t, const Batch& batch) { t.update(batch); }};
  if (newest && trainer.step() >= config.train.max_steps) return *newest;
  return run_stage(trainer, stage, data, options);
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
  const std::vector<int64_t> stages = halvings(from_steps, to_steps);
  require(first_teacher.info.num_steps == 0 || first_teacher.info.num_steps == from_steps, "distill",
          "the teacher was distilled for {} steps, so --from-steps must be {}, got {}",
          first_teacher.info.num_steps, first_teacher.info.num_steps, from_steps);
  const auto folder_of = [&](int64_t num_steps) {
    return fmt::format("{}/student-{}", options.out, num_steps);
  };
  for (int64_t num_steps : stages) checkpoint_to_resume(folder_of(num_steps), options.resume);

  Checkpoint teacher = first_teacher;
  for (int64_t num_steps : stages) {
    const std::string folder = folder_of(num_steps);
    create_folders(folder);
    const Model teacher_model = make_model(teacher, *options.device);
    const Denoiser teacher_denoiser = teacher_model.denoiser();

    Trainer trainer(config, *options.device);
    trainer.start_from(teacher.weights);
    const auto newest = newest_checkpoint(folder);
    if (newest) trainer.load_state(load_checkpoint_state(*newest, *options.device));

    const Stage stage{
        fmt::format("student-{}", num_steps),
        folder,
        {.config = config, .num_steps = num_steps, .data = data.name, .history = teacher.info.history},
        {.teacher_steps = 2 * num_steps, .num_steps = num_steps},
        [&](Trainer& t, const Batch& batch) { t.update(batch, teacher_denoiser, num_steps); }};
    const bool finished = newest && trainer.step() >= config.train.max_steps;
    teacher = load_checkpoint(finished ? *newest : run_stage(trainer, stage, data, options), *options.device);
  }
  return teacher.path;
}

}  // namespace halfstep
