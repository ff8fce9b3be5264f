// Training batches as a pure function of (data set, seed, batch number): a run that resumes at step k needs
// no state of the data to be saved.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "diffusion/idx.h"
#include "tensor/tensor.h"

namespace halfstep {

/// x = u8 / 127.5 - 1 for the images of these indices. Result: f32 [indices.size(), H, W, C] in [-1, 1].
/// Where `flip` is given ([indices.size()]), a non-zero entry mirrors the image left to right. Throws Error
/// for an index outside 0 ... count-1.
Tensor images_at(const Dataset& dataset, std::span<const int64_t> indices, std::span<const uint8_t> flip = {},
                 Device& device = cpu_device());

/// Result: i64 [indices.size()]. Throws Error for an index outside 0 ... count-1.
Tensor labels_at(const Dataset& dataset, std::span<const int64_t> indices, Device& device = cpu_device());

/// B pictures and their labels.
struct Batch {
  Tensor x;      ///< f32 [B, H, W, C] in [-1, 1]
  Tensor label;  ///< i64 [B]
};

/// An endless sequence of batches. The examples come epoch after epoch, each epoch in an order of its own
/// without replacement; a batch may hold the end of one epoch and the beginning of the next. Each example of
/// a batch is mirrored left to right with probability 1/2. Order and mirroring come from Philox.
class BatchSource {
 public:
  /// Throws Error if batch_size < 1 or the data set is empty. The data set must outlive the source.
  BatchSource(const Dataset& dataset, int64_t batch_size, uint64_t seed, bool flip = true,
              Device& device = cpu_device());

  /// Batch number k >= 0; equal calls give equal bits, in any order of calls.
  Batch batch(int64_t k);

 private:
  /// Makes order_ that of `epoch`.
  void shuffle(int64_t epoch);

  const Dataset& dataset_;
  int64_t batch_size_;
  uint64_t seed_;
  bool flip_;
  Device& device_;
  int64_t epoch_ = -1;          ///< of order_; -1: none yet
  std::vector<int64_t> order_;  ///< a permutation of 0 ... count-1
};

}  // namespace halfstep
