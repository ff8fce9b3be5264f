// Pooling: values by loops, ties, NaN, errors.
#include <doctest/doctest.h>

#include <cmath>
#include <limits>

#include "autograd/ops.h"
#include "tests/error_of.h"

using namespace halfstep;
using halfstep::test::error_of;

TEST_CASE("max_pool2d: windows by loops") {
  const Conv2dGeometry g{.stride_h = 2, .pad_top = 1, .pad_bottom = 2, .pad_right = 1, .dilation_h = 2};
  const int64_t h = 7, w = 5, c = 3, window_h = 3, window_w = 2;
  for (Device* device : {&reference_device(), &cpu_device()}) {
    // All negative: padding never wins. Reversed in memory: nothing is contiguous.
    const Tensor x = affine(random_uniform({2, h, w, c}, {3, 0}, 0, {DType::f64, device}), 1, -2);
    const auto [y, index] = max_pool2d(x.permute({3, 2, 1, 0}).clone().permute({3, 2, 1, 0}), 3, 2, g);
    REQUIRE(y.shape() == Shape{2, 3, 5, c});
    REQUIRE(index.dtype() == DType::i64);
    const auto xs = x.to_vector<double>(), ys = y.to_vector<double>();
    const auto is = index.to_vector<int64_t>();
    size_t n = 0;
    for (int64_t b = 0; b < 2; ++b)
      for (int64_t oy = 0; oy < 3; ++oy)
        for (int64_t ox = 0; ox < 5; ++ox)
          for (int64_t k = 0; k < c; ++k, ++n) {
            double best = -std::numeric_limits<double>::infinity();
            int64_t where = -1;
            for (int64_t i = 0; i < window_h; ++i)
              for (int64_t j = 0; j < window_w; ++j) {
                const int64_t iy = 2 * oy + 2 * i - 1, ix = ox + j;
                if (iy < 0 || iy >= h || ix >= w) continue;
                const double value = xs[static_cast<size_t>(((b * h + iy) * w + ix) * c + k)];
                if (value > best) best = value, where = iy * w + ix;
              }
            CHECK(ys[n] == best);
            CHECK(is[n] == where);
          }
  }
}

TEST_CASE("max_pool2d: the first of equals, NaN over numbers, minus infinity is a number") {
  const double inf = std::numeric_limits<double>::infinity(), nan = std::numeric_limits<double>::quiet_NaN();
  for (Device* device : {&reference_device(), &cpu_device()})
    for (const DType dtype : {DType::f32, DType::f64}) {
      const auto pool = [&](const std::vector<double>& row) {
        return max_pool2d(Tensor::from(row, {1, 1, 3, 1}, {dtype, device}), 1, 3, {});
      };
      CHECK(pool({2, 5, 5}).index.to_vector<int64_t>()[0] == 1);
      CHECK(pool({0.0, -0.0, 0}).index.to_vector<int64_t>()[0] == 0);
      CHECK(pool({-inf, -inf, -inf}).index.to_vector<int64_t>()[0] == 0);
      CHECK(pool({-inf, -inf, -inf}).y.item() == -inf);
      for (const auto& [row, where] : std::vector<std::pair<std::vector<double>, int64_t>>{
               {{nan, 5, 7}, 0}, {{5, nan, 7}, 1}, {{inf, 7, nan}, 2}, {{5, nan, nan}, 1}}) {
        CHECK(std::isnan(pool(row).y.item()));
        CHECK(pool(row).index.to_vector<int64_t>()[0] == where);
      }
    }
}

TEST_CASE("max_pool2d: the gradient goes to the winners, also where windows overlap") {
  for (Device* device : {&reference_device(), &cpu_device()}) {
    const Variable x(Tensor::from(std::vector<double>{1, 3, 3, 2, 5}, {1, 1, 5, 1}, {DType::f64, device}),
                     true);
    const Variable y = max_pool2d(x, 1, 3, {.pad_left = 1});
    CHECK(y.value().to_vector<double>() == std::vector<double>{3, 3, 3, 5});
    const Variable up(
        Tensor::from(std::vector<double>{1, 10, 100, 1000}, {1, 1, 4, 1}, {DType::f64, device}));
    CHECK(grad(y, {x}, up)[0].value().to_vector<double>() == std::vector<double>{0, 111, 0, 0, 1000});
  }
}

TEST_CASE("average_pool2d: a plain window equals average_pool; padding counts as zeros") {
  const TensorOptions f64{DType::f64, &cpu_device()};
  const Variable x(random_normal({2, 6, 4, 3}, {1, 0}, 0, f64));
  const auto a = average_pool2d(x, 2, 2, {.stride_h = 2, .stride_w = 2}).value().to_vector<double>(),
             b = average_pool(x, 2).value().to_vector<double>();
  REQUIRE(a.size() == b.size());
  for (size_t i = 0; i < a.size(); ++i) CHECK(std::abs(a[i] - b[i]) <= 1e-15);
  const Variable ones(Tensor::ones({1, 2, 2, 1}, f64));
  CHECK(average_pool2d(ones, 2, 2, {.pad_top = 1, .pad_right = 1}).value().to_vector<double>() ==
        std::vector<double>{0.5, 0.25, 1, 0.5});
}

TEST_CASE("pooling: what it refuses") {
  const auto x = [](const Shape& shape) { return Tensor::zeros(shape); };
  CHECK(error_of([&] {
          max_pool2d(x({4, 4, 3}), 2, 2, {});
        }) == "[max_pool2d] expected an image batch [B, H, W, C] with 4 axes, got (4, 4, 3)");
  CHECK(error_of([&] {
          max_pool2d(x({1, 4, 4, 3}), 5, 2, {});
        }) == "[max_pool2d] the window 5 x 2 is larger than the padded image 4 x 4");
  CHECK(error_of([&] {
          max_pool2d(x({1, 4, 4, 3}), 2, 0, {});
        }) == "[max_pool2d] expected a window of at least 1 x 1 pixels, got 2 x 0");
  CHECK(error_of([&] {
          max_pool2d(x({1, 4, 4, 3}), 2, 2, {.groups = 3});
        }) == "[max_pool2d] pooling has no groups; expected groups = 1, got 3");
  CHECK(error_of([&] {
          max_pool2d(x({1, 4, 4, 3}), 2, 2, {.pad_left = 2});
        }) ==
        "[max_pool2d] expected windows that reach the image, got one of 2 x 2 in the padding alone for image "
        "(1, 4, 4, 3); use less padding");
  // Two taps on either side of the only row.
  CHECK(error_of([&] {
          max_pool2d(x({1, 1, 4, 3}), 2, 1, {.pad_top = 1, .pad_bottom = 1, .dilation_h = 2});
        }) ==
        "[max_pool2d] expected windows that reach the image, got one of 2 x 1 in the padding alone for image "
        "(1, 1, 4, 3); use less padding");
  CHECK(error_of([&] {
          average_pool2d(Variable(x({4, 4, 3})), 2, 2, {});
        }) == "[average_pool2d] expected an image batch [B, H, W, C], got (4, 4, 3)");
  CHECK(error_of([&] {
          average_pool2d(Variable(x({1, 4, 4, 3})), 2, 2, {.groups = 3});
        }) == "[average_pool2d] pooling has no groups; expected groups = 1, got 3");
}
