// Anomaly mode must name the operation that made the first NaN, and nobody else.
#include "autograd/anomaly.h"

#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <thread>

#include "autograd/checkpoint.h"
#include "autograd/ops.h"
#include "tests/error_of.h"
#include "tests/leaf.h"

using namespace halfstep;
using namespace halfstep::test;

namespace {
const double kNaN = std::numeric_limits<double>::quiet_NaN(), kInf = std::numeric_limits<double>::infinity();

bool contains(const std::string& text, const std::string& part) {
  CAPTURE(text);
  CAPTURE(part);
  const bool found = text.find(part) != std::string::npos;
  CHECK(found);
  return found;
}
}  // namespace

TEST_CASE("the rule that produced the first NaN is named, with its input, shape and neighbours") {
  DetectAnomaly guard;
  const Variable x = leaf({1, 4, 0}, {3});
  const Variable zero = x * 0.0;
  // The slope of sqrt at 0 is Inf, and Inf * 0 is NaN: sqrt makes Inf, affine the NaN.
  CHECK(
      error_of([&] { sum(exp(sqrt(zero))).backward(); }) ==
      "[anomaly] the backward of 'affine' produced NaN: gradient of its input 0, shape (3,), 3 of 3 elements "
      "(first at element 0), from an upstream gradient with Inf: shape (3,), 3 of 3 elements (first at "
      "element 0); in sum <- exp <- sqrt <- affine <- leaf");
  // 0 * Inf inside of one rule: upstream 0, slope Inf.
  const Variable y = multiply(sqrt(x), constant({1, 1, 0}, {3}));
  CHECK(error_of([&] { sum(y).backward(); }) ==
        "[anomaly] the backward of 'sqrt' produced NaN: gradient of its input 0, shape (3,), 1 of 3 elements "
        "(first at element 2), from a finite upstream gradient; in sum <- multiply <- sqrt <- leaf");
  CHECK_FALSE(x.grad().defined());
}

TEST_CASE("the input whose gradient is bad is the one that is followed") {
  DetectAnomaly guard({.forward = false});
  const Variable a = leaf({0}, {1}), b = leaf({0}, {1});
  // 0 / 0: the first gradient is 1 / 0 = Inf, the second -(Inf * 0) / 0 = NaN.
  const std::string message = error_of([&] { divide(exp(a) - 1.0, sin(b)).backward(); });
  contains(message, "the backward of 'divide' produced NaN: gradient of its input 1, shape (1,)");
  contains(message, "; in divide <- sin <- leaf");
}

TEST_CASE("what goes through unharmed without the guard") {
  const Variable x = leaf({1, 4, 0}, {3});
  sum(multiply(sqrt(x), constant({1, 1, 0}, {3}))).backward();
  CHECK(std::isnan(values(x.grad())[2]));
  {
    DetectAnomaly guard;
    sum(sqrt(x)).backward();  // Inf is not NaN
  }
  log(leaf({-1}, {}));
}

TEST_CASE("with infinity, Inf counts and is found where it arises") {
  DetectAnomaly guard({.infinity = true});
  const Variable x = leaf({1, 4, 0}, {3});
  CHECK(error_of([&] { sum(exp(sqrt(x) * 1.0)).backward(); }) ==
        "[anomaly] the backward of 'sqrt' produced Inf: gradient of its input 0, shape (3,), 1 of 3 elements "
        "(first at element 2), from a finite upstream gradient; in sum <- exp <- affine <- sqrt <- leaf");
  CHECK(error_of([&] { log(x); }) ==
        "[anomaly] the value of 'log' contains Inf: shape (3,), 1 of 3 elements (first at element 2), from "
        "finite inputs; in log <- leaf");
}

TEST_CASE("an upstream gradient or a hook that is bad already is blamed itself") {
  DetectAnomaly guard;
  const Variable x = leaf({1, 2}, {2});
  const Variable y = x * 2.0;
  CHECK(
      error_of([&] {
        y.backward(constant({1, kNaN}, {2}));
      }) ==
      "[anomaly] the upstream gradient given for 'affine' contains NaN before any rule has run: shape (2,), "
      "1 of 2 elements (first at element 1); in affine <- leaf");
  HookHandle handle = y.register_hook([](const Variable&) { return constant({kNaN, 1}, {2}); });
  CHECK(error_of([&] { sum(y).backward(); }) ==
        "[anomaly] a hook of 'affine' returned NaN: shape (2,), 1 of 2 elements (first at element 0); in sum "
        "<- affine <- leaf");
  handle.remove();
}

TEST_CASE("a sum of gradients that is NaN is told from its parts") {
  DetectAnomaly guard;
  const Variable x = leaf({0}, {1});
  const Variable y = x * 1.0;
  // +Inf from one use, -Inf from the other.
  CHECK(error_of([&] { sum(sqrt(y) - sqrt(y)).backward(); }) ==
        "[anomaly] adding up the gradients of the uses of 'affine' gave NaN: shape (1,), 1 of 1 elements "
        "(first "
        "at element 0); in sum <- subtract <- sqrt <- affine <- leaf");
}

