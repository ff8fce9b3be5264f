// The engine and what is built on it. The operations' errors are in operations.cpp.
#include <doctest/doctest.h>

#include <sys/resource.h>

#include <cmath>
#include <csignal>
#include <filesystem>

#include "autograd/anomaly.h"
#include "autograd/cases/op_cases.h"
#include "autograd/checkpoint.h"
#include "autograd/complex_step.h"
#include "autograd/functional.h"
#include "autograd/gradcheck.h"
#include "autograd/graph.h"
#include "autograd/ops.h"
#include "tensor/files.h"
#include "tests/errors/rows.h"
#include "tests/temporary_folder.h"

using namespace halfstep;
using namespace halfstep::test;

namespace {

/// A result whose rule returns `gradients`.
Variable with_rule(const Variable& x, const std::vector<Variable>& gradients) {
  return record("mine", x.value(), {x}, [gradients](const Variable&) { return gradients; });
}

/// Runs `action` while the process may not use more of a resource.
void with_limit(int resource, rlim_t most, const std::function<void()>& action) {
  struct Guard {
    int resource;
    rlimit limit{};
    // A file that grows too large would end the program.
    void (*handler)(int) = std::signal(SIGXFSZ, SIG_IGN);
    ~Guard() {
      setrlimit(resource, &limit);
      std::signal(SIGXFSZ, handler);
    }
  } guard{resource};
  getrlimit(resource, &guard.limit);
  const rlimit reduced{most, guard.limit.rlim_max};
  REQUIRE(setrlimit(resource, &reduced) == 0);
  action();
}

}  // namespace

