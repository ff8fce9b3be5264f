// An operation of one's own, and whether its gradient rule is right.
#include <cstdio>

#include "autograd/gradcheck.h"
#include "autograd/ops.h"

using namespace halfstep;

#ifndef FACTOR
#define FACTOR 3
#endif

/// y = x^3, dy/dx = FACTOR * x^2. The rule is made of operations, so its own derivative comes for free.
Variable cube(const Variable& x) {
  Tensor y = multiply(multiply(x.value(), x.value()), x.value());
  return record("cube", y, {x}, [x = Saved(x)](const Variable& upstream) {
    return std::vector{upstream * square(x.get()) * FACTOR};
  });
}

int main() {
  const Variable x(Tensor::from<double>({-1.5, 0.0, 0.5, 2.0}, {2, 2}, {DType::f64}), true);
  const auto function = [](const std::vector<Variable>& in) { return cube(in[0]); };
  bool ok = true;
  for (const auto& report : {gradcheck(function, {x}), gradgradcheck(function, {x})}) {
    std::puts(report ? "right" : report.message.c_str());
    ok = ok && report;
  }
  return ok ? 0 : 1;
}
