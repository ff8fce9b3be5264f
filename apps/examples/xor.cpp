// Exclusive or: the smallest problem that needs a hidden layer.
//
// No line separates {00, 11} from {01, 10}, so a network without a hidden layer cannot learn it; with eight
// hidden units it can. A module is a struct with a list of its members; an optimiser works on its parameters.
//
//   ninja -C build apps/examples/xor && build/apps/examples/xor
#include <fmt/core.h>

#include <cmath>
#include <vector>

#include "nn/layers.h"
#include "nn/optimizer.h"

using namespace halfstep;

namespace {

struct TwoLayers {
  Linear hidden{2, 8}, output{8, 1};

  /// x [B, 2] -> probability of 1 [B, 1]
  Variable operator()(const Variable& x) const { return sigmoid(output(tanh(hidden(x)))); }

  template <class Self, class Visitor>
  static void fields(Self& self, Visitor&& visit) {
    visit("hidden", self.hidden);
    visit("output", self.output);
  }
};

/// -mean(y log p + (1 - y) log(1 - p)): how surprised a forecast p is by what happened, y in {0, 1}.
Variable binary_cross_entropy(const Variable& p, const Variable& y) {
  return -mean(y * log(p) + (1 - y) * log(1 - p));
}

}  // namespace

int main() {
  const Variable x(Tensor::from<double>({0, 0, 0, 1, 1, 0, 1, 1}, {4, 2}));
  const std::vector<double> truth = {0, 1, 1, 0};
  const Variable y(Tensor::from(truth, {4, 1}));

  TwoLayers net;
  init_parameters(net, /*seed=*/0);
  Adam adam(parameters(net));
  for (int update = 0; update <= 300; ++update) {
    const Variable loss = binary_cross_entropy(net(x), y);
    if (update % 100 == 0) fmt::print("update {:3}: loss {:.4f}\n", update, loss.item());
    adam.zero_grad();
    loss.backward();
    adam.step(/*lr=*/0.05);
  }

  const std::vector<double> p = net(x).value().to_vector<double>();
  bool learned = true;
  for (size_t k = 0; k < truth.size(); ++k) {
    fmt::print("{} xor {} = {}   (probability of 1: {:.3f})\n", k / 2, k % 2, p[k] > 0.5 ? 1 : 0, p[k]);
    learned = learned && std::abs(p[k] - truth[k]) < 0.05;
  }
  return learned ? 0 : 1;
}
