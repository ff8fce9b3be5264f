#include "tests/mirrored_backend.h"

#include <algorithm>
#include <cstdint>
#include <tuple>
#include <vector>

#include "tensor/backend_entries.h"

namespace halfstep::test {
namespace {

const Backend* device = nullptr;

/// A piece of host memory and its copy on the device.
struct Span {
  uint8_t *begin, *end;
  uint8_t* block = nullptr;  ///< device memory; the copy starts begin % 64 bytes into it
  size_t bytes() const { return static_cast<size_t>(end - begin); }
  size_t padding() const { return reinterpret_cast<uintptr_t>(begin) % 64; }
};

Span span_of(const Array& a) {
  auto* data = static_cast<uint8_t*>(a.data);
  if (numel(a.shape) == 0) return {data, data};
  int64_t low = 0, high = 0;
  for (int i = 0; i < a.shape.rank(); ++i) (a.strides[i] < 0 ? low : high) += a.strides[i] * (a.shape[i] - 1);
  const auto size = static_cast<int64_t>(size_of(a.dtype));
  return {data + low * size, data + (high + 1) * size};
}

template <auto Entry>
struct Mirrored;
template <class... Args, void (*Backend::*Entry)(Args...)>
struct Mirrored<Entry> {
  static void call(Args... args) {
    std::vector<Span> spans;
    std::tuple<Kept<Args>...> kept{Kept<Args>(args)...};
    const auto add_span = [&](Array& a, Use) {
      if (!a.absent() && numel(a.shape) > 0) spans.push_back(span_of(a));
    };
    for_each_kept_array<Entry>(add_span, kept);
    std::sort(spans.begin(), spans.end(), [](const Span& a, const Span& b) { return a.begin < b.begin; });
    std::vector<Span> merged;
    for (const Span& s : spans) {
      if (!merged.empty() && s.begin < merged.back().end)
        merged.back().end = std::max(merged.back().end, s.end);
      else
        merged.push_back(s);
    }
    for (Span& s : merged) {
      s.block = static_cast<uint8_t*>(device->allocate(s.padding() + s.bytes()));
      device->upload(s.block + s.padding(), s.begin, s.bytes());
    }
    const auto redirect = [&](Array& a, Use) {
      if (a.absent() || numel(a.shape) == 0) return;
      auto* data = static_cast<uint8_t*>(a.data);
      const Span begin = span_of(a);
      for (const Span& s : merged)
        if (s.begin <= begin.begin && begin.begin < s.end) a.data = s.block + s.padding() + (data - s.begin);
    };
    for_each_kept_array<Entry>(redirect, kept);
    std::apply([](const auto&... each) { (device->*Entry)(each.get()...); }, kept);
    for (const Span& s : merged) {
      device->download(s.begin, s.block + s.padding(), s.bytes());
      device->release(s.block, s.padding() + s.bytes());
    }
  }
};

}  // namespace

const Backend& mirrored(const Backend& wanted) {
  device = &wanted;
  static const Backend table = [] {
    Backend b = reference_backend();
    b.name = "mirrored";
    b.computes_bf16 = device->computes_bf16;
    for_each_entry([&]<auto Entry>(std::string_view) { b.*Entry = Mirrored<Entry>::call; });
    return b;
  }();
  return table;
}

}  // namespace halfstep::test
