// halfstep sample: pictures from a checkpoint.
#include <memory>

#include "apps/commands.h"
#include "diffusion/images.h"
#include "diffusion/model.h"
#include "tensor/error.h"
#include "tensor/safetensors.h"

namespace halfstep {

namespace {

struct SampleCommand {
  GeneralFlags general;
  std::string checkpoint, out, noise, tensors, trajectory;
  SamplerOptions options;
  std::optional<int64_t> steps, num, label;
  int64_t batch_size = 64;
  Precision precision = Precision::f32;

  void run() const;

 private:
  /// Noise of time 1 and, where the sampler uses it, of the steps: from the file, or drawn.
  Tensor starting_noise(const UNetConfig& unet, Device& device, Tensor& step_noise) const;
  Tensor labels(const UNetConfig& unet, int64_t count) const;
};

Tensor SampleCommand::starting_noise(const UNetConfig& unet, Device& device, Tensor& step_noise) const {
  constexpr int64_t kDefaultNumber = 16;
  const TensorOptions f32{DType::f32, &device};
  if (noise.empty())
    return initial_noise({num.value_or(kDefaultNumber), unet.height, unet.width, unet.in_channels},
                         options.seed, 0, f32);

  const NamedTensors file = read_safetensors(noise, device);
  const Tensor z = file.at("noise");
  require(is_floating(z.dtype()) && z.rank() == 4 && z.size(0) > 0 && z.size(1) == unet.height &&
              z.size(2) == unet.width && z.size(3) == unet.in_channels,
          "sample", "{}: expected 'noise' of shape [K, {}, {}, {}], got {} {}", noise, unet.height,
          unet.width, unet.in_channels, name_of(z.dtype()), str(z.shape()));
  require(!num || *num == z.size(0), "sample",
          "{}: holds noise for {} samples, but --num is {}; leave --num out", noise, z.size(0),
          num.value_or(0));
  if (file.tensors.contains("step_noise")) {
    if (options.kind == SamplerKind::ancestral) {
      step_noise = file.at("step_noise").to(DType::f32);
    } else {
      fmt::print(stderr, "note: 'step_noise' of {} is not needed by {}\n", noise, name_of(options.kind));
    }
  }
  return z.to(DType::f32);
}

Tensor SampleCommand::labels(const UNetConfig& unet, int64_t count) const {
  if (!unet.conditional()) {
    require(!label, "sample", "the model is not class-conditional; leave --label out");
    return {};
  }
  if (!label) return draw_labels(unet.num_classes, count, options.seed);
  require(*label >= 0 && *label < unet.num_classes, "sample", "expected --label from 0 to {}, got {}",
          unet.num_classes - 1, *label);
  return Tensor::full({count}, static_cast<double>(*label), {DType::i64});
}

void SampleCommand::run() const {
  constexpr int64_t kTeacherSteps = 16;
  require(!out.empty() || !tensors.empty() || !trajectory.empty(), "sample",
          "expected --out, --tensors or --trajectory; where should the samples go?");
  Device& device = general.apply();
  const Model model = load_model(checkpoint, device);
  const UNetConfig& unet = model.info.config.model.unet;
  SamplerOptions chosen = options;
  chosen.num_steps = steps.value_or(model.info.num_steps > 0 ? model.info.num_steps : kTeacherSteps);
  chosen.schedule = model.info.config.model.schedule;
  const Tensor z = starting_noise(unet, device, chosen.step_noise);
  const Tensor label_of_each = labels(unet, z.size(0));

  Trajectory way;
  const Tensor samples = sample_in_batches(model.denoiser(precision), z, label_of_each, chosen, batch_size,
                                           trajectory.empty() ? nullptr : &way);
  Json result{{"checkpoint", model.path},        {"num", z.size(0)},
              {"steps", chosen.num_steps},       {"seed", chosen.seed},
              {"sampler", name_of(chosen.kind)}, {"precision", name_of(precision)}};
  const auto written = [&](const char* what, const std::string& path) {
    result[what] = path;
    if (!general.json) fmt::print("{}\n", path);
  };
  if (!trajectory.empty()) {
    write_safetensors(trajectory, {{{"z", way.z}, {"x_hat", way.x_hat}}, {}, {}});
    written("trajectory", trajectory);
  }
  if (!tensors.empty()) {
    NamedTensors content{{{"samples", samples}}, {}, {}};
    if (label_of_each.defined()) content.tensors.emplace("label", label_of_each);
    write_safetensors(tensors, content);
    written("tensors", tensors);
  }
  if (!out.empty()) {
    write_grid(out, samples, {.scale = 2});
    written("out", out);
  }
  if (general.json) fmt::print("{}\n", result.dump(2));
}

}  // namespace

Command add_sample(CLI::App& program) {
  const auto command = std::make_shared<SampleCommand>();
  CLI::App& app = *program.add_subcommand(
      "sample",
      "Draws pictures from a model.\n"
      "Sample k depends on the seed and k alone, not on --num or --batch-size. A class-conditional model "
      "draws uniform "
      "labels unless --label chooses one. F are .safetensors files, f32, pictures in [-1, 1].");
  app.add_option("CKPT", command->checkpoint,
                 "a checkpoint, a run, or a folder of runs student-N (the fewest steps)")
      ->required();
  app.add_option("--out", command->out,
                 "the pictures as one PNG (may be left out with --tensors, --trajectory)")
      ->type_name("grid.png");
  app.add_option("--steps", command->steps,
                 "sampling steps (default: those the model was distilled for, otherwise 16)")
      ->type_name("N")
      ->check(whole_number(1));
  app.add_option("--num", command->num, "number of samples K (default: as many as --noise holds, or 16)")
      ->type_name("K")
      ->check(whole_number(1));
  app.add_option("--seed", command->options.seed, "of the noise and of the labels (default 0)")
      ->type_name("S")
      ->check(whole_number(0));
  app.add_option_function<std::string>(
         "--sampler", [command](const std::string& name) { command->options.kind = sampler_by_name(name); },
         "ddim (deterministic) or ancestral (default ddim)")
      ->type_name("NAME")
      ->check(name_for([](const std::string& name) { sampler_by_name(name); }, {"ddim", "ancestral"}));
  app.add_option_function<std::string>(
         "--variance",
         [command](const std::string& name) { command->options.variance = ancestral_variance_by_name(name); },
         "of the ancestral sampler: fixed_small, fixed_large or medium:f, f in [0, 1] (default fixed_small)")
      ->type_name("NAME")
      ->check(name_for([](const std::string& name) { ancestral_variance_by_name(name); },
                       {"fixed_small", "fixed_large", "medium:"}));
  app.add_flag_callback(
      "--no-clip", [command] { command->options.clip = false; },
      "do not clamp the predicted x to [-1, 1] at every step");
  app.add_option("--label", command->label, "class of all samples")->type_name("L")->check(whole_number(0));
  app.add_option("--batch-size", command->batch_size, "samples at a time (default 64)")
      ->type_name("B")
      ->check(whole_number(1));
  add_precision_flag(app, command->precision);
  app.add_option("--noise", command->noise,
                 "read 'noise' [K,H,W,C] and, for the ancestral sampler, optional 'step_noise' [N,K,H,W,C] "
                 "(index i: step "
                 "from (i+1)/N to i/N)")
      ->type_name("F");
  app.add_option("--tensors", command->tensors, "write 'samples' [K,H,W,C] and, with classes, 'label' [K]")
      ->type_name("F");
  app.add_option("--trajectory", command->trajectory, "write 'z' [N+1,K,H,W,C] and 'x_hat' [N,K,H,W,C]")
      ->type_name("F");
  command->general.add_to(app);
  app.footer(example("halfstep sample runs/students --num 64 --seed 1 --out grid.png"));
  return {&app, [command] { command->run(); }};
}

}  // namespace halfstep