TEST_CASE("errors of automatic differentiation") {
  const Variable x = leaf({2});
  check_rows({
      {"undefined variable", [] { Variable().value(); },
       "[Variable] expected a variable, got an undefined one (default-constructed)"},
      {"variable of an undefined tensor", [] { Variable{Tensor()}; },
       "[Variable] expected a tensor, got an undefined one (default-constructed)"},
      {"gradient of an undefined variable", [] { Variable().grad(); },
       "[grad] expected a variable, got an undefined one (default-constructed)"},
      {"gradients of integers", [] { leaf({2}, DType::i64); },
       "[requires_grad] only f32, f64 and bf16 have gradients, got i64"},
      {"requires_grad of a result", [&] { square(x).set_requires_grad(false); },
       "[requires_grad] expected a leaf, got the result of 'multiply'; use detach()"},
      {"value of a result", [&] { (x + x).set_value(ones({2})); },
       "[set_value] expected a leaf, got the result of *"},
      {"gradient of another shape", [&] { leaf({2}).set_grad(leaf({3})); },
       "[set_grad] expected a gradient of shape (2,), got (3,)*"},
      {"hook without gradient",
       [] { Variable(ones({2})).register_hook([](const Variable& g) { return g; }); },
       "[register_hook] expected a variable that requires a gradient, got one that does not: the hook would "
       "never run"},
      {"backward without history", [&] { x.detach().backward(); },
       "[backward] the output does not depend on anything that requires a gradient"},
      {"backward of a vector", [&] { (x * 2.0).backward(); },
       "[backward] expected a scalar output, got shape (2,); pass an upstream gradient"},
      {"upstream shape", [&] { (x * 2.0).backward(leaf({3})); },
       "[backward] expected an upstream gradient of the shape (2,) of the output, got (3,)"},
      {"upstream dtype", [&] { (x * 2.0).backward(leaf({2}, DType::f32)); },
       "[backward] the caller gave a gradient of f32 on 'cpu' for a value of f64 on 'cpu'"},
      {"upstream device", [] { (leaf({2}, DType::f32) * 2.0).backward(Variable(elsewhere({2}))); },
       "[backward] the caller gave a gradient of f32 on 'reference' for a value of f32 on 'cpu'"},
      {"freed graph",
       [&] {
         const Variable y = sum(x * x);
         y.backward();
         y.backward();
       },
       "[backward] the graph of 'sum' was freed by an earlier backward; pass retain_graph = true there*"},
      {"in-place damage",
       [] {
         const Variable p = leaf({2});
         const Variable y = sum(p * p);
         p.value().fill_(3);
         y.backward();
       },
       "[backward] a value saved for the gradient was changed in place (version *, expected *); change a "
       "clone() "
       "instead*"},
      {"damage by set_value",
       [] {
         Variable p = leaf({2});
         const Variable y = sum(p * p);
         p.set_value(ones({2}, DType::f64));
         y.backward();
       },
       "[backward] a leaf of shape (2,) in the graph was given another value by set_value; call it after "
       "backward()"},
      {"rule with too few gradients", [&] { sum(with_rule(x, {})).backward(); },
       "[backward] the rule of 'mine' returned 0 gradients for 1 inputs*"},
      {"rule with a gradient of another shape", [&] { sum(with_rule(x, {leaf({3})})).backward(); },
       "[backward] 'mine' gave a gradient of shape (3,) for a value of shape (2,)*"},
      {"rule with a gradient of another dtype",
       [&] { sum(with_rule(x, {leaf({2}, DType::f32)})).backward(); },
       "[backward] 'mine' gave a gradient of f32 on 'cpu' for a value of f64 on 'cpu'*"},
      {"no outputs", [&] { grad(std::vector<Variable>{}, {x}); },
       "[backward] expected at least one output, got none"},
      {"too many upstream gradients",
       [&] {
         grad(std::vector<Variable>{sum(x)}, {x}, std::vector<Variable>{leaf({}), leaf({})});
       },
       "[backward] expected one upstream gradient for each of 1 outputs, got 2; an undefined one stands for "
       "1"},
      {"undefined output", [] { Variable().backward(); },
       "[backward] expected results, got an undefined variable as the output"},
      {"undefined input of grad", [&] { grad(sum(x), {Variable()}); },
       "[grad] expected variables, got an undefined one as input 0"},
      {"set_value before backward, seen by the walk",
       [] {
         Variable p = leaf({2});
         const Variable y = sum(p);
         p.set_value(ones({2}, DType::f64));
         y.backward();
       },
       "[backward] a leaf of shape (2,) in the graph was given another value by set_value; call it after "
       "backward()"},
      {"hook with a gradient of another shape",
       [&] {
         const Variable y = x * 2.0;
         y.register_hook([](const Variable&) { return leaf({3}); });
         sum(y).backward();
       },
       "[backward] a hook of 'affine' gave a gradient of shape (3,) for a value of shape (2,)"},
      {"empty hook", [] { leaf({2}).register_hook(nullptr); },
       "[register_hook] expected a function, got an empty one"},
      {"hook of accumulation without gradient",
       [] { Variable(ones({2})).register_accumulated_hook([](const Variable&) {}); },
       "[register_accumulated_hook] expected a variable that requires a gradient, got one that does not: the "
       "hook "
       "would never run"},
      {"hook of accumulation on a result", [&] { sum(x).register_accumulated_hook([](const Variable&) {}); },
       "[register_accumulated_hook] expected a leaf, got the result of 'sum', which accumulates nothing; use "
       "register_hook"},
      {"empty hook of accumulation", [] { leaf({2}).register_accumulated_hook(nullptr); },
       "[register_accumulated_hook] expected a function, got an empty one"},
      {"undefined value", [] { leaf({2}).set_value(Tensor()); },
       "[set_value] expected a tensor, got an undefined one (default-constructed)"},
      {"value without gradients", [] { leaf({2}).set_value(ones({2}, DType::i64)); },
       "[set_value] only f32, f64 and bf16 have gradients, got i64; call set_requires_grad(false) before"},
      {"grad without inputs", [&] { grad(sum(x), {}); }, "[grad] expected at least one input, got none"},
      {"fourth derivative",
       [] {
         const Variable p = leaf({1});
         Variable y = exp(p);
         for (int order = 0; order < 4; ++order) y = grad(y, {p}, {}, true, true)[0];
       },
       "[exp] expected a derivative of order 0 to 3, got 4"},
      {"gradcheck of undefined inputs", [] { gradcheck([](const auto& in) { return in[0]; }, {Variable()}); },
       "[gradcheck] expected inputs, got an undefined variable"},
      {"gradgradcheck of nothing", [] { gradgradcheck([](const auto& in) { return in[0]; }, {}); },
       "[gradcheck] expected at least one input, got none"},
  });
}

