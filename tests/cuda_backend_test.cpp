// The CUDA backend under the tests of kernels_test.cpp: on a GPU, or emulated (docs/cuda.md).
#include <doctest/doctest.h>

#include <array>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <string>

#include "tensor/error.h"
#include "tests/kernel_check.h"
#include "tests/mirrored_backend.h"
#include "tests/worst.h"

using namespace halfstep;

namespace halfstep::test {

const bool kHostArithmetic = false;
const double kMeanRoundings = 2;
double f32_factor_rounding() {
  // Each factor is rounded to 11 significant bits.
  const char* tf32 = std::getenv("HALFSTEP_CUDA_TF32");
  return tf32 && std::string(tf32) == "1" ? 0x1p-10 : 0;
}

void for_each_backend(const std::function<void(const Backend&)>& f) {
  const CudaProbe probe = probe_cuda();
  require(probe.backend != nullptr, "cuda", "expected a GPU for its tests, got none: {}", probe.reason);
  // Twice: the same call gives the same bits.
  for (int run = 0; run < 2; ++run) f(mirrored(*probe.backend));
}

}  // namespace halfstep::test

using namespace halfstep::test;

namespace {

/// Numbers with bf16's 8 significant bits, as floats and as what is stored.
struct Rounded {
  Host<float> wide;
  Host<uint16_t> stored;

  explicit Rounded(const Shape& shape) : wide(random_host<float>(shape)), stored(shape) {
    for (size_t i = 0; i < wide.values.size(); ++i) {
      uint32_t bits;
      std::memcpy(&bits, &wide.values[i], 4);
      stored.values[i] = static_cast<uint16_t>(bits >> 16);
      bits = uint32_t{stored.values[i]} << 16;
      std::memcpy(&wide.values[i], &bits, 4);
    }
  }
  Array array() const { return as_bf16(stored); }
  static Array as_bf16(const Host<uint16_t>& host) {
    return {const_cast<uint16_t*>(host.values.data()), DType::bf16, host.shape, host.strides};
  }
};

/// One result of a bf16 entry against the reference on the same numbers in f32: the sums are in f32, and
/// rounded once; or, where something was added to them, before that as well.
void check_bf16(const Host<uint16_t>& got, const Host<float>& expected, const Host<float>& absolute_sums,
                double length, const Host<float>& rounded_before = {}) {
  double worst = 0;
  for (size_t i = 0; i < got.values.size(); ++i) {
    const uint32_t bits = uint32_t{got.values[i]} << 16;
    float value;
    std::memcpy(&value, &bits, 4);
    const double before = rounded_before.values.empty() ? 0 : std::abs(rounded_before.values[i]);
    const double bound = 0x1p-8 * (std::abs(expected.values[i]) + before) +
                         (length + 4) * kEps<float> * absolute_sums.values[i] +
                         std::numeric_limits<float>::min();
    keep_worst(worst, std::abs(static_cast<double>(value) - expected.values[i]) / bound);
  }
  CHECK(worst <= 1);
}

void check_conv_bf16(const Shape& x_shape, const Shape& kernel_shape, const Conv2dGeometry& g) {
  const auto out = [](int64_t n, int64_t pads, int64_t taps, int stride, int dilation) {
    return (n + pads - dilation * (taps - 1) - 1) / stride + 1;
  };
  const Shape y_shape{
      x_shape[0], out(x_shape[1], g.pad_top + g.pad_bottom, kernel_shape[0], g.stride_h, g.dilation_h),
      out(x_shape[2], g.pad_left + g.pad_right, kernel_shape[1], g.stride_w, g.dilation_w), kernel_shape[3]};
  CAPTURE(str(x_shape));
  CAPTURE(str(kernel_shape));
  const Rounded x(x_shape), kernel(kernel_shape), y(y_shape);
  const auto bias = random_host<float>({kernel_shape[3]});
  const Rounded residual(y_shape);
  using Entry = void (*Backend::*)(Conv2dArgs);
  const auto check = [&](Entry entry, int target, double length) {
    Host<uint16_t> got(target == 0 ? x_shape : target == 1 ? kernel_shape : y_shape);
    Host<float> expected(got.shape), sums(got.shape);
    const Host<float> wide[] = {x.wide, kernel.wide, y.wide};
    const auto run = [&](const Backend& backend, Array result, const Array(&arrays)[3], Array bias_array,
                         Array added = {}) {
      const auto pick = [&](int i) { return i == target ? result : arrays[i]; };
      (backend.*entry)({.x = pick(0),
                        .kernel = pick(1),
                        .bias = bias_array,
                        .y = pick(2),
                        .geometry = g,
                        .residual = added});
    };
    const Array stored[] = {x.array(), kernel.array(), y.array()};
    const Array plain[] = {wide[0].array(), wide[1].array(), wide[2].array()};
    const Host<float> positive[] = {absolute(wide[0]), absolute(wide[1]), absolute(wide[2])};
    const Array magnitudes[] = {positive[0].array(), positive[1].array(), positive[2].array()};
    const Host<float> positive_bias = absolute(bias);
    const bool forward = target == 2;
    run(reference_backend(), expected.array(), plain, forward ? bias.array() : Array{});
    run(reference_backend(), sums.array(), magnitudes, forward ? positive_bias.array() : Array{});
    for_each_backend([&](const Backend& backend) {
      run(backend, Rounded::as_bf16(got), stored, forward ? bias.array() : Array{});
      check_bf16(got, expected, sums, length);
    });
    if (!forward) return;
    // With a residual the sum is rounded before it is added, too.
    Host<float> with_residual(y_shape);
    run(reference_backend(), with_residual.array(), plain, bias.array(), residual.wide.array());
    for_each_backend([&](const Backend& backend) {
      run(backend, Rounded::as_bf16(got), stored, bias.array(), residual.array());
      check_bf16(got, with_residual, sums, length, expected);
    });
  };
  const double taps = static_cast<double>(kernel_shape[0] * kernel_shape[1]);
  check(&Backend::conv2d_forward, 2, taps * static_cast<double>(kernel_shape[2]));
  check(&Backend::conv2d_backward_data, 0, taps * static_cast<double>(kernel_shape[3]));
  check(&Backend::conv2d_backward_kernel, 1, static_cast<double>(y_shape[0] * y_shape[1] * y_shape[2]));
}

}  // namespace

