// The worker threads of the CPU kernels.
#pragma once

#include <cstdint>

#include "tensor/threads.h"

namespace halfstep::cpu {

/// Calls body(context, begin, end) for the blocks [0, grain), [grain, 2 grain) ... of [0, n), on all threads.
/// The blocks depend on n and grain alone, and so do results that are computed block by block. A call from
/// inside a body runs its blocks serially. The first exception of a body is rethrown after all threads have
/// stopped. Bodies run with denormals flushed to zero (they are many times slower), on whichever thread.
void run_blocks(int64_t n, int64_t grain, void (*body)(void* context, int64_t begin, int64_t end),
                void* context);

/// run_blocks for a callable fn(begin, end). In kernels fn must be a lambda: its unnamed type keeps the
/// instantiation inside the instruction set that it was compiled for.
template <class Function>
void parallel_for(int64_t n, int64_t grain, Function fn) {
  run_blocks(
      n, grain,
      [](void* context, int64_t begin, int64_t end) { (*static_cast<Function*>(context))(begin, end); }, &fn);
}

}  // namespace halfstep::cpu
