#include "diffusion/trainer.h"

#include <limits>

#include "diffusion/distill.h"
#include "diffusion/random_streams.h"
#include "diffusion/train_step.h"
#include "tensor/error.h"

namespace halfstep {

Denoiser make_denoiser(const UNet& unet, Prediction prediction, Precision precision) {
  return {[&unet, precision](const Variable& z, const NoiseLevels& logsnr, const Tensor& label) {
            ForwardContext context{.precision = precision};
            return unet(z, logsnr, label, context);
          },
          prediction, std::make_shared<char>()};
}

Denoiser make_training_denoiser(const UNet& unet, Prediction prediction, RandomKey dropout_key,
                                bool recompute, const Tensor& dropout_row, Precision precision) {
  return {[&unet, dropout_key, recompute, dropout_row, precision](
              const Variable& z, const NoiseLevels& logsnr, const Tensor& label) {
            ForwardContext context{.training = true,
                                   .key = dropout_key,
                                   .recompute = recompute,
                                   .row = dropout_row,
                                   .precision = precision};
            return unet(z, logsnr, label, context);
          },
          prediction};
}

uint64_t stage_seed(uint64_t seed, int64_t num_steps) {
  return num_steps == 0 ? seed : fold_in(RandomKey{seed, 0}, static_cast<uint64_t>(num_steps)).stream;
}

Trainer::Trainer(const Config& config, Device& device)
    : config_(config), unet_(config.model.unet, config.train.seed, {DType::f32, &device}) {
  config_.validate();
  require_precision(config_.train.precision, device);
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
  of_data_ = {};
  of_teacher_ = {};
}

void Trainer::update(const Batch& batch) {
  const TrainConfig& t = config_.train;
  const RandomKey key = random_key(t.seed, RandomUse::time, static_cast<uint64_t>(step_));
  const int64_t size = batch.x.size(0);
  const std::vector<double> times =
      t.num_train_steps > 0 ? step_times(draw_step_indices(size, t.num_train_steps, key), t.num_train_steps)
                            : draw_times(size, key);
  const NoiseLevels logsnr_t = config_.model.schedule.logsnr(times);
  update_in_parts(batch, t.seed, {logsnr_t.table(batch.x.device())}, &of_data_, [&](const Part& part) {
    return diffusion_loss(part.model, t.loss, part.x, part.label,
                          logsnr_t.with_table(part.numbers[0]).slice(part.begin, part.end), part.eps);
  });
}

void Trainer::update(const Batch& batch, const Denoiser& teacher, int64_t num_steps) {
  const TrainConfig& t = config_.train;
  const uint64_t seed = stage_seed(t.seed, num_steps);
  const RandomKey key = random_key(seed, RandomUse::time, static_cast<uint64_t>(step_));
  const DistillationLevels at = distillation_levels(draw_step_indices(batch.x.size(0), num_steps, key),
                                                    num_steps, config_.model.schedule, batch.x.device());
  if (of_teacher_.teacher != teacher.recordable || of_teacher_.num_steps != num_steps)
    of_teacher_ = {{}, teacher.recordable, num_steps};
  update_in_parts(batch, seed, at.tables(batch.x.device()), teacher.recordable ? &of_teacher_ : nullptr,
                  [&](const Part& part) {
                    return distillation_loss(part.model, teacher, t.loss, part.x, part.label,
                                             at.with_tables(part.numbers).slice(part.begin, part.end),
                                             part.eps);
                  });
}

void Trainer::update_in_parts(const Batch& batch, uint64_t seed, const std::vector<Tensor>& numbers,
                              Recorded* recorded, const LossOfPart& loss_of) {
  const TrainConfig& t = config_.train;
  const int64_t size = batch.x.size(0), parts = t.micro_batches;
  require(size % parts == 0, "train", "expected a batch that divides into {} equal parts, got {} examples",
          parts, size);

  // What changes from update to update; the rest of it is the same work each time.
  const RandomKey noise = random_key(seed, RandomUse::noise, static_cast<uint64_t>(step_));
  std::vector<Tensor> inputs = {
      batch.x,
      // Data sets always have labels; the network may have no use for them.
      config_.model.unet.conditional() ? batch.label : Tensor(),
      random_normal(batch.x.shape(), noise, 0, batch.x.options()),
      Tensor::full({}, static_cast<double>(step_), {DType::i64, &batch.x.device()}),
  };
  const size_t first_number = inputs.size();
  inputs.insert(inputs.end(), numbers.begin(), numbers.end());

  const auto work = [&](const std::vector<Tensor>& in) -> std::vector<Tensor> {
    const std::vector<Tensor> numbers_in(in.begin() + static_cast<std::ptrdiff_t>(first_number), in.end());
    const RandomKey dropout = random_key(seed, RandomUse::dropout);
    adam_->zero_grad();
    for (int64_t part = 0; part < parts; ++part) {
      const int64_t begin = part * size / parts, end = (part + 1) * size / parts;
      const auto examples = [&](const Tensor& all) { return all.defined() ? all.slice(0, begin, end) : all; };
      const Denoiser model = make_training_denoiser(
          unet_, config_.model.prediction,
          parts == 1 ? dropout : fold_in(dropout, static_cast<uint64_t>(part)), t.recompute_blocks, in[3],
          t.precision);
      Variable loss =
          loss_of({model, examples(in[0]), examples(in[1]), examples(in[2]), numbers_in, begin, end});
      if (parts > 1) loss = loss / static_cast<double>(parts);
      loss.backward();
      binary_(BinaryOp::add, loss_sum_, loss.value().to(DType::f64));
    }
    adam_->apply();
    if (ema_) ema_->apply();
    return {};
  };
  adam_->set_learning_rate(learning_rate());
  if (ema_) ema_->advance();
  if (recorded)
    recorded->update(inputs, work);
  else
    work(inputs);
  ++losses_;
  ++step_;
}

double Trainer::learning_rate() const { return config_.train.learning_rate_schedule()(step_); }

double Trainer::mean_loss() const {
  return losses_ ? loss_sum_.item() / static_cast<double>(losses_) : std::numeric_limits<double>::quiet_NaN();
}

void Trainer::restart_mean_loss() {
  loss_sum_.fill_(0);
  losses_ = 0;
}

TensorMap Trainer::weights() const { return ema_ ? ema_->weights() : halfstep::state(unet_); }

TensorMap Trainer::state() const {
  TensorMap all = adam_->state();
  if (ema_) all.merge(ema_->state());
  for (const auto& [name, tensor] : halfstep::state(unet_)) all.emplace("raw." + name, tensor);
  const TensorOptions counter{DType::i64, &loss_sum_.device()};
  all.emplace("step", Tensor::from(std::vector<int64_t>{step_}, {}, counter));
  all.emplace("loss.sum", loss_sum_);
  all.emplace("loss.count", Tensor::from(std::vector<int64_t>{losses_}, {}, counter));
  return all;
}

void Trainer::load_state(const TensorMap& saved) {
  TensorMap raw;
  for (const auto& [name, tensor] : saved)
    if (name.starts_with("raw.")) raw.emplace(name.substr(4), tensor);
  halfstep::load_state(unet_, raw);
  adam_->load_state(saved);
  if (ema_) ema_->load_state(saved);
  const auto read = [&](const std::string& name) {
    const auto found = saved.find(name);
    require(found != saved.end(), "load_state", "expected the tensor '{}' in the saved state, found none",
            name);
    return found->second;
  };
  step_ = static_cast<int64_t>(read("step").item());
  loss_sum_.copy_(read("loss.sum"));
  losses_ = static_cast<int64_t>(read("loss.count").item());
}

void Trainer::start_from(const TensorMap& weights) {
  halfstep::load_state(unet_, weights);
  reset();
}

}  // namespace halfstep
