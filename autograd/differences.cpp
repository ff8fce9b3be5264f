#include "autograd/internal/differences.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace halfstep::detail {

namespace {

constexpr int kLarger = 5, kSmaller = 8;  ///< steps around the given one, each a factor 4
constexpr int kExtrapolations = 3;
constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

/// Outputs at t = -step and t = step.
struct Pair {
  double step;
  std::vector<double> minus, plus;
};

/// Ridders' tableau over central differences of steps that shrink by 4: column j has error O(h^(2j+2)).
void extrapolate(const std::vector<double>& steps, const std::vector<double>& central, double rounding,
                 Slope& slope) {
  slope.value = central.empty() ? kNaN : central.back();
  slope.uncertainty = std::numeric_limits<double>::infinity();
  slope.step = steps.empty() ? 0 : steps.back();
  std::vector<double> previous;
  for (size_t k = 0; k < central.size(); ++k) {
    std::vector<double> row{central[k]};
    double factor = 1;
    for (size_t j = 1; j <= std::min<size_t>(k, kExtrapolations); ++j) {
      factor *= 16;
      row.push_back((factor * row[j - 1] - previous[j - 1]) / (factor - 1));
      const double apart = std::max(std::abs(row[j] - row[j - 1]), std::abs(row[j] - previous[j - 1]));
      const double uncertainty = apart + rounding / steps[k];
      if (uncertainty < slope.uncertainty) {
        slope.uncertainty = uncertainty;
        slope.value = row[j];
        slope.step = steps[k];
      }
    }
    previous = row;
  }
}

/// Whether slopes over steps that shrink by 4 grow by 4 each time: the values themselves do not come closer.
bool grows_like_a_jump(const std::vector<double>& steps, const std::vector<double>& slopes, double size,
                       double eps) {
  constexpr size_t kLooked = 4;
  // A rounding error of f(0) looks like a tiny jump.
  if (steps.size() < kLooked || !(std::abs(slopes[0]) * steps[0] > 1e10 * eps * size)) return false;
  for (size_t k = 1; k < kLooked; ++k) {
    const double ratio = slopes[k] / slopes[k - 1];
    if (!(ratio > 3.5 && ratio < 4.5)) return false;
  }
  return true;
}

/// For a smooth function right - left = h f'' + ... shrinks with the step, by 4 here, until rounding hides
/// it; at a kink it stays (or grows a little, at a cusp). At a jump one-sided slopes grow by 4. Rounding
/// grows by about 4, too, but not steadily, and both one-sided slopes move with it.
SlopeKind kind_of(const std::vector<double>& steps, const std::vector<double>& left,
                  const std::vector<double>& right, double size, double eps) {
  if (grows_like_a_jump(steps, left, size, eps) || grows_like_a_jump(steps, right, size, eps))
    return SlopeKind::jump;
  double smallest = std::numeric_limits<double>::infinity(), largest = 0, moved = 0;
  int ratios = 0;
  for (size_t k = 1; k < steps.size(); ++k) {
    const double before = right[k - 1] - left[k - 1], gap = right[k] - left[k];
    const double slopes = std::max(std::abs(left[k]), std::abs(right[k]));
    if (!(std::abs(gap) > 32 * eps * size / steps[k] && std::abs(gap) > 1e-5 * slopes)) break;
    smallest = std::min(smallest, gap / before);  // negative where the sign changes
    largest = std::max(largest, gap / before);
    moved = std::max({moved, std::abs(left[k] - left[k - 1]) / std::abs(gap),
                      std::abs(right[k] - right[k - 1]) / std::abs(gap)});
    ++ratios;
  }
  const bool kink = ratios >= 2 && smallest >= 0.5 && largest <= 3 && moved <= 0.5;
  return kink ? SlopeKind::kink : SlopeKind::smooth;
}

}  // namespace

double power_of_two_near(double x) { return std::exp2(std::round(std::log2(x))); }
double central_step(double eps) { return power_of_two_near(std::cbrt(eps)); }

std::vector<double> central_difference(const LineFunction& f, double h) {
  std::vector<double> slope = f(h);
  const std::vector<double> minus = f(-h);
  for (size_t r = 0; r < slope.size(); ++r) slope[r] = (slope[r] - minus[r]) / (2 * h);
  return slope;
}

std::vector<Slope> examine_slopes(const LineFunction& f, const std::vector<double>& at, double h, double eps,
                                  double smallest) {
  std::vector<Pair> pairs;
  for (int k = kLarger; k >= -kSmaller; --k) {
    const double step = h * std::exp2(2 * k);
    if (step >= smallest) pairs.push_back({step, f(-step), f(step)});
  }
  std::vector<Slope> slopes(at.size());
  for (size_t r = 0; r < at.size(); ++r) {
    Slope& slope = slopes[r];
    std::vector<double> steps, central, left, right, one_sided_steps, one_sided_left, one_sided_right;
    bool left_finite = false, right_finite = false;
    for (const Pair& p : pairs) {
      const double minus = p.minus[r], plus = p.plus[r];
      left_finite = left_finite || std::isfinite(minus);
      right_finite = right_finite || std::isfinite(plus);
      slope.left = std::isfinite(minus) ? (at[r] - minus) / p.step : slope.left;
      slope.right = std::isfinite(plus) ? (plus - at[r]) / p.step : slope.right;
      if (!std::isfinite(minus) || !std::isfinite(plus)) continue;
      steps.push_back(p.step);
      central.push_back((plus - minus) / (2 * p.step));
      if (p.step > h) continue;
      one_sided_steps.push_back(p.step);
      one_sided_left.push_back((at[r] - minus) / p.step);
      one_sided_right.push_back((plus - at[r]) / p.step);
    }
    if (!std::isfinite(at[r]) || (!left_finite && !right_finite)) {
      slope = {kNaN, kNaN, 0, kNaN, kNaN, SlopeKind::not_finite, {}};
      continue;
    }
    if (steps.empty()) {
      slope.kind = left_finite ? SlopeKind::left_only : SlopeKind::right_only;
      slope.value = kNaN;
      slope.uncertainty = kNaN;
      (left_finite ? slope.right : slope.left) = kNaN;
      continue;
    }
    double size = std::abs(at[r]);
    for (const Pair& p : pairs)
      if (p.step <= h && std::isfinite(p.minus[r])) size = std::max(size, std::abs(p.minus[r]));
    extrapolate(steps, central, eps * size, slope);
    slope.differences = central;
    slope.kind = kind_of(one_sided_steps, one_sided_left, one_sided_right, size, eps);
    // The slopes that the reader is shown are those of the given step: the smallest ones are mostly rounding.
    if (!one_sided_left.empty()) {
      const size_t shown = std::min<size_t>(2, one_sided_left.size() - 1);
      slope.left = one_sided_left[shown];
      slope.right = one_sided_right[shown];
    }
  }
  return slopes;
}

}  // namespace halfstep::detail
