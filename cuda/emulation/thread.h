// The state of a running grid as the translated kernels see it, and where they hand over to the scheduler
// (execution.cpp) and to the checker (checker.cpp).
#pragma once

#include <cstdint>

#include "cuda/emulation/module.h"

namespace halfstep::emulation {

struct Block;
struct Warp;

/// Memory spaces of PTX. A generic address is a device address of global memory, or a shared offset in
/// kSharedWindow, or a host address of a thread's own (local) memory.
enum class Space : uint8_t { global, shared, local, generic };
enum class Action : uint8_t { read, write, atomic };

/// Device addresses lie in a range that nobody can read; the bytes themselves lie kView above (memory.h). So
/// a host that dereferences a device pointer is caught by the processor.
inline constexpr uint64_t kView = uint64_t{1} << 36;
/// Where shared memory appears among generic addresses.
inline constexpr uint64_t kSharedWindow = uint64_t{0xE} << 60;

/// A copy from global to shared memory that is under way (cp.async).
struct PendingCopy {
  uint64_t to, from;
  uint32_t bytes, source_bytes;
  uint32_t site;
};
struct PendingCopies;

/// One CUDA thread.
struct Thread {
  uint32_t thread_index[3];
  uint32_t lane, warp_index, number;  ///< number: in the block, x fastest
  bool watched;                       ///< every access is shown to watch()
  uint64_t* block_counts;             ///< or null: how often each basic block ran
  uint8_t* shared;
  Block* block;
  Warp* warp;
  PendingCopies* copies;
  enum class State : uint8_t { ready, at_barrier, in_warp, done } state;
  uint32_t barrier, barrier_site;
  uint32_t barrier_value, barrier_result;
  uint32_t warp_epoch;  ///< how often __syncwarp ordered this lane's accesses
  void* stack_pointer;

  void enter_block(uint32_t number_of_block) {
    if (block_counts) [[unlikely]]
      ++block_counts[number_of_block];
  }
};

/// What a lane brings to an instruction that all lanes of a mask execute together, and what it takes away.
struct Lane {
  Thread* thread;
  uint32_t mask, site;
  void (*work)(Warp&, uint32_t lanes);
  uint32_t in[14];
  uint32_t out[4];
};
struct Warp {
  Lane lane[32];
  uint32_t present;  ///< lanes that have not left the kernel
  uint32_t waiting;
};

/// One block while it runs.
struct Block {
  uint32_t size[3], index[3], grid[3];
  uint32_t dynamic_shared;
  const uint8_t* params;
  const Kernel* kernel;
};

// --- scheduler ---------------------------------------------------------------------------------------------

/// Waits until all lanes of the mask that t.warp->lane[t.lane] names have called, and lets the last one do
/// `work`, which reads `in` and writes `out` of the lanes.
void meet_warp(Thread& t, uint32_t mask, uint32_t site, void (*work)(Warp&, uint32_t lanes));
/// Waits for `count` threads of the block, or with 0 for all that have not left; returns the results of a
/// reduction over `value` in t.barrier_result: the number of threads that gave one.
void sync_block(Thread& t, uint32_t barrier, uint32_t count, uint32_t site, uint32_t value = 0);
/// __syncwarp: orders the lanes' accesses to memory.
void sync_warp(Thread& t, uint32_t mask, uint32_t site);
[[noreturn]] void trap(Thread& t, uint32_t site);

// --- checker -----------------------------------------------------------------------------------------------

/// Judges an access; false: report it and leave the memory alone.
bool watch(Thread& t, Space space, uint64_t address, uint32_t bytes, Action action, uint32_t site);

// --- asynchronous copies -----------------------------------------------------------------------------------

void start_copy(Thread& t, const PendingCopy& copy);
void commit_copies(Thread& t);
/// Completes all committed groups but the newest `remaining`.
void wait_copies(Thread& t, uint32_t remaining);

}  // namespace halfstep::emulation
