// What only the CPU promises: rows of a product that do not depend on each other, threads, and the choice of
// the instruction set. Its kernels are checked in kernels_test.cpp.
#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <vector>

#include "tensor/cpu/cpu_backend.h"
#include "tensor/cpu/thread_pool.h"
#include "tensor/device.h"
#include "tensor/error.h"
#include "tensor/threads.h"
#include "tests/kernel_check.h"

// Of tensor/cpu/override_entries.cpp, which is compiled once for each instruction set.
namespace halfstep::cpu {
namespace portable {
void override_entries(Backend& backend);
}
namespace avx2 {
void override_entries(Backend& backend);
}
namespace avx512 {
void override_entries(Backend& backend);
}
}  // namespace halfstep::cpu

using namespace halfstep;
using namespace halfstep::test;

namespace halfstep::test {

const bool kHostArithmetic = true;
const double kMeanRoundings = 2;
double f32_factor_rounding() { return 0; }

void for_each_backend(const std::function<void(const Backend&)>& f) {
  const int before = num_threads();
  for (Isa isa : {Isa::portable, Isa::avx2, Isa::avx512}) {
    if (!is_supported(isa)) continue;
    const std::string isa_name(name_of(isa));
    CAPTURE(isa_name);
    for (int threads : {1, 2, 3}) {
      CAPTURE(threads);
      set_num_threads(threads);
      f(cpu_backend_for(isa));
    }
  }
  set_num_threads(before);
}

}  // namespace halfstep::test

