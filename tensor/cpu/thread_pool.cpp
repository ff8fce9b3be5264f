#include "tensor/cpu/thread_pool.h"

#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <exception>
#include <memory>
#include <mutex>
#include <string_view>
#include <thread>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "tensor/error.h"

namespace halfstep {
namespace {

constexpr int kMaxThreads = 1024;
// A fork-join in a busy loop is caught spinning (about 1 us); an idle machine sleeps.
constexpr auto kSpin = std::chrono::microseconds(50);

void pause() {
#if defined(__x86_64__)
  _mm_pause();
#endif
}

/// Flushes denormals to zero on this thread while alive.
class FlushDenormals {
 public:
#if defined(__x86_64__)
  FlushDenormals() : saved_(_mm_getcsr()) { _mm_setcsr(saved_ | 0x8040); }  // FTZ | DAZ
  ~FlushDenormals() { _mm_setcsr(saved_); }

 private:
  unsigned saved_;
#endif
};

/// Spins until ready(), at most kSpin; returns whether it was.
template <class Ready>
bool spin_until(Ready ready) {
  const auto end = std::chrono::steady_clock::now() + kSpin;
  do {
    for (int i = 0; i < 64; ++i) {
      if (ready()) return true;
      pause();
    }
  } while (std::chrono::steady_clock::now() < end);
  return false;
}

std::vector<int> allowed_cpus() {
  cpu_set_t set;
  std::vector<int> cpus;
  if (sched_getaffinity(0, sizeof set, &set) == 0) {
    for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
      if (CPU_ISSET(cpu, &set)) cpus.push_back(cpu);
    }
  }
  return cpus;
}

thread_local bool inside_body = false;

class Pool {
 public:
  explicit Pool(int threads) : shares_(static_cast<size_t>(threads)) {
    // Distinct CPUs for the workers; the one that the caller is on stays for the caller, which is not pinned.
    std::vector<int> cpus = allowed_cpus();
    if (threads <= static_cast<int>(cpus.size())) {
      caller_cpu_ = sched_getcpu();
      std::erase(cpus, caller_cpu_);
      worker_cpus_ = cpus;
    }
    for (int i = 0; i + 1 < threads; ++i) {
      workers_.emplace_back([this, i] { work(static_cast<size_t>(i) + 1); });
      if (!worker_cpus_.empty()) pin(i);
    }
  }

  ~Pool() {
    stop_ = true;
    state_ += kEpoch;
    state_.notify_all();
    for (std::thread& worker : workers_) worker.join();
  }

  int threads() const { return static_cast<int>(workers_.size()) + 1; }

  using Body = void (*)(void*, int64_t, int64_t);

  void run(int64_t n, int64_t grain, Body body, void* context) {
    make_way_for_caller();
    job_ = {n, grain, body, context};
    const int64_t blocks = (n + grain - 1) / grain, count = threads();
    for (int64_t i = 0; i < count; ++i) {
      Share& share = shares_[static_cast<size_t>(i)];
      share.next.store(i * blocks / count, std::memory_order_relaxed);
      share.end = (i + 1) * blocks / count;
    }
    error_ = nullptr;
    state_ += kEpoch | kOpen;
    state_.notify_all();
    take_blocks(0);
    // Close the job, so that late workers do not touch it, and wait for those who are inside.
    state_ -= kOpen;
    const auto left = [this] { return (state_ & kJoined) == 0; };
    if (!spin_until(left)) {
      for (uint64_t s = state_; s & kJoined; s = state_) state_.wait(s);
    }
    if (error_) std::rethrow_exception(error_);
  }

 private:
  struct Job {
    int64_t n = 0, grain = 1;
    Body body = nullptr;
    void* context = nullptr;
  };

  /// The blocks that a thread begins with, one after the other; whoever has done its own goes on with
  /// another's. A thread thus meets the same part of arrays in one job after the other, as far as they are
  /// cut alike, and finds it in its own caches.
  struct alignas(64) Share {
    std::atomic<int64_t> next = 0;
    int64_t end = 0;
  };

  // state_ = epoch * kEpoch + (open ? kOpen : 0) + number of workers inside the job.
  static constexpr uint64_t kJoined = 0xffff, kOpen = 0x10000, kEpoch = 0x20000;

  /// Pins worker i to worker_cpus_[i]. A mere hint: where the system refuses it, the work is done all the
  /// same.
  void pin(size_t i) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(worker_cpus_[i], &set);
    pthread_setaffinity_np(workers_[i].native_handle(), sizeof set, &set);
  }

