// Results of the rows of the case table, and how far those of two backends may differ.
#pragma once

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "autograd/cases/op_cases.h"
#include "autograd/ops.h"
#include "tests/worst.h"

namespace halfstep::test {

/// The output and the gradients of all inputs for an all-ones-like upstream, as f64 on the host.
inline std::vector<std::vector<double>> case_results(const OpCase& c, std::vector<Variable> inputs) {
  const Variable y = c.function(inputs);
  const Tensor upstream =
      random_uniform(y.shape(), {5, 0}, 0, {DType::f32, &y.value().device()}).to(y.dtype());
  const auto gradients = grad(y, inputs, Variable(upstream));
  std::vector<std::vector<double>> all{y.value().to_vector<double>()};
  for (const Variable& g : gradients) all.push_back(g.value().to_vector<double>());
  return all;
}

/// |a - b| <= bound * max(1, max|b|), element by element; NaN never passes.
inline void check_close(const std::vector<double>& a, const std::vector<double>& b, double bound) {
  REQUIRE(a.size() == b.size());
  double largest = 1, error = 0;
  for (double v : b) largest = std::max(largest, std::abs(v));
  for (size_t i = 0; i < a.size(); ++i) keep_worst(error, std::abs(a[i] - b[i]));
  CHECK(error <= bound * largest);
}

/// |a - b| <= bound * max(1, max|b|) for the output and every gradient.
inline void check_all_close(const std::vector<std::vector<double>>& a,
                            const std::vector<std::vector<double>>& b, double bound) {
  REQUIRE(a.size() == b.size());
  for (size_t i = 0; i < a.size(); ++i) {
    CAPTURE(i);
    check_close(a[i], b[i], bound);
  }
}

/// Rounding errors of n terms are independent: their sum grows like sqrt(n), with few above 4 deviations. The
/// functions themselves are good to a few units in the last place, and normalisations amplify by their number
/// of passes; 16 units cover both. A case that cancels more says so by `terms`.
inline double rounding_bound(const OpCase& c, const std::vector<std::vector<double>>& results, DType dtype) {
  int64_t terms = c.terms;
  if (terms == 0)
    for (const auto& r : results) terms = std::max(terms, static_cast<int64_t>(r.size()));
  const double eps =
      dtype == DType::f32 ? std::numeric_limits<float>::epsilon() : std::numeric_limits<double>::epsilon();
  return eps * (16 + 4 * std::sqrt(static_cast<double>(terms)));
}

}  // namespace halfstep::test
