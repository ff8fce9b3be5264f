// Reductions over the lanes of a warp and the threads of a block, and pieces of neighbouring elements.
//
// Every reduction is a tree of fixed order: two equal calls give equal bits. All lanes of the warp, or all
// threads of the block, call together and all get the result.
#pragma once

#include <cmath>
#include <cstdint>

namespace halfstep::cuda {

inline constexpr int kWarp = 32;

/// N neighbouring elements, which move by one instruction where they make 16 bytes or less.
template <class T, int N>
struct alignas(sizeof(T) * N < 16 ? sizeof(T) * N : 16) Piece {
  T at[N];
};

/// Elements in 16 bytes, the widest access of a thread.
template <class T>
inline constexpr int kWide = 16 / static_cast<int>(sizeof(T));

/// Whether pieces of 16 bytes may start at `data`.
inline bool is_wide_aligned(const void* data) { return reinterpret_cast<uintptr_t>(data) % 16 == 0; }

#if defined(__CUDACC__)

template <class T, int N>
__device__ inline Piece<T, N> load_piece(const T* from) {
  return *reinterpret_cast<const Piece<T, N>*>(from);
}
template <class T, int N>
__device__ inline void store_piece(T* to, const Piece<T, N>& piece) {
  *reinterpret_cast<Piece<T, N>*>(to) = piece;
}

/// The start of a maximum.
template <class T>
__device__ inline T lowest() {
  return static_cast<T>(-HUGE_VAL);
}
/// The larger number; NaN only if both are NaN.
__device__ inline float larger(float a, float b) { return fmaxf(a, b); }
__device__ inline double larger(double a, double b) { return fmax(a, b); }

/// The fold over each run of kLanes neighbouring lanes (a power of two). Both sides of an exchange compute
/// op(own, other), so for a commutative op all lanes get the same bits.
template <int kLanes = kWarp, class T, class Op>
__device__ inline T lanes_fold(T value, Op op) {
#pragma unroll
  for (int distance = kLanes / 2; distance > 0; distance /= 2) {
    value = op(value, __shfl_xor_sync(0xffffffffu, value, distance));
  }
  return value;
}
template <int kLanes = kWarp, class T>
__device__ inline T lanes_sum(T value) {
  return lanes_fold<kLanes>(value, [](T a, T b) { return a + b; });
}
template <int kLanes = kWarp, class T>
__device__ inline T lanes_max(T value) {
  return lanes_fold<kLanes>(value, [](T a, T b) { return larger(a, b); });
}

/// The fold over a block of whole warps. `scratch`: shared memory for one element per warp, which is free
/// again on return.
template <class T, class Op>
__device__ inline T block_fold(T value, T* scratch, Op op) {
  value = lanes_fold(value, op);
  const int warps = static_cast<int>(blockDim.x) / kWarp;
  if (threadIdx.x % kWarp == 0) scratch[threadIdx.x / kWarp] = value;
  __syncthreads();
  T result = scratch[0];
  for (int w = 1; w < warps; ++w) result = op(result, scratch[w]);
  __syncthreads();
  return result;
}
template <class T>
__device__ inline T block_sum(T value, T* scratch) {
  return block_fold(value, scratch, [](T a, T b) { return a + b; });
}
template <class T>
__device__ inline T block_max(T value, T* scratch) {
  return block_fold(value, scratch, [](T a, T b) { return larger(a, b); });
}

#endif

}  // namespace halfstep::cuda
