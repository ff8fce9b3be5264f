// The page of `halfstep report`.
#pragma once

#include <string>
#include <vector>

#include "apps/curves.h"
#include "apps/run_log.h"

namespace halfstep {

/// A picture of samples in a report.
struct ReportPicture {
  std::string caption;
  std::vector<std::string> details;  ///< lines below the caption
  std::string png;                   ///< the bytes of the file; empty: it is not there
  int64_t width = 0, height = 0;
};

// Files of other releases may lack a value, or have another in its place; a report then says nothing about
// it.

/// json[key]; null if `json` is no object or has no such key.
const Json& value_at(const Json& json, const char* key);
/// The same as a text, numbers and lists as JSON writes them; empty for null.
std::string text_at(const Json& json, const char* key);

/// What a report says of a stage. Numbers are NaN where they are not known, texts empty, counts 0.
struct ReportStage {
  std::string name, status;  ///< "done", "running", "stopped", "waiting"
  int64_t teacher_steps = 0, num_steps = 0;
  int64_t step = 0, max_steps = 0;
  double loss = 0, seconds = 0, distance_to_data = 0, distance_to_teacher = 0;
  std::string model_sha256, parent_sha256, checkpoint;
  std::vector<ReportPicture> pictures;  ///< oldest first
};

/// What a report says of a run.
struct Report {
  std::string name, status;
  std::string data;
  Json config;                    ///< an object with the sections model, train, distill
  Json commands = Json::array();  ///< as in manifest.json
  Json teacher;                   ///< as in manifest.json, or null
  std::vector<ReportStage> stages;
  std::vector<ReportPicture> pictures;  ///< of all stages together
  std::vector<InlineCurve> curves;
  std::vector<std::string> curve_stages;  ///< names in the order of their colours
};

/// A distance with as many digits as it deserves: "14.20", "0.00123"; a dash if it is not known.
std::string distance_text(double distance);

/// A page of HTML that needs no other file: styles, curves and pictures are in it. No script. `footer` is its
/// last line.
std::string report_page(const Report& report, const std::string& footer);

}  // namespace halfstep
