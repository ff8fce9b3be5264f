#include <cmath>
#include <cstdio>

#include "autograd/complex_step.h"
using namespace halfstep;

int main() {
  const auto f = [](auto x) { return exp(x) / (1 + x * x); };
  const auto slope = [](double x) { return std::exp(x) * (1 - x) * (1 - x) / ((1 + x * x) * (1 + x * x)); };
  const auto hasty = [](double x) { return std::exp(x) * (1 - x) / (1 + x * x); };
  std::puts(gradcheck_formula(f, slope, {-1, 0.5, 3}) ? "slope: right" : "slope: wrong");
  std::puts(gradcheck_formula(f, hasty, {-1, 0.5, 3}) ? "hasty: right" : "hasty: wrong");
}
