#include "bench/roofline.h"

#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <map>

#include "tensor/error.h"

namespace halfstep::bench {

const std::vector<Gpu>& gpus() {
  // NVIDIA's data sheets and whitepapers: "H200 Tensor Core GPU" (SXM; its figures of tensor cores are with
  // sparsity, the dense ones are half of them) and "H100 Tensor Core GPU Architecture" for the number of
  // multiprocessors; "A100 Tensor Core GPU" (SXM, 80 GB); "Ada GPU Architecture" (RTX 4090, products summed
  // in f32); "T4" and "Turing GPU Architecture" (256 bits of memory at 10 Gbit/s each; f64 at a 32nd of f32).
  static const std::vector<Gpu> all = {
      {.id = "h200",
       .name = "NVIDIA H200 SXM",
       .compute_capability = 90,
       .multiprocessors = 132,
       .clock = 1.98e9,
       .f32 = 67e12,
       .f64 = 34e12,
       .tf32 = 494.5e12,
       .bf16 = 989.5e12,
       .bandwidth = 4.8e12,
       .launch_seconds = kLaunchSeconds},
      {.id = "a100",
       .name = "NVIDIA A100 SXM 80GB",
       .compute_capability = 80,
       .multiprocessors = 108,
       .clock = 1.41e9,
       .f32 = 19.5e12,
       .f64 = 9.7e12,
       .tf32 = 156e12,
       .bf16 = 312e12,
       .bandwidth = 2.039e12,
       .launch_seconds = kLaunchSeconds},
      {.id = "rtx4090",
       .name = "NVIDIA GeForce RTX 4090",
       .compute_capability = 89,
       .multiprocessors = 128,
       .clock = 2.52e9,
       .f32 = 82.6e12,
       .f64 = 1.29e12,
       .tf32 = 82.6e12,
       .bf16 = 165.2e12,
       .bandwidth = 1.008e12,
       .launch_seconds = kLaunchSeconds},
      {.id = "t4",
       .name = "NVIDIA T4",
       .compute_capability = 75,
       .multiprocessors = 40,
       .clock = 1.59e9,
       .f32 = 8.1e12,
       .f64 = 0.253e12,
       .tf32 = 0,
       .bf16 = 0,
       .bandwidth = 0.32e12,
       .launch_seconds = kLaunchSeconds},
  };
  return all;
}

const Gpu& gpu_by_id(std::string_view id) {
  std::string known;
  for (const Gpu& gpu : gpus()) {
    if (gpu.id == id) return gpu;
    known += (known.empty() ? "" : ", ") + std::string(gpu.id);
  }
  fail("roofline", "expected a GPU of {}, got '{}'", known, id);
}

std::string_view name_of(Bound bound) {
  constexpr std::string_view kNames[] = {"compute", "memory", "launch"};
  return kNames[static_cast<size_t>(bound)];
}

namespace {

/// 16, 8 and 16 of "m16n8k16".
double product_of_sizes(std::string_view shape) {
  double product = 1;
  for (const char* at = shape.data(); at != shape.data() + shape.size();) {
    int size = 0;
    const auto [end, error] = std::from_chars(at, shape.data() + shape.size(), size);
    if (error == std::errc{}) product *= size;
    at = error == std::errc{} ? end : at + 1;
  }
  return product;
}

void add_library(Arithmetic& a, const KernelCounts& launch) {
  const double flops = launch.library_flops;
  if (launch.library_type == "tf32") a.tf32 += flops;
  if (launch.library_type == "bf16") a.bf16 += flops;
  if (launch.library_type == "f32") a.f32 += flops, a.f32_slots += flops;
  if (launch.library_type == "f64") a.f64 += flops, a.f64_slots += flops;
}

}  // namespace

Arithmetic arithmetic_of(const KernelCounts& launch) {
  constexpr std::array<std::string_view, 12> kOneOperation = {"add",   "sub", "mul", "div", "rcp", "sqrt",
                                                              "rsqrt", "ex2", "lg2", "sin", "cos", "tanh"};
  Arithmetic a;
  for (const auto& [kind, count] : launch.instructions) {
    const std::string_view text = kind;
    const size_t dot = text.find('.');
    if (dot == std::string_view::npos) continue;
    const std::string_view op = text.substr(0, dot), type = text.substr(text.rfind('.') + 1);
    const auto n = static_cast<double>(count);
    if (op == "mma") {
      constexpr double kLanes = 32;
      (type == "tf32" ? a.tf32 : a.bf16) +=
          2 * product_of_sizes(text.substr(dot, text.size() - dot - type.size())) * n / kLanes;
      continue;
    }
    const bool once = std::find(kOneOperation.begin(), kOneOperation.end(), op) != kOneOperation.end();
    const double operations = op == "fma" ? 2 : once ? 1 : 0;
    if (type == "f64") {
      a.f64 += operations * n;
      a.f64_slots += 2 * n;
    } else if (type == "f32" || type == "f16" || type == "bf16") {
      a.f32 += operations * n;
      a.f32_slots += 2 * n;
    } else if (type == "f16x2" || type == "bf16x2") {  // two at once
      a.f32 += 2 * operations * n;
      a.f32_slots += 2 * n;
    }
  }
  add_library(a, launch);
  return a;
}

double bytes_of(const KernelCounts& launch) {
  constexpr double kSector = 32;
  return kSector * static_cast<double>(launch.global_sectors) + launch.library_bytes;
}

Prediction predict(const KernelCounts& launch, const Gpu& gpu) {
  const Arithmetic a = arithmetic_of(launch);
  for (const auto& [operations, peak, type] :
       {std::tuple{a.tf32, gpu.tf32, "tf32"}, {a.bf16, gpu.bf16, "bf16"}})
    require(operations == 0 || peak > 0, "roofline",
            "expected kernels that {} runs, got {} products on tensor cores in {}; "
            "HALFSTEP_EMULATION_CAPABILITY={} and no HALFSTEP_CUDA_TF32 choose others",
            gpu.name, type, short_name(launch.kernel), gpu.compute_capability);
  // Blocks are not known of a library's kernels: they are taken to fill the GPU.
  const double share =
      launch.blocks > 0 ? std::min(1.0, static_cast<double>(launch.blocks) / gpu.multiprocessors) : 1.0;
  const auto at = [&](double work, double peak) { return work > 0 ? work / (peak * share) : 0.0; };
  const double compute = std::max(
      {at(a.f32_slots, gpu.f32), at(a.f64_slots, gpu.f64), at(a.tf32, gpu.tf32), at(a.bf16, gpu.bf16)});
  const double memory = at(bytes_of(launch), gpu.bandwidth);
  if (std::max(compute, memory) <= gpu.launch_seconds) return {gpu.launch_seconds, Bound::launch};
  return compute > memory ? Prediction{compute, Bound::compute} : Prediction{memory, Bound::memory};
}

Bound RooflineRow::bound() const {
  return static_cast<Bound>(std::max_element(by_bound, by_bound + 3) - by_bound);
}

RooflineRow& RooflineRow::operator+=(const RooflineRow& other) {
  launches += other.launches;
  operations += other.operations;
  bytes += other.bytes;
  seconds += other.seconds;
  for (size_t i = 0; i < 3; ++i) by_bound[i] += other.by_bound[i];
  return *this;
}

Roofline roofline(const std::vector<KernelCounts>& counts, const Gpu& gpu) {
  std::map<std::string, RooflineRow> by_name;
  Roofline result;
  result.total.kernel = "all kernels";
  for (const KernelCounts& launch : counts) {
    const Prediction prediction = predict(launch, gpu);
    const auto launches = static_cast<double>(launch.launches);
    RooflineRow row{.kernel = short_name(launch.kernel),
                    .launches = launch.launches,
                    .operations = launches * arithmetic_of(launch).operations(),
                    .bytes = launches * bytes_of(launch),
                    .seconds = launches * prediction.seconds};
    row.by_bound[static_cast<size_t>(prediction.bound)] = row.seconds;
    by_name[row.kernel] += row;
    result.total += row;
  }
  for (auto& [name, row] : by_name) {
    row.kernel = name;
    result.rows.push_back(row);
  }
  std::stable_sort(result.rows.begin(), result.rows.end(),
                   [](const RooflineRow& a, const RooflineRow& b) { return a.seconds > b.seconds; });
  return result;
}

std::string short_name(std::string_view kernel) {
  std::string name(kernel);
  for (const std::string_view part : {"(anonymous namespace)::", "halfstep::cuda::", "halfstep::", "void "})
    for (size_t at; (at = name.find(part)) != std::string::npos;) name.erase(at, part.size());
  int depth = 0;
  for (size_t i = 0; i < name.size(); ++i) {
    if (name[i] == '<') ++depth;
    if (name[i] == '>') --depth;
    if (name[i] == '(' && depth == 0) return name.substr(0, i);
  }
  return name;
}

}  // namespace halfstep::bench
