// The tape itself: accumulation, hooks, freeing, in-place damage, long chains.
#include <doctest/doctest.h>

#include <optional>
#include <stdexcept>
#include <thread>

#include "autograd/ops.h"
#include "tests/error_of.h"
#include "tests/leaf.h"

using namespace halfstep;
using namespace halfstep::test;

TEST_CASE("backward accumulates over uses and over calls") {
  const Variable x = leaf({2, 3}, {2});
  sum(x * x + x).backward();
  CHECK(values(x.grad()) == std::vector<double>{5, 7});
  sum(x * 2.0).backward();
  CHECK(values(x.grad()) == std::vector<double>{7, 9});
  Variable(x).zero_grad();
  CHECK_FALSE(x.grad().defined());
}

TEST_CASE("a value used by several consumers waits for all of them") {
  const Variable x = leaf({3}, {1});
  const Variable y = x * x;  // consumed by two nodes of different depth
  const Variable z = exp(y * 0.0) * y + y;
  sum(z).backward();
  CHECK(x.grad().item() == doctest::Approx(12));  // d(2 x^2) = 4x; the exponential's slope cancels
}

TEST_CASE("the upstream gradient has the output's shape") {
  const Variable x = leaf({1, 2}, {2});
  const Variable y = x * 3.0;
  CHECK(error_of([&] { y.backward(); }) ==
        "[backward] expected a scalar output, got shape (2,); pass an upstream gradient");
  y.backward(leaf({10, 100}, {2}).detach());
  CHECK(values(x.grad()) == std::vector<double>{30, 300});
}

TEST_CASE("an upstream gradient of another shape, dtype or number is refused") {
  const Variable x = leaf({1, 2}, {2});
  const Variable y = x * 3.0;
  CHECK(error_of([&] {
          y.backward(constant({1, 2, 3, 4}, {2, 2}));
        }) == "[backward] expected an upstream gradient of the shape (2,) of the output, got (2, 2)");
  CHECK(error_of([&] { y.backward(Variable(Tensor::ones({2}))); }) ==
        "[backward] the caller gave a gradient of f32 on 'cpu' for a value of f64 on 'cpu'");
  CHECK(error_of([&] {
          backward({y, y}, {constant({1, 2}, {2})});
        }) ==
        "[backward] expected one upstream gradient for each of 2 outputs, got 1; an undefined one stands for "
        "1");
  CHECK(error_of([&] {
          backward({sum(y), y});
        }) == "[backward] expected a scalar output, got output 1 of shape (2,); pass an upstream gradient");
  CHECK(error_of([&] {
          backward({sum(y), Variable()});
        }) == "[backward] expected results, got an undefined variable as output 1");
  CHECK(error_of([&] {
          backward({sum(y), constant({1}, {})});
        }) == "[backward] output 1 does not depend on anything that requires a gradient");
  CHECK(error_of([&] { backward(std::vector<Variable>{}); }) ==
        "[backward] expected at least one output, got none");
  CHECK(error_of([&] { grad(sum(y), {}); }) == "[grad] expected at least one input, got none");
  CHECK(error_of([&] {
          grad(sum(y), {x, Variable()});
        }) == "[grad] expected variables, got an undefined one as input 1");
  CHECK_FALSE(x.grad().defined());  // nothing was accumulated before the errors
}

TEST_CASE("several outputs are walked together") {
  const Variable x = leaf({2, 3}, {2}), w = leaf({5}, {});
  const Variable shared = x * w;                   // used by both outputs
  const Variable a = sum(shared), b = shared * x;  // d<u, b>/dx = 2 u w x
  const Variable u = constant({1, 10}, {2});
  const auto g = grad({a, b}, {x, w}, {Variable(), u}, /*retain_graph=*/true);
  CHECK(values(g[0]) == std::vector<double>{5 + 2 * 5 * 2, 5 + 10 * 2 * 5 * 3});
  CHECK(g[1].item() == 2 + 3 + 4 + 10 * 9);
  CHECK_FALSE(x.grad().defined());
  backward({a, b}, {constant({1}, {}), u}, /*retain_graph=*/true);
  CHECK(values(x.grad()) == values(g[0]));
  CHECK(values(w.grad()) == values(g[1]));
  // One of the outputs may be behind another, be a leaf, or come twice.
  const auto h = grad({a, shared, x, a}, {x}, {{}, u, u, {}});
  CHECK(values(h[0]) == std::vector<double>{5 + 5 + 1 + 5, 5 + 50 + 10 + 5});
}

