// The instructions of tensor cores (compute capability 8.0 and later) that CUDA C++ has no names for:
// products of small matrices by a warp, loads of their fragments from shared memory, and copies from global
// to shared memory that run by themselves. The only place with assembly; the layouts are those of the PTX
// manual, sections "Warp Level Matrix Instructions" and "Data Movement: Asynchronous copy".
//
// Where lane l of a warp holds its part of D[16, 8] += A[16, k] B[k, 8], with g = l / 4 and t = l % 4:
//   A: four registers of 4 bytes: (row g, 4-byte column t), (g + 8, t), (g, t + 4), (g + 8, t + 4);
//   B: two registers: (4-byte row t, column g), (t + 4, g); a 4-byte row is a pair of rows of bf16;
//   D: four numbers: (row g, columns 2 t and 2 t + 1), (row g + 8, the same columns).
// In bytes the layouts of bf16 (k = 16) and of TF32 (k = 8) are the same: 32 bytes of k.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
namespace halfstep::cuda {

/// The 32-bit address of shared memory that the instructions below take.
__device__ __forceinline__ uint32_t shared_address(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

/// Starts a copy of 16 bytes to shared memory, past the registers and L1: of the source where `valid`, else
/// zeros (the source is not read then). Both addresses are multiples of 16.
__device__ __forceinline__ void copy_async(uint32_t to, const void* from, bool valid) {
  const int bytes = valid ? 16 : 0;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(__cvta_generic_to_global(from)),
               "r"(bytes)
               : "memory");
}
/// Closes a group of this thread's copies; an empty group counts as well.
__device__ __forceinline__ void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
/// Waits until at most the kPending youngest groups of this thread are unfinished. What other threads copied
/// can be read after a barrier.
template <int kPending>
__device__ __forceinline__ void wait_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

/// Four matrices of 8 rows of 16 bytes; lane l gives the address of row l % 8 of matrix l / 8. to[i] of lane
/// l is 4-byte column l % 4 of row l / 4 of matrix i.
__device__ __forceinline__ void load_matrices(uint32_t (&to)[4], uint32_t row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(row)
               : "memory");
}
/// load_matrices of matrices of 2-byte numbers, transposed: to[i] of lane l is the pair of rows 2 (l % 4) and
/// 2 (l % 4) + 1 in column l / 4 of matrix i.
__device__ __forceinline__ void load_matrices_transposed(uint32_t (&to)[4], uint32_t row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(row)
               : "memory");
}

/// f32 rounded to the 10 bits of mantissa of TF32, ties away from zero: tensor cores would cut the rest off.
__device__ __forceinline__ uint32_t round_to_tf32(uint32_t bits) {
  uint32_t rounded;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(rounded) : "f"(__uint_as_float(bits)));
  return rounded;
}

/// sums += A B with A [16, 8], B [8, 8] of TF32.
__device__ __forceinline__ void multiply_tf32(float (&sums)[4], const uint32_t (&a)[4], uint32_t b0,
                                              uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
/// sums += A B with A [16, 16], B [16, 8] of bf16.
__device__ __forceinline__ void multiply_bf16(float (&sums)[4], const uint32_t (&a)[4], uint32_t b0,
                                              uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

}  // namespace halfstep::cuda
#endif
