// The emulator itself: that right kernels pass its checker and each mistake is found, that streams run late
// and in the order that events demand, and that instructions of warps do what the manual says. (That
// arithmetic is right, the backend's kernels show.)
#include <cuda_runtime_api.h>
#include <doctest/doctest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <numeric>
#include <string>
#include <vector>

#include "cuda/emulation/checker.h"
#include "cuda/emulation/counters.h"
#include "cuda/emulation/options.h"
#include "cuda/emulation/reports.h"
#include "tests/emulation/kernels.h"

using namespace halfstep::test;
using halfstep::emulation::take_reports;
using halfstep::emulation::with_checker;

namespace {

/// Device memory for n floats, and a stream.
struct Scene {
  float* data = nullptr;
  size_t count;
  cudaStream_t stream = nullptr;

  explicit Scene(size_t n, bool initialised = true) : count(n) {
    REQUIRE(cudaMalloc(reinterpret_cast<void**>(&data), n * sizeof(float)) == cudaSuccess);
    REQUIRE(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking) == cudaSuccess);
    std::vector<float> values(n);
    std::iota(values.begin(), values.end(), 0.0f);
    if (initialised) cudaMemcpy(data, values.data(), n * sizeof(float), cudaMemcpyHostToDevice);
  }
  ~Scene() {
    cudaStreamDestroy(stream);
    cudaFree(data);
  }
  std::vector<float> values() {
    std::vector<float> host(count);
    cudaMemcpyAsync(host.data(), data, count * sizeof(float), cudaMemcpyDeviceToHost, stream);
    return host;
  }
};

/// The findings of the checker in one launch on 64 floats, in several random orders.
std::vector<std::string> findings_of(void (*launch)(float*, cudaStream_t), bool initialised = true) {
  std::vector<std::string> all;
  with_checker([&] {
    Scene scene(64, initialised);
    launch(scene.data, scene.stream);
    const cudaError_t status = cudaStreamSynchronize(scene.stream);
    all = take_reports();
    CHECK((status == cudaSuccess) == all.empty());  // a finding is an error of the device
  });
  cudaGetLastError();
  return all;
}

/// That a finding begins with `kind`, and that all name the kernel and its file.
void check_found(void (*launch)(float*, cudaStream_t), const std::string& kind, const std::string& kernel,
                 bool initialised = true) {
  const auto found = findings_of(launch, initialised);
  CAPTURE(kind);
  // One mistake may be found in several ways: what a race leaves unwritten is read uninitialised.
  CHECK(std::any_of(found.begin(), found.end(),
                    [&](const std::string& text) { return text.rfind(kind, 0) == 0; }));
  for (const std::string& text : found) {
    CAPTURE(text);
    CHECK(text.find(kernel) != std::string::npos);
    CHECK(text.find("kernels.cu:") != std::string::npos);
  }
}

}  // namespace

TEST_CASE("emulation: right kernels have no findings, and compute") {
  CHECK(findings_of(launch_right).empty());
  CHECK(findings_of(launch_warp_synchronised).empty());
  Scene scene(64);
  launch_right(scene.data, scene.stream);
  const auto reversed = scene.values();
  for (size_t i = 0; i < 64; ++i) CHECK(reversed[i] == static_cast<float>(63 - i));
}

TEST_CASE("emulation: the checker finds each mistake, and names it") {
  check_found(launch_out_of_bounds, "out of bounds: write of 4 bytes at 0 bytes past the end",
              "out_of_bounds");
  check_found(launch_out_of_shared, "out of bounds: write of 4 bytes at shared byte 256 of 256",
              "out_of_shared");
  check_found(launch_misaligned, "misaligned write of 8 bytes", "misaligned");
  check_found(launch_add_one, "uninitialised read: byte", "add_one", false);
  check_found(launch_uninitialised_shared, "uninitialised read: shared byte 28", "uninitialised_shared");
  check_found(launch_missing_barrier, "race: ", "missing_barrier");
  check_found(launch_missing_warp_barrier, "race: ", "missing_warp_barrier");
  check_found(launch_race_of_blocks, "race: write of byte", "race_of_blocks");
  check_found(launch_divergent_barrier, "barrier divergence", "divergent_barrier");
  check_found(launch_shuffle_without_lanes, "shuffle with absent lanes", "shuffle_without_lanes");
  check_found(launch_copy_without_wait, "read before the wait", "copy_without_wait");
}

