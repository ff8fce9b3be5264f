// The CUDA runtime of the emulated GPU: the part of its interface that programs of this project use, and what
// nvcc's host code calls to register and launch kernels.
//
// Streams are queues that run as late as they may: when the host waits for them. So a program that forgets to
// wait sees that its results are not there. In the modes with random order, other streams' work may run at
// any moment before that, too, within the order that events demand. A copy from ordinary (pageable) host
// memory takes its source at the call, as the real runtime does; a copy from pinned memory takes it when the
// stream gets there.
#include <cuda_runtime_api.h>
#include <fmt/core.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "cuda/emulation/checker.h"
#include "cuda/emulation/execution.h"
#include "cuda/emulation/memory.h"
#include "cuda/emulation/modules.h"
#include "cuda/emulation/options.h"
#include "cuda/emulation/reports.h"
#include "cuda/emulation/runtime.h"

using halfstep::emulation::Mode;
using halfstep::emulation::options;

namespace {

using Clock = std::chrono::steady_clock;
struct Stream;

/// A mark in a stream: `reached` counts up to `recorded` as the stream gets to its marks.
struct Event {
  uint64_t recorded = 0, reached = 0;
  Stream* stream = nullptr;
  Clock::time_point time;
};

/// One piece of queued work; it may have to wait for an event of another stream.
struct Work {
  std::function<void()> run;
  std::shared_ptr<Event> wait_for = nullptr;
  uint64_t wait_count = 0;
};

struct Graph {
  std::vector<Work> work;
};

struct Stream {
  std::deque<Work> queue;
  std::unique_ptr<Graph> capture;  ///< set while work is recorded instead of queued
  cudaStreamCaptureMode capture_mode = cudaStreamCaptureModeGlobal;
  bool capture_invalidated = false;  ///< by a call that cannot be recorded
};

struct Runtime {
  std::recursive_mutex mutex;
  Stream null_stream;
  std::vector<Stream*> streams{&null_stream};
  std::map<uint64_t, size_t> pinned;                                            ///< host memory by its begin
  std::unordered_map<const void*, const halfstep::emulation::Kernel*> kernels;  ///< by the host's stub
  std::unordered_map<const void*, const halfstep::emulation::Module*> modules;
  std::unordered_map<const void*, size_t> dynamic_shared_limit;
  std::unordered_map<const void*, std::string> names;  ///< of kernels and variables, by the host's address
  cudaError_t last_error = cudaSuccess;
  uint64_t random = 0x2545F4914F6CDD1Dull;

