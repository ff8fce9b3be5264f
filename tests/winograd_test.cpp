// Winograd's method for 3x3 convolutions against the reference backend, with a bound on the rounding error
// that follows from the algorithm, and the choice between it and the direct method.
#include <doctest/doctest.h>

#include <array>
#include <cstdlib>

#include "tensor/conv_method.h"
#include "tensor/cpu/cpu_backend.h"
#include "tensor/error.h"
#include "tensor/ops.h"
#include "tests/kernel_check.h"

using namespace halfstep;
using namespace halfstep::test;

namespace {

template <size_t Rows, size_t Columns>
using Matrix = std::array<std::array<double, Columns>, Rows>;

/// The absolute values of the three matrices of F(4, 3), by the general construction of Toom and Cook:
/// evaluation of filter and output at the points, and, for the input, the coefficients of the products of (x
/// - point).
struct AbsoluteTransforms {
  Matrix<6, 6> input{};
  Matrix<6, 3> filter{};
  Matrix<4, 6> output{};

  AbsoluteTransforms() {
    constexpr double points[5] = {0, 0.625, -0.625, 1.5, -1.5};
    for (int j = 0; j < 5; ++j) {
      double derivative = 1;
      for (int k = 0; k < 5; ++k) derivative *= k == j ? 1 : points[j] - points[k];
      for (int i = 0; i < 3; ++i) filter[j][i] = std::abs(std::pow(points[j], i) / derivative);
      for (int i = 0; i < 4; ++i) output[i][j] = std::abs(std::pow(points[j], i));
    }
    filter[5][2] = output[3][5] = 1;
    for (int j = 0; j < 6; ++j) {
      std::array<double, 6> polynomial{1};  // lowest power first
      for (int k = 0; k < 5; ++k) {
        if (k == j) continue;
        for (int i = 5; i >= 0; --i) polynomial[i] = (i ? polynomial[i - 1] : 0) - points[k] * polynomial[i];
      }
      for (int i = 0; i < 6; ++i) input[j][i] = std::abs(polynomial[i]);
    }
  }
};

/// matrix * values * matrix^T
template <size_t Rows, size_t Columns>
Matrix<Rows, Rows> both_sides(const Matrix<Rows, Columns>& matrix, const Matrix<Columns, Columns>& values) {
  Matrix<Rows, Rows> result{};
  for (size_t i = 0; i < Rows; ++i)
    for (size_t j = 0; j < Rows; ++j)
      for (size_t k = 0; k < Columns; ++k)
        for (size_t l = 0; l < Columns; ++l) result[i][j] += matrix[i][k] * values[k][l] * matrix[j][l];
  return result;
}
template <size_t Rows, size_t Columns>
Matrix<Columns, Rows> transposed(const Matrix<Rows, Columns>& matrix) {
  Matrix<Columns, Rows> result{};
  for (size_t i = 0; i < Rows; ++i)
    for (size_t j = 0; j < Columns; ++j) result[j][i] = matrix[i][j];
  return result;
}

using Images = Host<float>;

template <int Size>
Matrix<Size, Size> absolute_window(const Images& x, int64_t image, int64_t top, int64_t left,
                                   int64_t channel) {
  Matrix<Size, Size> window{};
  for (int i = 0; i < Size; ++i)
    for (int j = 0; j < Size; ++j) {
      const int64_t row = top + i, column = left + j;
      if (row < 0 || row >= x.shape[1] || column < 0 || column >= x.shape[2]) continue;
      window[i][j] =
          std::abs(x.values[((image * x.shape[1] + row) * x.shape[2] + column) * x.shape[3] + channel]);
    }
  return window;
}

Matrix<3, 3> absolute_filter(const Images& kernel, int64_t c, int64_t o) {
  Matrix<3, 3> filter{};
  for (int i = 0; i < 3; ++i)
    for (int j = 0; j < 3; ++j)
      filter[i][j] = std::abs(kernel.values[((i * 3 + j) * kernel.shape[2] + c) * kernel.shape[3] + o]);
  return filter;
}

// Roundings along the longest path through two passes of a transform, the rounding of its constants included:
// every pass of input and output rounds at most 4 times, of the filter 5.
constexpr double kInput = 8, kFilter = 10, kOutput = 8;

/// A bound on the error of each output: unit roundoffs along a path, times the algorithm on absolute values.
/// (Higham, Accuracy and Stability of Numerical Algorithms, section 3; one epsilon is two unit roundoffs,
/// which covers the terms of second order.)
Images output_bound(const Images& x, const Images& kernel, const Shape& y, int pad_top, int pad_left) {
  const AbsoluteTransforms transforms;
  const int64_t depth = kernel.shape[2], columns = kernel.shape[3];
  std::vector<Matrix<6, 6>> filters;
  for (int64_t c = 0; c < depth; ++c)
    for (int64_t o = 0; o < columns; ++o)
      filters.push_back(both_sides(transforms.filter, absolute_filter(kernel, c, o)));
  Images bound(y);
  const double roundings = kInput + kFilter + static_cast<double>(depth) + kOutput + 1;
  for (int64_t image = 0; image < y[0]; ++image)
    for (int64_t top = 0; top < y[1]; top += 4)
      for (int64_t left = 0; left < y[2]; left += 4) {
        std::vector<Matrix<6, 6>> inputs;
        for (int64_t c = 0; c < depth; ++c)
          inputs.push_back(
              both_sides(transforms.input, absolute_window<6>(x, image, top - pad_top, left - pad_left, c)));
        for (int64_t o = 0; o < columns; ++o) {
          Matrix<6, 6> product{};
          for (int64_t c = 0; c < depth; ++c)
            for (int f = 0; f < 36; ++f)
              product[f / 6][f % 6] += inputs[c][f / 6][f % 6] * filters[c * columns + o][f / 6][f % 6];
          const Matrix<4, 4> out = both_sides(transforms.output, product);
          for (int i = 0; i < 4 && top + i < y[1]; ++i)
            for (int j = 0; j < 4 && left + j < y[2]; ++j)
              bound.values[((image * y[1] + top + i) * y[2] + left + j) * columns + o] =
                  static_cast<float>(out[i][j] * roundings * kEps<float>);
        }
      }
  return bound;
}

/// The same for the gradient of the kernel, a sum over tiles.
Images kernel_bound(const Images& x, const Images& dy, const Shape& kernel, int pad_top, int pad_left) {
  const AbsoluteTransforms transforms;
  const int64_t depth = kernel[2], columns = kernel[3];
  std::vector<Matrix<6, 6>> sums(depth * columns);
  double tiles = 0;
  for (int64_t image = 0; image < dy.shape[0]; ++image)
    for (int64_t top = 0; top < dy.shape[1]; top += 4)
      for (int64_t left = 0; left < dy.shape[2]; left += 4, ++tiles) {
        std::vector<Matrix<6, 6>> gradients;
        for (int64_t o = 0; o < columns; ++o)
          gradients.push_back(
              both_sides(transposed(transforms.output), absolute_window<4>(dy, image, top, left, o)));
        for (int64_t c = 0; c < depth; ++c) {
          const auto input =
              both_sides(transforms.input, absolute_window<6>(x, image, top - pad_top, left - pad_left, c));
          for (int64_t o = 0; o < columns; ++o)
            for (int f = 0; f < 36; ++f)
              sums[c * columns + o][f / 6][f % 6] += input[f / 6][f % 6] * gradients[o][f / 6][f % 6];
        }
      }
  Images bound(kernel);
  const double roundings = kInput + kOutput + tiles + kFilter + 1;
  for (int64_t c = 0; c < depth; ++c)
    for (int64_t o = 0; o < columns; ++o) {
      const Matrix<3, 3> out = both_sides(transposed(transforms.filter), sums[c * columns + o]);
      for (int tap = 0; tap < 9; ++tap)
        bound.values[(tap * depth + c) * columns + o] =
            static_cast<float>(out[tap / 3][tap % 3] * roundings * kEps<float>);
    }
  return bound;
}

/// The kernel of the convolution that backward_data is: turned by 180 degrees, channels exchanged.
Images turned(const Images& kernel) {
  const int64_t c = kernel.shape[2], o = kernel.shape[3];
  Images result({3, 3, o, c});
  for (int64_t tap = 0; tap < 9; ++tap)
    for (int64_t i = 0; i < c; ++i)
      for (int64_t j = 0; j < o; ++j)
        result.values[((8 - tap) * o + j) * c + i] = kernel.values[(tap * c + i) * o + j];
  return result;
}

Conv2dGeometry padded(int top, int bottom, int left, int right) {
  return {.pad_top = top, .pad_bottom = bottom, .pad_left = left, .pad_right = right};
}

void check_winograd(int64_t batch, int64_t h, int64_t w, int64_t in, int64_t out, const Conv2dGeometry& g) {
  CAPTURE(batch);
  CAPTURE(h);
  CAPTURE(w);
  CAPTURE(in);
  CAPTURE(out);
  CAPTURE(g.pad_top);
  const Shape y_shape = {batch, h + g.pad_top + g.pad_bottom - 2, w + g.pad_left + g.pad_right - 2, out};
  const auto x = random_host<float>({batch, h, w, in}), kernel = random_host<float>({3, 3, in, out}),
             bias = random_host<float>({out}), y = random_host<float>(y_shape),
             residual = random_host<float>(y_shape);
  using Outputs = std::vector<Images>;
  constexpr auto kMethod = ConvMethod::winograd;
  const Images sum_bound = output_bound(x, kernel, y_shape, g.pad_top, g.pad_left);
  for (const bool with_residual : {false, true}) {
    CAPTURE(with_residual);
    const Array added = with_residual ? residual.array() : Array{};
    check_entry<float>(
        {y},
        [&](const Backend& backend, const Outputs& o) {
          backend.conv2d_forward({x.array(), kernel.array(), bias.array(), o[0].array(), g, kMethod, added});
        },
        [&](const Outputs& exact) {
          Images bound = sum_bound;
          // Of adding the bias, and the residual to what differs from the result by as much as that.
          for (size_t i = 0; i < bound.values.size(); ++i) {
            const float result = std::abs(exact[0].values[i]), other = std::abs(residual.values[i]);
            bound.values[i] +=
                std::numeric_limits<float>::epsilon() * (with_residual ? 2 * result + other : result);
          }
          return Outputs{bound};
        });
  }
  check_entry<float>(
      {x},
      [&](const Backend& backend, const Outputs& o) {
        backend.conv2d_backward_data({o[0].array(), kernel.array(), {}, y.array(), g, kMethod});
      },
      [&](const Outputs&) {
        return Outputs{output_bound(y, turned(kernel), x.shape, 2 - g.pad_top, 2 - g.pad_left)};
      });
  check_entry<float>(
      {kernel},
      [&](const Backend& backend, const Outputs& o) {
        backend.conv2d_backward_kernel({x.array(), o[0].array(), {}, y.array(), g, kMethod});
      },
      [&](const Outputs&) { return Outputs{kernel_bound(x, y, kernel.shape, g.pad_top, g.pad_left)}; });
}

/// y of a forward pass on `backend`.
template <class T>
Fenced<T> forward(const Backend& backend, const Host<T>& x, const Host<T>& kernel, const Conv2dGeometry& g,
                  ConvMethod method) {
  Host<T> y({x.shape[0], (x.shape[1] + g.pad_top + g.pad_bottom - 3) / g.stride_h + 1,
             (x.shape[2] + g.pad_left + g.pad_right - 3) / g.stride_w + 1, kernel.shape[3]});
  backend.conv2d_forward({x.array(), kernel.array(), {}, y.array(), g, method});
  return y.values;
}

}  // namespace

