// How kernels are run, from the environment; read once.
#pragma once

#include <cstddef>
#include <cstdint>

namespace halfstep::emulation {

enum class Mode {
  fast,    ///< threads in order
  random,  ///< blocks, and the threads of a block after every barrier, in random order
  check,   ///< random order, and every access to memory is judged (checker.h)
};

struct Options {
  Mode mode = Mode::fast;       ///< HALFSTEP_EMULATION=fast|random|check
  uint64_t seed = 1;            ///< HALFSTEP_EMULATION_SEED
  bool count = false;           ///< HALFSTEP_EMULATION_COUNT=1: count instructions and memory traffic
  size_t memory_bytes = 0;      ///< HALFSTEP_EMULATION_MEMORY, in MiB
  int multiprocessors = 8;      ///< HALFSTEP_EMULATION_MULTIPROCESSORS
  int compute_capability = 80;  ///< HALFSTEP_EMULATION_CAPABILITY, as major * 10 + minor
};

/// Whether HALFSTEP_EMULATION_FAIL names `what`: "launch" and "gemm", calls that fail, or "kernel", a kernel
/// that fails while it runs. So programs can test their errors. Read at each call.
bool should_fail(const char* what);

/// Ends the program with a clear error for values that are not known.
const Options& options();
/// For tests of the emulator itself.
void set_options(const Options& options);

}  // namespace halfstep::emulation
