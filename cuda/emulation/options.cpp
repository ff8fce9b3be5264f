#include "cuda/emulation/options.h"

#include <fmt/core.h>

#include <charconv>
#include <cstdlib>
#include <string_view>

namespace halfstep::emulation {
namespace {

uint64_t number(const char* name, uint64_t otherwise, uint64_t low, uint64_t high) {
  const char* text = std::getenv(name);
  if (!text || !*text) return otherwise;
  const std::string_view view = text;
  uint64_t value = 0;
  const auto [end, error] = std::from_chars(view.data(), view.data() + view.size(), value);
  if (error != std::errc{} || end != view.data() + view.size() || value < low || value > high) {
    fmt::print(stderr, "[{}] expected a number from {} to {}, got '{}'\n", name, low, high, text);
    std::exit(1);
  }
  return value;
}

Options read() {
  Options o;
  if (const char* text = std::getenv("HALFSTEP_EMULATION"); text && *text) {
    const std::string_view mode = text;
    if (mode == "random") {
      o.mode = Mode::random;
    } else if (mode == "check") {
      o.mode = Mode::check;
    } else if (mode != "fast") {
      fmt::print(stderr, "[HALFSTEP_EMULATION] expected fast, random or check, got '{}'\n", text);
      std::exit(1);
    }
  }
  o.seed = number("HALFSTEP_EMULATION_SEED", 1, 0, ~uint64_t{0});
  o.count = number("HALFSTEP_EMULATION_COUNT", 0, 0, 1) == 1;
  o.memory_bytes = number("HALFSTEP_EMULATION_MEMORY", 4096, 1, 32768) << 20;
  o.multiprocessors = static_cast<int>(number("HALFSTEP_EMULATION_MULTIPROCESSORS", 8, 1, 1024));
  o.compute_capability = static_cast<int>(number("HALFSTEP_EMULATION_CAPABILITY", 80, 75, 120));
  return o;
}

Options& current() {
  static Options options = read();
  return options;
}

}  // namespace

bool should_fail(const char* what) {
  const char* text = std::getenv("HALFSTEP_EMULATION_FAIL");
  return text && std::string_view(text) == what;
}

const Options& options() { return current(); }
void set_options(const Options& options) { current() = options; }

}  // namespace halfstep::emulation