TEST_CASE("winograd: forward and both gradients within the bound of the algorithm") {
  check_winograd(2, 8, 8, 32, 32, padded(1, 1, 1, 1));     // whole tiles
  check_winograd(3, 7, 5, 16, 48, padded(1, 1, 1, 1));     // cut tiles; one vector beside whole panels
  check_winograd(1, 1, 1, 16, 16, padded(1, 1, 1, 1));     // one pixel
  check_winograd(1, 6, 11, 48, 16, padded(0, 0, 0, 0));    // no padding
  check_winograd(2, 4, 3, 16, 16, padded(2, 2, 2, 2));     // more output than input
  check_winograd(2, 5, 6, 16, 32, padded(0, 1, 2, 0));     // uneven
  check_winograd(1, 9, 10, 80, 144, padded(1, 1, 1, 1));   // several blocks of channels, cut
  check_winograd(11, 13, 14, 16, 16, padded(1, 1, 1, 1));  // many tiles: several blocks and groups
  check_winograd(9, 16, 15, 80, 48, padded(1, 1, 1, 1));   // the same with more channels than lanes
  check_winograd(1, 5, 4, 1216, 16,
                 padded(1, 1, 1, 1));  // few tiles: several chunks of channels, and filters
  check_winograd(1, 5, 4, 16, 1216, padded(1, 1, 1, 1));  // that are finished where they are summed
}

