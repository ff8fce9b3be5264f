// Linked in place of the CUDA backend by builds without it: one function, not one stand-in per operation.
#include "tensor/backend.h"

namespace halfstep {

CudaProbe probe_cuda() { return {.reason = "this build of halfstep has no CUDA backend"}; }

}  // namespace halfstep