TEST_CASE("errors of functional derivatives, checkpoints and anomalies") {
  using Variables = std::vector<Variable>;
  const Variable x = leaf({2});
  const auto same = [](const Variables& in) { return in[0]; };
  const auto nothing = [](const Variables&) { return Variable(); };
  const MultiFunction no_output = [](const Variables&) { return Variables{Variable()}; };
  const auto nan = [](const Shape& shape) { return Variable(Tensor::full(shape, NAN, {DType::f64})); };
  const auto rows = [](const std::vector<int64_t>& sizes) { return leaf(Shape(sizes)); };
  check_rows({
      {"undefined input of vjp", [&] { vjp(same, {Variable()}, x); },
       "[vjp] expected variables, got an undefined one as input 0"},
      {"undefined input of jvp", [&] { jvp(same, {Variable()}, {x}); },
       "[jvp] expected variables, got an undefined one as input 0"},
      {"undefined input of hvp", [&] { hvp(same, {Variable()}, {x}); },
       "[hvp] expected variables, got an undefined one as input 0"},
      {"undefined input of jacobian", [&] { jacobian(same, {Variable()}); },
       "[jacobian] expected variables, got an undefined one as input 0"},
      {"undefined input of hessian", [&] { hessian(same, {Variable()}); },
       "[hessian] expected variables, got an undefined one as input 0"},
      {"upstream gradients of vjp",
       [&] { vjp(MultiFunction([](const Variables& in) { return in; }), {x}, {}); },
       "[vjp] expected one upstream gradient per output, 1 in all, got 0"},
      {"undefined output of vjp", [&] { vjp(no_output, {x}, Variables{x}); },
       "[vjp] the function returned an undefined variable as output 0"},
      {"shape for vjp", [&] { vjp(same, {x}, leaf({3})); },
       "[vjp] expected an upstream gradient of shape (2,) for output 0, got (3,)"},
      {"no upstream gradient for vjp", [&] { vjp(same, {x}); },
       "[vjp] expected an upstream gradient of shape (2,) for output 0, got none"},
      {"number of tangents", [&] { jvp(same, {x}, {}); },
       "[jvp] expected one tangent per input, 1 in all, got 0"},
      {"shape of a tangent", [&] { jvp(same, {x}, {leaf({3})}); },
       "[jvp] expected a tangent of shape (2,) and f64 for input 0, got (3,) and f64"},
      {"undefined output of jvp", [&] { jvp(no_output, {x}, Variables{x}); },
       "[jvp] the function returned an undefined variable as output 0"},
      {"undefined result of jacobian", [&] { jacobian(nothing, {x}); },
       "[jacobian] expected the function to return a variable, got an undefined one"},
      {"axes of a jacobian",
       [&] {
         jacobian(same, {rows({1, 1, 1, 1, 1})});
       },
       "[jacobian] expected at most 8 axes in all, got output (1, 1, 1, 1, 1) and input (1, 1, 1, 1, 1); "
       "reshape one "
       "of them"},
      {"hessian of a vector", [&] { hessian(same, {x}); },
       "[hessian] expected a function with a scalar result, got shape (2,)"},
      {"axes of a hessian",
       [&] {
         hessian([](const Variables& in) { return sum(square(in[0])); }, {rows({1, 1, 1, 1, 1})});
       },
       "[hessian] expected at most 8 axes in all, got output (1, 1, 1, 1, 1) and input (1, 1, 1, 1, 1); "
       "reshape one of them"},
      {"hvp of a vector", [&] { hvp(same, {x}, {x}); },
       "[hvp] expected a function with a scalar result, got shape (2,)"},
      {"hvp of nothing", [&] { hvp(nothing, {x}, {x}); },
       "[hvp] expected a function with a scalar result, got shape (undefined)"},
      {"shape of a vector of hvp", [&] { hvp(same, {x}, {leaf({3})}); },
       "[hvp] expected a vector of shape (2,) and f64 for input 0, got (3,) and f64"},
      {"vectors of hvp", [&] { hvp(same, {x}, {}); }, "[hvp] expected one vector per input, 1 in all, got 0"},
      {"checkpoint of nothing", [&] { checkpoint(nothing, {x}); },
       "[checkpoint] the function returned an undefined variable as output 0"},
      {"checkpoint with another number of outputs",
       [&] {
         int runs = 0;
         const MultiFunction changes = [&](const Variables& in) {
           return Variables(runs++ ? 2 : 1, in[0] * 2.0);
         };
         sum(checkpoint(changes, {x})[0]).backward();
       },
       "[checkpoint] the function returned 1 outputs, then 2 when it was run again; it must do the same each "
       "time"},
      {"checkpoint with another shape",
       [&] {
         int runs = 0;
         sum(checkpoint([&](const Variables& in) { return runs++ ? sum(in[0]) : in[0] * 2.0; }, {x}))
             .backward();
       },
       "[checkpoint] output 0 had shape (2,) and f64, then () and f64 when the function was run again; it "
       "must do "
       "the same each time"},
      {"NaN of a value",
       [&] {
         DetectAnomaly guard;
         log(leaf({2}) - 3.0);
       },
       "[anomaly] the value of 'log' contains NaN: shape (2,), 2 of 2 elements (first at element 0), from "
       "finite inputs; in log <- affine <- leaf"},
      {"NaN upstream",
       [&] {
         DetectAnomaly guard;
         (x * 2.0).backward(nan({2}));
       },
       "[anomaly] the upstream gradient given for 'affine' contains NaN before any rule has run: shape (2,), "
       "2 of 2 elements (first at element 0); in affine <- leaf"},
      {"NaN of a hook",
       [&] {
         DetectAnomaly guard;
         const Variable y = x * 2.0;
         y.register_hook([&](const Variable&) { return nan({2}); });
         sum(y).backward();
       },
       "[anomaly] a hook of 'affine' returned NaN: shape (2,), 2 of 2 elements (first at element 0); in sum "
       "<- affine <- leaf"},
      {"NaN of a rule",
       [&] {
         DetectAnomaly guard;
         sum(with_rule(x, {nan({2})})).backward();
       },
       "[anomaly] the backward of 'mine' produced NaN: gradient of its input 0, shape (2,), 2 of 2 elements "
       "(first at element 0), from a finite upstream gradient; in sum <- mine <- leaf"},
      {"NaN of a sum",
       [&] {
         DetectAnomaly guard;
         const Variable infinite(Tensor::full({2}, INFINITY, {DType::f64}));
         const Variable p = leaf({2});
         sum(with_rule(p, {infinite}) + with_rule(p, {-infinite})).backward();
       },
       "[anomaly] adding up the gradients of the uses of 'leaf' gave NaN: shape (2,), 2 of 2 elements (first "
       "at element 0); in sum <- add <- mine <- leaf"},
  });
}

