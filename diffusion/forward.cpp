#include "diffusion/forward.h"

#include <cmath>
#include <numbers>

#include "autograd/ops.h"
#include "tensor/error.h"

namespace halfstep {

namespace {

/// f(logsnr_s, logsnr_t) for every example, after a check that time s does not come after time t.
template <class Function>
std::vector<double> for_each_step(const std::vector<double>& logsnr_s, const std::vector<double>& logsnr_t,
                                  std::string_view where, Function function) {
  require(logsnr_s.size() == logsnr_t.size(), where, "expected as many logsnr_s as logsnr_t, got {} and {}",
          logsnr_s.size(), logsnr_t.size());
  std::vector<double> results;
  results.reserve(logsnr_s.size());
  for (size_t i = 0; i < logsnr_s.size(); ++i) {
    require(logsnr_t[i] <= logsnr_s[i], where,
            "expected logsnr_t <= logsnr_s, got {} and {}; are s and t swapped?", logsnr_t[i], logsnr_s[i]);
    results.push_back(function(logsnr_s[i], logsnr_t[i]));
  }
  return results;
}

void require_one_per_example(int64_t count, const Tensor& like, std::string_view where) {
  require(like.rank() >= 1 && count == like.size(0), where,
          "expected one scalar per example, got {} for shape {}", count, str(like.shape()));
}

/// `values` as factors for the examples of `like` [B, ...].
Variable factors(const std::vector<double>& values, const Tensor& like, std::string_view where) {
  require_one_per_example(static_cast<int64_t>(values.size()), like, where);
  return Variable(per_example(values, like.rank(), like.options()));
}

}  // namespace

SignalAndNoise signal_and_noise(const NoiseLevels& logsnr, const Variable& like, std::string_view where) {
  for (const double l : logsnr.logsnr())
    require(std::isfinite(l), where, "expected a finite logsnr, got {}", l);
  require_one_per_example(logsnr.size(), like.value(), where);
  Device& device = like.value().device();
  return {Variable(per_example(logsnr.alpha(device), like.rank(), like.dtype())),
          Variable(per_example(logsnr.sigma(device), like.rank(), like.dtype()))};
}

Tensor diffuse(const Tensor& x, const Tensor& eps, const NoiseLevels& logsnr) {
  require(x.shape() == eps.shape(), "diffuse", "expected noise of the data's shape {}, got {}",
          str(x.shape()), str(eps.shape()));
  const auto [alpha_t, sigma_t] = signal_and_noise(logsnr, Variable(x), "diffuse");
  return (alpha_t * Variable(x) + sigma_t * Variable(eps)).value();
}

Tensor draw(const Gaussian& gaussian, const Tensor& noise) {
  std::vector<double> deviation;
  for (const double log_variance : gaussian.log_variance) deviation.push_back(std::exp(log_variance / 2));
  return (Variable(gaussian.mean) + factors(deviation, noise, "draw") * Variable(noise)).value();
}

double log_step_variance(double logsnr_s, double logsnr_t, double logsnr) {
  const double d = logsnr_s - logsnr_t;
  // log(1 - e^-d), from whichever form keeps the small number.
  const double log_one_minus_r =
      d < std::numbers::ln2 ? std::log(-std::expm1(-d)) : std::log1p(-std::exp(-d));
  return log_one_minus_r + log_sigma2(logsnr);
}

Gaussian transition(const Tensor& z_s, const std::vector<double>& logsnr_s,
                    const std::vector<double>& logsnr_t) {
  const auto ratio = for_each_step(logsnr_s, logsnr_t, "transition",
                                   [](double l_s, double l_t) { return alpha(l_t) / alpha(l_s); });
  return {(factors(ratio, z_s, "transition") * Variable(z_s)).value(),
          for_each_step(logsnr_s, logsnr_t, "transition",
                        [](double l_s, double l_t) { return log_step_variance(l_s, l_t, l_t); })};
}

PosteriorMean posterior_mean(const std::vector<double>& logsnr_s, const std::vector<double>& logsnr_t) {
  return {for_each_step(logsnr_s, logsnr_t, "posterior",
                        [](double l_s, double l_t) { return std::exp(l_t - l_s) * alpha(l_s) / alpha(l_t); }),
          for_each_step(logsnr_s, logsnr_t, "posterior",
                        [](double l_s, double l_t) { return -std::expm1(l_t - l_s) * alpha(l_s); })};
}

Gaussian posterior(const Tensor& x, const Tensor& z_t, const std::vector<double>& logsnr_s,
                   const std::vector<double>& logsnr_t) {
  const auto [of_z, of_x] = posterior_mean(logsnr_s, logsnr_t);
  return {
      (factors(of_z, z_t, "posterior") * Variable(z_t) + factors(of_x, x, "posterior") * Variable(x)).value(),
      for_each_step(logsnr_s, logsnr_t, "posterior",
                    [](double l_s, double l_t) { return log_step_variance(l_s, l_t, l_s); })};
}

}  // namespace halfstep
