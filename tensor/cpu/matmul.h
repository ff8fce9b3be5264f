// Matrix product of strided matrices, for kernel sources only.
#pragma once

#include <cstdint>

namespace halfstep::cpu::inline HALFSTEP_ISA {

/// Element (i, j) is data[i * row + j * column].
template <class T>
struct Matrix {
  T* data;
  int64_t row, column;
};

/// Memory that is wanted next, and fetched meanwhile.
template <class T>
struct Ahead {
  const T* memory = nullptr;
  int64_t elements = 0;
};

/// c [m, n] = alpha * a [m, k] b (+ c) on the calling thread, where b is what pack_panels (pack.h) made of a
/// [k, n] matrix: for products that share a b.
template <class T>
void multiply_packed(int64_t m, int64_t n, int64_t k, Matrix<const T> a, const T* packed, Matrix<T> c,
                     T alpha, bool accumulate, const Ahead<T> (&ahead)[2] = {});

/// c [m, n] = alpha * a [m, k] b [k, n] + bias [n] (+ c), for float and double. Threaded over tiles of c:
/// every element of c is one sum over k in ascending order, however many rows and threads there are; where a
/// is transposed, long sums are cut into parts that the shapes choose.
template <class T>
void matmul(int64_t m, int64_t n, int64_t k, Matrix<const T> a, Matrix<const T> b, Matrix<T> c, const T* bias,
            T alpha, bool accumulate);

}  // namespace halfstep::cpu::inline HALFSTEP_ISA
