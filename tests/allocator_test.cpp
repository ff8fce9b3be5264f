// Memory: the caching allocator on a backend that counts, the scratch memory of the kernels, and the lookup
// of devices and dtypes by name.
#include <doctest/doctest.h>

#include <cstdint>
#include <cstdlib>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "tensor/conv_method.h"
#include "tensor/cpu/cpu_backend.h"
#include "tensor/cpu/pages.h"
#include "tensor/cpu/workspace.h"
#include "tensor/device.h"
#include "tensor/error.h"
#include "tensor/nearest.h"
#include "tensor/tensor.h"
#include "tests/error_of.h"

using namespace halfstep;
using halfstep::test::error_of;

namespace {

/// A backend that keeps books of its memory and refuses it beyond a limit.
struct Bookkeeper {
  std::map<void*, size_t> held;
  size_t bytes = 0, limit = SIZE_MAX;
  int allocations = 0, synchronizations = 0, wrong_releases = 0;
  bool released_before_synchronizing = false;
};
Bookkeeper books;

Backend counting_backend() {
  Backend b = reference_backend();
  b.name = "counting";
  b.allocate = [](size_t bytes) -> void* {
    if (books.bytes + bytes > books.limit) return nullptr;
    void* memory = reference_backend().allocate(bytes);
    books.held[memory] = bytes;
    books.bytes += bytes;
    ++books.allocations;
    return memory;
  };
  b.release = [](void* memory, size_t bytes) {
    if (books.synchronizations == 0) books.released_before_synchronizing = true;
    const auto it = books.held.find(memory);
    if (it == books.held.end() || it->second != bytes) {
      ++books.wrong_releases;
      return;
    }
    books.bytes -= bytes;
    books.held.erase(it);
    reference_backend().release(memory, bytes);
  };
  b.synchronize = [] { ++books.synchronizations; };
  return b;
}

const Backend& backend() {
  static const Backend b = counting_backend();
  return b;
}

}  // namespace

TEST_CASE("allocator: size classes are eighths of powers of two, from 64 bytes on") {
  books = {};
  Allocator allocator(backend());
  const std::pair<size_t, size_t> classes[] = {
      {0, 64},      {1, 64},      {64, 64},      {65, 128},      {128, 128},    {129, 192},
      {512, 512},   {513, 640},   {640, 640},    {641, 768},     {1024, 1024},  {1025, 1280},
      {1281, 1536}, {8192, 8192}, {8193, 10240}, {65535, 65536}, {65537, 81920}};
  for (const auto& [asked_bytes, given_bytes] : classes) {
    const auto asked = asked_bytes;  // clang 14 captures no structured bindings
    const auto given = given_bytes;
    CAPTURE(asked);
    const size_t before = allocator.reserved_bytes();
    void* memory = allocator.allocate(asked);
    CHECK(memory != nullptr);
    CHECK(reinterpret_cast<uintptr_t>(memory) % 64 == 0);
    CHECK(allocator.reserved_bytes() - before == given);
    CHECK(allocator.current_bytes() == given);
    allocator.release(memory, asked);
    CHECK(allocator.current_bytes() == 0);
    allocator.trim();
  }
  for (size_t bytes = 1; bytes < 100000; bytes += 37) {
    const size_t before = allocator.reserved_bytes();
    void* memory = allocator.allocate(bytes);
    const size_t given = allocator.reserved_bytes() - before;
    CHECK(given >= bytes);
    CHECK(given - bytes < std::max<size_t>(64, bytes / 4));
    allocator.release(memory, bytes);
    allocator.trim();
  }
  CHECK(books.held.empty());
  CHECK(books.wrong_releases == 0);
}

