#include "diffusion/batch_loader.h"

#include <chrono>
#include <utility>

#include "tensor/error.h"

namespace halfstep {

BatchLoader::BatchLoader(const Dataset& dataset, int64_t batch_size, uint64_t seed, bool flip, Device& device,
                         int64_t first, int64_t threads)
    : source_(dataset, batch_size, seed, flip), device_(device), next_(first) {
  require(threads >= 0, "data", "expected a number of threads of 0 or more, got {}", threads);
  slots_.resize(static_cast<size_t>(2 * threads));
  for (int64_t i = 0; i < threads; ++i)
    threads_.emplace_back([this, first, i, threads] { work(source_, first + i, threads); });
}

BatchLoader::~BatchLoader() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
}

void BatchLoader::work(BatchSource source, int64_t begin, int64_t threads) {
  for (int64_t k = begin;; k += threads) {
    Slot filled{.full = true, .batch = {}, .error = {}};
    try {
      filled.batch = source.batch(k);
    } catch (...) {
      filled.error = std::current_exception();
    }
    Slot& slot = slots_[static_cast<size_t>(k) % slots_.size()];
    {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [&] { return stopping_ || !slot.full; });
      if (stopping_) return;
      slot = std::move(filled);
    }
    changed_.notify_all();
  }
}

Batch BatchLoader::take(int64_t k) {
  if (slots_.empty()) return source_.batch(k);
  Slot& slot = slots_[static_cast<size_t>(k) % slots_.size()];
  Slot taken;
  {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return slot.full; });
    taken = std::exchange(slot, {});
  }
  changed_.notify_all();
  if (taken.error) std::rethrow_exception(taken.error);
  return taken.batch;
}

Batch BatchLoader::next() {
  using Clock = std::chrono::steady_clock;
  const Clock::time_point start = Clock::now();
  Batch batch = take(next_++);
  // The loader's threads leave the device alone: its queue belongs to the caller.
  if (&device_ != &batch.x.device()) batch = {batch.x.to(device_), batch.label.to(device_)};
  seconds_waited_ += std::chrono::duration<double>(Clock::now() - start).count();
  return batch;
}

}  // namespace halfstep
