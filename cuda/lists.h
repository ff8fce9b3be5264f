// Lists of contiguous arrays in few launches.
//
// A network has hundreds of parameters, most of them small: a kernel for each would take longer to start than
// to run. Here one launch serves as many items of a list as fit the 4 KiB of a kernel's parameters. Their
// pointers travel by value, so nothing is uploaded. Every block takes a piece of one item and finds it by
// halving the list in constant memory, the same few reads for all its threads.
#pragma once

#include <algorithm>
#include <array>
#include <span>

#include "cuda/loops.h"

namespace halfstep::cuda {

/// Items of a list for one launch, N arrays each. Passed by value, as __grid_constant__.
template <int N>
struct ListPart {
  /// Some of the 4096 bytes are left to the other parameters of a kernel.
  static constexpr int kMost = (4096 - 160) / (N * sizeof(void*) + 2 * sizeof(uint32_t));

  void* data[kMost][N];
  uint32_t size[kMost];         ///< elements, at most kMaxPart
  uint32_t first_block[kMost];  ///< the number of the item's first block in this launch
  uint32_t piece = 0;           ///< elements of a block, but of an item's last
  int count = 0;

#if defined(__CUDACC__)
  /// Elements [begin, begin + count) of an item.
  struct Range {
    int item;
    uint32_t begin, count;
  };
  /// The range of this block.
  __device__ Range range_of_block() const {
    int low = 0, high = count;  // the item is in [low, high)
    while (high - low > 1) {
      const int middle = (low + high) / 2;
      if (first_block[middle] <= blockIdx.x) {
        low = middle;
      } else {
        high = middle;
      }
    }
    const uint32_t begin = (blockIdx.x - first_block[low]) * piece, rest = size[low] - begin;
    return {low, begin, rest < piece ? rest : piece};
  }
  /// Array number a of the item, from the start of the range on.
  template <class T>
  __device__ T* array(const Range& range, int a) const {
    return static_cast<T*>(data[range.item][a]) + range.begin;
  }
  /// Whether all arrays of the item allow accesses of 16 bytes.
  __device__ bool is_wide(const Range& range) const {
    uintptr_t all = 0;
#pragma unroll
    for (int a = 0; a < N; ++a) all |= reinterpret_cast<uintptr_t>(data[range.item][a]);
    return all % 16 == 0;
  }
#endif
};

/// Elements of a block of an elementwise kernel: so that a long list makes some blocks for every
/// multiprocessor, and each of them has enough to do.
inline int64_t piece_of_list(int64_t total) {
  constexpr int64_t kLeast = 4 * kThreads, kBlocksPerMultiprocessor = 8;
  const int64_t even = ceil_div(total, kBlocksPerMultiprocessor * multiprocessors());
  return std::clamp(ceil_div(even, kLeast), int64_t{1}, int64_t{32}) * kLeast;
}

/// Calls launch_part(part, blocks, blocks before it) for parts that make up the list, in order.
/// arrays_of(item): its N arrays, contiguous and of one size; items without elements are left out. piece:
/// elements of a block, whole packs of 16 bytes.
template <int N, class Item, class ArraysOf, class LaunchPart>
void for_each_list_part(std::span<const Item> list, int64_t piece, ArraysOf&& arrays_of,
                        LaunchPart&& launch_part) {
  ListPart<N> part;
  part.piece = static_cast<uint32_t>(piece);
  int64_t blocks = 0, before = 0;
  const auto flush = [&] {
    if (part.count > 0) launch_part(part, static_cast<unsigned>(blocks), before);
    before += blocks;
    blocks = part.count = 0;
  };
  for (const Item& item : list) {
    const std::array<Array, N> arrays = arrays_of(item);
    const int64_t total = numel(arrays[0].shape), longest = kMaxPart / piece * piece;
    for (int64_t begin = 0; begin < total; begin += longest) {
      if (part.count == ListPart<N>::kMost) flush();
      for (int a = 0; a < N; ++a) {
        part.data[part.count][a] =
            static_cast<char*>(arrays[a].data) + static_cast<size_t>(begin) * size_of(arrays[a].dtype);
      }
      part.size[part.count] = static_cast<uint32_t>(std::min(longest, total - begin));
      part.first_block[part.count] = static_cast<uint32_t>(blocks);
      blocks += ceil_div(part.size[part.count], piece);
      ++part.count;
    }
  }
  flush();
}

}  // namespace halfstep::cuda