  struct Configuration {
    dim3 grid, block;
    size_t shared;
    cudaStream_t stream;
  };
  std::vector<Configuration> configurations;
};

Runtime& runtime() {
  static Runtime& r = [&]() -> Runtime& {
    auto& created = *new Runtime();
    created.random ^= options().seed * 0x9E3779B97F4A7C15ull;
    halfstep::emulation::reserve_device_memory();
    return created;
  }();
  return r;
}

using Lock = std::lock_guard<std::recursive_mutex>;

/// All translated files: the backend's, and those that registered themselves.
std::vector<const halfstep::emulation::Module*>& modules() {
  static auto& all = *new std::vector<const halfstep::emulation::Module*>(halfstep::emulation::all_modules());
  return all;
}

/// Keeps an error for cudaGetLastError and returns it.
cudaError_t set_error(cudaError_t error) {
  if (error != cudaSuccess) runtime().last_error = error;
  return error;
}

Stream& stream_of(cudaStream_t stream) {
  // The legacy and per-thread default streams have the numbers 1 and 2.
  if (reinterpret_cast<uintptr_t>(stream) <= 2) return runtime().null_stream;
  return *reinterpret_cast<Stream*>(stream);
}

bool may_run(const Stream& s) {
  if (s.queue.empty()) return false;
  const Work& w = s.queue.front();
  return !w.wait_for || w.wait_for->reached >= w.wait_count;
}

void run_front(Stream& s) {
  Work w = std::move(s.queue.front());
  s.queue.pop_front();
  if (w.run) w.run();
}

/// Runs work of all streams, the next piece of a random one, until `done`.
template <class Done>
void drain_until(Done done) {
  Runtime& r = runtime();
  while (!done()) {
    std::vector<Stream*> able;
    for (Stream* s : r.streams)
      if (may_run(*s)) able.push_back(s);
    if (able.empty()) {
      halfstep::emulation::report(
          "the streams wait for one another in a circle, or for an event that is never recorded");
      for (Stream* s : r.streams) s->queue.clear();
      return;
    }
    r.random ^= r.random << 13, r.random ^= r.random >> 7, r.random ^= r.random << 17;
    run_front(*able[options().mode == Mode::fast ? 0 : (r.random >> 32) % able.size()]);
  }
}

/// Runs one stream to its end, and of the others only what it waits for; in random order whatever may run
/// before.
void drain(Stream& s) {
  if (options().mode != Mode::fast) {
    drain_until([&] { return s.queue.empty(); });
    return;
  }
  while (!s.queue.empty()) {
    const Work& w = s.queue.front();
    if (!may_run(s)) {
      Stream* const other = w.wait_for->stream;
      const auto event = w.wait_for;
      const uint64_t count = w.wait_count;
      if (!other || other == &s || other->queue.empty()) {
        halfstep::emulation::report("a stream waits for an event that is never recorded");
        s.queue.clear();
        return;
      }
      while (event->reached < count && !other->queue.empty()) {
        if (!may_run(*other)) {
          drain_until([&] { return s.queue.empty(); });
          return;
        }
        run_front(*other);
      }
      continue;
    }
    run_front(s);
  }
}

void drain_all() {
  Runtime& r = runtime();
  drain_until([&] {
    return std::all_of(r.streams.begin(), r.streams.end(), [](Stream* s) { return s->queue.empty(); });
  });
}

/// Findings of kernels become an error of the device, as an illegal access does on a real one.
cudaError_t pending_error() {
  return halfstep::emulation::take_failure() ? set_error(cudaErrorIllegalAddress) : cudaSuccess;
}

/// The answer to a call that cannot be recorded: the whole recording is lost, as on a real one.
cudaError_t invalidate_capture(Stream& s) {
  s.capture_invalidated = true;
  return set_error(cudaErrorStreamCaptureUnsupported);
}

/// For calls that may wait for the device: only relaxed recording goes on in spite of them.
cudaError_t while_capturing() {
  for (Stream* s : runtime().streams)
    if (s->capture && s->capture_mode != cudaStreamCaptureModeRelaxed) return invalidate_capture(*s);
  return cudaSuccess;
}

void add(Stream& s, Work work) {
  if (s.capture) {
    s.capture->work.push_back(std::move(work));
    return;
  }
  s.queue.push_back(std::move(work));
  // A device's queue is finite, too.
  if (s.queue.size() > 1024) drain(s);
}

bool is_pinned(const void* host) {
  const auto& pinned = runtime().pinned;
  const auto address = reinterpret_cast<uint64_t>(host);
  auto it = pinned.upper_bound(address);
  return it != pinned.begin() && (--it, address < it->first + it->second);
}

bool is_device(const void* p) {
  return halfstep::emulation::is_device_address(reinterpret_cast<uint64_t>(p));
}

/// The bytes of either side of a copy.
void* bytes_of(const void* p, size_t bytes, halfstep::emulation::Access access) {
  return is_device(p) ? halfstep::emulation::host_view(p, bytes, access) : const_cast<void*>(p);
}

cudaError_t copy(void* to, const void* from, size_t bytes, Stream& s, bool wait) {
  if (bytes == 0) return cudaSuccess;
  const auto move = [to, bytes](const void* source) {
    void* target = bytes_of(to, bytes, halfstep::emulation::Access::write);
    if (target && source) std::memcpy(target, source, bytes);
  };
  if (!is_device(from) && !is_pinned(from)) {
    auto staged = std::make_shared<std::vector<uint8_t>>(static_cast<const uint8_t*>(from),
                                                         static_cast<const uint8_t*>(from) + bytes);
    add(s, {[=] { move(staged->data()); }});
  } else {
    add(s, {[=] { move(bytes_of(from, bytes, halfstep::emulation::Access::read)); }});
  }
  // A copy to pageable host memory is complete when the call returns.
  if (s.capture) return wait ? invalidate_capture(s) : cudaSuccess;
  if (wait || (!is_device(to) && !is_pinned(to))) {
    drain(s);
    return pending_error();
  }
  return cudaSuccess;
}

/// The translation of a kernel by its host stub; nullptr, and a message, if there is none.
const halfstep::emulation::Kernel* kernel_of(const void* host) {
  Runtime& r = runtime();
  if (const auto it = r.kernels.find(host); it != r.kernels.end()) return it->second;
  const auto registered = r.names.find(host);
  if (registered == r.names.end()) return nullptr;
  for (const auto* module : modules())
    for (const auto* kernel = module->kernels; kernel->name; ++kernel)
      if (registered->second == kernel->name) {
        r.modules[host] = module;
        return r.kernels[host] = kernel;
      }
  fmt::print(stderr, "[cuda emulation] the kernel {} was not translated; is its file in the build?\n",
             registered->second);
  return nullptr;
}

/// An access that the processor refused: a device pointer on the host, or a wild one in a kernel.
void on_segmentation_fault(int, siginfo_t* info, void*) {
  const auto address = reinterpret_cast<uint64_t>(info->si_addr);
  std::string text;
  if (const auto* launch = halfstep::emulation::running_launch()) {
    text = fmt::format("[cuda emulation] {}: illegal access; HALFSTEP_EMULATION=check says where\n",
                       halfstep::emulation::readable_name(launch->kernel->name));
  } else if (halfstep::emulation::is_device_address(address)) {
    text = fmt::format("[cuda emulation] the host used the device pointer {:#x}: {}; copy with cudaMemcpy\n",
                       address, halfstep::emulation::describe_address(address));
  } else {
    signal(SIGSEGV, SIG_DFL);  // somebody else's mistake: as if this handler were not there
    return;
  }
  [[maybe_unused]] const auto written = write(STDERR_FILENO, text.data(), text.size());
  _exit(1);
}

void install_handler() {
  static const bool once = [] {
    // The faulting fiber's stack may be what overflowed.
    static char stack[64 * 1024];
    stack_t alternative{};
    alternative.ss_sp = stack;
    alternative.ss_size = sizeof(stack);
    sigaltstack(&alternative, nullptr);
    struct sigaction action {};
    action.sa_sigaction = on_segmentation_fault;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
    sigaction(SIGSEGV, &action, nullptr);
    return true;
  }();
  (void)once;
}

/// Shared memory that a block may have: by opting in, and without.
size_t max_shared_bytes() {
  switch (options().compute_capability) {
    case 75:
      return 64 * 1024;
    case 80:
    case 87:
      return 163 * 1024;
    case 86:
    case 89:
    case 120:
      return 99 * 1024;
    default:
      return 227 * 1024;
  }
}
constexpr size_t kDefaultShared = 48 * 1024;

cudaError_t launch_kernel(const void* function, dim3 grid, dim3 block, void** args, size_t shared,
                          cudaStream_t stream) {
  Lock lock(runtime().mutex);
  Runtime& r = runtime();
  if (halfstep::emulation::should_fail("launch")) return set_error(cudaErrorLaunchFailure);
  const auto* found = kernel_of(function);
  if (!found) return set_error(cudaErrorInvalidDeviceFunction);
  const halfstep::emulation::Kernel& kernel = *found;
  const uint64_t threads = uint64_t{block.x} * block.y * block.z;
  if (threads == 0 || threads > 1024 || block.z > 64 || grid.x == 0 || grid.y == 0 || grid.z == 0 ||
      grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535)
    return set_error(cudaErrorInvalidConfiguration);
  if (kernel.max_threads && threads > kernel.max_threads) return set_error(cudaErrorInvalidValue);
  const size_t limit =
      r.dynamic_shared_limit.count(function) ? r.dynamic_shared_limit[function] : kDefaultShared;
  if (kernel.shared_bytes + shared > std::max(limit, kDefaultShared) ||
      kernel.shared_bytes + shared > max_shared_bytes())
    return set_error(cudaErrorInvalidValue);
  halfstep::emulation::KernelLaunch launch{
      r.modules[function],           &kernel,
      {grid.x, grid.y, grid.z},      {block.x, block.y, block.z},
      static_cast<uint32_t>(shared), std::vector<uint8_t>(kernel.param_bytes)};
  for (uint32_t i = 0; i < kernel.num_params; ++i)
    std::memcpy(launch.params.data() + kernel.params[i].offset, args[i], kernel.params[i].bytes);
  if (halfstep::emulation::should_fail("kernel")) {
    add(stream_of(stream), {halfstep::emulation::fail_silently});
    return cudaSuccess;
  }
  add(stream_of(stream), {[launch = std::move(launch)] { halfstep::emulation::execute(launch); }});
  return cudaSuccess;
}

}  // namespace

