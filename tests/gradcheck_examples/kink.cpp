#include <cstdio>

#include "autograd/gradcheck.h"
#include "autograd/ops.h"
using namespace halfstep;

int main() {
  const Variable x(Tensor::from<double>({-1, 0, 2}, {3}, {DType::f64}));
  const auto f = [](const std::vector<Variable>& in) { return relu(in[0]); };
  std::puts(gradcheck(f, {x}).message.c_str());
  const GradcheckReport skipped = gradcheck(f, {x}, {.on_kink = OnKink::skip});
  std::printf("with skip: %s, %d kink\n", skipped ? "ok" : "wrong", static_cast<int>(skipped.kinks_skipped));
}