TEST_CASE("allocator: blocks of an arena are its own until it is gone") {
  books = {};
  Allocator allocator(backend());
  void* const cached = allocator.allocate(1000);
  allocator.release(cached, 1000);
  auto arena = std::make_unique<Allocator::Arena>(allocator);
  void *first = nullptr, *second = nullptr, *third = nullptr;
  {
    const Allocator::Arena::Use use(*arena);
    first = allocator.allocate(1000);
    CHECK(first == cached);  // what is free is taken first
    second = allocator.allocate(1000);
    allocator.release(second, 1000);
    CHECK(allocator.allocate(1000) == second);  // used again inside
    allocator.release(second, 1000);
    third = allocator.allocate(2000);
  }
  CHECK(books.allocations == 3);
  // Outside nobody gets them, whether they are released inside or later.
  allocator.release(first, 1000);
  void* const other = allocator.allocate(1000);
  CHECK(books.allocations == 4);
  CHECK(other != first);
  CHECK(other != second);
  allocator.trim();
  CHECK(books.held.size() == 4);
  CHECK(books.wrong_releases == 0);
  {
    const Allocator::Arena::Use use(*arena);
    CHECK(allocator.allocate(1000) == first);  // a second time, the latest first
    allocator.release(first, 1000);
  }
  arena.reset();
  CHECK(allocator.allocate(1000) == first);
  CHECK(allocator.allocate(1000) == second);
  allocator.release(third, 2000);  // released after its arena: an ordinary block
  CHECK(allocator.allocate(2000) == third);
  CHECK(books.allocations == 4);
  CHECK(allocator.current_bytes() == allocator.reserved_bytes());
  for (void* block : {first, second, other}) allocator.release(block, 1000);
  allocator.release(third, 2000);
  allocator.trim();
  CHECK(books.held.empty());
}

TEST_CASE("allocator: a full device gives nothing back while an arena is in use") {
  books = {};
  Allocator allocator(backend());
  void* const cached = allocator.allocate(4096);
  allocator.release(cached, 4096);
  books.limit = 5000;
  Allocator::Arena arena(allocator);
  {
    const Allocator::Arena::Use use(arena);
    CHECK_THROWS_AS(allocator.allocate(2048), Error);
  }
  CHECK(books.synchronizations == 0);
  void* const fits = allocator.allocate(2048);
  CHECK(fits != nullptr);
  CHECK(books.synchronizations == 1);
  allocator.release(fits, 2048);
  allocator.trim();
}

TEST_CASE("allocator: blocks of one class are used again, latest first; others are not touched") {
  books = {};
  Allocator allocator(backend());
  void* a = allocator.allocate(1000);
  void* b = allocator.allocate(1000);
  CHECK(a != b);
  CHECK(books.allocations == 2);
  CHECK(allocator.current_bytes() == 2048);
  CHECK(allocator.peak_bytes() == 2048);
  allocator.release(a, 1000);
  allocator.release(b, 1000);
  CHECK(allocator.current_bytes() == 0);
  CHECK(allocator.peak_bytes() == 2048);
  CHECK(allocator.reserved_bytes() == 2048);
  CHECK(allocator.allocate(1020) == b);  // the same class
  CHECK(allocator.allocate(900) == a);
  CHECK(books.allocations == 2);
  CHECK(allocator.current_bytes() == 2048);
  void* c = allocator.allocate(2000);  // another class
  CHECK(books.allocations == 3);
  CHECK(allocator.reserved_bytes() == 2048 + 2048);
  CHECK(allocator.peak_bytes() == 4096);
  allocator.release(c, 2000);
  allocator.reset_peak();
  CHECK(allocator.peak_bytes() == 2048);
  allocator.release(a, 900);
  allocator.release(b, 1020);
  CHECK(allocator.peak_bytes() == 2048);
  allocator.trim();
  CHECK(allocator.reserved_bytes() == 0);
  CHECK(books.held.empty());
  CHECK(books.synchronizations == 1);  // work in flight may still use the blocks
  CHECK_FALSE(books.released_before_synchronizing);
  CHECK(books.wrong_releases == 0);
  allocator.trim();
  CHECK(allocator.reserved_bytes() == 0);
}

