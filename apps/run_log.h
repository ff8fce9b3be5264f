// What training leaves in a run folder for those who look at it later: log.jsonl, eval.jsonl, manifest.json.
// docs/checkpoint.md describes the files.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "diffusion/internal/json.h"

namespace halfstep {

/// A line of log.jsonl. NaN stands for what was no number (null) or is missing: older releases wrote less.
struct LogReport {
  std::string stage;
  int64_t step = 0;
  double loss = 0, learning_rate = 0, gradient_norm = 0, skipped = 0, images_per_second = 0;
  double seconds = 0;    ///< training time of the stage up to here
  double data_wait = 0;  ///< share of the time in which the step waited for data
};

/// A line of eval.jsonl.
struct EvaluationLine {
  int64_t step = 0;
  std::string grid;  ///< picture of samples, relative to the run folder; empty: none
  double distance_to_data = 0, distance_to_teacher = 0;
};

/// The reports of a file log.jsonl, steps rising: where a resumed run has done steps again, what it says
/// counts. A last line that the end of the process cut short is left out, with a note on stderr. Throws Error
/// with the path and the number of the line for anything else that is no report, and for a file that cannot
/// be read.
std::vector<LogReport> read_log(const std::string& path);
/// The same for eval.jsonl; a file that is not there has none.
std::vector<EvaluationLine> read_evaluations(const std::string& path);

/// Time and rate of the updates that led to the last report. `seconds` is NaN if that cannot be told.
struct TrainingTime {
  double seconds = 0, images_per_second = 0;
};
TrainingTime training_time(const std::vector<LogReport>& reports, int64_t batch_size);

/// One run folder: a training, or one halving.
struct StageLog {
  std::string name;    ///< "train", "teacher", "student-8"
  std::string folder;  ///< with the run's path
  std::vector<LogReport> reports;
  std::vector<EvaluationLine> evaluations;
};

/// A run folder, or a folder with the runs of a chain of halvings, teacher first.
struct RunFolder {
  std::string path;
  std::string name;  ///< of the folder
  Json manifest;     ///< null for runs of releases that wrote none
  std::vector<StageLog> stages;

  bool has_reports() const;
};

/// Reads everything in the folder `path`. Stages without reports have an empty log. Throws Error, in the name
/// of the command `where`, if it is neither a run nor a chain of halvings, and as read_log does.
RunFolder read_run(const std::string& where, const std::string& path);

}  // namespace halfstep
