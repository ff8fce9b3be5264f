// How many threads the CPU kernels use.
#pragma once

namespace halfstep {

/// Threads that kernels run on, the caller included: HALFSTEP_THREADS or the number of CPUs that this process
/// may use, unless set_num_threads was called. Throws Error when HALFSTEP_THREADS is not a number from 1 to
/// 1024.
int num_threads();
/// Throws Error outside 1 ... 1024. Not to be called from inside a kernel.
void set_num_threads(int count);

}  // namespace halfstep
