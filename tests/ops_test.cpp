// Runs the case table: every operation on every device, in both dtypes, layouts and orders of
// differentiation.
#include <doctest/doctest.h>

#include <cmath>
#include <fstream>
#include <iterator>
#include <limits>
#include <map>
#include <regex>
#include <set>

#include "autograd/cases/op_cases.h"
#include "autograd/composed.h"
#include "autograd/gradcheck.h"
#include "autograd/ops.h"
#include "tensor/cpu/cpu_backend.h"
#include "tensor/error.h"
#include "tests/case_results.h"
#include "tests/unreadable_backend.h"

using namespace halfstep;
using namespace halfstep::test;

namespace {

/// A device with the kernels of one instruction set.
Device& isa_device(Isa isa) {
  static auto& devices = *new std::map<Isa, Device*>;  // never destroyed: it keeps the devices reachable
  Device*& device = devices[isa];
  if (!device) device = new Device(cpu_backend_for(isa));
  return *device;
}

std::vector<Isa> isas_here() {
  std::vector<Isa> found;
  for (Isa isa : {Isa::portable, Isa::avx2, Isa::avx512})
    if (is_supported(isa)) found.push_back(isa);
  return found;
}

constexpr DType kDTypes[] = {DType::f32, DType::f64};

}  // namespace

TEST_CASE("every operation of autograd/ops.h has a row in the case table") {
  std::ifstream file(HALFSTEP_TESTS_DIR "/../autograd/ops.h");
  const std::string header{std::istreambuf_iterator<char>(file), {}};
  std::set<std::string> declared, with_row;
  // A declaration starts its line with the result's type; operators are shorthands of what is declared.
  const std::regex declaration(
      "(^|\n)(Variable|std::vector<Variable>|std::pair<Variable, Variable>) (\\w+)\\(");
  for (std::sregex_iterator it(header.begin(), header.end(), declaration), end; it != end; ++it)
    declared.insert((*it)[3]);
  for (const OpCase& c : op_cases()) with_row.insert(op_of(c));
  REQUIRE(declared.size() >= 40);
  for (const std::string& op : declared) CHECK_MESSAGE(with_row.count(op) == 1, op, " has no row");
  for (const std::string& op : with_row)
    CHECK_MESSAGE(declared.count(op) == 1, "a row begins with '", op, "', which is no operation");
}

TEST_CASE("a NaN among the errors is the worst, wherever it stands") {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  for (const std::vector<double>& errors : {std::vector{nan, 0.1}, {0.1, nan}, {0.1, nan, 0.2}}) {
    double worst = 0;
    for (double e : errors) keep_worst(worst, e);
    CHECK(std::isnan(worst));
  }
}

TEST_CASE("names of rows are unique") {
  std::set<std::string> names;
  for (const OpCase& c : op_cases()) CHECK_MESSAGE(names.insert(c.name).second, c.name);
}

TEST_CASE("gradients agree with differences in f64") {
  for (Device* device : {&reference_device(), &cpu_device()})
    for (const OpCase& c : op_cases()) {
      CAPTURE(c.name);
      CAPTURE(device->name());
      const auto inputs = make_inputs(c, {DType::f64, device});
      const auto report = gradcheck(c.function, inputs, {.mode = GradcheckMode::full});
      CHECK_MESSAGE(report.ok, report.message);
      CHECK(report.checked > 0);
      const auto direction = gradcheck(c.function, inputs, {.mode = GradcheckMode::random_direction});
      CHECK_MESSAGE(direction.ok, direction.message);
    }
}

TEST_CASE("f32 gradients agree with differences in f64") {
  for (const OpCase& c : op_cases()) {
    CAPTURE(c.name);
    const auto report = gradcheck(c.function, make_inputs(c, {DType::f32, &cpu_device()}));
    CHECK_MESSAGE(report.ok, report.message);
    CHECK(report.differences == DType::f64);
  }
}

TEST_CASE("gradients of gradients agree with differences in f64") {
  for (const OpCase& c : op_cases()) {
    if (!c.second_order) continue;
    CAPTURE(c.name);
    const auto report = gradgradcheck(c.function, make_inputs(c, {DType::f64, &cpu_device()}));
    CHECK_MESSAGE(report.ok, report.message);
  }
}