TEST_CASE("errors of graphs") {
  const Variable x = leaf({2});
  const TemporaryFolder folder, tools;
  write_file(tools / "dot", "#!/bin/sh\necho 'no fonts' >&2\necho 'sorry' >&2\nexit 3\n");
  std::filesystem::permissions(tools / "dot", std::filesystem::perms::owner_all);
  check_rows({
      {"name of a picture", [&] { write_graph(sum(x), "graph.jpg"); },
       "[write_graph] expected a file name that ends in .dot, .gv or .svg, got 'graph.jpg'"},
      {"graph of nothing", [&] { write_graph(x.detach(), "graph.dot"); },
       "[write_graph] the output does not depend on anything that requires a gradient, so there is no graph"},
      {"no Graphviz",
       [&] { with_environment("PATH", folder.path().c_str(), [&] { write_graph(sum(x), "graph.svg"); }); },
       "[write_graph] expected the program 'dot', but it does not start: No such file or directory; "
       "install graphviz (Debian: apt-get install graphviz), or write a .dot file"},
      {"Graphviz that fails",
       [&] {
         with_environment("PATH", tools.path().c_str(), [&] { write_graph(sum(x), folder / "graph.svg"); });
       },
       "[write_graph] expected the program 'dot' to succeed, it ended with status 3: no fonts sorry"},
      {"no more files",
       [&] { with_limit(RLIMIT_NOFILE, 0, [&] { write_graph(sum(x), folder / "graph.svg"); }); },
       "[write_graph] cannot create a temporary file: Too many open files; is the disk full?"},
      {"no room", [&] { with_limit(RLIMIT_FSIZE, 0, [&] { write_graph(sum(x), folder / "graph.svg"); }); },
       "[write_graph] cannot write a temporary file: File too large; is the disk full?"},
  });
}

TEST_CASE("errors of gradient checks") {
  const Variable x = leaf({2});
  const std::vector<Variable> none, labels{Variable(Tensor::zeros({2}, {DType::i64}))};
  const auto same = [](const std::vector<Variable>& in) { return in[0]; };
  check_rows({
      {"name of a layout", [] { layout_by_name("diagonal"); },
       "[layout] expected contiguous, transposed, sliced, expanded or flipped, got 'diagonal'"},
      {"no direction", [&] { gradcheck(same, {x}, {.directions = 0}); },
       "[gradcheck] expected at least one direction, got 0"},
      {"order of a check", [&] { gradcheck(same, {x}, {.order = 0}); },
       "[gradcheck] expected an order of at least 1, got 0"},
      {"check of integers", [&] { gradcheck(same, labels); },
       "[gradcheck] expected an f32 or f64 input, got none"},
      {"check of a result in bf16",
       [&] { gradcheck([](const std::vector<Variable>& in) { return to(in[0], DType::bf16); }, {x}); },
       "[gradcheck] expected results of f32 or f64, got bf16 as result 0, too coarse for differences"},
      {"check without inputs",
       [&] { gradcheck([](const std::vector<Variable>&) { return leaf({1}); }, none); },
       "[gradcheck] expected at least one input, got none"},
      {"check of a function without result",
       [&] { gradcheck([](const std::vector<Variable>&) { return Variable(); }, {x}); },
       "[gradcheck] expected the function to return variables, got an undefined one as result 0"},
      {"function of changing shape",
       [&] {
         int calls = 0;
         gradcheck(
             [&](const std::vector<Variable>& in) {
               return ++calls > 2 ? reshape(in[0], {2, 1}) : in[0] * 2.0;
             },
             {x});
       },
       "[gradcheck] expected result 0 of shape (2,) for other values of the inputs, too, got (2, 1)"},
      {"derivative beyond the last",
       [] { complex_step_check({.op = UnaryOp::exp, .derivative = kMaxDerivative}, {0.5}); },
       "[complex_step_check] expected a derivative of 0 to 2, got 3"},
  });
}
