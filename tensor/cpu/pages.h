// Memory for the CPU, where it pays in large pages.
#pragma once

#include <cstddef>

namespace halfstep::cpu {

/// The size of a large page, which blocks of this size and more begin with.
inline constexpr size_t kLargePage = size_t{2} << 20;

/// At least `bytes` bytes, aligned to 64; nullptr where there are none. The system is asked for large pages
/// where whole ones fit: with those of 4 KB the kernels wait for address translations, and each fresh page
/// costs a fault.
void* allocate_pages(size_t bytes) noexcept;
/// `bytes`: those of allocate_pages.
void release_pages(void* memory, size_t bytes) noexcept;

}  // namespace halfstep::cpu