TEST_CASE("every instruction set and the unreadable device agree with reference, forward and backward") {
  for (const OpCase& c : op_cases()) {
    CAPTURE(c.name);
    for (DType dtype : kDTypes) {
      const auto expected = case_results(c, make_inputs(c, {dtype, &reference_device()}, true));
      for (Isa isa : isas_here()) {
        CAPTURE(name_of(isa));
        check_all_close(case_results(c, make_inputs(c, {dtype, &isa_device(isa)}, true)), expected,
                        rounding_bound(c, expected, dtype));
      }
      const auto unreadable = case_results(c, make_inputs(c, {dtype, &unreadable_device()}, true));
      CHECK(unreadable == expected);  // the same kernels: the same bits
    }
  }
}

TEST_CASE("awkward sizes: every instruction set agrees with reference") {
  size_t enlarged = 0;
  for (const OpCase& c : op_cases()) {
    CAPTURE(c.name);
    const auto all_shapes = larger_inputs(c);
    enlarged += !all_shapes.empty();
    for (const auto& shapes : all_shapes)
      for (DType dtype : kDTypes) {
        const auto expected = case_results(c, make_inputs(c, shapes, {dtype, &reference_device()}, true));
        for (Isa isa : isas_here()) {
          CAPTURE(name_of(isa));
          check_all_close(case_results(c, make_inputs(c, shapes, {dtype, &isa_device(isa)}, true)), expected,
                          rounding_bound(c, expected, dtype));
        }
      }
  }
  CHECK(5 * enlarged >= 4 * op_cases().size());  // the others hold sizes of their own
}

TEST_CASE("any layout of the inputs gives the same results") {
  for (const OpCase& c : op_cases())
    for (InputLayout layout : kInputLayouts) {
      CAPTURE(c.name);
      CAPTURE(name_of(layout));
      for (DType dtype : kDTypes) {
        const auto inputs = make_inputs(c, {dtype, &reference_device()}, true);
        std::vector<Variable> plain;
        for (const Variable& v : inputs) plain.emplace_back(with_layout(v.value(), layout).clone(), true);
        const auto expected = case_results(c, plain);
        for (Device* device : {&reference_device(), &cpu_device(), &unreadable_device()}) {
          std::vector<Variable> laid;
          for (const Variable& v : inputs)
            laid.emplace_back(with_layout(v.value().to(*device), layout), true);
          check_all_close(case_results(c, laid), expected, rounding_bound(c, expected, dtype));
        }
      }
    }
}

TEST_CASE("layouts are what they say") {
  const Tensor x = random_normal({3, 1, 4}, {8, 0});
  const auto values = x.to_vector<double>();
  for (InputLayout layout : kInputLayouts) {
    const Tensor y = with_layout(x, layout);
    CHECK(y.shape() == x.shape());
    CAPTURE(name_of(layout));
    CHECK(y.contiguous_layout() == (layout == InputLayout::contiguous));
    if (layout != InputLayout::expanded) CHECK(y.to_vector<double>() == values);
    CHECK(layout_by_name(name_of(layout)) == layout);
  }
  CHECK(with_layout(x, InputLayout::expanded).strides()[0] == 0);
  CHECK(with_layout(x, InputLayout::sliced).offset() > 0);
  CHECK(with_layout(x, InputLayout::flipped).strides()[0] < 0);
  CHECK_THROWS_AS(layout_by_name("diagonal"), Error);
}

namespace {

/// Runs a case with shapes that it may refuse. A refusal is an Error of the forward, "[name] ..."; what the
/// forward accepted must have a backward, with gradients of the inputs' shapes.
/// Returns whether it was accepted.
bool accepts(const OpCase& c, const std::vector<Shape>& shapes, Device& device) {
  const auto inputs = make_inputs(c, shapes, {DType::f64, &device}, true);
  Variable y;
  try {
    y = c.function(inputs);
  } catch (const Error& e) {
    CHECK_MESSAGE(std::regex_search(e.what(), std::regex("^\\[[a-z_0-9]+\\] .")), e.what());
    return false;
  }
  const auto gradients = grad(y, inputs, Variable(Tensor::ones(y.shape(), y.options())));
  for (size_t i = 0; i < inputs.size(); ++i) {
    CHECK(gradients[i].shape() == inputs[i].shape());
    if (y.numel() > 0) continue;
    for (double g : gradients[i].value().to_vector<double>()) CHECK(g == 0);
  }
  return true;
}

}  // namespace