TEST_CASE("a freed graph says so; retain_graph keeps it") {
  const Variable x = leaf({2}, {});
  const Variable y = x * x;
  y.backward(/*retain_graph=*/true);
  y.backward();
  CHECK(x.grad().item() == 8);
  CHECK(
      error_of([&] { y.backward(); }) ==
      "[backward] the graph of 'multiply' was freed by an earlier backward; pass retain_graph = true there");
}

TEST_CASE("grad of a freed graph is an error, not zeros") {
  const Variable x = leaf({2}, {});
  const Variable y = x * x, z = y * 3.0;
  z.backward();
  CHECK(error_of([&] { grad(z, {x}); }).find("the graph of 'affine' was freed") != std::string::npos);
  CHECK(error_of([&] { grad(y * 2.0, {x}); }).find("the graph of 'multiply' was freed") != std::string::npos);
  // A freed result may still be asked for itself, and what is not behind it is not touched by it.
  CHECK(grad(y * 2.0, {y})[0].item() == 2);
  const Variable later = leaf({7}, {});
  CHECK(grad(y * later, {later, y})[0].item() == 4);
}

TEST_CASE("what a node kept is released as soon as its rule has run") {
  const int64_t n = 1000;
  const size_t bytes = static_cast<size_t>(n) * sizeof(double);
  const Variable x = Variable(Tensor::full({n}, 1.5, kF64), true);
  const size_t before = bytes_in_use();
  Variable y = x;
  std::vector<size_t> in_use;  // when the gradient of y_i is complete, i = 8, 7, ...
  for (int i = 0; i < 8; ++i) {
    y = sin(y);  // keeps its input
    y.register_hook([&](const Variable&) {
      in_use.push_back(bytes_in_use());
      return Variable();
    });
  }
  y = sum(y);
  SUBCASE("without retain_graph") {
    y.backward();
    REQUIRE(in_use.size() == 8);
    // The gradient of a sum takes no memory; from the second one on there is always one gradient in memory.
    for (size_t i = 2; i < in_use.size(); ++i) CHECK(in_use[i] + bytes <= in_use[i - 1]);
    CHECK(bytes_in_use() <= before + bytes + 1024);  // x.grad() and the value of y
  }
  SUBCASE("with retain_graph") {
    y.backward(/*retain_graph=*/true);
    REQUIRE(in_use.size() == 8);
    for (size_t i = 1; i < in_use.size(); ++i) CHECK(in_use[i] >= before + 7 * bytes);
    y = y.detach();  // the way to release a retained graph
    CHECK(bytes_in_use() <= before + bytes + 1024);
  }
}

TEST_CASE("an exception in a rule or hook leaves the engine in order and nothing behind") {
  const size_t before = bytes_in_use();
  {
    const Variable x = leaf({1, 2}, {2}), w = leaf({3, 4}, {2});
    bool broken = true;
    const auto fragile = [&](const Variable& v) {
      return record("fragile", v.value(), {v}, [&broken](const Variable& g) -> std::vector<Variable> {
        if (broken) throw std::runtime_error("broken rule");
        return {g};
      });
    };
    for (bool retain : {true, false}) {
      CAPTURE(retain);
      const Variable y = sum(fragile(x * x) * w);
      broken = true;
      CHECK_THROWS_AS(y.backward(retain), std::runtime_error);
      CHECK(is_recording());
      CHECK((x * x).requires_grad());
      CHECK_FALSE(x.grad().defined());  // not reached
      broken = false;
      if (retain) {
        Variable(w).zero_grad();
        y.backward();
        CHECK(values(x.grad()) == std::vector<double>{6, 16});
        CHECK(values(w.grad()) == std::vector<double>{1, 4});
      } else {
        CHECK(error_of([&] { y.backward(); }).find("the graph of 'sum' was freed") != std::string::npos);
      }
      Variable(x).zero_grad();
      Variable(w).zero_grad();
    }
    // The same for a hook.
    const Variable h = x * w;
    HookHandle handle =
        h.register_hook([](const Variable&) -> Variable { throw std::runtime_error("hook"); });
    const Variable z = sum(h * h);
    CHECK_THROWS_AS(grad(z, {x}, {}, true, /*create_graph=*/true), std::runtime_error);
    CHECK(is_recording());
    handle.remove();
    CHECK(values(grad(z, {x})[0]) == std::vector<double>{2 * 1 * 9, 2 * 2 * 16});
  }
  CHECK(bytes_in_use() == before);
}

