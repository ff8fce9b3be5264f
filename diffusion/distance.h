// Distances between sets of pictures that need no trained network.
#pragma once

#include <cstdint>

#include "tensor/tensor.h"

namespace halfstep {

/// The sliced Wasserstein-2 distance (Rabin et al. 2012) of two sets of K pictures each: both are projected
/// on a random direction (unit length), the projections are sorted, and the root of the mean squared
/// difference is taken over pairs and `directions`. It counts in values of pixels: sets that differ by a
/// constant c in all pixels have the distance |c|, in the mean over directions. 0 for equal sets, in whatever
/// order.
///
/// a, b: [K, ...] of one shape, on any device. For two sets from one distribution it falls like 1/sqrt(K):
/// compare only distances with equal K. Directions come from `seed`. Throws Error for other shapes.
double sliced_wasserstein(const Tensor& a, const Tensor& b, int64_t directions = 256, uint64_t seed = 0);

/// Root of the mean squared difference of all elements. a, b: of one shape. Throws Error for others.
double rms_difference(const Tensor& a, const Tensor& b);

}  // namespace halfstep
