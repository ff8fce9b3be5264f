// The tables that translate.py writes for one .cu file: its kernels and what is known of their instructions.
#pragma once

#include <cstddef>
#include <cstdint>

namespace halfstep::emulation {

struct Thread;

/// A place in the source; where the code was inlined, also the place of the outermost call.
struct Site {
  const char* file;
  int line;
  const char* caller_file;
  int caller_line;
};

/// A kernel's parameter within the block of all its parameters.
struct Param {
  uint32_t offset, bytes;
};

/// Basic block `block` of the module holds `times` instructions of class `kind` (a row of Module::classes).
struct BlockCount {
  uint32_t block, kind, times;
};

/// A kernel: `run` executes one thread of it.
struct Kernel {
  const char* name;  ///< mangled
  void (*run)(Thread&);
  const Param* params;
  uint32_t num_params, param_bytes;
  uint32_t shared_bytes;  ///< static shared memory; dynamic memory follows, aligned to 16
  bool waits;  ///< whether threads wait for one another: at barriers, in shuffles, in matrix products
  uint32_t max_threads;  ///< __launch_bounds__, or 0
};

/// A variable in global or constant memory.
struct Variable {
  const char* name;
  void* memory;
  size_t bytes;
};

/// One translated file; its tables end with an empty row.
struct Module {
  const char* name;
  const Kernel* kernels;
  const Variable* variables;
  const Site* sites;
  const char* const* classes;
  const BlockCount* counts;
  uint32_t num_blocks;
};

/// Makes a translated file known before main; files of a library, which the linker takes only where something
/// refers to them, stand in modules.cpp, too. Always true.
bool register_module(const Module* module);

}  // namespace halfstep::emulation
