// A Backend that watches another one: how often each entry is called, how long it takes, what it computes and
// moves.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "tensor/backend.h"

namespace halfstep::bench {

/// What one call does at least: floating-point operations of matrix entries (a multiply-add is two; a
/// convolution counts those of its definition, whatever the method; other entries count none), and the bytes
/// of its arguments, each element that is stored counted once.
struct Work {
  double flops = 0, bytes = 0;

  Work& operator+=(const Work& other) {
    flops += other.flops;
    bytes += other.bytes;
    return *this;
  }
};

/// The calls of one entry of the table.
struct ProfileRow {
  std::string_view entry;  ///< its name in Backend
  std::string shapes;      ///< of the main operands, where they are told apart
  int64_t calls = 0;
  double seconds = 0;
  Work work;
};

/// The table of `inner` with every computing entry watched. There is one such table in a process: the last
/// call's `inner` counts. Calls are waited for, so that times are those of the entry alone.
/// `by_shapes` tells calls of other shapes apart.
const Backend& profiled(const Backend& inner, bool by_shapes = false);
/// The entries called since reset_profile(), the slowest first.
std::vector<ProfileRow> profile();
void reset_profile();

}  // namespace halfstep::bench
