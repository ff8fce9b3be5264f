// The table without fused entries (bench/unfused.h) under the tests of kernels_test.cpp, over the kernels of
// the CPU and, where a GPU answers, those of CUDA.
#include "bench/unfused.h"

#include <doctest/doctest.h>

#include <cmath>

#include "tests/kernel_check.h"
#include "tests/mirrored_backend.h"

using namespace halfstep;

namespace halfstep::test {

const bool kHostArithmetic = false;
// The mean is a plain sum: n additions one after another, whose roundings are independent, leave sqrt(n / 12)
// of them; 8 for the groups of 784 numbers.
const double kMeanRoundings = 10;
double f32_factor_rounding() { return 0; }

void for_each_backend(const std::function<void(const Backend&)>& f) {
  const auto twice = [&](const Backend& backend) {
    for (int run = 0; run < 2; ++run) f(backend);
  };
  twice(bench::unfused(cpu_backend()));
  if (const CudaProbe probe = probe_cuda(); probe.backend) twice(mirrored(bench::unfused(*probe.backend)));
}

}  // namespace halfstep::test

TEST_CASE("unfused: no call reaches a fused entry") {
  static int calls = 0;
  Backend counting = cpu_backend();
  counting.attention = [](AttentionArgs) { ++calls; };
  counting.attention_backward = [](AttentionBackwardArgs) { ++calls; };
  counting.group_norm = [](GroupNormArgs) { ++calls; };
  counting.group_norm_backward = [](GroupNormBackwardArgs) { ++calls; };
  counting.softmax_backward = [](Array, Array, Array) { ++calls; };
  counting.unary_chain = [](UnaryArgs, Array, Array, Array) { ++calls; };
  counting.adam = [](AdamArgs) { ++calls; };
  counting.sum_of_squares = [](SumOfSquaresArgs) { ++calls; };
  counting.moving_average = [](MovingAverageArgs) { ++calls; };
  const Backend table = bench::unfused(counting);
  test::Host<float> x({2, 4, 1, 8}, 1), statistics({2, 1, 4}, 1), row({1, 8}, 1), rows({2, 8}, 1);
  const Array a = x.array(), s = statistics.array(), n{a.data, DType::f32, {2, 4, 8}, {32, 8, 1}},
              group{s.data, DType::f32, {2, 2}, {2, 1}};
  const AttentionArgs attention{a, a, a, a, s, 1};
  table.attention(attention);
  table.attention_backward({attention, a, a, a, a});
  const GroupNormArgs norm{n, row.array(), row.array(), n, group, group, 2, 1e-6, Activation::silu};
  table.group_norm(norm);
  table.group_norm_backward({norm, n, n, rows.array(), rows.array()});
  table.softmax_backward(n, n, n);
  table.unary_chain({.op = UnaryOp::exp, .derivative = 1}, n, n, n);
  test::Host<double> control({4}, 1);
  const AdamParameter parameters[] = {{n, n, n, n}};
  const Array number{control.array().data, DType::f64, {}, {}};
  table.adam(
      {.list = parameters, .control = control.array(), .learning_rate = number, .beta1 = 0.9, .beta2 = 0.9});
  const AveragedArray averages[] = {{n, n}};
  table.moving_average({averages, number});
  const Array arrays[] = {n, n};
  table.sum_of_squares({arrays, number});
  CHECK(calls == 0);
  bench::unfused(cpu_backend());  // `counting` ends here
}

TEST_CASE("unfused: sums of squares") {
  const auto x = test::random_host<float>({1000}), y = test::random_host<float>({3, 7});
  double expected = 0;
  for (const auto* host : {&x, &y})
    for (const float v : host->values) expected += double{v} * v;
  test::for_each_backend([&](const Backend& backend) {
    test::Host<double> out(Shape{}, 99);
    const Array arrays[] = {x.array(), y.array()};
    backend.sum_of_squares({arrays, out.array()});
    // Both sums round once per term.
    CHECK(std::abs(out.values[0] - expected) <= 1021 * test::kEps<double> * expected);
    backend.sum_of_squares({{}, out.array()});
    CHECK(out.values[0] == 0);
  });
}
