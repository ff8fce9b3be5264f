// A small classifier of pictures. Its last hidden layer gives the features in which generated pictures are
// compared with real ones (frechet.h); one trained classifier, kept in a file, is the yardstick.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "autograd/ops.h"
#include "diffusion/idx.h"
#include "nn/layers.h"

namespace halfstep::quality {

inline constexpr int64_t kFeatures = 128;

/// Two convolutions of stride 2, one hidden layer, one output layer, ReLU between them.
struct Classifier {
  Conv2d conv1;   ///< [B, H, W, C] -> [B, H/2, W/2, 32]
  Conv2d conv2;   ///< -> [B, H/4, W/4, 64]
  Linear hidden;  ///< -> [B, kFeatures]
  Linear output;  ///< -> [B, num_classes]

  /// For pictures like those of `dataset`, whose height and width must be multiples of 4.
  explicit Classifier(const Dataset& dataset);
  /// x: [B, H, W, C] in [-1, 1] -> [B, kFeatures], after the ReLU
  Variable features(const Variable& x) const;

  template <class Self, class Visitor>
  static void fields(Self& self, Visitor&& visit) {
    visit("conv1", self.conv1);
    visit("conv2", self.conv2);
    visit("hidden", self.hidden);
    visit("output", self.output);
  }
};

/// What a classifier makes of N pictures.
struct Reading {
  Tensor features;                  ///< f32 [N, kFeatures]
  std::vector<int64_t> classes;     ///< [N], the most probable ones
  std::vector<double> confidences;  ///< [N], their probabilities

  double mean_confidence() const;
  /// Share of the pictures whose class is labels[i].
  double accuracy(const std::vector<uint8_t>& labels) const;
  /// How many pictures each class got: [num_classes].
  std::vector<int64_t> histogram(int num_classes) const;
};
/// x: f32 [N, H, W, C]; worked through in small batches.
Reading read(const Classifier& classifier, const Tensor& x);

/// -sum p log p of the shares p of a histogram, in nats: 0 if one class has everything, log(number of
/// classes) if all have the same.
double entropy(const std::vector<int64_t>& histogram);

/// How a classifier is trained: Adam, the learning rate annealed to 0, mirrored pictures among the others (as
/// the diffusion models see them). Equal values on the same data give the same classifier.
struct Recipe {
  uint64_t seed = 0;
  int64_t steps = 3000;
  int64_t batch_size = 64;
  double learning_rate = 1e-3;

  bool operator==(const Recipe&) const = default;
};

/// A trained classifier and how it came about.
struct Extractor {
  Classifier classifier;
  Recipe recipe;
  double test_accuracy;  ///< on the test split of its data set
};

/// `progress(step, loss)` is called every 100 steps, with the loss of that step.
Extractor train_extractor(const Dataset& train, const Dataset& test, const Recipe& recipe,
                          const std::function<void(int64_t, double)>& progress);

/// Weights as a .safetensors file, recipe and accuracy in its metadata.
void save_extractor(const std::string& path, const Extractor& extractor);
/// Throws Error unless the file is an extractor for pictures like those of `dataset`.
Extractor load_extractor(const std::string& path, const Dataset& dataset);

/// The first `count` pictures: f32 [count, H, W, C] in [-1, 1]. With `mirrored`, those of odd index are
/// mirrored left to right: the pictures that a model trained with random mirroring imitates.
Tensor first_images(const Dataset& dataset, int64_t count, bool mirrored = false);

}  // namespace halfstep::quality
