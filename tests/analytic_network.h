// Networks in one formula, F(z, l) = a z + b tanh(c z) + d sin(e l): the golden cases were made with them,
// and they are smooth, so that gradients can be checked numerically.
#pragma once

#include <cmath>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "autograd/ops.h"
#include "diffusion/forward.h"
#include "diffusion/loss.h"
#include "diffusion/prediction.h"

namespace halfstep::test {

struct Coefficients {
  double a, b, c, d, e;
};

inline Variable analytic(const Coefficients& k, const Variable& z, const NoiseLevels& logsnr) {
  std::vector<double> shift;
  for (const double l : logsnr.logsnr()) shift.push_back(k.d * std::sin(k.e * l));
  return k.a * z + k.b * tanh(k.c * z) + Variable(per_example(shift, z.rank(), z.options()));
}

/// Raw output F(z, l; x) for one-image predictions; for `both` F(z, l; x) and F(z, l; eps) side by side.
inline Network analytic_network(Prediction kind, const Coefficients& x, const Coefficients& eps) {
  return [=](const Variable& z, const NoiseLevels& logsnr, const Tensor&) {
    const Variable first = analytic(x, z, logsnr);
    return kind == Prediction::both ? concat({first, analytic(eps, z, logsnr)}, -1) : first;
  };
}

/// The denoiser of a golden case; role: 'T' (teacher) or 'S' (student).
inline Denoiser analytic_denoiser(const nlohmann::json& facts, char role, Prediction kind) {
  const auto read = [&](char number) {
    const auto k =
        facts.at("analytic_model").at("coefficients").at({role, number}).get<std::vector<double>>();
    return Coefficients{k.at(0), k.at(1), k.at(2), k.at(3), k.at(4)};
  };
  return {analytic_network(kind, read('1'), read('2')), kind};
}

inline constexpr Prediction kPredictions[] = {Prediction::x, Prediction::eps, Prediction::v,
                                              Prediction::both};
inline constexpr LossWeight kLossWeights[] = {LossWeight::constant, LossWeight::snr,
                                              LossWeight::truncated_snr, LossWeight::snr_plus_1};

}  // namespace halfstep::test
