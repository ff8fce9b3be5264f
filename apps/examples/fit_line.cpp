// Linear regression by gradient descent: find the slope and the intercept of a line through noisy points.
//
// The whole of machine learning in thirty lines: a model with numbers to learn, a loss that says how wrong it
// is, the gradient of the loss, a small step downhill, again.
//
//   ninja -C build apps/examples/fit_line && build/apps/examples/fit_line
#include <fmt/core.h>

#include <cmath>
#include <vector>

#include "autograd/ops.h"

using namespace halfstep;

int main() {
  // 100 points near the line y = 3 x - 1.
  const double true_slope = 3, true_intercept = -1;
  const int64_t count = 100;
  const TensorOptions f64{DType::f64};
  const Variable x(random_uniform({count}, RandomKey{0, 1}, 0, f64));
  const Variable noise(random_normal({count}, RandomKey{0, 2}, 0, f64));
  const Variable y = true_slope * x + true_intercept + 0.1 * noise;

  // What is to be learned: two scalars, which collect gradients.
  Variable slope(Tensor::scalar(0, f64), true);
  Variable intercept(Tensor::scalar(0, f64), true);

  for (int update = 0; update <= 500; ++update) {
    const Variable loss = mse(slope * x + intercept, y);
    if (update % 100 == 0) {
      fmt::print("update {:3}: loss {:.5f}  slope {:6.3f}  intercept {:6.3f}\n", update, loss.item(),
                 slope.item(), intercept.item());
    }
    loss.backward();  // fills slope.grad() and intercept.grad()
    for (Variable* parameter : {&slope, &intercept}) {
      const NoGrad guard;  // a step is no part of the model
      const double learning_rate = 0.5;
      parameter->value().copy_((*parameter - learning_rate * parameter->grad()).value());
      parameter->zero_grad();
    }
  }

  // The best line is known in closed form: slope = covariance of x and y / variance of x.
  const Variable from_mean = x - mean(x);
  const double best_slope = (mean(from_mean * y) / mean(square(from_mean))).item();
  const double best_intercept = (mean(y) - best_slope * mean(x)).item();
  fmt::print("learned:       slope {:.4f}  intercept {:.4f}\n", slope.item(), intercept.item());
  fmt::print("least squares: slope {:.4f}  intercept {:.4f}\n", best_slope, best_intercept);

  const bool found =
      std::abs(slope.item() - best_slope) < 1e-4 && std::abs(intercept.item() - best_intercept) < 1e-4;
  return found ? 0 : 1;
}
