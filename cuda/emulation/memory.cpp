#include "cuda/emulation/memory.h"

#include <fmt/core.h>
#include <sys/mman.h>

#include <cstdlib>
#include <map>

#include "cuda/emulation/options.h"

namespace halfstep::emulation {

uint64_t device_begin = 0;

namespace {

// Between two allocations at least this much belongs to nobody; also the alignment that cudaMalloc promises
// more than (256).
constexpr uint64_t kGap = 512;

std::map<uint64_t, Allocation> allocations;     // by begin; freed ones stay until their place is reused
std::multimap<uint64_t, uint64_t> free_places;  // size -> begin
uint64_t next_place = 0;
uint64_t opened = 0;  // below this address the bytes can be read and written
size_t in_use = 0;

uint64_t place_bytes(size_t bytes) { return (bytes + 2 * kGap - 1) / kGap * kGap; }

}  // namespace

void reserve_device_memory() {
  if (device_begin) return;
  void* range = mmap(nullptr, 2 * kView, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (range == MAP_FAILED) {
    fmt::print(stderr,
               "[cuda emulation] expected {} GiB of free addresses for the device's memory, got none; "
               "raise the limit on virtual memory (ulimit -v)\n",
               2 * kView >> 30);
    std::exit(1);
  }
  device_begin = reinterpret_cast<uint64_t>(range);
  next_place = device_begin + kGap;
  opened = device_begin;
}

uint64_t allocate_device(size_t bytes) {
  if (in_use + bytes > device_bytes_total()) return 0;
  const uint64_t size = place_bytes(bytes);
  uint64_t place = 0;
  if (const auto it = free_places.lower_bound(size);
      it != free_places.end() && it->first <= size + size / 4) {
    place = it->second;
    free_places.erase(it);
  } else {
    if (next_place + size > device_begin + kView) return 0;
    place = next_place;
    next_place += size;
    // Opened in large steps: each is a call of the system.
    constexpr uint64_t kStep = uint64_t{16} << 20;
    if (next_place > opened) {
      const uint64_t more = (next_place - opened + kStep - 1) / kStep * kStep;
      if (mprotect(view_of(opened), more, PROT_READ | PROT_WRITE) != 0) return 0;
      opened += more;
    }
  }
  allocations[place] = {place, place + bytes, false};
  in_use += bytes;
  return place;
}

bool free_device(uint64_t address) {
  const auto it = allocations.find(address);
  if (it == allocations.end() || it->second.freed) return false;
  it->second.freed = true;
  const size_t bytes = it->second.end - it->second.begin;
  in_use -= bytes;
  // Under the checker freed memory is never used again, so that every late access is found.
  if (options().mode != Mode::check) free_places.emplace(place_bytes(bytes), address);
  return true;
}

size_t device_bytes_in_use() { return in_use; }
size_t device_bytes_total() { return options().memory_bytes; }
bool is_device_address(uint64_t address) { return address - device_begin < kView; }

Allocation allocation_of(uint64_t address) {
  auto it = allocations.upper_bound(address);
  return it == allocations.begin() ? Allocation{} : std::prev(it)->second;
}

std::string describe_address(uint64_t address) {
  if (!is_device_address(address)) return fmt::format("{:#x}, which is no device address", address);
  const Allocation a = allocation_of(address);
  const uint64_t bytes = a.end - a.begin;
  if (!a.begin) return fmt::format("{:#x}, which was never allocated", address);
  const char* freed = a.freed ? ", which were freed" : "";
  if (address < a.end)
    return fmt::format("byte {} of the {} bytes at {:#x}{}", address - a.begin, bytes, a.begin, freed);
  return fmt::format("{} bytes past the end of the {} bytes at {:#x}{}", address - a.end, bytes, a.begin,
                     freed);
}

}  // namespace halfstep::emulation
