// Running a kernel: blocks one after another, the threads of a block as fibers.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "cuda/emulation/thread.h"

namespace halfstep::emulation {

/// All that a launch needs, copied when it is queued.
struct KernelLaunch {
  const Module* module;
  const Kernel* kernel;
  uint32_t grid[3], block[3];
  uint32_t dynamic_shared;
  std::vector<uint8_t> params;
};

/// Runs all threads. A kernel that cannot go on (a barrier that is never complete, trap) is reported
/// (reports.h) and given up.
void execute(const KernelLaunch& launch);

/// The file and line of a site: "cuda/reduce.cu:41", or with the place it was inlined into.
std::string describe_site(uint32_t site);
/// "thread (3, 0, 0) of block (1, 0, 0)".
std::string describe_thread(const Thread& t);
/// The launch that runs now; nullptr between launches.
const KernelLaunch* running_launch();
/// "softmax_rows<float>(...)" of a mangled name.
std::string readable_name(const char* mangled);

}  // namespace halfstep::emulation
