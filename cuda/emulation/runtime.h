// What other stand-ins (cuBLAS) need of the emulated CUDA runtime.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <functional>

namespace halfstep::emulation {

/// Queues host work as if it were a kernel on `stream`; it runs when the stream is drained.
void enqueue(cudaStream_t stream, std::function<void()> work);

/// What a host_view is for.
enum class Access { read, write };
/// The host's view of `bytes` of device memory at `device`; reports an out-of-bounds or freed access. read
/// checks that the bytes are initialised; write marks them so.
void* host_view(const void* device, size_t bytes, Access access);

/// Counts a matrix product when it runs, if kernels are counted; `type` is that of the factors (KernelCounts).
void count_gemm(const char* name, double flops, double bytes, const char* type);

}  // namespace halfstep::emulation
