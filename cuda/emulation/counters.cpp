#include "cuda/emulation/counters.h"

#include <fmt/core.h>

#include <algorithm>
#include <cstdlib>
#include <map>
#include <utility>

#include "cuda/emulation/options.h"
#include "cuda/emulation/runtime.h"

namespace halfstep::emulation {
namespace {

constexpr size_t kLanes = 32;

/// An access to memory of one thread.
struct Access {
  uint64_t address;
  uint32_t site;
  uint16_t bytes;
  Space space;
  Action action;
};

/// What the lanes of one warp do at one instruction, the same time round.
struct Request {
  std::vector<Access> lanes;
  std::vector<uint64_t> pieces;  ///< memory for the functions below

  uint32_t bytes() const { return lanes.front().bytes; }

  /// Distinct numbers address / unit.
  int64_t distinct(uint64_t unit) {
    pieces.clear();
    bool ascending = true;
    for (const Access& a : lanes)
      for (uint64_t piece = a.address / unit; piece <= (a.address + a.bytes - 1) / unit; ++piece) {
        if (!pieces.empty() && pieces.back() == piece) continue;
        ascending = ascending && (pieces.empty() || pieces.back() < piece);
        pieces.push_back(piece);
      }
    if (ascending) return static_cast<int64_t>(pieces.size());
    std::sort(pieces.begin(), pieces.end());
    return std::unique(pieces.begin(), pieces.end()) - pieces.begin();
  }