TEST_CASE("inputs without elements work or are refused, alike on every device") {
  int accepted = 0;
  for (const OpCase& c : op_cases()) {
    CAPTURE(c.name);
    std::vector<std::vector<Shape>> tries;
    // An axis at a time, of one input and of all that have it (a batch without examples).
    for (size_t i = 0; i <= c.inputs.size(); ++i)
      for (int axis = 0; axis < kMaxRank; ++axis) {
        std::vector<Shape> shapes = c.inputs;
        for (size_t k = 0; k < shapes.size(); ++k)
          if ((k == i || i == c.inputs.size()) && axis < shapes[k].rank()) shapes[k][axis] = 0;
        if (shapes != c.inputs) tries.push_back(shapes);
      }
    for (const auto& shapes : tries) {
      const bool here = accepts(c, shapes, reference_device());
      CHECK(accepts(c, shapes, cpu_device()) == here);
      // Only where the host can look is an index into nothing an error.
      if (c.name.rfind("gather", 0) != 0 && c.name.rfind("embedding", 0) != 0)
        CHECK(accepts(c, shapes, unreadable_device()) == here);
      accepted += here;
    }
    for (const auto& shapes : c.empty) CHECK(accepts(c, shapes, cpu_device()));
  }
  CHECK(accepted > 40);
}

TEST_CASE("inputs of one element: gradients agree with differences where the shapes are accepted") {
  int accepted = 0;
  for (const OpCase& c : op_cases()) {
    CAPTURE(c.name);
    std::vector<Shape> shapes = c.inputs;
    for (Shape& shape : shapes) shape = Dims::filled(shape.rank(), 1);
    const bool here = accepts(c, shapes, reference_device());
    CHECK(accepts(c, shapes, cpu_device()) == here);
    if (!here) continue;
    ++accepted;
    const auto report = gradcheck(c.function, make_inputs(c, shapes, {DType::f64, &cpu_device()}, false),
                                  {.on_kink = OnKink::skip});
    CHECK_MESSAGE(report.ok, report.message);
    check_all_close(case_results(c, make_inputs(c, shapes, {DType::f64, &cpu_device()}, true)),
                    case_results(c, make_inputs(c, shapes, {DType::f64, &reference_device()}, true)), 1e-14);
  }
  CHECK(accepted > 30);
}

TEST_CASE("fused operations equal their composed definitions") {
  const TensorOptions f64{DType::f64, &cpu_device()};
  const Variable x(random_normal({2, 4, 4, 6}, {1, 0}, 0, f64)), gain(random_normal({2, 6}, {1, 1}, 0, f64)),
      bias(random_normal({2, 6}, {1, 2}, 0, f64));
  for (Activation activation : {Activation::none, Activation::silu})
    check_close(group_norm(x, gain, bias, 3, 1e-6, activation).value().to_vector<double>(),
                composed::group_norm(x, gain, bias, 3, 1e-6, activation).value().to_vector<double>(), 1e-13);
  check_close(softmax(x).value().to_vector<double>(), composed::softmax(x).value().to_vector<double>(),
              1e-14);
  const Variable k(random_normal({2, 5, 4, 6}, {1, 3}, 0, f64)),
      v(random_normal({2, 5, 4, 6}, {1, 4}, 0, f64));
  check_close(attention(x, k, v, 0.7).value().to_vector<double>(),
              composed::attention(x, k, v, 0.7).value().to_vector<double>(), 1e-13);
}

TEST_CASE("convolution is cross-correlation with zero padding (hand-computed)") {
  // 3x3 image 1..9, kernel picks the right neighbour: y(i, j) = x(i, j + 1), 0 outside.
  std::vector<double> image{1, 2, 3, 4, 5, 6, 7, 8, 9}, kernel(9, 0.0);
  kernel[5] = 1;
  const TensorOptions f64{DType::f64, &cpu_device()};
  const Tensor y = conv2d(Tensor::from(image, {1, 3, 3, 1}, f64), Tensor::from(kernel, {3, 3, 1, 1}, f64), {},
                          {1, 1, 1, 1, 1, 1});
  CHECK(y.to_vector<double>() == std::vector<double>{2, 3, 0, 5, 6, 0, 8, 9, 0});
}

