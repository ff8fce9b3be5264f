// Philox 4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011): a counter-based
// generator. Number i of row r of a stream is a pure function of (seed, stream, r, i), so any backend with
// any number of threads produces the same bits. Everything here uses only IEEE-exact operations (+ - * /
// sqrt) in f32; it must be compiled without FP contraction, because a fused multiply-add would change the
// last bit.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__CUDACC__)
#define HALFSTEP_PHILOX_HD __host__ __device__
#else
#define HALFSTEP_PHILOX_HD
#endif

// A copy per instruction set, as in tensor/formulas.h.
#ifndef HALFSTEP_ISA
#define HALFSTEP_ISA generic
#endif

namespace halfstep::philox::inline HALFSTEP_ISA {

/// 128 bits: a counter, or the random words made from it.
struct Block {
  uint32_t word[4];
};

/// Upper and lower half of the product of two words.
template <class Word>
struct WideProduct {
  Word high, low;
};
HALFSTEP_PHILOX_HD inline WideProduct<uint32_t> wide_product(uint32_t a, uint32_t b) {
  const uint64_t product = uint64_t{a} * b;
  return {static_cast<uint32_t>(product >> 32), static_cast<uint32_t>(product)};
}

/// Ten rounds on a 128-bit counter with a 64-bit key. Word: uint32_t, or many counters' words side by side
/// with operator^ and a wide_product of their own (tensor/cpu/random.cpp).
template <class Word>
HALFSTEP_PHILOX_HD inline void ten_rounds(Word (&word)[4], uint32_t key0, uint32_t key1) {
  for (int round = 0; round < 10; ++round) {
    const WideProduct<Word> p0 = wide_product(word[0], 0xD2511F53), p1 = wide_product(word[2], 0xCD9E8D57);
    word[0] = p1.high ^ word[1] ^ key0;
    word[1] = p1.low;
    word[2] = p0.high ^ word[3] ^ key1;
    word[3] = p0.low;
    key0 += 0x9E3779B9;
    key1 += 0xBB67AE85;
  }
}
HALFSTEP_PHILOX_HD inline Block philox4x32_10(Block counter, uint32_t key0, uint32_t key1) {
  ten_rounds(counter.word, key0, key1);
  return counter;
}

/// The four words that serve elements 4*block ... 4*block+3 of a row. block and row use 32 bits each.
HALFSTEP_PHILOX_HD inline Block words(uint64_t seed, uint64_t stream, uint64_t row, uint64_t block) {
  const Block counter{{static_cast<uint32_t>(block), static_cast<uint32_t>(row),
                       static_cast<uint32_t>(stream), static_cast<uint32_t>(stream >> 32)}};
  return philox4x32_10(counter, static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32));
}

/// [0, 1): the upper 24 bits, so that every value is exact in f32 and 1 is never reached.
HALFSTEP_PHILOX_HD inline float uniform(uint32_t word) { return static_cast<float>(word >> 8) * 0x1p-24f; }

/// ln(x) for normal positive x: exponent + 2 atanh(s), s = (m-1)/(m+1), |s| < 0.172, by its series.
HALFSTEP_PHILOX_HD inline float log(float x) {
  int32_t bits;
  std::memcpy(&bits, &x, 4);
  // Shifts the mantissa range to [sqrt(1/2), sqrt(2)).
  const int32_t shifted = bits - 0x3f3504f3;
  const int32_t exponent = shifted >> 23;
  bits = (shifted & 0x007fffff) + 0x3f3504f3;
  float m;
  std::memcpy(&m, &bits, 4);
  const float s = (m - 1.0f) / (m + 1.0f), s2 = s * s;
  float p = 1.0f / 11;
  p = p * s2 + 1.0f / 9;
  p = p * s2 + 1.0f / 7;
  p = p * s2 + 1.0f / 5;
  p = p * s2 + 1.0f / 3;
  const float series = 2.0f * s + 2.0f * s * s2 * p;
  return static_cast<float>(exponent) * 0.693147181f + series;
}

/// cos and sin of 2 pi word / 2^32: the quadrant from the two top bits, Taylor series on [-pi/4, pi/4).
HALFSTEP_PHILOX_HD inline void cos_sin(uint32_t word, float& cosine, float& sine) {
  const uint32_t centred = word + 0x20000000u;
  const uint32_t quadrant = centred >> 30;
  const int32_t rest = static_cast<int32_t>(centred & 0x3fffffffu) - 0x20000000;
  const float x = static_cast<float>(rest) * (1.57079633f * 0x1p-30f), x2 = x * x;
  float c = -1.0f / 3628800;
  c = c * x2 + 1.0f / 40320;
  c = c * x2 - 1.0f / 720;
  c = c * x2 + 1.0f / 24;
  c = c * x2 - 0.5f;
  c = c * x2 + 1.0f;
  float s = 1.0f / 362880;
  s = s * x2 - 1.0f / 5040;
  s = s * x2 + 1.0f / 120;
  s = s * x2 - 1.0f / 6;
  s = s * x2 * x + x;
  const float a = (quadrant & 1) ? s : c, b = (quadrant & 1) ? c : s;
  cosine = (quadrant == 1 || quadrant == 2) ? -a : a;
  sine = quadrant >= 2 ? -b : b;
}

/// Box-Muller: two independent standard normals from two words; |z| <= 6.77.
HALFSTEP_PHILOX_HD inline void normal_pair(uint32_t word0, uint32_t word1, float& z0, float& z1) {
  // (0, 1]: half a unit is added so that the logarithm is finite.
  const float u = (static_cast<float>(word0) + 0.5f) * 0x1p-32f;
  const float radius = ::sqrtf(-2.0f * log(u));
  float cosine, sine;
  cos_sin(word1, cosine, sine);
  z0 = radius * cosine;
  z1 = radius * sine;
}

/// Four standard normals for elements 4*block ... 4*block+3.
HALFSTEP_PHILOX_HD inline void normals(const Block& w, float z[4]) {
  normal_pair(w.word[0], w.word[1], z[0], z[1]);
  normal_pair(w.word[2], w.word[3], z[2], z[3]);
}

}  // namespace halfstep::philox::inline HALFSTEP_ISA
