// halfstep predict: the raw output of a network, for other programs.
#include <algorithm>
#include <memory>

#include "apps/commands.h"
#include "diffusion/model.h"
#include "tensor/error.h"
#include "tensor/safetensors.h"

namespace halfstep {

namespace {

struct PredictCommand {
  GeneralFlags general;
  std::string checkpoint, in, out;
  int64_t batch_size = 64;

  void run() const;
};

void PredictCommand::run() const {
  Device& device = general.apply();
  const NamedTensors input = read_safetensors(in);
  const Tensor x = input.at("x").to(device);
  require((x.dtype() == DType::f32 || x.dtype() == DType::f64) && x.rank() == 4 && x.size(0) > 0, "predict",
          "{}: expected 'x' as f32 or f64 [B, H, W, C], got {} {}", in, name_of(x.dtype()), str(x.shape()));
  const int64_t count = x.size(0);
  const Tensor logsnr = input.at("logsnr");
  require(is_floating(logsnr.dtype()) && logsnr.shape() == Shape{count}, "predict",
          "{}: expected 'logsnr' as floating-point [{}], one for each x, got {} {}", in, count,
          name_of(logsnr.dtype()), str(logsnr.shape()));
  const std::vector<double> logsnr_values = logsnr.to_vector<double>();

  const Model model = load_model(checkpoint, device, x.dtype());
  Tensor label;
  if (model.unet.config.conditional()) {
    label = input.at("label");
    require(label.dtype() == DType::i64 && label.shape() == Shape{count}, "predict",
            "{}: expected 'label' as integers [{}], one for each x, got {} {}", in, count,
            name_of(label.dtype()), str(label.shape()));
  } else if (input.tensors.contains("label")) {
    fmt::print(stderr, "note: 'label' of {} is not needed, the model has no classes\n", in);
  }

  const NoGrad guard;
  std::vector<Tensor> outputs;
  for (int64_t begin = 0; begin < count; begin += batch_size) {
    const int64_t end = std::min(begin + batch_size, count);
    const std::vector<double> part(logsnr_values.begin() + begin, logsnr_values.begin() + end);
    ForwardContext context;
    outputs.push_back(model
                          .unet(Variable(x.slice(0, begin, end)), part,
                                label.defined() ? label.slice(0, begin, end) : label, context)
                          .value());
  }
  const Tensor output = concat(outputs, 0);
  write_safetensors(out, {{{"out", output}}, {}, {}});
  if (general.json) {
    const std::vector<int64_t> shape(output.shape().begin(), output.shape().end());
    fmt::print("{}\n", Json{{"checkpoint", model.path},
                            {"prediction", name_of(model.info.config.model.prediction)},
                            {"out", out},
                            {"shape", shape},
                            {"dtype", name_of(output.dtype())}}
                           .dump(2));
  } else {
    fmt::print("{}\n", out);
  }
}

}  // namespace

Command add_predict(CLI::App& program) {
  const auto command = std::make_shared<PredictCommand>();
  CLI::App& app = *program.add_subcommand("predict",
                                          "Runs the network once, for comparison with other programs.\n"
                                          "Reads 'x' [B,H,W,C] (f32 or f64), 'logsnr' [B] and, for a "
                                          "class-conditional model, 'label' [B]; writes 'out', the "
                                          "raw output, computed in x's dtype. What it means is the model's "
                                          "prediction: x, eps, v, or x and eps side by side.");
  app.add_option("CKPT", command->checkpoint, "a checkpoint or run")->required();
  app.add_option("--in", command->in, ".safetensors file to read")->type_name("F")->required();
  app.add_option("--out", command->out, ".safetensors file to write")->type_name("G")->required();
  app.add_option("--batch-size", command->batch_size, "examples at a time (default 64)")
      ->type_name("B")
      ->check(whole_number(1));
  command->general.add_to(app);
  app.footer(example("halfstep predict runs/teacher --in z.safetensors --out v.safetensors"));
  return {&app, [command] { command->run(); }};
}

}  // namespace halfstep
