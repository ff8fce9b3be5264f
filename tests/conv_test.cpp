// Convolution and transposed convolution: values against loops written out, the adjoint identity.
#include <doctest/doctest.h>

#include <cmath>
#include <random>

#include "autograd/ops.h"

using namespace halfstep;

namespace {

double dot(const Tensor& a, const Tensor& b) {
  const auto x = a.to_vector<double>(), y = b.to_vector<double>();
  REQUIRE(x.size() == y.size());
  double sum = 0;
  for (size_t i = 0; i < x.size(); ++i) sum += x[i] * y[i];
  return sum;
}

/// y[b, oy, ox, o] by its definition, element by element.
std::vector<double> conv2d_by_loops(const Tensor& x, const Tensor& kernel, const Conv2dGeometry& g,
                                    int64_t out_height, int64_t out_width) {
  const auto xs = x.to_vector<double>(), ks = kernel.to_vector<double>();
  const int64_t h = x.size(1), w = x.size(2), all_c = x.size(3), c = kernel.size(2), out = kernel.size(3);
  std::vector<double> y;
  for (int64_t b = 0; b < x.size(0); ++b)
    for (int64_t oy = 0; oy < out_height; ++oy)
      for (int64_t ox = 0; ox < out_width; ++ox)
        for (int64_t o = 0; o < out; ++o) {
          const int64_t group = o / (out / g.groups);
          double sum = 0;
          for (int64_t i = 0; i < kernel.size(0); ++i)
            for (int64_t j = 0; j < kernel.size(1); ++j) {
              const int64_t iy = oy * g.stride_h + i * g.dilation_h - g.pad_top;
              const int64_t ix = ox * g.stride_w + j * g.dilation_w - g.pad_left;
              if (iy < 0 || iy >= h || ix < 0 || ix >= w) continue;
              for (int64_t k = 0; k < c; ++k)
                sum += xs[static_cast<size_t>(((b * h + iy) * w + ix) * all_c + group * c + k)] *
                       ks[static_cast<size_t>(((i * kernel.size(1) + j) * c + k) * out + o)];
            }
          y.push_back(sum);
        }
  return y;
}

struct RandomGeometry {
  Shape x, kernel;
  Conv2dGeometry g;
};

/// Sizes and geometry at random, such that the kernel fits.
RandomGeometry random_geometry(std::mt19937& generator) {
  const auto pick = [&](int low, int high) {
    return std::uniform_int_distribution<int>(low, high)(generator);
  };
  for (;;) {
    const int groups = pick(1, 3);
    const RandomGeometry r{{pick(1, 2), pick(1, 9), pick(1, 9), groups * pick(1, 3)},
                           {pick(1, 4), pick(1, 4), 0, groups * pick(1, 3)},
                           {.stride_h = pick(1, 3),
                            .stride_w = pick(1, 3),
                            .pad_top = pick(0, 3),
                            .pad_bottom = pick(0, 3),
                            .pad_left = pick(0, 3),
                            .pad_right = pick(0, 3),
                            .groups = groups,
                            .dilation_h = pick(1, 3),
                            .dilation_w = pick(1, 3)}};
    RandomGeometry result = r;
    result.kernel[2] = r.x[3] / groups;
    if (r.g.dilation_h * (r.kernel[0] - 1) < r.x[1] + r.g.pad_top + r.g.pad_bottom &&
        r.g.dilation_w * (r.kernel[1] - 1) < r.x[2] + r.g.pad_left + r.g.pad_right)
      return result;
  }
}

Tensor normal(const Shape& shape, uint64_t stream, Device& device) {
  return random_normal(shape, {9, stream}, 0, {DType::f64, &device});
}

}  // namespace