TEST_CASE("winograd: an empty batch") {
  for_each_backend([](const Backend& backend) {
    const Images x({0, 5, 5, 16}), kernel = random_host<float>({3, 3, 16, 16});
    CHECK(forward(backend, x, kernel, padded(1, 1, 1, 1), ConvMethod::winograd).empty());
    const Images dkernel({3, 3, 16, 16}, 7.0f);
    backend.conv2d_backward_kernel(
        {x.array(), dkernel.array(), {}, x.array(), padded(1, 1, 1, 1), ConvMethod::winograd});
    CHECK(same_bits(dkernel.values, Images({3, 3, 16, 16}).values));
  });
}

TEST_CASE("winograd: other convolutions and f64 are computed directly") {
  const auto same = [](const Backend& backend, const auto& x, const auto& kernel, const Conv2dGeometry& g) {
    return same_bits(forward(backend, x, kernel, g, ConvMethod::winograd),
                     forward(backend, x, kernel, g, ConvMethod::direct));
  };
  const Images x = random_host<float>({2, 9, 9, 16}), kernel = random_host<float>({3, 3, 16, 16});
  const Images odd = random_host<float>({3, 3, 16, 17}), thin = random_host<float>({2, 9, 9, 3});
  for_each_backend([&](const Backend& backend) {
    CHECK_FALSE(same(backend, x, kernel, padded(1, 1, 1, 1)));
    Conv2dGeometry stride = padded(1, 1, 1, 1);
    stride.stride_h = stride.stride_w = 2;
    CHECK(same(backend, x, kernel, stride));
    CHECK(same(backend, x, kernel, padded(3, 1, 1, 1)));
    CHECK(same(backend, x, odd, padded(1, 1, 1, 1)));
    CHECK(same(backend, thin, random_host<float>({3, 3, 3, 16}), padded(1, 1, 1, 1)));
    CHECK(same(backend, random_host<double>({2, 9, 9, 16}), random_host<double>({3, 3, 16, 16}),
               padded(1, 1, 1, 1)));
  });
}