namespace halfstep::emulation {

bool register_module(const Module* module) {
  auto& all = modules();
  if (std::find(all.begin(), all.end(), module) == all.end()) all.push_back(module);
  return true;
}

void enqueue(cudaStream_t stream, std::function<void()> work) {
  Lock lock(runtime().mutex);
  add(stream_of(stream), {std::move(work)});
}

void* host_view(const void* device, size_t bytes, Access access) {
  const auto address = reinterpret_cast<uint64_t>(device);
  const Allocation a = allocation_of(address);
  if (!is_device_address(address) || !a.begin || a.freed || address + bytes > a.end) {
    report(fmt::format("out of bounds: {} of {} bytes by a copy or library at {}",
                       access == Access::read ? "read" : "write", bytes, describe_address(address)));
    return nullptr;
  }
  if (options().mode == Mode::check) {
    if (access == Access::write)
      check_written(address, bytes);
    else
      check_initialised(address, bytes, "a copy or library");
  }
  return view_of(address);
}

}  // namespace halfstep::emulation

extern "C" {

// --- what nvcc's host code calls ---------------------------------------------------------------------------

void** __cudaRegisterFatBinary(void*) {
  static void* handle = nullptr;
  return &handle;
}
void __cudaRegisterFatBinaryEnd(void**) {}
void __cudaUnregisterFatBinary(void**) {}
char __cudaInitModule(void**) { return 1; }

// Files register their kernels here before main, and their translations themselves, in any order: kernels are
// looked up when they are used.
void __cudaRegisterFunction(void**, const char* host, char*, const char* name, int, uint3*, uint3*, dim3*,
                            dim3*, int*) {
  runtime().names[host] = name;
}
void __cudaRegisterVar(void**, char* host, char*, const char* name, int, size_t, int, int) {
  runtime().names[host] = name;
}

unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared, void* stream) {
  Lock lock(runtime().mutex);
  runtime().configurations.push_back({grid, block, shared, static_cast<cudaStream_t>(stream)});
  return 0;
}
cudaError_t __cudaPopCallConfiguration(dim3* grid, dim3* block, size_t* shared, void* stream) {
  Lock lock(runtime().mutex);
  auto& stack = runtime().configurations;
  if (stack.empty()) return set_error(cudaErrorMissingConfiguration);
  *grid = stack.back().grid;
  *block = stack.back().block;
  *shared = stack.back().shared;
  *static_cast<cudaStream_t*>(stream) = stack.back().stream;
  stack.pop_back();
  return cudaSuccess;
}
// The kernel's handle is its host stub.
cudaError_t __cudaGetKernel(cudaKernel_t* kernel, const void* function) {
  *kernel = reinterpret_cast<cudaKernel_t>(const_cast<void*>(function));
  return cudaSuccess;
}
cudaError_t __cudaLaunchKernel(cudaKernel_t kernel, dim3 grid, dim3 block, void** args, size_t shared,
                               cudaStream_t stream) {
  return launch_kernel(kernel, grid, block, args, shared, stream);
}
cudaError_t cudaLaunchKernel(const void* function, dim3 grid, dim3 block, void** args, size_t shared,
                             cudaStream_t stream) {
  return launch_kernel(function, grid, block, args, shared, stream);
}

