#include "apps/run_log.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <functional>
#include <limits>

#include "tensor/error.h"
#include "tensor/files.h"

namespace halfstep {

namespace {

namespace fs = std::filesystem;

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

/// Where a value stands, for errors.
struct Line {
  const std::string& path;
  int64_t number;
};

double number_in(const Json& json, const char* key, const Line& line) {
  const auto found = json.find(key);
  if (found == json.end() || found->is_null()) return kNaN;
  require(found->is_number(), "log", "{}, line {}: expected a number or null as '{}', got {}", line.path,
          line.number, key, found->dump());
  return found->get<double>();
}

std::string text_in(const Json& json, const char* key, const Line& line) {
  const auto found = json.find(key);
  if (found == json.end() || found->is_null()) return {};
  require(found->is_string(), "log", "{}, line {}: expected a text or null as '{}', got {}", line.path,
          line.number, key, found->dump());
  return found->get<std::string>();
}

int64_t step_in(const Json& json, const Line& line) {
  const auto found = json.find("step");
  require(found != json.end() && found->is_number_integer() && found->get<int64_t>() >= 0, "log",
          "{}, line {}: expected a step, a whole number of 0 or more, got {}", line.path, line.number,
          found == json.end() ? "none" : found->dump());
  return found->get<int64_t>();
}

/// Calls `read` with each line of a file as JSON object.
void for_each_line(const std::string& path, const std::function<void(const Json&, const Line&)>& read) {
  const std::string text = read_file(path);
  int64_t number = 0;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    const Json json = Json::parse(text.begin() + static_cast<std::ptrdiff_t>(begin),
                                  text.begin() + static_cast<std::ptrdiff_t>(end), nullptr, false);
    ++number;
    if (!json.is_object()) {
      const std::string shown = text.substr(begin, std::min<size_t>(end - begin, 60));
      if (end == text.size()) {  // no line break: the process ended while it wrote
        fmt::print(stderr, "note: {}, line {} was cut short and is left out: {}\n", path, number, shown);
        return;
      }
      fail("log", "{}, line {}: expected a JSON object, got '{}'; the file is damaged, remove the line", path,
           number, shown);
    }
    read(json, {path, number});
    begin = end + 1;
  }
}

/// Adds an entry in place of those that it has overtaken: steps that a resumed run has done again.
template <class Entry>
void add_in_order(std::vector<Entry>& entries, Entry entry) {
  while (!entries.empty() && entries.back().step >= entry.step) entries.pop_back();
  entries.push_back(std::move(entry));
}

/// A stage by its folder, as far as it has begun.
StageLog read_stage(std::string name, const std::string& folder) {
  StageLog stage{std::move(name), folder, {}, read_evaluations(folder + "/eval.jsonl")};
  if (fs::exists(folder + "/log.jsonl")) stage.reports = read_log(folder + "/log.jsonl");
  return stage;
}

/// The runs in a folder that has no manifest: names with the more sampling steps first.
std::vector<std::string> folders_of_chain(const std::string& path) {
  std::vector<std::string> students;
  std::error_code error;
  for (fs::directory_iterator at(path, error), end; !error && at != end; at.increment(error)) {
    const fs::directory_entry& entry = *at;
    const std::string name = entry.path().filename().string();
    if (name.starts_with("student-") && fs::exists(entry.path() / "log.jsonl")) students.push_back(name);
  }
  require(!error, "run", "cannot list '{}': {}; check the permissions of the folder", path, error.message());
  std::sort(students.begin(), students.end(), [](const std::string& a, const std::string& b) {
    return a.size() != b.size() ? a.size() > b.size() : a > b;  // as numbers
  });
  return students;
}

Json read_manifest(const std::string& path) {
  if (!fs::exists(path)) return nullptr;
  Json manifest = parse_json(read_file(path), path);
  require(manifest.is_object() && manifest.value("format", Json()) == "halfstep-manifest", "manifest",
          "{}: expected \"format\": \"halfstep-manifest\", got {}", path,
          manifest.is_object() ? manifest.value("format", Json()).dump() : manifest.dump());
  require(manifest.value("version", Json()) == 1, "manifest",
          "{}: expected version 1, got {}; was it written by another release?", path,
          manifest.value("version", Json()).dump());
  const Json stages = manifest.value("stages", Json());
  const auto is_stage = [](const Json& stage) {
    return stage.is_object() && stage.value("name", Json()).is_string() &&
           stage.value("folder", Json()).is_string();
  };
  require(stages.is_array() && std::all_of(stages.begin(), stages.end(), is_stage), "manifest",
          "{}: expected a list of stages, each with a name and a folder, got {}", path, stages.dump());
  return manifest;
}

}  // namespace

