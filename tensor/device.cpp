#include "tensor/device.h"

#include <algorithm>
#include <map>
#include <mutex>
#include <vector>

#include "tensor/conv_method.h"
#include "tensor/cpu/cpu_backend.h"
#include "tensor/error.h"

namespace halfstep {

struct Allocator::State {
  const Backend& backend;
  mutable std::mutex mutex;
  std::map<size_t, std::vector<void*>> free_blocks;  ///< by size class
  size_t current = 0, peak = 0, reserved = 0;

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

Allocator::Allocator(const Backend& backend) : state_(new State{backend, {}, {}}) {}
// Cached memory goes back to the system with the process; at exit a driver may already be gone.
Allocator::~Allocator() = default;

void* Allocator::allocate(size_t bytes) {
  State& s = *state_;
  const size_t size = size_class(bytes);
  std::lock_guard lock(s.mutex);
  void* memory = nullptr;
  if (auto it = s.free_blocks.find(size); it != s.free_blocks.end() && !it->second.empty()) {
    memory = it->second.back();
    it->second.pop_back();
  } else {
    memory = s.backend.allocate(size);
    if (!memory) {
      s.trim_locked();
      memory = s.backend.allocate(size);
    }
    require(memory != nullptr, "allocate",
            "device '{}' has no room for {} bytes ({} in use); use a smaller batch", s.backend.name, size,
            s.current);
    s.reserved += size;
  }
  s.current += size;
  s.peak = std::max(s.peak, s.current);
  return memory;
}

void Allocator::release(void* memory, size_t bytes) noexcept {
  State& s = *state_;
  const size_t size = size_class(bytes);
  std::lock_guard lock(s.mutex);
  s.free_blocks[size].push_back(memory);
  s.current -= size;
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

void Device::upload(void* to, const void* host, size_t bytes) {
  ++uploads_;
  uploaded_bytes_ += static_cast<int64_t>(bytes);
  backend.upload(to, host, bytes);
}

void Device::download(void* host, const void* from, size_t bytes) {
  ++downloads_;
  downloaded_bytes_ += static_cast<int64_t>(bytes);
  backend.download(host, from, bytes);
}

DeviceStatistics Device::statistics() const {
  return {backend.launches ? backend.launches() : 0, uploads_, uploaded_bytes_, downloads_,
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
