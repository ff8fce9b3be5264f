// Counting what kernels do: launches, instructions by class, and the memory traffic of warps.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "cuda/emulation/execution.h"

namespace halfstep::emulation {

/// The sums over all launches of one kernel.
struct KernelCounts {
  uint64_t launches = 0, blocks = 0, threads = 0;
  std::map<std::string, uint64_t> instructions;  ///< executed by all threads, by class
  /// Requests are loads and stores of a warp: sectors of 32 bytes that they touch, and bytes asked for.
  uint64_t global_requests = 0, global_sectors = 0, global_bytes_read = 0, global_bytes_written = 0;
  /// Wavefronts: passes over the 32 banks that a request needs.
  uint64_t shared_requests = 0, shared_wavefronts = 0;
  double library_flops = 0, library_bytes = 0;  ///< of cuBLAS
};

/// By the kernel's readable name. With HALFSTEP_EMULATION_COUNT=1, else empty.
const std::map<std::string, KernelCounts>& kernel_counts();
void reset_kernel_counts();
/// A table of them, the kernels with most instructions first; printed on stderr when the program ends.
std::string kernel_counts_table();

// Called by the scheduler and the checker.
uint64_t* count_blocks_of(const Module& module);
void count_begin_launch(const KernelLaunch& launch);
void count_access(Thread& t, Space space, uint64_t address, uint32_t bytes, Action action, uint32_t site);
void count_end_block(const KernelLaunch& launch);
void count_end_launch(const KernelLaunch& launch);

}  // namespace halfstep::emulation
