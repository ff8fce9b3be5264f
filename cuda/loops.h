// Walking over strided arrays of equal shape, for kernels. On the host the axes of all arrays of a call are
// sorted and merged into as few loops as possible; the loops then travel by value to the kernel, where each
// thread turns the number of its element into one memory offset per array.
//
// That takes a division per loop. A GPU divides neither 64-bit nor 32-bit numbers in hardware (about 70 and
// 20 instructions), so numbers stay below 2^31, where a division by a size that is known beforehand is one
// multiplication and one shift (Divider). Larger arrays are cut on the host into launches of at most 2^30
// elements; offsets are 64 bits wide everywhere.
#pragma once

#include <cstdint>
#include <utility>

#include "cuda/runtime.h"
#include "tensor/backend.h"

#if defined(__CUDACC__)
#define HALFSTEP_CUDA_BOTH __host__ __device__
#else
#define HALFSTEP_CUDA_BOTH
#endif

namespace halfstep::cuda {

/// Division of numbers below 2^31 by a divisor in 1 .. 2^31: n / d = (high32(n m) + n) >> s with s =
/// ceil(log2(d)) and m = floor(2^32 (2^s - d) / d) + 1 (Granlund & Montgomery, "Division by invariant
/// integers using multiplication", PLDI 1994).
struct Divider {
  uint32_t multiplier = 1, shift = 0;

  Divider() = default;
  explicit Divider(int64_t divisor) {
    while ((int64_t{1} << shift) < divisor) ++shift;
    const uint64_t rest = (uint64_t{1} << shift) - static_cast<uint64_t>(divisor);
    multiplier = static_cast<uint32_t>((rest << 32) / static_cast<uint64_t>(divisor) + 1);
  }
#if defined(__CUDACC__)
  __device__ uint32_t divide(uint32_t n) const { return (__umulhi(n, multiplier) + n) >> shift; }
#endif
};

/// The joint loops over N arrays of one shape: axes of size 1 are dropped and axes that every array steps
/// through evenly are merged, so that contiguous arrays of any rank are one loop. Loop 0 is the innermost.
template <int N>
struct Loops {
  int rank = 0;
  int64_t total = 1;
  int64_t size[kMaxRank] = {};
  int64_t step[kMaxRank][N] = {};
  Divider divider[kMaxRank];

  /// Adds the loop around those already there.
  void add_axis(int64_t axis_size, const int64_t (&axis_step)[N]) {
    total *= axis_size;
    if (axis_size == 1) return;
    bool merge = rank > 0;
    for (int a = 0; a < N && merge; ++a) merge = axis_step[a] == size[rank - 1] * step[rank - 1][a];
    if (merge) {
      size[rank - 1] *= axis_size;
      return;
    }
    size[rank] = axis_size;
    for (int a = 0; a < N; ++a) step[rank][a] = axis_step[a];
    ++rank;
  }

  /// Readies the divisions; to be called after the last change, before the loops go to a kernel.
  void prepare() {
    if (!narrow()) return;
    for (int loop = 0; loop < rank; ++loop) divider[loop] = Divider(size[loop]);
  }

  /// Whether the numbers of the elements fit Divider.
  HALFSTEP_CUDA_BOTH bool narrow() const { return 0 < total && total < int64_t{1} << 31; }

#if defined(__CUDACC__)
  /// Offsets of the element with this number, counted with loop 0 fastest, where the total is below 2^31. The
  /// loops are unrolled so that sizes and steps are operands in constant memory, not indexed loads.
  __device__ void locate(uint32_t number, int64_t (&offset)[N]) const {
#pragma unroll
    for (int a = 0; a < N; ++a) offset[a] = 0;
#pragma unroll
    for (int loop = 0; loop < kMaxRank; ++loop) {
      if (loop >= rank) break;
      uint32_t index = number;
      if (loop + 1 < rank) {
        const uint32_t quotient = divider[loop].divide(number);
        index = number - quotient * static_cast<uint32_t>(size[loop]);
        number = quotient;
      }
#pragma unroll
      for (int a = 0; a < N; ++a) offset[a] += static_cast<int64_t>(index) * step[loop][a];
    }
  }

