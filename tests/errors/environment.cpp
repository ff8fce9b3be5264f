// First by its name, as doctest runs files in the order of their names: the number of threads is chosen when
// the first kernel of the program runs.
#include <doctest/doctest.h>

#include "tensor/conv_method.h"
#include "tensor/cpu/cpu_backend.h"
#include "tensor/threads.h"
#include "tests/error_of.h"
#include "tests/errors/rows.h"

using namespace halfstep;
using namespace halfstep::test;

TEST_CASE("errors of the environment") {
  check_rows({
      {"threads from the environment",
       [] { with_environment("HALFSTEP_THREADS", "many", [] { num_threads(); }); },
       "[HALFSTEP_THREADS] expected a number from 1 to 1024, got 'many'"},
      {"number of threads", [] { set_num_threads(0); },
       "[set_num_threads] expected 1 to 1024 threads, got 0"},
      {"instruction set from the environment",
       [] { with_environment("HALFSTEP_CPU", "sse9", [] { selected_isa(); }); },
       "[HALFSTEP_CPU] expected portable, avx2 or avx512, got 'sse9'"},
      {"method of convolutions from the environment",
       [] { with_environment("HALFSTEP_CONV", "fast", [] { conv_method(); }); },
       "[HALFSTEP_CONV] expected auto, direct or winograd, got 'fast'"},
      {"no method of convolutions", [] { name_of(static_cast<ConvMethod>(9)); },
       "[conv] unknown method number 9"},
      {"no instruction set", [] { name_of(static_cast<Isa>(9)); }, "[cpu] unknown instruction set number 9"},
      {"name of a device", [] { device_by_name("gpu"); },
       "[device] expected cpu, cuda, auto or reference, got 'gpu'"},
      {"name of a dtype", [] { dtype_by_name("half"); },
       "[dtype] expected f32, f64, bf16 or i64, got 'half'"},
      {"size of no dtype", [] { size_of(static_cast<DType>(9)); }, "[dtype] unknown dtype number 9"},
      {"name of no dtype", [] { name_of(static_cast<DType>(9)); }, "[dtype] unknown dtype number 9"},
  });
  if (!probe_cuda().backend)
    check_rows({{"a GPU that is not there", [] { device_by_name("cuda"); },
                 "[device] expected a CUDA device, got none: *; use --device cpu"}});
  // Which of them this machine lacks, if any, is not known beforehand.
  for (const Isa isa : {Isa::avx2, Isa::avx512}) {
    if (is_supported(isa)) continue;
    const std::string name(name_of(isa));
    CHECK(error_of([&] { with_environment("HALFSTEP_CPU", name.c_str(), [] { selected_isa(); }); }) ==
          "[HALFSTEP_CPU] this build or this CPU does not run " + name + " kernels");
    CHECK(error_of([&] { cpu_backend_for(isa); }) ==
          "[cpu] this build or this CPU does not run " + name + " kernels");
  }
}
