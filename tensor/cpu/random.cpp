// Random numbers and dropout: the words of many counters at a time. Words are integers, and what is made of
// them uses operations that IEEE rounds once (see tensor/philox.h), so that every instruction set has the
// reference's bits.
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "tensor/cpu/kernels.h"
#include "tensor/cpu/simd.h"
#include "tensor/cpu/thread_pool.h"
#include "tensor/philox.h"

namespace halfstep::cpu::inline HALFSTEP_ISA {
namespace {

typedef uint64_t Lanes64 __attribute__((vector_size(kVectorBytes)));
constexpr int kCounters = kLanes<double>;  // drawn from at a time
constexpr int64_t kNumbers = 4 * kCounters;

/// A word of each of kCounters counters, in the lower half of a lane of 64 bits; the upper halves mean
/// nothing.
struct Words {
  Lanes64 lanes;
};
Words operator^(Words a, Words b) { return {a.lanes ^ b.lanes}; }
Words operator^(Words a, uint32_t key) { return {a.lanes ^ key}; }

/// The product of the lower halves. By intrinsics: compilers multiply all 64 bits, which takes three times as
/// long.
philox::WideProduct<Words> wide_product(Words a, uint32_t factor) {
  const Lanes64 b = Lanes64{} + factor;
#if defined(__AVX512F__)
  const auto all = static_cast<__mmask8>(-1);
  const auto product = (Lanes64)_mm512_maskz_mul_epu32(all, (__m512i)a.lanes, (__m512i)b);
#elif defined(__AVX2__)
  const auto product = (Lanes64)_mm256_mul_epu32((__m256i)a.lanes, (__m256i)b);
#elif defined(__SSE2__)
  const auto product = (Lanes64)_mm_mul_epu32((__m128i)a.lanes, (__m128i)b);
#else
  const Lanes64 product = (a.lanes & 0xffffffff) * b;
#endif
  return {{product >> 32}, {product}};
}

/// Where numbers are drawn from: see philox::words.
struct Source {
  uint64_t seed, stream, row;
};

/// The first, or the second, half of a[0], b[0], a[1], b[1] and so on.
template <int... I>
Lanes64 interleaved(Lanes64 a, Lanes64 b, bool second, Lanes<I...>) {
  constexpr int N = sizeof...(I);
  return second ? __builtin_shufflevector(a, b, (N / 2 + I / 2 + I % 2 * N)...)
                : __builtin_shufflevector(a, b, (I / 2 + I % 2 * N)...);
}

/// The words of blocks [first, first + kCounters) of a row, one block after the other.
template <int... I>
void draw(uint32_t (&out)[kNumbers], const Source& source, int64_t first, Lanes<I...> lanes) {
  const auto same = [](uint64_t value) { return Words{Lanes64{} + value}; };
  Words word[4] = {{Lanes64{I...} + static_cast<uint64_t>(first)},
                   same(source.row),
                   same(source.stream),
                   same(source.stream >> 32)};
  philox::ten_rounds(word, static_cast<uint32_t>(source.seed), static_cast<uint32_t>(source.seed >> 32));
  // Two words make a lane: in memory the lower half comes first.
  const Lanes64 a = (word[0].lanes & 0xffffffff) | word[1].lanes << 32;
  const Lanes64 b = (word[2].lanes & 0xffffffff) | word[3].lanes << 32;
  for (int half = 0; half < 2; ++half) {
    const Lanes64 part = interleaved(a, b, half == 1, lanes);
    std::memcpy(out + half * 2 * kCounters, &part, sizeof part);
  }
}

/// Calls make(at, count, words) for all numbers of `rows` rows of n: kNumbers words at a time, of which
/// `count` are wanted, for numbers `at` and the following of all.
template <class Make>
void draw_rows(int64_t rows, int64_t n, const Source& first, Make make) {
  constexpr int64_t kGrain = 16384 / kNumbers;
  const int64_t steps = ceil_div(n, kNumbers);
  parallel_for(rows * steps, kGrain, [=](int64_t begin, int64_t end) {
    uint32_t word[kNumbers];
    for (int64_t i = begin; i < end; ++i) {
      const int64_t row = i / steps, step = i % steps;
      const Source source{first.seed, first.stream, first.row + static_cast<uint64_t>(row)};
      draw(word, source, step * kCounters, LanesBelow<kCounters>::type{});
      make(row * n + step * kNumbers, min(kNumbers, n - step * kNumbers), static_cast<const uint32_t*>(word));
    }
  });
}

/// Calls body(i) for i < n; the usual number of them is known to the compiler.
template <class Body>
[[gnu::always_inline]] inline void loop_up_to_all(int64_t n, Body body) {
  if (n == kNumbers) {
    independent_loop(kNumbers, body);
  } else {
    for (int64_t i = 0; i < n; ++i) body(i);
  }
}

template <class T>
void random_of(const RandomArgs& args) {
  T* const out = args.out.as<T>();
  const bool normal = args.kind == RandomKind::normal;
  draw_rows(args.out.shape[0], args.out.shape[1], {args.seed, args.stream, args.first_row},
            [=](int64_t at, int64_t count, const uint32_t* word) {
              float numbers[kNumbers];
              float* const number = numbers;
              if (normal) {
                independent_loop(kNumbers / 2, [=](int64_t i) {
                  philox::normal_pair(word[2 * i], word[2 * i + 1], number[2 * i], number[2 * i + 1]);
                });
              } else {
                independent_loop(kNumbers, [=](int64_t i) { number[i] = philox::uniform(word[i]); });
              }
              loop_up_to_all(count, [=](int64_t i) { out[at + i] = static_cast<T>(number[i]); });
            });
}

template <class T>
void dropout_of(const DropoutArgs& args) {
  // uniform(word) >= p, where uniform(word) is (word >> 8) / 2^24
  const auto least = static_cast<int32_t>(::ceil(static_cast<double>(static_cast<float>(args.p)) * 0x1p24));
  const T scale = static_cast<T>(1 / (1 - args.p));
  const T* const x = args.x.as<const T>();
  T* const y = args.y.as<T>();
  const uint64_t row = args.row.absent() ? 0 : static_cast<uint64_t>(*args.row.as<int64_t>());
  draw_rows(1, numel(args.x.shape), {args.seed, args.stream, row},
            [=](int64_t at, int64_t count, const uint32_t* word) {
              loop_up_to_all(count, [=](int64_t i) {
                const T kept = x[at + i] * scale;
                y[at + i] = static_cast<int32_t>(word[i] >> 8) >= least ? kept : T(0);
              });
            });
}

}  // namespace

void random(RandomArgs args) {
  args.out.dtype == DType::f32 ? random_of<float>(args) : random_of<double>(args);
}
void dropout(DropoutArgs args) {
  args.x.dtype == DType::f32 ? dropout_of<float>(args) : dropout_of<double>(args);
}

}  // namespace halfstep::cpu::inline HALFSTEP_ISA