TEST_CASE("conv2d: its definition, and passes that are adjoint to each other, for random geometries") {
  std::mt19937 generator(3);
  for (int trial = 0; trial < 150; ++trial) {
    const RandomGeometry drawn = random_geometry(generator);
    const Shape &xs = drawn.x, &ks = drawn.kernel;
    const Conv2dGeometry& g = drawn.g;
    CAPTURE(trial);
    CAPTURE(str(xs));
    CAPTURE(str(ks));
    for (Device* device : {&reference_device(), &cpu_device()}) {
      CAPTURE(device->name());
      const Tensor x = normal(xs, 1, *device), kernel = normal(ks, 2, *device);
      const Tensor y = conv2d(x, kernel, {}, g);
      CHECK(y.size(1) ==
            (xs[1] + g.pad_top + g.pad_bottom - g.dilation_h * (ks[0] - 1) - 1) / g.stride_h + 1);
      CHECK(y.size(2) ==
            (xs[2] + g.pad_left + g.pad_right - g.dilation_w * (ks[1] - 1) - 1) / g.stride_w + 1);
      // At most 4 * 4 * 3 products of normal numbers: sums below 100, each with some 50 roundings.
      constexpr double tolerance = 100 * 50 * 1.2e-16;
      const auto expected = conv2d_by_loops(x, kernel, g, y.size(1), y.size(2));
      const auto got = y.to_vector<double>();
      double worst = 0;
      for (size_t i = 0; i < got.size(); ++i)
        if (!(std::abs(got[i] - expected[i]) <= worst)) worst = std::abs(got[i] - expected[i]);
      CHECK(worst <= tolerance);

      // <dy, conv(x, k)> = <backward_data(dy, k), x> = <backward_kernel(x, dy), k>, up to the rounding of at
      // most 2 * 324 * 9 terms on each side.
      const Tensor dy = normal(y.shape(), 3, *device);
      const double scale = std::sqrt(dot(dy, dy) * dot(y, y)) + 1;
      const double value = dot(dy, y);
      CHECK(std::abs(dot(conv2d_backward_data(dy, kernel, xs[1], xs[2], g), x) - value) <= 1e-12 * scale);
      CHECK(std::abs(dot(conv2d_backward_kernel(x, dy, ks[0], ks[1], g), kernel) - value) <= 1e-12 * scale);
      // Transposed convolution with the right output padding is that very adjoint, onto the same image size.
      const int rest_h =
          static_cast<int>((xs[1] + g.pad_top + g.pad_bottom - g.dilation_h * (ks[0] - 1) - 1) % g.stride_h);
      const int rest_w =
          static_cast<int>((xs[2] + g.pad_left + g.pad_right - g.dilation_w * (ks[1] - 1) - 1) % g.stride_w);
      const Tensor back = conv_transpose2d(dy, kernel, {}, g, rest_h, rest_w);
      REQUIRE(back.shape() == x.shape());
      CHECK(std::abs(dot(back, x) - value) <= 1e-12 * scale);
    }
  }
}

TEST_CASE("conv2d: groups equal separate convolutions of the runs of channels") {
  const TensorOptions f64{DType::f64, &cpu_device()};
  const Tensor x = random_normal({2, 5, 5, 6}, {1, 0}, 0, f64),
               kernel = random_normal({3, 3, 2, 9}, {1, 1}, 0, f64),
               bias = random_normal({9}, {1, 2}, 0, f64);
  const Conv2dGeometry one{.pad_top = 1, .pad_bottom = 1, .pad_left = 1, .pad_right = 1};
  Conv2dGeometry three = one;
  three.groups = 3;
  std::vector<Tensor> parts;
  for (int g = 0; g < 3; ++g)
    parts.push_back(conv2d(x.slice(3, 2 * g, 2 * g + 2), kernel.slice(3, 3 * g, 3 * g + 3),
                           bias.slice(0, 3 * g, 3 * g + 3), one));
  const auto expected = concat(parts, 3).to_vector<double>(),
             got = conv2d(x, kernel, bias, three).to_vector<double>();
  for (size_t i = 0; i < got.size(); ++i) CHECK(std::abs(got[i] - expected[i]) <= 1e-14);
}

TEST_CASE("conv2d: a bias that is not contiguous") {
  for (Device* device : {&reference_device(), &cpu_device()}) {
    const TensorOptions f64{DType::f64, device};
    const Tensor bias = Tensor::from(std::vector<double>{1, 2, 3, 4}, {2, 2}, f64).transpose(0, 1);
    const Tensor y = conv2d(Tensor::zeros({1, 1, 1, 1}, f64), Tensor::zeros({1, 1, 1, 2}, f64),
                            bias.slice(0, 0, 1).squeeze(0), {});
    CHECK(y.to_vector<double>() == std::vector<double>{1, 3});
  }
}

TEST_CASE("conv_transpose2d: a hand-computed row, and its gradients are those of the convolution") {
  const TensorOptions f64{DType::f64, &cpu_device()};
  const Tensor x = Tensor::from(std::vector<double>{1, 2, 3}, {1, 1, 3, 1}, f64),
               kernel = Tensor::from(std::vector<double>{1, 10, 100}, {1, 3, 1, 1}, f64),
               bias = Tensor::from(std::vector<double>{0.5}, {1}, f64);
  // Every pixel lays down a copy of the kernel, two columns apart.
  CHECK(conv_transpose2d(x, kernel, bias, {.stride_w = 2}).to_vector<double>() ==
        std::vector<double>{1.5, 10.5, 102.5, 20.5, 203.5, 30.5, 300.5});
  CHECK(conv_transpose2d(x, kernel, {}, {.stride_w = 2, .pad_left = 1, .pad_right = 1}, 0, 1)
            .to_vector<double>() == std::vector<double>{10, 102, 20, 203, 30, 300});

  const Variable in(x, true), k(kernel, true), b(bias, true);
  const Variable y = conv_transpose2d(in, k, b, {.stride_w = 2});
  const Tensor up = random_normal(y.shape(), {4, 0}, 0, f64);
  const auto g = grad(y, {in, k, b}, Variable(up));
  CHECK(g[0].value().to_vector<double>() == conv2d(up, kernel, {}, {.stride_w = 2}).to_vector<double>());
  CHECK(g[1].value().to_vector<double>() ==
        conv2d_backward_kernel(up, x, 1, 3, {.stride_w = 2}).to_vector<double>());
  CHECK(std::abs(g[2].item() - sum(up).item()) <= 1e-14);
}
