#include "tensor/device.h"

#include <algorithm>
#include <map>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "tensor/conv_method.h"
#include "tensor/cpu/cpu_backend.h"
#include "tensor/error.h"

namespace halfstep {

namespace {

using FreeBlocks = std::map<size_t, std::vector<void*>>;  // by size class

/// A block of the class, or nullptr where there is none.
void* take(FreeBlocks& blocks, size_t size) {
  const auto found = blocks.find(size);
  if (found == blocks.end() || found->second.empty()) return nullptr;
  void* const memory = found->second.back();
  found->second.pop_back();
  return memory;
}

}  // namespace

struct Allocator::State {
  const Backend& backend;
  mutable std::mutex mutex;
  FreeBlocks free_blocks;
  size_t current = 0, peak = 0, reserved = 0;

  const Arena* arena = nullptr;  ///< the one in use
  std::unordered_map<const Arena*, FreeBlocks> free_of_arenas;
  std::unordered_map<void*, const Arena*> arena_of;  ///< of blocks, whether in use or free

  void trim_locked() {
    backend.synchronize();
    for (auto& [size, blocks] : free_blocks) {
      for (void* block : blocks) backend.release(block, size);
      reserved -= size * blocks.size();
    }
    free_blocks.clear();
  }
};

namespace {
/// Size classes: eighths of a power of two, so at most 1/8 of a block is wasted and similar sizes share
/// blocks.
size_t size_class(size_t bytes) {
  size_t step = 64;
  while (step * 8 < bytes) step *= 2;
  return std::max<size_t>(step, (bytes + step - 1) / step * step);
}
}  // namespace

Allocator::Allocator(const Backend& backend) : state_(new State{backend, {}, {}, 0, 0, 0, {}, {}, {}}) {}
// Cached memory goes back to the system with the process; at exit a driver may already be gone.
Allocator::~Allocator() = default;

void* Allocator::allocate(size_t bytes) {
  State& s = *state_;
  const size_t size = size_class(bytes);
  std::lock_guard lock(s.mutex);
  void* memory = s.arena ? take(s.free_of_arenas[s.arena], size) : nullptr;
  if (!memory) memory = take(s.free_blocks, size);
  if (!memory) {
    memory = s.backend.allocate(size);
    if (!memory && !s.arena) {
      s.trim_locked();
      memory = s.backend.allocate(size);
    }
    require(memory != nullptr, "allocate",
            "device '{}' has no room for {} bytes ({} in use); use a smaller batch", s.backend.name, size,
            s.current);
    s.reserved += size;
  }
  if (s.arena) s.arena_of[memory] = s.arena;
  s.current += size;
  s.peak = std::max(s.peak, s.current);
  return memory;
}

void Allocator::release(void* memory, size_t bytes) noexcept {
  State& s = *state_;
  const size_t size = size_class(bytes);
  std::lock_guard lock(s.mutex);
  const auto owner = s.arena_of.find(memory);
  (owner == s.arena_of.end() ? s.free_blocks : s.free_of_arenas[owner->second])[size].push_back(memory);
  s.current -= size;
}

Allocator::Arena::Arena(Allocator& allocator) : state_(*allocator.state_) {}

Allocator::Arena::~Arena() {
  std::lock_guard lock(state_.mutex);
  for (auto& [size, blocks] : state_.free_of_arenas[this]) {
    auto& ordinary = state_.free_blocks[size];
    ordinary.insert(ordinary.end(), blocks.begin(), blocks.end());
  }
  state_.free_of_arenas.erase(this);
  std::erase_if(state_.arena_of, [this](const auto& entry) { return entry.second == this; });
}

Allocator::Arena::Use::Use(Arena& arena) : state_(arena.state_) {
  std::lock_guard lock(state_.mutex);
  require(!state_.arena, "arena", "expected one arena in use at a time, got a second one");
  state_.arena = &arena;
}

Allocator::Arena::Use::~Use() {
  std::lock_guard lock(state_.mutex);
  state_.arena = nullptr;
}

void Allocator::trim() {
  std::lock_guard lock(state_->mutex);
  state_->trim_locked();
}

size_t Allocator::current_bytes() const {
  std::lock_guard lock(state_->mutex);
  return state_->current;
}
size_t Allocator::peak_bytes() const {
  std::lock_guard lock(state_->mutex);
  return state_->peak;
}
size_t Allocator::reserved_bytes() const {
  std::lock_guard lock(state_->mutex);
  return state_->reserved;
}
void Allocator::reset_peak() {
  std::lock_guard lock(state_->mutex);
  state_->peak = state_->current;
}

void Device::require_not_capturing(std::string_view operation) const {
  require(!capturing_, operation,
          "expected work on device '{}' alone while it is being recorded, got {}; do it before, and hand the "
          "result in as an input",
          name(), operation);
}

void Device::upload(void* to, const void* host, size_t bytes) {
  require_not_capturing("upload");
  ++uploads_;
  uploaded_bytes_ += static_cast<int64_t>(bytes);
  backend.upload(to, host, bytes);
}

void Device::download(void* host, const void* from, size_t bytes) {
  require_not_capturing("download");
  ++downloads_;
  downloaded_bytes_ += static_cast<int64_t>(bytes);
  backend.download(host, from, bytes);
}

void Device::synchronize() {
  require_not_capturing("synchronize");
  backend.synchronize();
}

void Device::begin_capture() {
  require(backend.begin_capture != nullptr, "begin_capture", "device '{}' cannot record graphs", name());
  require_not_capturing("begin_capture");
  backend.begin_capture();
  capturing_ = true;
}

void* Device::end_capture() {
  require(capturing_, "end_capture", "expected calls that are being recorded on device '{}', got none",
          name());
  capturing_ = false;
  return backend.end_capture();
}

void Device::launch_graph(void* graph) {
  require_not_capturing("launch_graph");
  ++graph_launches_;
  backend.launch_graph(graph);
}

DeviceStatistics Device::statistics() const {
  return {backend.launches ? backend.launches() : 0,
          graph_launches_,
          uploads_,
          uploaded_bytes_,
          downloads_,
          downloaded_bytes_};
}

std::string Device::description() const {
  if (&backend != &cpu_backend()) return std::string(name());
  return fmt::format("{} ({}, convolutions {})", name(), name_of(selected_isa()), name_of(conv_method()));
}

void require_bf16(const Device& device, std::string_view where) {
  require(device.backend.computes_bf16, where,
          "expected a device that computes in bf16, got '{}'; a GPU needs compute capability 8.0: use f32",
          device.name());
}

// Devices are never destroyed: tensors in static storage may outlive any order of destruction.
Device& reference_device() {
  static Device& device = *new Device(reference_backend());
  return device;
}

Device& cpu_device() {
  static Device& device = *new Device(cpu_backend());
  return device;
}

Device& device_by_name(std::string_view name) {
  if (name == "cpu") return cpu_device();
  if (name == "reference") return reference_device();
  if (name == "cuda" || name == "auto") {
    const CudaProbe probe = probe_cuda();
    if (probe.backend && (name == "cuda" || !probe.emulated)) {
      static Device& device = *new Device(*probe.backend);
      return device;
    }
    if (name == "auto") return cpu_device();
    fail("device", "expected a CUDA device, got none: {}; use --device cpu", probe.reason);
  }
  fail("device", "expected cpu, cuda, auto or reference, got '{}'", name);
}

}  // namespace halfstep
