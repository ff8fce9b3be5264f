#include "cuda/emulation/reports.h"

#include <fmt/core.h>

#include <cstdio>
#include <utility>

namespace halfstep::emulation {
namespace {
constexpr int kPrinted = 10;
int in_this_launch = 0;
bool failure = false;
std::vector<std::string> kept;
}  // namespace

void report(const std::string& text) {
  failure = true;
  if (++in_this_launch > kPrinted) return;
  fmt::print(stderr, "[cuda emulation] {}\n", text);
  if (in_this_launch == kPrinted)
    fmt::print(stderr, "[cuda emulation] more findings of this launch are not shown\n");
  std::fflush(stderr);
  if (kept.size() < 1000) kept.push_back(text);
}

void fail_silently() { failure = true; }
void start_reports() { in_this_launch = 0; }
std::vector<std::string> take_reports() { return std::exchange(kept, {}); }
bool take_failure() { return std::exchange(failure, false); }

}  // namespace halfstep::emulation