namespace {

TEST_CASE("gemm: a row of the result does not depend on the others") {
  for (const int64_t k : {100, 800, 1700}) {
    CAPTURE(k);
    const auto many = random_host<float>({60, k}), b = random_host<float>({k, 40});
    for_each_backend([&](const Backend& backend) {
      const auto product = [&](int64_t rows) {
        Host<float> few({rows, k}), c({rows, 40});
        std::copy_n(many.values.begin(), few.values.size(), few.values.begin());
        backend.gemm({.a = few.array(), .b = b.array(), .c = c.array(), .bias = {}});
        return c.values;
      };
      auto all = product(60);
      for (const int64_t rows : {1, 4, 27}) {
        const auto some = product(rows);
        auto same_rows = all;
        same_rows.resize(some.size());
        CHECK(same_bits(same_rows, some));
      }
    });
  }
}

// So many columns that a long sum goes in parts, which are packed one after the other.
TEST_CASE("gemm: a column of the result does not depend on the others") {
  constexpr int64_t kFew = 40;
  for (const int64_t rows : {26, 1100}) {
    CAPTURE(rows);
    const auto a = random_host<float>({rows, 400}), b = random_host<float>({400, 1024});
    Host<float> few_b({400, kFew});
    for (int64_t k = 0; k < 400; ++k) std::copy_n(&b.values[k * 1024], kFew, &few_b.values[k * kFew]);
    for_each_backend([&](const Backend& backend) {
      Host<float> c({rows, 1024}), few_c({rows, kFew}), same_columns({rows, kFew});
      backend.gemm({.a = a.array(), .b = b.array(), .c = c.array(), .bias = {}});
      backend.gemm({.a = a.array(), .b = few_b.array(), .c = few_c.array(), .bias = {}});
      for (int64_t i = 0; i < rows; ++i) {
        std::copy_n(&c.values[i * 1024], kFew, &same_columns.values[i * kFew]);
      }
      CHECK(same_bits(same_columns.values, few_c.values));
    });
  }
}

// --- threads and selection ---------------------------------------------------------------------------------

TEST_CASE("parallel_for: every index once, in blocks that the number of threads does not move") {
  const int before = num_threads();
  for (int threads : {1, 2, 3, 8}) {
    set_num_threads(threads);
    CHECK(num_threads() == threads);
    for (int repeat = 0; repeat < 200; ++repeat) {
      std::vector<int> count(1000);
      std::atomic<bool> aligned = true;
      cpu::parallel_for(1000, 7, [&](int64_t begin, int64_t end) {
        if (begin % 7 != 0 || end != std::min<int64_t>(1000, begin + 7)) aligned = false;
        for (int64_t i = begin; i < end; ++i) ++count[i];
      });
      REQUIRE(aligned);
      REQUIRE(std::all_of(count.begin(), count.end(), [](int c) { return c == 1; }));
    }
  }
  set_num_threads(before);
}

// A worker that comes late to a job may meet the pool's end in its place: it must not sleep through it.
TEST_CASE("set_num_threads: right after a short job, every worker ends") {
  const int before = num_threads();
  for (int repeat = 0; repeat < 3000; ++repeat) {
    set_num_threads(2 + repeat % 3);
    std::atomic<int> sum = 0;
    cpu::parallel_for(2, 1, [&](int64_t begin, int64_t) { sum += static_cast<int>(begin) + 1; });
    REQUIRE(sum == 3);
  }
  set_num_threads(before);
}

TEST_CASE("parallel_for: nested calls, exceptions, nothing to do") {
  const int before = num_threads();
  for (int threads : {1, 3}) {
    set_num_threads(threads);
    std::atomic<int> inner = 0;
    cpu::parallel_for(
        10, 1, [&](int64_t, int64_t) { cpu::parallel_for(10, 1, [&](int64_t, int64_t) { ++inner; }); });
    CHECK(inner == 100);
    cpu::parallel_for(0, 5, [&](int64_t, int64_t) { inner = 0; });
    CHECK(inner == 100);
    CHECK_THROWS_AS(cpu::parallel_for(100, 1,
                                      [](int64_t begin, int64_t) {
                                        if (begin == 50) throw std::runtime_error("block 50");
                                      }),
                    std::runtime_error);
    cpu::parallel_for(10, 1, [&](int64_t, int64_t) { --inner; });  // still usable
    CHECK(inner == 90);
  }
  set_num_threads(before);
  CHECK_THROWS_AS(set_num_threads(0), Error);
  CHECK_THROWS_AS(set_num_threads(5000), Error);
}

TEST_CASE("the CPU has a kernel of its own in every entry but those that plain loops do as well") {
  const Backend &cpu = cpu_tables_for(selected_isa()).full_precision, &reference = reference_device().backend;
#define HALFSTEP_OWN(entry) CHECK_MESSAGE((cpu.entry != reference.entry), #entry)
  HALFSTEP_OWN(fill);
  HALFSTEP_OWN(copy);
  HALFSTEP_OWN(unary);
  HALFSTEP_OWN(unary_chain);
  HALFSTEP_OWN(binary);
  HALFSTEP_OWN(where);
  HALFSTEP_OWN(reduce);
  HALFSTEP_OWN(cumulative_sum);
  HALFSTEP_OWN(gather);
  HALFSTEP_OWN(scatter_add);
  HALFSTEP_OWN(gemm);
  HALFSTEP_OWN(conv2d_forward);
  HALFSTEP_OWN(conv2d_backward_data);
  HALFSTEP_OWN(conv2d_backward_kernel);
  HALFSTEP_OWN(softmax);
  HALFSTEP_OWN(softmax_backward);
  HALFSTEP_OWN(attention);
  HALFSTEP_OWN(attention_backward);
  HALFSTEP_OWN(group_norm);
  HALFSTEP_OWN(group_norm_backward);
  HALFSTEP_OWN(random);
  HALFSTEP_OWN(dropout);
  HALFSTEP_OWN(sum_of_squares);
  HALFSTEP_OWN(adam);
  HALFSTEP_OWN(sgd);
  HALFSTEP_OWN(moving_average);
  HALFSTEP_OWN(max_pool2d);
#undef HALFSTEP_OWN
}

TEST_CASE("each instruction set has the table that was compiled for it") {
  const auto is_filled_by = [](void (*override_entries)(Backend&), Isa isa) {
    Backend expected = reference_device().backend;
    override_entries(expected);
    const Backend& table = cpu_tables_for(isa).full_precision;
    return table.gemm == expected.gemm && table.unary == expected.unary && table.adam == expected.adam;
  };
  CHECK(is_filled_by(cpu::portable::override_entries, Isa::portable));
  // Only where it runs: the function that fills a table is itself compiled for the instruction set.
#ifdef HALFSTEP_WITH_AVX2
  if (is_supported(Isa::avx2)) CHECK(is_filled_by(cpu::avx2::override_entries, Isa::avx2));
#endif
#ifdef HALFSTEP_WITH_AVX512
  if (is_supported(Isa::avx512)) CHECK(is_filled_by(cpu::avx512::override_entries, Isa::avx512));
#endif
}

TEST_CASE("HALFSTEP_CPU chooses the kernels, and an unknown name is an error") {
  const char* set = std::getenv("HALFSTEP_CPU");
  const std::string before = set ? set : "";
  setenv("HALFSTEP_CPU", "portable", 1);
  CHECK(selected_isa() == Isa::portable);
  setenv("HALFSTEP_CPU", "sse9", 1);
  CHECK_THROWS_WITH_AS(selected_isa(), "[HALFSTEP_CPU] expected portable, avx2 or avx512, got 'sse9'", Error);
  for (Isa isa : {Isa::avx2, Isa::avx512}) {
    setenv("HALFSTEP_CPU", std::string(name_of(isa)).c_str(), 1);
    if (is_supported(isa)) {
      CHECK(selected_isa() == isa);
    } else {
      CHECK_THROWS_AS(selected_isa(), Error);
      CHECK_THROWS_AS(cpu_backend_for(isa), Error);
    }
  }
  set ? setenv("HALFSTEP_CPU", before.c_str(), 1) : unsetenv("HALFSTEP_CPU");
}

}  // namespace
