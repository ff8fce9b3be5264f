// Scalar formulas of the elementwise functions, compiled by every backend (the host compiler and nvcc alike).
//
// A formula is written once, for a generic number type. Its derivatives of any order come from dual numbers:
// with x = value + slope * e and e^2 = 0, evaluating f(x) gives f(value) + f'(value) * slope * e; nesting
// duals gives higher orders. So adding an elementwise function means: an enum entry in backend.h, its formula
// and its line in visit_formula() below; no backend file changes.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "tensor/backend.h"

#if defined(__CUDACC__)
#define HALFSTEP_HOST_DEVICE __host__ __device__
#elif defined(__clang__)
// Left to itself clang calls the dual numbers' functions one by one, and loops over them do not vectorise.
#define HALFSTEP_HOST_DEVICE __attribute__((always_inline))
#else
#define HALFSTEP_HOST_DEVICE
#endif

// Each instruction set compiles its own copy, in a namespace of its own: otherwise the linker would keep one
// copy of an inline function, perhaps the one that this machine cannot execute.
#ifndef HALFSTEP_ISA
#define HALFSTEP_ISA generic
#endif

namespace halfstep::formulas::inline HALFSTEP_ISA {

// --- bf16: the upper half of an f32, stored as uint16_t ----------------------------------------------------

HALFSTEP_HOST_DEVICE inline float from_bf16(uint16_t bits) {
  const uint32_t wide = uint32_t{bits} << 16;
  float value;
  std::memcpy(&value, &wide, 4);
  return value;
}

/// To the nearest, ties to even; NaN stays NaN.
HALFSTEP_HOST_DEVICE inline uint16_t to_bf16(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  const uint32_t rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16, quiet = bits >> 16 | 0x40;
  return static_cast<uint16_t>(value != value ? quiet : rounded);
}

// --- elementary functions of plain numbers -----------------------------------------------------------------

/// a * b + c, rounded once where the machine has an instruction for it.
HALFSTEP_HOST_DEVICE inline float multiply_add(float a, float b, float c) {
#if defined(__FMA__) || defined(__CUDACC__)
  return __builtin_fmaf(a, b, c);
#else
  return a * b + c;
#endif
}
HALFSTEP_HOST_DEVICE inline double multiply_add(double a, double b, double c) {
#if defined(__FMA__) || defined(__CUDACC__)
  return __builtin_fma(a, b, c);
#else
  return a * b + c;
#endif
}

/// e^x in f32 without libm and without branches, so that loops over it vectorise; error below 2 ulp, 0 below
/// 2^-125.5. x = n ln2 + r with |r| <= ln2/2; e^r by the polynomial of degree 6 with the least largest
/// relative error (3e-9, by Remez' algorithm, with 1 + r fixed). The result is 2 e^r times 2^(n-1), where the
/// exponent's bits of 2^(n-1) alone say what becomes of large |x|: none is 0, and all are infinity.
HALFSTEP_HOST_DEVICE inline float exp(float x) {
  constexpr float kLog2E = 1.44269504f, kLn2High = 0.693359375f, kLn2Low = -2.12194440e-4f;
  // 1.5 * 2^23 + 126: adding it leaves n - 1 + 127, the exponent's bits, in the lowest ones.
  constexpr float kRound = 12583038.0f;
  // The bits of n = 129: a larger n would come back as another number.
  constexpr int32_t kInfinite = 0x4b4000ff;
  // The least n is -126, which is 0. Both bounds let NaN through; one is a minimum of integers because
  // compilers make many instructions of two selects.
  const float t = x < -87.33654f ? -87.33654f : x;
  float shifted = multiply_add(t, kLog2E, kRound);
  int32_t bits;
  std::memcpy(&bits, &shifted, 4);
  bits = bits < kInfinite ? bits : kInfinite;
  std::memcpy(&shifted, &bits, 4);
  const float n = shifted - kRound;
  const float r = multiply_add(n, -kLn2Low, multiply_add(n, -kLn2High, t));
  float p = 2 * 0.00138145402f;
  p = multiply_add(p, r, 2 * 0.00836874511f);
  p = multiply_add(p, r, 2 * 0.0416683908f);
  p = multiply_add(p, r, 2 * 0.166665204f);
  p = multiply_add(p, r, 2 * 0.499999934f);
  p = multiply_add(p, r, 2.0f);
  p = multiply_add(p, r, 2.0f);
  const uint32_t exponent = static_cast<uint32_t>(bits) << 23;
  float power;
  std::memcpy(&power, &exponent, 4);
  return p * power;
}
HALFSTEP_HOST_DEVICE inline double exp(double x) { return ::exp(x); }

HALFSTEP_HOST_DEVICE inline float log(float x) { return ::logf(x); }
HALFSTEP_HOST_DEVICE inline double log(double x) { return ::log(x); }
HALFSTEP_HOST_DEVICE inline float sqrt(float x) { return ::sqrtf(x); }
HALFSTEP_HOST_DEVICE inline double sqrt(double x) { return ::sqrt(x); }
HALFSTEP_HOST_DEVICE inline float sin(float x) { return ::sinf(x); }
HALFSTEP_HOST_DEVICE inline double sin(double x) { return ::sin(x); }
HALFSTEP_HOST_DEVICE inline float cos(float x) { return ::cosf(x); }
HALFSTEP_HOST_DEVICE inline double cos(double x) { return ::cos(x); }
HALFSTEP_HOST_DEVICE inline float tanh(float x) { return ::tanhf(x); }
HALFSTEP_HOST_DEVICE inline double tanh(double x) { return ::tanh(x); }
HALFSTEP_HOST_DEVICE inline float erf(float x) { return ::erff(x); }
HALFSTEP_HOST_DEVICE inline double erf(double x) { return ::erf(x); }
HALFSTEP_HOST_DEVICE inline float pow(float x, double p) { return ::powf(x, static_cast<float>(p)); }
HALFSTEP_HOST_DEVICE inline double pow(double x, double p) { return ::pow(x, p); }
HALFSTEP_HOST_DEVICE inline float sigmoid(float x) { return 1.0f / (1.0f + exp(-x)); }
HALFSTEP_HOST_DEVICE inline double sigmoid(double x) { return 1.0 / (1.0 + exp(-x)); }
/// log(1 + e^x) = max(x, 0) + log1p(e^-|x|): neither overflows nor loses e^x beside 1. NaN passes through.
HALFSTEP_HOST_DEVICE inline float softplus(float x) {
  return (x < 0.0f ? 0.0f : x) + ::log1pf(exp(x < 0.0f ? x : -x));
}
HALFSTEP_HOST_DEVICE inline double softplus(double x) {
  return (x < 0.0 ? 0.0 : x) + ::log1p(exp(x < 0.0 ? x : -x));
}

// --- dual numbers ------------------------------------------------------------------------------------------

template <class T>
struct Dual {
  T value{}, slope{};
  HALFSTEP_HOST_DEVICE Dual() {}
  HALFSTEP_HOST_DEVICE Dual(double constant) : value(static_cast<T>(constant)), slope(static_cast<T>(0.0)) {}
  HALFSTEP_HOST_DEVICE Dual(T v, T s) : value(v), slope(s) {}
};

template <class T>
HALFSTEP_HOST_DEVICE Dual<T> operator+(Dual<T> a, Dual<T> b) {
  return {a.value + b.value, a.slope + b.slope};
}
template <class T>
HALFSTEP_HOST_DEVICE Dual<T> operator-(Dual<T> a, Dual<T> b) {
  return {a.value - b.value, a.slope - b.slope};
}
template <class T>
HALFSTEP_HOST_DEVICE Dual<T> operator-(Dual<T> a) {
  return {-a.value, -a.slope};
}
template <class T>
HALFSTEP_HOST_DEVICE Dual<T> operator*(Dual<T> a, Dual<T> b) {
  return {a.value * b.value, a.slope * b.value + a.value * b.slope};
}
template <class T>
HALFSTEP_HOST_DEVICE Dual<T> operator/(Dual<T> a, Dual<T> b) {
  const T q = a.value / b.value;
  return {q, (a.slope - q * b.slope) / b.value};
}
/// Comparisons look at the value alone: at a kink the slope is that of the branch taken.
template <class T>
HALFSTEP_HOST_DEVICE bool operator<(Dual<T> a, Dual<T> b) {
  return a.value < b.value;
}

template <class T>
HALFSTEP_HOST_DEVICE Dual<T> exp(Dual<T> x) {
  const T e = exp(x.value);
  return {e, x.slope * e};
}
template <class T>
HALFSTEP_HOST_DEVICE Dual<T> log(Dual<T> x) {
  return {log(x.value), x.slope / x.value};
}
template <class T>
HALFSTEP_HOST_DEVICE Dual<T> sqrt(Dual<T> x) {
  const T s = sqrt(x.value);
  return {s, x.slope / (s + s)};
}
template <class T>
HALFSTEP_HOST_DEVICE Dual<T> sin(Dual<T> x) {
  return {sin(x.value), x.slope * cos(x.value)};
}
template <class T>
HALFSTEP_HOST_DEVICE Dual<T> cos(Dual<T> x) {
  return {cos(x.value), -(x.slope * sin(x.value))};
}
template <class T>
HALFSTEP_HOST_DEVICE Dual<T> tanh(Dual<T> x) {
  const T t = tanh(x.value);
  return {t, x.slope * (T(1.0) - t * t)};
}
/// s(x) s(-x), not s (1 - s): exact also where s rounds to 1, and never inf/inf.
template <class T>
HALFSTEP_HOST_DEVICE Dual<T> sigmoid(Dual<T> x) {
  const T s = sigmoid(x.value);
  return {s, x.slope * (s * sigmoid(-x.value))};
}
template <class T>
HALFSTEP_HOST_DEVICE Dual<T> softplus(Dual<T> x) {
  return {softplus(x.value), x.slope * sigmoid(x.value)};
}
template <class T>
HALFSTEP_HOST_DEVICE Dual<T> erf(Dual<T> x) {
  constexpr double kTwoOverRootPi = 1.1283791670955126;
  return {erf(x.value), x.slope * (T(kTwoOverRootPi) * exp(-(x.value * x.value)))};
}
template <class T>
HALFSTEP_HOST_DEVICE Dual<T> pow(Dual<T> x, double p) {
  if (p == 0.0) return {T(1.0), T(0.0)};  // not 0 * x^-1, which is NaN at 0
  return {pow(x.value, p), x.slope * (T(p) * pow(x.value, p - 1.0))};
}

// --- the formulas ------------------------------------------------------------------------------------------

struct Affine {
  template <class T>
  HALFSTEP_HOST_DEVICE T operator()(T x, double p0, double p1) const {
    return T(p0) * x + T(p1);
  }
};
struct Exp {
  template <class T>
  HALFSTEP_HOST_DEVICE T operator()(T x, double, double) const {
    return exp(x);
  }
};
struct Log {
  template <class T>
  HALFSTEP_HOST_DEVICE T operator()(T x, double, double) const {
    return log(x);
  }
};
struct Sqrt {
  template <class T>
  HALFSTEP_HOST_DEVICE T operator()(T x, double, double) const {
    return sqrt(x);
  }
};
struct Sin {
  template <class T>
  HALFSTEP_HOST_DEVICE T operator()(T x, double, double) const {
    return sin(x);
  }
};
struct Cos {
  template <class T>
  HALFSTEP_HOST_DEVICE T operator()(T x, double, double) const {
    return cos(x);
  }
};
struct Tanh {
  template <class T>
  HALFSTEP_HOST_DEVICE T operator()(T x, double, double) const {
    return tanh(x);
  }
};
struct Sigmoid {
  template <class T>
  HALFSTEP_HOST_DEVICE T operator()(T x, double, double) const {
    return sigmoid(x);
  }
};
struct Silu {
  template <class T>
  HALFSTEP_HOST_DEVICE T operator()(T x, double, double) const {
    return x * sigmoid(x);
  }
};
struct Relu {
  template <class T>
  HALFSTEP_HOST_DEVICE T operator()(T x, double, double) const {
    return x < T(0.0) ? T(0.0) : (T(0.0) < x ? x : x * T(0.0));
  }
};
struct Reciprocal {
  template <class T>
  HALFSTEP_HOST_DEVICE T operator()(T x, double, double) const {
    return T(1.0) / x;
  }
};
struct Pow {
  template <class T>
  HALFSTEP_HOST_DEVICE T operator()(T x, double p0, double) const {
    return pow(x, p0);
  }
};
struct Clamp {
  template <class T>
  HALFSTEP_HOST_DEVICE T operator()(T x, double p0, double p1) const {
    // Slope 0 at a bound, the smallest one between its two sides, as that of relu at 0. NaN passes through:
    // it is neither below 1 nor above 0.
    return x < T(1.0) || T(0.0) < x ? (T(p0) < x ? (x < T(p1) ? x : T(p1)) : T(p0)) : x;
  }
};
struct Abs {
  template <class T>
  HALFSTEP_HOST_DEVICE T operator()(T x, double, double) const {
    return x < T(0.0) ? -x : (T(0.0) < x ? x : x * T(0.0) + T(0.0));  // 0 for -0; NaN passes through
  }
};
struct LeakyRelu {
  template <class T>
  HALFSTEP_HOST_DEVICE T operator()(T x, double p0, double) const {
    return T(0.0) < x ? x : T(p0) * x;
  }
};
struct Erf {
  template <class T>
  HALFSTEP_HOST_DEVICE T operator()(T x, double, double) const {
    return erf(x);
  }
};
struct Gelu {
  template <class T>
  HALFSTEP_HOST_DEVICE T operator()(T x, double, double) const {
    constexpr double kRootHalf = 0.70710678118654752;
    return T(0.5) * x * (T(1.0) + erf(x * T(kRootHalf)));
  }
};
struct GeluTanh {
  template <class T>
  HALFSTEP_HOST_DEVICE T operator()(T x, double, double) const {
    constexpr double kRootTwoOverPi = 0.79788456080286536;
    return T(0.5) * x * (T(1.0) + tanh(T(kRootTwoOverPi) * (x + T(0.044715) * x * x * x)));
  }
};
struct Softplus {
  template <class T>
  HALFSTEP_HOST_DEVICE T operator()(T x, double, double) const {
    return softplus(x);
  }
};

/// Calls visitor(formula) with the formula of `op`.
template <class Visitor>
HALFSTEP_HOST_DEVICE void visit_formula(UnaryOp op, Visitor&& visitor) {
  switch (op) {
    case UnaryOp::affine:
      return visitor(Affine{});
    case UnaryOp::exp:
      return visitor(Exp{});
    case UnaryOp::log:
      return visitor(Log{});
    case UnaryOp::sqrt:
      return visitor(Sqrt{});
    case UnaryOp::sin:
      return visitor(Sin{});
    case UnaryOp::cos:
      return visitor(Cos{});
    case UnaryOp::tanh:
      return visitor(Tanh{});
    case UnaryOp::sigmoid:
      return visitor(Sigmoid{});
    case UnaryOp::silu:
      return visitor(Silu{});
    case UnaryOp::relu:
      return visitor(Relu{});
    case UnaryOp::reciprocal:
      return visitor(Reciprocal{});
    case UnaryOp::pow:
      return visitor(Pow{});
    case UnaryOp::clamp:
      return visitor(Clamp{});
    case UnaryOp::abs:
      return visitor(Abs{});
    case UnaryOp::leaky_relu:
      return visitor(LeakyRelu{});
    case UnaryOp::erf:
      return visitor(Erf{});
    case UnaryOp::gelu:
      return visitor(Gelu{});
    case UnaryOp::gelu_tanh:
      return visitor(GeluTanh{});
    case UnaryOp::softplus:
      return visitor(Softplus{});
  }
}

/// The N-th derivative of a formula at x.
template <int N, class Formula, class T>
HALFSTEP_HOST_DEVICE T derivative(Formula formula, T x, double p0, double p1) {
  if constexpr (N == 0) {
    return formula(x, p0, p1);
  } else {
    const auto slope = [formula](auto t, double q0, double q1) {
      using U = decltype(t);
      return formula(Dual<U>(t, U(1.0)), q0, q1).slope;
    };
    return derivative<N - 1>(slope, x, p0, p1);
  }
}

// --- functions of two arguments ----------------------------------------------------------------------------

struct Add {
  template <class T>
  HALFSTEP_HOST_DEVICE T operator()(T a, T b, T) const {
    return a + b;
  }
};
struct Subtract {
  template <class T>
  HALFSTEP_HOST_DEVICE T operator()(T a, T b, T) const {
    return a - b;
  }
};
struct Multiply {
  template <class T>
  HALFSTEP_HOST_DEVICE T operator()(T a, T b, T) const {
    return a * b;
  }
};
struct Divide {
  template <class T>
  HALFSTEP_HOST_DEVICE T operator()(T a, T b, T) const {
    return a / b;
  }
};
/// maximum and minimum pass NaN of either argument on.
struct Maximum {
  template <class T>
  HALFSTEP_HOST_DEVICE T operator()(T a, T b, T) const {
    return (a > b || a != a) ? a : b;
  }
};
struct Minimum {
  template <class T>
  HALFSTEP_HOST_DEVICE T operator()(T a, T b, T) const {
    return (a < b || a != a) ? a : b;
  }
};
struct Less {
  template <class T>
  HALFSTEP_HOST_DEVICE T operator()(T a, T b, T) const {
    return a < b ? T(1) : T(0);
  }
};
struct Equal {
  template <class T>
  HALFSTEP_HOST_DEVICE T operator()(T a, T b, T) const {
    return a == b ? T(1) : T(0);
  }
};
struct Lerp {
  template <class T>
  HALFSTEP_HOST_DEVICE T operator()(T a, T b, T p0) const {
    return a + p0 * (b - a);
  }
};

template <class Visitor>
HALFSTEP_HOST_DEVICE void visit_formula(BinaryOp op, Visitor&& visitor) {
  switch (op) {
    case BinaryOp::add:
      return visitor(Add{});
    case BinaryOp::subtract:
      return visitor(Subtract{});
    case BinaryOp::multiply:
      return visitor(Multiply{});
    case BinaryOp::divide:
      return visitor(Divide{});
    case BinaryOp::maximum:
      return visitor(Maximum{});
    case BinaryOp::minimum:
      return visitor(Minimum{});
    case BinaryOp::less:
      return visitor(Less{});
    case BinaryOp::equal:
      return visitor(Equal{});
    case BinaryOp::lerp:
      return visitor(Lerp{});
  }
}

}  // namespace halfstep::formulas::inline HALFSTEP_ISA
