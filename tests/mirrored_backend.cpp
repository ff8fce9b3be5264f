#include "tests/mirrored_backend.h"
#include "tensor/backend_entries.h"

#include <algorithm>
#include <cstdint>
#include <tuple>
#include <vector>

namespace halfstep::test {
namespace {

const Backend* device = nullptr;

// The arrays of each kind of arguments.
template <class F>
void for_each_array(Array& a, F f) {
  f(a);
}
template <class F>
void for_each_array(GemmArgs& a, F f) {
  for (Array* array : {&a.a, &a.b, &a.c, &a.bias}) f(*array);
}
template <class F>
void for_each_array(Conv2dArgs& a, F f) {
  for (Array* array : {&a.x, &a.kernel, &a.bias, &a.y}) f(*array);
}
template <class F>
void for_each_array(GroupNormArgs& a, F f) {
  for (Array* array : {&a.x, &a.gain, &a.bias, &a.y, &a.mean, &a.rstd}) f(*array);
}
template <class F>
void for_each_array(GroupNormBackwardArgs& a, F f) {
  for_each_array(a.forward, f);
  for (Array* array : {&a.dy, &a.dx, &a.dgain, &a.dbias}) f(*array);
}
template <class F>
void for_each_array(AttentionArgs& a, F f) {
  for (Array* array : {&a.q, &a.k, &a.v, &a.out, &a.log_sum_exp}) f(*array);
}
template <class F>
void for_each_array(AttentionBackwardArgs& a, F f) {
  for_each_array(a.forward, f);
  for (Array* array : {&a.d_out, &a.dq, &a.dk, &a.dv}) f(*array);
}
template <class F>
void for_each_array(RandomArgs& a, F f) {
  f(a.out);
}
template <class F>
void for_each_array(DropoutArgs& a, F f) {
  f(a.x), f(a.y);
}
template <class F>
void for_each_array(OptimizerControlArgs& a, F f) {
  f(a.control), f(a.sum_squares);
}
template <class F>
void for_each_array(SumOfSquaresArgs& a, F f) {
  f(a.out);
}
template <class F>
void for_each_array(AdamArgs& a, F f) {
  f(a.control), f(a.learning_rate);
}
template <class F>
void for_each_array(AdamParameter& a, F f) {
  for (Array* array : {&a.param, &a.grad, &a.m, &a.v, &a.v_max}) f(*array);
}
template <class F>
void for_each_array(SgdArgs& a, F f) {
  f(a.control), f(a.learning_rate);
}
template <class F>
void for_each_array(SgdParameter& a, F f) {
  for (Array* array : {&a.param, &a.grad, &a.buffer}) f(*array);
}
template <class F>
void for_each_array(MovingAverageArgs& a, F f) {
  f(a.weight);
}
template <class F>
void for_each_array(AveragedArray& a, F f) {
  f(a.average), f(a.source);
}
template <class F>
void for_each_array(MaxPool2dArgs& a, F f) {
  for (Array* array : {&a.x, &a.y, &a.index}) f(*array);
}
template <class Plain, class F>
void for_each_array(Plain&, F) {}  // numbers and operations

/// Those of an argument and of its list.
template <class Argument, class F>
void for_each_array_of(Kept<Argument>& kept, F f) {
  for_each_array(kept.argument, f);
  if constexpr (requires { kept.list; })
    for (auto& item : kept.list) for_each_array(item, f);
}

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
    const auto all_arrays = [&](auto f) {
      std::apply([&](auto&... each) { (for_each_array_of(each, f), ...); }, kept);
    };
    all_arrays([&](Array& a) {
      if (!a.absent() && numel(a.shape) > 0) spans.push_back(span_of(a));
    });
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
    all_arrays([&](Array& a) {
      if (a.absent() || numel(a.shape) == 0) return;
      auto* data = static_cast<uint8_t*>(a.data);
      const Span begin = span_of(a);
      for (const Span& s : merged)
        if (s.begin <= begin.begin && begin.begin < s.end) a.data = s.block + s.padding() + (data - s.begin);
    });
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
    for_each_entry([&]<auto Entry>(std::string_view) { b.*Entry = Mirrored<Entry>::call; });
    return b;
  }();
  return table;
}

}  // namespace halfstep::test
