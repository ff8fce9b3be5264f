// halfstep train: Algorithm 1 on a data set.
#include <memory>

#include "apps/commands.h"
#include "apps/progress.h"
#include "tensor/error.h"

namespace halfstep {

namespace {

struct TrainCommand {
  GeneralFlags general;
  DataFlag data;
  SettingFlags settings;
  std::string out;
  bool resume = false, print_config = false;

  void run() const;
};

/// What a continued run must keep.
void require_same_run(const CheckpointInfo& before, const Config& config, const Dataset& data) {
  require(before.data == data.name, "train",
          "the run was trained on '{}', got the data '{}'; give the same --data", before.data, data.name);
  const Json old_model = to_json(before.config)["model"], new_model = to_json(config)["model"];
  for (const auto& [key, value] : old_model.items())
    require(value == new_model[key], "train",
            "the run has {} = {}, got {}; a run keeps its model, choose another --out", key, value.dump(),
            new_model[key].dump());
}

void TrainCommand::run() const {
  Device& device = general.apply();
  const Dataset dataset = data.load();
  const auto newest = resume ? newest_checkpoint(out) : std::nullopt;
  std::optional<CheckpointInfo> before;
  if (newest) before = load_checkpoint_info(*newest);
  const Config config = settings.over(before ? before->config : for_pictures_of(dataset, {}));
  if (print_config) {
    fmt::print("{}", config_to_json(config));
    return;
  }
  if (before) require_same_run(*before, config, dataset);

  ProgressDisplay display;
  const std::string path = train(config, dataset,
                                 {.out = out,
                                  .resume = resume,
                                  .device = &device,
                                  .on_progress = [&](const Progress& p) { display.show(p); },
                                  .stop = &catch_interrupt(),
                                  .command = command_line(),
                                  .program = program_version()});
  const CheckpointInfo info = load_checkpoint_info(path);
  const double loss = info.history.back().final_loss;
  if (general.json) {
    fmt::print(
        "{}\n",
        Json{{"checkpoint", path}, {"step", info.step}, {"final_loss", loss}, {"data", info.data}}.dump(2));
  } else {
    fmt::print("trained {} updates on {}, loss {:.4f}\n{}\n", info.step, info.data, loss, path);
  }
}

}  // namespace

Command add_train(CLI::App& program) {
  const auto command = std::make_shared<TrainCommand>();
  CLI::App& app = *program.add_subcommand(
      "train",
      "Trains a diffusion model on pictures.\n"
      "The result is a run: a folder of checkpoints step-*, of which the newest counts, and log.jsonl. "
      "Ctrl-C saves "
      "before it stops; --resume continues a run to the bit, with the settings of the run unless flags "
      "change them. "
      "Settings come from flags, then --config, then defaults; --print-config shows them all.");
  command->data.add_to(app);
  app.add_option("--out", command->out, "folder of the run; created")->type_name("RUN")->required();
  app.add_flag("--resume", command->resume, "continue the run in --out, if there is one");
  app.add_flag("--print-config", command->print_config,
               "print the settings as a file for --config, and stop");
  command->settings.add_train_flags(app, true);
  command->settings.add_teacher_flags(app);
  command->general.add_to(app);
  app.footer(example("halfstep train --out runs/teacher --max-steps 2000"));
  return {&app, [command] { command->run(); }};
}

}  // namespace halfstep
