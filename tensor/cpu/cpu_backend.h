// The CPU backend of each instruction set.
#pragma once

#include <string_view>

#include "tensor/backend.h"

namespace halfstep {

/// portable: what every CPU of the architecture has. avx512: F, BW, VL and DQ.
enum class Isa { portable, avx2, avx512 };

/// "portable", "avx2", "avx512".
std::string_view name_of(Isa isa);
/// Whether this build has kernels for it, and this machine and its operating system run them.
bool is_supported(Isa isa);
/// The backend with the kernels of `isa`: those alone, and with entries that take bf16, too
/// (tensor/bf16_entries.h).
struct CpuTables {
  Backend full_precision, complete;
};
/// Throws Error unless is_supported(isa).
const CpuTables& cpu_tables_for(Isa isa);
/// The complete one.
const Backend& cpu_backend_for(Isa isa);
/// What cpu_backend() uses: HALFSTEP_CPU, or the best that is supported. Throws Error for another name or an
/// unsupported one.
Isa selected_isa();

}  // namespace halfstep
