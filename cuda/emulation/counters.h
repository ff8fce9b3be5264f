// Counting what kernels do: launches, instructions by class, and the memory traffic of warps.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "cuda/emulation/execution.h"
#include "tensor/kernel_counts.h"

namespace halfstep::emulation {

/// What was counted since the last reset, in the order of the kernels' names.
std::vector<KernelCounts> kernel_counts();
void reset_kernel_counts();
/// Counts from now on, or no longer (with HALFSTEP_EMULATION_COUNT=1 always); kernels that are still queued
/// are counted when they run.
void count_kernels(bool on);
/// A table with one line for each kernel, those with most instructions first; printed on stderr when the
/// program ends with HALFSTEP_EMULATION_COUNT=1.
std::string kernel_counts_table();

// Called by the scheduler and the checker.
uint64_t* count_blocks_of(const Module& module);
void count_begin_launch(const KernelLaunch& launch);
void count_access(Thread& t, Space space, uint64_t address, uint32_t bytes, Action action, uint32_t site);
void count_end_block(const KernelLaunch& launch);
void count_end_launch(const KernelLaunch& launch);

}  // namespace halfstep::emulation