TEST_CASE("automatic: winograd where tiles fit the image, direct elsewhere, whatever the number of threads") {
  const Images kernel = random_host<float>({3, 3, 16, 16});
  struct Row {
    int64_t batch, size;
    ConvMethod expected;
  };
  for (const Row& row : {Row{3, 16, ConvMethod::winograd}, Row{1, 7, ConvMethod::winograd},
                         Row{1, 5, ConvMethod::direct}, Row{40, 1, ConvMethod::direct}}) {
    CAPTURE(row.batch);
    CAPTURE(row.size);
    const Images x = random_host<float>({row.batch, row.size, row.size, 16});
    for_each_backend([&](const Backend& backend) {
      CHECK(same_bits(forward(backend, x, kernel, padded(1, 1, 1, 1), ConvMethod::automatic),
                      forward(backend, x, kernel, padded(1, 1, 1, 1), row.expected)));
    });
  }
}

TEST_CASE("winograd: an image's result does not depend on the others of its batch") {
  // 16 and 96 tiles of 1216 channels: the two ways of sharing out, and several chunks of channels.
  const Images kernel = random_host<float>({3, 3, 1216, 16}), many = random_host<float>({6, 16, 13, 1216});
  Images one({1, 16, 13, 1216});
  std::copy_n(many.values.begin(), one.values.size(), one.values.begin());
  for_each_backend([&](const Backend& backend) {
    Fenced<float> all = forward(backend, many, kernel, padded(1, 1, 1, 1), ConvMethod::automatic);
    const Fenced<float> alone = forward(backend, one, kernel, padded(1, 1, 1, 1), ConvMethod::automatic);
    all.resize(alone.size());
    CHECK(same_bits(all, alone));
  });
}

TEST_CASE("winograd: NaN stays in the tiles that see it, and all of them show it") {
  Images x = random_host<float>({1, 12, 12, 16});
  x.values[(5 * 12 + 5) * 16 + 3] = std::numeric_limits<float>::quiet_NaN();
  const Images kernel = random_host<float>({3, 3, 16, 16});
  for_each_backend([&](const Backend& backend) {
    const auto y = forward(backend, x, kernel, padded(1, 1, 1, 1), ConvMethod::winograd);
    for (int i = 0; i < 12; ++i)
      for (int j = 0; j < 12; ++j) {
        const bool is_nan = std::isnan(y[(i * 12 + j) * 16]);
        if (std::abs(i - 5) <= 1 && std::abs(j - 5) <= 1) CHECK(is_nan);
        if (i / 4 != 1 || j / 4 != 1) CHECK_FALSE(is_nan);
      }
  });
}

TEST_CASE("conv_method: what conv2d and its gradients ask for") {
  const ConvMethod before = conv_method();
  const auto images = [](const Shape& shape, uint64_t stream) {
    return random_normal(shape, {.seed = 1, .stream = stream});
  };
  const Tensor x = images({2, 8, 8, 16}, 0), kernel = images({3, 3, 16, 16}, 1),
               dy = images({2, 8, 8, 16}, 2);
  const Conv2dGeometry g = padded(1, 1, 1, 1);
  const auto results = [&](ConvMethod method) {
    set_conv_method(method);
    CHECK(conv_method() == method);
    return std::vector{conv2d(x, kernel, {}, g).to_vector<float>(),
                       conv2d_backward_data(dy, kernel, 8, 8, g).to_vector<float>(),
                       conv2d_backward_kernel(x, dy, 3, 3, g).to_vector<float>()};
  };
  const auto direct = results(ConvMethod::direct), winograd = results(ConvMethod::winograd);
  for (size_t i = 0; i < 3; ++i) CHECK(direct[i] != winograd[i]);
  set_conv_method(before);
}
