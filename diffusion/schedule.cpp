#include "diffusion/schedule.h"

#include <cmath>
#include <numbers>

#include "tensor/error.h"

namespace halfstep {

namespace {

double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

template <class Function>
std::vector<double> map(const std::vector<double>& values, Function function) {
  std::vector<double> results;
  results.reserve(values.size());
  for (const double value : values) results.push_back(function(value));
  return results;
}

/// The angle a t + b of the schedule. `from_end` is pi/2 minus it: close to t = 1 the angle itself is so
/// close to pi/2 that its rounding would show in the tangent.
struct Angle {
  double from_start, from_end;
  double rate;  ///< a
};

Angle angle_at(const CosineSchedule& schedule, double t) {
  require(std::isfinite(schedule.logsnr_min) && std::isfinite(schedule.logsnr_max) &&
              schedule.logsnr_min < schedule.logsnr_max,
          "logsnr", "expected finite limits with logsnr_min < logsnr_max, got {} and {}", schedule.logsnr_min,
          schedule.logsnr_max);
  require(t >= 0 && t <= 1, "logsnr", "expected a time in [0, 1], got {}; 0 is data, 1 is noise", t);
  const double start = std::atan(std::exp(-schedule.logsnr_max / 2));
  const double end = std::atan(std::exp(schedule.logsnr_min / 2));
  const double rate = std::numbers::pi / 2 - start - end;
  return {start + rate * t, end + rate * (1 - t), rate};
}

}  // namespace

double alpha(double logsnr) { return std::sqrt(sigmoid(logsnr)); }

double sigma(double logsnr) { return std::sqrt(sigmoid(-logsnr)); }

double log_sigma2(double logsnr) {
  // log(1 + e^l) without overflow.
  return logsnr > 0 ? -logsnr - std::log1p(std::exp(-logsnr)) : -std::log1p(std::exp(logsnr));
}

double signal_to_noise(double logsnr) { return std::exp(logsnr / 2); }

std::vector<double> alpha(const std::vector<double>& logsnr) {
  return map(logsnr, [](double l) { return alpha(l); });
}

std::vector<double> sigma(const std::vector<double>& logsnr) {
  return map(logsnr, [](double l) { return sigma(l); });
}

double CosineSchedule::logsnr(double t) const {
  const Angle angle = angle_at(*this, t);
  return t < 0.5 ? -2 * std::log(std::tan(angle.from_start)) : 2 * std::log(std::tan(angle.from_end));
}

std::vector<double> CosineSchedule::logsnr(const std::vector<double>& t) const {
  return map(t, [this](double time) { return logsnr(time); });
}

double CosineSchedule::dlogsnr_dt(double t) const {
  const Angle angle = angle_at(*this, t);
  // d/dt of -2 log tan = -2 a / (sin cos); sin 2 theta is the same from either end.
  return -4 * angle.rate / std::sin(2 * (t < 0.5 ? angle.from_start : angle.from_end));
}

}  // namespace halfstep
