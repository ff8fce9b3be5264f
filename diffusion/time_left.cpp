#include "diffusion/time_left.h"

#include <algorithm>
#include <limits>

namespace halfstep {

void TimeLeft::add(double step, double seconds) { points_.push_back({step, seconds}); }

double TimeLeft::seconds_per_step() const {
  if (points_.size() < 2) return std::numeric_limits<double>::quiet_NaN();
  const Point first = points_.front(), last = points_.back();
  const double middle = (first.seconds + last.seconds) / 2;
  // The last report before the middle; the first one at least is.
  const auto after = std::upper_bound(points_.begin(), points_.end() - 1, middle,
                                      [](double value, const Point& p) { return value < p.seconds; });
  const Point start = after == points_.begin() ? first : *(after - 1);
  return (last.seconds - start.seconds) / (last.step - start.step);
}

}  // namespace halfstep
