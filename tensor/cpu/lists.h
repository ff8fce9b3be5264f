// Lists of arrays in one parallel loop. For kernel sources only.
#pragma once

#include "tensor/cpu/simd.h"
#include "tensor/cpu/thread_pool.h"
#include "tensor/cpu/workspace.h"

namespace halfstep::cpu::inline HALFSTEP_ISA {

/// The elements of a list's items one behind another, cut into blocks for parallel_for: a network has
/// hundreds of parameters of some dozens of elements, and a parallel loop for each would cost more than its
/// work. How the list is cut depends on the sizes alone.
template <class Item>
class ListBlocks {
 public:
  /// size_of(item): its number of elements. `list` is kept by reference.
  template <class Size>
  ListBlocks(const Item* list, int64_t count, Size size_of)
      : list_(list), count_(count), memory_(sizeof(int64_t) * (2 * count + 1)) {
    ends_ = static_cast<int64_t*>(memory_.data) + 1;
    sizes_ = ends_ + count;
    ends_[-1] = 0;
    for (int64_t i = 0; i < count; ++i) {
      sizes_[i] = size_of(list[i]);
      ends_[i] = ends_[i - 1] + ceil_div(sizes_[i], kAlign) * kAlign;
    }
  }

  int64_t count() const { return ceil_div(ends_[count_ - 1], kGrain); }

  /// Calls run(block, item, begin, end) for parts [begin, end) of the items' elements, on all threads; the
  /// parts of a block, which may belong to several items, in order and on one thread.
  template <class Run>
  void for_each(Run run) const {
    parallel_for(ends_[count_ - 1], kGrain, [this, &run](int64_t begin, int64_t end) {
      const int64_t block = begin / kGrain;
      int64_t low = 0, high = count_;  // the first item that ends behind `begin` is in [low, high)
      while (low < high) {
        const int64_t middle = (low + high) / 2;
        (ends_[middle] > begin ? high : low) = ends_[middle] > begin ? middle : middle + 1;
      }
      for (int64_t i = low; begin < end; begin = ends_[i++]) {
        const int64_t start = ends_[i - 1];
        if (sizes_[i] > 0) run(block, list_[i], begin - start, min(end - start, sizes_[i]));
      }
    });
  }

 private:
  static constexpr int64_t kGrain = 16384;  // some microseconds of work
  static constexpr int64_t kAlign = 64;     // items begin as if at such a number, so that parts are aligned

  const Item* list_;
  int64_t count_;
  Workspace memory_;
  int64_t* ends_;   // of the items among all elements; ends_[-1] is 0
  int64_t* sizes_;  // of the items
};

}  // namespace halfstep::cpu::inline HALFSTEP_ISA
