// Checks of a device's kernels against the reference backend, with error bounds from the rounding of the
// sums.
#pragma once

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <random>
#include <string>
#include <type_traits>
#include <vector>

#include "tensor/backend.h"
#include "tests/fenced.h"

namespace halfstep::test {

/// Host memory with a window on it; reading or writing behind its end crashes.
template <class T>
struct Host {
  Fenced<T> values;
  Shape shape;
  Strides strides;
  int64_t offset = 0;

  Host() = default;
  explicit Host(const Shape& s, T value = T(0))
      : values(static_cast<size_t>(numel(s)), value), shape(s), strides(contiguous_strides(s)) {}

  Array array() const {
    // An empty vector may have no memory, but an Array without data counts as absent.
    static T nothing{};
    T* data = values.empty() ? &nothing : const_cast<T*>(values.data()) + offset;
    return {data, dtype_of<T>(), shape, strides};
  }
  /// The window with two axes exchanged.
  Host transposed(int a, int b) const {
    Host t = *this;
    std::swap(t.shape[a], t.shape[b]);
    std::swap(t.strides[a], t.strides[b]);
    return t;
  }
};

inline std::mt19937 generator(7);

template <class T>
Host<T> random_host(const Shape& shape, double mean = 0, double deviation = 1) {
  std::normal_distribution<double> normal(mean, deviation);
  Host<T> host(shape);
  for (T& v : host.values) v = static_cast<T>(normal(generator));
  return host;
}

template <class T>
Host<T> absolute(Host<T> host) {
  for (T& v : host.values) v = std::abs(v);
  return host;
}

template <class T>
inline constexpr double kEps = std::numeric_limits<T>::epsilon();

/// Calls f(backend) for every backend under test, those whose results must have equal bits one after another:
/// of the CPU every instruction set with one, two and three threads (cpu_backend_test.cpp), of CUDA the same
/// backend twice (cuda_backend_test.cpp). Their entries take host memory.
void for_each_backend(const std::function<void(const Backend&)>& f);
/// Whether they use the host's math library, and add up in the reference's order where that is sequential.
extern const bool kHostArithmetic;
/// The roundings, relative to the largest x, of a group's mean and of its difference from x.
extern const double kMeanRoundings;
/// The relative error with which products of f32 may round their two factors together: 0, or that of TF32.
double f32_factor_rounding();

template <class T>
bool same_bits(const Fenced<T>& a, const Fenced<T>& b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0);
}

/// Runs an entry on copies of `outputs`: by the reference, then by every backend under test.
/// Checks |got - expected| <= bound[output][element] and equal bits of the runs of one backend.
template <class T>
void check_entry(const std::vector<Host<T>>& outputs,
                 const std::function<void(const Backend&, const std::vector<Host<T>>&)>& run,
                 const std::function<std::vector<Host<T>>(const std::vector<Host<T>>&)>& bounds_of) {
  std::vector<Host<T>> expected = outputs;
  run(reference_backend(), expected);
  const std::vector<Host<T>> bounds = bounds_of(expected);
  std::vector<Host<T>> first;
  const Backend* first_backend = nullptr;
  for_each_backend([&](const Backend& backend) {
    std::vector<Host<T>> got = outputs;
    run(backend, got);
    if (first_backend != &backend) {
      first_backend = &backend;
      first = got;
    }
    for (size_t o = 0; o < got.size(); ++o) {
      CHECK(same_bits(got[o].values, first[o].values));
      double worst = 0;  // in units of the bound
      bool good = true;
      for (size_t i = 0; i < got[o].values.size(); ++i) {
        const double error = std::abs(double{got[o].values[i]} - double{expected[o].values[i]});
        good = good && error <= bounds[o].values[i];
        worst = std::max(worst, error / (bounds[o].values[i] + 1e-300));
      }
      CAPTURE(o);
      CAPTURE(worst);
      CHECK(good);
    }
  });
}

/// For linear entries: the same sums over absolute values, times the rounding of `length` additions.
template <class T>
std::function<std::vector<Host<T>>(const std::vector<Host<T>>&)> scaled_bounds(
    const std::vector<Host<T>>& outputs,
    const std::function<void(const Backend&, const std::vector<Host<T>>&)>& run_absolute, double length) {
  std::vector<Host<T>> bounds = outputs;
  for (Host<T>& b : bounds) b = absolute(b);
  run_absolute(reference_backend(), bounds);
  const double rounding = (length + 4) * kEps<T> + (std::is_same_v<T, float> ? f32_factor_rounding() : 0.0);
  for (Host<T>& b : bounds) {
    for (T& v : b.values) v = static_cast<T>(v * rounding + std::numeric_limits<T>::min());
  }
  return [bounds](const std::vector<Host<T>>&) { return bounds; };
}

}  // namespace halfstep::test
