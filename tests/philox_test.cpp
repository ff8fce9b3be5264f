#include "tensor/philox.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <bit>
#include <cmath>

#include "tensor/ops.h"
#include "tests/unreadable_backend.h"

using namespace halfstep;

TEST_CASE("Philox 4x32-10 gives the published known answers (Random123, kat_vectors)") {
  struct Known {
    philox::Block counter;
    uint32_t key0, key1;
    uint32_t expected[4];
  };
  const Known known[] = {
      {{{0, 0, 0, 0}}, 0, 0, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
      {{{~0u, ~0u, ~0u, ~0u}}, ~0u, ~0u, {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
      {{{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}},
       0xa4093822,
       0x299f31d0,
       {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
  };
  for (const Known& k : known) {
    const auto got = philox::philox4x32_10(k.counter, k.key0, k.key1);
    for (int i = 0; i < 4; ++i) CHECK(got.word[i] == k.expected[i]);
  }
}

TEST_CASE("the polynomials of the normal transform agree with libm to f32 accuracy") {
  double log_error = 0, angle_error = 0;
  for (uint32_t i = 1; i < 200000; ++i) {
    const uint32_t word = i * 2654435761u;
    const float u = (static_cast<float>(word) + 0.5f) * 0x1p-32f;
    const double expected = std::log(double{u});
    log_error = std::max(log_error, std::abs(philox::log(u) - expected) / std::max(std::abs(expected), 1e-3));
    float c, s;
    philox::cos_sin(word, c, s);
    const double angle = 2 * M_PI * word * 0x1p-32;
    angle_error =
        std::max({angle_error, double{std::abs(c - std::cos(angle))}, double{std::abs(s - std::sin(angle))}});
  }
  CHECK(log_error <= 4 * 0x1p-24 * 2);  // a few roundings
  CHECK(angle_error <= 4 * 0x1p-24);
}

TEST_CASE("normals have the moments of N(0, 1), uniforms those of U[0, 1)") {
  const int64_t n = 1 << 20;
  const auto z = random_normal({n}, {123, 0}).to_vector<double>();
  double m1 = 0, m2 = 0, m3 = 0, m4 = 0;
  for (double v : z) {
    m1 += v;
    m2 += v * v;
    m3 += v * v * v;
    m4 += v * v * v * v;
  }
  // Five standard errors: sqrt(1, 2, 15, 96) / sqrt(n).
  const double unit = 5 / std::sqrt(static_cast<double>(n));
  CHECK(std::abs(m1 / n) <= unit);
  CHECK(std::abs(m2 / n - 1) <= unit * std::sqrt(2));
  CHECK(std::abs(m3 / n) <= unit * std::sqrt(15));
  CHECK(std::abs(m4 / n - 3) <= unit * std::sqrt(96));
  double sum = 0, lowest = 1, highest = 0;
  for (double v : random_uniform({n}, {123, 0}).to_vector<double>()) {
    sum += v;
    lowest = std::min(lowest, v);
    highest = std::max(highest, v);
  }
  CHECK(std::abs(sum / n - 0.5) <= unit / std::sqrt(12));
  CHECK(lowest >= 0);
  CHECK(highest < 1);
}

TEST_CASE("numbers are indexed by row and element: splitting a draw changes nothing") {
  const RandomKey key{7, 11};
  const Tensor all = random_normal({6, 5, 3}, key);
  for (int64_t row = 0; row < 6; ++row)
    CHECK(random_normal({1, 5, 3}, key, static_cast<uint64_t>(row)).to_vector<float>() ==
          all.slice(0, row, row + 1).to_vector<float>());
  CHECK(random_normal({6, 5, 3}, {7, 12}).to_vector<float>() != all.to_vector<float>());
  CHECK(random_normal({6, 5, 3}, {8, 11}).to_vector<float>() != all.to_vector<float>());
}

TEST_CASE("every device draws the same bits, in f32 and f64") {
  const RandomKey key{99, 1};
  for (DType dtype : {DType::f32, DType::f64})
    for (Device* device : {&cpu_device(), &unreadable_device()}) {
      const auto expected =
          random_normal({5, 1001}, key, 3, {dtype, &reference_device()}).to_vector<double>();
      CHECK(random_normal({5, 1001}, key, 3, {dtype, device}).to_vector<double>() == expected);
      const Tensor x = Tensor::ones({1001}, {dtype, device}),
                   y = Tensor::ones({1001}, {dtype, &reference_device()});
      CHECK(dropout(x, 0.3, key).to_vector<double>() == dropout(y, 0.3, key).to_vector<double>());
    }
}

TEST_CASE("dropout: the row of the mask is read on the device") {
  const RandomKey key{99, 1};
  const int64_t n = 1001, row = 77;
  for (DType dtype : {DType::f32, DType::f64})
    for (Device* device : {&cpu_device(), &reference_device(), &unreadable_device()}) {
      const TensorOptions options{dtype, device};
      const Tensor number = Tensor::zeros({}, {DType::i64, device});
      const Tensor x = Tensor::ones({n}, options);
      CHECK(dropout(x, 0.25, key, number).to_vector<double>() == dropout(x, 0.25, key).to_vector<double>());
      number.fill_(static_cast<double>(row));
      const auto y = dropout(x, 0.25, key, number).to_vector<double>();
      const auto u = random_uniform({1, n}, key, row, options).to_vector<double>();
      const auto kept = dtype == DType::f32 ? static_cast<double>(1.0f / 0.75f) : 1 / 0.75;
      for (size_t i = 0; i < y.size(); ++i) CHECK(y[i] == (u[i] >= 0.25 ? kept : 0));
    }
}

TEST_CASE("normals are pinned: these bits may never change, or old runs could not be repeated") {
  // Box-Muller in double from the same words gives 0.3804007340, -0.2962778897, -0.2492334241, -1.0038372517.
  const uint32_t pinned[4] = {0x3ec2c3e4, 0xbe97b1be, 0xbe7f370d, 0xbf807dbd};
  const auto z = random_normal({1, 4}, {1, 0}).to_vector<float>();
  for (size_t i = 0; i < 4; ++i) CHECK(std::bit_cast<uint32_t>(z[i]) == pinned[i]);
}

TEST_CASE("dropout keeps the mean and replays its mask") {
  const int64_t n = 100000;
  const Tensor x = Tensor::ones({n});
  const Tensor y = dropout(x, 0.25, {5, 5});
  CHECK(std::abs(mean(y).item() - 1) <= 5 * std::sqrt(0.25 / 0.75 / static_cast<double>(n)));
  CHECK(dropout(x, 0.25, {5, 5}).to_vector<float>() == y.to_vector<float>());
}
