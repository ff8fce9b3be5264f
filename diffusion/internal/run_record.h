// What a run writes down beside its checkpoints: log.jsonl and eval.jsonl, a line per report and evaluation.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "diffusion/evaluation.h"
#include "diffusion/event_file.h"
#include "diffusion/run.h"

namespace halfstep {

/// The record of one stage in its folder. It never claims more than the checkpoint knows: what a killed
/// process wrote after its last checkpoint is cut off when the stage continues, and written anew.
class RunRecord {
 public:
  /// Keeps the lines up to and including `step`. Throws Error for a damaged line that is not the last.
  /// tensorboard: writes an event file, too (TrainConfig::tensorboard).
  RunRecord(const std::string& folder, const std::string& stage, int64_t step, bool tensorboard = false);

  void report(const Progress& progress);
  /// Writes the samples to samples/step-XXXXXXXX.png, too.
  void evaluation(int64_t step, const Evaluation& result);

  struct Report {
    int64_t step;
    double loss;  ///< NaN if it was none
  };
  const std::vector<Report>& reports() const { return reports_; }
  double seconds() const { return seconds_; }  ///< of the last report; 0 if there is none

  /// What the last evaluation found.
  struct Last {
    std::string grid;  ///< relative to the folder
    std::optional<double> distance_to_data, distance_to_teacher;
  };
  const std::optional<Last>& last_evaluation() const { return last_; }

 private:
  std::string folder_, stage_;
  double seconds_ = 0;
  std::vector<Report> reports_;
  std::optional<Last> last_;
  std::optional<EventFile> events_;
};

}  // namespace halfstep
