// halfstep distill: progressive distillation, Algorithm 2 once per halving.
#include "diffusion/distill.h"

#include <memory>

#include "apps/commands.h"
#include "apps/progress.h"
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
  bool resume = false;

  void run() const;
};

/// Students have their teacher's model; a file that says otherwise is a mistake.
void require_same_model(const Config& teacher, const Config& config) {
  const Json expected = to_json(teacher)["model"], got = to_json(config)["model"];
  for (const auto& [key, value] : expected.items())
    require(value == got[key], "distill",
            "the teacher has {} = {}, the settings say {}; students have the model of their teacher", key,
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
  const Config config = settings.over(defaults);
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
                                    .stop = &catch_interrupt()});
  Json students = Json::array();
  for (const int64_t num_steps : halvings(from, to_steps)) {
    const Checkpoint student = load_checkpoint(fmt::format("{}/student-{}", out, num_steps));
    students.push_back({{"num_steps", num_steps},
                        {"updates", student.info.step},
                        {"final_loss", student.info.history.back().final_loss},
                        {"checkpoint", student.path}});
  }
  if (general.json) {
    fmt::print("{}\n", Json{{"checkpoint", path}, {"students", students}}.dump(2));
    return;
  }
  for (const Json& s : students)
    fmt::print("{:>4} steps  {:>7} updates  loss {:.5f}\n           {}\n", s["num_steps"].get<int64_t>(),
               s["updates"].get<int64_t>(), s["final_loss"].get<double>(),
               s["checkpoint"].get<std::string>());
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
  app.add_flag("--resume", command->resume, "continue the halvings in --out, if there are any");
  command->settings.add_train_flags(app, false);
  command->general.add_to(app);
  app.footer(example("halfstep distill runs/teacher --out runs/students --from-steps 16 --to-steps 1"));
  return {&app, [command] { command->run(); }};
}

}  // namespace halfstep