TEST_CASE("allocator: a full device gives its cache back once, and only then refuses") {
  books = {};
  books.limit = 4096;
  Allocator allocator(backend());
  void* small = allocator.allocate(1024);
  void* other = allocator.allocate(1024);
  allocator.release(small, 1024);
  allocator.release(other, 1024);
  CHECK(books.bytes == 2048);
  void* large = allocator.allocate(4096);  // fits only without the cache
  CHECK(large != nullptr);
  CHECK(books.allocations == 3);
  CHECK(allocator.reserved_bytes() == 4096);
  CHECK(error_of([&] { allocator.allocate(64); }) ==
        "[allocate] device 'counting' has no room for 64 bytes (4096 in use); use a smaller batch");
  CHECK(allocator.current_bytes() == 4096);
  CHECK(allocator.reserved_bytes() == 4096);
  allocator.release(large, 4096);
  CHECK(allocator.allocate(4000) == large);
  allocator.release(large, 4000);
  allocator.trim();
  CHECK(books.held.empty());
}

TEST_CASE("tensors hold memory for as long as a view of them lives") {
  books = {};
  Device device(backend());
  Tensor view;
  {
    const Tensor t = Tensor::zeros({10, 10}, {DType::f64, &device});
    view = t.slice(0, 2, 3).transpose(0, 1);
    CHECK(device.allocator.current_bytes() == 896);  // 800 in eighths of 1024
  }
  CHECK(device.allocator.current_bytes() == 896);
  CHECK(view.to_vector<double>() == std::vector<double>(10, 0.0));
  view = {};
  CHECK(device.allocator.current_bytes() == 0);
  { const Tensor nothing = Tensor::empty({0, 3}, {DType::f32, &device}); }
  CHECK(device.allocator.current_bytes() == 0);
  device.allocator.trim();
  CHECK(books.held.empty());
}

TEST_CASE("memory of the CPU: lines of the cache, from 2 MB on whole large pages") {
  const Backend& cpu = cpu_device().backend;
  for (const size_t bytes :
       {size_t{1}, size_t{65}, cpu::kLargePage - 1, cpu::kLargePage, 3 * cpu::kLargePage + 7}) {
    auto* const memory = static_cast<unsigned char*>(cpu.allocate(bytes));
    REQUIRE(memory != nullptr);
    CHECK(reinterpret_cast<uintptr_t>(memory) % (bytes < cpu::kLargePage ? 64 : cpu::kLargePage) == 0);
    memory[0] = memory[bytes - 1] = 1;
    cpu.release(memory, bytes);
  }
  CHECK(cpu.allocate(size_t{1} << 60) == nullptr);
  CHECK(cpu.allocate(SIZE_MAX) == nullptr);
}

TEST_CASE("workspace: aligned, recycled on its thread, the smallest that fits first") {
  using cpu::Workspace;
  const auto address_of = [](size_t bytes) {
    const Workspace w(bytes);
    CHECK(reinterpret_cast<uintptr_t>(w.data) % 64 == 0);
    return w.data;
  };
  // Sizes beyond those that other tests leave behind.
  constexpr size_t kMiB = size_t{1} << 20;
  void *large = nullptr, *small = nullptr;
  {
    const Workspace a(64 * kMiB + 8), b(48 * kMiB + 8);
    large = a.data;
    small = b.data;
    CHECK(large != small);
  }
  CHECK(address_of(48 * kMiB + 8) == small);  // exactly fitting
  CHECK(address_of(48 * kMiB) == small);
  CHECK(address_of(50 * kMiB) == small);  // up to the end of its last large page
  CHECK(address_of(50 * kMiB + 1) == large);
  CHECK(address_of(64 * kMiB + 8) == large);
  {
    const Workspace first(40 * kMiB), second(40 * kMiB);  // not both in one block
    CHECK(first.data == small);
    CHECK(second.data == large);
  }
  {  // A block keeps its own size when it served a smaller request.
    const Workspace w(64 * kMiB + 8);
    CHECK(w.data == large);
    const Workspace v(48 * kMiB + 8);
    CHECK(v.data == small);
  }
  // Many blocks at once: the list of free ones is bounded, and the largest are kept.
  {
    std::vector<std::unique_ptr<Workspace>> many;
    for (size_t i = 1; i <= 40; ++i) many.push_back(std::make_unique<Workspace>(i * 100));
  }
  CHECK(address_of(64 * kMiB + 8) == large);
  CHECK(address_of(48 * kMiB + 8) == small);
}

