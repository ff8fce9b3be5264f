// A device: a Backend table together with the caching allocator of its memory.
#pragma once

#include <atomic>
#include <memory>
#include <string>
#include <string_view>

#include "tensor/backend.h"

namespace halfstep {

/// Recycles a backend's memory in size classes, so that a training step after the first allocates nothing.
/// Freed blocks are reused in call order, which is safe on an asynchronous device that executes in order.
class Allocator {
 public:
  explicit Allocator(const Backend& backend);
  ~Allocator();
  Allocator(const Allocator&) = delete;
  Allocator& operator=(const Allocator&) = delete;

  /// At least `bytes` bytes, aligned to 64; never nullptr (also for 0). Throws Error when the device is full,
  /// after having given its cache back once.
  void* allocate(size_t bytes);
  void release(void* memory, size_t bytes) noexcept;
  /// Gives all unused blocks back to the backend, but for those of arenas.
  void trim();

  class Arena;

  size_t current_bytes() const;   ///< in use by tensors
  size_t peak_bytes() const;      ///< largest current_bytes() since reset_peak()
  size_t reserved_bytes() const;  ///< held from the backend, in use or cached
  void reset_peak();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// Memory for work that is repeated at the same addresses (tensor/captured.h). Blocks that the allocator
/// hands out while a Use of the arena lives belong to it: when they are released, the arena alone hands them
/// out again, until it is destroyed. Blocks that are in use then become ordinary ones. The allocator must
/// outlive it.
class Allocator::Arena {
 public:
  explicit Arena(Allocator& allocator);
  ~Arena();
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  /// Directs all calls of allocate() to the arena. One at a time. Meanwhile a full device is an error at
  /// once: nothing is given back to the backend, which would have to wait for the device.
  class Use {
   public:
    explicit Use(Arena& arena);
    ~Use();
    Use(const Use&) = delete;
    Use& operator=(const Use&) = delete;

   private:
    State& state_;
  };

 private:
  State& state_;
};

/// What a device was asked to do since the process started.
struct DeviceStatistics {
  /// Kernels started, those of graphs included; 0 for a device that does not count them.
  int64_t launches = 0;
  int64_t graph_launches = 0;
  int64_t uploads = 0, uploaded_bytes = 0, downloads = 0, downloaded_bytes = 0;
};

/// Devices are created once and live as long as the process; tensors refer to them.
class Device {
 public:
  explicit Device(const Backend& table) : backend(table), allocator(table) {}

  const Backend& backend;
  Allocator allocator;
  std::string_view name() const { return backend.name; }
  /// The copies between host and device: all go through here, and are counted. download waits for the device,
  /// and so does synchronize. All three throw Error while calls are being recorded.
  void upload(void* to, const void* host, size_t bytes);
  void download(void* host, const void* from, size_t bytes);
  void synchronize();
  DeviceStatistics statistics() const;
  /// The name, and what else the last digits of results depend on: "cpu (avx512, convolutions auto)".
  std::string description() const;

  /// Whether work that repeats itself is recorded and started as one graph (tensor/captured.h): where the
  /// backend can, unless it was switched off. The results are the same.
  bool uses_graphs() const { return graphs_ && backend.begin_capture != nullptr; }
  void use_graphs(bool on) { graphs_ = on; }
  /// Records calls, as begin_capture and its companions of the Backend do; for tensor/captured.h. While they
  /// are recorded no other thread may use the device.
  void begin_capture();
  void* end_capture();
  void launch_graph(void* graph);

 private:
  void require_not_capturing(std::string_view operation) const;

  std::atomic<int64_t> uploads_ = 0, uploaded_bytes_ = 0, downloads_ = 0, downloaded_bytes_ = 0,
                       graph_launches_ = 0;
  std::atomic<bool> graphs_ = true, capturing_ = false;
};

/// Throws Error "[where] ..." unless the device computes in bf16.
void require_bf16(const Device& device, std::string_view where);

/// The devices of the plain loops and of the fast kernels of the CPU.
Device& reference_device();
Device& cpu_device();
/// "cpu", "reference", "cuda", or "auto" (a GPU if one answers, else the CPU; never an emulated GPU). Throws
/// Error for other names and when the build or the machine has no such device.
Device& device_by_name(std::string_view name);

}  // namespace halfstep