// --- device and errors -------------------------------------------------------------------------------------

cudaError_t cudaGetDeviceCount(int* count) {
  install_handler();
  *count = 1;
  return cudaSuccess;
}
cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int device) {
  return device == 0 ? cudaSuccess : set_error(cudaErrorInvalidDevice);
}
cudaError_t cudaDriverGetVersion(int* version) {
  *version = CUDART_VERSION;
  return cudaSuccess;
}
cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = CUDART_VERSION;
  return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  const int capability = options().compute_capability;
  switch (attribute) {
    case cudaDevAttrMultiProcessorCount:
      *value = options().multiprocessors;
      return cudaSuccess;
    case cudaDevAttrComputeCapabilityMajor:
      *value = capability / 10;
      return cudaSuccess;
    case cudaDevAttrComputeCapabilityMinor:
      *value = capability % 10;
      return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      *value = static_cast<int>(max_shared_bytes());
      return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerBlock:
      *value = static_cast<int>(kDefaultShared);
      return cudaSuccess;
    case cudaDevAttrMaxThreadsPerBlock:
      *value = 1024;
      return cudaSuccess;
    case cudaDevAttrMaxThreadsPerMultiProcessor:
      *value = 2048;
      return cudaSuccess;
    case cudaDevAttrWarpSize:
      *value = 32;
      return cudaSuccess;
    case cudaDevAttrMemoryPoolsSupported:
    case cudaDevAttrConcurrentKernels:
      *value = 1;
      return cudaSuccess;
    default:
      return set_error(cudaErrorInvalidValue);
  }
}
cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  *total = halfstep::emulation::device_bytes_total();
  *free = *total - halfstep::emulation::device_bytes_in_use();
  return cudaSuccess;
}
cudaError_t cudaDeviceSynchronize() {
  Lock lock(runtime().mutex);
  drain_all();
  return pending_error();
}
cudaError_t cudaGetLastError() {
  Lock lock(runtime().mutex);
  return std::exchange(runtime().last_error, cudaSuccess);
}
cudaError_t cudaPeekAtLastError() { return runtime().last_error; }

