// What the kernels must know of the caches. Their sizes choose the order of work, never the bits of a result.
#pragma once

#include <cstdint>

namespace halfstep::cpu {

/// Bytes of a core's second-level cache; 1 MB where the system does not say.
int64_t second_level_cache();

}  // namespace halfstep::cpu