TEST_CASE("emulation: a kernel that cannot go on is given up, in every mode") {
  check_found(launch_deadlock, "halfstep::test::(anonymous namespace)::deadlock(float*) cannot go on; thread",
              "deadlock");
  Scene scene(64);
  launch_deadlock(scene.data, scene.stream);
  CHECK(cudaStreamSynchronize(scene.stream) == cudaErrorIllegalAddress);
  CHECK(take_reports().size() == 1);
  cudaGetLastError();
  launch_add_one(scene.data, scene.stream);
  CHECK(cudaStreamSynchronize(scene.stream) == cudaSuccess);
}

TEST_CASE("emulation: freed memory and wrong frees") {
  with_checker([] {
    Scene scene(64);
    float* gone = nullptr;
    cudaMalloc(reinterpret_cast<void**>(&gone), 256);
    cudaFree(gone);
    launch_add_one(gone, scene.stream);
    cudaStreamSynchronize(scene.stream);
    const auto late = take_reports();
    REQUIRE(!late.empty());
    CHECK(late[0].find("which were freed") != std::string::npos);
    cudaFree(gone);
    CHECK(take_reports().size() == 1);
  });
  cudaGetLastError();
}

TEST_CASE("emulation: the host cannot use a device pointer") {
  Scene scene(64);
  cudaStreamSynchronize(scene.stream);
  int devices = 0;
  cudaGetDeviceCount(&devices);
  const pid_t child = fork();
  if (child == 0) {
    volatile float value = scene.data[3];
    _exit(value == 3 ? 0 : 2);
  }
  int status = 0;
  waitpid(child, &status, 0);
  CHECK(WIFEXITED(status));
  CHECK(WEXITSTATUS(status) == 1);
}

TEST_CASE("emulation: streams run when somebody waits, and events order them") {
  Scene scene(64), other(64);
  float* pinned = nullptr;
  REQUIRE(cudaMallocHost(reinterpret_cast<void**>(&pinned), 256) == cudaSuccess);
  std::fill_n(pinned, 64, -1.0f);
  launch_add_one(scene.data, scene.stream);
  cudaMemcpyAsync(pinned, scene.data, 256, cudaMemcpyDeviceToHost, scene.stream);
  CHECK(pinned[5] == -1);  // nobody has waited
  CHECK(cudaStreamQuery(scene.stream) == cudaErrorNotReady);
  cudaStreamSynchronize(scene.stream);
  CHECK(pinned[5] == 6);

  // The other stream copies what this one computes: an event puts the copy behind the kernel.
  cudaEvent_t event = nullptr;
  cudaEventCreate(&event);
  launch_add_one(scene.data, scene.stream);
  cudaEventRecord(event, scene.stream);
  cudaStreamWaitEvent(other.stream, event, 0);
  cudaMemcpyAsync(pinned, scene.data, 256, cudaMemcpyDeviceToHost, other.stream);
  cudaStreamSynchronize(other.stream);
  CHECK(pinned[5] == 7);
  CHECK(cudaEventQuery(event) == cudaSuccess);

  // Pinned memory is read when the copy runs, ordinary memory at the call.
  std::vector<float> ordinary(64, 10.0f);
  std::fill_n(pinned, 64, 20.0f);
  cudaMemcpyAsync(scene.data, ordinary.data(), 256, cudaMemcpyHostToDevice, scene.stream);
  cudaMemcpyAsync(other.data, pinned, 256, cudaMemcpyHostToDevice, other.stream);
  std::fill(ordinary.begin(), ordinary.end(), 11.0f);
  std::fill_n(pinned, 64, 21.0f);
  CHECK(scene.values()[0] == 10);
  CHECK(other.values()[0] == 21);
  cudaEventDestroy(event);
  cudaFreeHost(pinned);
}

