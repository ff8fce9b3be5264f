// halfstep distill: progressive distillation, Algorithm 2 once per halving.
#include "diffusion/distill.h"

#include <memory>

#include "apps/commands.h"
#include "apps/progress.h"
#include "diffusion/manifest.h"
#include "tensor/error.h"

namespace halfstep {

namespace {

struct DistillCommand {
  GeneralFlags general;
  DataFlag data;
  SettingFlags settings;
  std::string teacher, out;
  std::optional<int64_t> from_steps;
  int64_t to_steps = 1;
  bool resume = false, print_config = false;

  void run() const;
};

/// Students have their teacher's model; a file that says otherwise is a mistake.
void require_same_model(const Config& teacher, const Config& config) {
  const Json expected = to_json(teacher)["model"], got = to_json(config)["model"];
  for (const auto& [key, value] : expected.items())
    require(value == got[key], "distill",
            "the teacher has {} = {}, --config says {}; students have the model of their teacher", key,
            value.dump(), got[key].dump());
}

void DistillCommand::run() const {
  constexpr int64_t kDefaultSteps = 16;
  Device& device = general.apply();
  const Checkpoint first = load_checkpoint(teacher, device);
  const int64_t distilled_for = first.info.num_steps;
  const int64_t from = from_steps.value_or(distilled_for > 0 ? distilled_for : kDefaultSteps);
  halvings(from, to_steps);  // a wrong number should not wait for the data
  Config defaults = first.info.config;
  defaults.train = distillation_defaults(defaults.train);
  // A chain keeps its settings when it goes on, unless flags change them.
  if (const auto before = resume ? read_manifest(out) : std::nullopt) {
    defaults.train = before->config.train;
    defaults.distill = before->config.distill;
  }
  const Config config = settings.over(defaults);
  if (print_config) {
    fmt::print("{}", config_to_json(config));
    return;
  }
  require_same_model(first.info.config, config);
  const Dataset dataset = data.load();
  if (dataset.name != first.info.data)
    fmt::print(stderr, "note: the teacher was trained on '{}', it is distilled on '{}'\n", first.info.data,
               dataset.name);

  ProgressDisplay display;
  const std::string path = distill(first, config, from, to_steps, dataset,
                                   {.out = out,
                                    .resume = resume,
                                    .device = &device,
                                    .on_progress = [&](const Progress& p) { display.show(p); },
                                    .stop = &catch_interrupt(),
                                    .command = command_line(),
                                    .program = program_version()});
  const Manifest manifest = read_manifest(out).value_or(Manifest{});
  if (general.json) {
    Json students = Json::array();
    const auto or_null = [](const auto& value) { return value ? Json(*value) : Json(); };
    for (const ManifestStage& s : manifest.stages)
      students.push_back({{"num_steps", s.num_steps},
                          {"updates", s.step},
                          {"final_loss", or_null(s.final_loss)},
                          {"distance_to_teacher", or_null(s.distance_to_teacher)},
                          {"distance_to_data", or_null(s.distance_to_data)},
                          {"checkpoint", out + "/" + s.checkpoint.value_or("")}});
    fmt::print("{}\n", Json{{"checkpoint", path}, {"students", students}}.dump(2));
    return;
  }
  const auto number = [](const std::optional<double>& value, const char* format) {
    return value ? fmt::format(fmt::runtime(format), *value) : std::string("-");
  };
  fmt::print("{:>5} {:>8} {:>9}   distance to\n", "", "", "");
  fmt::print("{:>5} {:>8} {:>9} {:>9} {:>9}  {}\n", "steps", "updates", "loss", "teacher", "data",
             "checkpoint");
  for (const ManifestStage& s : manifest.stages)
    fmt::print("{:>5} {:>8} {:>9} {:>9} {:>9}  {}\n", s.num_steps, s.step, number(s.final_loss, "{:.5f}"),
               number(s.distance_to_teacher, "{:.4f}"), number(s.distance_to_data, "{:.4f}"),
               out + "/" + s.checkpoint.value_or(""));
}

}  // namespace

Command add_distill(CLI::App& program) {
  const auto command = std::make_shared<DistillCommand>();
  CLI::App& app = *program.add_subcommand(
      "distill",
      "Halves the sampling steps of a model, again and again.\n"
      "Each student learns to do in one step what its teacher does in two, and is the teacher of the next: "
      "16 -> 8 -> 4 "
      "-> 2 -> 1. Every halving is a run RUN/student-N. Settings are those of the teacher's training unless "
      "--config or "
      "flags change them; they hold for each halving. Ctrl-C saves before it stops; --resume continues.");
  app.add_option("TEACHER", command->teacher, "a run or checkpoint of halfstep train, or a student")
      ->required();
  app.add_option("--out", command->out, "folder of the runs student-N; created")
      ->type_name("RUN")
      ->required();
  app.add_option("--from-steps", command->from_steps,
                 "sampling steps of the teacher (default: those it was distilled for, otherwise 16)")
      ->type_name("N")
      ->check(whole_number(2));
  app.add_option("--to-steps", command->to_steps, "sampling steps of the last student (default 1)")
      ->type_name("N")
      ->check(whole_number(1));
  command->data.add_to(app);
  app.add_option_function<std::vector<std::string>>(
         "--steps-of",
         [command](const std::vector<std::string>& pairs) { command->settings.set_halving_steps(pairs); },
         "updates of single halvings: --steps-of 2=1000,1=2000; the others take --max-steps")
      ->type_name("N=K,...")
      ->delimiter(',');
  app.add_flag("--print-config", command->print_config,
               "print the settings as a file for --config, and stop");
  app.add_flag("--resume", command->resume, "continue the halvings in --out, if there are any");
  command->settings.add_train_flags(app, false);
  command->general.add_to(app);
  app.footer(example("halfstep distill runs/teacher --out runs/students --from-steps 16 --to-steps 1"));
  return {&app, [command] { command->run(); }};
}

}  // namespace halfstep
