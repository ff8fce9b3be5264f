// PTX instructions as C++ functions, for the files that translate.py writes. Each does to its operands what
// the PTX ISA manual says of the instruction of its name.
#pragma once

#include <atomic>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

#include "cuda/emulation/thread.h"

namespace halfstep::emulation {

// --- registers ---------------------------------------------------------------------------------------------

struct Half {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};
struct Half2 {
  uint16_t low, high;
};
struct BFloat162 {
  uint16_t low, high;
};

__extension__ typedef __int128 Int128;
__extension__ typedef unsigned __int128 UInt128;

template <class T>
constexpr bool kIsInteger = std::is_integral_v<T>;
template <class T>
using Unsigned = std::make_unsigned_t<T>;

template <size_t N>
struct Bits;
template <>
struct Bits<1> {
  using type = uint8_t;
};
template <>
struct Bits<2> {
  using type = uint16_t;
};
template <>
struct Bits<4> {
  using type = uint32_t;
};
template <>
struct Bits<8> {
  using type = uint64_t;
};

/// A register's bits as a T: registers are typed by size, and a wider register may serve a narrower operand.
template <class T, class R>
inline T as(R r) {
  if constexpr (std::is_same_v<T, R>) {
    return r;
  } else if constexpr (sizeof(T) == sizeof(R) && !std::is_same_v<R, bool> && !std::is_same_v<T, bool>) {
    return std::bit_cast<T>(r);
  } else if constexpr (kIsInteger<T> && kIsInteger<R>) {
    return static_cast<T>(r);
  } else {
    using B = typename Bits<sizeof(T)>::type;
    using S = typename Bits<sizeof(R)>::type;
    return std::bit_cast<T>(static_cast<B>(std::bit_cast<S>(r)));
  }
}

/// Writes a result into a register; a narrower integer is extended by its sign or by zeros.
template <class R, class T>
inline void put(R& r, T value) {
  if constexpr (std::is_same_v<R, bool>) {
    r = static_cast<bool>(value);
  } else if constexpr (sizeof(T) == sizeof(R)) {
    r = std::bit_cast<R>(value);
  } else if constexpr (kIsInteger<T> && kIsInteger<R>) {
    r = static_cast<R>(value);
  } else {
    using B = typename Bits<sizeof(R)>::type;
    using S = typename Bits<sizeof(T)>::type;
    r = std::bit_cast<R>(static_cast<B>(std::bit_cast<S>(value)));
  }
}

inline float float_of(uint32_t bits) { return std::bit_cast<float>(bits); }
inline double double_of(uint64_t bits) { return std::bit_cast<double>(bits); }

/// Piece i of a register's bits, and registers joined to a wider one.
template <class Piece, class R>
inline Piece part(R r, int i) {
  using S = typename Bits<sizeof(R)>::type;
  return static_cast<Piece>(std::bit_cast<S>(r) >> (8 * sizeof(Piece) * i));
}
template <class R, class... Pieces>
inline R join(Pieces... pieces) {
  R result = 0;
  int shift = 0;
  ((result |= static_cast<R>(pieces) << shift, shift += 8 * static_cast<int>(sizeof(pieces))), ...);
  return result;
}

inline float widen(BFloat16 v) { return float_of(uint32_t{v.bits} << 16); }
float widen(Half v);
BFloat16 narrow_bf16(float v);
Half narrow_f16(float v);

/// The NaN that all arithmetic on floats gives on NVIDIA's GPUs, whatever NaN went in.
template <class T>
inline T canonical(T v) {
  if constexpr (std::is_same_v<T, float>)
    return v == v ? v : float_of(0x7fffffffu);
  else
    return v;
}

// --- integers ----------------------------------------------------------------------------------------------

// Sums and products wrap: they are computed without sign.
template <class T>
inline T ptx_add(T a, T b) {
  if constexpr (kIsInteger<T>)
    return static_cast<T>(static_cast<Unsigned<T>>(a) + static_cast<Unsigned<T>>(b));
  else
    return canonical(a + b);
}
template <class T>
inline T ptx_sub(T a, T b) {
  if constexpr (kIsInteger<T>)
    return static_cast<T>(static_cast<Unsigned<T>>(a) - static_cast<Unsigned<T>>(b));
  else
    return canonical(a - b);
}
template <class T>
inline T ptx_mul(T a, T b) {
  return canonical(a * b);
}
template <class T>
struct Wide;
template <>
struct Wide<uint16_t> {
  using type = uint32_t;
};
template <>
struct Wide<int16_t> {
  using type = int32_t;
};
template <>
struct Wide<uint32_t> {
  using type = uint64_t;
};
template <>
struct Wide<int32_t> {
  using type = int64_t;
};
template <>
struct Wide<uint64_t> {
  using type = UInt128;
};
template <>
struct Wide<int64_t> {
  using type = Int128;
};
template <class T>
inline T ptx_mul_lo(T a, T b) {
  using W = UInt128;
  return static_cast<T>(static_cast<W>(a) * static_cast<W>(b));
}
template <class T>
inline T ptx_mul_hi(T a, T b) {
  using W = typename Wide<T>::type;
  return static_cast<T>((static_cast<W>(a) * static_cast<W>(b)) >> (8 * sizeof(T)));
}
template <class T>
inline auto ptx_mul_wide(T a, T b) {
  using W = typename Wide<T>::type;
  return static_cast<W>(static_cast<W>(a) * static_cast<W>(b));
}
template <class T>
inline T ptx_mad_lo(T a, T b, T c) {
  return ptx_add(ptx_mul_lo(a, b), c);
}
template <class T>
inline T ptx_mad_hi(T a, T b, T c) {
  return ptx_add(ptx_mul_hi(a, b), c);
}
template <class T, class W = typename Wide<T>::type>
inline W ptx_mad_wide(T a, T b, W c) {
  return ptx_add(ptx_mul_wide(a, b), c);
}

// Multi-word arithmetic: .cc writes the carry, addc, subc and madc read it.
template <class T>
inline T add_with_carry(T a, T b, uint32_t in, uint32_t& out) {
  using U = Unsigned<T>;
  const UInt128 sum = static_cast<UInt128>(static_cast<U>(a)) + static_cast<U>(b) + in;
  out = static_cast<uint32_t>((sum >> (8 * sizeof(T))) & 1);
  return static_cast<T>(sum);
}
template <class T>
inline T ptx_add_cc(T a, T b, uint32_t& carry) {
  return add_with_carry(a, b, 0, carry);
}
template <class T>
inline T ptx_addc(T a, T b, uint32_t carry) {
  return add_with_carry(a, b, carry, carry);
}
template <class T>
inline T ptx_addc_cc(T a, T b, uint32_t& carry) {
  return add_with_carry(a, b, carry, carry);
}
template <class T>
inline T ptx_sub_cc(T a, T b, uint32_t& borrow) {
  borrow = static_cast<Unsigned<T>>(a) < static_cast<Unsigned<T>>(b);
  return ptx_sub(a, b);
}
template <class T>
inline T ptx_subc_cc(T a, T b, uint32_t& borrow) {
  const uint32_t in = borrow;
  const T first = ptx_sub(a, b);
  borrow =
      (static_cast<Unsigned<T>>(a) < static_cast<Unsigned<T>>(b)) | (static_cast<Unsigned<T>>(first) < in);
  return ptx_sub(first, static_cast<T>(in));
}
template <class T>
inline T ptx_subc(T a, T b, uint32_t borrow) {
  return ptx_subc_cc(a, b, borrow);
}
template <class T>
inline T ptx_mad_lo_cc(T a, T b, T c, uint32_t& carry) {
  return ptx_add_cc(ptx_mul_lo(a, b), c, carry);
}
template <class T>
inline T ptx_mad_hi_cc(T a, T b, T c, uint32_t& carry) {
  return ptx_add_cc(ptx_mul_hi(a, b), c, carry);
}
template <class T>
inline T ptx_madc_lo(T a, T b, T c, uint32_t carry) {
  return ptx_addc(ptx_mul_lo(a, b), c, carry);
}
template <class T>
inline T ptx_madc_hi(T a, T b, T c, uint32_t carry) {
  return ptx_addc(ptx_mul_hi(a, b), c, carry);
}
template <class T>
inline T ptx_madc_lo_cc(T a, T b, T c, uint32_t& carry) {
  return ptx_addc_cc(ptx_mul_lo(a, b), c, carry);
}
template <class T>
inline T ptx_madc_hi_cc(T a, T b, T c, uint32_t& carry) {
  return ptx_addc_cc(ptx_mul_hi(a, b), c, carry);
}

/// Integer division by zero gives all ones, as the hardware's routine does; the smallest number by -1 wraps.
template <class T>
inline T ptx_div(T a, T b) {
  if constexpr (kIsInteger<T>) {
    if (b == 0) return static_cast<T>(~Unsigned<T>(0));
    if (std::is_signed_v<T> && b == static_cast<T>(-1)) return ptx_sub(T(0), a);
  }
  if constexpr (kIsInteger<T>)
    return static_cast<T>(a / b);
  else
    return canonical(a / b);
}
template <class T>
inline T ptx_rem(T a, T b) {
  if (b == 0) return a;
  if (std::is_signed_v<T> && b == static_cast<T>(-1)) return 0;
  return static_cast<T>(a % b);
}
template <class T>
inline T ptx_abs(T a) {
  if constexpr (kIsInteger<T>)
    return a < 0 ? ptx_sub(T(0), a) : a;
  else
    return std::fabs(a);
}
template <class T>
inline T ptx_neg(T a) {
  if constexpr (kIsInteger<T>)
    return ptx_sub(T(0), a);
  else
    return -a;
}
template <class T>
inline T ptx_and(T a, T b) {
  return static_cast<T>(a & b);
}
template <class T>
inline T ptx_or(T a, T b) {
  return static_cast<T>(a | b);
}
template <class T>
inline T ptx_xor(T a, T b) {
  return static_cast<T>(a ^ b);
}
template <class T>
inline T ptx_not(T a) {
  if constexpr (std::is_same_v<T, bool>)
    return !a;
  else
    return static_cast<T>(~a);
}
template <class T>
inline T ptx_cnot(T a) {
  return a == 0;
}
template <class T>
inline T ptx_shl(T a, uint32_t n) {
  return n >= 8 * sizeof(T) ? T(0) : static_cast<T>(static_cast<Unsigned<T>>(a) << n);
}
template <class T>
inline T ptx_shr(T a, uint32_t n) {
  constexpr uint32_t kWidth = 8 * sizeof(T);
  if (n >= kWidth) return std::is_signed_v<T> && a < 0 ? static_cast<T>(-1) : T(0);
  return static_cast<T>(a >> n);
}
template <class T>
inline uint32_t ptx_popc(T a) {
  return static_cast<uint32_t>(std::popcount(a));
}
template <class T>
inline uint32_t ptx_clz(T a) {
  return static_cast<uint32_t>(std::countl_zero(a));
}
template <class T>
inline T ptx_brev(T a) {
  T result = 0;
  for (size_t i = 0; i < 8 * sizeof(T); ++i) result |= ((a >> i) & 1) << (8 * sizeof(T) - 1 - i);
  return result;
}
template <class T>
inline uint32_t ptx_bfind(T a) {
  if (std::is_signed_v<T> && a < 0) a = static_cast<T>(~a);
  const auto u = static_cast<Unsigned<T>>(a);
  return u == 0 ? ~0u : static_cast<uint32_t>(8 * sizeof(T) - 1 - std::countl_zero(u));
}
template <class T>
inline T ptx_bfe(T a, uint32_t position, uint32_t length) {
  constexpr uint32_t kWidth = 8 * sizeof(T);
  position &= 0xff, length &= 0xff;
  if (length == 0) return 0;
  const uint32_t end = position + length < kWidth ? position + length : kWidth;
  if (position >= kWidth) return std::is_signed_v<T> && a < 0 ? static_cast<T>(-1) : T(0);
  const auto top = static_cast<Unsigned<T>>(static_cast<Unsigned<T>>(a) << (kWidth - end));
  return static_cast<T>(static_cast<T>(top) >> (kWidth - end + position));
}
template <class T>
inline T ptx_bfi(T a, T b, uint32_t position, uint32_t length) {
  constexpr uint32_t kWidth = 8 * sizeof(T);
  position &= 0xff, length &= 0xff;
  if (length == 0 || position >= kWidth) return b;
  const T ones = length >= kWidth ? static_cast<T>(~T(0)) : static_cast<T>((T(1) << length) - 1);
  const T mask = static_cast<T>(ones << position);
  return static_cast<T>((b & ~mask) | ((a << position) & mask));
}
template <class T>
inline T ptx_lop3(T a, T b, T c, uint32_t table) {
  T result = 0;
  for (int i = 0; i < 8; ++i)
    if (table >> i & 1) result |= (i & 4 ? a : ~a) & (i & 2 ? b : ~b) & (i & 1 ? c : ~c);
  return result;
}
template <class T>
inline T ptx_shf_l_wrap(T a, T b, uint32_t n) {
  return static_cast<T>((uint64_t{b} << 32 | a) << (n & 31) >> 32);
}
template <class T>
inline T ptx_shf_r_wrap(T a, T b, uint32_t n) {
  return static_cast<T>((uint64_t{b} << 32 | a) >> (n & 31));
}
template <class T>
inline T ptx_shf_l_clamp(T a, T b, uint32_t n) {
  n = n < 32 ? n : 32;
  return static_cast<T>(static_cast<uint64_t>((static_cast<UInt128>(uint64_t{b} << 32 | a)) << n) >> 32);
}
template <class T>
inline T ptx_shf_r_clamp(T a, T b, uint32_t n) {
  return static_cast<T>((uint64_t{b} << 32 | a) >> (n < 32 ? n : 32));
}
template <class T>
inline T ptx_prmt(T a, T b, T selector) {
  const uint64_t bytes = uint64_t{b} << 32 | a;
  T result = 0;
  for (int i = 0; i < 4; ++i) {
    const uint32_t choice = selector >> (4 * i) & 15;
    uint32_t byte = static_cast<uint32_t>(bytes >> (8 * (choice & 7))) & 0xff;
    if (choice & 8) byte = byte & 0x80 ? 0xff : 0;
    result |= byte << (8 * i);
  }
  return result;
}

// --- floating point ----------------------------------------------------------------------------------------

template <class T>
inline T ptx_fma(T a, T b, T c) {
  if constexpr (std::is_same_v<T, float>)
    return canonical(__builtin_fmaf(a, b, c));
  else
    return __builtin_fma(a, b, c);
}
/// min and max of floats: a NaN loses against a number; -0 is less than +0.
template <class T>
inline T ptx_min(T a, T b) {
  if constexpr (kIsInteger<T>) {
    return a < b ? a : b;
  } else {
    if (a != a) return b;
    if (b != b) return a;
    return a < b || (a == b && std::signbit(a)) ? a : b;
  }
}
template <class T>
inline T ptx_max(T a, T b) {
  if constexpr (kIsInteger<T>) {
    return a > b ? a : b;
  } else {
    if (a != a) return b;
    if (b != b) return a;
    return a > b || (a == b && !std::signbit(a)) ? a : b;
  }
}
template <class T>
inline T ptx_min_NaN(T a, T b) {
  return a != a || b != b ? std::numeric_limits<T>::quiet_NaN() : ptx_min(a, b);
}
template <class T>
inline T ptx_max_NaN(T a, T b) {
  return a != a || b != b ? std::numeric_limits<T>::quiet_NaN() : ptx_max(a, b);
}
template <class T>
inline T ptx_rcp(T a) {
  return T(1) / a;
}
template <class T>
inline T ptx_sqrt(T a) {
  return std::sqrt(a);
}
// The approximations of the hardware, here as exact as the host can.
template <class T>
inline T ptx_rcp_approx(T a) {
  return T(1) / a;
}
template <class T>
inline T ptx_div_approx(T a, T b) {
  return a / b;
}
template <class T>
inline T ptx_sqrt_approx(T a) {
  return std::sqrt(a);
}
template <class T>
inline T ptx_rsqrt_approx(T a) {
  return static_cast<T>(1.0 / std::sqrt(static_cast<double>(a)));
}
template <class T>
inline T ptx_ex2_approx(T a) {
  return std::exp2(a);
}
template <class T>
inline T ptx_lg2_approx(T a) {
  return std::log2(a);
}
template <class T>
inline T ptx_sin_approx(T a) {
  return std::sin(a);
}
template <class T>
inline T ptx_cos_approx(T a) {
  return std::cos(a);
}
template <class T>
inline T ptx_tanh_approx(T a) {
  return std::tanh(a);
}
/// The magnitude of b with the sign of a.
template <class T>
inline T ptx_copysign(T a, T b) {
  return std::copysign(b, a);
}
template <class T>
inline bool ptx_testp_finite(T a) {
  return std::isfinite(a);
}
template <class T>
inline bool ptx_testp_infinite(T a) {
  return std::isinf(a);
}
template <class T>
inline bool ptx_testp_number(T a) {
  return a == a;
}
template <class T>
inline bool ptx_testp_notanumber(T a) {
  return a != a;
}
// Directed roundings, which division routines of libdevice use.
template <class T>
inline T ptx_fma_rz(T a, T b, T c) {
  if constexpr (std::is_same_v<T, float>) {
    // The sum of the exact product (48 bits) and c in double has one rounding error, far below float's.
    const double exact = static_cast<double>(a) * b + c;
    const float rounded = static_cast<float>(exact);
    return std::fabs(static_cast<double>(rounded)) > std::fabs(exact) ? std::nextafter(rounded, 0.0f)
                                                                      : rounded;
  } else {
    return ptx_fma(a, b, c);
  }
}
template <class T>
inline T ptx_fma_rp(T a, T b, T c) {
  const double exact = static_cast<double>(a) * b + c;
  const T rounded = static_cast<T>(exact);
  return static_cast<double>(rounded) < exact ? std::nextafter(rounded, static_cast<T>(HUGE_VAL)) : rounded;
}
template <class T>
inline T ptx_fma_rm(T a, T b, T c) {
  const double exact = static_cast<double>(a) * b + c;
  const T rounded = static_cast<T>(exact);
  return static_cast<double>(rounded) > exact ? std::nextafter(rounded, static_cast<T>(-HUGE_VAL)) : rounded;
}
template <class T>
inline T ptx_mul_rz(T a, T b) {
  return ptx_fma_rz(a, b, T(0));
}
template <class T>
inline T ptx_add_rz(T a, T b) {
  return ptx_fma_rz(a, T(1), b);
}
template <class T>
inline T ptx_add_sat(T a, T b) {
  const T sum = a + b;
  return sum < T(0) || sum != sum ? T(0) : sum > T(1) ? T(1) : sum;
}
template <class T>
inline T ptx_fma_sat(T a, T b, T c) {
  const T sum = ptx_fma(a, b, c);
  return sum < T(0) || sum != sum ? T(0) : sum > T(1) ? T(1) : sum;
}

// --- comparisons -------------------------------------------------------------------------------------------

// Plain ones are false, those with u are true where an operand is NaN; lo, ls, hi, hs compare without sign.
template <class T>
inline bool compare_eq(T a, T b) {
  return a == b;
}
template <class T>
inline bool compare_ne(T a, T b) {
  if constexpr (std::is_floating_point_v<T>)
    return a < b || a > b;
  else
    return a != b;
}
template <class T>
inline bool compare_lt(T a, T b) {
  return a < b;
}
template <class T>
inline bool compare_le(T a, T b) {
  return a <= b;
}
template <class T>
inline bool compare_gt(T a, T b) {
  return a > b;
}
template <class T>
inline bool compare_ge(T a, T b) {
  return a >= b;
}
template <class T>
inline bool compare_lo(T a, T b) {
  return a < b;
}
template <class T>
inline bool compare_ls(T a, T b) {
  return a <= b;
}
template <class T>
inline bool compare_hi(T a, T b) {
  return a > b;
}
template <class T>
inline bool compare_hs(T a, T b) {
  return a >= b;
}
template <class T>
inline bool compare_equ(T a, T b) {
  return !(a < b || a > b);
}
template <class T>
inline bool compare_neu(T a, T b) {
  return !(a == b);
}
template <class T>
inline bool compare_ltu(T a, T b) {
  return !(a >= b);
}
template <class T>
inline bool compare_leu(T a, T b) {
  return !(a > b);
}
template <class T>
inline bool compare_gtu(T a, T b) {
  return !(a <= b);
}
template <class T>
inline bool compare_geu(T a, T b) {
  return !(a < b);
}
template <class T>
inline bool compare_num(T a, T b) {
  return a == a && b == b;
}
template <class T>
inline bool compare_nan(T a, T b) {
  return a != a || b != b;
}

// --- conversions -------------------------------------------------------------------------------------------

/// rn, rz, rm, rp round to a floating type; rni, rzi, rmi, rpi to an integer.
enum class Rounding { none, rn, rz, rm, rp, rni, rzi, rmi, rpi };

template <class F>
inline F round_to_integer(F v, Rounding mode) {
  switch (mode) {
    case Rounding::rzi:
      return std::trunc(v);
    case Rounding::rmi:
      return std::floor(v);
    case Rounding::rpi:
      return std::ceil(v);
    default:
      return std::nearbyint(v);
  }
}

template <class To, class From, Rounding mode, bool saturate>
inline To cvt(From v) {
  if constexpr (std::is_same_v<From, BFloat16> || std::is_same_v<From, Half>) {
    if constexpr (std::is_same_v<From, To>)
      return v;
    else
      return cvt<To, float, mode, saturate>(widen(v));
  } else if constexpr (std::is_same_v<To, BFloat16>) {
    return narrow_bf16(static_cast<float>(v));
  } else if constexpr (std::is_same_v<To, Half>) {
    return narrow_f16(static_cast<float>(v));
  } else if constexpr (std::is_floating_point_v<From> && std::is_floating_point_v<To>) {
    if constexpr (mode == Rounding::rni || mode == Rounding::rzi || mode == Rounding::rmi ||
                  mode == Rounding::rpi)
      return static_cast<To>(round_to_integer(v, mode));
    To result = static_cast<To>(v);
    if constexpr (mode == Rounding::rz) {
      if (std::fabs(static_cast<double>(result)) > std::fabs(static_cast<double>(v)))
        result = std::nextafter(result, To(0));
    }
    if constexpr (saturate)
      return result < To(0) || result != result ? To(0) : result > To(1) ? To(1) : result;
    return result;
  } else if constexpr (std::is_floating_point_v<From>) {
    // To an integer: out of range gives the nearest bound, NaN gives 0 (of 64 bits: the lowest or highest
    // bit).
    if (v != v) return sizeof(To) == 8 ? static_cast<To>(uint64_t{1} << 63) : To(0);
    const From r = round_to_integer(v, mode);
    constexpr From kLow = static_cast<From>(std::numeric_limits<To>::min());
    // The first number beyond the range, a power of two.
    constexpr From kEnd = 2 * static_cast<From>(std::numeric_limits<To>::max() / 2 + 1);
    return r < kLow    ? std::numeric_limits<To>::min()
           : r >= kEnd ? std::numeric_limits<To>::max()
                       : static_cast<To>(r);
  } else if constexpr (std::is_floating_point_v<To>) {
    return static_cast<To>(v);
  } else {
    if constexpr (saturate) {
      const auto wide = static_cast<Int128>(v);
      constexpr auto kMin = static_cast<Int128>(std::numeric_limits<To>::min());
      constexpr auto kMax = static_cast<Int128>(std::numeric_limits<To>::max());
      return static_cast<To>(wide < kMin ? kMin : wide > kMax ? kMax : wide);
    }
    return static_cast<To>(v);
  }
}
/// Two floats to one register; the first operand takes the upper half.
template <class To>
inline To cvt_pack(float high, float low) {
  if constexpr (std::is_same_v<To, BFloat162>)
    return {narrow_bf16(low).bits, narrow_bf16(high).bits};
  else
    return {narrow_f16(low).bits, narrow_f16(high).bits};
}
/// To the nearest number with 10 bits of mantissa, ties away from zero.
inline uint32_t cvt_rna_tf32(float v) {
  const uint32_t bits = std::bit_cast<uint32_t>(v);
  return (bits & 0x7f800000) == 0x7f800000 ? bits : (bits + 0x1000) & ~0x1fffu;
}

// --- memory ------------------------------------------------------------------------------------------------

template <class T, int N>
struct Vector {
  T at[N];
};

inline uint64_t cvta_to_global(uint64_t a) { return a; }
inline uint64_t cvta_from_global(uint64_t a) { return a; }
inline uint64_t cvta_to_shared(uint64_t a) { return a - kSharedWindow; }
inline uint64_t cvta_from_shared(uint64_t a) { return a + kSharedWindow; }
inline uint64_t cvta_to_local(uint64_t a) { return a; }
inline uint64_t cvta_from_local(uint64_t a) { return a; }
inline uint64_t cvta_to_param(uint64_t a) { return a; }
inline uint64_t cvta_from_param(uint64_t a) { return a; }
inline uint64_t cvta_to_const(uint64_t a) { return a; }
inline uint64_t cvta_from_const(uint64_t a) { return a; }

/// The first device address (memory.cpp).
extern uint64_t device_begin;

/// The host's address of the bytes that a PTX address of a space means.
inline uint8_t* host_address(Thread& t, Space space, uint64_t a) {
  if (space == Space::shared) return t.shared + a;
  if (space == Space::global) return reinterpret_cast<uint8_t*>(a - device_begin < kView ? a + kView : a);
  if (space == Space::local) return reinterpret_cast<uint8_t*>(a);
  if (a >= kSharedWindow) return t.shared + (a - kSharedWindow);
  return reinterpret_cast<uint8_t*>(a - device_begin < kView ? a + kView : a);
}

template <class T, int N, Space space>
inline Vector<T, N> load(Thread& t, uint64_t a, uint32_t site) {
  Vector<T, N> v{};
  if (t.watched) [[unlikely]]
    if (!watch(t, space, a, sizeof(v), Action::read, site)) return v;
  std::memcpy(&v, host_address(t, space, a), sizeof(v));
  return v;
}
template <class T, int N, Space space>
inline void store(Thread& t, uint64_t a, const Vector<T, N>& v, uint32_t site) {
  if (t.watched) [[unlikely]]
    if (!watch(t, space, a, sizeof(v), Action::write, site)) return;
  std::memcpy(host_address(t, space, a), &v, sizeof(v));
}
template <class T, int N>
inline Vector<T, N> load_global(Thread& t, uint64_t a, uint32_t site) {
  return load<T, N, Space::global>(t, a, site);
}
template <class T, int N>
inline Vector<T, N> load_shared(Thread& t, uint64_t a, uint32_t site) {
  return load<T, N, Space::shared>(t, a, site);
}
template <class T, int N>
inline Vector<T, N> load_local(Thread& t, uint64_t a, uint32_t site) {
  return load<T, N, Space::local>(t, a, site);
}
template <class T, int N>
inline Vector<T, N> load_generic(Thread& t, uint64_t a, uint32_t site) {
  return load<T, N, Space::generic>(t, a, site);
}
template <class T, int N>
inline void store_global(Thread& t, uint64_t a, const Vector<T, N>& v, uint32_t site) {
  store<T, N, Space::global>(t, a, v, site);
}
template <class T, int N>
inline void store_shared(Thread& t, uint64_t a, const Vector<T, N>& v, uint32_t site) {
  store<T, N, Space::shared>(t, a, v, site);
}
template <class T, int N>
inline void store_local(Thread& t, uint64_t a, const Vector<T, N>& v, uint32_t site) {
  store<T, N, Space::local>(t, a, v, site);
}
template <class T, int N>
inline void store_generic(Thread& t, uint64_t a, const Vector<T, N>& v, uint32_t site) {
  store<T, N, Space::generic>(t, a, v, site);
}
/// Parameters and constants: nothing to watch.
template <class T>
inline T load_one(uint64_t a) {
  T v;
  std::memcpy(&v, reinterpret_cast<const void*>(a), sizeof(v));
  return v;
}
template <class T, int N>
inline Vector<T, N> load_plain(uint64_t a) {
  return load_one<Vector<T, N>>(a);
}
template <class T, int N>
inline void store_plain(uint64_t a, const Vector<T, N>& v) {
  std::memcpy(reinterpret_cast<void*>(a), &v, sizeof(v));
}
template <class T>
inline uint64_t address_of(T& variable) {
  return reinterpret_cast<uint64_t>(&variable);
}
/// A thread's own arrays begin as signalling rubbish under the checker.
inline void poison_local(Thread& t, void* memory, size_t bytes) {
  if (t.watched) [[unlikely]]
    std::memset(memory, 0xff, bytes);
}

// Atomics on integers. Blocks may run on several host threads.
template <class T, class F>
inline T atomically(Thread& t, Space space, uint64_t a, uint32_t site, F change) {
  if (t.watched) [[unlikely]]
    if (!watch(t, space, a, sizeof(T), Action::atomic, site)) return T(0);
  std::atomic_ref<T> place(*reinterpret_cast<T*>(host_address(t, space, a)));
  T old = place.load();
  while (!place.compare_exchange_weak(old, change(old))) {
  }
  return old;
}
template <class T>
inline T atomic_add(Thread& t, Space space, uint64_t a, T b, uint32_t site) {
  return atomically<T>(t, space, a, site, [=](T old) { return ptx_add(old, b); });
}
template <class T>
inline T atomic_min(Thread& t, Space space, uint64_t a, T b, uint32_t site) {
  return atomically<T>(t, space, a, site, [=](T old) { return ptx_min(old, b); });
}
template <class T>
inline T atomic_max(Thread& t, Space space, uint64_t a, T b, uint32_t site) {
  return atomically<T>(t, space, a, site, [=](T old) { return ptx_max(old, b); });
}
template <class T>
inline T atomic_and(Thread& t, Space space, uint64_t a, T b, uint32_t site) {
  return atomically<T>(t, space, a, site, [=](T old) { return ptx_and(old, b); });
}
template <class T>
inline T atomic_or(Thread& t, Space space, uint64_t a, T b, uint32_t site) {
  return atomically<T>(t, space, a, site, [=](T old) { return ptx_or(old, b); });
}
template <class T>
inline T atomic_xor(Thread& t, Space space, uint64_t a, T b, uint32_t site) {
  return atomically<T>(t, space, a, site, [=](T old) { return ptx_xor(old, b); });
}
template <class T>
inline T atomic_exch(Thread& t, Space space, uint64_t a, T b, uint32_t site) {
  return atomically<T>(t, space, a, site, [=](T) { return b; });
}
template <class T>
inline T atomic_cas(Thread& t, Space space, uint64_t a, T expected, T b, uint32_t site) {
  return atomically<T>(t, space, a, site, [=](T old) { return old == expected ? b : old; });
}
template <class T>
inline T atomic_inc(Thread& t, Space space, uint64_t a, T bound, uint32_t site) {
  return atomically<T>(t, space, a, site, [=](T old) { return old >= bound ? T(0) : T(old + 1); });
}
template <class T>
inline T atomic_dec(Thread& t, Space space, uint64_t a, T bound, uint32_t site) {
  return atomically<T>(t, space, a, site,
                       [=](T old) { return old == 0 || old > bound ? bound : T(old - 1); });
}

template <int kBytes>
inline void copy_async(Thread& t, uint64_t to, uint64_t from, uint32_t source_bytes, uint32_t site) {
  start_copy(t, {to, from, kBytes, source_bytes, site});
}

uint32_t clock32();
uint64_t clock64();

// --- barriers and warps ------------------------------------------------------------------------------------

inline bool sync_block_and(Thread& t, uint32_t barrier, bool value, uint32_t site) {
  sync_block(t, barrier, 0, site, !value);
  return t.barrier_result == 0;
}
inline bool sync_block_or(Thread& t, uint32_t barrier, bool value, uint32_t site) {
  sync_block(t, barrier, 0, site, value);
  return t.barrier_result != 0;
}
inline uint32_t sync_block_popc(Thread& t, uint32_t barrier, bool value, uint32_t site) {
  sync_block(t, barrier, 0, site, value);
  return t.barrier_result;
}

enum class Shuffle : uint32_t { idx, up, down, bfly };
struct Shuffled {
  uint32_t value;
  bool in_range;
};
Shuffled shuffle(Thread& t, Shuffle kind, uint32_t value, uint32_t b, uint32_t c, uint32_t mask,
                 uint32_t site);

bool vote_all(Thread& t, bool value, uint32_t mask, uint32_t site);
bool vote_any(Thread& t, bool value, uint32_t mask, uint32_t site);
uint32_t vote_ballot(Thread& t, bool value, uint32_t mask, uint32_t site);

// --- matrices ----------------------------------------------------------------------------------------------

/// ldmatrix: up to four 8x8 matrices of 16-bit elements; row i of matrix m starts at the address that lane
/// 8 m + i gives.
void load_matrix_rows(Thread& t, uint64_t address, uint32_t matrices, bool transposed, uint32_t site);
template <int kMatrices, bool kTransposed>
inline Vector<uint32_t, kMatrices> load_matrix(Thread& t, uint64_t address, uint32_t site) {
  load_matrix_rows(t, address, kMatrices, kTransposed, site);
  Vector<uint32_t, kMatrices> v;
  std::memcpy(&v, t.warp->lane[t.lane].out, sizeof(v));
  return v;
}

using Fragment4 = Vector<float, 4>;
/// D = A B + C on the fragments that the PTX manual draws; products exact, one rounding of each sum.
Fragment4 multiply_m16n8k16_bf16(Thread& t, Vector<uint32_t, 4> a, Vector<uint32_t, 2> b, Fragment4 c,
                                 uint32_t site);
Fragment4 multiply_m16n8k8_bf16(Thread& t, Vector<uint32_t, 2> a, Vector<uint32_t, 1> b, Fragment4 c,
                                uint32_t site);
Fragment4 multiply_m16n8k8_tf32(Thread& t, Vector<uint32_t, 4> a, Vector<uint32_t, 2> b, Fragment4 c,
                                uint32_t site);
Fragment4 multiply_m16n8k4_tf32(Thread& t, Vector<uint32_t, 2> a, Vector<uint32_t, 1> b, Fragment4 c,
                                uint32_t site);

}  // namespace halfstep::emulation