TEST_CASE("emulation: a captured graph runs as often as it is launched") {
  Scene scene(64);
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t executable = nullptr;
  REQUIRE(cudaStreamBeginCapture(scene.stream, cudaStreamCaptureModeGlobal) == cudaSuccess);
  launch_add_one(scene.data, scene.stream);
  launch_right(scene.data, scene.stream);
  REQUIRE(cudaStreamEndCapture(scene.stream, &graph) == cudaSuccess);
  REQUIRE(cudaGraphInstantiate(&executable, graph, 0) == cudaSuccess);
  CHECK(scene.values()[0] == 0);  // recorded, not run
  for (int i = 0; i < 3; ++i) cudaGraphLaunch(executable, scene.stream);
  CHECK(scene.values()[0] == 63 + 3);
  cudaGraphExecDestroy(executable);
  cudaGraphDestroy(graph);
}

TEST_CASE("emulation: what cannot be recorded loses the recording") {
  Scene scene(64);
  void* memory = nullptr;
  const auto outcome = [&](cudaStreamCaptureMode mode, auto call, cudaError_t expected) {
    REQUIRE(cudaStreamBeginCapture(scene.stream, mode) == cudaSuccess);
    launch_add_one(scene.data, scene.stream);
    CHECK(call() == expected);
    cudaGraph_t graph = nullptr;
    const cudaError_t status = cudaStreamEndCapture(scene.stream, &graph);
    CHECK((graph != nullptr) == (status == cudaSuccess));
    if (graph) cudaGraphDestroy(graph);
    cudaGetLastError();
    return status;
  };
  const auto synchronize = [&] { return cudaStreamSynchronize(scene.stream); };
  const auto allocate = [&] { return cudaMalloc(&memory, 64); };
  const auto allocate_in_order = [&] { return cudaMallocAsync(&memory, 64, scene.stream); };
  const auto release = [&] { return cudaFree(memory); };
  CHECK(outcome(cudaStreamCaptureModeRelaxed, synchronize, cudaErrorStreamCaptureUnsupported) ==
        cudaErrorStreamCaptureInvalidated);
  CHECK(outcome(cudaStreamCaptureModeRelaxed, allocate_in_order, cudaErrorStreamCaptureUnsupported) ==
        cudaErrorStreamCaptureInvalidated);
  CHECK(outcome(cudaStreamCaptureModeGlobal, allocate, cudaErrorStreamCaptureUnsupported) ==
        cudaErrorStreamCaptureInvalidated);
  CHECK(outcome(cudaStreamCaptureModeRelaxed, allocate, cudaSuccess) == cudaSuccess);
  CHECK(outcome(cudaStreamCaptureModeGlobal, release, cudaErrorStreamCaptureUnsupported) ==
        cudaErrorStreamCaptureInvalidated);
  CHECK(cudaFree(memory) == cudaSuccess);
  CHECK(scene.values()[0] == 0);  // nothing of it ran
  launch_add_one(scene.data, scene.stream);
  CHECK(scene.values()[0] == 1);  // and the stream works as before
}

