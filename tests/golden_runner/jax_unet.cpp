// Whole UNets of the official code: output, and gradients of every parameter.
#include "tests/golden_runner/jax_unet.h"

#include <algorithm>
#include <cmath>

#include "autograd/ops.h"
#include "tests/golden_runner/kinds.h"

namespace halfstep::test {
namespace {

constexpr std::string_view kParams = "params/";

/// [sum g, sqrt(sum g^2), sum g_k cos(0.37 k + 0.1), sum g_k sin(1.1 k + 0.5)], k the row-major index.
std::vector<double> signature(const std::vector<double>& g) {
  std::vector<double> s(4);
  for (size_t k = 0; k < g.size(); ++k) {
    const double index = static_cast<double>(k);
    s[0] += g[k];
    s[1] += g[k] * g[k];
    s[2] += g[k] * std::cos(0.37 * index + 0.1);
    s[3] += g[k] * std::sin(1.1 * index + 0.5);
  }
  s[1] = std::sqrt(s[1]);
  return s;
}

/// The class of each image, or nothing for an unconditional network: the one input that is not x, logsnr or
/// R, stored as floats, one number per image or a one-hot row.
Tensor labels_of(const GoldenCase& golden, const UNetConfig& config) {
  if (!config.conditional()) return {};
  std::vector<std::string> names;
  for (const auto& entry : golden.tensors())
    if (entry.first.starts_with("in/") && entry.first != "in/x" && entry.first != "in/logsnr" &&
        entry.first != "in/R")
      names.push_back(entry.first);
  require(names.size() == 1, "golden",
          "expected one input with the labels of a network with {} classes beside in/x, in/logsnr and in/R, "
          "got {}",
          config.num_classes, names.size());
  const Tensor& given = golden.raw(names[0]);
  const std::vector<double> values = given.to(DType::f64).to_vector<double>();
  std::vector<int64_t> labels;
  if (given.rank() == 1) {
    for (const double value : values) labels.push_back(std::llround(value));
  } else {
    require(given.rank() == 2 && given.size(1) == config.num_classes, "golden",
            "expected {} as [B] or one-hot [B, {}], got {}", names[0], config.num_classes,
            str(given.shape()));
    const auto classes = static_cast<size_t>(config.num_classes);
    for (size_t b = 0; b < values.size() / classes; ++b) {
      const auto row = values.begin() + static_cast<std::ptrdiff_t>(b * classes);
      labels.push_back(std::max_element(row, row + config.num_classes) - row);
    }
  }
  return Tensor::from(labels, {static_cast<int64_t>(labels.size())}, {.dtype = DType::i64});
}

bool recognises(const GoldenCase& golden) {
  const auto first = golden.tensors().lower_bound(std::string(kParams));
  return first != golden.tensors().end() && first->first.starts_with(kParams) && golden.has("in/x") &&
         golden.has("in/logsnr") && golden.has("in/R") &&
         reference_text(golden).find("UNet.apply") != std::string::npos;
}

void run(GoldenRun& run) {
  const GoldenCase& golden = run.golden;
  const UNet net = unet_of(golden, run.options());
  const nlohmann::json& facts = golden.facts;
  require(!facts.contains("n_params") || facts.at("n_params").get<int64_t>() == parameter_count(net),
          "golden", "expected {} parameters, the network has {}", facts.value("n_params", int64_t{0}),
          parameter_count(net));

  const UNetResult result = evaluate(net, golden, run.options());
  run.output(
      "emb/logsnr_input",
      logsnr_input(net.config, run.values("in/logsnr"), *run.options().device).to(run.options().dtype));
  run.output("emb/sinusoid", result.sinusoids);
  run.output("emb/dense1", result.dense1);
  if (net.class_emb) run.output("emb/class_emb", result.conditioning - result.dense1);
  run.output("emb", result.conditioning);
  run.output("out", result.out);
  run.output("loss_sum_out_R", result.loss);
  run.output("grad_input", result.grad_input);

  // Every gradient of the file, by the tolerances of grad_error; those whose true value is 0 (listed as
  // zero_gradient_params) among them.
  const nlohmann::json& tolerances = facts.at("grad_error");
  size_t signatures = 0;
  for (const auto& entry : tolerances.items()) {
    const std::string& path = entry.key();
    const auto found = result.gradients.find(dotted(path));
    require(found != result.gradients.end(), "golden", "the network has no parameter '{}'", path);
    const Tensor& gradient = found->second;
    const std::vector<double> sums = signature(gradient.to_vector<double>());
    run.check("ref64/gradsig/" + path, run.scalars(sums), {{entry.value().at("gradsig_atol").get<double>()}});
    ++signatures;
    const std::string full = "ref64/grad/" + path;
    if (golden.has(full))
      run.check(full, gradient.reshape(golden.raw(full).shape()), {{entry.value().at("atol").get<double>()}});
  }
  require(signatures == result.gradients.size(), "golden", "expected {} gradients, the case has {}",
          result.gradients.size(), signatures);
  for (const auto& path : facts.value("grad_full", nlohmann::json::array()))
    golden.raw("ref64/grad/" + path.get<std::string>());
}

}  // namespace

std::string dotted(std::string path) {
  std::replace(path.begin(), path.end(), '/', '.');
  return path;
}

UNetConfig unet_config(const GoldenCase& golden) {
  const nlohmann::json& facts = golden.facts.at("config");
  require(facts.is_object(), "golden", "expected config with the network's sizes");
  const auto given = [&](const char* name) { return facts.contains(name) && !facts.at(name).is_null(); };
  const Shape& image = golden.raw("in/x").shape();
  require(image.rank() == 4, "golden", "expected images in/x as [B, H, W, C], got {}", str(image));

  UNetConfig config;
  config.height = image[1];
  config.width = image[2];
  config.in_channels = image[3];
  config.out_channels = facts.at("out_ch").get<int64_t>();
  config.channels = facts.at("ch").get<int64_t>();
  config.emb_channels = facts.at("emb_ch").get<int64_t>();
  config.channel_multipliers = facts.at("ch_mult").get<std::vector<int64_t>>();
  config.num_res_blocks = facts.at("num_res_blocks").get<int64_t>();
  config.attention_resolutions = facts.at("attn_resolutions").get<std::vector<int64_t>>();
  if (given("head_dim"))
    config.head_dim = facts.at("head_dim").get<int64_t>();
  else
    config.num_heads = facts.at("num_heads").get<int64_t>();
  if (given("dropout")) config.dropout = facts.at("dropout").get<double>();
  config.logsnr_input = logsnr_input_by_name(facts.at("logsnr_input_type").get<std::string>());
  if (given("logsnr_scale_range")) {
    config.logsnr_min = facts.at("logsnr_scale_range").at(0).get<double>();
    config.logsnr_max = facts.at("logsnr_scale_range").at(1).get<double>();
  }
  if (given("num_classes")) config.num_classes = facts.at("num_classes").get<int64_t>();
  config.resblock_resample = facts.at("resblock_resample").get<bool>();
  return config;
}

UNet unet_of(const GoldenCase& golden, TensorOptions options) {
  UNet net(unet_config(golden), 0, options);
  TensorMap weights;
  for (const auto& entry : golden.tensors())
    if (entry.first.starts_with(kParams))
      weights.emplace(dotted(entry.first.substr(kParams.size())), golden.raw(entry.first));
  load_state(net, weights);
  return net;
}

UNetResult evaluate(const UNet& net, const GoldenCase& golden, TensorOptions options) {
  const std::vector<double> logsnr = golden.values("in/logsnr");
  const Tensor label = labels_of(golden, net.config);
  const Variable x(golden.tensor("in/x", options), true);
  ForwardContext context;  // without dropout, as the case
  UNetResult result;
  result.sinusoids = Variable(logsnr_embedding(net.config, logsnr, net.frequencies, options.dtype));
  result.dense1 = net.dense1(silu(net.dense0(result.sinusoids)));
  result.conditioning = net.conditioning(logsnr, label);
  result.out = net(x, logsnr, label, context);
  result.loss = sum(result.out * Variable(golden.tensor("in/R", options)));
  std::vector<Variable> inputs = {x};
  const Parameters all = parameters(net);
  for (const NamedVariable& p : all) inputs.push_back(p.variable);
  const std::vector<Variable> gradients = grad(result.loss, inputs);
  result.grad_input = gradients.front();
  for (size_t i = 0; i < all.size(); ++i) result.gradients.emplace(all[i].name, gradients[i + 1].value());
  return result;
}

Kind jax_unet_kind() {
  return {"jax unet", "whole UNets: output, conditioning, gradients of the images and of every parameter",
          recognises, run};
}

}  // namespace halfstep::test
