// Batches prepared ahead of the updates that need them, by threads of their own.
#pragma once

#include <condition_variable>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

#include "diffusion/batches.h"

namespace halfstep {

/// Batches first, first + 1, ... of a BatchSource, to the bit, however many threads prepare them. Twice as
/// many batches as threads are ready or in work at any time.
class BatchLoader {
 public:
  /// threads >= 0; 0: next() prepares the batch itself. The data set must outlive the loader. Throws as
  /// BatchSource does.
  BatchLoader(const Dataset& dataset, int64_t batch_size, uint64_t seed, bool flip, Device& device,
              int64_t first, int64_t threads);
  /// Waits for batches that are being prepared.
  ~BatchLoader();
  BatchLoader(const BatchLoader&) = delete;
  BatchLoader& operator=(const BatchLoader&) = delete;

  /// The next batch, on the device. Throws what its preparation threw.
  Batch next();

  /// Time that next() has waited or worked for batches so far: what data costs the training.
  double seconds_waited() const { return seconds_waited_; }

 private:
  /// A place for a batch that is ready, or for the error in its place.
  struct Slot {
    bool full = false;
    Batch batch;
    std::exception_ptr error;
  };

  /// Prepares the batches `begin`, begin + threads, ...
  void work(BatchSource source, int64_t begin, int64_t threads);
  Batch take(int64_t k);

  BatchSource source_;  ///< for copies, and for next() without threads
  Device& device_;
  int64_t next_;
  double seconds_waited_ = 0;

  std::mutex mutex_;
  std::condition_variable changed_;
  bool stopping_ = false;
  std::vector<Slot> slots_;  ///< batch k is in slot k modulo their number
  std::vector<std::jthread> threads_;
};

}  // namespace halfstep
