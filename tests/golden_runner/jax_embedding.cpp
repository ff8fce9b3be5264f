// The conditioning of the official UNet before its first dense layer.
#include "diffusion/unet_config.h"
#include "tests/golden_runner/kinds.h"

namespace halfstep::test {
namespace {

bool recognises(const GoldenCase& golden) {
  return reference_text(golden).find("get_timestep_embedding") != std::string::npos &&
         (golden.has("in/logsnr") || golden.has("in/timesteps_direct"));
}

/// "emb_dim32" -> 32; also "emb_dim64_maxtime1000" where max_time agrees with the embedding's own scale.
int64_t width_of(const std::string& name) {
  constexpr std::string_view kPrefix = "emb_dim";
  require(name.starts_with(kPrefix), "golden", "expected an embedding such as emb_dim32, got {}", name);
  return std::stoll(name.substr(kPrefix.size()));
}

void run(GoldenRun& run) {
  Device& device = *run.options().device;
  for (const auto& output : run.golden.facts.at("outputs").items()) {
    const std::vector<std::string> parts = split(output.key());
    require(parts.size() == 2, "golden", "expected <input type>/<result>, got {}", output.key());
    if (parts[0] == "direct") {
      // t as it is: times 1000, divided by max_time, which must be 1000.
      require(parts[1].ends_with("_maxtime1000"), "golden", "expected max_time 1000 in {}", output.key());
      const std::vector<double> values = run.values("in/timesteps_direct");
      const Tensor t = Tensor::from(values, {static_cast<int64_t>(values.size())}, {DType::f64, &device});
      const int64_t width = width_of(parts[1]);
      run.output(output.key(),
                 sinusoidal_embedding(t, embedding_frequencies(width, device), width, run.options().dtype));
      continue;
    }
    UNetConfig config;
    config.logsnr_input = logsnr_input_by_name(parts[0]);
    const std::vector<double> logsnr = run.values("in/logsnr");
    if (parts[1] == "logsnr_input") {
      run.output(output.key(), logsnr_input(config, logsnr, device).to(run.options().dtype));
    } else {
      config.channels = width_of(parts[1]);
      run.output(output.key(),
                 logsnr_embedding(config, logsnr, embedding_frequencies(config.channels, device),
                                  run.options().dtype));
    }
  }
}

}  // namespace

Kind jax_embedding_kind() {
  return {"jax embedding", "network input of the log-SNR (linear, sigmoid, inv_cos), sinusoidal embedding",
          recognises, run};
}

}  // namespace halfstep::test
