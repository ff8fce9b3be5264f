// A loss with a gradient in it: the gradient penalty of WGAN-GP (Gulrajani et al. 2017) on a small
// convolutional critic. Training needs the derivative of a derivative, through convolutions.
//
// A critic D rates pictures. The largest mean(D(real)) - mean(D(fake)) over all critics of slope at most 1 is
// the Wasserstein distance between the two sets of pictures. The penalty
//   lambda * mean((|dD/dx| - 1)^2)
// holds the slope near 1; without it the critic just gets steeper and steeper.
//
// Here we know what must come out. Fake pictures are noise; real ones are noise plus a fixed picture of
// length m. The best critic is a plane that rises along that picture; with slope s it earns s m - lambda (s -
// 1)^2, which is largest at s = 1 + m / (2 lambda).
//
//   ninja -C build apps/examples/gradient_penalty && build/apps/examples/gradient_penalty
#include <fmt/core.h>

#include <cmath>

#include "nn/layers.h"
#include "nn/optimizer.h"

using namespace halfstep;

namespace {

constexpr int64_t kBatch = 32, kSide = 8;
constexpr double kLambda = 10, kLength = 2;
constexpr int kUpdates = 400;

struct Critic {
  Conv2d conv1{1, 16, 2}, conv2{16, 32, 2};  // 8 x 8 -> 4 x 4 -> 2 x 2
  Linear output{2 * 2 * 32, 1};

  /// x [B, 8, 8, 1] -> [B, 1]
  Variable operator()(const Variable& x) const {
    const Variable h = silu(conv2(silu(conv1(x))));
    return output(reshape(h, {x.size(0), -1}));
  }

  template <class Self, class Visitor>
  static void fields(Self& self, Visitor&& visit) {
    visit("conv1", self.conv1);
    visit("conv2", self.conv2);
    visit("output", self.output);
  }
};

/// |dD/dx| at each picture x [B, 8, 8, 1]: [B], a value that can be differentiated in D's parameters.
Variable slopes(const Critic& critic, const Tensor& x) {
  const Variable at(x, /*requires_grad=*/true);
  // One picture's rating does not depend on the others, so the gradient of the sum holds every picture's
  // gradient.
  const bool retain_graph = true, create_graph = true;
  const Variable slope = grad(sum(critic(at)), {at}, {}, retain_graph, create_graph)[0];
  return sqrt(sum(square(slope), {1, 2, 3}) + 1e-12);  // sqrt has no gradient at 0
}

struct Outcome {
  double difference;  ///< mean(D(real)) - mean(D(fake))
  double slope;       ///< mean of |dD/dx|
};

/// Trains a critic; means over the last 100 updates.
Outcome train(double lambda) {
  // The fixed picture: a bright left half on a dark ground, of length m.
  Tensor picture = Tensor::full({1, kSide, kSide, 1}, -kLength / kSide);
  picture.slice(2, 0, kSide / 2).fill_(kLength / kSide);

  Critic critic;
  init_parameters(critic, /*seed=*/0);
  Adam adam(parameters(critic), {.beta1 = 0.5, .beta2 = 0.9});  // as in the paper of WGAN-GP
  const LearningRateSchedule learning_rate{.base = 3e-3, .anneal_total_steps = kUpdates};
  Outcome outcome{};
  for (uint64_t update = 0; update < kUpdates; ++update) {
    const Shape shape{kBatch, kSide, kSide, 1};
    const Tensor fake = random_normal(shape, RandomKey{1, update});
    const Tensor real = add(random_normal(shape, RandomKey{2, update}), picture);
    // The slope is measured between the two sets, at random points on lines from fake to real.
    const Tensor part = random_uniform({kBatch, 1, 1, 1}, RandomKey{3, update});
    const Tensor between = add(fake, multiply(part, subtract(real, fake)));

    const Variable difference = mean(critic(Variable(real))) - mean(critic(Variable(fake)));
    const Variable slope = slopes(critic, between);
    const Variable loss = lambda * mean(square(slope - 1)) - difference;
    adam.zero_grad();
    loss.backward();  // through the gradient as well
    adam.step(learning_rate(static_cast<int64_t>(update)));

    if (update >= kUpdates - 100) {
      outcome.difference += difference.item() / 100;
      outcome.slope += mean(slope).item() / 100;
    }
  }
  return outcome;
}

}  // namespace

int main() {
  const double expected_slope = 1 + kLength / (2 * kLambda);
  const Outcome with = train(kLambda), without = train(0);
  fmt::print("                  slope  D(real) - D(fake)\n");
  fmt::print("expected        {:7.2f} {:18.2f}\n", expected_slope, expected_slope * kLength);
  fmt::print("with penalty    {:7.2f} {:18.2f}\n", with.slope, with.difference);
  fmt::print("without penalty {:7.2f} {:18.2f}\n", without.slope, without.difference);

  // A critic that is no plane may earn a little more than the best plane.
  const bool held = std::abs(with.slope / expected_slope - 1) < 0.1 &&
                    std::abs(with.difference / (expected_slope * kLength) - 1) < 0.15 &&
                    without.slope > 5 * expected_slope;
  return held ? 0 : 1;
}
