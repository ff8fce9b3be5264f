// The cosine schedule of the official code: log-SNR, its derivative, and what follows from it.
#include <map>

#include "diffusion/schedule.h"
#include "tests/golden_runner/kinds.h"

namespace halfstep::test {
namespace {

bool recognises(const GoldenCase& golden) {
  return golden.has("in/u") && has_output(golden, "logsnr") &&
         reference_text(golden).find("get_logsnr_schedule") != std::string::npos;
}

/// "cos_m20_20" -> -20 and 20: 'm' is the minus sign.
CosineSchedule schedule_of(const std::string& name) {
  const std::vector<std::string> parts = split(name, '_');
  const auto limit = [&](const std::string& text) {
    const bool negative = text.starts_with("m");
    size_t used = 0;
    double value = 0;
    try {
      value = std::stod(text.substr(negative), &used);
    } catch (const std::exception&) {
    }
    require(used > 0 && used == text.size() - negative, "golden",
            "expected a schedule's name such as cos_m20_20, got {}", name);
    return negative ? -value : value;
  };
  require(parts.size() == 3 && parts[0] == "cos", "golden",
          "expected a schedule's name such as cos_m20_20, got {}", name);
  return {limit(parts[1]), limit(parts[2])};
}

void run(GoldenRun& run) {
  const std::vector<double> t = run.values("in/u");
  std::set<std::string> names;
  for (const auto& output : run.golden.facts.at("outputs").items()) names.insert(split(output.key())[0]);
  for (const std::string& name : names) {
    const CosineSchedule schedule = schedule_of(name);
    const std::vector<double> logsnr = schedule.logsnr(t);
    std::vector<double> variance, log_variance, derivative;
    for (const double l : logsnr) {
      variance.push_back(sigma(l) * sigma(l));
      log_variance.push_back(log_sigma2(l));
    }
    for (const double time : t) derivative.push_back(schedule.dlogsnr_dt(time));
    run.output(name + "/logsnr", logsnr);
    run.output(name + "/alpha", alpha(logsnr));
    run.output(name + "/sigma", sigma(logsnr));
    run.output(name + "/var", variance);
    run.output(name + "/logvar", log_variance);
    run.output(name + "/dlogsnr_du", derivative);
  }
}

}  // namespace

Kind jax_schedule_kind() {
  return {"jax schedule", "cosine log-SNR for any limits: logsnr, alpha, sigma, variances, derivative",
          recognises, run};
}

}  // namespace halfstep::test
