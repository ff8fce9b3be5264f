// The worker threads: how many there are, calls from several threads at once, and the treatment of denormals.
#include "tensor/threads.h"

#include <doctest/doctest.h>
#include <fmt/core.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "tensor/cpu/thread_pool.h"
#include "tensor/error.h"
#include "tests/error_of.h"

using namespace halfstep;
using halfstep::test::error_of;

// The environment is read once per process, so a process of its own reads it.
TEST_CASE("child: prints the number of threads" * doctest::skip()) {
  const std::string error = error_of([] { std::printf("threads=%d\n", num_threads()); });
  std::printf("error=%s\n", error.c_str());
}

namespace {

/// What the test case above prints, with HALFSTEP_THREADS set to `value` (unset if nullptr).
std::string output_with(const char* value) {
  std::array<char, 4096> path{};
  REQUIRE(readlink("/proc/self/exe", path.data(), path.size() - 1) > 0);
  std::string command = value ? fmt::format("HALFSTEP_THREADS='{}' ", value) : "env -u HALFSTEP_THREADS ";
  command += fmt::format("'{}' --no-skip --test-case='child: prints the number of threads'", path.data());
  FILE* pipe = popen(command.c_str(), "r");
  REQUIRE(pipe != nullptr);
  std::string output;
  std::array<char, 256> part{};
  while (std::fgets(part.data(), static_cast<int>(part.size()), pipe)) output += part.data();
  pclose(pipe);
  return output;
}

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

}  // namespace

TEST_CASE("threads: HALFSTEP_THREADS, and one per processor without it") {
  for (const char* good : {"1", "3"})
    CHECK(contains(output_with(good), "threads=" + std::string(good) + "\n"));
  for (const char* wrong : {"0", "-1", "1025", "", "3x", "x", "1.5"}) {
    CAPTURE(wrong);
    CHECK(contains(output_with(wrong), "error=[HALFSTEP_THREADS] expected a number from 1 to 1024, got '" +
                                           std::string(wrong) + "'\n"));
  }
  cpu_set_t set;
  REQUIRE(sched_getaffinity(0, sizeof set, &set) == 0);
  CHECK(contains(output_with(nullptr), "threads=" + std::to_string(CPU_COUNT(&set)) + "\n"));
}

TEST_CASE("threads: the number can be changed, and wrong ones are refused") {
  const int before = num_threads();
  for (int count : {1, 4, 2, 2}) {
    set_num_threads(count);
    CHECK(num_threads() == count);
    std::atomic<int64_t> total = 0;
    cpu::parallel_for(1000, 3, [&](int64_t begin, int64_t end) { total += end - begin; });
    CHECK(total == 1000);
  }
  CHECK(error_of([] { set_num_threads(0); }) == "[set_num_threads] expected 1 to 1024 threads, got 0");
  CHECK(error_of([] { set_num_threads(1025); }) == "[set_num_threads] expected 1 to 1024 threads, got 1025");
  CHECK(num_threads() == 2);
  set_num_threads(before);
}

TEST_CASE("threads: workers take part, and a call waits for all of them") {
  const int before = num_threads();
  set_num_threads(3);
  // Each block waits until three threads are inside: this ends only if all of them work at the same time.
  std::atomic<int> inside = 0;
  std::vector<std::atomic<int>> done(3);
  cpu::parallel_for(3, 1, [&](int64_t begin, int64_t) {
    ++inside;
    while (inside < 3) std::this_thread::yield();
    ++done[static_cast<size_t>(begin)];
  });
  for (const auto& d : done) CHECK(d == 1);
  // Blocks of very different length: the results of the slowest are there when the call returns.
  for (int repeat = 0; repeat < 50; ++repeat) {
    std::vector<int> result(8, 0);
    cpu::parallel_for(8, 1, [&](int64_t begin, int64_t) {
      if (begin == 7) std::this_thread::sleep_for(std::chrono::microseconds(repeat % 3 == 0 ? 300 : 0));
      result[static_cast<size_t>(begin)] = 1;
    });
    CHECK(std::count(result.begin(), result.end(), 1) == 8);
  }
  set_num_threads(before);
}

TEST_CASE("threads: jobs of several callers at once, each complete") {
  const int before = num_threads();
  set_num_threads(2);
  std::atomic<int> wrong = 0;
  std::vector<std::thread> callers;
  for (int c = 0; c < 3; ++c)
    callers.emplace_back([&] {
      for (int repeat = 0; repeat < 200; ++repeat) {
        std::vector<int> count(64, 0);
        cpu::parallel_for(64, 5, [&](int64_t begin, int64_t end) {
          for (int64_t i = begin; i < end; ++i) ++count[static_cast<size_t>(i)];
        });
        wrong += std::any_of(count.begin(), count.end(), [](int n) { return n != 1; });
      }
    });
  for (std::thread& caller : callers) caller.join();
  CHECK(wrong == 0);
  set_num_threads(before);
}

TEST_CASE("threads: an exception stops the blocks that have not begun, and is the one thrown") {
  const int before = num_threads();
  for (int count : {1, 2}) {
    set_num_threads(count);
    std::atomic<int> begun = 0;
    std::string message;
    try {
      cpu::parallel_for(100000, 1, [&](int64_t, int64_t) {
        ++begun;
        throw std::runtime_error("stop");
      });
    } catch (const std::runtime_error& e) {
      message = e.what();
    }
    CHECK(message == "stop");
    CHECK(begun <= count);
    std::atomic<int> after = 0;
    cpu::parallel_for(10, 1, [&](int64_t, int64_t) { ++after; });
    CHECK(after == 10);
  }
  set_num_threads(before);
}

#if defined(__x86_64__)
TEST_CASE("threads: bodies flush denormals to zero, on every thread; the caller's own arithmetic does not") {
  const int before = num_threads();
  volatile float smallest = std::numeric_limits<float>::min();
  const auto is_flushed = [&] { return smallest * 0.25f == 0; };
  const auto input_is_flushed = [&] {
    volatile float denormal = std::numeric_limits<float>::denorm_min();
    return denormal * 1e30f == 0;
  };
  REQUIRE_FALSE(is_flushed());
  for (int count : {1, 3}) {
    CAPTURE(count);
    set_num_threads(count);
    std::atomic<int> flushed = 0, inputs = 0, inside = 0;
    cpu::parallel_for(3, 1, [&](int64_t, int64_t) {
      ++inside;
      while (count == 3 && inside < 3) std::this_thread::yield();  // so that each thread has a block
      flushed += is_flushed();
      inputs += input_is_flushed();
      cpu::parallel_for(2, 1, [&](int64_t, int64_t) {});
      flushed += is_flushed();  // still, after a call from inside
    });
    CHECK(flushed == 6);
    CHECK(inputs == 3);
    CHECK_FALSE(is_flushed());
    CHECK_FALSE(input_is_flushed());
    cpu::parallel_for(1, 1, [&](int64_t, int64_t) { CHECK(is_flushed()); });
    CHECK_FALSE(is_flushed());
  }
  set_num_threads(before);
}
#endif
