#include "tests/unreadable_backend.h"

#include <sys/mman.h>

#include <functional>
#include <memory>
#include <tuple>
#include <utility>
#include <vector>

#include "tensor/backend_entries.h"
#include "tensor/error.h"

namespace halfstep {
namespace {

using Calls = std::vector<std::function<void()>>;

/// Bytes of address space, never used twice: a block that was released stays unreadable for kernels, too. The
/// memory behind an address of the device is kSpace bytes further on.
constexpr size_t kSpace = size_t{16} << 30;

struct Machine {
  uint8_t* const space = reserve();
  size_t used = 0;  ///< bytes of space
  Calls queue;
  std::unique_ptr<Calls> graph;  ///< set while calls are recorded instead of queued
  int64_t downloads = 0;

  static uint8_t* reserve() {
    void* space = mmap(nullptr, 2 * kSpace, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    require(space != MAP_FAILED, "unreadable", "no address space");
    return static_cast<uint8_t*>(space);
  }
  /// What the kernels find behind an address of the device.
  void* memory_at(const void* address) const {
    const auto offset = static_cast<size_t>(static_cast<const uint8_t*>(address) - space);
    require(offset <= used, "unreadable", "expected memory of the device, not of the host");
    return space + kSpace + offset;
  }
  void drain() {
    require(!graph, "unreadable", "expected no wait while calls are recorded");
    for (auto& call : queue) call();
    queue.clear();
  }
};

Machine& machine() {
  static Machine& m = *new Machine;
  return m;
}

size_t whole_pages(size_t bytes) { return (bytes + 4095) / 4096 * 4096; }

void* allocate(size_t bytes) {
  Machine& m = machine();
  if (whole_pages(bytes) > kSpace - m.used) return nullptr;
  void* const address = m.space + m.used;
  m.used += whole_pages(bytes);
  return mprotect(m.memory_at(address), bytes, PROT_READ | PROT_WRITE) == 0 ? address : nullptr;
}

void release(void* address, size_t bytes) {
  machine().drain();
  // The memory goes, the address stays taken.
  const void* const left = mmap(machine().memory_at(address), bytes, PROT_NONE,
                                MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
  require(left != MAP_FAILED, "unreadable", "memory could not be given back");
}

void upload(void* device, const void* host, size_t bytes) {
  machine().drain();
  reference_backend().upload(machine().memory_at(device), host, bytes);
}

void download(void* host, const void* device, size_t bytes) {
  ++machine().downloads;
  machine().drain();
  reference_backend().download(host, machine().memory_at(device), bytes);
}

/// Wraps any entry of the table: the call is queued with copies of its arguments.
template <auto Entry>
struct Queued;
template <class... Args, void (*Backend::*Entry)(Args...)>
struct Queued<Entry> {
  static void call(Args... args) {
    std::tuple<Kept<Args>...> kept{Kept<Args>(args)...};
    const auto find_memory = [](Array& a, Use) {
      if (!a.absent()) a.data = machine().memory_at(a.data);
    };
    for_each_kept_array<Entry>(find_memory, kept);
    Calls& calls = machine().graph ? *machine().graph : machine().queue;
    calls.push_back(later<Entry>(reference_backend(), std::move(kept)));
  }
};

Backend make_backend() {
  Backend b{};
  b.name = "unreadable";
  b.synchronous = false;
  b.computes_bf16 = reference_backend().computes_bf16;
  b.allocate = allocate;
  b.release = release;
  b.upload = upload;
  b.download = download;
  b.synchronize = [] { machine().drain(); };
  b.begin_capture = [] { machine().graph = std::make_unique<Calls>(); };
  b.end_capture = []() -> void* { return machine().graph.release(); };
  b.launch_graph = [](void* graph) {
    const Calls& calls = *static_cast<Calls*>(graph);
    machine().queue.insert(machine().queue.end(), calls.begin(), calls.end());
  };
  b.destroy_graph = [](void* graph) { delete static_cast<Calls*>(graph); };
  for_each_entry([&]<auto Entry>(std::string_view) { b.*Entry = Queued<Entry>::call; });
  return b;
}

}  // namespace

Device& unreadable_device() {
  static const Backend& backend = *new Backend(make_backend());
  static Device& device = *new Device(backend);
  return device;
}

int64_t unreadable_downloads() { return machine().downloads; }

}  // namespace halfstep