TEST_CASE("bf16: convolutions on tensor cores, and where channels do not fit them") {
  const Conv2dGeometry same{1, 1, 1, 1, 1, 1};
  check_conv_bf16({2, 9, 7, 16}, {3, 3, 16, 24}, same);
  check_conv_bf16({1, 17, 5, 72}, {3, 3, 72, 136}, same);
  check_conv_bf16({1, 8, 8, 8}, {1, 1, 8, 8}, {});
  check_conv_bf16({2, 10, 12, 16}, {3, 3, 16, 16}, {2, 2, 0, 1, 0, 1});
  check_conv_bf16({1, 12, 12, 32}, {3, 3, 16, 32}, {1, 1, 2, 2, 2, 2, 2, 2, 2});
  check_conv_bf16({1, 6, 5, 3}, {3, 3, 3, 7}, same);
  // The sum over the pixels, for the gradient of the kernel, is cut into parts.
  check_conv_bf16({2, 19, 18, 3}, {3, 3, 3, 7}, same);
}

TEST_CASE("bf16: matrix products") {
  for (const auto& [m, k, n] : {std::array<int64_t, 3>{5, 7, 9}, {64, 40, 72}, {1, 33, 16}}) {
    const Rounded a({m, k}), b({k, n});
    Host<uint16_t> c({m, n});
    Host<float> expected({m, n}), sums({m, n});
    const Host<float> positive_a = absolute(a.wide), positive_b = absolute(b.wide);
    reference_backend().gemm({.a = a.wide.array(), .b = b.wide.array(), .c = expected.array(), .bias = {}});
    reference_backend().gemm(
        {.a = positive_a.array(), .b = positive_b.array(), .c = sums.array(), .bias = {}});
    for_each_backend([&](const Backend& backend) {
      backend.gemm({.a = a.array(), .b = b.array(), .c = Rounded::as_bf16(c), .bias = {}});
      check_bf16(c, expected, sums, static_cast<double>(k));
    });
  }
}

TEST_CASE("lists: hundreds of arrays in some launches") {
  std::vector<Host<float>> hosts;
  for (int i = 0; i < 300; ++i) hosts.push_back(random_host<float>({5}));
  std::vector<Array> arrays;
  for (const Host<float>& host : hosts) arrays.push_back(host.array());
  Host<double> control({4}), one(Shape{}, 1);
  std::vector<AdamParameter> adam;
  std::vector<AveragedArray> averages;
  for (size_t i = 0; i + 4 <= arrays.size(); i += 4)
    adam.push_back({arrays[i], arrays[i + 1], arrays[i + 2], arrays[i + 3]});
  for (size_t i = 0; i + 2 <= arrays.size(); i += 2) averages.push_back({arrays[i], arrays[i + 1]});
  const Backend& cuda = *probe_cuda().backend;
  const auto launches_of = [&](const std::function<void(const Backend&)>& f) {
    const int64_t before = cuda.launches();
    f(mirrored(cuda));
    return cuda.launches() - before;
  };
  CHECK(launches_of([&](const Backend& b) { b.sum_of_squares({arrays, one.array()}); }) == 3);
  CHECK(launches_of([&](const Backend& b) {
          b.adam({.list = adam, .control = control.array(), .learning_rate = one.array()});
        }) == 1);
  CHECK(launches_of([&](const Backend& b) { b.moving_average({averages, one.array()}); }) == 1);
}
