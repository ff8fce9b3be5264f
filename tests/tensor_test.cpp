// Values: creation, views, conversion, the allocator, and the errors of misuse.
#include "tensor/tensor.h"

#include <doctest/doctest.h>

#include <cmath>
#include <functional>
#include <limits>

#include "tensor/ops.h"
#include "tests/error_of.h"

using namespace halfstep;
using halfstep::test::error_of;

namespace {
Tensor iota(const Shape& shape, TensorOptions options = {}) {
  std::vector<double> v(static_cast<size_t>(numel(shape)));
  for (size_t i = 0; i < v.size(); ++i) v[i] = static_cast<double>(i);
  return Tensor::from(v, shape, options);
}
using Doubles = std::vector<double>;
}  // namespace

TEST_CASE("views share memory; their writes count as changes of the whole storage") {
  const Tensor x = iota({2, 3});
  const Tensor column = x.slice(1, 1, 2);
  CHECK(column.to_vector<double>() == Doubles{1, 4});
  CHECK(column.shares_storage(x));
  const uint64_t before = x.version();
  column.fill_(9);
  CHECK(x.to_vector<double>() == Doubles{0, 9, 2, 3, 9, 5});
  CHECK(x.version() == before + 1);
  CHECK(x.transpose(0, 1).to_vector<double>() == Doubles{0, 3, 9, 9, 2, 5});
  CHECK(x.slice(0, -1, 2).to_vector<double>() == Doubles{3, 9, 5});
  CHECK(x.clone().shares_storage(x) == false);
}

TEST_CASE("reshape is a view exactly where the strides allow it") {
  const Tensor x = iota({2, 3, 4});
  CHECK(x.reshape({6, 4}).shares_storage(x));
  CHECK(x.reshape({2, -1}).shape() == Shape{2, 12});
  CHECK(x.reshape({1, 2, 1, 3, 4, 1}).shares_storage(x));
  const Tensor t = x.transpose(0, 1);  // [3, 2, 4]
  CHECK(t.reshape({3, 2, 2, 2}).shares_storage(x));
  CHECK_FALSE(t.reshape({6, 4}).shares_storage(x));
  CHECK(t.reshape({24}).to_vector<double>() == t.to_vector<double>());
  // A broadcast axis merges with nothing but itself.
  const Tensor e = iota({3}).unsqueeze(1).expand({3, 4});
  CHECK(e.reshape({12}).to_vector<double>() == Doubles{0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2});
  CHECK(x.slice(2, 0, 2).reshape({2, 3, 2}).to_vector<double>() == x.slice(2, 0, 2).to_vector<double>());
  CHECK(Tensor::zeros({0, 3}).reshape({3, 0}).shape() == Shape{3, 0});
}

TEST_CASE("broadcasting, reductions and concatenation") {
  const Tensor a = iota({2, 1}), b = iota({3});
  CHECK(add(a, b).to_vector<double>() == Doubles{0, 1, 2, 1, 2, 3});
  CHECK(sum(iota({2, 3}), {0}).to_vector<double>() == Doubles{3, 5, 7});
  CHECK(sum(iota({2, 3}), {1}, true).shape() == Shape{2, 1});
  CHECK(mean(iota({2, 3})).item() == 2.5);
  CHECK(max(iota({2, 3}), {0}).to_vector<double>() == Doubles{3, 4, 5});
  CHECK(sum_to(iota({2, 3}), {3}).to_vector<double>() == Doubles{3, 5, 7});
  CHECK(sum_of_squares({iota({3}), iota({2, 2})}).item() == 5 + 14);
  CHECK(sum_of_squares({iota({3})}).dtype() == DType::f64);
  CHECK(concat({iota({2, 1}), iota({2, 2})}, 1).to_vector<double>() == Doubles{0, 0, 1, 1, 2, 3});
}

TEST_CASE("f32 sums of many equal terms stay accurate") {
  // Plain left-to-right summation of 2^24 ones and more would stop growing.
  const int64_t n = (1 << 24) + 1000;
  for (Device* device : {&cpu_device(), &reference_device()})
    CHECK(sum(Tensor::ones({n}, {DType::f32, device})).item() ==
          doctest::Approx(static_cast<double>(n)).epsilon(1e-6));
}

TEST_CASE("dtypes convert; bf16 rounds to nearest even and keeps NaN") {
  const Tensor x = Tensor::from(std::vector<double>{1, 1 + 0x1p-8, 1 + 3 * 0x1p-8, -2.5, 1e30}, {5});
  const auto b = x.to(DType::bf16).to_vector<double>();
  CHECK(b[0] == 1);
  CHECK(b[1] == 1);  // a tie goes to the even neighbour
  CHECK(b[2] == 1 + 4 * 0x1p-8);
  CHECK(b[3] == -2.5);
  CHECK(b[4] == doctest::Approx(1e30).epsilon(0x1p-8));
  const double nan = std::numeric_limits<double>::quiet_NaN();
  CHECK(std::isnan(Tensor::scalar(nan).to(DType::bf16).item()));
  CHECK(Tensor::from(std::vector<int64_t>{3, -4}, {2}, {DType::i64, &cpu_device()})
            .to(DType::f32)
            .to_vector<double>() == Doubles{3, -4});
}

TEST_CASE("moving between devices keeps values; strided sources too") {
  const Tensor x = iota({3, 4}).transpose(0, 1);
  const Tensor y = x.to(reference_device());
  CHECK(&y.device() == &reference_device());
  CHECK(y.to_vector<double>() == x.to_vector<double>());
}