TEST_CASE("a gradient with history that a leaf holds is no reference cycle") {
  const size_t before = bytes_in_use();
  {
    const Variable x = leaf({1, 2}, {2});
    sum(x * x * x).backward(/*retain_graph=*/false, /*create_graph=*/true);
    CHECK(values(x.grad()) == std::vector<double>{3, 12});
    CHECK(values(grad(sum(x.grad()), {x})[0]) == std::vector<double>{6, 12});
  }
  CHECK(bytes_in_use() == before);
}

TEST_CASE("gradients share memory with nothing") {
  const Variable up = constant({1, 2}, {2});
  {
    const Variable x = leaf({1, 2}, {2}), y = leaf({3, 4}, {2});
    (x + y).backward(up);  // the rule hands the same gradient to both
    x.grad().value().fill_(7);
    CHECK(values(y.grad()) == std::vector<double>{1, 2});
    CHECK(values(up) == std::vector<double>{1, 2});
    up.value().fill_(9);
    CHECK(values(y.grad()) == std::vector<double>{1, 2});
    up.value().copy_(Tensor::from(std::vector<double>{1, 2}, {2}, kF64));
  }
  {
    const Variable x = leaf({1, 2}, {2});
    x.backward(up);  // a leaf as the output
    up.value().fill_(9);
    CHECK(values(x.grad()) == std::vector<double>{1, 2});
    sum(x).backward();  // a gradient that was broadcast has memory for each element
    Variable(x).zero_grad();
    sum(x).backward();
    CHECK(x.grad().value().contiguous_layout());
    x.grad().value().slice(0, 0, 1).fill_(5);
    CHECK(values(x.grad()) == std::vector<double>{5, 1});
  }
  {
    const Variable x = leaf({1, 2}, {2}), y = leaf({3, 4}, {2});
    const Variable u = constant({1, 2}, {2});
    const auto g = grad(x + y, {x, y, x}, u);
    g[0].value().fill_(7);
    CHECK(values(g[1]) == std::vector<double>{1, 2});
    CHECK(values(g[2]) == std::vector<double>{1, 2});
    CHECK(values(u) == std::vector<double>{1, 2});
  }
  {  // A part of a larger gradient does not keep the rest alive.
    const Variable x = leaf({1}, {1}), wide(Tensor::ones({5000}, kF64), true);
    const size_t before = bytes_in_use();
    sum(concat({x, wide.detach()}, 0) * 2.0).backward();
    CHECK(bytes_in_use() <= before + 1000);
    CHECK(values(x.grad()) == std::vector<double>{2});
  }
  {  // With history, too; a gradient in memory of its own is not copied.
    const Variable x = leaf({1, 2}, {2}), y = leaf({3, 4}, {2});
    backward({sum((x + y) * (x + y))}, {}, false, /*create_graph=*/true);
    x.grad().value().fill_(0);
    CHECK(values(y.grad()) == std::vector<double>{8, 12});
    CHECK(values(grad(sum(y.grad()), {x})[0]) == std::vector<double>{2, 2});
  }
}

TEST_CASE("accumulation replaces the gradient, so what was read of it before stays") {
  const Variable x = leaf({1, 2}, {2});
  sum(x * 2.0).backward();
  const Variable first = x.grad();
  sum(x * 3.0).backward();
  CHECK(values(first) == std::vector<double>{2, 2});
  CHECK(values(x.grad()) == std::vector<double>{5, 5});
}

