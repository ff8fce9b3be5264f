#include "cuda/runtime.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <mutex>
#include <string>
#include <string_view>

#include "cuda/graphs.h"
#include "tensor/error.h"

namespace halfstep::cuda {
namespace {

bool environment_flag(const char* name) {
  const char* text = std::getenv(name);
  if (!text || !*text || std::string_view(text) == "0") return false;
  require(std::string_view(text) == "1", name, "expected 0 or 1, got '{}'", text);
  return true;
}

int attribute(cudaDeviceAttr which) {
  int value = 0;
  check(cudaDeviceGetAttribute(&value, which, 0));
  return value;
}

}  // namespace

std::string describe(const std::source_location& where) {
  const std::string_view path = where.file_name();
  const size_t folder = path.rfind("cuda/");
  return fmt::format("{}:{}", path.substr(folder == std::string_view::npos ? 0 : folder), where.line());
}

void check(cudaError_t status, std::source_location where) {
  if (status == cudaSuccess) return;
  // The error is also the device's last one; the next launch shall not be blamed for it.
  cudaGetLastError();
  fail("cuda", "expected success at {}, got {}: {}", describe(where), cudaGetErrorName(status),
       cudaGetErrorString(status));
}

cudaStream_t stream() {
  // Never destroyed: at exit the driver may already be gone.
  static const cudaStream_t created = [] {
    cudaStream_t s = nullptr;
    check(cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking));
    return s;
  }();
  return created;
}

void* workspace(size_t bytes) {
  static std::mutex mutex;
  static void* memory = nullptr;
  static size_t size = 0;
  std::lock_guard lock(mutex);
  if (bytes > size) {
    // cudaFree waits for the kernels that use the old block. Graphs will always use it: with them it stays.
    // As each is larger by half than the last, all together are at most three times the largest.
    if (memory && !graphs_exist()) check(cudaFree(memory));
    memory = nullptr;
    size = 0;
    const size_t wanted = (bytes + bytes / 2 + 255) / 256 * 256;
    // Not cudaMallocAsync: while work is recorded, that would be a part of the graph.
    check(cudaMalloc(&memory, wanted));
    size = wanted;
  }
  return memory;
}

int multiprocessors() {
  static const int count = attribute(cudaDevAttrMultiProcessorCount);
  return count;
}

int compute_capability() {
  static const int capability =
      attribute(cudaDevAttrComputeCapabilityMajor) * 10 + attribute(cudaDevAttrComputeCapabilityMinor);
  return capability;
}

bool allow_tf32() {
  static const bool allowed = environment_flag("HALFSTEP_CUDA_TF32");
  return allowed;
}

int grid_for(int64_t n, int threads) {
  return static_cast<int>(std::clamp<int64_t>(ceil_div(n, threads), 1, int64_t{multiprocessors()} * 16));
}

static std::atomic<int64_t> launched = 0;
int64_t launches() { return launched; }
void count_launches(int64_t count) { launched += count; }

bool waits_for_kernels() {
  static const bool wait = environment_flag("HALFSTEP_CUDA_SYNC");
  return wait;
}

void after_launch(const void*, const Launch& launch) {
  count_launches(1);
  check(cudaGetLastError(), launch.where);
  if (waits_for_kernels()) check(cudaStreamSynchronize(stream()), launch.where);
}

void allow_shared_bytes(const void* kernel, size_t bytes, std::source_location where) {
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)),
        where);
}

}  // namespace halfstep::cuda