TEST_CASE("devices and dtypes are found by name") {
  CHECK(&device_by_name("cpu") == &cpu_device());
  CHECK(&device_by_name("reference") == &reference_device());
  CHECK(cpu_device().name() == "cpu");
  CHECK(reference_device().name() == "reference");
  CHECK(cpu_device().description() == "cpu (" + std::string(name_of(selected_isa())) + ", convolutions " +
                                          std::string(name_of(conv_method())) + ")");
  CHECK(reference_device().description() == "reference");
  if (!probe_cuda().backend) {
    CHECK(&device_by_name("auto") == &cpu_device());
    CHECK(error_of([] { device_by_name("cuda"); }).find("[device] expected a CUDA device, got none: ") == 0);
  }
  const std::pair<DType, size_t> sizes[] = {
      {DType::f32, 4}, {DType::f64, 8}, {DType::bf16, 2}, {DType::i64, 8}};
  const char* names[] = {"f32", "f64", "bf16", "i64"};
  for (size_t i = 0; i < 4; ++i) {
    CHECK(size_of(sizes[i].first) == sizes[i].second);
    CHECK(name_of(sizes[i].first) == names[i]);
    CHECK(dtype_by_name(names[i]) == sizes[i].first);
  }
  CHECK(is_floating(DType::f32));
  CHECK(is_floating(DType::f64));
  CHECK(is_floating(DType::bf16));
  CHECK_FALSE(is_full_precision(DType::bf16));
  CHECK_FALSE(is_floating(DType::i64));
  CHECK(dtype_of<float>() == DType::f32);
  CHECK(dtype_of<double>() == DType::f64);
  CHECK(dtype_of<int64_t>() == DType::i64);
}

TEST_CASE("spelling: the nearest name by inserted, deleted and replaced letters") {
  const auto nearest = [](const char* name, const std::vector<std::string>& names) {
    return nearest_name(name, names);
  };
  CHECK(nearest("anything", {}) == "");
  CHECK(nearest("", {"abc", "a", "ab"}) == "a");
  CHECK(nearest("learning_rat", {"batch_size", "learning_rate", "learning"}) == "learning_rate");
  CHECK(nearest("kitten", {"sitting", "mitten", "kit"}) == "mitten");
  CHECK(nearest("abcd", {"bcde", "abxy", "ab"}) == "bcde");               // 2, 2, 2: the first of equals
  CHECK(nearest("abcd", {"dcba", "abxd", "xbcd"}) == "abxd");             // 4, 1, 1
  CHECK(nearest("flaw", {"lawn", "flaws"}) == "flaws");                   // 2, 1
  CHECK(nearest("ab", {"ba", "xab", "abxx"}) == "xab");                   // 2, 1, 2
  CHECK(nearest("saturday", {"sunday", "satur", "saturn"}) == "sunday");  // 3, 3, 3
  CHECK(nearest("saturday", {"monday", "satur"}) == "satur");             // 5, 3
  CHECK(nearest("cat", {"xxcat", "bat"}) == "bat");                       // 2, 1
  CHECK(nearest("cat", {"cats!", "cut"}) == "cut");
  CHECK(nearest("cat", {"cats!", "cab"}) == "cab");
  CHECK(nearest("snr1", {"snr", "snr+1"}) == "snr+1");  // 1, 1: the longest of equals
  CHECK(nearest("a", {"aaaa", "bcd", "b"}) == "b");     // 3, 3, 1
}

TEST_CASE("spelling: a name is suggested where it is near") {
  CHECK(did_you_mean("trian", {"sample", "train"}) == "; did you mean 'train'?");  // 2 edits of 5 letters
  CHECK(did_you_mean("tain", {"train"}) == "; did you mean 'train'?");
  CHECK(did_you_mean("tarnk", {"train"}).empty());  // 3
  CHECK(did_you_mean("paint", {"train", "sample"}).empty());
  CHECK(did_you_mean("w", {"x", "v"}).empty());  // nothing in common
  CHECK(did_you_mean("sn", {"snr"}) == "; did you mean 'snr'?");
  CHECK(did_you_mean("train", {}).empty());
  CHECK(did_you_mean("", {"a"}).empty());
}