TEST_CASE("gradients are summed in memory that nobody else can see") {
  const Variable x = leaf({1, 2}, {2}), y = leaf({3, 4}, {2});
  const void* memory = nullptr;
  {
    sum(x * 2.0).backward();
    memory = x.grad().value().array().data;
    sum(x * 3.0).backward();
    CHECK(x.grad().value().array().data == memory);
    CHECK(values(x.grad()) == std::vector<double>{5, 5});
    const Tensor seen = x.grad().value();
    sum(x * 3.0).backward();
    CHECK(seen.to_vector<double>() == std::vector<double>{5, 5});
    CHECK(values(x.grad()) == std::vector<double>{8, 8});
  }
  {  // One gradient that goes two ways, of which one is added to before the other is used, and what the
     // caller holds.
    const Variable up = constant({1, 10}, {2});
    const Variable early_x = x * 1.0, early_y = y * 1.0;
    const auto g = grad((early_x + early_y) + early_x * 2.0, {x, y, early_x, early_y}, up);
    CHECK(values(g[0]) == std::vector<double>{3, 30});
    CHECK(values(g[1]) == std::vector<double>{1, 10});
    CHECK(values(g[2]) == std::vector<double>{3, 30});
    CHECK(values(g[3]) == std::vector<double>{1, 10});
    CHECK(values(up) == std::vector<double>{1, 10});
  }
  {  // What a hook keeps.
    const Variable a = x * 1.0, b = a * 2.0;
    Tensor kept;
    b.register_hook([&kept](const Variable& gradient) {
      kept = gradient.value();
      return Variable();
    });
    (void)grad(sum(b + b * a), {x});
    CHECK(kept.to_vector<double>() == std::vector<double>{2, 3});
  }
  {  // A gradient with history is part of a graph: it is not changed, and its sum without a graph has none.
    Variable(x).zero_grad();
    sum(x * x).backward(false, /*create_graph=*/true);
    sum(x * 3.0).backward();
    CHECK_FALSE(x.grad().requires_grad());
    CHECK(values(x.grad()) == std::vector<double>{5, 7});
  }
  {  // A sum that fails leaves what was there.
    Variable(x).set_grad(Variable(Tensor::ones({2}, {DType::f32})));
    CHECK_THROWS_AS(sum(x * 3.0).backward(), Error);
    REQUIRE(x.grad().defined());
    CHECK(x.grad().value().to_vector<double>() == std::vector<double>{1, 1});
  }
}

TEST_CASE("in-place changes are noticed in gradients of gradients, too") {
  const Variable x = leaf({2, 4}, {2}), w = leaf({3, 5}, {2});
  const Variable first = grad(sum(x * x * w), {x}, {}, false, /*create_graph=*/true)[0];
  CHECK(values(first) == std::vector<double>{12, 40});
  x.value().fill_(1);
  CHECK(error_of([&] { grad(sum(first), {w}); }).find("changed in place") != std::string::npos);
}

TEST_CASE("a leaf with another value is noticed, whatever rules kept") {
  Variable x = leaf({2, 4}, {2});
  const Variable y = x + x;  // keeps no value
  x.set_value(Tensor::ones({3}, kF64));
  const std::string expected =
      "[backward] a leaf of shape (2,) in the graph was given another value by set_value; call it after "
      "backward()";
  CHECK(error_of([&] { sum(y).backward(); }) == expected);
  CHECK(error_of([&] { grad(sum(y), {x}); }) == expected);
  sum(x).backward();
  CHECK(values(x.grad()) == std::vector<double>{1, 1, 1});
  // Also when it did not require a gradient for a while.
  const Variable z = x + x;
  x.set_requires_grad(false);
  x.set_value(Tensor::ones({4}, kF64));
  x.set_requires_grad(true);
  CHECK(error_of([&] { sum(z).backward(); }).find("another value") != std::string::npos);
  CHECK(error_of([&] {
          x.set_value(Tensor::ones({2}, {DType::i64, &cpu_device()}));
        }).find("only f32, f64 and bf16") != std::string::npos);
  CHECK(x.shape() == Shape{4});
}

TEST_CASE("a leaf that stops to require a gradient collects none, even from graphs made before") {
  Variable x = leaf({2, 4}, {2});
  const Variable w = leaf({1, 1}, {2});
  const Variable y = sum(x * w + x);
  x.set_requires_grad(false);
  CHECK_FALSE(y.is_leaf());
  y.backward(/*retain_graph=*/true);
  CHECK_FALSE(x.grad().defined());
  CHECK(values(w.grad()) == std::vector<double>{2, 4});
  CHECK_FALSE((x * 2.0).requires_grad());
  x.set_requires_grad(true);
  y.backward();
  CHECK(values(x.grad()) == std::vector<double>{2, 2});
}