  /// Each bank delivers one 4-byte word in a pass; wide accesses are served in halves and quarters of a warp.
  int64_t wavefronts() {
    const size_t at_once = std::max<size_t>(1, 128 / std::max(4u, bytes()));
    int64_t passes = 0;
    for (size_t begin = 0; begin < lanes.size(); begin += at_once) {
      pieces.clear();
      for (size_t i = begin; i < std::min(begin + at_once, lanes.size()); ++i)
        for (uint64_t word = lanes[i].address / 4; word <= (lanes[i].address + lanes[i].bytes - 1) / 4;
             ++word)
          pieces.push_back(word);
      std::sort(pieces.begin(), pieces.end());
      pieces.erase(std::unique(pieces.begin(), pieces.end()), pieces.end());
      int64_t per_bank[32] = {}, most = 0;
      for (const uint64_t word : pieces) most = std::max(most, ++per_bank[word % 32]);
      passes += most;
    }
    return passes;
  }
};

struct State {
  std::map<KernelCounts, int64_t> rows;  ///< of one launch each, and how often it came
  KernelCounts current;                  ///< the launch that runs
  std::vector<uint64_t> block_counts;
  std::vector<std::vector<Access>> accesses;  ///< of each thread of the running block, in its order
  Request request;
};

State& state() {
  static State& s = *new State();
  return s;
}

/// Adds a request to the running launch.
void add(Request& r) {
  KernelCounts& c = state().current;
  if (r.lanes.front().space == Space::shared) {
    ++c.shared_requests;
    c.shared_wavefronts += r.wavefronts();
  } else {
    ++c.global_requests;
    c.global_sectors += r.distinct(32);
    (r.lanes.front().action == Action::read ? c.global_bytes_read : c.global_bytes_written) +=
        static_cast<int64_t>(r.lanes.size() * r.bytes());
  }
}

/// The requests of one warp from what its lanes did one by one. As long as all of them are at the same site,
/// they go together; where they part, those go together that are at the same site for the same time.
void add_requests(std::vector<Access>* lanes, size_t count) {
  Request& r = state().request;
  std::vector<const std::vector<Access>*> active;
  for (size_t lane = 0; lane < count; ++lane)
    if (!lanes[lane].empty()) active.push_back(&lanes[lane]);
  if (active.empty()) return;
  size_t together = active[0]->size();
  for (const auto* trace : active) {
    size_t same = 0;
    while (same < std::min(together, trace->size()) && (*trace)[same].site == (*active[0])[same].site) ++same;
    together = same;
  }
  for (size_t i = 0; i < together; ++i) {
    r.lanes.clear();
    for (const auto* trace : active) r.lanes.push_back((*trace)[i]);
    add(r);
  }

  struct Place {
    uint32_t site, round, lane, index;
  };
  std::vector<Place> places;
  std::map<uint32_t, uint32_t> rounds;
  for (uint32_t lane = 0; lane < active.size(); ++lane) {
    rounds.clear();
    for (size_t i = together; i < active[lane]->size(); ++i) {
      const uint32_t site = (*active[lane])[i].site;
      places.push_back({site, rounds[site]++, lane, static_cast<uint32_t>(i)});
    }
  }
  std::sort(places.begin(), places.end(), [](const Place& a, const Place& b) {
    return std::tie(a.site, a.round, a.lane) < std::tie(b.site, b.round, b.lane);
  });
  for (size_t begin = 0, end = 0; begin < places.size(); begin = end) {
    r.lanes.clear();
    const auto is_same = [&](const Place& p) {
      return p.site == places[begin].site && p.round == places[begin].round;
    };
    for (; end < places.size() && is_same(places[end]); ++end)
      r.lanes.push_back((*active[places[end].lane])[places[end].index]);
    add(r);
  }
}

/// Prints the table when the program ends, if it still counts then: with HALFSTEP_EMULATION_COUNT=1.
void print_at_exit() {
  static const bool once = [] {
    std::atexit([] {
      if (options().count && !state().rows.empty()) fmt::print(stderr, "{}", kernel_counts_table());
    });
    return true;
  }();
  static_cast<void>(once);
}

}  // namespace

std::vector<KernelCounts> kernel_counts() {
  std::vector<KernelCounts> counts;
  for (const auto& [row, launches] : state().rows) {
    counts.push_back(row);
    counts.back().launches = launches;
  }
  return counts;
}

void reset_kernel_counts() { state().rows.clear(); }

void count_kernels(bool on) {
  static const bool always = options().count;
  Options changed = options();
  changed.count = on || always;
  set_options(changed);
}

std::string kernel_counts_table() {
  struct Line {
    double launches = 0, instructions = 0, fma = 0, read = 0, written = 0;
    double requests = 0, sectors = 0, shared_requests = 0, wavefronts = 0;
    int64_t dynamic = 0;
  };
  std::map<std::string, Line> by_kernel;
  for (const auto& [row, launches] : state().rows) {
    Line& line = by_kernel[row.kernel];
    const auto add = [n = launches](double& sum, int64_t of_one) {
      sum += static_cast<double>(n) * static_cast<double>(of_one);
    };
    add(line.launches, 1);
    for (const auto& [kind, number] : row.instructions) {
      add(line.instructions, number);
      if (kind.starts_with("fma.")) add(line.fma, number);
    }
    add(line.read, row.global_bytes_read);
    add(line.written, row.global_bytes_written);
    add(line.requests, row.global_requests);
    add(line.sectors, row.global_sectors);
    line.dynamic = std::max(line.dynamic, row.dynamic_shared_bytes);
    add(line.shared_requests, row.shared_requests);
    add(line.wavefronts, row.shared_wavefronts);
  }
  std::vector<std::pair<std::string, Line>> lines(by_kernel.begin(), by_kernel.end());
  std::stable_sort(lines.begin(), lines.end(), [](const auto& a, const auto& b) {
    return a.second.instructions > b.second.instructions;
  });
  const auto ratio = [](double a, double b) { return b > 0 ? a / b : 0.0; };
  std::string text =
      fmt::format("{:>8} {:>14} {:>12} {:>10} {:>10} {:>8} {:>8} {:>8}  {}\n", "launches", "instructions",
                  "fma", "MB read", "MB written", "sectors", "waves", "dynamic", "kernel");
  for (const auto& [name, line] : lines)
    text += fmt::format("{:>8.0f} {:>14.0f} {:>12.0f} {:>10.4f} {:>10.4f} {:>8.2f} {:>8.2f} {:>8}  {}\n",
                        line.launches, line.instructions, line.fma, line.read / 1e6, line.written / 1e6,
                        ratio(line.sectors, line.requests), ratio(line.wavefronts, line.shared_requests),
                        line.dynamic, name);
  return text;
}

uint64_t* count_blocks_of(const Module& module) {
  state().block_counts.assign(module.num_blocks, 0);
  return state().block_counts.data();
}

void count_begin_launch(const KernelLaunch& launch) {
  print_at_exit();
  State& s = state();
  const int64_t blocks = int64_t{launch.grid[0]} * launch.grid[1] * launch.grid[2];
  const int64_t threads = int64_t{launch.block[0]} * launch.block[1] * launch.block[2];
  s.current = {.kernel = readable_name(launch.kernel->name),
               .launches = 1,
               .blocks = blocks,
               .threads = blocks * threads,
               .dynamic_shared_bytes = launch.dynamic_shared};
  s.accesses.resize(static_cast<size_t>(threads));
}

void count_access(Thread& t, Space space, uint64_t address, uint32_t bytes, Action action, uint32_t site) {
  state().accesses[t.number].push_back({address, site, static_cast<uint16_t>(bytes), space, action});
}

void count_end_block(const KernelLaunch&) {
  auto& threads = state().accesses;
  for (size_t first = 0; first < threads.size(); first += kLanes)
    add_requests(&threads[first], std::min(kLanes, threads.size() - first));
  for (auto& accesses : threads) accesses.clear();
}

void count_end_launch(const KernelLaunch& launch) {
  State& s = state();
  for (const BlockCount* c = launch.module->counts; c->times; ++c)
    if (const uint64_t ran = s.block_counts[c->block])
      s.current.instructions[launch.module->classes[c->kind]] += static_cast<int64_t>(ran * c->times);
  ++s.rows[s.current];
}

void count_gemm(const char* name, double flops, double bytes, const char* type) {
  if (!options().count) return;
  print_at_exit();
  ++state().rows[{
      .kernel = name, .launches = 1, .library_flops = flops, .library_bytes = bytes, .library_type = type}];
}

}  // namespace halfstep::emulation
