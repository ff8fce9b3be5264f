#include "apps/progress.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

namespace halfstep {

namespace {

std::atomic<bool> interrupted = false;
std::atomic<int> first_signal = SIGINT;

void on_interrupt(int signal) {
  if (interrupted.exchange(true)) _exit(128 + signal);
  first_signal = signal;
  constexpr std::string_view kInterrupt = "\nstopping after this update (Ctrl-C again: without saving)\n";
  constexpr std::string_view kTerminate = "\nstopping after this update (SIGTERM again: without saving)\n";
  const std::string_view message = signal == SIGINT ? kInterrupt : kTerminate;
  // Nothing can be done here if the terminal is gone.
  [[maybe_unused]] const ssize_t written = write(STDERR_FILENO, message.data(), message.size());
}

std::string bar_of(const Progress& p) {
  constexpr int64_t kCells = 16;
  const auto filled = static_cast<size_t>(kCells * p.step / p.total_steps);
  return std::string(filled, '#') + std::string(kCells - filled, '.');
}

/// A piece of a line; of those that do not fit, the one with the highest rank goes first.
struct Part {
  std::string text;
  int rank = 0;  ///< 0: stays
};

std::string fit(std::vector<Part> parts, const char* gap, size_t width) {
  const auto line = [&] {
    std::string text;
    for (const Part& part : parts)
      if (!part.text.empty()) text += (text.empty() ? "" : gap) + part.text;
    return text;
  };
  while (line().size() > width) {
    const auto least = std::max_element(parts.begin(), parts.end(), [](const Part& a, const Part& b) {
      return (a.text.empty() ? 0 : a.rank) < (b.text.empty() ? 0 : b.rank);
    });
    if (least->text.empty() || least->rank == 0) return line().substr(0, width);
    least->text.clear();
  }
  return line();
}

bool draws_bars() {
  const char* const term = std::getenv("TERM");
  return isatty(STDERR_FILENO) && !(term && std::string_view(term) == "dumb");
}

}  // namespace

const std::atomic<bool>& catch_interrupt() {
  std::signal(SIGINT, on_interrupt);
  std::signal(SIGTERM, on_interrupt);
  std::signal(SIGPIPE, SIG_IGN);
  return interrupted;
}

ExitCode interrupt_exit_code() { return first_signal == SIGTERM ? kTerminated : kInterrupted; }

ProgressDisplay::ProgressDisplay() : terminal_(draws_bars()) {}
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
  // Of all halvings, where more than this one are left.
  const std::string all = p.chain_seconds_left > p.seconds_left
                              ? fmt::format("({} in all)", format_seconds(p.chain_seconds_left))
                              : "";
  const std::string skipped = p.skipped > 0 ? fmt::format("{} skipped", p.skipped) : "";
  const size_t width = terminal_width() - 1;  // in its last column a terminal may begin a new line
  // fputs, because fmt::print throws where nobody reads; a training goes on without its display.
  if (terminal_) {
    std::string line = fit({{fmt::format("{:<10}", p.stage)},
                            {bar_of(p), 2},
                            {count},
                            {loss, 3},
                            {rate, 4},
                            {left, 1},
                            {all, 5},
                            {skipped, 6}},
                           " ", width);
    const size_t length = line.size();
    line.resize(std::max(length, std::min(drawn_, width)), ' ');  // covers the longer line before
    std::fputs(("\r" + line).c_str(), stderr);
    drawn_ = length;
    if (p.step == p.total_steps) end_line();
  } else {
    const std::string line = fit({{fmt::format("{:<10} {:>11}", p.stage, count)},
                                  {loss},
                                  {fmt::format("lr {:.2e}", p.learning_rate), 3},
                                  {rate, 2},
                                  {left, 1},
                                  {all, 4},
                                  {skipped, 5}},
                                 "  ", width);
    std::fputs((line + '\n').c_str(), stderr);
  }
  std::fflush(stderr);
}

}  // namespace halfstep
