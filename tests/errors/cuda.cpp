// Errors of the CUDA backend. The emulated runtime lets a call fail that HALFSTEP_EMULATION_FAIL names;
// elsewhere nothing fails at will.
#include <doctest/doctest.h>

#include "tensor/device.h"
#include "tensor/ops.h"
#include "tests/error_of.h"
#include "tests/errors/rows.h"

using namespace halfstep;
using namespace halfstep::test;

TEST_CASE("errors of the CUDA backend") {
  const CudaProbe probe = probe_cuda();
  if (!probe.backend || !probe.emulated) return;
  static const TensorOptions cuda{DType::f32, &device_by_name("cuda")};
  check_rows({
      {"a flag that is neither 0 nor 1",
       [] {
         with_environment("HALFSTEP_CUDA_TF32", "maybe", [] {
           matmul(Tensor::ones({2, 2}, cuda), Tensor::ones({2, 2}, cuda));
         });
       },
       "[HALFSTEP_CUDA_TF32] expected 0 or 1, got 'maybe'"},
      {"a kernel that does not start",
       [] { with_environment("HALFSTEP_EMULATION_FAIL", "launch", [] { Tensor::ones({2}, cuda); }); },
       "[cuda] expected success at cuda/elementwise.cu:*, got cudaErrorLaunchFailure: unspecified launch "
       "failure"},
      {"a product that fails",
       [] {
         with_environment("HALFSTEP_EMULATION_FAIL", "gemm", [] {
           matmul(Tensor::ones({2, 2}, cuda), Tensor::ones({2, 2}, cuda));
         });
       },
       "[cuda] expected cuBLAS to succeed at cuda/gemm.cpp:*, got '*'"},
  });
  CHECK(matmul(Tensor::ones({1, 2}, cuda), Tensor::ones({2, 1}, cuda)).item() == 2);  // it goes on afterwards
}