const char* cudaGetErrorName(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "cudaSuccess";
    case cudaErrorInvalidValue:
      return "cudaErrorInvalidValue";
    case cudaErrorMemoryAllocation:
      return "cudaErrorMemoryAllocation";
    case cudaErrorInvalidConfiguration:
      return "cudaErrorInvalidConfiguration";
    case cudaErrorInvalidDeviceFunction:
      return "cudaErrorInvalidDeviceFunction";
    case cudaErrorIllegalAddress:
      return "cudaErrorIllegalAddress";
    case cudaErrorLaunchFailure:
      return "cudaErrorLaunchFailure";
    case cudaErrorInvalidDevice:
      return "cudaErrorInvalidDevice";
    case cudaErrorInvalidResourceHandle:
      return "cudaErrorInvalidResourceHandle";
    case cudaErrorStreamCaptureUnsupported:
      return "cudaErrorStreamCaptureUnsupported";
    case cudaErrorStreamCaptureInvalidated:
      return "cudaErrorStreamCaptureInvalidated";
    case cudaErrorNotReady:
      return "cudaErrorNotReady";
    default:
      return "cudaErrorUnknown";
  }
}
const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "no error";
    case cudaErrorMemoryAllocation:
      return "out of memory";
    case cudaErrorInvalidValue:
      return "invalid argument";
    case cudaErrorInvalidConfiguration:
      return "invalid configuration argument";
    case cudaErrorInvalidDeviceFunction:
      return "invalid device function";
    case cudaErrorIllegalAddress:
      return "a kernel did what it must not (the emulator's report stands above)";
    case cudaErrorLaunchFailure:
      return "unspecified launch failure";
    case cudaErrorStreamCaptureUnsupported:
      return "operation not permitted when stream is capturing";
    case cudaErrorStreamCaptureInvalidated:
      return "operation failed due to a previous error during capture";
    default:
      return cudaGetErrorName(error);
  }
}

// --- memory ------------------------------------------------------------------------------------------------

