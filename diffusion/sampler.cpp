#include "diffusion/sampler.h"

#include <charconv>

#include "diffusion/forward.h"
#include "diffusion/random_streams.h"
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

Tensor ddim_step(const Predictions& at_t, const std::vector<double>& logsnr_s) {
  return diffuse(at_t.x.value(), at_t.eps.value(), logsnr_s);
}

Tensor ancestral_step(const Predictions& at_t, const Tensor& z_t, const std::vector<double>& logsnr_s,
                      const std::vector<double>& logsnr_t, AncestralVariance variance, const Tensor& noise) {
  Gaussian step = posterior(at_t.x.value(), z_t, logsnr_s, logsnr_t);
  for (size_t k = 0; k < logsnr_s.size(); ++k) {
    const double small = step.log_variance[k];
    const double large = log_step_variance(logsnr_s[k], logsnr_t[k], logsnr_t[k]);
    step.log_variance[k] = variance.large_part * large + (1 - variance.large_part) * small;
  }
  return draw(step, noise);
}

Tensor sample(const Denoiser& denoiser, const Tensor& noise, const Tensor& label,
              const SamplerOptions& options, Trajectory* trajectory) {
  check(options, noise);
  const NoGrad guard;
  const int64_t num_steps = options.num_steps;
  const auto logsnr_at = [&](int64_t i) {
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

  Tensor z = noise;
  for (int64_t i = num_steps - 1; i >= 0; --i) {
    const std::vector<double> logsnr_t = logsnr_at(i + 1), logsnr_s = logsnr_at(i);
    const Predictions at_t = denoiser(Variable(z), logsnr_t, label, options.clip);
    if (i == 0) {
      z = at_t.x.value();
    } else if (options.kind == SamplerKind::ddim) {
      z = ddim_step(at_t, logsnr_s);
    } else {
      z = ancestral_step(at_t, z, logsnr_s, logsnr_t, options.variance, noise_of_step(options, i, z));
    }
    if (trajectory) {
      const int64_t n = num_steps - 1 - i;
      store(trajectory->x_hat, n, at_t.x.value());
      store(trajectory->z, n + 1, z);
    }
  }
  return z;
}

}  // namespace halfstep