  /// Where the caller was moved to a worker's CPU, that worker takes the one that the caller had.
  void make_way_for_caller() {
    if (worker_cpus_.empty()) return;
    const int cpu = sched_getcpu();
    if (cpu == caller_cpu_) return;
    const auto taken = std::find(worker_cpus_.begin(), worker_cpus_.end(), cpu);
    if (taken != worker_cpus_.end()) {
      *taken = caller_cpu_;
      const auto i = static_cast<size_t>(taken - worker_cpus_.begin());
      if (i < workers_.size()) pin(i);
    }
    caller_cpu_ = cpu;
  }

  void work(size_t self) {
    const FlushDenormals flush;
    inside_body = true;
    uint64_t seen = 0;
    for (;;) {
      uint64_t s = state_;
      const auto news = [&] {
        s = state_;
        return s / kEpoch != seen;
      };
      if (!spin_until(news)) {
        while (!news()) state_.wait(s);
      }
      // Join, unless the job was closed meanwhile.
      while ((s & kOpen) && !state_.compare_exchange_weak(s, s + 1)) {
      }
      seen = s / kEpoch;
      // Asked for only now: what closed the job may have been the end of the pool, whose epoch is then seen.
      if (stop_) return;
      if (!(s & kOpen)) continue;
      take_blocks(self);
      const uint64_t before = state_.fetch_sub(1);
      if ((before & kJoined) == 1 && !(before & kOpen)) state_.notify_all();
    }
  }

  void take_blocks(size_t self) {
    for (size_t i = 0; i < shares_.size(); ++i) take_share(shares_[(self + i) % shares_.size()]);
  }

  void take_share(Share& share) {
    for (int64_t i = share.next.fetch_add(1); i < share.end; i = share.next.fetch_add(1)) {
      const int64_t begin = i * job_.grain;
      try {
        job_.body(job_.context, begin, std::min(begin + job_.grain, job_.n));
      } catch (...) {
        const std::lock_guard lock(error_mutex_);
        if (!error_) error_ = std::current_exception();
        for (Share& any : shares_) any.next = any.end;
      }
    }
  }

  Job job_;
  alignas(64) std::atomic<uint64_t> state_ = 0;
  std::vector<Share> shares_;  // the caller's first, then the workers'
  std::atomic<bool> stop_ = false;
  std::mutex error_mutex_;
  std::exception_ptr error_;
  std::vector<std::thread> workers_;
  std::vector<int> worker_cpus_;  // of the workers first, then unused ones; empty: not pinned
  int caller_cpu_ = -1;
};

int default_threads() {
  if (const char* text = std::getenv("HALFSTEP_THREADS")) {
    char* end = nullptr;
    const long count = std::strtol(text, &end, 10);
    require(*text != '\0' && *end == '\0' && count >= 1 && count <= kMaxThreads, "HALFSTEP_THREADS",
            "expected a number from 1 to {}, got '{}'", kMaxThreads, text);
    return static_cast<int>(count);
  }
  return std::clamp(static_cast<int>(allowed_cpus().size()), 1, kMaxThreads);
}

struct Threads {
  std::mutex mutex;  // held while a job runs: one job at a time
  std::unique_ptr<Pool> pool = std::make_unique<Pool>(default_threads());
};

Threads& threads() {
  static Threads instance;
  return instance;
}

/// Marks this thread as inside a kernel, for nested calls and for the treatment of denormals.
class InsideBody {
 public:
  InsideBody() { inside_body = true; }
  ~InsideBody() { inside_body = false; }

 private:
  FlushDenormals flush_;
};

}  // namespace

int num_threads() { return threads().pool->threads(); }

void set_num_threads(int count) {
  require(count >= 1 && count <= kMaxThreads, "set_num_threads", "expected 1 to {} threads, got {}",
          kMaxThreads, count);
  Threads& t = threads();
  const std::lock_guard lock(t.mutex);
  if (t.pool->threads() != count) t.pool = std::make_unique<Pool>(count);
}

void cpu::run_blocks(int64_t n, int64_t grain, void (*body)(void*, int64_t, int64_t), void* context) {
  const auto serial = [&] {
    for (int64_t begin = 0; begin < n; begin += grain) body(context, begin, std::min(begin + grain, n));
  };
  if (inside_body) return serial();
  const InsideBody inside;
  if (n <= grain) return serial();
  Threads& t = threads();
  // While another thread's job runs, this one works alone rather than wait.
  const std::unique_lock lock(t.mutex, std::try_to_lock);
  if (!lock || t.pool->threads() == 1) return serial();
  t.pool->run(n, grain, body, context);
}

}  // namespace halfstep