  /// The same for any total.
  __device__ void locate_any(int64_t number, int64_t (&offset)[N]) const {
    if (narrow()) return locate(static_cast<uint32_t>(number), offset);
#pragma unroll
    for (int a = 0; a < N; ++a) offset[a] = 0;
#pragma unroll 1
    for (int loop = 0; loop < rank; ++loop) {
      const int64_t quotient = number / size[loop], index = number - quotient * size[loop];
      number = quotient;
#pragma unroll
      for (int a = 0; a < N; ++a) offset[a] += index * step[loop][a];
    }
  }
#endif
};

/// The order of axes from the smallest step to the largest, steps of 0 last; of equals the later axis first.
/// Walked in this order an array with permuted axes is read as it lies in memory.
inline void sort_axes(const Strides& strides, int (&order)[kMaxRank]) {
  const auto magnitude = [](int64_t step) {
    if (step == 0) return INT64_MAX;
    return step < 0 ? -step : step;
  };
  const int rank = strides.rank();
  for (int n = 0; n < rank; ++n) {
    const int axis = rank - 1 - n;
    int place = n;
    for (; place > 0 && magnitude(strides[axis]) < magnitude(strides[order[place - 1]]); --place) {
      order[place] = order[place - 1];
    }
    order[place] = axis;
  }
}

/// Loops over `shape` for arrays with these strides, in the order of the first array's memory.
template <int N>
Loops<N> loops_of(const Shape& shape, const Strides* const (&strides)[N]) {
  int order[kMaxRank];
  sort_axes(*strides[0], order);
  Loops<N> loops;
  for (int n = 0; n < shape.rank(); ++n) {
    int64_t step[N];
    for (int a = 0; a < N; ++a) step[a] = (*strides[a])[order[n]];
    loops.add_axis(shape[order[n]], step);
  }
  loops.prepare();
  return loops;
}

/// Loops over arrays of one shape.
template <class... Arrays>
Loops<1 + sizeof...(Arrays)> loops_over(const Array& out, const Arrays&... in) {
  return loops_of<1 + sizeof...(Arrays)>(out.shape, {&out.strides, &in.strides...});
}

/// Loops over the lines along `axis`: over the first elements of each.
template <class... Arrays>
Loops<1 + sizeof...(Arrays)> lines_over(int axis, const Array& out, const Arrays&... in) {
  Shape shape = out.shape;
  shape[axis] = 1;
  return loops_of<1 + sizeof...(Arrays)>(shape, {&out.strides, &in.strides...});
}

/// Elements of one launch at most.
inline constexpr int64_t kMaxPart = int64_t{1} << 30;

/// Calls f(part, start) for loops of at most kMaxPart elements that make up `loops`, which have at least one
/// element; `start` are the offsets of a part's first element. Usually there is one part: the whole.
template <int N, class F>
void for_each_part(const Loops<N>& loops, F&& f, const int64_t (&start)[N]) {
  if (loops.total <= kMaxPart) {
    Loops<N> part = loops;
    part.prepare();
    f(static_cast<const Loops<N>&>(part), start);
    return;
  }
  const int last = loops.rank - 1;
  const int64_t around = loops.size[last], inside = loops.total / around;
  const int64_t piece = inside < kMaxPart ? kMaxPart / inside : 1;
  for (int64_t begin = 0; begin < around; begin += piece) {
    Loops<N> part = loops;
    part.size[last] = piece < around - begin ? piece : around - begin;
    part.total = inside * part.size[last];
    if (part.size[last] == 1) --part.rank;
    int64_t offset[N];
    for (int a = 0; a < N; ++a) offset[a] = start[a] + begin * loops.step[last][a];
    for_each_part(part, f, offset);
  }
}
template <int N, class F>
void for_each_part(const Loops<N>& loops, F&& f) {
  const int64_t start[N] = {};
  for_each_part(loops, f, start);
}

/// Calls f(T{}) with the C++ type of f32 or f64.
template <class F>
void with_float(DType dtype, F&& f) {
  dtype == DType::f32 ? f(float{}) : f(double{});
}

/// Neighbouring elements that are read or written by one instruction, up to 16 bytes wide.
template <class T, int Width>
struct alignas(sizeof(T) * Width) Pack {
  T at[Width];
};

/// Whether packs of `width` elements of this size may start at `data`.
inline bool is_aligned(const void* data, size_t bytes) {
  return reinterpret_cast<uintptr_t>(data) % bytes == 0;
}

/// Whether arrays may be read in packs along loop 0: every array steps through it by 1 or, but for the first
/// array, stays where it is, and every pack of a moving array is aligned. Only a single loop may end in
/// between.
template <int N>
bool in_packs(const Loops<N>& loops, const void* const (&data)[N], const size_t (&element_bytes)[N],
              int width) {
  if (loops.rank == 0 || loops.step[0][0] != 1) return false;
  if (loops.rank > 1 && loops.size[0] % width != 0) return false;
  for (int a = 0; a < N; ++a) {
    const int64_t inner = loops.step[0][a];
    if (inner == 0) continue;
    if (inner != 1 || !is_aligned(data[a], element_bytes[a] * static_cast<size_t>(width))) return false;
    for (int loop = 1; loop < loops.rank; ++loop) {
      if (loops.step[loop][a] % width != 0) return false;
    }
  }
  return true;
}

}  // namespace halfstep::cuda
