// cuBLAS and cublasLt: their handles, the memory that they work in, and their statuses as exceptions.
#pragma once

#include <cublasLt.h>
#include <cublas_v2.h>

#include <cstddef>
#include <mutex>
#include <source_location>

namespace halfstep::cuda {

/// Throws Error with cuBLAS's text and the place of the call unless `status` is success.
void check(cublasStatus_t status, std::source_location where = std::source_location::current());

/// What products are computed with. Handles and workspace belong to stream(); `mutex` is held while they are
/// used.
struct Cublas {
  cublasHandle_t handle = nullptr;
  cublasLtHandle_t light = nullptr;
  /// Of a fixed size, because the algorithm that cuBLAS chooses, and with it the bits of the result, depends
  /// on how much memory it may use; its own allocations would. Aligned to 256 bytes.
  void* workspace = nullptr;
  size_t workspace_bytes = 0;
  std::mutex mutex;
};

/// Made by the first call, and kept to the end of the process.
Cublas& cublas();

}  // namespace halfstep::cuda