TEST_CASE("the allocator recycles, counts and forgets") {
  Device device(reference_backend());
  const TensorOptions on{DType::f32, &device};
  {
    const Tensor a = Tensor::zeros({1000}, on);
    CHECK(device.allocator.current_bytes() >= 4000);
    const Tensor b = Tensor::zeros({1000}, on);
    CHECK(device.allocator.peak_bytes() >= 8000);
  }
  CHECK(device.allocator.current_bytes() == 0);
  const size_t reserved = device.allocator.reserved_bytes();
  { const Tensor c = Tensor::zeros({1000}, on); }
  CHECK(device.allocator.reserved_bytes() == reserved);  // served from the cache
  device.allocator.trim();
  CHECK(device.allocator.reserved_bytes() == 0);
  device.allocator.reset_peak();
  CHECK(device.allocator.peak_bytes() == 0);
}

TEST_CASE("misuse is answered with [op] what was expected, what came, a hint") {
  const Tensor m43 = iota({4, 3}), m52 = iota({5, 2});
  const Tensor f64 = iota({4, 3}, {DType::f64, &cpu_device()});
  const Tensor elsewhere = iota({4, 3}, {DType::f32, &reference_device()});
  const Tensor labels = Tensor::zeros({2}, {DType::i64, &cpu_device()});
  struct Row {
    std::function<void()> call;
    const char* message;
  };
  const Row rows[] = {
      {[&] { matmul(m43, m52); },
       "[matmul] inner sizes differ: (4, 3) x (5, 2); is one operand to be transposed?"},
      {[&] { matmul(iota({3}), m43); },
       "[matmul] expected matrices, got (3,) x (4, 3); add an axis with unsqueeze"},
      {[&] { add(m43, m52); },
       "[add] shapes do not broadcast: (4, 3) and (5, 2); sizes must be equal or 1, aligned at the last "
       "axis"},
      {[&] { add(m43, f64); }, "[add] dtypes differ: f32 and f64; convert one with to(dtype)"},
      {[&] { multiply(m43, elsewhere); },
       "[multiply] devices differ: 'cpu' and 'reference'; move one with to(device)"},
      {[&] { affine(labels, 2, 0); }, "[affine] expected f32, f64 or bf16, got i64; convert with to(dtype)"},
      {[&] { sum(m43, {2}); }, "[sum] axis 2 is outside -2..1 of a tensor with 2 axes"},
      {[&] {
         m43.reshape({5, -1});
       },
       "[reshape] (4, 3) has 12 elements and does not fit (5, -1)"},
      {[&] {
         m43.reshape({-1, -1});
       },
       "[reshape] at most one size may be -1, got (-1, -1)"},
      {[&] {
         m43.expand({4, 4});
       },
       "[expand] (4, 3) does not broadcast to (4, 4); sizes must be equal or 1, aligned at the last axis"},
      {[&] { m43.slice(0, 3, 9); }, "[slice] range 3..9 is outside axis 0 of (4, 3)"},
      {[&] {
         m43.permute({0, 0});
       },
       "[permute] expected each axis once, got axis 0 twice"},
      {[&] { m43.item(); }, "[item] expected one element, got shape (4, 3)"},
      {[&] { Tensor().clone(); }, "[tensor] expected a tensor, got an undefined one (default-constructed)"},
      {[&] {
         Tensor::from(Doubles{1, 2}, {3});
       },
       "[from] expected 3 values for shape (3,), got 2"},
      {[&] {
         Tensor::empty({2, -3});
       },
       "[empty] sizes must not be negative, got (2, -3)"},
      {[&] {
         concat({m43, m52}, 0);
       },
       "[concat] parts differ outside axis 0: (4, 3) and (5, 2)"},
      {[&] {
         conv2d(iota({1, 4, 4, 3}), iota({3, 3, 2, 5}), {}, {});
       },
       "[conv2d] channels differ: image (1, 4, 4, 3) and kernel (3, 3, 2, 5) (HWIO)"},
      {[&] {
         conv2d(iota({1, 2, 2, 3}), iota({3, 3, 3, 5}), {}, {});
       },
       "[conv2d] the kernel 3 x 3 is larger than the padded image 2 x 2"},
      {[&] {
         group_norm(iota({1, 2, 6}), iota({6}), iota({6}), 4, 1e-6, Activation::none);
       },
       "[group_norm] 6 channels do not divide into 4 groups"},
      {[&] {
         attention(iota({1, 2, 1, 3}), iota({1, 2, 1, 4}), iota({1, 2, 1, 4}), 1);
       },
       "[attention] expected q [B, L, H, D] and k, v [B, S, H, D], got (1, 2, 1, 3), (1, 2, 1, 4) and (1, 2, "
       "1, 4)"},
      {[&] { dropout(m43, 1, {}); }, "[dropout] expected a probability in [0, 1), got 1"},
      {[&] { m43.copy_(elsewhere); },
       "[copy_] expected a tensor on 'cpu', got one on 'reference'; use to(device)"},
      {[&] { device_by_name("gpu"); }, "[device] expected cpu, cuda, auto or reference, got 'gpu'"},
      {[&] { dtype_by_name("half"); }, "[dtype] expected f32, f64, bf16 or i64, got 'half'"},
      {[&] { Dims::filled(9, 1); }, "[shape] at most 8 axes are supported, got one more"},
  };
  for (const Row& row : rows) CHECK(error_of(row.call) == row.message);
}
