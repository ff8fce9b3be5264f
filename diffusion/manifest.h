// manifest.json: what a run or a chain of halvings is, where it stands and where it comes from. It is a
// summary for people and programs that look at runs; continuing one reads `config` from it and everything
// else from the checkpoints. docs/checkpoint.md describes the file.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "diffusion/config.h"

namespace halfstep {

/// One call of a command that wrote to the folder.
struct ManifestCommand {
  std::string line;     ///< as typed: "halfstep distill runs/teacher ..."
  std::string started;  ///< UTC, "2026-11-25T15:04:05Z"
  std::string program;  ///< "halfstep 0.1.0"
  std::string device;   ///< Device::description()
  int threads = 0;
};

/// Where a stage stands. One that was killed stays `running`.
enum class StageStatus { waiting, running, stopped, done };
/// "waiting", "running", "stopped", "done".
std::string_view name_of(StageStatus status);

/// One training: of the teacher, or of one student.
struct ManifestStage {
  std::string name;    ///< "train", "student-8"
  std::string folder;  ///< relative to the manifest: ".", "student-8"
  StageStatus status = StageStatus::waiting;
  int64_t teacher_steps = 0, num_steps = 0;  ///< sampling steps; both 0 for training on data
  int64_t step = 0, max_steps = 0;           ///< updates
  double seconds = 0;                        ///< of training, over all calls
  std::optional<double> final_loss;
  std::optional<std::string> checkpoint;     ///< the newest, relative
  std::optional<std::string> model_sha256;   ///< of its model.safetensors; only when done
  std::optional<std::string> parent_sha256;  ///< of the teacher's
  std::optional<std::string> grid;           ///< of the last evaluation, relative
  std::optional<double> distance_to_data, distance_to_teacher;
};

/// Where a chain of halvings started.
struct ManifestTeacher {
  std::string checkpoint;
  int64_t num_steps = 0;
  std::string model_sha256;
};

/// What manifest.json says.
struct Manifest {
  std::string kind;  ///< "train", "distill"
  std::vector<ManifestCommand> commands;
  std::string data_name;
  int64_t data_images = 0;
  double data_floor = 0;                   ///< see Evaluator::floor; 0 where nothing is evaluated
  Config config;                           ///< as it holds for the last call
  std::optional<ManifestTeacher> teacher;  ///< the first of a chain
  std::vector<ManifestStage> stages;
};

/// Replaces FOLDER/manifest.json in one step. Throws Error.
void write_manifest(const std::string& folder, const Manifest& manifest);
/// The manifest of a folder, if it has one. Throws Error for a damaged or foreign file.
std::optional<Manifest> read_manifest(const std::string& folder);

}  // namespace halfstep
