// halfstep report: a run as one page of HTML.
#include <fmt/chrono.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <limits>
#include <memory>

#include "apps/commands.h"
#include "apps/report_page.h"
#include "diffusion/checkpoint.h"
#include "diffusion/event_file.h"
#include "diffusion/images.h"
#include "tensor/error.h"
#include "tensor/files.h"

namespace halfstep {

namespace {

namespace fs = std::filesystem;

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
constexpr size_t kPicturesOfStage = 9;  ///< more are thinned out

double number_at(const Json& json, const char* key) {
  return value_at(json, key).is_number() ? value_at(json, key).get<double>() : kNaN;
}
int64_t count_at(const Json& json, const char* key) {
  return value_at(json, key).is_number_integer() ? value_at(json, key).get<int64_t>() : 0;
}

/// A picture of a file; without bytes if there is none.
ReportPicture picture_of(const std::string& path, std::string caption) {
  ReportPicture picture;
  picture.caption = std::move(caption);
  if (!fs::is_regular_file(path)) return picture;
  picture.png = read_file(path);
  const PngHead head = read_png_head(picture.png, path);
  picture.width = head.width;
  picture.height = head.height;
  return picture;
}

ReportPicture picture_of(const StageLog& stage, const EvaluationLine& evaluation) {
  ReportPicture picture =
      picture_of(stage.folder + "/" + evaluation.grid, fmt::format("step {}", evaluation.step));
  if (std::isfinite(evaluation.distance_to_data))
    picture.details.push_back(distance_text(evaluation.distance_to_data) + " to data");
  if (std::isfinite(evaluation.distance_to_teacher))
    picture.details.push_back(distance_text(evaluation.distance_to_teacher) + " to teacher");
  return picture;
}

std::vector<ReportPicture> pictures_of(const StageLog& stage) {
  std::vector<const EvaluationLine*> drawn;
  for (const EvaluationLine& evaluation : stage.evaluations)
    if (!evaluation.grid.empty()) drawn.push_back(&evaluation);
  std::vector<ReportPicture> pictures;
  const size_t shown = std::min(drawn.size(), kPicturesOfStage);
  for (size_t i = 0; i < shown; ++i) {  // evenly, with the first and the last
    pictures.push_back(picture_of(stage, *drawn[shown > 1 ? i * (drawn.size() - 1) / (shown - 1) : 0]));
  }
  return pictures;
}

/// The last value of a distance that an evaluation has found.
double last_distance(const StageLog& stage, double EvaluationLine::*distance) {
  double last = kNaN;
  for (const EvaluationLine& evaluation : stage.evaluations)
    if (std::isfinite(evaluation.*distance)) last = evaluation.*distance;
  return last;
}

/// `entry`: of manifest.json, or null. `config`: of the newest checkpoint, or null.
ReportStage stage_of(const RunFolder& run, const StageLog& log, const Json& entry, const Json& config) {
  ReportStage stage;
  stage.name = log.name;
  stage.status = text_at(entry, "status");
  const Json& past = value_at(config, "history");
  const Json history = past.is_array() && !past.empty() ? past.back() : Json();
  const Json& source = entry.is_null() ? history : entry;
  stage.teacher_steps = count_at(source, "teacher_steps");
  stage.num_steps = count_at(source, "num_steps");
  stage.step = std::max(count_at(entry, "step"),
                        log.reports.empty() ? count_at(config, "step") : log.reports.back().step);
  stage.max_steps =
      entry.is_null() ? count_at(value_at(config, "train"), "max_steps") : count_at(entry, "max_steps");
  stage.loss = number_at(source, "final_loss");
  if (!std::isfinite(stage.loss) && !log.reports.empty()) stage.loss = log.reports.back().loss;
  stage.seconds = number_at(entry, "seconds");
  if (!std::isfinite(stage.seconds))
    stage.seconds = training_time(log.reports, count_at(value_at(config, "train"), "batch_size")).seconds;
  const auto distance = [&](const char* key, double EvaluationLine::*value) {
    return std::isfinite(number_at(entry, key)) ? number_at(entry, key) : last_distance(log, value);
  };
  stage.distance_to_data = distance("distance_to_data", &EvaluationLine::distance_to_data);
  stage.distance_to_teacher = distance("distance_to_teacher", &EvaluationLine::distance_to_teacher);
  stage.model_sha256 = text_at(entry, "model_sha256");
  stage.parent_sha256 = text_at(entry, "parent_sha256");
  stage.checkpoint = text_at(entry, "checkpoint");
  if (stage.status.empty())
    stage.status = stage.step == 0 ? "waiting" : stage.step == stage.max_steps ? "done" : "stopped";
  stage.pictures = pictures_of(log);
  if (const std::string grid = text_at(entry, "grid"); stage.pictures.empty() && !grid.empty())
    stage.pictures.push_back(picture_of(run.path + "/" + grid, fmt::format("step {}", stage.step)));
  return stage;
}

/// config.json of the newest checkpoint in a folder; null if there is none.
Json newest_config(const std::string& folder) {
  const auto checkpoint = newest_checkpoint(folder);
  if (!checkpoint) return nullptr;
  const std::string path = *checkpoint + "/config.json";
  return parse_json(read_file(path), path);
}

std::string overall_status(const std::vector<ReportStage>& stages) {
  const auto count = [&](const char* status) {
    return std::count_if(stages.begin(), stages.end(),
                         [&](const ReportStage& s) { return s.status == status; });
  };
  if (count("done") == static_cast<std::ptrdiff_t>(stages.size())) return "done";
  if (count("running") > 0) return "running";
  return count("waiting") == static_cast<std::ptrdiff_t>(stages.size()) ? "waiting" : "stopped";
}

Report report_of(const RunFolder& run) {
  Report report;
  report.name = run.name;
  Json config;  // of the last stage that has one
  for (const StageLog& log : run.stages) {
    Json entry;
    for (const Json& stage : value_at(run.manifest, "stages"))
      if (stage["name"] == log.name) entry = stage;
    const Json stage_config = newest_config(log.folder);
    if (!stage_config.is_null()) config = stage_config;
    report.stages.push_back(stage_of(run, log, entry, stage_config));
    if (!log.reports.empty()) report.curve_stages.push_back(log.name);
  }
  report.status = overall_status(report.stages);
  if (!run.manifest.is_null()) {
    const Json& data = value_at(run.manifest, "data");
    report.data = text_at(data, "name");
    if (count_at(data, "images") > 0) report.data += fmt::format(", {} images", count_at(data, "images"));
    if (value_at(run.manifest, "commands").is_array()) report.commands = value_at(run.manifest, "commands");
    report.teacher = value_at(run.manifest, "teacher");
    config = value_at(run.manifest, "config");
  } else {
    report.data = text_at(config, "data");
  }
  report.config = config;
  // What the demo draws.
  for (const auto& [name, caption] :
       {std::pair{"grid.png", "Teacher and students, the same noise in each column"},
        std::pair{"grid-ddim.png", "The teacher alone with fewer steps (DDIM)"}})
    if (fs::exists(run.path + "/" + name))
      report.pictures.push_back(picture_of(run.path + "/" + name, caption));
  if (run.has_reports()) report.curves = draw_inline_curves("report", run);
  return report;
}

struct ReportCommand {
  std::string run_folder, out;
  bool json = false;

