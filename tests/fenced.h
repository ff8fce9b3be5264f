// Vectors whose memory ends where inaccessible memory begins: a kernel that reads or writes behind the last
// element crashes at once, also without a sanitizer. The bytes before the first element are watched, too.
#pragma once

#include <sys/mman.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>
#include <vector>

namespace halfstep::test {

/// For std::vector. The elements end at the end of a page, so their address is aligned to sizeof(T) only, as
/// that of a view may be.
template <class T>
struct FencedAllocator {
  using value_type = T;
  FencedAllocator() = default;
  template <class U>
  FencedAllocator(const FencedAllocator<U>&) {}

  T* allocate(size_t n) {
    const size_t bytes = n * sizeof(T), pages = whole_pages(bytes);
    void* memory = mmap(nullptr, pages + kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    char* const begin = static_cast<char*>(memory);
    mprotect(begin + pages, kPage, PROT_NONE);
    std::memset(begin, kFiller, pages - bytes);
    return reinterpret_cast<T*>(begin + (pages - bytes));
  }

  void deallocate(T* data, size_t n) noexcept {
    const size_t bytes = n * sizeof(T), pages = whole_pages(bytes);
    const char* const begin = reinterpret_cast<const char*>(data) - (pages - bytes);
    static const std::vector<char> untouched(kPage, kFiller);
    if (std::memcmp(begin, untouched.data(), pages - bytes) != 0) {
      std::fputs("fenced memory: something was written before the first element\n", stderr);
      std::abort();
    }
    munmap(const_cast<char*>(begin), pages + kPage);
  }

  friend bool operator==(const FencedAllocator&, const FencedAllocator&) { return true; }

 private:
  static constexpr size_t kPage = 4096;
  static constexpr char kFiller = 0x5a;
  static size_t whole_pages(size_t bytes) { return (bytes + kPage - 1) / kPage * kPage; }
};

template <class T>
using Fenced = std::vector<T, FencedAllocator<T>>;

}  // namespace halfstep::test
