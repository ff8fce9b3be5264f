#include "tensor/cpu/pages.h"

#include <cstdlib>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace halfstep::cpu {

void* allocate_pages(size_t bytes) noexcept {
  constexpr size_t kLine = 64;
  const size_t alignment = bytes < kLargePage ? kLine : kLargePage;
  void* const memory = std::aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment);
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  // A mere hint: where the system refuses it, small pages serve as well.
  if (memory && bytes >= kLargePage) madvise(memory, bytes / kLargePage * kLargePage, MADV_HUGEPAGE);
#endif
  return memory;
}

void release_pages(void* memory) noexcept { std::free(memory); }

}  // namespace halfstep::cpu