TEST_CASE("extreme arguments: no NaN from overflow, NaN is passed on") {
  const double huge = 120, nan = std::numeric_limits<double>::quiet_NaN();
  for (DType dtype : {DType::f32, DType::f64})
    for (Device* device : {&reference_device(), &cpu_device()}) {
      const Variable x(Tensor::from(std::vector<double>{-huge, -80, 0, 80, huge}, {5}, {dtype, device}),
                       true);
      for (auto f : {silu, sigmoid, tanh}) {
        const Variable y = f(x);
        const auto g = grad(sum(y), {x}, {}, true)[0].value().to_vector<double>();
        for (double v : y.value().to_vector<double>()) CHECK(std::isfinite(v));
        for (double v : g) CHECK(std::isfinite(v));
        CHECK(g[0] == doctest::Approx(0).epsilon(1e-6));
      }
      CHECK(silu(x).value().to_vector<double>()[4] == huge);
      const Variable bad(Tensor::from(std::vector<double>{nan, 1}, {2}, {dtype, device}), true);
      for (auto f : {silu, sigmoid, exp, relu, sqrt})
        CHECK(std::isnan(f(bad).value().to_vector<double>()[0]));
      CHECK(std::isnan(clamp(bad, -1, 1).value().to_vector<double>()[0]));
      CHECK(std::isnan(
          maximum(bad, Variable(Tensor::zeros({2}, {dtype, device}))).value().to_vector<double>()[0]));
      CHECK(std::isnan(max(bad.value()).item()));
    }
}

TEST_CASE("clamp has no gradient at its bounds, relu none at 0; maximum shares ties") {
  const TensorOptions f64{DType::f64, &cpu_device()};
  const Variable x(Tensor::from(std::vector<double>{-1, 0, 1, 1.5}, {4}, f64), true);
  CHECK(grad(sum(clamp(x, -1, 1)), {x})[0].value().to_vector<double>() == std::vector<double>{0, 1, 0, 0});
  CHECK(clamp(x, -1, 1).value().to_vector<double>() == std::vector<double>{-1, 0, 1, 1});
  const double inf = std::numeric_limits<double>::infinity();
  const Variable ends(Tensor::from(std::vector<double>{-inf, 3, inf}, {3}, f64));
  CHECK(clamp(ends, -inf, inf).value().to_vector<double>() == std::vector<double>{-inf, 3, inf});
  CHECK(grad(sum(relu(x)), {x})[0].value().to_vector<double>() == std::vector<double>{0, 0, 1, 1});
  const auto g = grad(sum(maximum(x, Variable(Tensor::zeros({4}, f64)))), {x})[0].value().to_vector<double>();
  CHECK(g == std::vector<double>{0, 0.5, 1, 1});
}

TEST_CASE("conversions hand gradients back in the dtype they came from") {
  const Variable x(Tensor::from(std::vector<double>{1, 2}, {2}), true);  // f32
  const Variable g = grad(sum(square(to(x, DType::f64))), {x})[0];
  CHECK(g.dtype() == DType::f32);
  CHECK(g.value().to_vector<double>() == std::vector<double>{2, 4});
}

TEST_CASE(
    "space_to_depth orders channels by (row in block, column in block, channel); depth_to_space undoes it") {
  const TensorOptions f64{DType::f64, &cpu_device()};
  std::vector<double> v(16);  // [1, 2, 4, 2]: value = 100 row + 10 column + channel
  for (size_t i = 0; i < v.size(); ++i) v[i] = static_cast<double>(100 * (i / 8) + 10 * (i / 2 % 4) + i % 2);
  const Variable x(Tensor::from(v, {1, 2, 4, 2}, f64));
  const Variable d = space_to_depth(x);
  CHECK(d.shape() == Shape{1, 1, 2, 8});
  CHECK(d.value().to_vector<double>() ==
        std::vector<double>{0, 1, 10, 11, 100, 101, 110, 111, 20, 21, 30, 31, 120, 121, 130, 131});
  CHECK(depth_to_space(d).value().to_vector<double>() == v);
}

TEST_CASE("empty tensors go through") {
  const TensorOptions f64{DType::f64, &cpu_device()};
  const Variable x(Tensor::zeros({0, 3}, f64), true);
  const Variable kernel(Tensor::ones({3, 2}, f64), true);
  const Variable y = linear(silu(x), kernel, Variable(Tensor::zeros({2}, f64)));
  CHECK(y.shape() == Shape{0, 2});
  sum(y).backward();
  CHECK(kernel.grad().value().to_vector<double>() == std::vector<double>(6, 0.0));
  CHECK(sum(x).item() == 0);
}
