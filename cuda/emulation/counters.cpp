#include "cuda/emulation/counters.h"

#include <fmt/core.h>

#include <algorithm>
#include <cstdlib>
#include <unordered_map>
#include <utility>

#include "cuda/emulation/options.h"
#include "cuda/emulation/runtime.h"

namespace halfstep::emulation {
namespace {

/// What the lanes of one warp do at one instruction, the same time round.
struct Request {
  Space space;
  Action action;
  uint32_t bytes;  ///< of each lane
  std::vector<uint64_t> addresses;
};

struct State {
  std::map<std::string, KernelCounts> kernels;
  KernelCounts* current = nullptr;
  std::vector<uint64_t> block_counts;
  std::unordered_map<uint64_t, Request> requests;  ///< by (warp, site, round)
  std::unordered_map<uint64_t, uint32_t> rounds;   ///< by (thread, site)
};

State& state() {
  static State& s = *new State();
  return s;
}

/// Distinct numbers address / unit of a request.
uint64_t distinct(const Request& r, uint64_t unit) {
  std::vector<uint64_t> pieces;
  for (const uint64_t a : r.addresses)
    for (uint64_t piece = a / unit; piece <= (a + r.bytes - 1) / unit; ++piece) pieces.push_back(piece);
  std::sort(pieces.begin(), pieces.end());
  return static_cast<uint64_t>(std::unique(pieces.begin(), pieces.end()) - pieces.begin());
}

/// Each bank delivers one 4-byte word in a pass; wide accesses are served in halves and quarters of a warp.
uint64_t wavefronts(const Request& r) {
  const size_t lanes = std::max<size_t>(1, 128 / std::max(4u, r.bytes));
  uint64_t passes = 0;
  for (size_t begin = 0; begin < r.addresses.size(); begin += lanes) {
    std::vector<uint64_t> words;
    for (size_t i = begin; i < std::min(begin + lanes, r.addresses.size()); ++i)
      for (uint64_t word = r.addresses[i] / 4; word <= (r.addresses[i] + r.bytes - 1) / 4; ++word)
        words.push_back(word);
    std::sort(words.begin(), words.end());
    words.erase(std::unique(words.begin(), words.end()), words.end());
    uint64_t per_bank[32] = {}, most = 0;
    for (const uint64_t word : words) most = std::max(most, ++per_bank[word % 32]);
    passes += most;
  }
  return passes;
}

}  // namespace

const std::map<std::string, KernelCounts>& kernel_counts() { return state().kernels; }
void reset_kernel_counts() { state().kernels.clear(); }

std::string kernel_counts_table() {
  const auto all_instructions = [](const KernelCounts& c) {
    uint64_t sum = 0;
    for (const auto& [kind, number] : c.instructions) sum += number;
    return sum;
  };
  std::vector<std::pair<std::string, KernelCounts>> rows(kernel_counts().begin(), kernel_counts().end());
  std::stable_sort(rows.begin(), rows.end(), [&](const auto& a, const auto& b) {
    return all_instructions(a.second) > all_instructions(b.second);
  });
  const auto ratio = [](uint64_t a, uint64_t b) {
    return b ? static_cast<double>(a) / static_cast<double>(b) : 0.0;
  };
  std::string text =
      fmt::format("{:>8} {:>14} {:>12} {:>10} {:>10} {:>8} {:>8}  {}\n", "launches", "instructions", "fma",
                  "MB read", "MB written", "sectors", "waves", "kernel");
  for (const auto& [name, c] : rows) {
    const auto fma = c.instructions.find("fma");
    text += fmt::format(
        "{:>8} {:>14} {:>12} {:>10.4f} {:>10.4f} {:>8.2f} {:>8.2f}  {}\n", c.launches, all_instructions(c),
        fma == c.instructions.end() ? 0 : fma->second, static_cast<double>(c.global_bytes_read) / 1e6,
        static_cast<double>(c.global_bytes_written) / 1e6, ratio(c.global_sectors, c.global_requests),
        ratio(c.shared_wavefronts, c.shared_requests), name);
  }
  return text;
}

uint64_t* count_blocks_of(const Module& module) {
  state().block_counts.assign(module.num_blocks, 0);
  return state().block_counts.data();
}

void count_begin_launch(const KernelLaunch& launch) {
  State& s = state();
  static const bool once = [] {
    std::atexit([] {
      if (!kernel_counts().empty()) fmt::print(stderr, "{}", kernel_counts_table());
    });
    return true;
  }();
  static_cast<void>(once);
  s.current = &s.kernels[readable_name(launch.kernel->name)];
  ++s.current->launches;
  s.current->blocks += uint64_t{launch.grid[0]} * launch.grid[1] * launch.grid[2];
  s.current->threads += uint64_t{launch.grid[0]} * launch.grid[1] * launch.grid[2] * launch.block[0] *
                        launch.block[1] * launch.block[2];
}

void count_access(Thread& t, Space space, uint64_t address, uint32_t bytes, Action action, uint32_t site) {
  State& s = state();
  const uint32_t round = s.rounds[uint64_t{t.number} << 32 | site]++;
  Request& r = s.requests[uint64_t{t.warp_index} << 56 | uint64_t{site} << 32 | round];
  r.space = space;
  r.action = action;
  r.bytes = bytes;
  r.addresses.push_back(address);
}

void count_end_block(const KernelLaunch&) {
  State& s = state();
  for (const auto& [key, r] : s.requests) {
    if (r.space == Space::shared) {
      ++s.current->shared_requests;
      s.current->shared_wavefronts += wavefronts(r);
    } else {
      ++s.current->global_requests;
      s.current->global_sectors += distinct(r, 32);
      (r.action == Action::read ? s.current->global_bytes_read : s.current->global_bytes_written) +=
          r.addresses.size() * r.bytes;
    }
  }
  s.requests.clear();
  s.rounds.clear();
}

void count_end_launch(const KernelLaunch& launch) {
  State& s = state();
  for (const BlockCount* c = launch.module->counts; c->times; ++c)
    if (const uint64_t ran = s.block_counts[c->block])
      s.current->instructions[launch.module->classes[c->kind]] += ran * c->times;
}

void count_gemm(const char* name, double flops, double bytes) {
  if (!options().count) return;
  KernelCounts& c = state().kernels[name];
  ++c.launches;
  c.library_flops += flops;
  c.library_bytes += bytes;
}

}  // namespace halfstep::emulation
