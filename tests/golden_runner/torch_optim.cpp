// PyTorch's optimisers, gradient clipping and averages, step by step over small tensors.
#include <cmath>
#include <memory>
#include <regex>

#include "nn/ema.h"
#include "nn/optimizer.h"
#include "tests/golden_runner/kinds.h"

namespace halfstep::test {
namespace {

constexpr std::string_view kGradients = "grads.";
constexpr double kClipEps = 1e-6;  ///< of torch.nn.utils.clip_grad_norm_

/// A number of config under one of the names that PyTorch and its schedulers give it; `otherwise` where it is
/// absent or null.
double number(const nlohmann::json& config, const std::string& name, double otherwise) {
  const auto found = config.find(name);
  if (found == config.end() || found->is_null()) return otherwise;
  if (found->is_boolean()) return found->get<bool>();
  return found->get<double>();
}

/// What the case says: "AdamW wd 0.001, clip 0.5, ..." decides the optimiser, with numbers from config and
/// PyTorch's own defaults.
class Optimiser {
 public:
  Optimiser(Parameters parameters, const GoldenCase& golden) {
    const nlohmann::json& facts = golden.facts;
    const nlohmann::json config = facts.value("config", nlohmann::json::object());
    const std::string what = facts.value("what", ""), reference = reference_text(golden);
    const std::string named = config.value("optimizer", what) + " " + reference;
    const double clip = max_norm(facts, what);
    // The first optimiser that is named: "torch.optim" itself is no hint.
    std::smatch found;
    if (std::regex_search(named, found, std::regex("\\b(AdamW|Adam|SGD)\\b")))
      name_ = found[1];
    else if (config.contains("amsgrad") || config.contains("betas"))
      name_ = "Adam";
    else
      fail("golden", "expected Adam, AdamW or SGD in '{}'", what);
    const bool nesterov = number(config, "nesterov", 0) != 0;
    if (name_ == "SGD") {
      sgd_ = std::make_unique<Sgd>(std::move(parameters),
                                   SgdConfig{.momentum = number(config, "momentum", 0),
                                             .dampening = number(config, "dampening", 0),
                                             .nesterov = nesterov,
                                             .l2 = number(config, "weight_decay", 0),
                                             .max_grad_norm = clip,
                                             .clip_eps = kClipEps});
      return;
    }
    AdamConfig adam;
    if (config.contains("betas")) {
      adam.beta1 = config.at("betas").at(0).get<double>();
      adam.beta2 = config.at("betas").at(1).get<double>();
    }
    adam.eps = number(config, "eps", 1e-8);
    // In AdamW the decay is decoupled, in Adam it goes through the gradient.
    (name_ == "AdamW" ? adam.weight_decay : adam.l2) =
        number(config, "weight_decay", name_ == "AdamW" ? 0.01 : 0);
    adam.max_grad_norm = clip;
    adam.clip_eps = kClipEps;
    adam.amsgrad = config.contains("amsgrad") ? number(config, "amsgrad", 0) != 0
                                              : what.find("amsgrad") != std::string::npos;
    adam_ = std::make_unique<Adam>(std::move(parameters), adam);
  }

  void step(double lr) { sgd_ ? sgd_->step(lr) : adam_->step(lr); }
  /// The gradient norm of the last step, before clipping.
  double norm() const { return sgd_ ? sgd_->stats().last_norm : adam_->stats().last_norm; }
  /// By PyTorch's name: exp_avg, exp_avg_sq, max_exp_avg_sq, momentum_buffer.
  Tensor state(const std::string& torch_name, const std::string& parameter) const {
    const std::map<std::string, std::string> names = {{"exp_avg", "adam.m."},
                                                      {"exp_avg_sq", "adam.v."},
                                                      {"max_exp_avg_sq", "adam.v_max."},
                                                      {"momentum_buffer", "sgd.momentum."}};
    const auto found = names.find(torch_name);
    require(found != names.end(), "golden", "unknown optimiser state '{}'", torch_name);
    const TensorMap state = sgd_ ? sgd_->state() : adam_->state();
    const auto tensor = state.find(found->second + parameter);
    require(tensor != state.end(), "golden", "{} has no state '{}'", name_, torch_name);
    return tensor->second;
  }

