#include "cuda/emulation/execution.h"

#include <cxxabi.h>
#include <fmt/core.h>
#include <sys/mman.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <numeric>

#include "cuda/emulation/checker.h"
#include "cuda/emulation/counters.h"
#include "cuda/emulation/fiber.h"
#include "cuda/emulation/options.h"
#include "cuda/emulation/ptx.h"
#include "cuda/emulation/reports.h"

namespace halfstep::emulation {

struct PendingCopies {
  std::vector<PendingCopy> open;                 ///< not yet committed
  std::vector<std::vector<PendingCopy>> groups;  ///< committed, oldest first
};

namespace {

constexpr uint32_t kMaxThreads = 1024;
constexpr size_t kStackBytes = 256 * 1024;
constexpr size_t kGuardBytes = 4096;

/// Thrown through a kernel that cannot go on.
struct KernelStopped {};

/// What lives from launch to launch: threads, their stacks, shared memory.
struct Machine {
  std::vector<Thread> threads;
  std::vector<Warp> warps;
  std::vector<PendingCopies> copies;
  std::vector<uint32_t> order;
  std::unique_ptr<uint8_t[]> shared_memory{new uint8_t[kMaxShared + 64]};
  uint8_t* shared = nullptr;
  char* stacks = nullptr;
  StackPointer scheduler = nullptr;
  Block block{};
  const KernelLaunch* launch = nullptr;
  uint32_t arrived[16] = {}, barrier_sum[16] = {}, barrier_count[16] = {};
  uint32_t alive = 0;
  bool stopped = false;
  uint64_t random = 0;

  static constexpr size_t kMaxShared = 228 * 1024;

  Machine() : threads(kMaxThreads), warps(kMaxThreads / 32), copies(kMaxThreads), order(kMaxThreads) {
    shared =
        reinterpret_cast<uint8_t*>((reinterpret_cast<uintptr_t>(shared_memory.get()) + 63) & ~uintptr_t{63});
    const size_t bytes = kMaxThreads * (kStackBytes + kGuardBytes);
    void* memory =
        mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) {
      fmt::print(stderr, "[cuda emulation] expected {} MiB of addresses for the threads' stacks, got none\n",
                 bytes >> 20);
      std::exit(1);
    }
    stacks = static_cast<char*>(memory);
    // A thread whose stack is too small is stopped by the processor, not by its neighbour's rubbish.
    for (uint32_t i = 0; i < kMaxThreads; ++i)
      mprotect(stacks + i * (kStackBytes + kGuardBytes), kGuardBytes, PROT_NONE);
    random = options().seed * 0x9E3779B97F4A7C15ull + 1;
  }

  char* stack_of(uint32_t thread) { return stacks + thread * (kStackBytes + kGuardBytes) + kGuardBytes; }

