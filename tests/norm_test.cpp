// Layer norm, instance norm and einsum: values by loops.
#include <doctest/doctest.h>

#include <cmath>

#include "autograd/ops.h"

using namespace halfstep;

namespace {

Variable normal(const Shape& shape, uint64_t stream, Device& device, double mean = 0) {
  return Variable(affine(random_normal(shape, {6, stream}, 0, {DType::f64, &device}), 1, mean));
}

std::vector<double> values(const Variable& v) { return v.value().to_vector<double>(); }

/// (x - mean) / sqrt(variance + eps) of the elements first, first + step, ... (count of them).
std::vector<double> normalized(const std::vector<double>& x, size_t first, size_t step, size_t count,
                               double eps) {
  double mean = 0, variance = 0;
  for (size_t i = 0; i < count; ++i) mean += x[first + i * step] / static_cast<double>(count);
  for (size_t i = 0; i < count; ++i)
    variance += std::pow(x[first + i * step] - mean, 2) / static_cast<double>(count);
  std::vector<double> h(count);
  for (size_t i = 0; i < count; ++i) h[i] = (x[first + i * step] - mean) / std::sqrt(variance + eps);
  return h;
}

}  // namespace

TEST_CASE("layer_norm: rows of the last axis, by loops; many rows far from 0") {
  for (Device* device : {&reference_device(), &cpu_device()})
    for (const Shape& shape : {Shape{4, 3, 7}, Shape{5}, Shape{700, 1, 6}, Shape{3, 1}, Shape{0, 4}}) {
      CAPTURE(str(shape));
      const size_t c = static_cast<size_t>(shape.back());
      const Variable x = normal(shape, 1, *device, 100), gain = normal({shape.back()}, 2, *device),
                     bias = normal({shape.back()}, 3, *device);
      const auto in = values(x), g = values(gain), b = values(bias);
      const auto full = values(layer_norm(x, gain, bias)), bare = values(layer_norm(x, {}, {}, 1e-3));
      for (size_t row = 0; row * c < in.size(); ++row) {
        const auto h = normalized(in, row * c, 1, c, 1e-5), h_bare = normalized(in, row * c, 1, c, 1e-3);
        // x - mean carries the rounding of numbers near 100, which eps may enlarge by up to 1 / sqrt(1e-5).
        for (size_t i = 0; i < c; ++i) {
          CHECK(std::abs(full[row * c + i] - (h[i] * g[i] + b[i])) <= 1e-10);
          CHECK(std::abs(bare[row * c + i] - h_bare[i]) <= 1e-10);
        }
      }
    }
}

TEST_CASE("instance_norm: the pixels of each example and channel, by loops") {
  for (Device* device : {&reference_device(), &cpu_device()}) {
    const size_t batch = 3, pixels = 10, c = 4;
    const Variable x = normal({3, 5, 2, 4}, 1, *device), gain = normal({4}, 2, *device),
                   bias = normal({3, 4}, 3, *device);
    const auto in = values(x), g = values(gain), b = values(bias);
    const auto full = values(instance_norm(x, gain, bias, 1e-2)), bare = values(instance_norm(x, {}, {}));
    for (size_t e = 0; e < batch; ++e)
      for (size_t k = 0; k < c; ++k) {
        const size_t first = e * pixels * c + k;
        const auto h = normalized(in, first, c, pixels, 1e-2),
                   h_bare = normalized(in, first, c, pixels, 1e-5);
        for (size_t i = 0; i < pixels; ++i) {
          CHECK(std::abs(full[first + i * c] - (h[i] * g[k] + b[e * c + k])) <= 1e-13);
          CHECK(std::abs(bare[first + i * c] - h_bare[i]) <= 1e-13);
        }
      }
  }
}

TEST_CASE("einsum: by loops over all letters") {
  Device& device = cpu_device();
  const Variable a = normal({2, 3, 4, 5}, 1, device), b = normal({2, 6, 4, 5}, 2, device);
  const auto x = values(a), y = values(b);
  // Attention scores: sum over d.
  const Variable scores = einsum("bqhd,bkhd->bhqk", a, b);
  REQUIRE(scores.shape() == Shape{2, 4, 3, 6});
  const auto got = values(scores);
  size_t n = 0;
  for (size_t i = 0; i < 2; ++i)
    for (size_t h = 0; h < 4; ++h)
      for (size_t q = 0; q < 3; ++q)
        for (size_t k = 0; k < 6; ++k) {
          double sum = 0;
          for (size_t d = 0; d < 5; ++d)
            sum += x[((i * 3 + q) * 4 + h) * 5 + d] * y[((i * 6 + k) * 4 + h) * 5 + d];
          CHECK(std::abs(got[n++] - sum) <= 1e-14);
        }
  // q, k and d summed away: separately in each operand but for d.
  const auto per_head = values(einsum(" bqhd , bkhd -> hb ", a, b));
  for (size_t h = 0; h < 4; ++h)
    for (size_t i = 0; i < 2; ++i) {
      double sum = 0;
      for (size_t q = 0; q < 3; ++q)
        for (size_t k = 0; k < 6; ++k)
          for (size_t d = 0; d < 5; ++d)
            sum += x[((i * 3 + q) * 4 + h) * 5 + d] * y[((i * 6 + k) * 4 + h) * 5 + d];
      CHECK(std::abs(per_head[h * 2 + i] - sum) <= 1e-12);
    }
  CHECK(values(einsum("bqhd->hdbq", a)) == values(permute(a, {2, 3, 0, 1})));
  CHECK(values(einsum("bqhd->dq", a)) == values(permute(sum(a, {0, 2}), {1, 0})));
  CHECK(values(einsum("abcd,abcd->abcd", a, a)) == values(multiply(a, a)));
  CHECK(std::abs(einsum("abcd,abcd->", a, a).item() - sum(multiply(a, a)).item()) <= 1e-11);
  CHECK(einsum("ij,jk->ik", Variable(Tensor::zeros({2, 0})), Variable(Tensor::zeros({0, 3}))).shape() ==
        Shape{2, 3});
}
