// The roofline prediction at numbers that can be checked by hand. (That the counts are right, the tests of
// the emulator and of the command show.)
#include "bench/roofline.h"

#include <doctest/doctest.h>

#include "tests/error_of.h"

using namespace halfstep;
using namespace halfstep::bench;
using halfstep::test::error_of;

namespace {

/// 10 multiprocessors, 1e12 operations in f32, 1e12 bytes, and a launch of 1 us.
const Gpu kRound{.id = "round",
                 .name = "Round",
                 .compute_capability = 80,
                 .multiprocessors = 10,
                 .clock = 1e9,
                 .f32 = 1e12,
                 .f64 = 1e11,
                 .tf32 = 0,
                 .bf16 = 1e13,
                 .bandwidth = 1e12,
                 .launch_seconds = 1e-6};

KernelCounts launch_of(std::map<std::string, int64_t> instructions, int64_t sectors, int64_t blocks = 100) {
  return {.kernel = "k",
          .launches = 1,
          .blocks = blocks,
          .threads = 32 * blocks,
          .instructions = std::move(instructions),
          .global_sectors = sectors};
}

void check_prediction(const KernelCounts& launch, double microseconds, Bound bound) {
  const Prediction p = predict(launch, kRound);
  CHECK(p.seconds == doctest::Approx(1e-6 * microseconds));
  CHECK(name_of(p.bound) == name_of(bound));
}

}  // namespace

TEST_CASE("roofline: operations and slots of instructions") {
  const Arithmetic a = arithmetic_of(launch_of({{"fma.f32", 10},
                                                {"add.f32", 5},
                                                {"max.f32", 3},
                                                {"fma.f64", 7},
                                                {"ex2.f32", 1},
                                                {"add", 1000},
                                                {"ld.global", 1000},
                                                {"bar", 1000},
                                                {"fma.bf16x2", 2},
                                                {"mma.m16n8k16.bf16", 64},
                                                {"mma.m16n8k8.tf32", 32}},
                                               0));
  CHECK(a.f32 == 2 * 10 + 5 + 1 + 4 * 2);
  CHECK(a.f32_slots == 2 * (10 + 5 + 3 + 1 + 2));
  CHECK(a.f64 == 14);
  CHECK(a.f64_slots == 14);
  CHECK(a.bf16 == 2 * 2 * 16 * 8 * 16);  // two warps
  CHECK(a.tf32 == 2 * 16 * 8 * 8);
  CHECK(a.operations() == a.f32 + a.f64 + a.bf16 + a.tf32);
}

TEST_CASE("roofline: the longest of compute, memory and launch") {
  // 1e6 multiply-adds and 2e6 additions take 3e6 slots of two operations: 6 us.
  check_prediction(launch_of({{"fma.f32", 1'000'000}, {"add.f32", 2'000'000}}, 1000), 6, Bound::compute);
  // 1e6 sectors are 32 MB: 32 us.
  check_prediction(launch_of({{"fma.f32", 1'000'000}}, 1'000'000), 32, Bound::memory);
  check_prediction(launch_of({{"fma.f32", 1000}}, 1000), 1, Bound::launch);
  check_prediction(launch_of({}, 0), 1, Bound::launch);
  // f64 at a tenth of the rate, side by side with f32.
  check_prediction(launch_of({{"fma.f32", 1'000'000}, {"fma.f64", 1'000'000}}, 0), 20, Bound::compute);
  // Tensor cores: 1e5 lanes / 32 * 4096 operations at 1e13.
  check_prediction(launch_of({{"mma.m16n8k16.bf16", 100'000}}, 0), 1.28, Bound::compute);
}

TEST_CASE("roofline: few blocks reach a part of the GPU") {
  check_prediction(launch_of({{"fma.f32", 1'000'000}}, 0, 10), 2, Bound::compute);
  check_prediction(launch_of({{"fma.f32", 1'000'000}}, 0, 2), 10, Bound::compute);
  check_prediction(launch_of({}, 100'000, 1), 32, Bound::memory);
  check_prediction(launch_of({}, 100'000, 11), 3.2, Bound::memory);
}

TEST_CASE("roofline: products of a library") {
  KernelCounts product{.kernel = "cublasGemmEx", .launches = 1, .library_flops = 1e7, .library_bytes = 2e6};
  product.library_type = "f32";
  check_prediction(product, 10, Bound::compute);
  product.library_type = "f64";
  check_prediction(product, 100, Bound::compute);
  product.library_type = "bf16";
  check_prediction(product, 2, Bound::memory);
  product.library_type = "tf32";
  CHECK(error_of([&] { predict(product, kRound); }) ==
        "[roofline] expected kernels that Round runs, got tf32 products on tensor cores in cublasGemmEx; "
        "HALFSTEP_EMULATION_CAPABILITY=80 and no HALFSTEP_CUDA_TF32 choose others");
}

TEST_CASE("roofline: the sum of a step, the longest kernel first") {
  KernelCounts small = launch_of({{"add.f32", 100}}, 10), large = launch_of({}, 1'000'000),
               larger = launch_of({{"fma.f32", 5'000'000}}, 0);
  small.kernel = "void halfstep::cuda::(anonymous namespace)::small<float>(float*)";
  small.launches = 7;
  large.kernel = larger.kernel =
      "void halfstep::cuda::(anonymous namespace)::large<(halfstep::Op)3>(float*, int)";
  larger.launches = 2;
  const Roofline r = roofline({small, large, larger}, kRound);
  REQUIRE(r.rows.size() == 2);
  CHECK(r.rows[0].kernel == "large<(Op)3>");
  CHECK(r.rows[0].launches == 3);
  CHECK(r.rows[0].seconds == doctest::Approx(32e-6 + 2 * 10e-6));
  CHECK(r.rows[0].bytes == 32e6);
  CHECK(r.rows[0].operations == 2 * 1e7);
  CHECK(r.rows[0].bound() == Bound::memory);
  CHECK(r.rows[1].kernel == "small<float>");
  CHECK(r.rows[1].bound() == Bound::launch);
  CHECK(r.total.launches == 10);
  CHECK(r.total.seconds == doctest::Approx((7 + 32 + 20) * 1e-6));
  CHECK(r.total.by_bound[0] == doctest::Approx(20e-6));
  CHECK(r.total.by_bound[1] == doctest::Approx(32e-6));
  CHECK(r.total.by_bound[2] == doctest::Approx(7e-6));
}

TEST_CASE("roofline: the table of GPUs agrees with itself") {
  REQUIRE(gpus().size() == 4);
  for (const Gpu& gpu : gpus()) {
    CAPTURE(gpu.id);
    CHECK(&gpu_by_id(gpu.id) == &gpu);
    const double lanes = gpu.compute_capability <= 80 ? 64 : 128;
    CHECK(gpu.f32 == doctest::Approx(2 * lanes * gpu.multiprocessors * gpu.clock).epsilon(0.01));
    CHECK(gpu.f64 < gpu.f32);
    CHECK(gpu.bf16 == doctest::Approx(2 * gpu.tf32).epsilon(0.01));
    CHECK(gpu.launch_seconds == kLaunchSeconds);
  }
  CHECK(error_of([] { gpu_by_id("h100"); }) ==
        "[roofline] expected a GPU of h200, a100, rtx4090, t4, got 'h100'");
}