  /// A number in [0, n) (xorshift).
  uint32_t draw(uint32_t n) {
    random ^= random << 13, random ^= random >> 7, random ^= random << 17;
    return static_cast<uint32_t>(random >> 32) % n;
  }
  void shuffle_order(uint32_t n) {
    for (uint32_t i = n; i > 1; --i) std::swap(order[i - 1], order[draw(i)]);
  }
};

Machine& machine() {
  static Machine& m = *new Machine();
  return m;
}

bool checking() { return options().mode == Mode::check; }

/// Back to the scheduler until this thread is ready again.
void suspend(Thread& t) {
  Machine& m = machine();
  switch_fiber(t.stack_pointer, m.scheduler);
  if (m.stopped) throw KernelStopped{};
}

/// Lets the waiting lanes of each complete group go on. A group is complete when all lanes of its mask that
/// have not left the kernel wait in it.
bool release_warp(Warp& w, uint32_t first_lane) {
  Lane& leader = w.lane[first_lane];
  const uint32_t lanes = leader.mask & w.present;
  if (!lanes || (w.waiting & lanes) != lanes) return false;
  for (uint32_t i = 0; i < 32; ++i)
    if (lanes >> i & 1 && (w.lane[i].mask != leader.mask || w.lane[i].work != leader.work)) return false;
  leader.work(w, lanes);
  w.waiting &= ~lanes;
  for (uint32_t i = 0; i < 32; ++i)
    if (lanes >> i & 1) w.lane[i].thread->state = Thread::State::ready;
  return true;
}

bool release_barrier(uint32_t barrier) {
  Machine& m = machine();
  const uint32_t expected = m.barrier_count[barrier] ? m.barrier_count[barrier] : m.alive;
  if (!m.arrived[barrier] || m.arrived[barrier] < expected) return false;
  const uint32_t threads = m.block.size[0] * m.block.size[1] * m.block.size[2];
  const Thread* first = nullptr;
  for (uint32_t i = 0; i < threads; ++i) {
    Thread& t = m.threads[i];
    if (t.state != Thread::State::at_barrier || t.barrier != barrier) continue;
    if (checking() && first && first->barrier_site != t.barrier_site)
      report(fmt::format("barrier divergence in {}: {} waits at {}, {} at {}",
                         readable_name(m.launch->kernel->name), describe_thread(*first),
                         describe_site(first->barrier_site), describe_thread(t),
                         describe_site(t.barrier_site)));
    if (!first) first = &t;
    t.state = Thread::State::ready;
    t.barrier_result = m.barrier_sum[barrier];
  }
  if (checking() && m.alive < threads && !m.barrier_count[barrier])
    report(fmt::format("barrier divergence in {}: {} of {} threads had left the kernel at {}",
                       readable_name(m.launch->kernel->name), threads - m.alive, threads,
                       describe_site(first->barrier_site)));
  const bool everybody = m.arrived[barrier] == m.alive;
  m.arrived[barrier] = m.barrier_sum[barrier] = m.barrier_count[barrier] = 0;
  if (checking() && everybody) check_barrier();
  return true;
}

/// A thread has left the kernel: those that waited for it may go on.
void leave(Thread& t) {
  Machine& m = machine();
  t.state = Thread::State::done;
  --m.alive;
  t.warp->present &= ~(1u << t.lane);
  for (uint32_t i = 0; i < 32; ++i)
    if (t.warp->waiting >> i & 1) release_warp(*t.warp, i);
  for (uint32_t barrier = 0; barrier < 16; ++barrier) release_barrier(barrier);
}

void run_thread(void* argument) {
  Machine& m = machine();
  auto& t = *static_cast<Thread*>(argument);
  try {
    m.launch->kernel->run(t);
    leave(t);
  } catch (const KernelStopped&) {
    m.stopped = true;
    t.state = Thread::State::done;
  }
  StackPointer nowhere;
  switch_fiber(nowhere, m.scheduler);
}

/// Nobody can go on: says who waits for what.
void report_deadlock(uint32_t threads) {
  Machine& m = machine();
  std::string text = fmt::format("{} cannot go on", readable_name(m.launch->kernel->name));
  int shown = 0;
  for (uint32_t i = 0; i < threads && shown < 4; ++i) {
    const Thread& t = m.threads[i];
    if (t.state == Thread::State::at_barrier) {
      text += fmt::format("; {} waits at barrier {} at {}", describe_thread(t), t.barrier,
                          describe_site(t.barrier_site));
      ++shown;
    } else if (t.state == Thread::State::in_warp) {
      const Lane& lane = t.warp->lane[t.lane];
      text += fmt::format(
          "; {} waits for the lanes {:#010x} of its warp at {}, present are {:#010x}, waiting {:#010x}",
          describe_thread(t), lane.mask, describe_site(lane.site), t.warp->present, t.warp->waiting);
      ++shown;
    }
  }
  report(text);
}

void run_waiting_block(uint32_t threads) {
  Machine& m = machine();
  std::fill(m.arrived, m.arrived + 16, 0u);
  std::fill(m.barrier_sum, m.barrier_sum + 16, 0u);
  std::fill(m.barrier_count, m.barrier_count + 16, 0u);
  m.alive = threads;
  for (uint32_t i = 0; i < threads; ++i) {
    m.threads[i].stack_pointer = prepare_fiber(m.stack_of(i), kStackBytes, run_thread, &m.threads[i]);
    m.copies[i].open.clear();
    m.copies[i].groups.clear();
  }
  while (m.alive > 0 && !m.stopped) {
    if (options().mode != Mode::fast) m.shuffle_order(threads);
    bool progress = false;
    for (uint32_t i = 0; i < threads && !m.stopped; ++i) {
      Thread& t = m.threads[m.order[i]];
      if (t.state != Thread::State::ready) continue;
      progress = true;
      switch_fiber(m.scheduler, t.stack_pointer);
    }
    if (!progress && !m.stopped) {
      report_deadlock(threads);
      m.stopped = true;
    }
  }
  if (m.stopped) {
    // Their destructors have nothing to do, so the other fibers are left where they stand.
    return;
  }
}

}  // namespace

