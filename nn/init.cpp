#include "nn/init.h"

#include <cmath>
#include <vector>

#include "tensor/error.h"

namespace halfstep {
namespace {

// The finaliser of splitmix64 (Steele, Lea & Flood 2014): every input bit reaches every output bit.
uint64_t mix(uint64_t x) {
  x += 0x9E3779B97F4A7C15;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EB;
  return x ^ (x >> 31);
}

/// The standard normal restricted to [-2, 2]: each element takes its first draw that lies inside. The draws
/// are made on the host, once per training run.
Tensor truncated_normal(const Shape& shape, RandomKey key, TensorOptions options) {
  std::vector<double> values(static_cast<size_t>(numel(shape)), INFINITY);
  bool complete = false;
  for (uint64_t attempt = 0; !complete; ++attempt) {
    const std::vector<double> draws = random_normal(shape, fold_in(key, attempt)).to_vector<double>();
    complete = true;
    for (size_t i = 0; i < values.size(); ++i) {
      if (std::abs(values[i]) > 2) values[i] = draws[i];
      if (std::abs(values[i]) > 2) complete = false;
    }
  }
  return Tensor::from(values, shape, options);
}

}  // namespace

RandomKey fold_in(RandomKey key, uint64_t index) { return {key.seed, mix(key.stream ^ mix(index))}; }

RandomKey fold_in(RandomKey key, std::string_view name) {
  uint64_t hash = 0xCBF29CE484222325;  // FNV-1a
  for (const char c : name) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001B3;
  return fold_in(key, hash);
}

namespace init {

Initializer constant(double value) {
  return [value](const Shape& shape, RandomKey, TensorOptions options) {
    return Tensor::full(shape, value, options);
  };
}

Initializer normal(double stddev) {
  return [stddev](const Shape& shape, RandomKey key, TensorOptions options) {
    return affine(random_normal(shape, key, 0, options), stddev, 0);
  };
}

Initializer uniform(double low, double high) {
  return [low, high](const Shape& shape, RandomKey key, TensorOptions options) {
    return affine(random_uniform(shape, key, 0, options), high - low, low);
  };
}

Initializer variance_scaling(double scale, Fan fan, Distribution distribution) {
  return [=](const Shape& shape, RandomKey key, TensorOptions options) {
    require(shape.rank() >= 2 && numel(shape) > 0, "variance_scaling",
            "expected a kernel [..., in, out] without empty axes, got shape {}; use zeros or ones for biases "
            "and scales",
            str(shape));
    const int rank = shape.rank();
    const double elements = static_cast<double>(numel(shape));
    const double fan_in = elements / static_cast<double>(shape[rank - 1]);
    const double fan_out = elements / static_cast<double>(shape[rank - 2]);
    const double divisor = fan == Fan::in ? fan_in : fan == Fan::out ? fan_out : (fan_in + fan_out) / 2;
    const double stddev = std::sqrt(scale / divisor);
    switch (distribution) {
      case Distribution::uniform: {
        const double bound = std::sqrt(3.0) * stddev;  // variance of U(-a, a) is a^2 / 3
        return uniform(-bound, bound)(shape, key, options);
      }
      case Distribution::normal:
        return normal(stddev)(shape, key, options);
      case Distribution::truncated_normal:
        break;
    }
    // Standard deviation of a standard normal truncated to [-2, 2].
    constexpr double kTruncatedStddev = 0.87962566103423978;
    return affine(truncated_normal(shape, key, options), stddev / kTruncatedStddev, 0);
  };
}

}  // namespace init
}  // namespace halfstep