cudaError_t cudaMalloc(void** device, size_t bytes) {
  Lock lock(runtime().mutex);
  if (const cudaError_t refused = while_capturing(); refused != cudaSuccess) return refused;
  const uint64_t address = bytes ? halfstep::emulation::allocate_device(bytes) : 0;
  if (bytes && !address) return set_error(cudaErrorMemoryAllocation);
  if (bytes && options().mode == Mode::check) halfstep::emulation::check_allocated(address, bytes);
  *device = reinterpret_cast<void*>(address);
  return cudaSuccess;
}
static void free_now(void* device) {
  const auto address = reinterpret_cast<uint64_t>(device);
  if (options().mode == Mode::check) halfstep::emulation::check_freed(address);
  if (!halfstep::emulation::free_device(address))
    halfstep::emulation::report(
        fmt::format("free of {}: it is no live allocation", halfstep::emulation::describe_address(address)));
}
cudaError_t cudaFree(void* device) {
  Lock lock(runtime().mutex);
  if (!device) return cudaSuccess;
  if (const cudaError_t refused = while_capturing(); refused != cudaSuccess) return refused;
  drain_all();  // the real one waits for the device, too
  free_now(device);
  return pending_error();
}
cudaError_t cudaMallocAsync(void** device, size_t bytes, cudaStream_t stream) {
  Lock lock(runtime().mutex);
  // A real one would put an allocation into the graph, which this one does not know.
  if (stream_of(stream).capture) return invalidate_capture(stream_of(stream));
  return cudaMalloc(device, bytes);
}
cudaError_t cudaFreeAsync(void* device, cudaStream_t stream) {
  Lock lock(runtime().mutex);
  if (device) add(stream_of(stream), {[=] { free_now(device); }});
  return cudaSuccess;
}
cudaError_t cudaMallocHost(void** host, size_t bytes) {
  Lock lock(runtime().mutex);
  *host = std::aligned_alloc(64, (bytes + 63) / 64 * 64);
  if (!*host) return set_error(cudaErrorMemoryAllocation);
  runtime().pinned[reinterpret_cast<uint64_t>(*host)] = bytes;
  return cudaSuccess;
}
cudaError_t cudaHostAlloc(void** host, size_t bytes, unsigned) { return cudaMallocHost(host, bytes); }
cudaError_t cudaFreeHost(void* host) {
  Lock lock(runtime().mutex);
  drain_all();
  runtime().pinned.erase(reinterpret_cast<uint64_t>(host));
  std::free(host);
  return cudaSuccess;
}
cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind) {
  Lock lock(runtime().mutex);
  drain_all();
  return copy(to, from, bytes, runtime().null_stream, true);
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind, cudaStream_t stream) {
  Lock lock(runtime().mutex);
  return copy(to, from, bytes, stream_of(stream), false);
}
cudaError_t cudaMemsetAsync(void* device, int value, size_t bytes, cudaStream_t stream) {
  Lock lock(runtime().mutex);
  if (bytes)
    add(stream_of(stream), {[=] {
          if (void* to = halfstep::emulation::host_view(device, bytes, halfstep::emulation::Access::write))
            std::memset(to, value, bytes);
        }});
  return cudaSuccess;
}
cudaError_t cudaMemset(void* device, int value, size_t bytes) {
  return cudaMemsetAsync(device, value, bytes, nullptr);
}
cudaError_t cudaMemcpyToSymbol(const void* symbol, const void* from, size_t bytes, size_t offset,
                               cudaMemcpyKind) {
  Lock lock(runtime().mutex);
  const auto name = runtime().names.find(symbol);
  if (name == runtime().names.end()) return set_error(cudaErrorInvalidValue);
  drain_all();
  for (const auto* module : modules())
    for (const auto* variable = module->variables; variable->name; ++variable)
      if (name->second == variable->name && offset + bytes <= variable->bytes) {
        std::memcpy(static_cast<uint8_t*>(variable->memory) + offset, from, bytes);
        return cudaSuccess;
      }
  return set_error(cudaErrorInvalidValue);
}

// --- kernels -----------------------------------------------------------------------------------------------

cudaError_t cudaFuncSetAttribute(const void* function, cudaFuncAttribute attribute, int value) {
  Lock lock(runtime().mutex);
  const auto* kernel = kernel_of(function);
  if (!kernel) return set_error(cudaErrorInvalidDeviceFunction);
  if (attribute == cudaFuncAttributeMaxDynamicSharedMemorySize) {
    if (value < 0 || static_cast<size_t>(value) + kernel->shared_bytes > max_shared_bytes())
      return set_error(cudaErrorInvalidValue);
    runtime().dynamic_shared_limit[function] = static_cast<size_t>(value) + kernel->shared_bytes;
  }
  return cudaSuccess;
}