TEST_CASE("emulation: instructions and memory traffic are counted") {
  using namespace halfstep::emulation;
  Scene scene(64);
  reset_kernel_counts();
  count_kernels(true);
  launch_right(scene.data, scene.stream);
  launch_right(scene.data, scene.stream);
  cudaStreamSynchronize(scene.stream);
  count_kernels(false);
  launch_right(scene.data, scene.stream);  // no longer counted
  cudaStreamSynchronize(scene.stream);
  REQUIRE(kernel_counts().size() == 1);
  const halfstep::KernelCounts c = kernel_counts().front();
  CHECK(c.launches == 2);
  CHECK(c.blocks == 1);
  CHECK(c.threads == 64);
  CHECK(c.instructions.at("bar") == 64);
  CHECK(c.instructions.at("ld.shared") == 64);
  // Two warps load and store 128 bytes each, in four sectors of 32.
  CHECK(c.global_requests == 4);
  CHECK(c.global_sectors == 4 * c.global_requests);
  CHECK(c.global_bytes_read == 256);
  CHECK(c.global_bytes_written == 256);
  CHECK(c.shared_wavefronts == c.shared_requests);  // no two lanes meet in a bank
  CHECK(kernel_counts_table().find("right(float*)") != std::string::npos);

  // Lanes that part: 32 load, 16 load again, 32 store; each time in four sectors.
  reset_kernel_counts();
  count_kernels(true);
  launch_uneven(scene.data, scene.stream);
  cudaStreamSynchronize(scene.stream);
  count_kernels(false);
  REQUIRE(kernel_counts().size() == 1);
  const halfstep::KernelCounts uneven = kernel_counts().front();
  CHECK(uneven.global_requests == 3);
  CHECK(uneven.global_sectors == 12);
  CHECK(uneven.global_bytes_read == 4 * (32 + 16));
  CHECK(uneven.global_bytes_written == 128);
  CHECK(uneven.instructions.at("add.f32") == 32 + 16);
  reset_kernel_counts();
}

TEST_CASE("emulation: launches that a GPU refuses") {
  Scene scene(64);
  const auto launch = [&](dim3 grid, dim3 block, size_t shared, bool allow = false) {
    return launch_configured(scene.data, grid, block, shared, allow, scene.stream);
  };
  CHECK(launch(1, 64, 0) == cudaSuccess);
  CHECK(launch(0, 64, 0) == cudaErrorInvalidConfiguration);
  CHECK(launch(dim3(1, 65536), 64, 0) == cudaErrorInvalidConfiguration);
  CHECK(launch(1, 1025, 0) == cudaErrorInvalidConfiguration);
  CHECK(launch(1, dim3(1, 1, 65), 0) == cudaErrorInvalidConfiguration);
  // More than 48 KiB of shared memory must be asked for, and more than there is is not had.
  CHECK(launch(1, 64, 49 << 10) == cudaErrorInvalidValue);
  CHECK(launch(1, 64, 200 << 10, true) == cudaErrorInvalidValue);
  cudaGetLastError();
  CHECK(launch(1, 64, 160 << 10, true) == cudaSuccess);
}

TEST_CASE("emulation: shuffles, votes and bit instructions of a warp") {
  unsigned* words = nullptr;
  Scene scene(1);
  REQUIRE(cudaMalloc(reinterpret_cast<void**>(&words), 32 * 8 * 4) == cudaSuccess);
  launch_warp_functions(words, scene.stream);
  std::vector<unsigned> got(256);
  cudaMemcpyAsync(got.data(), words, 1024, cudaMemcpyDeviceToHost, scene.stream);
  for (unsigned lane = 0; lane < 32; ++lane) {
    const unsigned* row = &got[lane * 8];
    CAPTURE(lane);
    CHECK(row[0] == (lane < 3 ? lane : lane - 3));
    CHECK(row[1] == (lane % 8 + 3 < 8 ? lane + 3 : lane));
    CHECK(row[2] == (lane ^ 5));
    CHECK(row[3] == lane / 16 * 16 + 9);
    CHECK(row[4] == 0x49249249u);
    CHECK(row[5] == 1);
    unsigned reversed = 0;
    for (unsigned i = 0; i < 32; ++i) reversed |= (lane >> i & 1) << (31 - i);
    CHECK(row[6] == static_cast<unsigned>(std::popcount(lane)) +
                        100 * static_cast<unsigned>(std::countl_zero(lane)) + reversed);
    CHECK(row[7] == (lane % 2 ? 0x07050302u : 0x07050301u) + 31 * 32 / 2);
  }
  cudaFree(words);
}
