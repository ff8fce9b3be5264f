#include "tests/quality/classifier.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <numeric>

#include "diffusion/batches.h"
#include "nn/optimizer.h"
#include "tensor/error.h"
#include "tensor/safetensors.h"

namespace halfstep::quality {
namespace {

constexpr int64_t kChannels1 = 32, kChannels2 = 64;
constexpr int64_t kReadingBatch = 250;

/// The pixels that reach the hidden layer.
int64_t final_pixels(const Dataset& dataset) {
  require(dataset.height % 4 == 0 && dataset.width % 4 == 0, "classifier",
          "expected pictures whose height and width are multiples of 4, got {} x {} in '{}'", dataset.height,
          dataset.width, dataset.name);
  return dataset.height / 4 * (dataset.width / 4);
}

}  // namespace

Classifier::Classifier(const Dataset& dataset)
    : conv1(dataset.channels, kChannels1, 2),
      conv2(kChannels1, kChannels2, 2),
      hidden(final_pixels(dataset) * kChannels2, kFeatures),
      output(kFeatures, dataset.num_classes) {}

Variable Classifier::features(const Variable& x) const {
  const Variable h = relu(conv2(relu(conv1(x))));
  return relu(hidden(reshape(h, {x.size(0), -1})));
}

double Reading::mean_confidence() const {
  return std::accumulate(confidences.begin(), confidences.end(), 0.0) /
         static_cast<double>(confidences.size());
}

double Reading::accuracy(const std::vector<uint8_t>& labels) const {
  require(labels.size() == classes.size(), "classifier", "expected {} labels, got {}", classes.size(),
          labels.size());
  int64_t right = 0;
  for (size_t i = 0; i < labels.size(); ++i) right += classes[i] == labels[i];
  return static_cast<double>(right) / static_cast<double>(labels.size());
}

std::vector<int64_t> Reading::histogram(int num_classes) const {
  std::vector<int64_t> counts(static_cast<size_t>(num_classes), 0);
  for (const int64_t c : classes) ++counts.at(static_cast<size_t>(c));
  return counts;
}

Reading read(const Classifier& classifier, const Tensor& x) {
  const NoGrad guard;
  Reading reading;
  const int64_t count = x.size(0);
  reading.features = Tensor::empty({count, kFeatures});
  for (int64_t begin = 0; begin < count; begin += kReadingBatch) {
    const int64_t end = std::min(count, begin + kReadingBatch);
    const Variable features = classifier.features(Variable(x.slice(0, begin, end)));
    reading.features.slice(0, begin, end).copy_(features.value());
    const Tensor probabilities = softmax(classifier.output(features)).value();
    const std::vector<double> p = probabilities.to_vector<double>();
    for (auto row = p.begin(); row != p.end(); row += probabilities.size(1)) {
      const auto best = std::max_element(row, row + probabilities.size(1));
      reading.classes.push_back(best - row);
      reading.confidences.push_back(*best);
    }
  }
  return reading;
}

double entropy(const std::vector<int64_t>& histogram) {
  const auto total = static_cast<double>(std::accumulate(histogram.begin(), histogram.end(), int64_t{0}));
  double result = 0;
  for (const int64_t n : histogram) {
    const double p = static_cast<double>(n) / total;
    if (n > 0) result -= p * std::log(p);
  }
  return result;
}

Tensor first_images(const Dataset& dataset, int64_t count, bool mirrored) {
  std::vector<int64_t> indices(static_cast<size_t>(count));
  std::iota(indices.begin(), indices.end(), 0);
  std::vector<uint8_t> flip(indices.size());
  for (size_t i = 0; i < flip.size(); ++i) flip[i] = mirrored && i % 2 == 1;
  return images_at(dataset, indices, flip);
}

Extractor train_extractor(const Dataset& train, const Dataset& test, const Recipe& recipe,
                          const std::function<void(int64_t, double)>& progress) {
  Extractor extractor{Classifier(train), recipe, 0};
  Classifier& classifier = extractor.classifier;
  init_parameters(classifier, recipe.seed);
  Adam optimizer(parameters(classifier));
  const LearningRateSchedule learning_rate{.base = recipe.learning_rate, .anneal_total_steps = recipe.steps};
  BatchSource batches(train, recipe.batch_size, recipe.seed);
  for (int64_t step = 0; step < recipe.steps; ++step) {
    const Batch batch = batches.batch(step);
    const Variable loss =
        cross_entropy(classifier.output(classifier.features(Variable(batch.x))), batch.label);
    optimizer.zero_grad();
    loss.backward();
    optimizer.step(learning_rate(step));
    if (step % 100 == 0) progress(step, loss.item());
  }
  extractor.test_accuracy = read(classifier, first_images(test, test.count)).accuracy(test.labels);
  return extractor;
}

void save_extractor(const std::string& path, const Extractor& extractor) {
  const nlohmann::json facts = {{"seed", extractor.recipe.seed},
                                {"steps", extractor.recipe.steps},
                                {"batch_size", extractor.recipe.batch_size},
                                {"learning_rate", extractor.recipe.learning_rate},
                                {"test_accuracy", extractor.test_accuracy}};
  NamedTensors content;
  content.tensors = state(extractor.classifier);
  content.metadata["extractor"] = facts.dump();
  write_safetensors(path, content);
}

Extractor load_extractor(const std::string& path, const Dataset& dataset) {
  const NamedTensors content = read_safetensors(path);
  const auto text = content.metadata.find("extractor");
  require(
      text != content.metadata.end(), "extractor",
      "{}: expected a file that this program has written, got one without its metadata; give another path",
      path);
  Extractor extractor{Classifier(dataset), {}, 0};
  try {
    const auto facts = nlohmann::json::parse(text->second);
    extractor.recipe = {.seed = facts.at("seed"),
                        .steps = facts.at("steps"),
                        .batch_size = facts.at("batch_size"),
                        .learning_rate = facts.at("learning_rate")};
    extractor.test_accuracy = facts.at("test_accuracy");
  } catch (const nlohmann::json::exception& e) {
    fail("extractor",
         "{}: expected the recipe of a training in its metadata, got '{}' ({}); remove the file?", path,
         text->second, e.what());
  }
  init_parameters(extractor.classifier, extractor.recipe.seed);
  try {
    load_state(extractor.classifier, content.tensors);
  } catch (const Error& e) {
    fail("extractor", "{}: expected a classifier of {} x {} x {} pictures in {} classes: {}", path,
         dataset.height, dataset.width, dataset.channels, dataset.num_classes, e.what());
  }
  return extractor;
}

}  // namespace halfstep::quality