void execute(const KernelLaunch& launch) {
  Machine& m = machine();
  start_reports();
  m.launch = &launch;
  m.stopped = false;
  Block& block = m.block;
  std::copy_n(launch.block, 3, block.size);
  std::copy_n(launch.grid, 3, block.grid);
  block.dynamic_shared = launch.dynamic_shared;
  block.params = launch.params.data();
  block.kernel = launch.kernel;
  const uint32_t threads = launch.block[0] * launch.block[1] * launch.block[2];
  const uint32_t shared_bytes = (launch.kernel->shared_bytes + 15) / 16 * 16 + launch.dynamic_shared;
  const bool counting = options().count;
  uint64_t* const counts = counting ? count_blocks_of(*launch.module) : nullptr;
  if (checking()) check_begin_launch();
  if (counting) count_begin_launch(launch);
  std::iota(m.order.begin(), m.order.begin() + threads, 0u);

  const uint64_t blocks = uint64_t{launch.grid[0]} * launch.grid[1] * launch.grid[2];
  // Blocks in random order: the number is multiplied by an odd constant prime to the count.
  uint64_t step = 1, start = 0;
  if (options().mode != Mode::fast && blocks > 1) {
    start = m.draw(static_cast<uint32_t>(std::min<uint64_t>(blocks, ~0u)));
    do step = m.draw(static_cast<uint32_t>(std::min<uint64_t>(blocks, ~0u)));
    while (std::gcd(step, blocks) != 1);
  }
  for (uint64_t i = 0; i < blocks && !m.stopped; ++i) {
    const uint64_t number = (start + static_cast<uint64_t>(static_cast<UInt128>(i) * step % blocks)) % blocks;
    block.index[0] = static_cast<uint32_t>(number % launch.grid[0]);
    block.index[1] = static_cast<uint32_t>(number / launch.grid[0] % launch.grid[1]);
    block.index[2] = static_cast<uint32_t>(number / launch.grid[0] / launch.grid[1]);
    if (checking()) {
      check_begin_block(shared_bytes);
      std::memset(m.shared, 0xff, shared_bytes);  // NaN in every float
    }
    for (uint32_t w = 0; w * 32 < threads; ++w) {
      m.warps[w].waiting = 0;
      m.warps[w].present = threads - w * 32 >= 32 ? ~0u : (1u << (threads - w * 32)) - 1;
    }
    for (uint32_t n = 0; n < threads; ++n) {
      Thread& t = m.threads[n];
      t.thread_index[0] = n % launch.block[0];
      t.thread_index[1] = n / launch.block[0] % launch.block[1];
      t.thread_index[2] = n / launch.block[0] / launch.block[1];
      t.lane = n % 32;
      t.warp_index = n / 32;
      t.number = n;
      t.watched = checking() || counting;
      t.block_counts = counts;
      t.shared = m.shared;
      t.block = &block;
      t.warp = &m.warps[n / 32];
      t.warp->lane[t.lane].thread = &t;
      t.copies = &m.copies[n];
      t.state = Thread::State::ready;
      t.warp_epoch = 0;
    }
    if (launch.kernel->waits) {
      run_waiting_block(threads);
    } else {
      if (options().mode != Mode::fast) m.shuffle_order(threads);
      try {
        for (uint32_t n = 0; n < threads; ++n) launch.kernel->run(m.threads[m.order[n]]);
      } catch (const KernelStopped&) {
        m.stopped = true;
      }
    }
    if (counting) count_end_block(launch);
  }
  if (counting) count_end_launch(launch);
  m.launch = nullptr;
}