std::vector<LogReport> read_log(const std::string& path) {
  std::vector<LogReport> reports;
  for_each_line(path, [&](const Json& json, const Line& line) {
    const auto number = [&](const char* key) { return number_in(json, key, line); };
    add_in_order(reports, LogReport{text_in(json, "stage", line), step_in(json, line), number("loss"),
                                    number("learning_rate"), number("gradient_norm"), number("skipped"),
                                    number("images_per_second"), number("seconds"), number("data_wait")});
  });
  return reports;
}

std::vector<EvaluationLine> read_evaluations(const std::string& path) {
  std::vector<EvaluationLine> evaluations;
  if (!fs::exists(path)) return evaluations;
  for_each_line(path, [&](const Json& json, const Line& line) {
    add_in_order(evaluations, EvaluationLine{step_in(json, line), text_in(json, "grid", line),
                                             number_in(json, "distance_to_data", line),
                                             number_in(json, "distance_to_teacher", line)});
  });
  return evaluations;
}

TrainingTime training_time(const std::vector<LogReport>& reports, int64_t batch_size) {
  if (reports.empty()) return {kNaN, kNaN};
  double seconds = reports.back().seconds;
  if (std::isnan(seconds)) {  // older releases: from the rates
    seconds = 0;
    int64_t done = 0;
    for (const LogReport& report : reports) {
      if (!(report.images_per_second > 0)) continue;
      seconds += static_cast<double>((report.step - done) * batch_size) / report.images_per_second;
      done = report.step;
    }
  }
  if (!(seconds > 0)) return {kNaN, kNaN};
  return {seconds, static_cast<double>(reports.back().step * batch_size) / seconds};
}

bool RunFolder::has_reports() const {
  return std::any_of(stages.begin(), stages.end(), [](const StageLog& s) { return !s.reports.empty(); });
}

RunFolder read_run(const std::string& where, const std::string& path) {
  require(fs::is_directory(path), where, "expected a run folder, got '{}', which is {}", path,
          fs::exists(path) ? "not a folder" : "not there");
  RunFolder run{path, fs::canonical(path).filename().string(), read_manifest(path + "/manifest.json"), {}};
  const auto in_run = [&](const std::string& folder) { return folder == "." ? path : path + "/" + folder; };
  std::vector<std::pair<std::string, std::string>> found;  // name, folder
  if (!run.manifest.is_null()) {
    for (const Json& stage : run.manifest["stages"])
      found.emplace_back(stage["name"].get<std::string>(), stage["folder"].get<std::string>());
  } else if (fs::exists(path + "/log.jsonl")) {
    found.emplace_back("", ".");
  } else {
    for (const std::string& name : folders_of_chain(path)) found.emplace_back(name, name);
  }
  // The demo trains the teacher beside its students.
  const auto is_teacher = [](const auto& stage) { return stage.second == "teacher" || stage.second == "."; };
  if (fs::exists(path + "/teacher/log.jsonl") && std::none_of(found.begin(), found.end(), is_teacher))
    found.emplace(found.begin(), "teacher", "teacher");
  require(!found.empty(), where,
          "'{}' holds no run: expected log.jsonl (a run) or student-*/log.jsonl (a chain of "
          "halvings){}",
          path, fs::exists(path + "/config.json") ? "; it is a checkpoint, give the folder above" : "");
  for (const auto& [name, folder] : found) run.stages.push_back(read_stage(name, in_run(folder)));
  for (StageLog& stage : run.stages)
    if (stage.name.empty()) stage.name = stage.reports.empty() ? "train" : stage.reports.back().stage;
  return run;
}

}  // namespace halfstep
