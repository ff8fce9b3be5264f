// Walking over strided arrays of equal shape, for kernel sources only.
#pragma once

#include "tensor/backend.h"
#include "tensor/cpu/simd.h"

namespace halfstep::cpu::inline HALFSTEP_ISA {

/// The joint loops over N arrays of one shape: axes of size 1 are dropped and axes that every array steps
/// through evenly are merged, so that contiguous arrays of any rank are one loop. Loop 0 is the innermost.
template <int N>
struct Walk {
  int rank = 0;
  int64_t total = 1;
  int64_t size[kMaxRank] = {};
  int64_t step[kMaxRank][N] = {};

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

  /// Offsets of the element with this row-major number.
  void locate(int64_t number, int64_t (&offset)[N]) const {
    for (int a = 0; a < N; ++a) offset[a] = 0;
    for (int loop = 0; loop < rank; ++loop) {
      const int64_t i = number % size[loop];
      number /= size[loop];
      for (int a = 0; a < N; ++a) offset[a] += i * step[loop][a];
    }
  }

  /// Calls run(count, offset, step) for the parts of the innermost loop that make up elements [begin, end).
  template <class Run>
  void for_each_run(int64_t begin, int64_t end, Run run) const {
    static constexpr int64_t kNoStep[N] = {};
    int64_t offset[N];
    if (begin >= end) return;
    if (rank == 0) return run(int64_t{1}, kNoStep, kNoStep);
    int64_t index[kMaxRank] = {};
    for (int64_t loop = 0, number = begin; number > 0 && loop < rank; ++loop) {
      index[loop] = number % size[loop];
      number /= size[loop];
    }
    for (int a = 0; a < N; ++a) {
      offset[a] = 0;
      for (int loop = 0; loop < rank; ++loop) offset[a] += index[loop] * step[loop][a];
    }
    while (begin < end) {
      const int64_t count = min(size[0] - index[0], end - begin);
      run(count, offset, step[0]);
      begin += count;
      if (begin == end) return;
      // To the start of the next run: back along loop 0, then count up the loops around it.
      for (int a = 0; a < N; ++a) offset[a] -= index[0] * step[0][a];
      index[0] = 0;
      for (int loop = 1; loop < rank; ++loop) {
        for (int a = 0; a < N; ++a) offset[a] += step[loop][a];
        if (++index[loop] < size[loop]) break;
        for (int a = 0; a < N; ++a) offset[a] -= size[loop] * step[loop][a];
        index[loop] = 0;
      }
    }
  }
};

inline Walk<1> walk_over(const Array& x) {
  Walk<1> walk;
  for (int axis = x.shape.rank() - 1; axis >= 0; --axis) walk.add_axis(x.shape[axis], {x.strides[axis]});
  return walk;
}
inline Walk<2> walk_over(const Array& out, const Array& x) {
  Walk<2> walk;
  for (int axis = out.shape.rank() - 1; axis >= 0; --axis) {
    walk.add_axis(out.shape[axis], {out.strides[axis], x.strides[axis]});
  }
  return walk;
}
inline Walk<3> walk_over(const Array& out, const Array& x, const Array& y) {
  Walk<3> walk;
  for (int axis = out.shape.rank() - 1; axis >= 0; --axis) {
    walk.add_axis(out.shape[axis], {out.strides[axis], x.strides[axis], y.strides[axis]});
  }
  return walk;
}
inline Walk<4> walk_over(const Array& out, const Array& x, const Array& y, const Array& z) {
  Walk<4> walk;
  for (int axis = out.shape.rank() - 1; axis >= 0; --axis) {
    walk.add_axis(out.shape[axis], {out.strides[axis], x.strides[axis], y.strides[axis], z.strides[axis]});
  }
  return walk;
}

}  // namespace halfstep::cpu::inline HALFSTEP_ISA
