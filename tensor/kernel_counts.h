// What the emulated GPU counts of its kernels. Apart from tensor/backend.h, which sources of kernels include:
// they may see no containers (tensor/cpu/kernels.h).
#pragma once

#include <compare>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace halfstep {

/// What launches of one kernel did, as the emulated GPU counts it (docs/cuda.md): launches that count alike
/// in everything are one row, and all numbers but `launches` are those of a single one.
struct KernelCounts {
  /// "void halfstep::cuda::(anonymous namespace)::drop<float>(...)", or the name of cuBLAS's function.
  std::string kernel;
  int64_t launches = 0;
  int64_t blocks = 0, threads = 0;  ///< threads of all blocks; both 0 for cuBLAS, whose kernels are not known
  int64_t dynamic_shared_bytes = 0;  ///< of a block
  /// PTX instructions of all threads, by class: "fma.f32", "ld.global", "mma.m16n8k16.bf16", "bar", ...; each
  /// of the 32 lanes counts that take part in a product of tensor cores.
  std::map<std::string, int64_t> instructions = {};
  /// A request is a load or store of a warp: sectors of 32 bytes that it touches, and the bytes of its lanes.
  int64_t global_requests = 0, global_sectors = 0, global_bytes_read = 0, global_bytes_written = 0;
  /// Wavefronts: passes over the 32 banks that a request needs.
  int64_t shared_requests = 0, shared_wavefronts = 0;
  /// Of cuBLAS: a multiply-add is two, each matrix counts once; the factors are "f32", "f64", "tf32" or
  /// "bf16".
  double library_flops = 0, library_bytes = 0;
  std::string library_type = {};

  auto operator<=>(const KernelCounts&) const = default;
};

/// The counters of an emulated GPU. Off at first (HALFSTEP_EMULATION_COUNT=1 turns them on), and then free.
/// Each function waits for the device first.
struct CudaCounters {
  void (*start)();  ///< counts from zero
  void (*stop)();
  std::vector<KernelCounts> (*read)();  ///< since the last start, in the order of the kernels' names
};

}  // namespace halfstep