TEST_CASE("in-place changes to a saved value are noticed") {
  const Variable x = leaf({2, 4}, {2});
  const Variable y = sum(x * x);
  x.value().slice(0, 0, 1).fill_(7);  // through a view, too
  CHECK(error_of([&] { y.backward(); }).find("changed in place") != std::string::npos);

  Variable w = leaf({2, 4}, {2});
  const Variable z = sum(w * w);
  w.set_value(Tensor::ones({2}, kF64));
  CHECK(error_of([&] { z.backward(); }).find("another value") != std::string::npos);

  const Variable a = leaf({1, 2}, {1, 2});
  const Variable p = softmax(a);
  p.value().fill_(0);  // the rule reads the output
  CHECK(error_of([&] { sum(p).backward(); }).find("changed in place") != std::string::npos);
}

TEST_CASE("no_grad records nothing; detach cuts") {
  const Variable x = leaf({2}, {});
  {
    NoGrad no_grad;
    CHECK_FALSE((x * x).requires_grad());
    EnableGrad again;
    CHECK((x * x).requires_grad());
  }
  CHECK((x * x).requires_grad());
  (x * x.detach()).backward();
  CHECK(x.grad().item() == 2);
}

TEST_CASE("grad leaves other leaves alone and gives zeros without a path") {
  const Variable x = leaf({2}, {}), w = leaf({5}, {}), unused = leaf({1, 1}, {2});
  const auto g = grad(x * w, {x, unused});
  CHECK(g[0].item() == 5);
  CHECK(values(g[1]) == std::vector<double>{0, 0});
  CHECK_FALSE(x.grad().defined());
  CHECK_FALSE(w.grad().defined());
  // An intermediate result may be asked for, too.
  const Variable y = x * x;
  CHECK(grad(y * 3.0, {y})[0].item() == 3);
}

TEST_CASE("gradients of gradients") {
  const Variable x = leaf({1.5}, {});
  const Variable first = grad(x * x * x, {x}, {}, false, /*create_graph=*/true)[0];
  CHECK(first.item() == doctest::Approx(3 * 1.5 * 1.5));
  const Variable second = grad(first, {x}, {}, false, true)[0];
  CHECK(second.item() == doctest::Approx(6 * 1.5));
  CHECK(grad(second, {x})[0].item() == doctest::Approx(6));
}

TEST_CASE("hooks see the finished gradient once and may replace it") {
  const Variable x = leaf({1, 2}, {2});
  const Variable y = x * 2.0;
  int calls = 0;
  y.register_hook([&](const Variable& g) {
    ++calls;
    CHECK(values(g) == std::vector<double>{3, 3});
    return g * 10.0;
  });
  sum(y + y + y).backward();
  CHECK(calls == 1);
  CHECK(values(x.grad()) == std::vector<double>{60, 60});
}

TEST_CASE("hooks run in the order of registration, and each sees what the one before returned") {
  const Variable x = leaf({1, 2}, {2});
  std::vector<int> order;
  std::vector<double> seen;
  x.register_hook([&](const Variable& g) {
    order.push_back(1);
    return g + 1.0;
  });
  x.register_hook([&](const Variable& g) {
    order.push_back(2);
    seen = values(g);
    return Variable();  // leaves it
  });
  x.register_hook([&](const Variable& g) {
    order.push_back(3);
    return g * 10.0;
  });
  sum(x * 2.0).backward();
  CHECK(order == std::vector<int>{1, 2, 3});
  CHECK(seen == std::vector<double>{3, 3});
  CHECK(values(x.grad()) == std::vector<double>{30, 30});
  // They see the gradient of one walk, not the sum over walks; and grad() runs them, too.
  sum(x * 4.0).backward();
  CHECK(seen == std::vector<double>{5, 5});
  CHECK(values(x.grad()) == std::vector<double>{80, 80});
  CHECK(values(grad(sum(x * 2.0), {x})[0]) == std::vector<double>{30, 30});
}

TEST_CASE("hooks of a result run before those of its inputs, on results and on targets") {
  const Variable x = leaf({3}, {});
  const Variable y = x * x;
  std::vector<std::string> order;
  const auto note = [&](const std::string& name) {
    return [&order, name](const Variable&) {
      order.push_back(name);
      return Variable();
    };
  };
  x.register_hook(note("x"));
  y.register_hook(note("y"));
  y.register_hook([](const Variable& g) { return g * 2.0; });
  const Variable z = y * 5.0;
  z.register_hook(note("z"));
  const auto g = grad(z, {y, x});
  CHECK(order == std::vector<std::string>{"z", "y", "x"});
  CHECK(g[0].item() == 10);
  CHECK(g[1].item() == 60);
}

