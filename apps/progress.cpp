#include "apps/progress.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <string>
#include <string_view>

#include "apps/options.h"

namespace halfstep {

namespace {

std::atomic<bool> interrupted = false;

void on_interrupt(int) {
  if (interrupted.exchange(true)) _exit(kInterrupted);
  constexpr std::string_view kMessage =
      "\nstopping after this update; Ctrl-C again ends at once without saving\n";
  // Nothing can be done here if the terminal is gone.
  [[maybe_unused]] const ssize_t written = write(STDERR_FILENO, kMessage.data(), kMessage.size());
}

std::string bar_of(const Progress& p) {
  constexpr int64_t kCells = 16;
  const auto filled = static_cast<size_t>(kCells * p.step / p.total_steps);
  return std::string(filled, '#') + std::string(kCells - filled, '.');
}

}  // namespace

const std::atomic<bool>& catch_interrupt() {
  std::signal(SIGINT, on_interrupt);
  return interrupted;
}

ProgressDisplay::ProgressDisplay() : terminal_(isatty(STDERR_FILENO) != 0) {}
ProgressDisplay::~ProgressDisplay() { end_line(); }

void ProgressDisplay::end_line() {
  if (drawn_ > 0) std::fputc('\n', stderr);
  drawn_ = 0;
}

void ProgressDisplay::show(const Progress& p) {
  const std::string count = fmt::format("{}/{}", p.step, p.total_steps);
  const std::string loss = fmt::format("loss {:.4f}", p.loss);
  const std::string rate = fmt::format("{:.4g} images/s", p.images_per_second);
  const std::string left = format_seconds(p.seconds_left) + " left";
  const std::string skipped = p.skipped > 0 ? fmt::format("  {} skipped", p.skipped) : "";
  if (terminal_) {
    std::string line =
        fmt::format("{:<10} {} {} {} {} {}{}", p.stage, bar_of(p), count, loss, rate, left, skipped);
    line.resize(std::max(line.size(), drawn_), ' ');  // covers the longer line before
    fmt::print(stderr, "\r{}", line);
    drawn_ = line.size();
    if (p.step == p.total_steps) end_line();
  } else {
    fmt::print(stderr, "{:<10} {:>11}  {}  lr {:.2e}  {}  {}{}\n", p.stage, count, loss, p.learning_rate,
               rate, left, skipped);
  }
  std::fflush(stderr);
}

}  // namespace halfstep