const KernelLaunch* running_launch() { return machine().launch; }

std::string describe_site(uint32_t site) {
  const KernelLaunch* launch = running_launch();
  if (!launch) return "an unknown place";
  const Site& s = launch->module->sites[site];
  std::string text = fmt::format("{}:{}", s.file, s.line);
  if (s.caller_line) text += fmt::format(" (called at {}:{})", s.caller_file, s.caller_line);
  return text;
}

std::string describe_thread(const Thread& t) {
  const Block& b = *t.block;
  return fmt::format("thread ({}, {}, {}) of block ({}, {}, {})", t.thread_index[0], t.thread_index[1],
                     t.thread_index[2], b.index[0], b.index[1], b.index[2]);
}

std::string readable_name(const char* mangled) {
  int status = 0;
  char* text = abi::__cxa_demangle(mangled, nullptr, nullptr, &status);
  if (status != 0) return mangled;
  std::string name = text;
  std::free(text);
  return name;
}

// --- barriers and warps ------------------------------------------------------------------------------------

void sync_block(Thread& t, uint32_t barrier, uint32_t count, uint32_t site, uint32_t value) {
  Machine& m = machine();
  t.state = Thread::State::at_barrier;
  t.barrier = barrier & 15;
  t.barrier_site = site;
  ++m.arrived[t.barrier];
  m.barrier_sum[t.barrier] += value;
  m.barrier_count[t.barrier] = count;
  if (!release_barrier(t.barrier)) suspend(t);
}

void meet_warp(Thread& t, uint32_t mask, uint32_t site, void (*work)(Warp&, uint32_t)) {
  Warp& w = *t.warp;
  Lane& lane = w.lane[t.lane];
  lane.mask = mask;
  lane.site = site;
  lane.work = work;
  t.state = Thread::State::in_warp;
  w.waiting |= 1u << t.lane;
  if (checking() && !(mask >> t.lane & 1))
    report(fmt::format("{}: {} is not in its own mask {:#010x} at {}", readable_name(t.block->kernel->name),
                       describe_thread(t), mask, describe_site(site)));
  if (!release_warp(w, t.lane)) suspend(t);
}

void sync_warp(Thread& t, uint32_t mask, uint32_t site) {
  meet_warp(t, mask, site, [](Warp& w, uint32_t lanes) {
    uint32_t epoch = 0;
    for (uint32_t i = 0; i < 32; ++i)
      if (lanes >> i & 1) epoch = std::max(epoch, w.lane[i].thread->warp_epoch);
    for (uint32_t i = 0; i < 32; ++i)
      if (lanes >> i & 1) w.lane[i].thread->warp_epoch = epoch + 1;
  });
}

void trap(Thread& t, uint32_t site) {
  report(fmt::format("{}: trap at {} in {}", readable_name(t.block->kernel->name), describe_site(site),
                     describe_thread(t)));
  throw KernelStopped{};
}

/// Under the checker all lanes of a mask must still be there: what an exited lane would give is undefined.
static void check_present(Thread& t, uint32_t mask, uint32_t site, const char* what) {
  if (!checking() || (mask & ~t.warp->present) == 0) return;
  report(fmt::format("{} with absent lanes in {}: mask {:#010x}, but only {:#010x} have not left; at {}",
                     what, readable_name(t.block->kernel->name), mask, t.warp->present, describe_site(site)));
}