TEST_CASE("hooks of what grad is not asked for do not run") {
  const Variable x = leaf({3}, {}), w = leaf({5}, {});
  int calls = 0;
  const auto count = [&](const Variable&) {
    ++calls;
    return Variable();
  };
  const Variable y = w * w;
  w.register_hook(count);
  y.register_hook(count);
  CHECK(grad(x * y, {x})[0].item() == 25);
  CHECK(calls == 0);
}

TEST_CASE("a hook can be removed: before, by itself, by another one, and when all is gone") {
  const Variable x = leaf({1, 2}, {2});
  int always = 0, once = 0, never = 0;
  HookHandle removed = x.register_hook([&](const Variable&) {
    ++never;
    return Variable();
  });
  HookHandle itself, later;
  const auto kept = std::make_shared<int>(0);
  itself = x.register_hook([&, kept](const Variable&) {
    ++once;
    itself.remove();
    later.remove();
    return Variable();
  });
  later = x.register_hook([&](const Variable&) {
    ++never;
    return Variable();
  });
  x.register_hook([&](const Variable&) {
    ++always;
    return Variable();
  });
  removed.remove();
  removed.remove();
  CHECK(kept.use_count() == 2);
  sum(x).backward();
  sum(x).backward();
  CHECK(never == 0);
  CHECK(once == 1);
  CHECK(always == 2);
  CHECK(kept.use_count() == 1);  // what the hook captured is released

  HookHandle orphan;
  {
    const Variable y = x * 2.0;
    orphan = y.register_hook([](const Variable& g) { return g; });
  }
  orphan.remove();
  HookHandle().remove();
}

TEST_CASE("a hook that is added by a hook runs from the next walk on") {
  const Variable x = leaf({1}, {});
  int added = 0;
  HookHandle once;
  once = x.register_hook([&](const Variable&) {
    once.remove();
    x.register_hook([&](const Variable&) {
      ++added;
      return Variable();
    });
    return Variable();
  });
  (x * 2.0).backward();
  CHECK(added == 0);
  (x * 2.0).backward();
  CHECK(added == 1);
}

TEST_CASE("hooks of a leaf outlive its value, those of a result go with its graph") {
  Variable x = leaf({1, 2}, {2});
  int calls = 0;
  const auto count = [&](const Variable&) {
    ++calls;
    return Variable();
  };
  HookHandle handle = x.register_hook(count);
  x.set_value(Tensor::ones({3}, kF64));
  sum(x).backward();
  CHECK(calls == 1);
  x.set_requires_grad(false);
  x.set_requires_grad(true);
  sum(x).backward();
  CHECK(calls == 2);
  handle.remove();
  sum(x).backward();
  CHECK(calls == 2);

  const size_t before = bytes_in_use();
  {
    const Variable y = x * 2.0;
    y.register_hook([y](const Variable& g) { return y * g; });  // a cycle, until the graph is freed
    sum(y).backward();
  }
  CHECK(bytes_in_use() == before);
}

TEST_CASE("a hook may not change the shape or dtype of a gradient") {
  const Variable x = leaf({1, 2}, {2});
  const Variable y = x * 2.0;
  HookHandle handle = y.register_hook([](const Variable&) { return constant({1, 2, 3, 4}, {2, 2}); });
  CHECK(error_of([&] { sum(y).backward(); }) ==
        "[backward] a hook of 'affine' gave a gradient of shape (2, 2) for a value of shape (2,)");
  handle = x.register_hook([](const Variable&) { return Variable(Tensor::ones({2})); });
  CHECK(error_of([&] { sum(x).backward(); }) ==
        "[backward] a hook of 'leaf' gave a gradient of f32 on 'cpu' for a value of f64 on 'cpu'");
  CHECK(error_of([&] { x.register_hook(nullptr); }) ==
        "[register_hook] expected a function, got an empty one");
  CHECK(error_of([&] {
          x.detach().register_hook([](const Variable& g) { return g; });
        }).find("expected a variable that requires a gradient") != std::string::npos);
}

