// x, eps and v from raw outputs of the official code.
#include "diffusion/train_step.h"
#include "tests/analytic_network.h"
#include "tests/golden_runner/kinds.h"

namespace halfstep::test {
namespace {

bool recognises(const GoldenCase& golden) {
  return golden.has("in/z") && golden.has("in/logsnr") && golden.facts.contains("analytic_model") &&
         reference_text(golden).find("_run_model") != std::string::npos;
}

void run(GoldenRun& run) {
  const std::vector<double> logsnr = run.values("in/logsnr");
  const Variable z(run.tensor("in/z"));
  for (const Prediction kind : kPredictions) {
    const std::string name(name_of(kind));
    const Denoiser denoiser = analytic_denoiser(run.golden.facts, 'T', kind);
    run.output(name + "/model_output", denoiser.network(z, logsnr, {}));
    for (const bool clip : {false, true}) {
      const Predictions p = denoiser(z, logsnr, {}, clip);
      const std::string prefix = name + (clip ? "/clip1/" : "/clip0/");
      run.output(prefix + "model_x", p.x);
      run.output(prefix + "model_eps", p.eps);
      run.output(prefix + "model_v", p.v);
    }
  }
  if (!run.golden.has("in/w")) return;
  const Variable w(run.tensor("in/w"));
  run.output("prim/x_from_eps", predictions(Prediction::eps, w, z, logsnr, false).x);
  run.output("prim/eps_from_x", predictions_of_x(w, z, logsnr).eps);
  run.output("prim/x_from_v", predictions(Prediction::v, w, z, logsnr, false).x);
  run.output("prim/v_from_x_and_eps", data_target(z.value(), w.value(), logsnr).v);
}

}  // namespace

Kind jax_prediction_kind() {
  return {"jax predictions", "x, eps, v from raw outputs of each kind, clipped or not; the four conversions",
          recognises, run};
}

}  // namespace halfstep::test
