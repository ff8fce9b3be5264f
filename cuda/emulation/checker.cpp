#include "cuda/emulation/checker.h"

#include <fmt/core.h>

#include <cstdlib>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <tuple>
#include <vector>

#include "cuda/emulation/counters.h"
#include "cuda/emulation/execution.h"
#include "cuda/emulation/memory.h"
#include "cuda/emulation/options.h"
#include "cuda/emulation/reports.h"

namespace halfstep::emulation {
namespace {

/// Who: thread number (10 bits), warp epoch (20 bits), and a flag.
constexpr uint32_t kThreadBits = 10, kThreadMask = 1023, kEpochMask = 0xfffff;
constexpr uint32_t kAtomic = 1u << 30;  ///< of a writer: it was an atomic operation
constexpr uint32_t kSeveralLanes = 1u
                                   << 30;  ///< of readers: more than one thread of the warp of the one named
constexpr uint32_t kSeveralWarps = 1u << 31;

struct Cell {
  uint32_t writer_phase;  ///< 0: never written, 1: by the host
  uint32_t writer, writer_site;
  uint32_t reader_phase, reader, reader_site;
};
constexpr uint32_t kHostPhase = 1;

/// The cells of one allocation.
struct Shadow {
  uint64_t begin = 0, end = 0;
  bool freed = false;
  std::unique_ptr<Cell, decltype(&std::free)> cells{nullptr, &std::free};
};

struct State {
  std::map<uint64_t, Shadow> global;  ///< by begin
  Shadow* last = nullptr;             ///< of the previous access: most accesses hit the same allocation again
  std::vector<Cell> shared;
  std::vector<uint16_t> pending;  ///< of shared bytes: thread + 1 whose asynchronous copy is under way
  uint32_t phase = kHostPhase;    ///< now
  uint32_t launch_phase = 0, block_phase = 0;  ///< the first ones of the launch and of the block
  uint32_t shared_bytes = 0;
  std::set<std::tuple<int, uint32_t, uint32_t>> reported;  ///< in this launch: kind, site, other site
};

State& state() {
  static State& s = *new State();
  return s;
}

uint32_t pack(const Thread& t) { return t.number | (t.warp_epoch & kEpochMask) << kThreadBits; }
uint32_t thread_of(uint32_t who) { return who & kThreadMask; }
uint32_t epoch_of(uint32_t who) { return who >> kThreadBits & kEpochMask; }

/// Whether an access of `who` in this phase comes before one of `t` by the rules.
bool ordered(uint32_t who, const Thread& t) {
  if (thread_of(who) == t.number) return true;
  return thread_of(who) / 32 == t.warp_index && epoch_of(who) < t.warp_epoch;
}

enum Kind { out_of_bounds, misaligned, uninitialised, race, pending };

/// One report for each place and kind in a launch.
bool is_new(Kind kind, uint32_t site, uint32_t other = 0) {
  return state().reported.emplace(kind, site, other).second;
}

std::string where(const Thread& t, uint32_t site) {
  return fmt::format("{} at {}, {}", readable_name(t.block->kernel->name), describe_site(site),
                     describe_thread(t));
}

const char* verb(Action action) {
  return action == Action::read ? "read" : action == Action::write ? "write" : "atomic operation";
}

/// "thread 5 of the same block" or of another one.
std::string other_party(uint32_t who, uint32_t phase) {
  return fmt::format("thread number {} of {} block", thread_of(who),
                     phase >= state().block_phase ? "the same" : "another");
}

/// Judges one byte and remembers the access.
void judge(Thread& t, Cell& cell, Action action, uint32_t site, const std::string& (*place)(),
           bool is_shared) {
  State& s = state();
  const uint32_t me = pack(t);
  const auto conflict = [&](uint32_t phase, uint32_t who) {
    if (phase == s.phase) return !ordered(who, t);
    return !is_shared && phase >= s.launch_phase && phase < s.block_phase;  // another block of this launch
  };
  const bool valid = cell.writer_phase >= (is_shared ? s.block_phase : kHostPhase);
  if (action != Action::write && !valid && is_new(uninitialised, site))
    report(fmt::format("uninitialised {}: {}, {}", verb(action), place(), where(t, site)));
  if (valid && conflict(cell.writer_phase, cell.writer) &&
      !(action == Action::atomic && cell.writer & kAtomic) && is_new(race, site, cell.writer_site))
    report(fmt::format("race: {} of {} in {}; {} wrote it at {}", verb(action), place(), where(t, site),
                       other_party(cell.writer, cell.writer_phase), describe_site(cell.writer_site)));
  if (action == Action::read) {
    if (cell.reader_phase != s.phase) {
      cell.reader = me;
    } else if (thread_of(cell.reader) == t.number) {
      cell.reader = me | (cell.reader & (kSeveralLanes | kSeveralWarps));
    } else if (thread_of(cell.reader) / 32 == t.warp_index) {
      cell.reader = me | kSeveralLanes | (cell.reader & kSeveralWarps);
    } else {
      cell.reader = me | kSeveralWarps;
    }
    cell.reader_phase = s.phase;
    cell.reader_site = site;
    return;
  }
  bool read_race = false;
  if (cell.reader_phase == s.phase) {
    if (cell.reader & kSeveralWarps)
      read_race = true;
    else if (cell.reader & kSeveralLanes)
      read_race = !(thread_of(cell.reader) / 32 == t.warp_index && epoch_of(cell.reader) < t.warp_epoch);
    else
      read_race = !ordered(cell.reader, t);
  } else {
    read_race = conflict(cell.reader_phase, cell.reader);
  }
  if (read_race && is_new(race, site, cell.reader_site))
    report(fmt::format("race: {} of {} in {}; {} read it at {}", verb(action), place(), where(t, site),
                       other_party(cell.reader, cell.reader_phase), describe_site(cell.reader_site)));
  cell.writer_phase = s.phase;
  cell.writer = me | (action == Action::atomic ? kAtomic : 0);
  cell.writer_site = site;
}

/// The text of the place that judge() names, made only when it is needed.
thread_local uint64_t place_address;
thread_local std::string place_text;
const std::string& shared_place() {
  return place_text = fmt::format("shared byte {} of {}", place_address, state().shared_bytes);
}
const std::string& global_place() { return place_text = describe_address(place_address); }

Shadow* shadow_of(uint64_t address) {
  State& s = state();
  if (s.last && address - s.last->begin < s.last->end - s.last->begin) return s.last;
  auto it = s.global.upper_bound(address);
  if (it == s.global.begin()) return nullptr;
  Shadow& shadow = std::prev(it)->second;
  if (address >= shadow.end) return nullptr;
  return s.last = &shadow;
}

bool watch_shared(Thread& t, uint64_t address, uint32_t bytes, Action action, uint32_t site) {
  State& s = state();
  if (address + bytes > s.shared_bytes) {
    if (is_new(out_of_bounds, site))
      report(fmt::format("out of bounds: {} of {} bytes at shared byte {} of {}, {}", verb(action), bytes,
                         static_cast<int64_t>(address), s.shared_bytes, where(t, site)));
    return false;
  }
  for (uint32_t i = 0; i < bytes; ++i) {
    place_address = address + i;
    if (s.pending[address + i] && is_new(pending, site))
      report(
          fmt::format("{} before the wait: an asynchronous copy of thread number {} to {} is under way, {}",
                      verb(action), s.pending[address + i] - 1, shared_place(), where(t, site)));
    judge(t, s.shared[address + i], action, site, shared_place, true);
  }
  return true;
}

bool watch_global(Thread& t, uint64_t address, uint32_t bytes, Action action, uint32_t site) {
  // Constants and variables of the module are the host's memory.
  if (!is_device_address(address) && address > 0xffff) {
    for (const Variable* v = running_launch()->module->variables; v->name; ++v)
      if (address - reinterpret_cast<uint64_t>(v->memory) < v->bytes) return true;
  }
  Shadow* shadow = shadow_of(address);
  if (!shadow || shadow->freed || address + bytes > shadow->end) {
    if (is_new(out_of_bounds, site))
      report(fmt::format("out of bounds: {} of {} bytes at {}, {}", verb(action), bytes,
                         describe_address(address), where(t, site)));
    return false;
  }
  for (uint32_t i = 0; i < bytes; ++i) {
    place_address = address + i;
    judge(t, shadow->cells.get()[address - shadow->begin + i], action, site, global_place, false);
  }
  return true;
}

}  // namespace

bool watch(Thread& t, Space space, uint64_t address, uint32_t bytes, Action action, uint32_t site) {
  if (space == Space::local) return true;
  if (space == Space::generic) {
    if (address >= kSharedWindow)
      space = Space::shared, address -= kSharedWindow;
    else if (is_device_address(address))
      space = Space::global;
    else
      return true;  // a thread's own memory
  }
  if (options().count) count_access(t, space, address, bytes, action, site);
  if (options().mode != Mode::check) return true;
  // The tail of a zero-filled copy may have any size.
  if ((bytes & (bytes - 1)) == 0 && address % bytes != 0) {
    if (is_new(misaligned, site))
      report(fmt::format("misaligned {} of {} bytes at {} byte {:#x}, {}", verb(action), bytes,
                         space == Space::shared ? "shared" : "global", address, where(t, site)));
    return false;
  }
  return space == Space::shared ? watch_shared(t, address, bytes, action, site)
                                : watch_global(t, address, bytes, action, site);
}

void check_begin_launch() {
  State& s = state();
  s.launch_phase = ++s.phase;
  s.reported.clear();
}

void check_begin_block(uint32_t shared_bytes) {
  State& s = state();
  s.block_phase = ++s.phase;
  s.shared_bytes = shared_bytes;
  if (s.shared.size() < shared_bytes) s.shared.resize(shared_bytes);
  s.pending.assign(shared_bytes, 0);
}

void check_barrier() { ++state().phase; }

void check_copy_started(Thread& t, const PendingCopy& copy) {
  State& s = state();
  for (uint64_t i = copy.to; i < copy.to + copy.bytes && i < s.shared_bytes; ++i)
    s.pending[i] = static_cast<uint16_t>(t.number + 1);
}
void check_copy_finished(const PendingCopy& copy) {
  State& s = state();
  for (uint64_t i = copy.to; i < copy.to + copy.bytes && i < s.shared_bytes; ++i) s.pending[i] = 0;
}

void check_allocated(uint64_t begin, size_t bytes) {
  State& s = state();
  s.last = nullptr;
  Shadow shadow;
  shadow.begin = begin, shadow.end = begin + bytes;
  shadow.cells.reset(static_cast<Cell*>(std::calloc(bytes ? bytes : 1, sizeof(Cell))));
  s.global[begin] = std::move(shadow);
}

void check_freed(uint64_t begin) {
  State& s = state();
  s.last = nullptr;
  if (const auto it = s.global.find(begin); it != s.global.end()) {
    it->second.freed = true;
    it->second.cells.reset();
  }
}

void check_written(uint64_t begin, size_t bytes) {
  if (Shadow* shadow = shadow_of(begin))
    for (size_t i = 0; i < bytes; ++i) {
      Cell& cell = shadow->cells.get()[begin - shadow->begin + i];
      cell = Cell{kHostPhase, 0, 0, 0, 0, 0};
    }
}

bool check_initialised(uint64_t begin, size_t bytes, const char* reader) {
  Shadow* shadow = shadow_of(begin);
  if (!shadow) return true;
  for (size_t i = 0; i < bytes; ++i) {
    if (shadow->cells.get()[begin - shadow->begin + i].writer_phase) continue;
    report(fmt::format("uninitialised read by {}: {}", reader, describe_address(begin + i)));
    return false;
  }
  return true;
}

void with_checker(const std::function<void()>& action) {
  const Options before = options();
  Options checked = before;
  checked.mode = Mode::check;
  set_options(checked);
  action();
  set_options(before);
}

}  // namespace halfstep::emulation
