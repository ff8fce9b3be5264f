// How long commands show that they are alive, and how they are stopped.
#pragma once

#include <atomic>
#include <cstddef>

#include "apps/options.h"
#include "diffusion/run.h"

namespace halfstep {

/// Shows the progress of stages on stderr: on a terminal a bar with rate and time left, redrawn in its one
/// line, otherwise plain lines, as on a terminal that cannot do better (TERM=dumb). Either fits the width of
/// the terminal, 80 columns where there is none: what matters least is left out. To be handed to
/// RunOptions::on_progress.
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

/// From now on Ctrl-C (SIGINT) and SIGTERM set the flag that is returned, and a second signal ends the
/// process at once, with the exit code of interrupt_exit_code(). A reader of the output that goes away no
/// longer ends the process: a training matters more than its display.
const std::atomic<bool>& catch_interrupt();

/// 130 if the first signal was Ctrl-C, 143 if it was SIGTERM.
ExitCode interrupt_exit_code();

}  // namespace halfstep
