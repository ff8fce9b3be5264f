// Checkpointing changes memory and nothing else.
#include "autograd/checkpoint.h"

#include <doctest/doctest.h>

#include <cstring>

#include "autograd/gradcheck.h"
#include "autograd/graph.h"
#include "autograd/ops.h"
#include "tests/error_of.h"
#include "tests/leaf.h"

using namespace halfstep;
using namespace halfstep::test;

namespace {
using In = std::vector<Variable>;

Variable random_leaf(const Shape& shape, uint64_t stream) {
  return Variable(random_normal(shape, {3, stream}), true);  // f32, as in training
}

bool equal_bits(const Variable& a, const Variable& b) {
  const auto x = a.value().to_vector<float>(), y = b.value().to_vector<float>();
  return x.size() == y.size() && std::memcmp(x.data(), y.data(), x.size() * sizeof(float)) == 0;
}

/// A block of a network with a residual, normalisation and dropout; the weights are captured.
struct Block {
  Variable w, b, gain, bias;
  uint64_t stream;

  explicit Block(uint64_t s)
      : w(random_leaf({8, 8}, s)),
        b(random_leaf({8}, s + 1)),
        gain(random_leaf({8}, s + 2)),
        bias(random_leaf({8}, s + 3)),
        stream(s) {}
  Variable operator()(const In& in) const {
    const Variable h = group_norm(in[0], gain, bias, 2, 1e-6, Activation::silu);
    return in[0] + dropout(linear(h, w, b), 0.3, {5, stream});
  }
};
}  // namespace

TEST_CASE("values and gradients equal those of the direct call in every bit") {
  const Variable x = random_leaf({4, 5, 8}, 1);
  const std::vector<Block> blocks{Block(10), Block(20), Block(30)};
  const auto run = [&](bool checkpointed) {
    Variable h = x;
    for (const Block& block : blocks) h = checkpointed ? checkpoint(block, {h}) : block({h});
    return mse(h, x.detach());
  };
  std::vector<Variable> wanted{x};
  for (const Block& block : blocks)
    for (const Variable& p : {block.w, block.b, block.gain, block.bias}) wanted.push_back(p);
  const Variable plain = run(false), saving = run(true);
  CHECK(equal_bits(plain, saving));
  const auto expected = grad(plain, wanted), got = grad(saving, wanted, {}, /*retain_graph=*/true);
  for (size_t i = 0; i < wanted.size(); ++i) {
    CAPTURE(i);
    CHECK(equal_bits(expected[i], got[i]));
  }
  // By backward() as well, twice because the graph is retained, and a part of the gradients alone.
  saving.backward(/*retain_graph=*/true);
  for (size_t i = 0; i < wanted.size(); ++i) CHECK(equal_bits(expected[i], wanted[i].grad()));
  CHECK(equal_bits(grad(saving, {blocks[1].w})[0], expected[5]));
  CHECK(error_of([&] { saving.backward(); }).find("was freed") != std::string::npos);
}

TEST_CASE("memory in use falls to the inputs of the pieces") {
  const int64_t n = 100000;
  const size_t bytes = static_cast<size_t>(n) * sizeof(float);
  const Variable x = Variable(Tensor::full({n}, 0.5), true);
  const auto piece = [](const In& in) {
    Variable h = in[0];
    for (int i = 0; i < 10; ++i) h = sin(h);  // each keeps its input
    return h;
  };
  const auto measure = [&](bool checkpointed) {
    Variable(x).zero_grad();
    Allocator& allocator = cpu_device().allocator;
    const size_t before = allocator.current_bytes();
    allocator.reset_peak();
    Variable h = x;
    for (int i = 0; i < 5; ++i) h = checkpointed ? checkpoint(piece, {h}) : piece({h});
    const Variable y = sum(h);
    const size_t kept = allocator.current_bytes() - before;
    y.backward();
    return std::pair(kept, allocator.peak_bytes() - before);
  };
  const auto [plain_kept, plain_peak] = measure(false);
  const std::vector<float> expected = x.grad().value().to_vector<float>();
  const auto [kept, peak] = measure(true);
  CHECK(x.grad().value().to_vector<float>() == expected);
  CHECK(plain_kept >= 50 * bytes);
  CHECK(kept <= 6 * bytes);
  CHECK(graph_of(checkpoint(piece, {x})).nodes[1].saved == std::vector<Shape>{{n}});
  CHECK(plain_peak >= 50 * bytes);
  CHECK(peak <= 20 * bytes);  // the inputs of five pieces, ten steps of one, and some gradients
}