Shuffled shuffle(Thread& t, Shuffle kind, uint32_t value, uint32_t b, uint32_t c, uint32_t mask,
                 uint32_t site) {
  Lane& lane = t.warp->lane[t.lane];
  lane.in[0] = value, lane.in[1] = b, lane.in[2] = c, lane.in[3] = static_cast<uint32_t>(kind);
  check_present(t, mask, site, "shuffle");
  meet_warp(t, mask, site, [](Warp& w, uint32_t lanes) {
    for (uint32_t i = 0; i < 32; ++i) {
      if (!(lanes >> i & 1)) continue;
      Lane& l = w.lane[i];
      const uint32_t offset = l.in[1] & 31, segment = l.in[2] >> 8 & 31, clamp = l.in[2] & 31;
      const uint32_t last = (i & segment) | (clamp & ~segment), first = i & segment;
      uint32_t from = 0;
      bool in_range = false;
      switch (static_cast<Shuffle>(l.in[3])) {
        case Shuffle::up:
          from = i - offset, in_range = static_cast<int32_t>(from) >= static_cast<int32_t>(last);
          break;
        case Shuffle::down:
          from = i + offset, in_range = from <= last;
          break;
        case Shuffle::bfly:
          from = i ^ offset, in_range = from <= last;
          break;
        case Shuffle::idx:
          from = first | (offset & ~segment), in_range = from <= last;
          break;
      }
      if (!in_range) from = i;
      l.out[0] = lanes >> from & 1 ? w.lane[from].in[0] : 0xdeadbeef;
      l.out[1] = in_range;
    }
  });
  return {lane.out[0], lane.out[1] != 0};
}

uint32_t vote_ballot(Thread& t, bool value, uint32_t mask, uint32_t site) {
  Lane& lane = t.warp->lane[t.lane];
  lane.in[0] = value;
  check_present(t, mask, site, "vote");
  meet_warp(t, mask, site, [](Warp& w, uint32_t lanes) {
    uint32_t ballot = 0;
    for (uint32_t i = 0; i < 32; ++i)
      if (lanes >> i & 1 && w.lane[i].in[0]) ballot |= 1u << i;
    for (uint32_t i = 0; i < 32; ++i)
      if (lanes >> i & 1) w.lane[i].out[0] = ballot;
  });
  return lane.out[0];
}
bool vote_any(Thread& t, bool value, uint32_t mask, uint32_t site) {
  return vote_ballot(t, value, mask, site) != 0;
}
bool vote_all(Thread& t, bool value, uint32_t mask, uint32_t site) {
  return vote_ballot(t, !value, mask, site) == 0;
}

// --- matrices ----------------------------------------------------------------------------------------------

namespace {

constexpr uint32_t kAll = ~0u;

/// Element (row, column) of lane-distributed fragments, as the PTX manual lays them out: a row of 16-bit
/// elements is spread over four lanes in pairs, rows 8 apart lie in different registers.
float bf16_at(const uint32_t* registers, int which, uint32_t half) {
  return float_of((registers[which] >> (16 * half) & 0xffff) << 16);
}
float tf32_at(uint32_t bits) { return float_of(bits & ~0x1fffu); }

/// D = A B + C for the collected 16 x K matrix A and K x 8 matrix B.
template <int K, class A, class B>
void multiply(Warp& w, int c_register, A a_at, B b_at) {
  float a[16][K], b[K][8];
  for (int i = 0; i < 16; ++i)
    for (int k = 0; k < K; ++k) a[i][k] = a_at(i, k);
  for (int k = 0; k < K; ++k)
    for (int j = 0; j < 8; ++j) b[k][j] = b_at(k, j);
  for (int i = 0; i < 16; ++i)
    for (int j = 0; j < 8; ++j) {
      Lane& lane = w.lane[i % 8 * 4 + j / 2];
      const int element = i / 8 * 2 + j % 2;
      double sum = float_of(lane.in[c_register + element]);
      for (int k = 0; k < K; ++k) sum += static_cast<double>(a[i][k]) * b[k][j];
      lane.out[element] = std::bit_cast<uint32_t>(static_cast<float>(sum));
    }
}

template <int kA, int kB>
Fragment4 multiply_fragments(Thread& t, const Vector<uint32_t, kA>& a, const Vector<uint32_t, kB>& b,
                             const Fragment4& c, uint32_t site, void (*work)(Warp&, uint32_t)) {
  Lane& lane = t.warp->lane[t.lane];
  std::memcpy(lane.in, &a, sizeof(a));
  std::memcpy(lane.in + kA, &b, sizeof(b));
  std::memcpy(lane.in + kA + kB, &c, sizeof(c));
  check_present(t, kAll, site, "matrix product");
  meet_warp(t, kAll, site, work);
  Fragment4 d;
  std::memcpy(&d, lane.out, sizeof(d));
  return d;
}

}  // namespace

