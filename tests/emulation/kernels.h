// Kernels for the tests of the emulator: right ones, and one with each mistake that the checker is to find.
#pragma once

#include <cuda_runtime_api.h>

namespace halfstep::test {

/// What each launch does is said in kernels.cu. `data` holds at least 64 floats, all kernels use one block of
/// 64 threads unless they say otherwise.
void launch_right(float* data, cudaStream_t stream);
void launch_warp_synchronised(float* data, cudaStream_t stream);
void launch_out_of_bounds(float* data, cudaStream_t stream);
void launch_out_of_shared(float* data, cudaStream_t stream);
void launch_misaligned(float* data, cudaStream_t stream);
void launch_uninitialised_shared(float* data, cudaStream_t stream);
void launch_missing_barrier(float* data, cudaStream_t stream);
void launch_missing_warp_barrier(float* data, cudaStream_t stream);
void launch_race_of_blocks(float* data, cudaStream_t stream);
void launch_divergent_barrier(float* data, cudaStream_t stream);
void launch_shuffle_without_lanes(float* data, cudaStream_t stream);
void launch_copy_without_wait(float* data, cudaStream_t stream);
void launch_deadlock(float* data, cudaStream_t stream);
void launch_add_one(float* data, cudaStream_t stream);
/// One warp, whose odd lanes load twice.
void launch_uneven(float* data, cudaStream_t stream);
/// add_one with any configuration; what the launch says.
cudaError_t launch_configured(float* data, dim3 grid, dim3 block, size_t shared_bytes, bool allow,
                              cudaStream_t stream);
/// out[i] = the warp-wide results of each shuffle, vote and atomic; 64 uint32_t of `words`.
void launch_warp_functions(unsigned* words, cudaStream_t stream);

}  // namespace halfstep::test
