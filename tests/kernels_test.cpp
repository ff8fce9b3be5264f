// The kernels of a device against the reference backend (see kernel_check.h), at sizes that fit no tile.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <limits>
#include <random>
#include <string>
#include <type_traits>
#include <vector>

#include "tensor/device.h"
#include "tensor/error.h"
#include "tensor/philox.h"
#include "tests/kernel_check.h"

using namespace halfstep;
using namespace halfstep::test;

namespace {

// --- gemm --------------------------------------------------------------------------------------------------

template <class T>
void check_gemm(const Host<T>& a, const Host<T>& b, const Host<T>& c, const Host<T>& bias, double alpha,
                double beta) {
  const auto run_with = [=](const Host<T>& l, const Host<T>& r, const Host<T>& add, double scale) {
    return [=](const Backend& backend, const std::vector<Host<T>>& out) {
      const Array bias_array = add.shape.rank() == 0 ? Array{} : add.array();
      backend.gemm({.a = l.array(),
                    .b = r.array(),
                    .c = out[0].array(),
                    .bias = bias_array,
                    .alpha = scale,
                    .beta = beta});
    };
  };
  const double k = static_cast<double>(a.shape.back());
  check_entry<T>(
      {c}, run_with(a, b, bias, alpha),
      scaled_bounds<T>({c}, run_with(absolute(a), absolute(b), absolute(bias), std::abs(alpha)), k));
}

template <class T>
void gemm_cases() {
  const int64_t sizes[][3] = {{1, 1, 1},     {3, 17, 33},  {17, 3, 1},   {33, 33, 33}, {13, 0, 5},
                              {0, 5, 3},     {5, 4, 0},    {12, 31, 32}, {97, 61, 67}, {25, 2101, 40},
                              {64, 32, 128}, {24, 16, 64}, {1, 257, 96}, {300, 7, 2},  {131, 64, 16}};
  for (const auto& size : sizes) {
    const int64_t m = size[0], k = size[1], n = size[2];
    CAPTURE(m);
    CAPTURE(k);
    CAPTURE(n);
    const auto a = random_host<T>({m, k}), b = random_host<T>({k, n}), c = random_host<T>({m, n}),
               bias = random_host<T>({n});
    const auto at = random_host<T>({k, m}).transposed(0, 1), bt = random_host<T>({n, k}).transposed(0, 1),
               ct = random_host<T>({n, m}).transposed(0, 1);
    check_gemm(a, b, c, {}, 1, 0);
    check_gemm(at, b, c, bias, 1, 1);
    check_gemm(a, bt, c, bias, -0.5, 0);
    check_gemm(at, bt, ct, {}, 2, 1);
  }
}

TEST_CASE("gemm: any size, any strides, alpha, beta and bias") {
  gemm_cases<float>();
  gemm_cases<double>();
}

TEST_CASE("gemm: leading axes, broadcast by zero strides") {
  const auto c = random_host<float>({3, 5, 9, 7});
  auto a = random_host<float>({3, 5, 9, 4}), b = random_host<float>({3, 5, 4, 7});
  check_gemm(a, b, c, {}, 1, 0);
  auto shared_b = random_host<float>({4, 7});
  shared_b.shape = {3, 5, 4, 7}, shared_b.strides = {0, 0, 7, 1};
  check_gemm(a, shared_b, c, random_host<float>({7}), 1, 1);
  auto shared_a = random_host<float>({5, 9, 4});
  shared_a.shape = {3, 5, 9, 4}, shared_a.strides = {0, 36, 4, 1};
  check_gemm(shared_a, shared_b, c, {}, 1, 0);
  check_gemm(shared_a, b, c, {}, 1, 0);
  check_gemm(random_host<float>({2, 9, 4}), random_host<float>({2, 4, 7}), random_host<float>({2, 9, 7}), {},
             1, 0);
  check_gemm(random_host<float>({0, 9, 4}), random_host<float>({0, 4, 7}), random_host<float>({0, 9, 7}), {},
             1, 0);
  // [B, L, H, D] seen as [B, H, L, D], as attention does.
  check_gemm(random_host<float>({2, 5, 3, 4}).transposed(1, 2), random_host<float>({2, 3, 4, 6}),
             random_host<float>({2, 5, 3, 6}).transposed(1, 2), {}, 1, 0);
}

TEST_CASE("gemm: with beta 0 the old C is not read") {
  const auto a = random_host<float>({5, 3}), b = random_host<float>({3, 37});
  for_each_backend([&](const Backend& backend) {
    Host<float> c({5, 37}, std::numeric_limits<float>::quiet_NaN());
    backend.gemm({.a = a.array(), .b = b.array(), .c = c.array(), .bias = {}});
    for (float v : c.values) CHECK(std::isfinite(v));
  });
}

// --- convolution -------------------------------------------------------------------------------------------

template <class T>
void check_conv(int64_t batch, int64_t h, int64_t w, int64_t in, int64_t out, int64_t kh, int64_t kw,
                const Conv2dGeometry& g) {
  const int64_t oh = (h + g.pad_top + g.pad_bottom - g.dilation_h * (kh - 1) - 1) / g.stride_h + 1;
  const int64_t ow = (w + g.pad_left + g.pad_right - g.dilation_w * (kw - 1) - 1) / g.stride_w + 1;
  CAPTURE(batch);
  CAPTURE(h);
  CAPTURE(w);
  CAPTURE(in);
  CAPTURE(out);
  CAPTURE(kh);
  CAPTURE(kw);
  CAPTURE(g.stride_h);
  CAPTURE(g.pad_top);
  CAPTURE(g.groups);
  CAPTURE(g.dilation_h);
  const auto x = random_host<T>({batch, h, w, in}), kernel = random_host<T>({kh, kw, in / g.groups, out}),
             bias = random_host<T>({out}), y = random_host<T>({batch, oh, ow, out});
  const auto residual = random_host<T>(y.shape);
  const Host<T> ax = absolute(x), ak = absolute(kernel), ab = absolute(bias), ay = absolute(y),
                ar = absolute(residual);
  using Run = std::function<void(const Backend&, const std::vector<Host<T>>&)>;

  const auto forward = [&](const Host<T>& in_x, const Host<T>& in_k, const Host<T>& in_b,
                           const Host<T>* in_r) -> Run {
    return [=](const Backend& backend, const std::vector<Host<T>>& o) {
      backend.conv2d_forward({in_x.array(), in_k.array(), in_b.array(), o[0].array(), g, ConvMethod::direct,
                              in_r ? in_r->array() : Array{}});
    };
  };
  const auto length = static_cast<double>(kh * kw * in);
  check_entry<T>({y}, forward(x, kernel, bias, nullptr),
                 scaled_bounds<T>({y}, forward(ax, ak, ab, nullptr), length));
  check_entry<T>({y}, forward(x, kernel, bias, &residual),
                 scaled_bounds<T>({y}, forward(ax, ak, ab, &ar), length));

  const auto data = [&](const Host<T>& in_y, const Host<T>& in_k) -> Run {
    return [=](const Backend& backend, const std::vector<Host<T>>& o) {
      backend.conv2d_backward_data({o[0].array(), in_k.array(), {}, in_y.array(), g, ConvMethod::direct});
    };
  };
  check_entry<T>({x}, data(y, kernel),
                 scaled_bounds<T>({x}, data(ay, ak), static_cast<double>(kh * kw * out)));

  const auto gradient = [&](const Host<T>& in_x, const Host<T>& in_y) -> Run {
    return [=](const Backend& backend, const std::vector<Host<T>>& o) {
      backend.conv2d_backward_kernel({in_x.array(), o[0].array(), {}, in_y.array(), g, ConvMethod::direct});
    };
  };
  check_entry<T>({kernel}, gradient(x, y),
                 scaled_bounds<T>({kernel}, gradient(ax, ay), static_cast<double>(batch * oh * ow)));
}

template <class T>
void conv_cases() {
  check_conv<T>(2, 7, 7, 32, 32, 3, 3, {1, 1, 1, 1, 1, 1});
  check_conv<T>(3, 5, 6, 16, 33, 3, 3, {2, 2, 0, 1, 0, 1});
  check_conv<T>(1, 1, 1, 1, 1, 1, 1, {});
  check_conv<T>(5, 9, 8, 1, 17, 3, 3, {1, 1, 1, 1, 1, 1});
  check_conv<T>(2, 9, 8, 17, 1, 3, 3, {1, 1, 1, 1, 1, 1});
  check_conv<T>(2, 6, 5, 4, 3, 3, 3, {2, 1, 1, 0, 2, 1});
  check_conv<T>(2, 8, 8, 48, 40, 1, 1, {});
  check_conv<T>(2, 8, 9, 16, 16, 1, 1, {2, 2, 0, 0, 0, 0});  // pixels that no tap reaches
  check_conv<T>(1, 11, 3, 5, 7, 5, 2, {3, 2, 2, 4, 3, 3});   // padding wider than the kernel
  check_conv<T>(1, 2, 3, 16, 4, 3, 3, {1, 1, 2, 2, 2, 2});
  check_conv<T>(1, 3, 3, 32, 5, 4, 4, {2, 2, 3, 3, 3, 3});
  check_conv<T>(20, 5, 5, 16, 9, 3, 3, {1, 1, 1, 1, 1, 1});  // several groups of images
  check_conv<T>(0, 4, 4, 3, 2, 3, 3, {1, 1, 1, 1, 1, 1});
  // Groups: of whole vectors, of less than one, of one channel; more outputs than inputs and fewer.
  check_conv<T>(2, 7, 6, 64, 32, 3, 3, {1, 1, 1, 1, 1, 1, 2});
  check_conv<T>(3, 5, 6, 12, 51, 3, 2, {2, 1, 1, 0, 1, 1, 3});
  check_conv<T>(2, 6, 7, 17, 17, 3, 3, {1, 1, 1, 1, 1, 1, 17});
  check_conv<T>(1, 6, 7, 5, 15, 3, 3, {2, 2, 1, 1, 1, 1, 5});
  check_conv<T>(2, 5, 5, 48, 3, 1, 1, {1, 1, 0, 0, 0, 0, 3});
  check_conv<T>(0, 4, 4, 4, 2, 3, 3, {1, 1, 1, 1, 1, 1, 2});
  // Dilations that share factors with the stride and do not; taps that lie in the padding alone.
  check_conv<T>(2, 9, 8, 16, 5, 3, 3, {1, 1, 2, 2, 2, 2, 1, 2, 2});
  check_conv<T>(2, 11, 10, 3, 4, 3, 2, {2, 3, 1, 2, 3, 0, 1, 2, 3});
  check_conv<T>(1, 10, 12, 6, 33, 4, 3, {4, 2, 3, 3, 2, 2, 3, 2, 5});
  check_conv<T>(1, 2, 3, 16, 4, 2, 3, {1, 1, 3, 3, 4, 4, 1, 4, 4});
  check_conv<T>(1, 13, 7, 32, 32, 3, 3, {3, 2, 0, 1, 2, 1, 2, 3, 1});
}

TEST_CASE("conv2d: forward and both gradients, f32") { conv_cases<float>(); }
TEST_CASE("conv2d: forward and both gradients, f64") { conv_cases<double>(); }
/// Sums that a kernel fills up to a size of its own must not take in what is not theirs, even times 0.
template <class T>
void check_infinity_in_conv(int64_t in, int64_t out) {
  CAPTURE(in);
  CAPTURE(out);
  const Conv2dGeometry g{1, 1, 1, 1, 1, 1};
  Host<T> image({2, 6, 5, in}, T(1));
  const Host<T> kernel({3, 3, in, out}, T(1)), gradient_kernel({3, 3, out, in}, T(1));
  for (int64_t c = 0; c < in; ++c)  // a pixel in the middle of the first image
    image.values[static_cast<size_t>((2 * 5 + 3) * in + c)] = std::numeric_limits<T>::infinity();
  Host<T> expected({2, 6, 5, out}), got = expected;
  const auto forward = [&](const Backend& b, const Host<T>& result) {
    b.conv2d_forward({image.array(), kernel.array(), {}, result.array(), g, ConvMethod::direct});
  };
  const auto data = [&](const Backend& b, const Host<T>& result) {
    b.conv2d_backward_data(
        {result.array(), gradient_kernel.array(), {}, image.array(), g, ConvMethod::direct});
  };
  using Run = std::function<void(const Backend&, const Host<T>&)>;
  for (const Run& run : {Run(forward), Run(data)}) {
    run(reference_backend(), expected);
    CHECK(std::count_if(expected.values.begin(), expected.values.end(), [](T v) { return std::isinf(v); }) ==
          9 * out);
    for_each_backend([&](const Backend& backend) {
      run(backend, got);
      CHECK(got.values == expected.values);
    });
  }
}

TEST_CASE("conv2d: what is infinite stays in its window") {
  check_infinity_in_conv<float>(5, 7);
  check_infinity_in_conv<float>(16, 24);
  check_infinity_in_conv<float>(36, 64);
  check_infinity_in_conv<double>(5, 7);
}

TEST_CASE("conv2d: gradient of the kernel over many images") {
  check_conv<float>(40, 14, 14, 16, 8, 3, 3, {1, 1, 1, 1, 1, 1});
  check_conv<float>(40, 14, 14, 3, 8, 3, 3, {1, 1, 1, 1, 1, 1});
}

// --- elementwise -------------------------------------------------------------------------------------------

/// Equal, but for results that the flushing of a denormal (perhaps one that was multiplied by up to 1000
/// afterwards) turns into 0.
template <class T>
bool same_number(T a, T b) {
  if constexpr (std::is_integral_v<T>) {
    return a == b;
  } else {
    if (a != a || b != b) return a != a && b != b;
    constexpr T kTiny = 1000 * std::numeric_limits<T>::min();
    return a == b || (std::abs(a) < kTiny && std::abs(b) < kTiny);
  }
}

/// The kernels evaluate the very formulas of the reference, without contraction: results are equal, or, with
/// a `tolerance`, differ by at most that part of the larger of them and 4.
template <class T>
void check_equal(const Host<T>& output, const std::function<void(const Backend&, const Host<T>&)>& run,
                 double tolerance = 0) {
  Host<T> expected = output;
  run(reference_backend(), expected);
  for_each_backend([&](const Backend& backend) {
    Host<T> got = output;
    run(backend, got);
    size_t different = 0;
    for (size_t i = 0; i < got.values.size(); ++i) {
      const T a = got.values[i], b = expected.values[i];
      const double allowed = std::isfinite(static_cast<double>(b))
                                 ? tolerance * std::max(4.0, std::abs(static_cast<double>(b)))
                                 : 0.0;
      different +=
          !same_number(a, b) && !(std::abs(static_cast<double>(a) - static_cast<double>(b)) <= allowed);
    }
    CHECK(different == 0);
  });
}

/// exp in f32 uses fused multiply-adds where the instruction set has them, and the reference has not: both
/// are good to 2 ulp, and so, times a few for the terms of the formula and of each derivative, is what is
/// made of it. (How good the results are is tested in property_test.cpp.) A device with a math library of its
/// own is allowed what both libraries promise: CUDA's functions up to 4 ulp, the host's 1.
template <class T>
double tolerance_of(const UnaryArgs& args) {
  if (!kHostArithmetic) return 4 * (4 + 1) * (args.derivative + 1) * kEps<T>;
  switch (args.op) {
    case UnaryOp::exp:
    case UnaryOp::sigmoid:
    case UnaryOp::silu:
    case UnaryOp::erf:
    case UnaryOp::gelu:
    case UnaryOp::softplus:
      return std::is_same_v<T, float> ? 8 * (args.derivative + 1) * kEps<T> : 0;
    default:
      return 0;
  }
}

const UnaryOp kUnaryOps[] = {UnaryOp::affine, UnaryOp::exp,       UnaryOp::log,        UnaryOp::sqrt,
                             UnaryOp::sin,    UnaryOp::cos,       UnaryOp::tanh,       UnaryOp::sigmoid,
                             UnaryOp::silu,   UnaryOp::relu,      UnaryOp::reciprocal, UnaryOp::pow,
                             UnaryOp::clamp,  UnaryOp::abs,       UnaryOp::leaky_relu, UnaryOp::erf,
                             UnaryOp::gelu,   UnaryOp::gelu_tanh, UnaryOp::softplus};
const BinaryOp kBinaryOps[] = {BinaryOp::add,    BinaryOp::subtract, BinaryOp::multiply,
                               BinaryOp::divide, BinaryOp::maximum,  BinaryOp::minimum,
                               BinaryOp::less,   BinaryOp::equal,    BinaryOp::lerp};

/// The NaN with all bits set but the sign, which GPUs make: the others have one bit.
template <class T>
T full_nan() {
  T value;
  std::memset(&value, 0xff, sizeof value);
  return std::copysign(value, T(1));
}

/// Positive numbers over many decades, their negatives, and the special ones.
template <class T>
Host<T> wide_range(const Shape& shape, bool negative) {
  Host<T> host = random_host<T>(shape, 0, 3);
  for (T& v : host.values) v = std::exp(v) * (negative && v > 0 ? T(-1) : T(1));
  const T special[] = {T(0),
                       T(1),
                       T(100),
                       std::numeric_limits<T>::infinity(),
                       std::numeric_limits<T>::quiet_NaN(),
                       full_nan<T>(),
                       -full_nan<T>()};
  for (size_t i = 0; i < std::min(std::size(special), host.values.size()); ++i)
    host.values[host.values.size() - 1 - i] = special[i];
  return host;
}

template <class T>
void unary_cases() {
  for (UnaryOp op : kUnaryOps) {
    CAPTURE(static_cast<int>(op));
    for (int derivative : {0, 1, 2}) {
      CAPTURE(derivative);
      for (const Shape& shape : {Shape{}, Shape{0}, Shape{17}, Shape{3, 5, 33}, Shape{20011}}) {
        const Host<T> x = wide_range<T>(shape, op != UnaryOp::log && op != UnaryOp::pow),
                      up = random_host<T>(shape);
        const UnaryArgs args{.op = op, .derivative = derivative, .p0 = 0.75, .p1 = 1.5};
        check_equal<T>(
            Host<T>(shape), [&](const Backend& b, const Host<T>& o) { b.unary(args, o.array(), x.array()); },
            tolerance_of<T>(args));
        if (derivative > 0) {
          check_equal<T>(
              Host<T>(shape),
              [&](const Backend& b, const Host<T>& o) {
                b.unary_chain(args, o.array(), up.array(), x.array());
              },
              tolerance_of<T>(args));
        }
      }
    }
  }
}

TEST_CASE("unary and unary_chain: every formula, f32") { unary_cases<float>(); }
TEST_CASE("unary and unary_chain: every formula, f64") { unary_cases<double>(); }

template <class T>
void binary_cases() {
  for (BinaryOp op : kBinaryOps) {
    CAPTURE(static_cast<int>(op));
    const Shape shape{7, 5, 3, 17};
    const auto x = wide_range<T>(shape, true), y = random_host<T>(shape);
    const auto run = [op](const Host<T>& l, const Host<T>& r) {
      return [op, l, r](const Backend& b, const Host<T>& o) {
        b.binary(op, 0.25, o.array(), l.array(), r.array());
      };
    };
    check_equal<T>(Host<T>(shape), run(x, y));
    check_equal<T>(Host<T>(shape), run(x, x));
    // Broadcast: a channel row, a number per example, a column, one number.
    for (const Strides& strides :
         {Strides{0, 0, 0, 1}, Strides{1, 0, 0, 0}, Strides{0, 0, 1, 0}, Strides{0, 0, 0, 0}}) {
      auto b = y;
      b.strides = strides;
      check_equal<T>(Host<T>(shape), run(x, b));
      check_equal<T>(Host<T>(shape), run(b, x));
    }
    // Transposed operands and output.
    check_equal<T>(Host<T>(shape).transposed(1, 3), run(x.transposed(1, 3), random_host<T>({7, 17, 3, 5})));
    // In place, and empty.
    check_equal<T>(
        x, [&](const Backend& b, const Host<T>& o) { b.binary(op, 0.25, o.array(), o.array(), y.array()); });
    check_equal<T>(
        x, [&](const Backend& b, const Host<T>& o) { b.binary(op, 0.25, o.array(), y.array(), o.array()); });
    check_equal<T>(Host<T>({3, 0}), run(Host<T>({3, 0}), Host<T>({3, 0})));
  }
  const auto large = random_host<T>({50021}), other = random_host<T>({50021});
  check_equal<T>(large, [&](const Backend& b, const Host<T>& o) {
    b.binary(BinaryOp::add, 0, o.array(), o.array(), other.array());
  });
}

TEST_CASE("binary: every formula, broadcast, strided, in place") {
  binary_cases<float>();
  binary_cases<double>();
}

template <class Out, class In>
void copy_cases() {
  const Shape shape{6, 5, 70, 11};
  Host<In> x(shape);
  for (In& v : x.values) v = static_cast<In>(1000 * std::normal_distribution<double>()(generator));
  const auto run = [](const Host<In>& in) {
    return [in](const Backend& b, const Host<Out>& o) { b.copy(o.array(), in.array()); };
  };
  const auto check = [&](const Host<Out>& out, const Host<In>& in) {
    Host<Out> expected = out;
    run(in)(reference_backend(), expected);
    for_each_backend([&](const Backend& backend) {
      Host<Out> got = out;
      run(in)(backend, got);
      CHECK(same_bits(got.values, expected.values));
    });
  };
  check(Host<Out>(shape), x);
  check(Host<Out>(shape).transposed(0, 3), x.transposed(0, 3));
  check(Host<Out>({11, 5, 70, 6}), x.transposed(0, 3));
  check(Host<Out>({6, 70, 5, 11}), x.transposed(1, 2));
  // Into every second element, from where another axis lies together.
  Host<Out> every_second({6, 5, 70, 22});
  every_second.shape = shape, every_second.strides[3] = 2;
  Host<In> beside({6, 5, 11, 70});
  beside.values = x.values;
  check(every_second, beside.transposed(2, 3));
  auto expanded = x;
  expanded.shape = {6, 5, 2, 70, 11}, expanded.strides = {x.strides[0], x.strides[1], 0, x.strides[2], 1};
  check(Host<Out>(expanded.shape), expanded);
  check(Host<Out>(), Host<In>({}, In(3)));
}

TEST_CASE("copy: strides and conversions") {
  copy_cases<float, float>();
  copy_cases<double, double>();
  copy_cases<int64_t, int64_t>();
  copy_cases<double, float>();
  copy_cases<float, double>();
  copy_cases<int64_t, float>();
  copy_cases<float, int64_t>();
}

TEST_CASE("copy: bf16") {
  const auto x = random_host<float>({1000});
  std::vector<uint16_t> stored(1000), moved(1000);
  const Array bf16{stored.data(), DType::bf16, {1000}, {1}},
      bf16_moved{moved.data(), DType::bf16, {1000}, {1}};
  for_each_backend([&](const Backend& backend) {
    Host<float> back({1000});
    backend.copy(bf16, x.array());
    backend.copy(bf16_moved, bf16);
    backend.copy(back.array(), bf16_moved);
    // Rounded to nearest with 8 bits of mantissa.
    for (size_t i = 0; i < 1000; ++i)
      CHECK(std::abs(back.values[i] - x.values[i]) <= 0x1p-8f * std::abs(x.values[i]));
  });
}

TEST_CASE("fill: contiguous, strided and integer") {
  for_each_backend([&](const Backend& backend) {
    Host<float> a({70001});
    backend.fill(a.array(), 2.5);
    CHECK(std::all_of(a.values.begin(), a.values.end(), [](float v) { return v == 2.5f; }));
    Host<double> b({4, 6});
    auto every_second = b;
    every_second.shape = {4, 3}, every_second.strides = {6, 2};
    backend.fill(every_second.array(), -1);
    for (size_t i = 0; i < 24; ++i) CHECK(every_second.values[i] == (i % 2 == 0 ? -1 : 0));
    Host<int64_t> c({5});
    backend.fill(c.array(), 7);
    CHECK(std::all_of(c.values.begin(), c.values.end(), [](int64_t v) { return v == 7; }));
  });
}

// --- reductions --------------------------------------------------------------------------------------------

template <class T>
void check_reduce(const Host<T>& x, const std::vector<int>& axes) {
  Shape kept = x.shape;
  double count = 1;
  for (int axis : axes) {
    count *= static_cast<double>(kept[axis]);
    kept[axis] = 1;
  }
  const auto run_with = [](ReduceOp op, const Host<T>& in) {
    return
        [op, in](const Backend& b, const std::vector<Host<T>>& o) { b.reduce(op, o[0].array(), in.array()); };
  };
  // Pairwise summation of f32 loses log2(n) roundings at most; f64 is summed in blocks.
  const double length = std::is_same_v<T, float> ? std::log2(count + 1) : count;
  const Host<T> out(kept, T(99));
  check_entry<T>({out}, run_with(ReduceOp::sum, x),
                 scaled_bounds<T>({out}, run_with(ReduceOp::sum, absolute(x)), length));
  for (ReduceOp op : {ReduceOp::max, ReduceOp::min})
    check_equal<T>(out, [&](const Backend& b, const Host<T>& o) { b.reduce(op, o.array(), x.array()); });
}

template <class T>
void reduce_cases() {
  const auto x = random_host<T>({3, 17, 5, 33}, 1);
  for (const std::vector<int>& axes : std::vector<std::vector<int>>{
           {0, 1, 2, 3}, {0, 1, 2}, {1, 2}, {3}, {2, 3}, {0}, {1}, {2}, {0, 2}, {1, 3}, {0, 3}, {}}) {
    CAPTURE(axes.size());
    check_reduce(x, axes);
    check_reduce(x.transposed(0, 3), axes);
    check_reduce(x.transposed(1, 2), axes);
    auto broadcast = x;
    broadcast.strides = {0, 0, 33, 1};
    check_reduce(broadcast, axes);
  }
  check_reduce(random_host<T>({4, 3, 2, 5, 2, 7}), {2, 4});
  check_reduce(random_host<T>({4, 3, 2, 5, 2, 1}), {2, 4});
  check_reduce(random_host<T>({200003}, 1), {0});
  check_reduce(random_host<T>({5003, 37}, 1), {0});
  check_reduce(random_host<T>({3, 1501}, 1), {0});
  check_reduce(random_host<T>({3, 40009}, 1), {1});
  check_reduce(random_host<T>({40, 1000, 3}, 1), {1});
  check_reduce(random_host<T>({1, 1}), {0, 1});
  check_reduce(Host<T>(Shape{}, T(2)), {});
  check_reduce(Host<T>({0, 3}), {0});
  check_reduce(Host<T>({3, 0}), {1});
  check_reduce(Host<T>({0, 3}), {1});
}

TEST_CASE("reduce: every pattern of axes, f32") { reduce_cases<float>(); }
TEST_CASE("reduce: every pattern of axes, f64") { reduce_cases<double>(); }

TEST_CASE("reduce: an f64 result of f32 numbers, and NaN") {
  auto x = random_host<float>({100003}, 1);
  double exact = 0;
  for (float v : x.values) exact += v;
  for_each_backend([&](const Backend& backend) {
    Host<double> sum({1});
    backend.reduce(ReduceOp::sum, sum.array(), x.array());
    CHECK(std::abs(sum.values[0] - exact) <= 1e5 * kEps<double> * 2e5);
  });
  x.values[70000] = std::numeric_limits<float>::quiet_NaN();
  for_each_backend([&](const Backend& backend) {
    for (ReduceOp op : {ReduceOp::sum, ReduceOp::max, ReduceOp::min}) {
      Host<float> result({1});
      backend.reduce(op, result.array(), x.array());
      CHECK(std::isnan(result.values[0]));
    }
  });
}

// --- where, and entries along one axis ---------------------------------------------------------------------

template <class T>
void where_cases() {
  for (const Shape& shape : {Shape{}, Shape{0}, Shape{3, 5, 33}, Shape{20011}}) {
    const Host<T> a = wide_range<T>(shape, true), b = wide_range<T>(shape, true);
    Host<T> condition = random_host<T>(shape);
    for (T& v : condition.values) v = v < 0 ? T(0) : v;
    check_equal<T>(Host<T>(shape), [&](const Backend& backend, const Host<T>& o) {
      backend.where(o.array(), condition.array(), a.array(), b.array());
    });
  }
  const auto a = random_host<T>({4, 35}), b = random_host<T>({4, 35});
  Host<T> column = random_host<T>({4, 1}), row = random_host<T>({1, 35});
  column.values[1] = column.values[2] = row.values[3] = 0;
  column.shape = row.shape = {4, 35}, column.strides = {1, 0}, row.strides = {0, 1};
  for (const Host<T>& condition : {column, row}) {
    check_equal<T>(Host<T>({4, 35}), [&](const Backend& backend, const Host<T>& o) {
      backend.where(o.array(), condition.array(), a.array(), b.array());
    });
    check_equal<T>(Host<T>({35, 4}).transposed(0, 1), [&](const Backend& backend, const Host<T>& o) {
      backend.where(o.array(), condition.array(), row.array(), b.array());
    });
  }
}
TEST_CASE("where: contiguous, broadcast, strided") {
  where_cases<float>();
  where_cases<double>();
}

/// x [4, 7, 65] and its transposed windows along every axis; more lines than one task takes; empty axes.
template <class T>
std::vector<Host<T>> line_inputs() {
  const auto x = random_host<T>({4, 7, 65}, 1);
  Host<T> reversed = x;
  reversed.strides = {x.strides[0], x.strides[1], -1}, reversed.offset = 64;
  return {x,
          x.transposed(0, 2),
          x.transposed(1, 2),
          reversed,
          random_host<T>({3, 40009}, 1),
          random_host<T>({1300, 3}, 1),
          Host<T>({0, 3}),
          Host<T>({3, 0}),
          Host<T>({1, 1}, T(2))};
}

template <class T>
void cumulative_sum_cases() {
  for (const Host<T>& x : line_inputs<T>())
    for (int axis = 0; axis < x.shape.rank(); ++axis) {
      CAPTURE(axis);
      CAPTURE(str(x.shape));
      const auto run_with = [axis](const Host<T>& in) {
        return [in, axis](const Backend& b, const std::vector<Host<T>>& o) {
          b.cumulative_sum(o[0].array(), in.array(), axis);
        };
      };
      // Accumulated in double and rounded once; in f64 in the same order, or in any.
      const bool any_order = !kHostArithmetic && std::is_same_v<T, double>;
      check_entry<T>({Host<T>(x.shape)}, run_with(x),
                     scaled_bounds<T>({Host<T>(x.shape)}, run_with(absolute(x)),
                                      any_order ? static_cast<double>(x.shape[axis]) : 1));
    }
}
TEST_CASE("cumulative_sum along every axis") {
  cumulative_sum_cases<float>();
  cumulative_sum_cases<double>();
}

Host<int64_t> random_indices(const Shape& shape, int64_t low, int64_t high) {
  Host<int64_t> index(shape);
  for (int64_t& v : index.values) v = std::uniform_int_distribution<int64_t>(low, high)(generator);
  return index;
}

template <class T>
void gather_cases() {
  for (const Host<T>& x : line_inputs<T>())
    for (int axis = 0; axis < x.shape.rank(); ++axis) {
      CAPTURE(axis);
      CAPTURE(str(x.shape));
      Shape out_shape = x.shape;
      out_shape[axis] = 9;
      // Some indices lie outside: -1, and one past the end.
      const auto index = random_indices(out_shape, -1, x.shape[axis]);
      check_equal<T>(Host<T>(out_shape), [&](const Backend& b, const Host<T>& o) {
        b.gather(o.array(), x.array(), index.array(), axis);
      });
      // One index for all lines.
      Host<int64_t> shared = random_indices({9}, 0, std::max<int64_t>(0, x.shape[axis] - 1));
      shared.shape = out_shape, shared.strides = Dims::filled(out_shape.rank(), 0), shared.strides[axis] = 1;
      check_equal<T>(Host<T>(out_shape), [&](const Backend& b, const Host<T>& o) {
        b.gather(o.array(), x.array(), shared.array(), axis);
      });

      // The adjoint: x is the source.
      Shape size = x.shape;
      size[axis] = 5;
      const auto target = random_indices(x.shape, -1, 5);
      const auto run_with = [&, axis](const Host<T>& source) {
        return [&target, source, axis](const Backend& b, const std::vector<Host<T>>& o) {
          b.scatter_add(o[0].array(), source.array(), target.array(), axis);
        };
      };
      const Host<T> out(size, T(99));  // what was there is overwritten
      check_entry<T>({out}, run_with(x),
                     scaled_bounds<T>({out}, run_with(absolute(x)), static_cast<double>(x.shape[axis])));
    }
}
TEST_CASE("gather and scatter_add along every axis, with indices outside") {
  gather_cases<float>();
  gather_cases<double>();
  const auto x = random_indices({3, 4}, 0, 100), index = random_indices({3, 2}, -1, 4);
  check_equal<int64_t>(Host<int64_t>({3, 2}), [&](const Backend& b, const Host<int64_t>& o) {
    b.gather(o.array(), x.array(), index.array(), 1);
  });
}

// --- group norm --------------------------------------------------------------------------------------------

/// Largest absolute value.
template <class T>
double largest(const Host<T>& host) {
  double result = 0;
  for (T v : host.values) result = std::max(result, std::abs(double{v}));
  return result;
}

/// A bound of `roundings` of the largest value of each output.
template <class T>
std::function<std::vector<Host<T>>(const std::vector<Host<T>>&)> relative_bounds(double roundings) {
  return [roundings](const std::vector<Host<T>>& expected) {
    std::vector<Host<T>> result = expected;
    for (Host<T>& r : result) {
      std::fill(r.values.begin(), r.values.end(), static_cast<T>(roundings * kEps<T> * largest(r)));
    }
    return result;
  };
}

/// For `roundings` of half a unit in the last place of numbers below `limit` each.
template <class T>
std::function<std::vector<Host<T>>(const std::vector<Host<T>>&)> absolute_bounds(double roundings,
                                                                                 double limit) {
  return [=](std::vector<Host<T>> outputs) {
    for (Host<T>& o : outputs)
      std::fill(o.values.begin(), o.values.end(), static_cast<T>(roundings / 2 * kEps<T> * limit));
    return outputs;
  };
}

/// Forward and backward; x has this mean and deviation 1.
template <class T>
void check_group_norm(int64_t batch, int64_t pixels, int64_t channels, int groups, int64_t rows,
                      Activation activation, double x_mean) {
  CAPTURE(batch);
  CAPTURE(pixels);
  CAPTURE(channels);
  CAPTURE(x_mean);
  const auto x = random_host<T>({batch, pixels, channels}, x_mean),
             dy = random_host<T>({batch, pixels, channels});
  const auto gain = random_host<T>({rows, channels}), bias = random_host<T>({rows, channels});
  const Host<T> like_x({batch, pixels, channels}), like_gain({batch, channels}), statistics({batch, groups});
  Host<T> y = like_x, mean = statistics, rstd = statistics;
  const auto args_of = [&](const Host<T>& out, const Host<T>& m, const Host<T>& r) {
    return GroupNormArgs{x.array(), gain.array(), bias.array(), out.array(), m.array(),
                         r.array(), groups,       1e-6,         activation};
  };
  reference_backend().group_norm(args_of(y, mean, rstd));
  // x - mean is rounded relative to x, and then divided by the deviation. For f64 the sums are no wider than
  // x: the k-th of n additions rounds by up to eps/2 of about k x (deviation eps/2 k x / sqrt(3)), which
  // leaves a deviation of sqrt(n)/6 eps x in the mean; three of them are granted.
  const double summed = static_cast<double>(channels / groups * pixels);
  const double mean_roundings = kMeanRoundings + (std::is_same_v<T, double> ? std::sqrt(summed) / 2 : 0);
  const double roundings = 20 + mean_roundings * largest(x) * largest(rstd);
  check_entry<T>(
      {like_x, statistics, statistics},
      [&](const Backend& b, const std::vector<Host<T>>& o) { b.group_norm(args_of(o[0], o[1], o[2])); },
      [&](const std::vector<Host<T>>& expected) {
        std::vector<Host<T>> bounds = relative_bounds<T>(roundings)(expected);
        // A mean near 0 cancels: the partial sums of n terms are about sqrt(n) times as large as a term, so n
        // additions, whose roundings are independent, leave an error of the order of a term's rounding in the
        // mean.
        for (T& v : bounds[1].values) v += static_cast<T>(2 * kEps<T> * largest(x));
        return bounds;
      });
  // The terms of dx are of this size; in small groups they cancel almost entirely. The sums run over pixels.
  const double dx_scale = largest(rstd) * largest(dy) * largest(gain);
  const double dgain_scale = largest(dy) * std::sqrt(summed);
  check_entry<T>(
      {like_x, like_gain, like_gain},
      [&](const Backend& b, const std::vector<Host<T>>& o) {
        b.group_norm_backward(
            {args_of({}, mean, rstd), dy.array(), o[0].array(), o[1].array(), o[2].array()});
      },
      [&](std::vector<Host<T>> bounds) {
        for (size_t o = 0; o < 3; ++o) {
          const double scale = o == 0 ? dx_scale : dgain_scale;
          std::fill(bounds[o].values.begin(), bounds[o].values.end(),
                    static_cast<T>(3 * roundings * kEps<T> * scale));
        }
        return bounds;
      });
}

template <class T>
void group_norm_cases() {
  for (Activation activation : {Activation::none, Activation::silu}) {
    check_group_norm<T>(2, 49, 32, 8, 1, activation, 0);
    check_group_norm<T>(3, 17, 33, 3, 3, activation, 0);
    check_group_norm<T>(1, 1, 6, 3, 1, activation, 0);
    check_group_norm<T>(5, 7, 17, 17, 5, activation, 0);
    check_group_norm<T>(2, 13, 1030, 2, 1, activation, 0);
    check_group_norm<T>(4, 100, 24, 1, 4, activation, 0);
    check_group_norm<T>(2, 196, 16, 4, 2, activation, 600);
  }
  check_group_norm<T>(0, 4, 4, 2, 1, Activation::silu, 0);
}

TEST_CASE("group norm: shapes, rows of gain, large means, f32") { group_norm_cases<float>(); }
TEST_CASE("group norm: shapes, rows of gain, large means, f64") { group_norm_cases<double>(); }

// --- softmax and attention ---------------------------------------------------------------------------------

template <class T>
void softmax_cases() {
  for (const Shape& shape :
       {Shape{1, 1}, Shape{3, 17}, Shape{5, 33}, Shape{3, 200}, Shape{2, 401}, Shape{2, 3, 1000},
        Shape{2, 1500}, Shape{2, 5000}, Shape{700, 10}, Shape{0, 4}, Shape{4, 0}}) {
    const auto x = random_host<T>(shape, 0, 4), dy = random_host<T>(shape);
    Host<T> y(shape);
    // Rounding of x - max (|x - max| < 40), of the exponential, and of the sum in 16 ways.
    const double roundings = 40 + static_cast<double>(shape.back()) / 16 + 20;
    check_entry<T>(
        {y}, [&](const Backend& b, const std::vector<Host<T>>& o) { b.softmax(o[0].array(), x.array()); },
        relative_bounds<T>(roundings));
    reference_backend().softmax(y.array(), x.array());
    check_entry<T>(
        {y},
        [&](const Backend& b, const std::vector<Host<T>>& o) {
          b.softmax_backward(o[0].array(), dy.array(), y.array());
        },
        relative_bounds<T>(roundings));
  }
}

TEST_CASE("softmax and its gradient") {
  softmax_cases<float>();
  softmax_cases<double>();
}

template <class T>
void check_attention(int64_t batch, int64_t length, int64_t keys, int64_t heads, int64_t width) {
  CAPTURE(length);
  CAPTURE(keys);
  CAPTURE(width);
  // q, k and v as parts of one projection: strided.
  const auto packed = random_host<T>({batch, std::max(length, keys), 3, heads, width});
  const auto part = [&](int which, int64_t rows) {
    Host<T> h = packed;
    h.shape = {batch, rows, heads, width};
    h.strides = {packed.strides[0], packed.strides[1], width, 1};
    h.offset = which * heads * width;
    return h;
  };
  const Host<T> q = part(0, length), k = part(1, keys), v = part(2, keys);
  Host<T> out({batch, length, heads, width}), lse({batch, heads, length});
  const double scale = 1 / std::sqrt(static_cast<double>(width));
  const auto args_of = [&](const Host<T>& o, const Host<T>& l) {
    return AttentionArgs{q.array(), k.array(), v.array(), o.array(), l.array(), scale};
  };
  // Scores are sums over `width`, outputs sums over `keys` of weights that carry the error of the scores.
  const double roundings = 4 * static_cast<double>(width + keys) + 40;
  check_entry<T>(
      {out, lse}, [&](const Backend& b, const std::vector<Host<T>>& o) { b.attention(args_of(o[0], o[1])); },
      relative_bounds<T>(roundings));
  reference_backend().attention(args_of(out, lse));
  const auto d_out = random_host<T>(out.shape);
  const Host<T> dq(q.shape), dk(k.shape);
  check_entry<T>(
      {dq, dk, dk},
      [&](const Backend& b, const std::vector<Host<T>>& o) {
        b.attention_backward({args_of(out, lse), d_out.array(), o[0].array(), o[1].array(), o[2].array()});
      },
      relative_bounds<T>(roundings + 4 * static_cast<double>(length)));
}

TEST_CASE("attention and its gradient") {
  check_attention<float>(2, 49, 49, 2, 32);
  check_attention<float>(1, 1, 1, 1, 1);
  check_attention<float>(3, 17, 33, 3, 7);
  check_attention<float>(1, 200, 131, 1, 16);
  check_attention<double>(2, 13, 5, 2, 3);
  check_attention<double>(1, 101, 97, 1, 8);
}

// --- random, optimiser -------------------------------------------------------------------------------------

template <class T>
void random_cases() {
  for (RandomKind kind : {RandomKind::uniform, RandomKind::normal}) {
    for (const Shape& shape : {Shape{3, 17}, Shape{1, 40001}, Shape{300, 784}, Shape{0, 5}, Shape{5, 0}}) {
      check_equal<T>(Host<T>(shape), [&](const Backend& b, const Host<T>& o) {
        b.random({.kind = kind, .out = o.array(), .seed = 3, .stream = uint64_t{1} << 40, .first_row = 11});
      });
    }
  }
  for (int64_t n : {0, 1, 33, 50003, 200003}) {
    const auto x = random_host<T>({n});
    DropoutArgs args{.x = x.array(),
                     .y = {},
                     .p = 0.3,
                     .seed = 5 + (uint64_t{7} << 32),
                     .stream = 9 + (uint64_t{3} << 40)};
    const auto dropped = [&args](const Backend& b, const Host<T>& o) {
      args.y = o.array();
      b.dropout(args);
    };
    check_equal<T>(Host<T>({n}), dropped);
    Host<int64_t> row{Shape{}};
    row.values = {123456789};
    args.row = row.array();
    check_equal<T>(Host<T>({n}), dropped);
    if (n == 0) continue;
    // A number that equals p is kept.
    const uint64_t last = static_cast<uint64_t>(n) - 1;
    const philox::Block words = philox::words(args.seed, args.stream, 123456789, last / 4);
    args.p = philox::uniform(words.word[last % 4]);
    check_equal<T>(Host<T>({n}), dropped);
  }
}

TEST_CASE("random and dropout: the reference's bits") {
  random_cases<float>();
  random_cases<double>();
}

/// Sizes of the arrays of a list: none, nothing in them, one, and more than a launch takes, among them packs
/// that are whole and not, arrays of several blocks, and blocks of several arrays.
std::vector<std::vector<int64_t>> list_sizes() {
  std::vector<int64_t> many = {3, 40003, 0, 1023, 1024, 16384, 1, 33000};
  for (int64_t i = 0; i < 300; ++i) many.push_back(37 * i % 131);
  return {{}, {0}, {1}, {17}, {0, 40003, 0}, many};
}

template <class T>
std::vector<Host<T>> random_list(const std::vector<int64_t>& sizes, double deviation = 1) {
  std::vector<Host<T>> list;
  for (const int64_t n : sizes) list.push_back(random_host<T>({n}, 0, deviation));
  return list;
}
template <class T>
std::vector<Host<T>> absolute(std::vector<Host<T>> list) {
  for (Host<T>& host : list) host = absolute(host);
  return list;
}
template <class T>
std::vector<Host<T>> joined(std::vector<Host<T>> all, const std::vector<Host<T>>& more) {
  all.insert(all.end(), more.begin(), more.end());
  return all;
}

constexpr double kInfinity = std::numeric_limits<double>::infinity();

/// A number that entries read from the device.
Host<double> number(double value) { return Host<double>(Shape{}, value); }

template <class T>
void sum_of_squares_cases() {
  for (const std::vector<int64_t>& sizes : list_sizes()) {
    CAPTURE(sizes.size());
    auto arrays = random_list<T>(sizes);
    const auto sum_of = [&](const Backend& backend) {
      std::vector<Array> list;
      for (const Host<T>& host : arrays) list.push_back(host.array());
      const Host<double> out = number(99);
      backend.sum_of_squares({list, out.array()});
      return out.values[0];
    };
    int64_t terms = 0;
    for (const int64_t n : sizes) terms += n;
    const double expected = sum_of(reference_backend());
    // Both sums round once per term, by half an eps of the sum at most.
    const double bound = static_cast<double>(terms) * kEps<double> * expected;
    double first = NAN;
    for_each_backend([&](const Backend& backend) {
      const double got = sum_of(backend);
      CHECK(std::abs(got - expected) <= bound);
      if (std::isnan(first)) first = got;
      CHECK(got == first);  // whatever the instruction set and the threads
    });
    if (terms == 0) continue;
    for (const double bad : {std::numeric_limits<double>::quiet_NaN(), kInfinity}) {
      auto& last = *std::find_if(arrays.rbegin(), arrays.rend(), [](auto& h) { return !h.values.empty(); });
      last.values.back() = static_cast<T>(bad);
      for_each_backend([&](const Backend& backend) {
        const double got = sum_of(backend);
        CHECK((std::isnan(bad) ? std::isnan(got) : got == bad));
      });
    }
  }
}

TEST_CASE("sum_of_squares: any list") {
  sum_of_squares_cases<float>();
  sum_of_squares_cases<double>();
}

template <class T>
void adam_cases() {
  for (const std::vector<int64_t>& sizes : list_sizes()) {
    const size_t count = sizes.size();
    CAPTURE(count);
    const auto grad = random_list<T>(sizes);
    // Parameters, m, v and, with AMSGrad, v_max.
    const auto outputs = joined(joined(random_list<T>(sizes), random_list<T>(sizes, 0.1)),
                                absolute(random_list<T>(sizes, 0.1)));
    const auto with_largest = joined(outputs, absolute(random_list<T>(sizes, 0.1)));
    Host<double> control({4});
    const auto run_with = [&](double weight_decay, double l2) {
      return [&, weight_decay, l2](const Backend& b, const std::vector<Host<T>>& o) {
        std::vector<AdamParameter> list;
        for (size_t i = 0; i < count; ++i)
          list.push_back({.param = o[i].array(),
                          .grad = grad[i].array(),
                          .m = o[count + i].array(),
                          .v = o[2 * count + i].array(),
                          .v_max = o.size() > 3 * count ? o[3 * count + i].array() : Array{}});
        const Host<double> learning_rate = number(1e-2);
        b.adam({.list = list,
                .control = control.array(),
                .learning_rate = learning_rate.array(),
                .beta1 = 0.9,
                .beta2 = 0.999,
                .eps = 1e-8,
                .weight_decay = weight_decay,
                .l2 = l2});
      };
    };
    control.values = {3, 0, 0.5, 2};
    // Some twenty roundings; m may cancel.
    const auto bounds = absolute_bounds<T>(20, 8);
    check_entry<T>(outputs, run_with(0.01, 0.1), bounds);
    check_entry<T>(with_largest, run_with(0, 0), bounds);
    for (const double norm : {kInfinity, std::numeric_limits<double>::quiet_NaN()}) {
      control.values = {3, 1, 0, norm};
      check_entry<T>(with_largest, run_with(0.01, 0.1), relative_bounds<T>(0));
    }
  }
}

TEST_CASE("adam: any list") {
  adam_cases<float>();
  adam_cases<double>();
}

template <class T>
void sgd_cases() {
  for (const std::vector<int64_t>& sizes : list_sizes()) {
    const size_t count = sizes.size();
    CAPTURE(count);
    const auto param = random_list<T>(sizes), grad = random_list<T>(sizes);
    const auto with_buffer = joined(param, random_list<T>(sizes));
    Host<double> control({4});
    for (const bool nesterov : {false, true}) {
      const auto run = [&](const Backend& b, const std::vector<Host<T>>& o) {
        std::vector<SgdParameter> list;
        for (size_t i = 0; i < count; ++i)
          list.push_back({.param = o[i].array(),
                          .grad = grad[i].array(),
                          .buffer = o.size() > count ? o[count + i].array() : Array{}});
        const Host<double> learning_rate = number(1e-2);
        b.sgd({.list = list,
               .control = control.array(),
               .learning_rate = learning_rate.array(),
               .momentum = 0.9,
               .dampening = 0.25,
               .l2 = 0.1,
               .nesterov = nesterov});
      };
      for (double applied : {1, 2}) {
        control.values = {applied, 0, 0.5, 2};
        // Some fourteen roundings; the numbers themselves may cancel.
        const auto bounds = absolute_bounds<T>(14, 8);
        check_entry<T>(with_buffer, run, bounds);
        check_entry<T>(param, run, bounds);
      }
      control.values = {3, 1, 0, std::numeric_limits<double>::quiet_NaN()};
      check_entry<T>(with_buffer, run, relative_bounds<T>(0));
    }
  }
}

TEST_CASE("sgd: any list") {
  sgd_cases<float>();
  sgd_cases<double>();
}

template <class T>
void moving_average_cases() {
  for (const std::vector<int64_t>& sizes : list_sizes()) {
    CAPTURE(sizes.size());
    auto average = random_list<T>(sizes);
    const auto source = random_list<T>(sizes);
    for (const double weight : {0.0, 1e-4, 0.75, 1.0}) {
      CAPTURE(weight);
      // With weight 1 it is forgotten, whatever it was.
      if (weight == 1)
        for (Host<T>& host : average)
          if (!host.values.empty()) host.values[0] = std::numeric_limits<T>::infinity();
      check_entry<T>(
          average,
          [&](const Backend& b, const std::vector<Host<T>>& o) {
            std::vector<AveragedArray> list;
            for (size_t i = 0; i < o.size(); ++i) list.push_back({o[i].array(), source[i].array()});
            const Host<double> weight_on_device = number(weight);
            b.moving_average({list, weight_on_device.array()});
            if (weight == 1)
              for (size_t i = 0; i < o.size(); ++i) CHECK(same_bits(o[i].values, source[i].values));
          },
          relative_bounds<T>(0));
    }
  }
}

TEST_CASE("moving_average: any list, the reference's numbers") {
  moving_average_cases<float>();
  moving_average_cases<double>();
}

// --- pooling -----------------------------------------------------------------------------------------------

template <class T>
void check_max_pool(int64_t batch, int64_t h, int64_t w, int64_t channels, int wh, int ww,
                    const Conv2dGeometry& g) {
  CAPTURE(h);
  CAPTURE(channels);
  const int64_t oh = (h + g.pad_top + g.pad_bottom - g.dilation_h * (wh - 1) - 1) / g.stride_h + 1;
  const int64_t ow = (w + g.pad_left + g.pad_right - g.dilation_w * (ww - 1) - 1) / g.stride_w + 1;
  Host<T> x = random_host<T>({batch, h, w, channels});
  // Ties, NaN and infinities.
  for (T& v : x.values) v = std::round(2 * v);
  for (size_t i = 0; i < x.values.size(); i += 7)
    x.values[i] = i % 3 ? std::numeric_limits<T>::quiet_NaN() : -std::numeric_limits<T>::infinity();
  Host<int64_t> expected_index({batch, oh, ow, channels});
  Host<T> expected({batch, oh, ow, channels});
  reference_backend().max_pool2d({x.array(), expected.array(), expected_index.array(), wh, ww, g});
  for_each_backend([&](const Backend& backend) {
    Host<T> y(expected.shape);
    Host<int64_t> index(expected.shape);
    backend.max_pool2d({x.array(), y.array(), index.array(), wh, ww, g});
    CHECK(index.values == expected_index.values);
    size_t different = 0;
    for (size_t i = 0; i < y.values.size(); ++i) different += !same_number(y.values[i], expected.values[i]);
    CHECK(different == 0);
  });
}

TEST_CASE("max_pool2d: the reference's numbers and pixels") {
  const auto cases = [](auto tag) {
    using T = decltype(tag);
    check_max_pool<T>(2, 8, 6, 32, 2, 2, {2, 2});
    check_max_pool<T>(3, 7, 9, 17, 3, 3, {2, 2, 1, 1, 1, 1});
    check_max_pool<T>(1, 9, 5, 1, 3, 2, {1, 3, 2, 0, 1, 1});
    check_max_pool<T>(2, 9, 8, 5, 3, 2, {2, 1, 1, 2, 0, 2, 1, 2, 3});
    check_max_pool<T>(40, 14, 14, 3, 1, 1, {1, 1});
    check_max_pool<T>(0, 4, 4, 3, 2, 2, {2, 2});
    check_max_pool<T>(2, 4, 4, 0, 2, 2, {2, 2});
  };
  cases(float{});
  cases(double{});
}

}  // namespace
