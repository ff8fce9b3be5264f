#include <cstdio>

#include "autograd/gradcheck.h"
#include "autograd/ops.h"
using namespace halfstep;

int main() {
  const Variable x(random_normal({4, 3}, {/*seed*/ 1, /*stream*/ 0}, 0, {DType::f64}));
  const auto f = [](const std::vector<Variable>& in) { return softmax(in[0] * tanh(in[0])); };
  const GradcheckReport report = gradcheck(f, {x});
  std::puts(report ? "the gradient is right" : report.message.c_str());
  return report ? 0 : 1;
}