Fragment4 multiply_m16n8k16_bf16(Thread& t, Vector<uint32_t, 4> a, Vector<uint32_t, 2> b, Fragment4 c,
                                 uint32_t site) {
  return multiply_fragments<4, 2>(t, a, b, c, site, [](Warp& w, uint32_t) {
    multiply<16>(
        w, 6,
        [&](int i, int k) { return bf16_at(w.lane[i % 8 * 4 + k % 8 / 2].in, i / 8 + k / 8 * 2, k % 2); },
        [&](int k, int j) { return bf16_at(w.lane[j * 4 + k % 8 / 2].in + 4, k / 8, k % 2); });
  });
}
Fragment4 multiply_m16n8k8_bf16(Thread& t, Vector<uint32_t, 2> a, Vector<uint32_t, 1> b, Fragment4 c,
                                uint32_t site) {
  return multiply_fragments<2, 1>(t, a, b, c, site, [](Warp& w, uint32_t) {
    multiply<8>(
        w, 3, [&](int i, int k) { return bf16_at(w.lane[i % 8 * 4 + k / 2].in, i / 8, k % 2); },
        [&](int k, int j) { return bf16_at(w.lane[j * 4 + k / 2].in + 2, 0, k % 2); });
  });
}
Fragment4 multiply_m16n8k8_tf32(Thread& t, Vector<uint32_t, 4> a, Vector<uint32_t, 2> b, Fragment4 c,
                                uint32_t site) {
  return multiply_fragments<4, 2>(t, a, b, c, site, [](Warp& w, uint32_t) {
    multiply<8>(
        w, 6, [&](int i, int k) { return tf32_at(w.lane[i % 8 * 4 + k % 4].in[i / 8 + k / 4 * 2]); },
        [&](int k, int j) { return tf32_at(w.lane[j * 4 + k % 4].in[4 + k / 4]); });
  });
}
Fragment4 multiply_m16n8k4_tf32(Thread& t, Vector<uint32_t, 2> a, Vector<uint32_t, 1> b, Fragment4 c,
                                uint32_t site) {
  return multiply_fragments<2, 1>(t, a, b, c, site, [](Warp& w, uint32_t) {
    multiply<4>(
        w, 3, [&](int i, int k) { return tf32_at(w.lane[i % 8 * 4 + k].in[i / 8]); },
        [&](int k, int j) { return tf32_at(w.lane[j * 4 + k].in[2]); });
  });
}

