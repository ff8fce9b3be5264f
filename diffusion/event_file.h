// Curves and pictures for TensorBoard: an event file, which grows while a run goes on.
//
// The format is that of TensorFlow's summaries: TFRecord framing (length, masked CRC-32C of the length,
// bytes, masked CRC-32C of the bytes) around protobuf messages `Event` (tensorflow/core/util/event.proto and
// tensorflow/core/framework/summary.proto).
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

#include "tensor/files.h"

namespace halfstep {

/// Seconds since 1970, as the system's clock has them.
double wall_time();

/// A new event file in a folder. Every event is written at once and whole, so that a `kill -9` loses none and
/// TensorBoard can read along. TensorBoard takes all event files of a folder as one run, in the order of
/// their names; the constructor chooses a name that follows those that are there.
class EventFile {
 public:
  /// Creates FOLDER/events.out.tfevents.SECONDS.HOST.PID; the folder must exist. A run that continues says
  /// behind which step: TensorBoard then drops what older files in the folder have about later steps. `clock`
  /// gives the time of each event. Throws Error for a negative step, and if the file cannot be created.
  explicit EventFile(const std::string& folder, std::optional<int64_t> resumed_step = {},
                     std::function<double()> clock = wall_time);

  /// One point of the curve `tag`, such as "train/loss"; stored as f32, NaN allowed. Throws Error for an
  /// empty tag, a negative step and failed writes, a full disk among them.
  void scalar(std::string_view tag, int64_t step, double value);
  /// A picture as PNG with `channels` 1 to 4. Throws as `scalar` does, and for what is no PNG or has no
  /// pixels.
  void image(std::string_view tag, int64_t step, std::string_view png, int64_t width, int64_t height,
             int channels);
  /// Forces all events to the disk; without it they survive the end of the process, but not of the machine.
  void flush() { file_.sync(); }

  const std::string& path() const { return path_; }

 private:
  void write_event(int64_t step, std::string_view content);
  void write_summary(std::string_view tag, int64_t step, std::string_view value);

  std::function<double()> clock_;
  std::string path_;
  GrowingFile file_;
};

/// CRC-32C (Castagnoli, RFC 3720 appendix B.4).
uint32_t crc32c(std::string_view bytes);

}  // namespace halfstep
