#include <cmath>
#include <filesystem>
#include <limits>

#include "diffusion/images.h"
#include "diffusion/internal/json.h"
#include "diffusion/internal/run_record.h"
#include "tensor/error.h"
#include "tensor/files.h"

namespace halfstep {

namespace {

constexpr const char* kLog = "/log.jsonl";
constexpr const char* kEvaluations = "/eval.jsonl";

/// The lines of a file whose "step" is at most `step`; the others are removed from the file.
std::vector<Json> keep_until(const std::string& path, int64_t step) {
  std::vector<Json> kept;
  if (!std::filesystem::exists(path)) return kept;
  const std::string text = read_file(path);
  std::string rest;
  size_t number = 0;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = text.find('\n', begin);
    if (end == std::string::npos) break;  // torn when the process was killed
    const std::string line = text.substr(begin, end - begin);
    const std::string source = fmt::format("{}, line {}", path, ++number);
    begin = end + 1;
    const Json json = parse_json(line, source);
    int64_t at = 0;
    read_field(json, source, "step", at);
    if (at > step) continue;
    kept.push_back(json);
    rest += line + '\n';
  }
  if (rest != text) write_file(path, rest);
  return kept;
}

void append(const std::string& path, const Json& line) {
  GrowingFile(path, GrowingFile::Start::new_or_old_file).append(line.dump() + '\n');
}

Json number_or_null(const std::optional<double>& value) { return value ? Json(*value) : Json(); }

/// json[key], or nothing where it is missing or null (JSON has no NaN).
std::optional<double> number(const Json& json, const char* key) {
  const auto found = json.find(key);
  if (found == json.end() || !found->is_number()) return std::nullopt;
  return found->get<double>();
}

}  // namespace

RunRecord::RunRecord(const std::string& folder, const std::string& stage, int64_t step, bool tensorboard)
    : folder_(folder), stage_(stage) {
  for (const Json& line : keep_until(folder_ + kLog, step)) {
    reports_.push_back({line.value("step", int64_t{0}),
                        number(line, "loss").value_or(std::numeric_limits<double>::quiet_NaN())});
    seconds_ = number(line, "seconds").value_or(seconds_);
  }
  for (const Json& line : keep_until(folder_ + kEvaluations, step))
    last_ = Last{line.value("grid", std::string()), number(line, "distance_to_data"),
                 number(line, "distance_to_teacher")};
  // Also at step 0: a run that was killed before its first save may have left an event file.
  if (tensorboard) events_.emplace(folder_, step);
}

void RunRecord::report(const Progress& p) {
  append(folder_ + kLog, {{"stage", p.stage},
                          {"step", p.step},
                          {"loss", p.loss},
                          {"learning_rate", p.learning_rate},
                          {"gradient_norm", p.gradient_norm},
                          {"skipped", p.skipped},
                          {"images_per_second", p.images_per_second},
                          {"seconds", p.seconds},
                          {"data_wait", p.data_wait},
                          {"seconds_left", p.seconds_left}});
  reports_.push_back({p.step, p.loss});
  seconds_ = p.seconds;
  if (!events_) return;
  events_->scalar("train/loss", p.step, p.loss);
  events_->scalar("train/learning_rate", p.step, p.learning_rate);
  events_->scalar("train/gradient_norm", p.step, p.gradient_norm);
  events_->scalar("train/images_per_second", p.step, p.images_per_second);
}

void RunRecord::evaluation(int64_t step, const Evaluation& result) {
  last_ =
      Last{fmt::format("samples/step-{:08}.png", step), result.distance_to_data, result.distance_to_teacher};
  create_folders(folder_ + "/samples");
  const std::string grid = folder_ + "/" + last_->grid;
  write_grid(grid, result.samples, {.scale = 2});
  append(folder_ + kEvaluations, {{"stage", stage_},
                                  {"step", step},
                                  {"grid", last_->grid},
                                  {"distance_to_data", result.distance_to_data},
                                  {"distance_to_teacher", number_or_null(result.distance_to_teacher)}});
  if (!events_) return;
  const std::string png = read_file(grid);
  const PngHead head = read_png_head(png, grid);
  events_->image("samples", step, png, head.width, head.height, head.channels);
  events_->scalar("eval/distance_to_data", step, result.distance_to_data);
  if (result.distance_to_teacher)
    events_->scalar("eval/distance_to_teacher", step, *result.distance_to_teacher);
}

}  // namespace halfstep
