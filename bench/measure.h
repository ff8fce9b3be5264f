// Times of a repeated call.
#pragma once

#include <functional>

namespace halfstep::bench {

/// Wall-clock seconds of single runs.
struct Timing {
  double median = 0;
  double low = 0, high = 0;  ///< the first and the last decile
  int runs = 0;
};

/// Runs `run` once to warm up and then for about `seconds`, at least 3 and at most 10,000 times.
Timing measure(const std::function<void()>& run, double seconds);

}  // namespace halfstep::bench
