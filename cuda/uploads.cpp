// Uploads that neither the host nor the compute stream waits for longer than it must.
//
// The bytes go through a ring of pinned memory, so that the call returns as soon as they are copied there,
// and on a stream of their own into a ring of the same layout on the device, so that the transfer runs beside
// the kernels of earlier work. The compute stream then moves them to their place: that place may be in use by
// work that is still queued, and only the compute stream's order says until when.
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstring>
#include <deque>
#include <mutex>
#include <vector>

#include "cuda/entries.h"
#include "cuda/runtime.h"

namespace halfstep::cuda {
namespace {

/// 8 MiB hold the pictures of several updates (128 of 32x32x3 are 1.5 MiB), so that the host may run ahead.
constexpr size_t kRing = size_t{8} << 20;
/// Longer uploads go in pieces, so that one is transferred while the next is copied to pinned memory: 2 MiB
/// take some 80 us on PCIe 4, ten times what starting a copy costs.
constexpr size_t kPiece = kRing / 4;
constexpr size_t kAlignment = 256;

class UploadRing {
 public:
  UploadRing() {
    check(cudaStreamCreateWithFlags(&copies_, cudaStreamNonBlocking));
    check(cudaHostAlloc(reinterpret_cast<void**>(&pinned_), kRing, cudaHostAllocDefault));
    check(cudaMalloc(reinterpret_cast<void**>(&staged_), kRing));
    copied_ = new_event();
  }

  void upload(uint8_t* to, const uint8_t* from, size_t bytes) {
    const std::lock_guard lock(mutex_);
    for (size_t at = 0; at < bytes; at += kPiece)
      upload_piece(to + at, from + at, std::min(kPiece, bytes - at));
  }

 private:
  /// A piece that may still be on its way.
  struct Piece {
    uint64_t end;
    cudaEvent_t moved;
  };

  static cudaEvent_t new_event() {
    cudaEvent_t event = nullptr;
    check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
    return event;
  }

  void upload_piece(uint8_t* to, const uint8_t* from, size_t bytes) {
    const uint64_t begin = reserve(bytes);
    uint8_t *const pinned = pinned_ + begin % kRing, *const staged = staged_ + begin % kRing;
    std::memcpy(pinned, from, bytes);
    check(cudaMemcpyAsync(staged, pinned, bytes, cudaMemcpyHostToDevice, copies_));
    check(cudaEventRecord(copied_, copies_));
    check(cudaStreamWaitEvent(stream(), copied_, 0));
    check(cudaMemcpyAsync(to, staged, bytes, cudaMemcpyDeviceToDevice, stream()));
    if (events_.empty()) events_.push_back(new_event());
    pieces_.push_back({begin + bytes, events_.back()});
    events_.pop_back();
    check(cudaEventRecord(pieces_.back().moved, stream()));
    end_ = begin + bytes;
  }

  /// Where in the ring, counted on and on, the next `bytes` lie in one run; waits until it is free.
  uint64_t reserve(size_t bytes) {
    uint64_t begin = (end_ + kAlignment - 1) / kAlignment * kAlignment;
    if (begin % kRing + bytes > kRing) begin = (begin / kRing + 1) * kRing;
    while (!pieces_.empty() && cudaEventQuery(pieces_.front().moved) == cudaSuccess) retire();
    cudaGetLastError();  // "not ready" is no error of a later call
    while (!pieces_.empty() && begin + bytes > retired_ + kRing) {
      check(cudaEventSynchronize(pieces_.front().moved));
      retire();
    }
    return begin;
  }

  void retire() {
    retired_ = pieces_.front().end;
    events_.push_back(pieces_.front().moved);
    pieces_.pop_front();
  }

  std::mutex mutex_;
  cudaStream_t copies_ = nullptr;
  uint8_t *pinned_ = nullptr, *staged_ = nullptr;
  cudaEvent_t copied_ = nullptr;     ///< recorded anew for each piece: a wait means its latest mark
  std::deque<Piece> pieces_;         ///< oldest first
  std::vector<cudaEvent_t> events_;  ///< free ones
  uint64_t end_ = 0;                 ///< of the youngest piece
  uint64_t retired_ = 0;             ///< end of the last piece that is known to have arrived
};

}  // namespace

void upload(void* device, const void* host, size_t bytes) {
  if (bytes == 0) return;
  // Never destroyed: at exit the driver may already be gone.
  static UploadRing& ring = *new UploadRing;
  ring.upload(static_cast<uint8_t*>(device), static_cast<const uint8_t*>(host), bytes);
}

}  // namespace halfstep::cuda
