// Vectors of the instruction set that this file is compiled for, through the vector extension that gcc and
// clang share. For kernel sources only.
#pragma once

#include <cstdint>
#include <cstring>

namespace halfstep::cpu::inline HALFSTEP_ISA {

#if defined(__AVX512F__)
inline constexpr int kVectorBytes = 64;
inline constexpr int kVectorRegisters = 32;
#elif defined(__AVX2__)
inline constexpr int kVectorBytes = 32;
inline constexpr int kVectorRegisters = 16;
#else
inline constexpr int kVectorBytes = 16;
inline constexpr int kVectorRegisters = 16;
#endif

/// Number of T in a vector.
template <class T>
inline constexpr int kLanes = kVectorBytes / static_cast<int>(sizeof(T));

template <class T>
struct VectorOf;
template <>
struct VectorOf<float> {
  typedef float type __attribute__((vector_size(kVectorBytes)));
};
template <>
struct VectorOf<double> {
  typedef double type __attribute__((vector_size(kVectorBytes)));
};
template <class T>
using Vector = typename VectorOf<T>::type;

template <class T>
inline Vector<T> load(const T* p) {
  Vector<T> v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
template <class T>
inline void store(T* p, Vector<T> v) {
  std::memcpy(p, &v, sizeof v);
}

// --- transposing a square of vectors
// -------------------------------------------------------------------------

template <int... I>
struct Lanes {};
template <int N, int... I>
struct LanesBelow : LanesBelow<N - 1, N - 1, I...> {};
template <int... I>
struct LanesBelow<0, I...> {
  using type = Lanes<I...>;
};

/// Exchanges the lanes of a that have bit D set in their number with the lanes of b that have not: of each 2D
/// x 2D block of a square, the two blocks beside the diagonal.
template <int D, class V, int... I>
[[gnu::always_inline]] inline void exchange_lanes(V& a, V& b, Lanes<I...>) {
  constexpr int N = sizeof...(I);
  const V first = __builtin_shufflevector(a, b, (I & D ? I - D + N : I)...);
  b = __builtin_shufflevector(a, b, (I & D ? I + N : I + D)...);
  a = first;
}
template <int D, class V, int N>
[[gnu::always_inline]] inline void transpose_blocks(V (&rows)[N]) {
  if constexpr (D < N) {
#pragma GCC unroll 16
    for (int i = 0; i < N; ++i) {
      if (!(i & D)) exchange_lanes<D>(rows[i], rows[i + D], typename LanesBelow<N>::type{});
    }
    transpose_blocks<2 * D>(rows);
  }
}

/// out[j * out_step + i] = in[i * in_step + j] for i, j < kLanes<T>.
template <class T>
inline void transpose_square(T* out, int64_t out_step, const T* in, int64_t in_step) {
  constexpr int N = kLanes<T>;
  Vector<T> rows[N];
#pragma GCC unroll 16
  for (int i = 0; i < N; ++i) rows[i] = load(in + i * in_step);
  transpose_blocks<1>(rows);
#pragma GCC unroll 16
  for (int i = 0; i < N; ++i) store(out + i * out_step, rows[i]);
}

/// As many numbers as a vector of double has, widened.
inline Vector<double> load_wide(const double* p) { return load(p); }
inline Vector<double> load_wide(const float* p) {
  typedef float Half __attribute__((vector_size(kVectorBytes / 2)));
  Half v;
  std::memcpy(&v, p, sizeof v);
#if defined(__AVX512F__)  // one instruction, which g++ 12 would make four of
  return (Vector<double>)__builtin_ia32_cvtps2pd512_mask(v, Vector<double>{}, static_cast<unsigned char>(-1),
                                                         4);
#else
  return __builtin_convertvector(v, Vector<double>);
#endif
}

/// A number that the compiler knows.
template <int N>
struct Constant {
  static constexpr int value = N;
};

/// Calls body(i) for i < n, telling the compiler that no iteration reads what another one writes. Without
/// that it would not vectorise a loop whose output may be the same array as its input.
template <class Body>
[[gnu::always_inline]] inline void independent_loop(int64_t n, Body body) {
#if defined(__clang__)
#pragma clang loop vectorize(assume_safety)
#else
#pragma GCC ivdep
#endif
  for (int64_t i = 0; i < n; ++i) body(i);
}

inline int64_t min(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t max(int64_t a, int64_t b) { return a > b ? a : b; }
inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace halfstep::cpu::inline HALFSTEP_ISA