// --- streams, events, graphs -------------------------------------------------------------------------------

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  Lock lock(runtime().mutex);
  auto* created = new Stream();
  runtime().streams.push_back(created);
  *stream = reinterpret_cast<cudaStream_t>(created);
  return cudaSuccess;
}
cudaError_t cudaStreamCreate(cudaStream_t* stream) { return cudaStreamCreateWithFlags(stream, 0); }
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  Lock lock(runtime().mutex);
  Stream& s = stream_of(stream);
  drain(s);
  auto& all = runtime().streams;
  all.erase(std::remove(all.begin(), all.end(), &s), all.end());
  delete &s;
  return pending_error();
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  Lock lock(runtime().mutex);
  Stream& s = stream_of(stream);
  if (s.capture) return invalidate_capture(s);
  drain(s);
  return pending_error();
}
cudaError_t cudaStreamQuery(cudaStream_t stream) {
  Lock lock(runtime().mutex);
  if (stream_of(stream).capture) return invalidate_capture(stream_of(stream));
  return stream_of(stream).queue.empty() ? pending_error() : cudaErrorNotReady;
}
cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function, void* data) {
  Lock lock(runtime().mutex);
  add(stream_of(stream), {[=] { function(data); }});
  return cudaSuccess;
}

// Events are shared with the work that waits for them.
static std::shared_ptr<Event>& event_of(cudaEvent_t event) {
  return *reinterpret_cast<std::shared_ptr<Event>*>(event);
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  *event = reinterpret_cast<cudaEvent_t>(new std::shared_ptr<Event>(std::make_shared<Event>()));
  return cudaSuccess;
}
cudaError_t cudaEventCreate(cudaEvent_t* event) { return cudaEventCreateWithFlags(event, 0); }
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete &event_of(event);
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  Lock lock(runtime().mutex);
  auto e = event_of(event);
  Stream& s = stream_of(stream);
  e->stream = &s;
  const uint64_t number = ++e->recorded;
  add(s, {[e, number] {
        e->reached = std::max(e->reached, number);
        e->time = Clock::now();
      }});
  return cudaSuccess;
}
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  Lock lock(runtime().mutex);
  auto e = event_of(event);
  if (e->recorded) add(stream_of(stream), {nullptr, e, e->recorded});
  return cudaSuccess;
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  Lock lock(runtime().mutex);
  auto e = event_of(event);
  if (e->stream && e->reached < e->recorded) {
    Stream& s = *e->stream;
    while (e->reached < e->recorded && !s.queue.empty()) {
      if (may_run(s))
        run_front(s);
      else
        drain(s);
    }
  }
  return pending_error();
}
cudaError_t cudaEventQuery(cudaEvent_t event) {
  return event_of(event)->reached < event_of(event)->recorded ? cudaErrorNotReady : cudaSuccess;
}
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t begin, cudaEvent_t end) {
  if (cudaEventQuery(begin) != cudaSuccess || cudaEventQuery(end) != cudaSuccess)
    return set_error(cudaErrorNotReady);
  *milliseconds =
      std::chrono::duration<float, std::milli>(event_of(end)->time - event_of(begin)->time).count();
  return cudaSuccess;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode) {
  Lock lock(runtime().mutex);
  Stream& s = stream_of(stream);
  if (&s == &runtime().null_stream || s.capture) return set_error(cudaErrorStreamCaptureUnsupported);
  s.capture = std::make_unique<Graph>();
  s.capture_mode = mode;
  s.capture_invalidated = false;
  return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  Lock lock(runtime().mutex);
  Stream& s = stream_of(stream);
  if (!s.capture) return set_error(cudaErrorIllegalState);
  const auto recorded = std::move(s.capture);
  *graph = nullptr;
  if (s.capture_invalidated) return set_error(cudaErrorStreamCaptureInvalidated);
  *graph = reinterpret_cast<cudaGraph_t>(new Graph(std::move(*recorded)));
  return cudaSuccess;
}
cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
  *status = stream_of(stream).capture ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
  return cudaSuccess;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph, unsigned long long) {
  *executable = reinterpret_cast<cudaGraphExec_t>(new Graph(*reinterpret_cast<Graph*>(graph)));
  return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete reinterpret_cast<Graph*>(graph);
  return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) {
  delete reinterpret_cast<Graph*>(executable);
  return cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream) {
  Lock lock(runtime().mutex);
  for (const Work& w : reinterpret_cast<Graph*>(executable)->work) add(stream_of(stream), w);
  return cudaSuccess;
}

}  // extern "C"
