// The handles of cuBLAS; see cublas.h.
#include "cuda/cublas.h"

#include "cuda/runtime.h"
#include "tensor/error.h"

namespace halfstep::cuda {
namespace {

/// The handles, bound to the stream and to the workspace.
Cublas* make_cublas() {
  auto* const c = new Cublas;
  // What NVIDIA recommends for each generation, in the documentation of cublasSetWorkspace().
  c->workspace_bytes = size_t{compute_capability() >= 90 ? 32u : 4u} << 20;
  check(cudaMalloc(&c->workspace, c->workspace_bytes));
  check(cublasCreate(&c->handle));
  check(cublasLtCreate(&c->light));
  check(cublasSetStream(c->handle, stream()));  // first: it takes the workspace away again
  check(cublasSetWorkspace(c->handle, c->workspace, c->workspace_bytes));
  // Parts of a long sum of bf16 are added up in f32, not in the type of the result.
  check(cublasSetMathMode(
      c->handle,
      static_cast<cublasMath_t>(CUBLAS_DEFAULT_MATH | CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION)));
  return c;
}

}  // namespace

void check(cublasStatus_t status, std::source_location where) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  fail("cuda", "expected cuBLAS to succeed at {}, got '{}'", describe(where), cublasGetStatusString(status));
}

Cublas& cublas() {
  // Never destroyed: the driver may have shut down before the destructors of static objects run.
  static Cublas* const instance = make_cublas();
  return *instance;
}

}  // namespace halfstep::cuda
