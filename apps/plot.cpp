// halfstep plot: the curves of a run as pictures.
#include <memory>

#include "apps/commands.h"
#include "apps/curves.h"
#include "tensor/error.h"
#include "tensor/files.h"

namespace halfstep {

namespace {

struct PlotCommand {
  std::string run_folder;
  std::vector<std::string> out;
  int64_t smooth = 1;
  bool json = false;

  void run() const;
};

bool is_svg(const std::string& path) { return path.ends_with(".svg"); }

CLI::Validator picture_name() {
  return CLI::Validator(
      [](const std::string& text) {
        return is_svg(text) || text.ends_with(".png")
                   ? std::string()
                   : fmt::format("expected a file name that ends in .png or .svg, got '{}'", text);
      },
      "", "");
}

void PlotCommand::run() const {
  const RunFolder folder = read_run("plot", run_folder);
  std::vector<std::string> paths = out;
  if (paths.empty()) paths = {run_folder + "/curves.png", run_folder + "/curves.svg"};
  for (const std::string& path : paths) {
    write_file(path,
               draw_curves("plot", folder, is_svg(path) ? PictureFormat::svg : PictureFormat::png, smooth));
    if (!json) fmt::print("{}\n", path);
  }
  if (!json) return;
  Json stages = Json::array();
  for (const StageLog& stage : folder.stages) {
    const bool begun = !stage.reports.empty();
    stages.push_back({{"name", stage.name},
                      {"reports", stage.reports.size()},
                      {"step", begun ? Json(stage.reports.back().step) : Json()},
                      {"loss", begun ? Json(stage.reports.back().loss) : Json()}});
  }
  fmt::print("{}\n", Json{{"run", run_folder}, {"out", paths}, {"stages", stages}}.dump(2));
}

}  // namespace

Command add_plot(CLI::App& program) {
  const auto command = std::make_shared<PlotCommand>();
  CLI::App& app = *program.add_subcommand("plot",
                                          "Draws the curves of a run.\n"
                                          "Loss, learning rate, norm of the gradient and images per second "
                                          "against the updates, as a picture drawn by "
                                          "gnuplot. The stages of a chain of halvings follow one after the "
                                          "other. Gaps are reports whose value was "
                                          "not finite.");
  app.add_option("RUN", command->run_folder, "a run, or a folder of runs student-N")->required();
  app.add_option("--out", command->out,
                 "the picture, FILE.png or FILE.svg; may be given several times (default: RUN/curves.png and "
                 "RUN/curves.svg)")
      ->type_name("FILE")
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)
      ->allow_extra_args(false)
      ->check(picture_name());
  app.add_option("--smooth", command->smooth,
                 "the mean over K reports, on top of the reports themselves (default 1: none)")
      ->type_name("K")
      ->check(whole_number(1));
  app.add_flag("--json", command->json, "print the result as JSON on stdout")->group("General");
  app.footer(example("halfstep plot runs/students --smooth 5"));
  return {&app, [command] { command->run(); }};
}

}  // namespace halfstep