TEST_CASE("several results, of different shapes and dtypes") {
  const Variable x = leaf({0.5, -1, 2}, {3}), w = leaf({1.5, 2, -1}, {3});
  int runs = 0;
  const auto f = [&](const In& in) {
    ++runs;
    const Variable h = sin(in[0] * w);
    return In{h * h, sum(h * in[0]), to(exp(h), DType::f32), w};
  };
  const auto loss = [](const In& y) { return sum(y[0] * y[3]) + y[1] * y[1] + to(sum(y[2]), DType::f64); };
  const auto expected = grad(loss(f({x})), {x, w});
  runs = 0;
  const In y = checkpoint(f, {x});
  CHECK(runs == 1);
  CHECK(y[2].dtype() == DType::f32);
  const auto got = grad(loss(y), {x, w}, {}, /*retain_graph=*/true);
  CHECK(runs == 2);  // once for all outputs
  for (size_t i = 0; i < 2; ++i)
    for (size_t e = 0; e < 3; ++e)
      CHECK(values(got[i])[e] == doctest::Approx(values(expected[i])[e]).epsilon(1e-14));
  // Only some of the results are used; what an earlier walk delivered does not count again.
  const auto first = grad(y[1], {x, w}, {}, true), direct = grad(f({x})[1], {x, w});
  for (size_t i = 0; i < 2; ++i) CHECK(values(first[i]) == values(direct[i]));
}

TEST_CASE("what is captured is found, and nothing else") {
  const Variable x = leaf({2}, {}), w = leaf({5}, {});
  // Returned without any operation.
  const In y = checkpoint([&](const In& in) { return In{in[0] * 2.0, w}; }, {x});
  CHECK(grad({y[0], y[1]}, {x, w})[1].item() == 1);
  // A derivative taken inside records nodes in the first run, too; they are not captured.
  const auto slope = [&](const In& in) {
    const auto f = [&](const In& i) { return i[0] * i[0] * i[0] * w; };
    return vjp(f, in, {}, /*create_graph=*/true).gradients[0];
  };
  const Variable z = checkpoint(slope, {x});  // 3 x^2 w
  CHECK(z.item() == 60);
  CHECK(graph_of(z).edges.size() == 3);  // x and w to the checkpoint, which has one output
  const auto g = grad(z, {x, w});
  CHECK(g[0].item() == 60);
  CHECK(g[1].item() == 12);
}

TEST_CASE("an interrupted walk leaves nothing that a later one would count") {
  const Variable x = leaf({2}, {});
  const auto f = [](const In& in) { return In{in[0] * 3.0, in[0] * 5.0}; };
  const In y = checkpoint(f, {x});
  HookHandle handle =
      y[0].register_hook([](const Variable&) -> Variable { throw std::runtime_error("stop"); });
  CHECK_THROWS_AS(backward({y[0], y[1]}, {}, /*retain_graph=*/true), std::runtime_error);  // y[1] came first
  handle.remove();
  CHECK(grad(y[0], {x})[0].item() == 3);
}

TEST_CASE("gradients of gradients go through checkpoints") {
  const Variable w = leaf({0.7, -0.3}, {2});
  const auto piece = [&](const In& in) { return sum(softmax(in[0] * w) * in[1]); };
  const auto checkpointed = [&](const In& in) {
    return checkpoint([&](const In& i) { return piece(i); }, {in[0], in[1]});
  };
  const In at{constant({0.5, 2}, {2}), constant({1, -1}, {2})};
  auto report = gradcheck(checkpointed, at);
  CHECK_MESSAGE(report.ok, report.message);
  report = gradgradcheck(checkpointed, at);
  CHECK_MESSAGE(report.ok, report.message);
  // Mixed with what was captured, and to the third order.
  const Variable x = leaf({3}, {}), c = leaf({2}, {});
  const Variable y = checkpoint([&](const In& in) { return in[0] * in[0] * in[0] * c * c; }, {x});
  const Variable dx = grad(y, {x}, {}, true, true)[0];      // 3 x^2 c^2
  const Variable dxc = grad(dx, {c}, {}, true, true)[0];    // 6 x^2 c
  const Variable dxcx = grad(dxc, {x}, {}, true, true)[0];  // 12 x c
  CHECK(dx.item() == 108);
  CHECK(dxc.item() == 108);
  CHECK(dxcx.item() == 72);
}