TEST_CASE("hooks with create_graph take part in gradients of gradients") {
  const Variable x = leaf({3}, {});
  const Variable y = x * x;
  y.register_hook([&](const Variable& g) { return g * x; });
  const Variable first = grad(y, {x}, {}, false, /*create_graph=*/true)[0];  // x * 2 x
  CHECK(first.item() == 18);
  CHECK(grad(first, {x})[0].item() == 12);
}

TEST_CASE("accumulated hooks run after backward has added to grad, and never in grad") {
  const Variable x = leaf({1, 2}, {2}), w = leaf({1, 1}, {2});
  int calls = 0;
  HookHandle handle = w.register_accumulated_hook([&](const Variable& leaf) {
    ++calls;
    CHECK(leaf.same(w));
    leaf.value().copy_(subtract(leaf.value(), leaf.grad().value()));  // a step of gradient descent
    Variable(leaf).zero_grad();
  });
  const Variable loss = sum(x * w);
  CHECK(values(grad(loss, {w}, {}, /*retain_graph=*/true)[0]) == std::vector<double>{1, 2});
  CHECK(calls == 0);
  loss.backward();
  CHECK(calls == 1);
  CHECK(values(w) == std::vector<double>{0, -1});
  CHECK_FALSE(w.grad().defined());
  handle.remove();
  sum(x * w).backward();
  CHECK(calls == 1);
  CHECK(
      error_of([&] { (x * w).register_accumulated_hook([](const Variable&) {}); }) ==
      "[register_accumulated_hook] expected a leaf, got the result of 'multiply', which accumulates nothing; "
      "use register_hook");
}

TEST_CASE("an operation of integers records nothing") {
  const Variable x = leaf({1, 2}, {2});
  const Variable index = record("argmax", Tensor::zeros({}, {DType::i64, &cpu_device()}), {x},
                                [](const Variable&) -> std::vector<Variable> { return {}; });
  CHECK_FALSE(index.requires_grad());
}

TEST_CASE("fused gradients with history count every use once, and run no hook twice") {
  const TensorOptions options = kF64;
  const Variable x(random_normal({1, 3, 1, 2}, {1, 0}, 0, options), true);
  const Variable r(random_normal({1, 3, 1, 2}, {1, 1}, 0, options));
  const auto check = [&](const std::function<Variable()>& f) {
    const auto plain = values(grad(f(), {x}, r)[0]);
    const auto graph = values(grad(f(), {x}, r, false, /*create_graph=*/true)[0]);
    for (size_t i = 0; i < plain.size(); ++i) CHECK(graph[i] == doctest::Approx(plain[i]).epsilon(1e-10));
  };
  check([&] { return attention(x, x, x); });        // one Variable as several inputs
  check([&] { return attention(x, x * 2.0, x); });  // one input computed from another
  x.register_hook([](const Variable& g) { return g * 2.0; });
  check([&] { return softmax(x); });
}

TEST_CASE("threads with graphs of their own may read the same leaves through grad") {
  const Variable w = leaf({0.5, -1.5, 2}, {3});
  const auto work = [&](double scale, std::vector<double>& result) {
    for (int i = 0; i < 50; ++i) {
      const Variable y = sum(sin(w * scale) * w);
      result = values(grad(y, {w}, {}, true)[0]);
      const Variable own = leaf({scale}, {});
      (own * own).backward();
      if (own.grad().item() != 2 * scale) result = {};
    }
  };
  std::vector<double> expected[2], parallel[2];
  work(1, expected[0]);
  work(3, expected[1]);
  {
    NoGrad here_only;  // a mode of this thread
    std::thread first([&] { work(1, parallel[0]); }), second([&] { work(3, parallel[1]); });
    first.join();
    second.join();
  }
  CHECK(parallel[0] == expected[0]);
  CHECK(parallel[1] == expected[1]);
}

