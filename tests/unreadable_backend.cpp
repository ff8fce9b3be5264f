#include "tests/unreadable_backend.h"

#include <sys/mman.h>

#include <functional>
#include <map>
#include <vector>

#include "tensor/backend_entries.h"
#include "tensor/error.h"

namespace halfstep {
namespace {

struct Machine {
  std::map<void*, size_t> blocks;  ///< page-aligned, protected
  std::vector<std::function<void()>> queue;
  int64_t downloads = 0;

  void protect(int access) {
    for (auto [memory, bytes] : blocks)
      require(mprotect(memory, bytes, access) == 0, "unreadable", "mprotect failed");
  }
  void drain() {
    if (queue.empty()) return;
    protect(PROT_READ | PROT_WRITE);
    for (auto& call : queue) call();
    queue.clear();
    protect(PROT_NONE);
  }
};

Machine& machine() {
  static Machine& m = *new Machine;
  return m;
}

size_t whole_pages(size_t bytes) { return (bytes + 4095) / 4096 * 4096; }

void* allocate(size_t bytes) {
  void* memory = mmap(nullptr, whole_pages(bytes), PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return nullptr;
  machine().blocks[memory] = whole_pages(bytes);
  return memory;
}

void release(void* memory, size_t bytes) {
  machine().drain();
  machine().blocks.erase(memory);
  munmap(memory, whole_pages(bytes));
}

void upload(void* device, const void* host, size_t bytes) {
  machine().drain();
  machine().protect(PROT_READ | PROT_WRITE);
  reference_backend().upload(device, host, bytes);
  machine().protect(PROT_NONE);
}

void download(void* host, const void* device, size_t bytes) {
  ++machine().downloads;
  machine().drain();
  machine().protect(PROT_READ | PROT_WRITE);
  reference_backend().download(host, device, bytes);
  machine().protect(PROT_NONE);
}

/// Wraps any entry of the table: the call is queued with copies of its arguments.
template <auto Entry>
struct Queued;
template <class... Args, void (*Backend::*Entry)(Args...)>
struct Queued<Entry> {
  static void call(Args... args) { machine().queue.push_back(later<Entry>(reference_backend(), args...)); }
};

Backend make_backend() {
  Backend b{};
  b.name = "unreadable";
  b.synchronous = false;
  b.allocate = allocate;
  b.release = release;
  b.upload = upload;
  b.download = download;
  b.synchronize = [] { machine().drain(); };
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
