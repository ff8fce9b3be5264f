// The CUDA backend's table, and the look for a GPU.
#include "tensor/backend.h"

#include <cuda_runtime_api.h>

#include <string>

#include "cuda/entries.h"
#include "cuda/runtime.h"
#include "tensor/bf16_entries.h"

#if defined(HALFSTEP_CUDA_EMULATED)
#include "cuda/emulation/counters.h"
#endif

namespace halfstep {
namespace cuda {
namespace {

// The caching allocator above hands blocks on in the order of the calls, so memory needs no stream order
// here.
void* allocate(size_t bytes) {
  void* memory = nullptr;
  const cudaError_t status = cudaMalloc(&memory, bytes);
  if (status == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    return nullptr;
  }
  check(status);
  return memory;
}
void release(void* memory, size_t) { check(cudaFree(memory)); }

void download(void* host, const void* device, size_t bytes) {
  if (bytes) check(cudaMemcpyAsync(host, device, bytes, cudaMemcpyDeviceToHost, stream()));
  check(cudaStreamSynchronize(stream()));
}
void synchronize() { check(cudaStreamSynchronize(stream())); }

constexpr Backend kTable = {
    .name = "cuda",
    .synchronous = false,
    .computes_bf16 = false,
    .allocate = allocate,
    .release = release,
    .upload = upload,
    .download = download,
    .synchronize = synchronize,
    .launches = launches,
    .begin_capture = begin_capture,
    .end_capture = end_capture,
    .launch_graph = launch_graph,
    .destroy_graph = destroy_graph,
    .fill = fill,
    .copy = copy,
    .unary = unary,
    .unary_chain = unary_chain,
    .binary = binary,
    .where = where,
    .reduce = reduce,
    .cumulative_sum = cumulative_sum,
    .argsort = argsort,
    .gather = gather,
    .scatter_add = scatter_add,
    .gemm = gemm,
    .conv2d_forward = conv2d_forward,
    .conv2d_backward_data = conv2d_backward_data,
    .conv2d_backward_kernel = conv2d_backward_kernel,
    .softmax = softmax,
    .softmax_backward = softmax_backward,
    .attention = attention,
    .attention_backward = attention_backward,
    .group_norm = group_norm,
    .group_norm_backward = group_norm_backward,
    .random = random,
    .dropout = dropout,
    .sum_of_squares = sum_of_squares,
    .optimizer_control = optimizer_control,
    .adam = adam,
    .sgd = sgd,
    .moving_average = moving_average,
    .max_pool2d = max_pool2d,
};
const Backend& full_precision() {
  static const Backend table = [] {
    Backend b = kTable;
    // A kernel that fails is known by its launch only where each has one of its own.
    if (waits_for_kernels()) {
      b.begin_capture = nullptr;
      b.end_capture = nullptr;
      b.launch_graph = b.destroy_graph = nullptr;
    }
    return b;
  }();
  return table;
}

/// For gains in bf16, which the kernels do not take.
struct GroupNormEntries {
  void (*forward)(GroupNormArgs);
  void (*backward)(GroupNormBackwardArgs);
};

/// The table of this GPU. Products, convolutions, elementwise functions and group norms have kernels for
/// bf16; the others go through f32 copies.
const Backend& table() {
  static const Backend table = [] {
    if (compute_capability() < 80) return full_precision();  // cuBLAS has no bf16 products there
    Backend b = with_bf16<full_precision>();
    b.unary = unary;
    b.unary_chain = unary_chain;
    b.binary = binary;
    b.where = where;
    static const GroupNormEntries through_f32{b.group_norm, b.group_norm_backward};
    b.group_norm = [](GroupNormArgs args) {
      (args.gain.dtype == DType::bf16 ? through_f32.forward : group_norm)(args);
    };
    b.group_norm_backward = [](GroupNormBackwardArgs args) {
      (args.forward.gain.dtype == DType::bf16 ? through_f32.backward : group_norm_backward)(args);
    };
    b.gemm = gemm;
    b.conv2d_forward = conv2d_forward;
    b.conv2d_backward_data = conv2d_backward_data;
    b.conv2d_backward_kernel = conv2d_backward_kernel;
    return b;
  }();
  return table;
}

#if defined(HALFSTEP_CUDA_EMULATED)
constexpr bool kEmulated = true;
constexpr CudaCounters kEmulatedCounters = {
    .start =
        [] {
          synchronize();
          emulation::reset_kernel_counts();
          emulation::count_kernels(true);
        },
    .stop =
        [] {
          synchronize();
          emulation::count_kernels(false);
        },
    .read =
        [] {
          synchronize();
          return emulation::kernel_counts();
        },
};
constexpr const CudaCounters* kCounters = &kEmulatedCounters;
#else
constexpr bool kEmulated = false;
constexpr const CudaCounters* kCounters = nullptr;
#endif

CudaProbe look() {
  int devices = 0;
  const cudaError_t status = cudaGetDeviceCount(&devices);
  if (status != cudaSuccess) {
    cudaGetLastError();
    // The text lives as long as the process: CudaProbe points at it.
    static const std::string reason =
        std::string(cudaGetErrorString(status)) + " (" + cudaGetErrorName(status) + ")";
    return {.reason = reason.c_str()};
  }
  if (devices == 0) return {.reason = "the driver found no GPU"};
  if (compute_capability() < 75) return {.reason = "the GPU is older than compute capability 7.5"};
  return {&table(), "", kEmulated, kCounters};
}

}  // namespace
}  // namespace cuda

CudaProbe probe_cuda() {
  static const CudaProbe probe = cuda::look();
  return probe;
}

}  // namespace halfstep