TEST_CASE("rules that misbehave are named") {
  const Variable x = leaf({1, 2}, {2});
  const auto op = [&](GradientRule rule) { return sum(record("my_op", x.value(), {x}, std::move(rule))); };
  CHECK(error_of([&] { op([](const Variable&) { return std::vector<Variable>{}; }).backward(); }) ==
        "[backward] the rule of 'my_op' returned 0 gradients for 1 inputs");
  CHECK(error_of([&] {
          op([](const Variable&) {
            return std::vector<Variable>{Variable(Tensor::ones({3}, kF64))};
          }).backward();
        }).find("'my_op' gave a gradient of shape (3,) for a value of shape (2,)") != std::string::npos);
  CHECK(error_of([&] {
          op([](const Variable&) { return std::vector<Variable>{Variable(Tensor::ones({2}))}; }).backward();
        }).find("'my_op' gave a gradient of f32") != std::string::npos);
}

TEST_CASE("a chain of 100,000 nodes is walked and torn down without recursion or leak") {
  const size_t before = cpu_device().allocator.current_bytes();
  {
    const Variable x = leaf({1}, {});
    Variable y = x;
    for (int i = 0; i < 100000; ++i) y = y + x;
    y.backward();
    CHECK(x.grad().item() == 100001);
    Variable never_walked = x;
    for (int i = 0; i < 100000; ++i) never_walked = never_walked * x;
    // Held by a rule alone, and not as an input.
    Variable captured = x;
    for (int i = 0; i < 100000; ++i)
      captured = record("holder", x.value(), {x},
                        [captured](const Variable& g) -> std::vector<Variable> { return {g}; });
  }
  CHECK(cpu_device().allocator.current_bytes() == before);
}

TEST_CASE("one value used 100,000 times is walked once, and torn down without recursion") {
  const size_t before = bytes_in_use();
  {
    const Variable x = leaf({2}, {});
    const Variable y = x * x;
    std::vector<Variable> uses;
    for (int i = 0; i < 100000; ++i) uses.push_back(y * 1.0);
    std::vector<Variable> upstreams(uses.size(), constant({1}, {}));
    int walked = 0;
    y.register_hook([&](const Variable&) {
      ++walked;
      return Variable();
    });
    backward(uses, upstreams);
    CHECK(walked == 1);
    CHECK(x.grad().item() == 400000);
  }
  CHECK(bytes_in_use() == before);
}

TEST_CASE("a deep graph of gradients is torn down without recursion or leak") {
  const size_t before = bytes_in_use();
  {
    const Variable x = leaf({1}, {});
    Variable y = x;
    for (int i = 0; i < 30000; ++i) y = y * x;
    const Variable first = grad(y, {x}, {}, false, /*create_graph=*/true)[0];
    CHECK(first.item() == 30001);
    CHECK(grad(first, {x}, {}, /*retain_graph=*/true)[0].item() == 30001.0 * 30000.0);
    y.backward(true, true);  // grad() of a leaf with history, too
    CHECK(x.grad().item() == 30001);
  }
  CHECK(bytes_in_use() == before);
}

TEST_CASE("10,000 targets cost no more than their graph") {
  // Searching all targets at every node would be 10^8 steps and more, and be noticed as a hang.
  std::vector<Variable> leaves;
  Variable total = constant({0}, {});
  for (int i = 0; i < 10000; ++i) {
    leaves.push_back(leaf({static_cast<double>(i)}, {}));
    total = total + leaves.back() * leaves.back();
  }
  const auto gradients = grad(total, leaves);
  bool right = gradients.size() == leaves.size();
  for (size_t i = 0; right && i < leaves.size(); ++i)
    right = gradients[i].item() == 2 * static_cast<double>(i);
  CHECK(right);
}

TEST_CASE("only what rules need is kept") {
  const Variable x = Variable(Tensor::ones({1000}, kF64), true);
  const size_t before = cpu_device().allocator.current_bytes();
  const Variable y = sum(affine(x + x, 2, 1));  // neither rule reads a value
  CHECK(cpu_device().allocator.current_bytes() < before + 1000);
  y.backward();
}

TEST_CASE("requires_grad belongs to floating leaves") {
  Variable labels(Tensor::zeros({2}, {DType::i64, &cpu_device()}));
  CHECK(error_of([&] { labels.set_requires_grad(true); }) ==
        "[requires_grad] only f32, f64 and bf16 have gradients, got i64");
  const Variable x = leaf({1}, {});
  Variable y = x * 2.0;
  CHECK(error_of([&] { y.set_requires_grad(false); }).find("'affine'") != std::string::npos);
  CHECK(error_of([&] { x.detach().backward(); }).find("does not depend on anything") != std::string::npos);
}
