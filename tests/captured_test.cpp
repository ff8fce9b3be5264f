// Recorded work: what it computes, where its memory is, and what is refused; on a device whose calls are
// queued. (cuda_test.cpp has the same on a GPU, real or emulated.)
#include "tensor/captured.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <functional>
#include <string>
#include <vector>

#include "tensor/device.h"
#include "tensor/error.h"
#include "tensor/ops.h"
#include "tests/error_of.h"
#include "tests/unreadable_backend.h"

using namespace halfstep;
using halfstep::test::error_of;

namespace {

TensorOptions on_device() { return {DType::f32, &unreadable_device()}; }

/// x^2 + y, by way of a tensor that is gone afterwards; counts how often it is run.
struct SquarePlus {
  int runs = 0;
  std::vector<Tensor> operator()(const std::vector<Tensor>& in) {
    ++runs;
    const Tensor square = multiply(in[0], in[0]);
    return {in[1].defined() ? add(square, in[1]) : affine(square, 1, 0)};
  }
};

std::vector<double> squares_plus(double x, double y, size_t n) { return std::vector<double>(n, x * x + y); }

/// A call with x and y everywhere.
std::vector<double> call(Captured& captured, SquarePlus& function, double x, double y, const Shape& shape) {
  return captured({Tensor::full(shape, x, on_device()), Tensor::full(shape, y, on_device())},
                  std::ref(function))[0]
      .to_vector<double>();
}

}  // namespace

TEST_CASE("captured: run, recorded, and then repeated with the inputs of each call") {
  Captured captured;
  SquarePlus function;
  const int64_t before = unreadable_device().statistics().graph_launches;
  for (int i = 0; i < 5; ++i) {
    CAPTURE(i);
    CHECK(call(captured, function, i, 0.5, {3}) == squares_plus(i, 0.5, 3));
    CHECK(captured.recorded() == (i > 0));
    CHECK(function.runs == std::min(i + 1, 2));
    CHECK(unreadable_device().statistics().graph_launches - before == i);
  }
  captured.reset();
  CHECK(call(captured, function, 7, 1, {3}) == squares_plus(7, 1, 3));
  CHECK_FALSE(captured.recorded());
  CHECK(function.runs == 3);
}

TEST_CASE("captured: other shapes, or other inputs that are defined, are recorded anew") {
  Captured captured;
  SquarePlus function;
  for (int i = 0; i < 3; ++i) call(captured, function, i, 0, {3});
  for (int i = 0; i < 3; ++i) CHECK(call(captured, function, i, 2, {2, 2}) == squares_plus(i, 2, 4));
  CHECK(function.runs == 4);
  for (int i = 0; i < 3; ++i) {
    const Tensor x = Tensor::full({2, 2}, i, on_device());
    CHECK(captured({x, {}}, std::ref(function))[0].to_vector<double>() == squares_plus(i, 0, 4));
  }
  CHECK(function.runs == 6);
  CHECK(captured.recorded());
}

TEST_CASE("captured: inputs may live elsewhere and have any strides") {
  Captured captured;
  SquarePlus function;
  const Tensor y = Tensor::from(std::vector<double>{1, 2, 3, 4, 5, 6}, {3, 2}, on_device()).transpose(0, 1);
  for (int i = 0; i < 3; ++i) {
    const Tensor x = Tensor::full({2, 3}, i, on_device());
    const std::vector<double> expected = add(multiply(x, x), y).to_vector<double>();
    // From the second call on y comes from the host.
    const Tensor given = i == 0 ? y : y.to(cpu_device());
    CHECK(captured({x, given}, std::ref(function))[0].to_vector<double>() == expected);
  }
}

TEST_CASE("captured: nobody else gets the memory of recorded work") {
  Captured captured;
  SquarePlus function;
  for (int i = 0; i < 2; ++i) call(captured, function, i, 0, {100});
  // Of the class of every temporary; a launch would write into them.
  std::vector<Tensor> others;
  for (int i = 0; i < 8; ++i) others.push_back(Tensor::full({100}, 10 + i, on_device()));
  CHECK(call(captured, function, 3, 0, {100}) == squares_plus(3, 0, 100));
  for (int i = 0; i < 8; ++i)
    CHECK(others[static_cast<size_t>(i)].to_vector<double>() == std::vector<double>(100, 10.0 + i));

  // A result outlives the recording.
  Tensor result = captured({others[0], others[1]}, std::ref(function))[0];
  captured.reset();
  for (int i = 0; i < 8; ++i) others[static_cast<size_t>(i)] = Tensor::zeros({100}, on_device());
  CHECK(result.to_vector<double>() == squares_plus(10, 11, 100));
}

TEST_CASE("captured: what it changes in place stays changed, and a second graph has memory of its own") {
  const Tensor total = Tensor::zeros({3}, on_device());
  Captured adding, doubling;
  const auto add_to_total = [&](const std::vector<Tensor>& in) {
    binary_(BinaryOp::add, total, in[0]);
    return std::vector<Tensor>{};
  };
  const auto twice = [](const std::vector<Tensor>& in) { return std::vector<Tensor>{add(in[0], in[0])}; };
  double expected = 0;
  for (int i = 0; i < 4; ++i) {
    const std::vector<Tensor> doubled = doubling({Tensor::full({3}, i, on_device())}, twice);
    adding(doubled, add_to_total);
    expected += 2 * i;
  }
  CHECK(total.to_vector<double>() == std::vector<double>(3, expected));
}

TEST_CASE("captured: an error leaves the device as it was, and names what was done") {
  const Tensor outside = Tensor::ones({2}, on_device());
  Captured captured;
  bool wrong = true;
  const auto attempt = [&](const std::function<void(const Tensor&)>& wrongdoing) {
    const auto function = [&](const std::vector<Tensor>& in) {
      const Tensor twice = add(in[0], in[0]);
      if (wrong) wrongdoing(twice);
      return std::vector<Tensor>{twice};
    };
    captured.reset();
    wrong = false;
    captured({outside}, function);
    wrong = true;
    const std::string error = error_of([&] { captured({outside}, function); });
    CHECK_FALSE(captured.recorded());
    wrong = false;
    for (int i = 0; i < 3; ++i)
      CHECK(captured({outside}, function)[0].to_vector<double>() == std::vector<double>{2, 2});
    return error;
  };
  CHECK(attempt([](const Tensor& t) { t.to_vector<double>(); }).starts_with("[download] expected work"));
  CHECK(attempt([](const Tensor& t) {
          Tensor::from(std::vector<float>{1}, {1}, t.options());
        }).starts_with("[upload] expected work"));
  CHECK(
      attempt([](const Tensor& t) { t.device().synchronize(); }).starts_with("[synchronize] expected work"));
  CHECK(attempt([](const Tensor&) { fail("test", "expected this"); }) == "[test] expected this");
}

TEST_CASE("captured: without graphs, or with graphs switched off, each call runs the function") {
  Captured captured;
  SquarePlus function;
  for (int i = 0; i < 4; ++i) {
    const Tensor x = Tensor::full({3}, i);
    CHECK(captured({x, x}, std::ref(function))[0].to_vector<double>() == squares_plus(i, i, 3));
    CHECK_FALSE(captured.recorded());
  }
  CHECK(function.runs == 4);
  CHECK_FALSE(cpu_device().uses_graphs());
  CHECK(unreadable_device().uses_graphs());
  unreadable_device().use_graphs(false);
  for (int i = 0; i < 4; ++i) CHECK(call(captured, function, i, 1, {3}) == squares_plus(i, 1, 3));
  CHECK(function.runs == 8);
  unreadable_device().use_graphs(true);
}
