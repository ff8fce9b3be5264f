// A classifier of small pictures: two convolutions and two dense layers learn Fashion-MNIST to 90 %.
//
// (The data set has the form of the handwritten digits of MNIST; give the folder of those files to learn
// digits.)
//
//   ninja -C build apps/examples/digits && build/apps/examples/digits --help
#include <fmt/core.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <numeric>
#include <span>
#include <string>
#include <vector>

#include "diffusion/batches.h"
#include "nn/layers.h"
#include "nn/optimizer.h"
#include "tensor/error.h"

using namespace halfstep;

namespace {

constexpr const char* kHelp =
    "Trains a classifier of small pictures and tests it.\n"
    "\n"
    "  --data DIR     folder with the four IDX files of MNIST or Fashion-MNIST\n"
    "                 (default: Debian's dataset-fashion-mnist)\n"
    "  --updates N    of the weights, with 64 pictures each (default: 3000)\n"
    "\n"
    "Exit code 0: at least 90 % of the test pictures are right; 1: fewer, or a failure.\n";

struct Options {
  bool help = false;
  std::string data;
  int64_t updates = 3000;
};

Options parse(const std::vector<std::string>& arguments) {
  Options options;
  for (size_t k = 0; k < arguments.size(); ++k) {
    const std::string flag = arguments[k];
    if (flag == "--help") {
      options.help = true;
      return options;
    }
    require(flag == "--data" || flag == "--updates", "digits",
            "expected --data or --updates, got '{}'; see --help", flag);
    require(++k < arguments.size(), flag, "expected a value, got the end of the command line");
    const std::string& value = arguments[k];
    if (flag == "--data") {
      options.data = value;
    } else {
      const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), options.updates);
      require(error == std::errc{} && end == value.data() + value.size() && options.updates >= 0, flag,
              "expected a whole number, got '{}'", value);
    }
  }
  return options;
}

struct Classifier {
  Conv2d conv1, conv2;
  Linear hidden, output;

  explicit Classifier(const Dataset& data)
      : conv1(data.channels, 32, 2),  // [B, H/2, W/2, 32]
        conv2(32, 64, 2),             // [B, H/4, W/4, 64]
        hidden(data.height / 4 * (data.width / 4) * 64, 128),
        output(128, data.num_classes) {}

  /// x [B, H, W, C] in [-1, 1] -> logits [B, num_classes]
  Variable operator()(const Variable& x) const {
    const Variable h = relu(conv2(relu(conv1(x))));
    return output(relu(hidden(reshape(h, {x.size(0), -1}))));
  }

  template <class Self, class Visitor>
  static void fields(Self& self, Visitor&& visit) {
    visit("conv1", self.conv1);
    visit("conv2", self.conv2);
    visit("hidden", self.hidden);
    visit("output", self.output);
  }
};

/// Percent of the pictures whose largest logit is that of their label.
double accuracy(const Classifier& classifier, const Dataset& data) {
  const NoGrad guard;
  std::vector<int64_t> indices(static_cast<size_t>(data.count));
  std::iota(indices.begin(), indices.end(), 0);
  int64_t right = 0;
  for (std::span<const int64_t> left = indices; !left.empty();) {
    const auto part = left.first(std::min<size_t>(500, left.size()));
    left = left.subspan(part.size());
    const Tensor guess = argmax(classifier(Variable(images_at(data, part))).value(), -1);
    const auto guesses = guess.to_vector<int64_t>(), truth = labels_at(data, part).to_vector<int64_t>();
    for (size_t k = 0; k < truth.size(); ++k) right += guesses[k] == truth[k];
  }
  return 100.0 * static_cast<double>(right) / static_cast<double>(data.count);
}

int run(const Options& options) {
  const std::string folder = options.data.empty() ? default_dataset_folder() : options.data;
  const Dataset train = load_dataset(folder, Split::train), test = load_dataset(folder, Split::test);
  fmt::print("{}: {} pictures to learn from, {} to test, {} classes\n", train.name, train.count, test.count,
             train.num_classes);

  Classifier classifier(train);
  init_parameters(classifier, /*seed=*/0);
  Adam adam(parameters(classifier));
  const LearningRateSchedule learning_rate{.base = 2e-3, .anneal_total_steps = options.updates};
  BatchSource batches(train, /*batch_size=*/64, /*seed=*/0, /*flip=*/false);
  const auto start = std::chrono::steady_clock::now();
  for (int64_t update = 0; update < options.updates; ++update) {
    const Batch batch = batches.batch(update);
    const Variable loss = cross_entropy(classifier(Variable(batch.x)), batch.label);
    adam.zero_grad();
    loss.backward();
    adam.step(learning_rate(update));
    if (update % 500 == 0) fmt::print("update {:4}: loss {:.3f}\n", update, loss.item());
  }
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  const double percent = accuracy(classifier, test);
  fmt::print("{:.2f} % of the test pictures are right, after {:.1f} s of training\n", percent,
             seconds.count());
  return percent >= 90 ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    const Options options = parse({argv + 1, argv + argc});
    if (!options.help) return run(options);
    fmt::print("{}", kHelp);
    return 0;
  } catch (const Error& error) {
    fmt::print(stderr, "{}\n", error.what());
    return 1;
  }
}
