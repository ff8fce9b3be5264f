// The most that a core can do: independent multiply-adds on registers.
#pragma once

#include "tensor/cpu/cpu_backend.h"

namespace halfstep::bench {

/// Multiply-adds (2 operations each) in 1e9 operations per second that one thread reaches with vectors of
/// `isa`, f32.
double peak_gflops(Isa isa);

}  // namespace halfstep::bench