 private:
  /// clip_max_norm, or "clip_grad_norm_ 1" of the description where the case has no such entry.
  static double max_norm(const nlohmann::json& facts, const std::string& what) {
    if (facts.contains("clip_max_norm")) return number(facts, "clip_max_norm", 0);
    std::smatch found;
    if (std::regex_search(what, found, std::regex(R"(clip_grad_norm_[ (]+([0-9.]+))")))
      return std::stod(found[1]);
    return 0;
  }

  std::string name_;
  std::unique_ptr<Adam> adam_;
  std::unique_ptr<Sgd> sgd_;
};

Tensor row(const Tensor& steps, int64_t k) { return steps.slice(0, k, k + 1).squeeze(0); }

/// The values of each step, one under the other: [steps, ...].
Tensor stacked(const std::vector<Tensor>& steps) {
  std::vector<Tensor> rows;
  for (const Tensor& step : steps) rows.push_back(step.unsqueeze(0));
  return concat(rows, 0);
}

Tolerance tolerance_of(const GoldenRun& run) {
  const nlohmann::json& facts = run.golden.facts.at("tolerance");
  const std::string name = std::string(name_of(run.options().dtype)) + "_abs";
  // A case of a program that works in f32 only has one tolerance.
  return {{facts.at(facts.contains(name) ? name : "f32_abs").get<double>()}};
}

/// The learning rates where the case describes a schedule that the framework has; else empty, and those of
/// the file are an input.
std::vector<double> learning_rates(const GoldenCase& golden, size_t steps) {
  const nlohmann::json config = golden.facts.value("config", nlohmann::json::object());
  const std::string formula = golden.facts.value("formula", "");
  if (!config.contains("lr")) return {};
  LearningRateSchedule schedule{.base = number(config, "lr", 0)};
  if (formula.find("lr_i") != std::string::npos) {
    if (formula.find("lr*(1-i/total)") == std::string::npos) return {};
    schedule.anneal_total_steps = config.at("total_steps").get<int64_t>();
  }
  std::vector<double> rates;
  for (size_t k = 0; k < steps; ++k) rates.push_back(schedule(static_cast<int64_t>(k)));
  return rates;
}

bool recognises_optimizer(const GoldenCase& golden) {
  const auto first = golden.tensors().lower_bound(std::string(kGradients));
  return first != golden.tensors().end() && first->first.starts_with(kGradients) && golden.has("lr.f64") &&
         reference_text(golden).find("torch.optim") != std::string::npos;
}

void run_optimizer(GoldenRun& run) {
  const GoldenCase& golden = run.golden;
  const Tolerance tolerance = tolerance_of(run);
  Parameters parameters;
  std::map<std::string, Tensor> gradients;
  for (const auto& entry : golden.tensors()) {
    if (!entry.first.starts_with(kGradients)) continue;
    const std::string name = entry.first.substr(kGradients.size());
    parameters.push_back({name, run.leaf("param0." + name)});
    gradients.emplace(name, run.tensor(entry.first));
  }
  Optimiser optimiser(parameters, golden);
  const std::vector<double> lr = run.values("lr.f64");
  if (const std::vector<double> rates = learning_rates(golden, lr.size()); !rates.empty())
    run.check("lr.f64", run.scalars(rates), tolerance);

  // PyTorch's average has the full decay from the start: ours after its first update, the copy of the first
  // values.
  const double decay = number(golden.facts, "ema_beta", 0);
  std::unique_ptr<Ema> ema;
  if (decay > 0) {
    ema = std::make_unique<Ema>(parameters, decay, EmaWarmup::none);
    ema->update();
  }

  std::map<std::string, std::vector<Tensor>> values, averages;
  std::vector<double> norms;
  const bool with_norms = golden.has("grad_norm_before_clip.f64");
  for (size_t k = 0; k < lr.size(); ++k) {
    for (auto& [name, p] : parameters)
      p.set_grad(Variable(row(gradients.at(name), static_cast<int64_t>(k)).contiguous()));
    optimiser.step(lr[k]);
    if (ema) ema->update();
    if (with_norms) norms.push_back(optimiser.norm());
    for (const auto& [name, p] : parameters) {
      values[name].push_back(p.value().clone());
      if (ema) averages[name].push_back(ema->weights().at(name).clone());
    }
  }

  for (const auto& [name, steps] : values) run.check("param." + name + ".f64", stacked(steps), tolerance);
  for (const auto& [name, steps] : averages) run.check("ema." + name + ".f64", stacked(steps), tolerance);
  if (with_norms) run.check("grad_norm_before_clip.f64", run.scalars(norms), tolerance);
  constexpr std::string_view kState = "final_state.";
  for (const auto& entry : golden.tensors()) {
    const std::vector<std::string> parts = split(entry.first, '.');
    if (!entry.first.starts_with(kState) || parts.back() != "f64") continue;
    require(parts.size() == 4, "golden", "expected final_state.<parameter>.<name>.f64, got {}", entry.first);
    run.check(entry.first, optimiser.state(parts[2], parts[1]), tolerance);
  }
}

bool recognises_ema(const GoldenCase& golden) {
  return reference_text(golden).find("EMAModel") != std::string::npos && golden.has("param0.w");
}

/// diffusers' EMAModel: one run per entry of config, `<run>.param.<p>` before and `<run>.ema.<p>` after each
/// update.
void run_ema(GoldenRun& run) {
  const GoldenCase& golden = run.golden;
  const Tolerance tolerance = tolerance_of(run);
  for (const auto& variant : golden.facts.at("config").items()) {
    const nlohmann::json& config = variant.value();
    const std::string prefix = variant.key() + ".";
    const bool power = config.value("use_ema_warmup", false);
    require(!power || (config.value("inv_gamma", 1.0) == 1 && config.value("power", 2.0 / 3) == 0.75),
            "golden", "the warm-up is supported for inv_gamma 1 and power 0.75, got {}", config.dump());

    // Parameters that this run does not move keep their average.
    std::map<std::string, Tensor> moved;
    Parameters parameters;
    for (const auto& entry : golden.tensors()) {
      if (!entry.first.starts_with("param0.")) continue;
      const std::string name = entry.first.substr(7);
      Tensor start = run.tensor(entry.first);
      if (golden.has(prefix + "param." + name)) {
        const Tensor steps = run.tensor(prefix + "param." + name);
        moved.emplace(name, steps);
        // Its ramp copies at the first update, ours has decay 0.1 there: starting from the values that the
        // first update meets makes both the same average.
        if (!power) start = row(steps, 0);
      }
      parameters.push_back({name, Variable(start.clone(), true)});
    }
    Ema ema(parameters, config.at("decay").get<double>(), power ? EmaWarmup::power : EmaWarmup::ramp);

    const auto steps = static_cast<int64_t>(golden.values(prefix + "decay.f64").size());
    std::vector<double> decays;
    std::map<std::string, std::vector<Tensor>> averages;
    for (int64_t k = 0; k < steps; ++k) {
      for (const auto& [name, p] : parameters)
        if (moved.contains(name)) p.value().copy_(row(moved.at(name), k));
      decays.push_back(k == 0 && !power ? 0 : ema.decay_of(k));
      ema.update();
      for (const auto& entry : moved) averages[entry.first].push_back(ema.weights().at(entry.first).clone());
    }
    run.check(prefix + "decay.f64", run.scalars(decays), tolerance);
    for (const auto& [name, p] : parameters) {
      if (moved.contains(name))
        run.check(prefix + "ema." + name, stacked(averages.at(name)), tolerance);
      else
        run.check("param0." + name, ema.weights().at(name), {{0.0}});
    }
  }
}

}  // namespace

Kind torch_optimizer_kind() {
  return {"torch optimizer", "Adam, AdamW, SGD: parameters after every step, clipping, averages, final state",
          recognises_optimizer, run_optimizer};
}

Kind torch_ema_kind() {
  return {"torch ema", "diffusers' EMAModel: decays and averages of every update", recognises_ema, run_ema};
}

}  // namespace halfstep::test
