// Which random numbers serve which purpose. Every draw has a place of its own, named by (seed, purpose,
// index), so adding a draw somewhere shifts no other, and a resumed run draws what the uninterrupted one
// would have drawn.
#pragma once

#include <cstdint>

#include "tensor/ops.h"

namespace halfstep {

/// The numbers are part of what makes runs reproducible: append, never renumber.
enum class RandomUse : uint8_t {
  data_order = 1,    ///< index: pass over the data
  augmentation = 2,  ///< index: training step
  time = 3,          ///< t or i of Algorithms 1 and 2; index: training step
  noise = 4,         ///< eps of Algorithms 1 and 2; index: training step
  dropout = 5,       ///< index 0, rows: training steps
  sample_noise = 6,  ///< z at time 1; index 0, rows: samples
  step_noise = 7,    ///< ancestral sampling; index: loop index i, rows: samples
  sample_label = 8,  ///< index 0, rows: samples
};

/// index: below 2^56.
inline RandomKey random_key(uint64_t seed, RandomUse use, uint64_t index = 0) {
  return {seed, (static_cast<uint64_t>(use) << 56) + index};
}

}  // namespace halfstep