TEST_CASE("a Variable may come as several inputs, as an input and captured, or through another one") {
  const Variable x = leaf({3}, {});
  const Variable h = x * 2.0;  // captured beside x, from which it was computed
  for (bool create_graph : {false, true}) {
    CAPTURE(create_graph);
    const Variable y = checkpoint([&](const In& in) { return in[0] * in[1] * x * h; }, {x, x});  // 2 x^4
    CHECK(grad(y, {x}, {}, true, create_graph)[0].item() == 2 * 4 * 27);
  }
  const Variable z = checkpoint([&](const In& in) { return in[0] * x; }, {h});
  x.register_hook([](const Variable& g) { return g * 10.0; });  // runs once
  CHECK(grad(z, {x})[0].item() == 120);
}

TEST_CASE("checkpoints nest") {
  const Variable x = leaf({0.5, 1}, {2}), w = leaf({2, 3}, {2});
  const auto inner = [&](const In& in) { return sin(in[0] * w); };
  const auto outer = [&](const In& in) { return checkpoint(inner, {checkpoint(inner, in) + w}); };
  const auto plain = [&](const In& in) { return inner({inner(in) + w}); };
  const auto expected = grad(sum(plain({x})), {x, w}), got = grad(sum(checkpoint(outer, {x})), {x, w});
  CHECK(values(got[0]) == values(expected[0]));
  CHECK(values(got[1])[0] == doctest::Approx(values(expected[1])[0]).epsilon(1e-14));
}

TEST_CASE("without recording or without gradients the function just runs") {
  int runs = 0;
  const auto f = [&](const In& in) {
    ++runs;
    return in[0] * 2.0;
  };
  CHECK_FALSE(checkpoint(f, {constant({1}, {})}).requires_grad());
  {
    NoGrad no_grad;
    CHECK_FALSE(checkpoint(f, {leaf({1}, {})}).requires_grad());
  }
  CHECK(runs == 2);
  // Undefined inputs are passed on, integers too.
  const Variable labels(Tensor::zeros({1}, {DType::i64, &cpu_device()})), x = leaf({1}, {});
  const Variable y = checkpoint(
      [](const In& in) {
        CHECK_FALSE(in[1].defined());
        CHECK(in[2].dtype() == DType::i64);
        return in[0] * 2.0;
      },
      {x, Variable(), labels});
  y.backward();
  CHECK(x.grad().item() == 2);
}

TEST_CASE("nothing leaks, also when the function throws in its second run") {
  const size_t before = bytes_in_use();
  {
    const Variable x = Variable(Tensor::ones({1000}, kF64), true);
    bool broken = false;
    const auto f = [&](const In& in) {
      if (broken) throw std::runtime_error("broken");
      return sin(in[0]);
    };
    const Variable y = sum(checkpoint(f, {x}));
    broken = true;
    CHECK_THROWS_AS(y.backward(/*retain_graph=*/true), std::runtime_error);
    CHECK(is_recording());
    broken = false;
    y.backward();
    CHECK(x.grad().defined());
    CHECK_THROWS_AS(checkpoint([](const In&) -> Variable { throw std::runtime_error("first run"); }, {x}),
                    std::runtime_error);
    CHECK(is_recording());
    CHECK((x * x).requires_grad());
  }
  CHECK(bytes_in_use() == before);
}

TEST_CASE("changes between the two runs are noticed") {
  const Variable x = leaf({1, 2}, {2}), w = leaf({3, 4}, {2});
  const auto f = [&](const In& in) { return in[0] * w; };
  Variable y = sum(checkpoint(f, {x}));
  w.value().fill_(1);
  CHECK(error_of([&] { y.backward(); }).find("changed in place") != std::string::npos);
  y = sum(checkpoint(f, {x}));
  x.value().fill_(1);
  CHECK(error_of([&] { y.backward(); }).find("changed in place") != std::string::npos);

  int runs = 0;
  const auto moody = [&](const In& in) { return ++runs == 1 ? in[0] : sum(in[0]); };
  y = sum(checkpoint(moody, {x}));
  CHECK(error_of([&] { y.backward(); }) ==
        "[checkpoint] output 0 had shape (2,) and f64, then () and f64 when the function was run again; it "
        "must "
        "do the same each time");
  runs = 0;
  const auto fickle = [&](const In& in) { return ++runs == 1 ? In{in[0], in[0]} : In{in[0]}; };
  y = sum(checkpoint(fickle, {x})[0]);
  CHECK(
      error_of([&] { y.backward(); }) ==
      "[checkpoint] the function returned 2 outputs, then 1 when it was run again; it must do the same each "
      "time");
  CHECK(error_of([&] { checkpoint([](const In&) { return Variable(); }, {x}); }) ==
        "[checkpoint] the function returned an undefined variable as output 0");
}
