// Trajectories of the official code's two samplers.
#include "diffusion/sampler.h"
#include "tests/analytic_network.h"
#include "tests/golden_runner/kinds.h"

namespace halfstep::test {
namespace {

bool recognises(const GoldenCase& golden) {
  const std::string reference = reference_text(golden);
  return golden.has("in/init_z") && golden.facts.contains("analytic_model") &&
         (reference.find("ddim_step") != std::string::npos ||
          reference.find("bwd_dif_step") != std::string::npos);
}

/// One run: <kind>/[<variance>/]clip<0|1>/N<steps>/<traj|sample_loop_final>, the variance for the ancestral
/// sampler only.
void check_run(GoldenRun& run, const std::string& name, bool ancestral) {
  std::vector<std::string> parts = split(name);
  SamplerOptions options;
  if (ancestral) {
    require(parts.size() == 5, "golden", "expected <kind>/<variance>/clip<0|1>/N<steps>/<result>, got {}",
            name);
    options.kind = SamplerKind::ancestral;
    const std::string variance = parts[1];
    options.variance = ancestral_variance_by_name(
        variance.starts_with("fixed_medium:") ? variance.substr(std::string("fixed_").size()) : variance);
    parts.erase(parts.begin() + 1);
  }
  require(parts.size() == 4 && (parts[1] == "clip0" || parts[1] == "clip1") && parts[2].starts_with("N") &&
              (parts[3] == "traj" || parts[3] == "sample_loop_final"),
          "golden", "expected <kind>/clip<0|1>/N<steps>/<traj|sample_loop_final>, got {}", name);
  options.clip = parts[1] == "clip1";
  options.num_steps = std::stoll(parts[2].substr(1));
  // noise[i] belongs to loop index i, whatever the number of steps.
  if (ancestral) options.step_noise = run.tensor("in/noise").slice(0, 0, options.num_steps);

  const Denoiser denoiser = analytic_denoiser(run.golden.facts, 'T', prediction_by_name(parts[0]));
  Trajectory trajectory;
  const Tensor samples = sample(denoiser, run.tensor("in/init_z"), {}, options, &trajectory);
  run.output(name, parts[3] == "traj" ? trajectory.z : samples);
}

void run(GoldenRun& run) {
  const bool ancestral = run.golden.has("in/noise");
  for (const auto& output : run.golden.facts.at("outputs").items()) check_run(run, output.key(), ancestral);
}

}  // namespace

Kind jax_sampler_kind() {
  return {"jax sampler", "DDIM and ancestral trajectories, clipped or not, any number of steps", recognises,
          run};
}

}  // namespace halfstep::test
