#include "diffusion/batches.h"

#include <numeric>
#include <utility>

#include "diffusion/random_streams.h"
#include "tensor/error.h"
#include "tensor/philox.h"

namespace halfstep {
namespace {

/// Word `i` of a stream.
uint32_t random_word(RandomKey key, int64_t i) {
  return philox::words(key.seed, key.stream, 0, static_cast<uint64_t>(i / 4)).word[i % 4];
}

void check_index(const Dataset& dataset, int64_t index) {
  require(index >= 0 && index < dataset.count, "data", "expected an index in 0 ... {}, got {}",
          dataset.count - 1, index);
}

}  // namespace

Tensor images_at(const Dataset& dataset, std::span<const int64_t> indices, std::span<const uint8_t> flip,
                 Device& device) {
  require(flip.empty() || flip.size() == indices.size(), "data", "expected {} flags, got {}", indices.size(),
          flip.size());
  const int64_t height = dataset.height, width = dataset.width, channels = dataset.channels;
  std::vector<float> values;
  values.reserve(indices.size() * static_cast<size_t>(dataset.pixels_per_image()));
  for (size_t i = 0; i < indices.size(); ++i) {
    check_index(dataset, indices[i]);
    const uint8_t* image = dataset.pixels.data() + indices[i] * dataset.pixels_per_image();
    const bool mirrored = !flip.empty() && flip[i] != 0;
    for (int64_t row = 0; row < height; ++row) {
      for (int64_t column = 0; column < width; ++column) {
        const int64_t from = mirrored ? width - 1 - column : column;
        const uint8_t* pixel = image + (row * width + from) * channels;
        for (int64_t c = 0; c < channels; ++c) values.push_back(static_cast<float>(pixel[c]) / 127.5f - 1.0f);
      }
    }
  }
  return Tensor::from(values, {static_cast<int64_t>(indices.size()), height, width, channels},
                      {DType::f32, &device});
}

Tensor labels_at(const Dataset& dataset, std::span<const int64_t> indices, Device& device) {
  std::vector<int64_t> labels;
  for (const int64_t index : indices) {
    check_index(dataset, index);
    labels.push_back(dataset.labels[static_cast<size_t>(index)]);
  }
  return Tensor::from(labels, {static_cast<int64_t>(indices.size())}, {DType::i64, &device});
}

BatchSource::BatchSource(const Dataset& dataset, int64_t batch_size, uint64_t seed, bool flip, Device& device)
    : dataset_(dataset), batch_size_(batch_size), seed_(seed), flip_(flip), device_(device) {
  require(batch_size >= 1, "data", "expected a batch size of 1 or more, got {}", batch_size);
  require(dataset.count >= 1, "data", "expected a data set with images, '{}' is empty", dataset.name);
}

Batch BatchSource::batch(int64_t k) {
  require(k >= 0, "data", "expected a batch number of 0 or more, got {}", k);
  const RandomKey flip_key = random_key(seed_, RandomUse::augmentation, static_cast<uint64_t>(k));
  std::vector<int64_t> indices;
  std::vector<uint8_t> flip;
  for (int64_t i = 0; i < batch_size_; ++i) {
    const int64_t position = k * batch_size_ + i;
    shuffle(position / dataset_.count);
    indices.push_back(order_[static_cast<size_t>(position % dataset_.count)]);
    flip.push_back(flip_ && random_word(flip_key, i) >> 31 != 0);
  }
  return {images_at(dataset_, indices, flip, device_), labels_at(dataset_, indices, device_)};
}

void BatchSource::shuffle(int64_t epoch) {
  if (epoch == epoch_) return;
  // Fisher-Yates. The product maps 32 random bits to 0 ... i with a bias below count / 2^32.
  const RandomKey key = random_key(seed_, RandomUse::data_order, static_cast<uint64_t>(epoch));
  order_.resize(static_cast<size_t>(dataset_.count));
  std::iota(order_.begin(), order_.end(), int64_t{0});
  for (int64_t i = dataset_.count - 1; i > 0; --i) {
    const uint64_t product = uint64_t{random_word(key, i)} * static_cast<uint64_t>(i + 1);
    std::swap(order_[static_cast<size_t>(i)], order_[product >> 32]);
  }
  epoch_ = epoch;
}

}  // namespace halfstep
