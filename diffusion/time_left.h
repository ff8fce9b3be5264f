// How long a training still takes.
#pragma once

#include <vector>

namespace halfstep {

/// Estimates time per step from the later half of the time so far. Half, and not the last report: a
/// checkpoint or an evaluation that comes once in a while is spread over all steps. The later one, and not
/// all: after a change of speed (another program starts or ends) the estimate has followed when the time
/// since the change equals the time before it.
class TimeLeft {
 public:
  /// `seconds` on any clock that only rises; `step` rises, too. The first call is the start.
  void add(double step, double seconds);
  /// Of one step; NaN before the second call of add().
  double seconds_per_step() const;

 private:
  /// One call of add().
  struct Point {
    double step, seconds;
  };
  std::vector<Point> points_;
};

}  // namespace halfstep
