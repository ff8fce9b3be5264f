// Checkpoints: folders that say what they are.
//
//   step-00001200/
//     config.json          configuration, step, history of halvings (documented in docs/checkpoint.md)
//     model.safetensors    the weights to use: the moving average if there is one
//     state.safetensors    raw weights, optimiser, average, counters: what continuing needs
//
// A save writes a new folder completely, forces it to the disk and renames it into place, never over an old
// one: a crash leaves the previous checkpoint or the new one. The newest is the one with the highest step.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "diffusion/config.h"
#include "nn/module.h"

namespace halfstep {

/// One finished halving, or the training before the first (teacher_steps 0).
struct HistoryEntry {
  int64_t teacher_steps = 0;  ///< sampling steps of the teacher; 0 for training on data
  int64_t num_steps = 0;      ///< sampling steps of the result; 0 for training on data
  int64_t updates = 0;
  double final_loss = 0;  ///< mean over the last log interval
};

/// What config.json says.
struct CheckpointInfo {
  Config config;
  int64_t step = 0;            ///< updates done in the present stage
  int64_t num_steps = 0;       ///< sampling steps that the weights were distilled for; 0: any (a teacher)
  std::string data;            ///< name of the data set
  bool stopped_early = false;  ///< the stage ended before max_steps, by TrainConfig::patience
  std::vector<HistoryEntry> history;
};

/// What a checkpoint's folder holds for those who use the model; load_checkpoint_state reads the rest.
struct Checkpoint {
  CheckpointInfo info;
  TensorMap weights;  ///< model.safetensors
  std::string path;   ///< the checkpoint's folder
};

/// Writes RUN/step-XXXXXXXX; returns its path. Throws Error if it exists or cannot be written.
std::string save_checkpoint(const std::string& run, const CheckpointInfo& info, const TensorMap& weights,
                            const TensorMap& state);

/// The checkpoint that `path` names: a checkpoint folder itself; a run (its highest step); or a folder of
/// runs student-8, student-4, ... (the one with the fewest steps that has a checkpoint). Throws Error that
/// says what was looked for.
std::string resolve_checkpoint(const std::string& path);
/// The newest checkpoint directly in a run folder, if there is one. A folder that does not exist has none.
std::optional<std::string> newest_checkpoint(const std::string& run);

/// Removes all but the newest `keep` checkpoints directly in a run folder (0 keeps all), and what a killed
/// process left of such a removal. Throws Error.
void prune_checkpoints(const std::string& run, int64_t keep);

/// Reads info and weights. Throws Error for missing, foreign or damaged files.
Checkpoint load_checkpoint(const std::string& path, Device& device = cpu_device());
/// Only what config.json says. Throws Error as load_checkpoint does.
CheckpointInfo load_checkpoint_info(const std::string& path);
/// state.safetensors of a checkpoint folder.
TensorMap load_checkpoint_state(const std::string& path, Device& device = cpu_device());

}  // namespace halfstep
