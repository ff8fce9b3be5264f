// bf16 for a backend whose entries compute in f32: a table that wraps them.
#pragma once

#include <tuple>
#include <vector>

#include "tensor/backend_entries.h"
#include "tensor/device.h"

namespace halfstep {

namespace detail {

/// The bf16 arrays of one call, replaced by copies in f32 in the memory of `allocator`, which is that of
/// `backend`.
class F32Copies {
 public:
  F32Copies(const Backend& backend, Allocator& allocator) : backend_(backend), allocator_(allocator) {}
  ~F32Copies();
  F32Copies(const F32Copies&) = delete;
  F32Copies& operator=(const F32Copies&) = delete;

  /// Puts a copy in the place of `array`, with its elements where they are read; others than bf16 stay. Where
  /// `array` repeats its elements (stride 0), the copy does, too.
  void replace(Array& array, Use use);
  /// Rounds what the call has written to the arrays that were given.
  void write_back() const;

 private:
  struct Copy {
    Array given, f32;  ///< without repetitions
    Use use;
  };
  const Backend& backend_;
  Allocator& allocator_;
  std::vector<Copy> copies_;  ///< stays empty, and allocates nothing, where nothing is bf16
};

template <const Backend& (*Full)(), auto Entry>
struct ThroughF32;
template <const Backend& (*Full)(), class... Args, void (*Backend::*Entry)(Args...)>
struct ThroughF32<Full, Entry> {
  static void call(Args... args) {
    // Its memory is free again when the call returns: work on a device is done in the order of the calls. In
    // an arena it is never given back to the backend, for work that is recorded as a graph goes on using it.
    static Allocator& temporaries = *new Allocator(Full());
    static Allocator::Arena& arena = *new Allocator::Arena(temporaries);
    [[maybe_unused]] static const auto& kept_there = *new Allocator::Arena::Use(arena);
    F32Copies copies(Full(), temporaries);
    const auto replace = [&](Array& array, Use use) { copies.replace(array, use); };
    for_each_array<Entry>(replace, args...);
    if constexpr ((Listing<Args> || ...)) {
      // The caller's list stays as it is.
      std::tuple<Kept<Args>...> kept{Kept<Args>(args)...};
      std::apply(
          [&](auto&... each) {
            for_each_listed_array<Entry>(replace, each...), (Full().*Entry)(each.get()...);
          },
          kept);
    } else {
      (Full().*Entry)(args...);
    }
    copies.write_back();
  }
};

}  // namespace detail

/// The table Full() with entries that take bf16 as well, as tensor/backend.h defines it: they copy what is
/// bf16 to f32, call the entry of Full(), and round what it writes. fill and copy, which must know bf16
/// themselves, stay as they are. The copies are kept in an allocator of the table's own, so they recycle
/// their memory and do not count as a device's tensors. A backend with kernels for bf16 replaces entries
/// afterwards.
template <const Backend& (*Full)()>
Backend with_bf16() {
  Backend table = Full();
  for_each_entry([&]<auto Entry>(std::string_view) { table.*Entry = detail::ThroughF32<Full, Entry>::call; });
  table.fill = Full().fill;
  table.copy = Full().copy;
  table.computes_bf16 = true;
  return table;
}

}  // namespace halfstep
