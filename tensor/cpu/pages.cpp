#include "tensor/cpu/pages.h"

#include <cstdint>
#include <cstdlib>

#if defined(__linux__)
#include <sys/mman.h>
#endif

// A sanitizer sees the ends of the blocks that malloc makes, and of no others.
#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define HALFSTEP_MALLOC_ONLY
#endif
#endif
#if defined(__SANITIZE_ADDRESS__) || !defined(__linux__)
#define HALFSTEP_MALLOC_ONLY
#endif

namespace halfstep::cpu {
namespace {

constexpr size_t kLine = 64;

size_t rounded(size_t bytes, size_t unit) { return (bytes + unit - 1) / unit * unit; }

#if !defined(HALFSTEP_MALLOC_ONLY)
/// What a mapping holds: whole pages of any size that systems use.
size_t mapped(size_t bytes) { return rounded(bytes, size_t{64} << 10); }

/// A mapping of its own: parts of malloc's memory that were once asked to be of large pages would stay so for
/// the small blocks that they are cut into later, and hold more memory than is used.
void* map(size_t bytes) {
  void* const start =
      mmap(nullptr, bytes + kLargePage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (start == MAP_FAILED) return nullptr;
  // Cut to where a large page may begin.
  char* const first = static_cast<char*>(start);
  const size_t before =
      rounded(reinterpret_cast<uintptr_t>(first), kLargePage) - reinterpret_cast<uintptr_t>(first);
  if (before > 0) munmap(first, before);
  if (before < kLargePage) munmap(first + before + bytes, kLargePage - before);
#if defined(MADV_HUGEPAGE)
  // A mere hint: where the system refuses it, small pages serve as well. The rest of a page is left small.
  madvise(first + before, bytes / kLargePage * kLargePage, MADV_HUGEPAGE);
#endif
  return first + before;
}
#endif

}  // namespace

void* allocate_pages(size_t bytes) noexcept {
  if (bytes > SIZE_MAX / 2) return nullptr;  // sizes are rounded up below
#if !defined(HALFSTEP_MALLOC_ONLY)
  if (bytes >= kLargePage) return map(mapped(bytes));
#endif
  const size_t alignment = bytes < kLargePage ? kLine : kLargePage;
  return std::aligned_alloc(alignment, rounded(bytes, alignment));
}

void release_pages(void* memory, size_t bytes) noexcept {
#if !defined(HALFSTEP_MALLOC_ONLY)
  if (bytes >= kLargePage) {
    munmap(memory, mapped(bytes));
    return;
  }
#endif
  static_cast<void>(bytes);
  std::free(memory);
}

}  // namespace halfstep::cpu
