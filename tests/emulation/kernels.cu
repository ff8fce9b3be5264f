#include "tests/emulation/kernels.h"

#include <cuda_pipeline_primitives.h>

namespace halfstep::test {
namespace {

constexpr int kThreads = 64;

/// Reverses the 64 numbers through shared memory, as it should be done.
__global__ void right(float* data) {
  __shared__ float tile[kThreads];
  tile[threadIdx.x] = data[threadIdx.x];
  __syncthreads();
  data[threadIdx.x] = tile[kThreads - 1 - threadIdx.x];
}
/// Neighbouring lanes exchange; __syncwarp is all they need.
__global__ void warp_synchronised(float* data) {
  __shared__ float tile[kThreads];
  tile[threadIdx.x] = data[threadIdx.x];
  __syncwarp();
  data[threadIdx.x] = tile[threadIdx.x ^ 1];
}
__global__ void out_of_bounds(float* data) { data[threadIdx.x + 1] = 1; }
__global__ void out_of_shared(float* data) {
  extern __shared__ float tile[];
  tile[threadIdx.x + 1] = data[threadIdx.x];
}
__global__ void misaligned(float* data) {
  if (threadIdx.x == 0) *reinterpret_cast<float2*>(data + 1) = {1, 2};
}
__global__ void uninitialised_shared(float* data) {
  __shared__ float tile[kThreads];
  if (threadIdx.x != 7) tile[threadIdx.x] = 1;
  __syncthreads();
  data[threadIdx.x] = tile[threadIdx.x];
}
__global__ void missing_barrier(float* data) {
  __shared__ float tile[kThreads];
  tile[threadIdx.x] = data[threadIdx.x];
  data[threadIdx.x] = tile[kThreads - 1 - threadIdx.x];
}
__global__ void missing_warp_barrier(float* data) {
  __shared__ float tile[kThreads];
  tile[threadIdx.x] = data[threadIdx.x];
  // A shuffle brings the lanes together, but orders no memory.
  const float zero = 0 * __shfl_xor_sync(0xffffffffu, data[threadIdx.x], 1);
  data[threadIdx.x] = tile[threadIdx.x ^ 1] + zero;
}
__global__ void race_of_blocks(float* data) { data[threadIdx.x] = static_cast<float>(blockIdx.x); }
__global__ void divergent_barrier(float* data) {
  if (threadIdx.x < 32) {
    data[threadIdx.x] = 1;
    __syncthreads();
  } else {
    data[threadIdx.x] = 2;
    __syncthreads();
    data[threadIdx.x] = 3;
  }
}
__global__ void shuffle_without_lanes(float* data) {
  if (threadIdx.x % 32 >= 16) return;
  data[threadIdx.x] = __shfl_xor_sync(0xffffffffu, data[threadIdx.x], 16);
}
__global__ void copy_without_wait(float* data) {
  __shared__ alignas(16) float tile[kThreads];
  if (threadIdx.x < 16) __pipeline_memcpy_async(tile + 4 * threadIdx.x, data + 4 * threadIdx.x, 16);
  __pipeline_commit();
  __syncthreads();
  data[threadIdx.x] = tile[threadIdx.x];
  __pipeline_wait_prior(0);
}
/// Half of a warp waits for lanes that wait at a barrier.
__global__ void deadlock(float* data) {
  if (threadIdx.x % 32 < 16)
    __syncwarp();
  else
    __syncthreads();
  data[threadIdx.x] = 1;
}
__global__ void add_one(float* data) { data[threadIdx.x] += 1; }

__global__ void uneven(float* data) {
  float sum = 1;
  for (unsigned i = 0; i <= threadIdx.x % 2; ++i) sum += data[32 * i + threadIdx.x];
  data[threadIdx.x] = sum;
}

__global__ void warp_functions(unsigned* words) {
  const unsigned lane = threadIdx.x;
  unsigned* row = words + lane * 8;
  row[0] = __shfl_up_sync(0xffffffffu, lane, 3);
  row[1] = __shfl_down_sync(0xffffffffu, lane, 3, 8);
  row[2] = __shfl_xor_sync(0xffffffffu, lane, 5);
  row[3] = __shfl_sync(0xffffffffu, lane, 9, 16);
  row[4] = __ballot_sync(0xffffffffu, lane % 3 == 0);
  row[5] = static_cast<unsigned>(__any_sync(0xffffffffu, lane == 4)) + 2 * __all_sync(0xffffffffu, lane < 31);
  row[6] = static_cast<unsigned>(__popc(lane) + __clz(static_cast<int>(lane)) * 100) + __brev(lane);
  row[7] = __byte_perm(0x03020100u, 0x07060504u, 0x7531u + lane % 2);
  __shared__ unsigned sum;
  if (lane == 0) sum = 0;
  __syncthreads();
  atomicAdd(&sum, lane);
  __syncthreads();
  row[7] += sum;
}

}  // namespace

void launch_right(float* data, cudaStream_t s) { right<<<1, kThreads, 0, s>>>(data); }
void launch_warp_synchronised(float* data, cudaStream_t s) { warp_synchronised<<<1, kThreads, 0, s>>>(data); }
void launch_out_of_bounds(float* data, cudaStream_t s) { out_of_bounds<<<1, kThreads, 0, s>>>(data); }
void launch_out_of_shared(float* data, cudaStream_t s) {
  out_of_shared<<<1, kThreads, kThreads * sizeof(float), s>>>(data);
}
void launch_misaligned(float* data, cudaStream_t s) { misaligned<<<1, kThreads, 0, s>>>(data); }
void launch_uninitialised_shared(float* data, cudaStream_t s) {
  uninitialised_shared<<<1, kThreads, 0, s>>>(data);
}
void launch_missing_barrier(float* data, cudaStream_t s) { missing_barrier<<<1, kThreads, 0, s>>>(data); }
void launch_missing_warp_barrier(float* data, cudaStream_t s) {
  missing_warp_barrier<<<1, kThreads, 0, s>>>(data);
}
void launch_race_of_blocks(float* data, cudaStream_t s) { race_of_blocks<<<2, kThreads, 0, s>>>(data); }
void launch_divergent_barrier(float* data, cudaStream_t s) { divergent_barrier<<<1, kThreads, 0, s>>>(data); }
void launch_shuffle_without_lanes(float* data, cudaStream_t s) {
  shuffle_without_lanes<<<1, kThreads, 0, s>>>(data);
}
void launch_copy_without_wait(float* data, cudaStream_t s) { copy_without_wait<<<1, kThreads, 0, s>>>(data); }
void launch_deadlock(float* data, cudaStream_t s) { deadlock<<<1, kThreads, 0, s>>>(data); }
void launch_add_one(float* data, cudaStream_t s) { add_one<<<1, kThreads, 0, s>>>(data); }
void launch_uneven(float* data, cudaStream_t s) { uneven<<<1, 32, 0, s>>>(data); }
cudaError_t launch_configured(float* data, dim3 grid, dim3 block, size_t shared_bytes, bool allow,
                              cudaStream_t s) {
  if (allow) {
    const cudaError_t status = cudaFuncSetAttribute(add_one, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                                    static_cast<int>(shared_bytes));
    if (status != cudaSuccess) return status;
  }
  add_one<<<grid, block, shared_bytes, s>>>(data);
  return cudaGetLastError();
}
void launch_warp_functions(unsigned* words, cudaStream_t s) { warp_functions<<<1, 32, 0, s>>>(words); }

}  // namespace halfstep::test
