// What every part of the CUDA backend stands on: one stream, one workspace, statuses turned into exceptions,
// and launches.
//
// All kernels run on one stream in the order of the calls, so that memory which the caching allocator hands
// on, and the workspace, are never read and written at once.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <source_location>
#include <string>

namespace halfstep::cuda {

/// The stream of all work on the device.
cudaStream_t stream();

/// Device memory for the partial results of one call, aligned to 256 bytes; its contents are undefined. The
/// next call may use the same memory: nothing in it outlives the entry that asked for it, and an entry asks
/// once. Recorded graphs keep the memory that their calls were given.
void* workspace(size_t bytes);

/// Multiprocessors of the device, and its compute capability as major * 10 + minor.
int multiprocessors();
int compute_capability();

/// Whether f32 matrix products and convolutions may round their factors to TF32 (10 bits of mantissa) to run
/// on tensor cores. Off unless HALFSTEP_CUDA_TF32=1.
bool allow_tf32();

/// "cuda/reduce.cu:41", for messages.
std::string describe(const std::source_location& where);
/// Throws Error with CUDA's text and the place of the call unless `status` is success.
void check(cudaError_t status, std::source_location where = std::source_location::current());

/// Threads per block where a kernel has no reason for another number.
inline constexpr int kThreads = 256;

/// ceil(a / b) for positive numbers.
constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

/// Blocks for a grid-stride loop over n > 0 items: enough to fill the device a few times, not more.
int grid_for(int64_t n, int threads = kThreads);

/// Where and how wide a kernel runs. A grid has at least one block: callers return before for empty arrays.
struct Launch {
  dim3 grid;
  dim3 block = dim3(kThreads);
  size_t shared_bytes = 0;  ///< dynamic shared memory
  std::source_location where = std::source_location::current();
};

/// Kernels started so far, those of libraries included.
int64_t launches();
/// Counts a call of a library that starts a kernel, or all kernels of a graph.
void count_launches(int64_t count);
/// HALFSTEP_CUDA_SYNC=1: after_launch waits for the kernel.
bool waits_for_kernels();
/// Counts the launch, reports a refused one, and with debug-sync waits and attributes a failed kernel.
void after_launch(const void* kernel, const Launch& launch);
/// Allows a kernel more than 48 KiB of dynamic shared memory.
void allow_shared_bytes(const void* kernel, size_t bytes, std::source_location where);

#if defined(__CUDACC__)
/// kernel<<<...>>>(args...) on stream(): launch({blocks}, kernel, args...).
template <class... Params, class... Args>
void launch(const Launch& l, void (*kernel)(Params...), Args... args) {
  if (l.shared_bytes > 48 * 1024)
    allow_shared_bytes(reinterpret_cast<const void*>(kernel), l.shared_bytes, l.where);
  kernel<<<l.grid, l.block, l.shared_bytes, stream()>>>(static_cast<Params>(args)...);
  after_launch(reinterpret_cast<const void*>(kernel), l);
}
#endif

}  // namespace halfstep::cuda
