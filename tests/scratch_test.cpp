// The kernels stay inside their scratch memory. Here every block of it ends at inaccessible memory (or at
// most 63 bytes before it, which are watched), and each kernel runs on a thread of its own, which has no
// larger blocks left over from other work. Address sanitizers find such mistakes too; this finds them in
// every run.
#include <doctest/doctest.h>

#include <sys/mman.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <new>
#include <thread>

#include "tensor/cpu/cpu_backend.h"
#include "tensor/ops.h"
#include "tensor/threads.h"

namespace {

constexpr size_t kPage = 4096;
constexpr unsigned char kFiller = 0xa5;

struct Header {  // in the page before the block
  size_t bytes, pages;
};

size_t rounded(size_t bytes, size_t to) { return (bytes + to - 1) / to * to; }

}  // namespace

// Replaces the over-aligned operator new of this program, which is where scratch memory comes from.
void* operator new(size_t bytes, std::align_val_t alignment) {
  const size_t room = rounded(bytes, static_cast<size_t>(alignment)), pages = rounded(room, kPage);
  void* memory = mmap(nullptr, pages + 2 * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  char* const start = static_cast<char*>(memory) + kPage;
  mprotect(start + pages, kPage, PROT_NONE);
  char* const block = start + pages - room;
  const Header header{bytes, pages};
  std::memcpy(memory, &header, sizeof header);
  std::memset(block, kFiller, room);
  return block;
}

void operator delete(void* block, std::align_val_t) noexcept {
  if (!block) return;
  // The header lies in the page before the one that the block starts in.
  char* memory = static_cast<char*>(block) - reinterpret_cast<uintptr_t>(block) % kPage - kPage;
  Header header;
  std::memcpy(&header, memory, sizeof header);
  const auto* bytes = static_cast<const unsigned char*>(block);
  for (size_t i = header.bytes; reinterpret_cast<uintptr_t>(bytes + i) % kPage != 0; ++i)
    if (bytes[i] != kFiller) {
      std::fputs("scratch memory: something was written behind the end\n", stderr);
      std::abort();
    }
  munmap(memory, header.pages + 2 * kPage);
}
void operator delete(void* block, size_t, std::align_val_t alignment) noexcept {
  operator delete(block, alignment);
}

using namespace halfstep;

TEST_CASE("the kernels stay inside their scratch memory") {
  const int before = num_threads();
  set_num_threads(1);  // so that the kernels run where they are called
  for (Isa isa : {Isa::portable, Isa::avx2, Isa::avx512}) {
    if (!is_supported(isa)) continue;
    Device& device = *new Device(cpu_backend_for(isa));
    const auto alone = [](const std::function<void()>& kernel) { std::thread(kernel).join(); };
    for (DType dtype : {DType::f32, DType::f64}) {
      const TensorOptions options{dtype, &device};
      uint64_t stream = 0;
      const auto random = [&](const Shape& shape) { return random_normal(shape, {7, ++stream}, 0, options); };
      // The results of a too small scratch block are checked elsewhere; here memory is what matters. Sizes
      // around the tiles, and some whose scratch memory is a whole number of cache lines.
      for (const auto& [m, k, n] : {std::tuple<int, int, int>{1, 1, 1},
                                    {16, 16, 16},
                                    {25, 7, 33},
                                    {64, 32, 48},
                                    {3, 300, 64},
                                    {30, 16, 40}}) {
        const Tensor a = random({m, k}), b = random({k, n}), bt = random({n, k}).transpose(0, 1);
        const Tensor bias = random({1}).expand({n});
        alone([&] { matmul(a, b); });
        alone([&] { matmul(a, bt); });
        alone([&] { matmul(a, b, bias); });
      }
      for (const auto& [channels, out] : {std::pair{16, 16}, {3, 5}, {1, 16}, {32, 1}, {8, 24}}) {
        for (const Conv2dGeometry& g : {Conv2dGeometry{}, Conv2dGeometry{1, 1, 1, 1, 1, 1},
                                        Conv2dGeometry{2, 1, 0, 1, 1, 0}, Conv2dGeometry{2, 2, 1, 1, 1, 1}}) {
          const Tensor x = random({5, 8, 7, channels}), kernel = random({3, 2, channels, out});
          const Tensor y = conv2d(x, kernel, {}, g);
          alone([&] { conv2d(x, kernel, {}, g); });
          alone([&] { conv2d_backward_data(y, kernel, 8, 7, g); });
          alone([&] { conv2d_backward_kernel(x, y, 3, 2, g); });
        }
      }
      for (const auto& [groups, dilation] : {std::pair{2, 1}, {1, 2}, {4, 3}}) {
        const Conv2dGeometry g{2, 1, 1, 1, 1, 1, groups, dilation, dilation};
        const Tensor x = random({3, 9, 8, 16}), kernel = random({2, 3, 16 / groups, 24});
        const Tensor y = conv2d(x, kernel, {}, g);
        alone([&] { conv2d(x, kernel, {}, g); });
        alone([&] { conv2d_backward_data(y, kernel, 9, 8, g); });
        alone([&] { conv2d_backward_kernel(x, y, 2, 3, g); });
      }
      {
        // Several groups of images, each with a sum of its own.
        const Tensor x = random({70, 8, 8, 16}), y = random({70, 8, 8, 8});
        alone([&] { conv2d_backward_kernel(x, y, 1, 1, {}); });
        alone([&] { conv2d_backward_kernel(x, y, 3, 3, {1, 1, 1, 1, 1, 1}); });
      }
      for (const auto& [length, keys] : {std::pair{16, 16}, {5, 33}, {100, 8}, {97, 64}, {200, 3}}) {
        const Tensor q = random({2, length, 2, 8}), k = random({2, keys, 2, 8}), v = random({2, keys, 2, 8});
        const auto forward = attention(q, k, v, 0.3);
        alone([&] { attention(q, k, v, 0.3); });
        alone([&] { attention_backward(q, q, k, v, forward, 0.3); });
      }
      for (int channels : {16, 6, 48}) {
        const Tensor x = random({3, 5, 4, channels}), gain = random({channels}), bias = random({3, channels});
        for (Activation activation : {Activation::none, Activation::silu}) {
          const auto forward = group_norm(x, gain, bias, 2, 1e-6, activation);
          alone([&] { group_norm(x, gain, bias, 2, 1e-6, activation); });
          alone([&] { group_norm_backward(x, x, gain, bias, forward, 2, 1e-6, activation); });
        }
      }
      // Reductions in several blocks per output, with one output, a row of them, and rows beside each other.
      const Tensor long_row = random({40000 * 4}), tall = random({9000, 24}), deep = random({2, 70000, 3});
      alone([&] { sum(long_row); });
      alone([&] { sum(tall, {0}); });
      alone([&] { sum(deep, {1}); });
      alone([&] { max(long_row); });
    }
  }
  set_num_threads(before);
}
