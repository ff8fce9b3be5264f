// Writes an event file for tensorboard_test.py, which has TensorBoard read it.
//
//   event_file_writer FOLDER CLOCK [resumed STEP] [scalar TAG STEP VALUE | image TAG STEP PNG WIDTH HEIGHT
//   CHANNELS]...
//
// The first event has the time CLOCK, each further one a second more. Prints the path of the file.
#include <cstdio>
#include <string>
#include <vector>

#include "diffusion/event_file.h"
#include "tensor/error.h"

using namespace halfstep;

namespace {

void run(const std::vector<std::string>& words) {
  size_t at = 0;
  const auto next = [&] { return words.at(at++); };
  const std::string folder = next();
  double clock = std::stod(next());
  std::optional<int64_t> resumed;
  if (at < words.size() && words[at] == "resumed") {
    ++at;
    resumed = std::stoll(next());
  }
  // The constructor asks once more, for the name.
  EventFile file(folder, resumed, [seconds = clock - 1]() mutable { return seconds++; });
  while (at < words.size()) {
    const std::string kind = next(), tag = next();
    const int64_t step = std::stoll(next());
    if (kind == "scalar") {
      file.scalar(tag, step, std::stod(next()));
    } else {
      const std::string png = read_file(next());
      const int64_t width = std::stoll(next()), height = std::stoll(next());
      file.image(tag, step, png, width, height, std::stoi(next()));
    }
  }
  file.flush();
  fmt::print("{}\n", file.path());
}

}  // namespace

int main(int argc, char** argv) {
  try {
    run({argv + 1, argv + argc});
    return 0;
  } catch (const std::exception& e) {
    fmt::print(stderr, "{}\n", e.what());
    return 1;
  }
}
