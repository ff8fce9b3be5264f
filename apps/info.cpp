// halfstep info: what a checkpoint is.
#include <fmt/ranges.h>

#include <memory>

#include "apps/commands.h"
#include "diffusion/checkpoint.h"

namespace halfstep {

namespace {

struct InfoCommand {
  GeneralFlags general;
  std::string checkpoint;

  void run() const;
};

int64_t count_parameters(const TensorMap& weights) {
  int64_t count = 0;
  for (const auto& [name, tensor] : weights) count += tensor.numel();
  return count;
}

Json as_json(const Checkpoint& checkpoint) {
  const CheckpointInfo& info = checkpoint.info;
  const Json config = to_json(info.config);
  Json history = Json::array();
  for (const HistoryEntry& h : info.history)
    history.push_back({{"teacher_steps", h.teacher_steps},
                       {"num_steps", h.num_steps},
                       {"updates", h.updates},
                       {"final_loss", h.final_loss}});
  return {{"path", checkpoint.path},
          {"parameters", count_parameters(checkpoint.weights)},
          {"prediction", name_of(info.config.model.prediction)},
          {"loss", name_of(info.config.train.loss)},
          {"precision", name_of(info.config.train.precision)},
          {"step", info.step},
          {"num_steps", info.num_steps},
          {"data", info.data},
          {"history", history},
          {"model", config["model"]},
          {"train", config["train"]}};
}

void print(const Checkpoint& checkpoint) {
  const CheckpointInfo& info = checkpoint.info;
  const ModelConfig& model = info.config.model;
  const UNetConfig& unet = model.unet;
  const TrainConfig& train = info.config.train;
  const auto line = [](std::string_view name, const std::string& text) {
    fmt::print("  {:<12} {}\n", name, text);
  };

  fmt::print("{}\n", checkpoint.path);
  line("sampling", info.num_steps > 0
                       ? fmt::format("distilled for {} step{}", info.num_steps, info.num_steps > 1 ? "s" : "")
                       : "a teacher: any number of steps");
  line("prediction", fmt::format("{}, loss {}", name_of(model.prediction), name_of(train.loss)));
  line("schedule",
       fmt::format("cosine, log-SNR from {} to {}", model.schedule.logsnr_max, model.schedule.logsnr_min));
  line("pictures",
       fmt::format("{} x {} x {}, {}", unet.height, unet.width, unet.in_channels,
                   unet.conditional() ? fmt::format("{} classes", unet.num_classes) : "no classes"));
  line("network", fmt::format("UNet, {} parameters", count_parameters(checkpoint.weights)));
  line("", fmt::format("{} channels, levels x {}, {} residual block{} each", unet.channels,
                       fmt::join(unet.channel_multipliers, ", "), unet.num_res_blocks,
                       unet.num_res_blocks > 1 ? "s" : ""));
  line("", fmt::format("attention at {}, {}",
                       unet.attention_resolutions.empty()
                           ? "the middle"
                           : fmt::format("{}", fmt::join(unet.attention_resolutions, ", ")),
                       unet.head_dim > 0
                           ? fmt::format("heads of width {}", unet.head_dim)
                           : fmt::format("{} head{}", unet.num_heads, unet.num_heads > 1 ? "s" : "")));
  line("", fmt::format("space-to-depth {}, groups {}, dropout {}, {} conditioning", unet.space_to_depth,
                       unet.groups, unet.dropout, name_of(unet.logsnr_input)));
  line("data", info.data);
  line("training", fmt::format("{} of {} updates, batch {}, seed {}, in {}", info.step, train.max_steps,
                               train.batch_size, train.seed, name_of(train.precision)));
  line("", fmt::format("learning rate {}{}, moving average {}", train.learning_rate,
                       train.anneal ? " annealed to 0" : "",
                       train.ema_decay > 0 ? fmt::format("{}", train.ema_decay) : "off"));
  std::string_view heading = "history";
  for (const HistoryEntry& h : info.history) {
    const std::string what = h.teacher_steps > 0 ? fmt::format("{} -> {} steps", h.teacher_steps, h.num_steps)
                                                 : "training on data";
    line(heading, fmt::format("{:<16} {:>8} updates, loss {:.5f}", what, h.updates, h.final_loss));
    heading = "";
  }
}

void InfoCommand::run() const {
  const Checkpoint found = load_checkpoint(checkpoint, general.apply());
  if (general.json) {
    fmt::print("{}\n", as_json(found).dump(2));
  } else {
    print(found);
  }
}

}  // namespace

Command add_info(CLI::App& program) {
  const auto command = std::make_shared<InfoCommand>();
  CLI::App& app = *program.add_subcommand("info",
                                          "Shows what a checkpoint is.\n"
                                          "Architecture, number of parameters, prediction, loss, sampling "
                                          "steps, and the history of its halvings.");
  app.add_option("CKPT", command->checkpoint,
                 "a checkpoint, a run, or a folder of runs student-N (the fewest steps)")
      ->required();
  command->general.add_to(app);
  app.footer(example("halfstep info runs/students"));
  return {&app, [command] { command->run(); }};
}

}  // namespace halfstep
