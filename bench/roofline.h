// A prediction of how long kernels take on a GPU, from what the emulated GPU counted (docs/cuda.md). Nothing
// here is measured.
//
// The roofline model (Williams, Waterman & Patterson, "Roofline: an insightful visual performance model",
// CACM 52(4), 2009) with a floor: a launch takes the longest of
//   compute  its arithmetic at the peak of the units that do it,
//   memory   its sectors of 32 bytes at the memory's bandwidth,
//   launch   what the start of a kernel takes in a queue that is never empty.
// A kernel with fewer blocks than the GPU has multiprocessors reaches that part of the first two. Launches
// follow each other, so their times add up.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "tensor/kernel_counts.h"

namespace halfstep::bench {

/// What a GPU can do at most, by its vendor's data sheet; tensor cores with dense factors.
struct Gpu {
  std::string_view id;         ///< as on the command line: "h200"
  std::string_view name;       ///< "NVIDIA H200 SXM"
  int compute_capability = 0;  ///< major * 10 + minor
  int multiprocessors = 0;
  double clock = 0;  ///< Hz, boosted; f32 is two operations of 128 lanes of a multiprocessor (64 up to 8.0)
  /// Operations per second, a multiply-add being two; 0 where tensor cores do not take the type.
  double f32 = 0, f64 = 0, tf32 = 0, bf16 = 0;
  double bandwidth = 0;       ///< bytes per second
  double launch_seconds = 0;  ///< an assumption, see kLaunchSeconds
};

/// Assumed for every GPU: from the end of one small kernel to that of the next, in one stream that the host
/// fills in time.
inline constexpr double kLaunchSeconds = 2.5e-6;

/// The GPUs that are known: H200, A100, RTX 4090, T4.
const std::vector<Gpu>& gpus();
/// Throws Error for an id that gpus() has not.
const Gpu& gpu_by_id(std::string_view id);

/// What limits a launch.
enum class Bound : uint8_t { compute, memory, launch };
std::string_view name_of(Bound bound);

/// Floating-point work of one launch. Operations are those of the definition: additions, multiplications,
/// divisions, roots and special functions one each, a multiply-add two; comparisons none. Slots are what the
/// peak counts: every instruction takes that of a multiply-add, so two operations.
struct Arithmetic {
  double f32 = 0, f64 = 0, tf32 = 0, bf16 = 0;  ///< operations; tf32 and bf16 (and f16) of tensor cores
  double f32_slots = 0, f64_slots = 0;

  double operations() const { return f32 + f64 + tf32 + bf16; }
};
Arithmetic arithmetic_of(const KernelCounts& launch);
/// Bytes that one launch moves: its sectors, or the matrices of a library's product.
double bytes_of(const KernelCounts& launch);

/// The prediction for one launch.
struct Prediction {
  double seconds = 0;
  Bound bound = Bound::launch;
};
/// Throws Error where the launch needs tensor cores that the GPU has not.
Prediction predict(const KernelCounts& launch, const Gpu& gpu);

/// All launches of one kernel.
struct RooflineRow {
  std::string kernel;  ///< without namespaces and arguments: "drop<float>"
  int64_t launches = 0;
  double operations = 0, bytes = 0;
  double seconds = 0;
  double by_bound[3] = {};  ///< seconds of the launches that each Bound limits

  Bound bound() const;                                ///< which limits most of the time
  RooflineRow& operator+=(const RooflineRow& other);  ///< keeps the name
};
/// The kernels of a step.
struct Roofline {
  std::vector<RooflineRow> rows;  ///< the longest first
  RooflineRow total;              ///< "all kernels"
};
Roofline roofline(const std::vector<KernelCounts>& counts, const Gpu& gpu);

/// "void halfstep::cuda::(anonymous namespace)::drop<float>(float*, long)" -> "drop<float>".
std::string short_name(std::string_view kernel);

}  // namespace halfstep::bench
