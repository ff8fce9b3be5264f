// TO BE REMOVED: stand-ins for operations that the framework does not have yet. Each has the signature of the
// one that replaces it.
#pragma once

#include <cmath>
#include <numbers>
#include <vector>

#include "autograd/ops.h"

namespace halfstep::test::missing {

inline Variable gelu(const Variable& x) {
  const auto map = [&](auto f) {
    std::vector<double> values = x.value().to_vector<double>();
    for (double& value : values) value = f(value);
    return Tensor::from(values, x.shape(), x.options());
  };
  const auto cdf = [](double t) { return 0.5 * (1 + std::erf(t / std::numbers::sqrt2)); };
  const Tensor slope =
      map([&](double t) { return cdf(t) + t * std::exp(-t * t / 2) / std::sqrt(2 * std::numbers::pi); });
  return record("gelu", map([&](double t) { return t * cdf(t); }), {x},
                [slope](const Variable& g) -> std::vector<Variable> { return {g * Variable(slope)}; });
}
inline Variable gelu_tanh(const Variable& x) {
  const double c = std::sqrt(2 / std::numbers::pi);
  return 0.5 * x * (1 + tanh(c * (x + 0.044715 * (x * x * x))));
}
inline Variable leaky_relu(const Variable& x, double slope) { return relu(x) - slope * relu(-x); }
inline Variable abs(const Variable& x) { return relu(x) + relu(-x); }

inline Variable pad(const Variable& x, const std::vector<int64_t>& before, const std::vector<int64_t>& after,
                    double value) {
  Variable result = x;
  for (int axis = 0; axis < x.rank(); ++axis) {
    std::vector<Variable> parts;
    const auto add = [&](int64_t count) {
      Shape shape = result.shape();
      shape[axis] = count;
      if (count > 0) parts.push_back(Variable(Tensor::full(shape, value, x.options())));
    };
    add(before[static_cast<size_t>(axis)]);
    parts.push_back(result);
    add(after[static_cast<size_t>(axis)]);
    if (parts.size() > 1) result = concat(parts, axis);
  }
  return result;
}

inline Variable embedding(const Variable& table, const Tensor& ids) {
  const std::vector<int64_t> rows = ids.to_vector<int64_t>();
  std::vector<double> one_hot(rows.size() * static_cast<size_t>(table.size(0)));
  for (size_t i = 0; i < rows.size(); ++i)
    one_hot[i * static_cast<size_t>(table.size(0)) + static_cast<size_t>(rows[i])] = 1;
  const Variable picked = matmul(
      Variable(Tensor::from(one_hot, {static_cast<int64_t>(rows.size()), table.size(0)}, table.options())),
      table);
  Shape shape = ids.shape();
  shape.push_back(table.size(1));
  return reshape(picked, shape);
}

}  // namespace halfstep::test::missing
