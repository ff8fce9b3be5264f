#include "tensor/cpu/cpu_backend.h"

#include <cstdlib>

#include "tensor/bf16_entries.h"
#include "tensor/cpu/pages.h"
#include "tensor/error.h"

// The kernel sources are compiled once per instruction set; see tensor/cpu/kernels.h.
namespace halfstep::cpu {
namespace portable {
void override_entries(Backend& backend);
}
#ifdef HALFSTEP_WITH_AVX2
namespace avx2 {
void override_entries(Backend& backend);
}
#endif
#ifdef HALFSTEP_WITH_AVX512
namespace avx512 {
void override_entries(Backend& backend);
}
#endif
}  // namespace halfstep::cpu

namespace halfstep {
namespace {

constexpr Isa kAll[] = {Isa::avx512, Isa::avx2, Isa::portable};  // best first

Backend backend_with(void (*override_entries)(Backend&)) {
  Backend backend = reference_backend();
  backend.name = "cpu";
  backend.allocate = [](size_t bytes) { return cpu::allocate_pages(bytes); };
  backend.release = [](void* memory, size_t bytes) { cpu::release_pages(memory, bytes); };
  override_entries(backend);
  return backend;
}

/// The kernels of an instruction set, in f32 and f64.
template <void (*OverrideEntries)(Backend&)>
const Backend& full_precision() {
  static const Backend backend = backend_with(OverrideEntries);
  return backend;
}
template <void (*OverrideEntries)(Backend&)>
const CpuTables& tables() {
  static const CpuTables both{full_precision<OverrideEntries>(),
                              with_bf16<full_precision<OverrideEntries>>()};
  return both;
}

}  // namespace

std::string_view name_of(Isa isa) {
  switch (isa) {
    case Isa::portable:
      return "portable";
    case Isa::avx2:
      return "avx2";
    case Isa::avx512:
      return "avx512";
  }
  fail("cpu", "unknown instruction set number {}", static_cast<int>(isa));
}

bool is_supported(Isa isa) {
  // These ask the operating system, too, whether it saves the wide registers.
#ifdef HALFSTEP_WITH_AVX2
  if (isa == Isa::avx2) return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#endif
#ifdef HALFSTEP_WITH_AVX512
  if (isa == Isa::avx512)
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("fma");
#endif
  return isa == Isa::portable;
}

const CpuTables& cpu_tables_for(Isa isa) {
  require(is_supported(isa), "cpu", "this build or this CPU does not run {} kernels", name_of(isa));
  // Each table is filled only where it is asked for: the function that fills it is itself compiled for that
  // instruction set.
#ifdef HALFSTEP_WITH_AVX512
  if (isa == Isa::avx512) return tables<cpu::avx512::override_entries>();
#endif
#ifdef HALFSTEP_WITH_AVX2
  if (isa == Isa::avx2) return tables<cpu::avx2::override_entries>();
#endif
  return tables<cpu::portable::override_entries>();
}

const Backend& cpu_backend_for(Isa isa) { return cpu_tables_for(isa).complete; }

Isa selected_isa() {
  if (const char* name = std::getenv("HALFSTEP_CPU")) {
    for (Isa isa : kAll) {
      if (name != name_of(isa)) continue;
      require(is_supported(isa), "HALFSTEP_CPU", "this build or this CPU does not run {} kernels", name);
      return isa;
    }
    fail("HALFSTEP_CPU", "expected portable, avx2 or avx512, got '{}'", name);
  }
  for (Isa isa : kAll) {
    if (is_supported(isa)) return isa;
  }
  return Isa::portable;
}

const Backend& cpu_backend() {
  static const Backend& backend = cpu_backend_for(selected_isa());
  return backend;
}

}  // namespace halfstep
