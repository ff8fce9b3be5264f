// Compiled once per instruction set, like the kernels that it is the yardstick of.
#include "tensor/cpu/simd.h"

namespace halfstep::bench::HALFSTEP_ISA {

/// Runs `rounds` multiply-adds on each of 12 vectors; returns the number of multiply-adds of single elements.
int64_t multiply_adds(int64_t rounds, float* sink) {
  constexpr int kChains = 12;  // covers latency 4 at 2 per cycle, and fits 16 registers with the two factors
  cpu::Vector<float> sum[kChains], x = cpu::load(sink), y = cpu::load(sink + cpu::kLanes<float>);
  for (int i = 0; i < kChains; ++i) sum[i] = x * static_cast<float>(i);
  for (int64_t round = 0; round < rounds; ++round) {
#pragma GCC unroll 12
    for (int i = 0; i < kChains; ++i) sum[i] = sum[i] * x + y;
    asm volatile("" : "+x"(x));  // not to be computed in closed form
  }
  for (int i = 1; i < kChains; ++i) sum[0] += sum[i];
  cpu::store(sink, sum[0]);
  return rounds * kChains * cpu::kLanes<float>;
}

}  // namespace halfstep::bench::HALFSTEP_ISA
