// The largest of some errors, for comparisons in which NaN never passes.
#pragma once

namespace halfstep::test {

/// worst = max(worst, error); a NaN, once there, stays, whatever comes after it.
inline void keep_worst(double& worst, double error) {
  if (worst == worst && !(error <= worst)) worst = error;
}

}  // namespace halfstep::test
