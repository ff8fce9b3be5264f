// How long commands show that they are alive, and how they are stopped.
#pragma once

#include <atomic>
#include <cstddef>

#include "diffusion/run.h"

namespace halfstep {

/// Shows the progress of stages on stderr: a bar with rate and time left on a terminal, otherwise plain
/// lines. To be handed to RunOptions::on_progress.
class ProgressDisplay {
 public:
  ProgressDisplay();
  ~ProgressDisplay();
  ProgressDisplay(const ProgressDisplay&) = delete;
  ProgressDisplay& operator=(const ProgressDisplay&) = delete;

  void show(const Progress& progress);

 private:
  void end_line();

  bool terminal_;
  size_t drawn_ = 0;  ///< characters of the bar on the screen; 0: the cursor is on a new line
};

/// From now on Ctrl-C sets the flag that is returned, and a second Ctrl-C ends the process at once with exit
/// code 130.
const std::atomic<bool>& catch_interrupt();

}  // namespace halfstep
