#include <cstdio>

#include "autograd/gradcheck.h"
#include "autograd/ops.h"
using namespace halfstep;

/// y = x w + b, with a gradient for w that forgets to transpose x. (It is square, so the shapes fit.)
Variable my_linear(const Variable& x, const Variable& w, const Variable& b) {
  return record("my_linear", matmul(x.value(), w.value(), b.value()), {x, w, b},
                [x = Saved(x), w = Saved(w)](const Variable& g) -> std::vector<Variable> {
                  return {matmul(g, transpose(w.get(), 0, 1)), matmul(x.get(), g), g};
                });
}

int main() {
  const Variable x(Tensor::from<double>({1, 2, 3, 4}, {2, 2}, {DType::f64}));
  const Variable w(Tensor::from<double>({5, 6, 7, 8}, {2, 2}, {DType::f64}));
  const Variable b(Tensor::from<double>({9, 10}, {2}, {DType::f64}));
  // The three lines:
  const auto f = [](const std::vector<Variable>& in) { return my_linear(in[0], in[1], in[2]); };
  const GradcheckReport report = gradcheck(f, {x, w, b}, {.input_names = {"x", "w", "b"}});
  if (!report) std::puts(report.message.c_str());
  return report ? 0 : 1;
}