void load_matrix_rows(Thread& t, uint64_t address, uint32_t matrices, bool transposed, uint32_t site) {
  Lane& lane = t.warp->lane[t.lane];
  if (t.lane < matrices * 8) {
    // Each row is read by the lane that names it.
    Vector<uint32_t, 4> row = load<uint32_t, 4, Space::shared>(t, address, site);
    std::memcpy(lane.in, &row, sizeof(row));
  }
  lane.in[4] = matrices;
  lane.in[5] = transposed;
  check_present(t, kAll, site, "ldmatrix");
  meet_warp(t, kAll, site, [](Warp& w, uint32_t) {
    const auto element = [&](uint32_t matrix, uint32_t row, uint32_t column) {
      return w.lane[matrix * 8 + row].in[column / 2] >> (16 * (column % 2)) & 0xffff;
    };
    for (uint32_t i = 0; i < 32; ++i)
      for (uint32_t m = 0; m < w.lane[i].in[4]; ++m) {
        const uint32_t row = i / 4, column = i % 4 * 2;
        w.lane[i].out[m] = w.lane[i].in[5] ? element(m, column, row) | element(m, column + 1, row) << 16
                                           : element(m, row, column) | element(m, row, column + 1) << 16;
      }
  });
}

// --- asynchronous copies -----------------------------------------------------------------------------------

static void finish_copy(Thread& t, const PendingCopy& copy) {
  uint8_t bytes[16] = {};
  if (checking()) check_copy_finished(copy);
  if (t.watched && copy.source_bytes &&
      !watch(t, Space::global, copy.from, copy.source_bytes, Action::read, copy.site))
    return;
  std::memcpy(bytes, host_address(t, Space::global, copy.from), copy.source_bytes);
  if (t.watched && !watch(t, Space::shared, copy.to, copy.bytes, Action::write, copy.site)) return;
  std::memcpy(t.shared + copy.to, bytes, copy.bytes);
}

void start_copy(Thread& t, const PendingCopy& copy) {
  if (checking()) check_copy_started(t, copy);
  t.copies->open.push_back(copy);
}
void commit_copies(Thread& t) {
  t.copies->groups.push_back(std::move(t.copies->open));
  t.copies->open.clear();
}
void wait_copies(Thread& t, uint32_t remaining) {
  auto& groups = t.copies->groups;
  const size_t done = groups.size() > remaining ? groups.size() - remaining : 0;
  for (size_t g = 0; g < done; ++g)
    for (const PendingCopy& copy : groups[g]) finish_copy(t, copy);
  groups.erase(groups.begin(), groups.begin() + static_cast<std::ptrdiff_t>(done));
}

// --- the rest ----------------------------------------------------------------------------------------------

uint64_t clock64() {
  return static_cast<uint64_t>(std::chrono::steady_clock::now().time_since_epoch().count());
}
uint32_t clock32() { return static_cast<uint32_t>(clock64()); }

BFloat16 narrow_bf16(float v) {
  const uint32_t bits = std::bit_cast<uint32_t>(v);
  if (v != v) return {0x7fff};
  return {static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}

float widen(Half v) {
  const uint32_t sign = uint32_t{v.bits} >> 15 << 31, exponent = v.bits >> 10 & 31, mantissa = v.bits & 1023;
  if (exponent == 31) return float_of(sign | 0x7f800000 | mantissa << 13);
  const float magnitude =
      exponent ? std::ldexp(static_cast<float>(1024 + mantissa), static_cast<int>(exponent) - 25)
               : std::ldexp(static_cast<float>(mantissa), -24);
  return sign ? -magnitude : magnitude;
}
Half narrow_f16(float v) {
  const uint32_t bits = std::bit_cast<uint32_t>(v);
  const auto sign = static_cast<uint16_t>(bits >> 31 << 15);
  if (v != v) return {0x7fff};
  const float magnitude = std::fabs(v);
  if (magnitude >= 65520) return {static_cast<uint16_t>(sign | 0x7c00)};
  // In units of the last place, rounded to even; a carry moves into the exponent by itself.
  int exponent = 0;
  std::frexp(magnitude, &exponent);
  const int place = std::max(exponent - 11, -24);
  const auto units = static_cast<uint32_t>(std::nearbyint(std::ldexp(magnitude, -place)));
  return {static_cast<uint16_t>(sign |
                                (place == -24 ? units : units + (static_cast<uint32_t>(place + 24) << 10)))};
}

}  // namespace halfstep::emulation