  void run() const;
};

void ReportCommand::run() const {
  const RunFolder folder = read_run("report", run_folder);
  require(folder.has_reports() || !folder.manifest.is_null(), "report",
          "'{}' holds nothing to report yet: log.jsonl is empty, and there is no manifest.json", run_folder);
  const Report report = report_of(folder);
  const std::string path = out.empty() ? run_folder + "/report.html" : out;
  write_file(
      path, report_page(report, fmt::format("Written by halfstep {} on {:%Y-%m-%d at %H:%M} UTC from {}",
                                            HALFSTEP_VERSION,
                                            fmt::gmtime(static_cast<std::time_t>(wall_time())), run_folder)));
  if (!json) {
    fmt::print("{}\n", path);
    return;
  }
  Json stages = Json::array();
  for (const ReportStage& stage : report.stages)
    stages.push_back({{"name", stage.name},
                      {"status", stage.status},
                      {"step", stage.step},
                      {"max_steps", stage.max_steps},
                      {"final_loss", stage.loss},
                      {"seconds", stage.seconds},
                      {"distance_to_data", stage.distance_to_data},
                      {"distance_to_teacher", stage.distance_to_teacher},
                      {"pictures", stage.pictures.size()}});
  fmt::print("{}\n",
             Json{{"run", run_folder}, {"out", path}, {"status", report.status}, {"stages", stages}}.dump(2));
}

}  // namespace

Command add_report(CLI::App& program) {
  const auto command = std::make_shared<ReportCommand>();
  CLI::App& app =
      *program.add_subcommand("report",
                              "Writes a page about a run.\n"
                              "One HTML file that needs no other and no network: a table of the stages, "
                              "curves (drawn by gnuplot), samples, "
                              "configuration and lineage. It can be written while the run goes on.");
  app.add_option("RUN", command->run_folder, "a run, or a folder of runs student-N")->required();
  app.add_option("--out", command->out, "the page (default RUN/report.html)")->type_name("report.html");
  app.add_flag("--json", command->json, "print the result as JSON on stdout")->group("General");
  app.footer(example("halfstep report runs/students"));
  return {&app, [command] { command->run(); }};
}

}  // namespace halfstep
