#include "bench/peak.h"

#include <algorithm>
#include <chrono>

namespace halfstep::bench {
namespace portable {
int64_t multiply_adds(int64_t rounds, float* sink);
}
#ifdef HALFSTEP_WITH_AVX2
namespace avx2 {
int64_t multiply_adds(int64_t rounds, float* sink);
}
#endif
#ifdef HALFSTEP_WITH_AVX512
namespace avx512 {
int64_t multiply_adds(int64_t rounds, float* sink);
}
#endif

double peak_gflops(Isa isa) {
  auto* multiply_adds = portable::multiply_adds;
#ifdef HALFSTEP_WITH_AVX2
  if (isa == Isa::avx2) multiply_adds = avx2::multiply_adds;
#endif
#ifdef HALFSTEP_WITH_AVX512
  if (isa == Isa::avx512) multiply_adds = avx512::multiply_adds;
#endif
  float sink[64] = {};
  double best = 0;
  for (int attempt = 0; attempt < 5; ++attempt) {
    const auto start = std::chrono::steady_clock::now();
    const auto count = static_cast<double>(multiply_adds(4'000'000, sink));
    const std::chrono::duration<double> time = std::chrono::steady_clock::now() - start;
    best = std::max(best, 2e-9 * count / time.count());
  }
  return best;
}

}  // namespace halfstep::bench
