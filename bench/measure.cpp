#include "bench/measure.h"

#include <algorithm>
#include <chrono>
#include <vector>

namespace halfstep::bench {

Timing measure(const std::function<void()>& run, double seconds) {
  constexpr size_t kFewest = 3, kMost = 10'000;
  run();
  std::vector<double> times;
  double total = 0;
  while (times.size() < kFewest || (times.size() < kMost && total < seconds)) {
    const auto start = std::chrono::steady_clock::now();
    run();
    const std::chrono::duration<double> time = std::chrono::steady_clock::now() - start;
    times.push_back(time.count());
    total += time.count();
  }
  std::sort(times.begin(), times.end());
  const size_t last = times.size() - 1;
  return {times[last / 2], times[last / 10], times[last - last / 10], static_cast<int>(times.size())};
}

}  // namespace halfstep::bench
