// First values of parameters, and the random streams that they are drawn from.
#pragma once

#include <cstdint>
#include <functional>
#include <string_view>

#include "tensor/ops.h"

namespace halfstep {

/// A key of its own for everything that has a name or a number: same seed, a stream hashed from the old
/// stream and `name` (or `index`). Equal arguments give equal keys; streams of different arguments are
/// independent for all practical purposes (64-bit hash).
RandomKey fold_in(RandomKey key, std::string_view name);
RandomKey fold_in(RandomKey key, uint64_t index);

/// Makes the first value of a parameter. Everything random in it comes from `key`, so that a parameter does
/// not change when other layers are added or when it is made in another dtype or on another device.
using Initializer = std::function<Tensor(const Shape& shape, RandomKey key, TensorOptions options)>;

namespace init {

/// Every element is `value`.
Initializer constant(double value);
inline Initializer zeros() { return constant(0); }
inline Initializer ones() { return constant(1); }
/// Normal with mean 0.
Initializer normal(double stddev);
/// Uniform in [low, high).
Initializer uniform(double low, double high);

/// What the variance is divided by, for a kernel [..., in, out] with `k` = product of the leading axes (the
/// pixels of a convolution): fan_in = k * in, fan_out = k * out, fan_avg their mean.
enum class Fan { in, out, average };
/// `truncated_normal` cuts at two standard deviations and is scaled so that the variance is the one asked
/// for.
enum class Distribution { uniform, normal, truncated_normal };

/// Values of mean 0 and variance scale / fan (He et al. 2015; Glorot & Bengio 2010). Kernels of rank >= 2
/// only.
Initializer variance_scaling(double scale, Fan fan, Distribution distribution);
/// The default of flax and of the official UNet: variance 1 / fan_in, truncated normal.
inline Initializer lecun_normal() { return variance_scaling(1, Fan::in, Distribution::truncated_normal); }
inline Initializer glorot_uniform() { return variance_scaling(1, Fan::average, Distribution::uniform); }

}  // namespace init
}  // namespace halfstep
