// The checker: what a kernel does to memory, judged access by access.
//
// Every byte of shared and global memory has a cell that remembers its last writer and its last readers:
// which thread, in which phase. A phase is the time of one block between two barriers; phases are numbered in
// the order in which they run, blocks run one after another. Two accesses to a byte by different threads, at
// least one of them a write, are a race
//   * in the same phase, unless both threads are of one warp and __syncwarp stands between them (shuffles
//     order nothing);
//   * in phases of different blocks of one launch;
// whatever order they happened to run in. A byte without a writer is uninitialised.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>

#include "cuda/emulation/thread.h"

namespace halfstep::emulation {

/// A launch, a block, a barrier of all threads: new phases.
void check_begin_launch();
void check_begin_block(uint32_t shared_bytes);
void check_barrier();
/// The end of a block: copies that nobody waited for.
void check_copy_started(Thread& t, const PendingCopy& copy);
void check_copy_finished(const PendingCopy& copy);

/// Memory is new (contents undefined), gone, or written or read by the host or a library.
void check_allocated(uint64_t begin, size_t bytes);
void check_freed(uint64_t begin);
void check_written(uint64_t begin, size_t bytes);
/// False, and a report that names `reader`, if some byte was never written.
bool check_initialised(uint64_t begin, size_t bytes, const char* reader);

/// Runs `action` in the checker's mode, for tests: what it allocates is watched.
void with_checker(const std::function<void()>& action);

}  // namespace halfstep::emulation
