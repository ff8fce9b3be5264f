// Entries that run along one axis and treat every line of the array alike: cumulative sums, gather and its
// adjoint. Tasks are blocks of lines; inside a task the axis is the outer loop and neighbouring lines the
// inner one, so that memory is read in runs whatever the axis.
#include "tensor/cpu/kernels.h"
#include "tensor/cpu/thread_pool.h"
#include "tensor/cpu/walk.h"

namespace halfstep::cpu::inline HALFSTEP_ISA {
namespace {

constexpr int64_t kBlock = 32768;  // elements of one task
constexpr int64_t kLines = 512;    // lines of one task, at most

/// The lines along `axis` of arrays that have equal shapes off that axis, as loops over their first elements.
template <int N>
Walk<N> lines_of(const Array* const (&arrays)[N], int axis) {
  Walk<N> walk;
  for (int i = arrays[0]->shape.rank() - 1; i >= 0; --i) {
    if (i == axis) continue;
    int64_t step[N];
    for (int a = 0; a < N; ++a) step[a] = arrays[a]->strides[i];
    walk.add_axis(arrays[0]->shape[i], step);
  }
  return walk;
}

int64_t lines_per_task(int64_t length) { return min(kLines, max(1, kBlock / max(1, length))); }

template <class T>
void cumulative_sum_of(const Array& out_array, const Array& x_array, int axis) {
  const Walk<2> lines = lines_of<2>({&out_array, &x_array}, axis);
  const int64_t length = x_array.shape[axis];
  const int64_t out_stride = out_array.strides[axis], x_stride = x_array.strides[axis];
  T* const out = out_array.as<T>();
  const T* const x = x_array.as<const T>();
  parallel_for(lines.total, lines_per_task(length),
               [&lines, length, out_stride, x_stride, out, x](int64_t begin, int64_t end) {
                 double sums[kLines] = {};
                 for (int64_t i = 0; i < length; ++i) {
                   double* sum = sums;
                   lines.for_each_run(begin, end, [&](int64_t n, const int64_t* offset, const int64_t* step) {
                     T* to = out + offset[0] + i * out_stride;
                     const T* from = x + offset[1] + i * x_stride;
                     for (int64_t l = 0; l < n; ++l) {
                       sum[l] += from[l * step[1]];
                       to[l * step[0]] = static_cast<T>(sum[l]);
                     }
                     sum += n;
                   });
                 }
               });
}

template <class T>
void gather_of(const Array& out_array, const Array& x_array, const Array& index_array, int axis, T missing) {
  const Walk<3> lines = lines_of<3>({&out_array, &x_array, &index_array}, axis);
  const int64_t length = out_array.shape[axis], size = x_array.shape[axis];
  const int64_t out_stride = out_array.strides[axis], x_stride = x_array.strides[axis];
  const int64_t index_stride = index_array.strides[axis];
  T* const out = out_array.as<T>();
  const T* const x = x_array.as<const T>();
  const int64_t* const index = index_array.as<const int64_t>();
  parallel_for(lines.total, lines_per_task(length), [=, &lines](int64_t begin, int64_t end) {
    for (int64_t i = 0; i < length; ++i) {
      lines.for_each_run(begin, end, [=](int64_t n, const int64_t* offset, const int64_t* step) {
        T* to = out + offset[0] + i * out_stride;
        const T* from = x + offset[1];
        const int64_t* place = index + offset[2] + i * index_stride;
        const int64_t st = step[0], sf = step[1], sp = step[2];
        if (sp == 0) {  // one index for the whole run: rows of a table
          const int64_t j = *place;
          const bool inside = 0 <= j && j < size;
          for (int64_t l = 0; l < n; ++l) to[l * st] = inside ? from[l * sf + j * x_stride] : missing;
          return;
        }
        for (int64_t l = 0; l < n; ++l) {
          const int64_t j = place[l * sp];
          to[l * st] = 0 <= j && j < size ? from[l * sf + j * x_stride] : missing;
        }
      });
    }
  });
}

template <class T>
void scatter_add_of(const Array& out_array, const Array& source_array, const Array& index_array, int axis) {
  const Walk<3> lines = lines_of<3>({&source_array, &out_array, &index_array}, axis);
  const int64_t length = source_array.shape[axis], size = out_array.shape[axis];
  const int64_t out_stride = out_array.strides[axis], source_stride = source_array.strides[axis];
  const int64_t index_stride = index_array.strides[axis];
  T* const out = out_array.as<T>();
  const T* const source = source_array.as<const T>();
  const int64_t* const index = index_array.as<const int64_t>();
  // A line belongs to one task, which adds in the order of the axis: the result does not depend on threads.
  parallel_for(lines.total, lines_per_task(length + size), [=, &lines](int64_t begin, int64_t end) {
    for (int64_t j = 0; j < size; ++j) {
      lines.for_each_run(begin, end, [=](int64_t n, const int64_t* offset, const int64_t* step) {
        T* to = out + offset[1] + j * out_stride;
        for (int64_t l = 0; l < n; ++l) to[l * step[1]] = T(0);
      });
    }
    for (int64_t i = 0; i < length; ++i) {
      lines.for_each_run(begin, end, [=](int64_t n, const int64_t* offset, const int64_t* step) {
        const T* from = source + offset[0] + i * source_stride;
        T* to = out + offset[1];
        const int64_t* place = index + offset[2] + i * index_stride;
        for (int64_t l = 0; l < n; ++l) {
          const int64_t j = place[l * step[2]];
          if (0 <= j && j < size) to[l * step[1] + j * out_stride] += from[l * step[0]];
        }
      });
    }
  });
}

}  // namespace

void cumulative_sum(Array out, Array x, int axis) {
  x.dtype == DType::f32 ? cumulative_sum_of<float>(out, x, axis) : cumulative_sum_of<double>(out, x, axis);
}

void gather(Array out, Array x, Array index, int axis) {
  switch (x.dtype) {
    case DType::f32:
      return gather_of<float>(out, x, index, axis, __builtin_nanf(""));
    case DType::f64:
      return gather_of<double>(out, x, index, axis, __builtin_nan(""));
    default:
      return gather_of<int64_t>(out, x, index, axis, -1);
  }
}

void scatter_add(Array out, Array source, Array index, int axis) {
  out.dtype == DType::f32 ? scatter_add_of<float>(out, source, index, axis)
                          : scatter_add_of<double>(out, source, index, axis);
}

}  // namespace halfstep::cpu::inline HALFSTEP_ISA