TEST_CASE("forward values are checked, recorded or not, unless that is off") {
  const Variable x = leaf({1, -1}, {2});
  const auto compute = [&] { return sum(log(x * 1.0) * 2.0); };
  {
    DetectAnomaly guard;
    const std::string expected =
        "[anomaly] the value of 'log' contains NaN: shape (2,), 1 of 2 elements (first at element 1), from "
        "finite inputs; in log <- affine <- leaf";
    CHECK(error_of(compute) == expected);
    NoGrad no_grad;
    contains(error_of(compute), "the value of 'log' contains NaN");
    // Data that is bad from the start.
    CHECK(
        error_of([&] {
          multiply(x, constant({kNaN, 1}, {2}));
        }) ==
        "[anomaly] the value of 'multiply' contains NaN: shape (2,), 1 of 2 elements (first at element 0), "
        "but its input 1 contains NaN already: shape (2,), 1 of 2 elements (first at element 0); in multiply "
        "<- leaf");
    contains(error_of([&] { multiply(constant({kNaN}, {1}), constant({kNaN}, {1})); }), "but its input 0");
    // Inf going in is worth a word.
    contains(error_of([&] { multiply(constant({kInf}, {1}), constant({0}, {1})); }),
             "and its input 0 contained Inf already: shape (1,)");
  }
  DetectAnomaly guard({.forward = false});
  const Variable y = compute();
  contains(error_of([&] {
             sum(multiply(sqrt(x * 0.0), constant({0, 0}, {2}))).backward();
           }),
           "the backward of 'sqrt' produced NaN");
  CHECK(std::isnan(y.item()));
}

TEST_CASE("gradients of gradients are checked, too") {
  DetectAnomaly guard;
  const Variable x = leaf({0}, {});
  // x^1.5 has the slope 1.5 sqrt(x), whose slope at 0 is Inf; times 0 it is NaN.
  const Variable first = grad(pow(x, 1.5), {x}, {}, false, /*create_graph=*/true)[0];
  CHECK(first.item() == 0);
  contains(error_of([&] { grad(first * 0.0, {x}); }), "the backward of 'pow' produced NaN");
}

TEST_CASE("scopes are named, nest and end") {
  DetectAnomaly guard;
  const Variable x = leaf({0}, {});
  Variable y;
  {
    NameScope encoder("encoder");
    {
      NameScope block("block1");
      y = sqrt(x);
    }
    CHECK(contains(error_of([&] { log(x * -1.0 - 1.0); }),
                   "in log <- affine <- affine <- leaf, scope encoder"));
  }
  const std::string message = error_of([&] { (y * 0.0).backward(); });
  CHECK(message.substr(message.find("; in ")) == "; in affine <- sqrt <- leaf, scope encoder/block1");
  const std::string outside = error_of([&] { log(x * -1.0 - 1.0); });
  CHECK(outside.find("scope") == std::string::npos);
}

TEST_CASE("long ways are abridged on both sides") {
  DetectAnomaly guard;
  Variable x = leaf({0}, {});
  for (int i = 0; i < 20; ++i) x = x * 1.0;
  Variable y = sqrt(x);
  for (int i = 0; i < 20; ++i) y = -(y * 1.0);
  const std::string message = error_of([&] { sum(y * 0.0).backward(); });
  CHECK(message.substr(message.find("; in ")) ==
        "; in sum <- ... <- affine <- affine <- affine <- affine <- affine <- sqrt <- affine <- affine <- "
        "affine "
        "<- affine <- affine <- affine <- ...");
}

TEST_CASE("guards nest, end by exceptions, and belong to their thread") {
  const Variable x = leaf({-1}, {});
  {
    DetectAnomaly outer({.forward = false});
    CHECK(std::isnan(log(x).item()));
    {
      DetectAnomaly inner;
      CHECK_THROWS_AS(log(x), Error);
    }
    CHECK(std::isnan(log(x).item()));
    DetectAnomaly again;
    bool elsewhere = false;
    std::thread([&] { elsewhere = std::isnan(log(x).item()); }).join();
    CHECK(elsewhere);
  }
  CHECK(std::isnan(log(x).item()));
}

TEST_CASE("a NaN inside of a checkpointed piece is traced to the operation inside") {
  DetectAnomaly guard;
  const Variable x = leaf({0, 1}, {2});
  const auto piece = [](const std::vector<Variable>& in) {
    return multiply(sqrt(in[0]), constant({0, 1}, {2}));
  };
  const Variable y = sum(checkpoint(piece, {x}));
  contains(error_of([&] { y.backward(); }), "the backward of 'sqrt' produced NaN");
}
