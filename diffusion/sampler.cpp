#include "diffusion/sampler.h"

#include <charconv>
#include <cmath>

#include "autograd/ops.h"
#include "diffusion/forward.h"
#include "diffusion/random_streams.h"
#include "tensor/captured.h"
#include "tensor/error.h"

namespace halfstep {

namespace {

void check(const SamplerOptions& options, const Tensor& noise) {
  require(options.num_steps >= 1, "sample", "expected at least 1 step, got {}", options.num_steps);
  require(noise.rank() >= 2 && is_full_precision(noise.dtype()), "sample",
          "expected noise as f32 or f64 [K, H, W, C], got {} {}", name_of(noise.dtype()), str(noise.shape()));
  if (!options.step_noise.defined()) return;
  require(options.kind == SamplerKind::ancestral, "sample",
          "expected no step noise for {}; only the ancestral sampler uses it", name_of(options.kind));
  Shape expected = noise.shape();
  expected.insert(0, options.num_steps);
  require(options.step_noise.shape() == expected, "sample", "expected step noise of shape {}, got {}",
          str(expected), str(options.step_noise.shape()));
}

Tensor noise_of_step(const SamplerOptions& options, int64_t i, const Tensor& z) {
  if (options.step_noise.defined()) return options.step_noise.slice(0, i, i + 1).squeeze(0);
  const RandomKey key = random_key(options.seed, RandomUse::step_noise, static_cast<uint64_t>(i));
  return random_normal(z.shape(), key, options.first_sample, z.options());
}

/// trajectory[n] = value
void store(const Tensor& trajectory, int64_t n, const Tensor& value) {
  trajectory.slice(0, n, n + 1).squeeze(0).copy_(value);
}

}  // namespace

std::string_view name_of(SamplerKind kind) {
  switch (kind) {
    case SamplerKind::ddim:
      return "ddim";
    case SamplerKind::ancestral:
      return "ancestral";
  }
  fail("sampler", "expected ddim or ancestral, got {}", static_cast<int>(kind));
}

SamplerKind sampler_by_name(std::string_view name) {
  for (const SamplerKind kind : {SamplerKind::ddim, SamplerKind::ancestral}) {
    if (name_of(kind) == name) return kind;
  }
  fail("sampler", "expected ddim or ancestral, got \"{}\"", name);
}

AncestralVariance ancestral_variance_by_name(std::string_view name) {
  constexpr std::string_view kMedium = "medium:";
  if (name == "fixed_small") return {0};
  if (name == "fixed_large") return {1};
  if (name.starts_with(kMedium)) {
    const char* const begin = name.data() + kMedium.size();
    const char* const end = name.data() + name.size();
    double part = -1;
    const auto [stop, error] = std::from_chars(begin, end, part);
    if (error == std::errc{} && stop == end && part >= 0 && part <= 1) return {part};
  }
  fail("variance", "expected fixed_small, fixed_large or medium:f with f in [0, 1], got \"{}\"", name);
}

Tensor initial_noise(const Shape& shape, uint64_t seed, uint64_t first_sample, TensorOptions options) {
  return random_normal(shape, random_key(seed, RandomUse::sample_noise), first_sample, options);
}

Tensor ddim_step(const Predictions& at_t, const NoiseLevels& logsnr_s) {
  return diffuse(at_t.x.value(), at_t.eps.value(), logsnr_s);
}

Tensor ancestral_factors(const std::vector<double>& logsnr_s, const std::vector<double>& logsnr_t,
                         AncestralVariance variance, Device& device) {
  const PosteriorMean mean = posterior_mean(logsnr_s, logsnr_t);
  std::vector<double> factors = mean.of_z;
  factors.insert(factors.end(), mean.of_x.begin(), mean.of_x.end());
  for (size_t k = 0; k < logsnr_s.size(); ++k) {
    const double small = log_step_variance(logsnr_s[k], logsnr_t[k], logsnr_s[k]);
    const double large = log_step_variance(logsnr_s[k], logsnr_t[k], logsnr_t[k]);
    factors.push_back(std::exp((variance.large_part * large + (1 - variance.large_part) * small) / 2));
  }
  return Tensor::from(factors, {3, static_cast<int64_t>(logsnr_s.size())}, {DType::f64, &device});
}

Tensor ancestral_step(const Predictions& at_t, const Tensor& z_t, const Tensor& factors,
                      const Tensor& noise) {
  const auto factor = [&](int64_t row) {
    return Variable(per_example(factors.slice(0, row, row + 1), z_t.rank(), z_t.dtype()));
  };
  return (factor(0) * Variable(z_t) + factor(1) * at_t.x + factor(2) * Variable(noise)).value();
}

Tensor ancestral_step(const Predictions& at_t, const Tensor& z_t, const std::vector<double>& logsnr_s,
                      const std::vector<double>& logsnr_t, AncestralVariance variance, const Tensor& noise) {
  return ancestral_step(at_t, z_t, ancestral_factors(logsnr_s, logsnr_t, variance, z_t.device()), noise);
}

Tensor sample(const Denoiser& denoiser, const Tensor& noise, const Tensor& label,
              const SamplerOptions& options, Trajectory* trajectory) {
  check(options, noise);
  const NoGrad guard;
  Device& device = noise.device();
  const int64_t num_steps = options.num_steps;
  const bool ancestral = options.kind == SamplerKind::ancestral;
  const auto logsnr_at = [&](int64_t i) -> NoiseLevels {
    const double t = static_cast<double>(i) / static_cast<double>(num_steps);
    return std::vector<double>(static_cast<size_t>(noise.size(0)), options.schedule.logsnr(t));
  };
  if (trajectory) {
    Shape shape = noise.shape();
    shape.insert(0, num_steps);
    trajectory->x_hat = Tensor::empty(shape, noise.options());
    shape[0] = num_steps + 1;
    trajectory->z = Tensor::empty(shape, noise.options());
    store(trajectory->z, 0, noise);
  }

  Captured captured;
  Tensor z = noise, label_of_step = label;
  NoiseLevels logsnr_t = logsnr_at(num_steps);
  for (int64_t i = num_steps - 1; i >= 0; --i) {
    const NoiseLevels logsnr_s = logsnr_at(i);
    std::vector<Tensor> inputs = {z, label_of_step, logsnr_t.table(device), logsnr_s.table(device)};
    if (ancestral) {
      inputs.push_back(ancestral_factors(logsnr_s.logsnr(), logsnr_t.logsnr(), options.variance, device));
      inputs.push_back(noise_of_step(options, i, z));
    }
    const auto step = [&](const std::vector<Tensor>& in) -> std::vector<Tensor> {
      const Predictions at_t = denoiser(Variable(in[0]), logsnr_t.with_table(in[2]), in[1], options.clip);
      return {at_t.x.value(), ancestral ? ancestral_step(at_t, in[0], in[4], in[5])
                                        : ddim_step(at_t, logsnr_s.with_table(in[3]))};
    };
    const std::vector<Tensor> results = denoiser.recordable ? captured(inputs, step) : step(inputs);
    const Tensor &x_hat = results[0], &z_s = results[1];
    z = i == 0 ? x_hat : z_s;
    if (trajectory) {
      const int64_t n = num_steps - 1 - i;
      store(trajectory->x_hat, n, x_hat);
      store(trajectory->z, n + 1, z);
    }
    // The first step has checked the labels; from here on they need not be sent again.
    if (label.defined()) label_of_step = label_of_step.to(device);
    logsnr_t = logsnr_s;
  }
  return z;
}

}  // namespace halfstep
