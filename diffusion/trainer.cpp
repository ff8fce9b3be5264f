#include "diffusion/trainer.h"

#include <limits>

#include "diffusion/distill.h"
#include "diffusion/random_streams.h"
#include "diffusion/train_step.h"
#include "tensor/error.h"

namespace halfstep {

Denoiser make_denoiser(const UNet& unet, Prediction prediction, Precision precision) {
  return {[&unet, precision](const Variable& z, const std::vector<double>& logsnr, const Tensor& label) {
            ForwardContext context{.precision = precision};
            return unet(z, logsnr, label, context);
          },
          prediction};
}

Denoiser make_training_denoiser(const UNet& unet, Prediction prediction, RandomKey dropout_key,
                                bool recompute, Precision precision) {
  return {[&unet, dropout_key, recompute, precision](const Variable& z, const std::vector<double>& logsnr,
                                                     const Tensor& label) {
            ForwardContext context{
                .training = true, .key = dropout_key, .recompute = recompute, .precision = precision};
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
  update_in_parts(
      batch, key(RandomUse::dropout), [&](const Batch& part, int64_t begin, int64_t end, RandomKey dropout) {
        const Denoiser model =
            make_training_denoiser(unet_, config_.model.prediction, dropout, t.recompute_blocks, t.precision);
        return diffusion_loss(model, t.loss, config_.model.schedule, part.x, part.label,
                              {times.begin() + begin, times.begin() + end}, eps.slice(0, begin, end));
      });
}

void Trainer::update(const Batch& batch, const Denoiser& teacher, int64_t num_steps) {
  const TrainConfig& t = config_.train;
  const uint64_t seed = stage_seed(t.seed, num_steps);
  const auto key = [&](RandomUse use) { return random_key(seed, use, static_cast<uint64_t>(step_)); };
  const std::vector<int64_t> i = draw_step_indices(batch.x.size(0), num_steps, key(RandomUse::time));
  const Tensor eps = random_normal(batch.x.shape(), key(RandomUse::noise), 0, batch.x.options());
  update_in_parts(
      batch, key(RandomUse::dropout), [&](const Batch& part, int64_t begin, int64_t end, RandomKey dropout) {
        const Denoiser student =
            make_training_denoiser(unet_, config_.model.prediction, dropout, t.recompute_blocks, t.precision);
        return distillation_loss(student, teacher, t.loss, config_.model.schedule, part.x, part.label,
                                 {i.begin() + begin, i.begin() + end}, num_steps, eps.slice(0, begin, end));
      });
}

void Trainer::update_in_parts(const Batch& batch, RandomKey dropout, const LossOfPart& loss_of) {
  const int64_t size = batch.x.size(0), parts = config_.train.micro_batches;
  require(size % parts == 0, "train", "expected a batch that divides into {} equal parts, got {} examples",
          parts, size);
  // Data sets always have labels; the network may have no use for them.
  const bool labelled = config_.model.unet.conditional();
  adam_->zero_grad();
  for (int64_t part = 0; part < parts; ++part) {
    const int64_t begin = part * size / parts, end = (part + 1) * size / parts;
    const Batch examples{batch.x.slice(0, begin, end),
                         labelled ? batch.label.slice(0, begin, end) : Tensor()};
    Variable loss = loss_of(examples, begin, end, parts == 1 ? dropout : fold_in(dropout, part));
    if (parts > 1) loss = loss / static_cast<double>(parts);
    loss.backward();
    binary_(BinaryOp::add, loss_sum_, loss.value().to(DType::f64));
  }
  adam_->step(learning_rate());
  if (ema_) ema_->update();
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
