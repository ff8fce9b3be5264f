// The computing entries of a Backend, as a list, and their arguments as values: for tables that wrap every
// one of them.
#pragma once

#include <string_view>
#include <tuple>
#include <type_traits>
#include <vector>

#include "tensor/backend.h"

namespace halfstep {

/// Calls f.operator()<&Backend::fill>("fill") and so on for every entry but those of memory:
///   for_each_entry([&]<auto Entry>(std::string_view) { table.*Entry = Wrapper<Entry>::call; });
template <class F>
void for_each_entry(F f) {
  f.template operator()<&Backend::fill>("fill");
  f.template operator()<&Backend::copy>("copy");
  f.template operator()<&Backend::unary>("unary");
  f.template operator()<&Backend::unary_chain>("unary_chain");
  f.template operator()<&Backend::binary>("binary");
  f.template operator()<&Backend::where>("where");
  f.template operator()<&Backend::reduce>("reduce");
  f.template operator()<&Backend::cumulative_sum>("cumulative_sum");
  f.template operator()<&Backend::argsort>("argsort");
  f.template operator()<&Backend::gather>("gather");
  f.template operator()<&Backend::scatter_add>("scatter_add");
  f.template operator()<&Backend::gemm>("gemm");
  f.template operator()<&Backend::conv2d_forward>("conv2d_forward");
  f.template operator()<&Backend::conv2d_backward_data>("conv2d_backward_data");
  f.template operator()<&Backend::conv2d_backward_kernel>("conv2d_backward_kernel");
  f.template operator()<&Backend::softmax>("softmax");
  f.template operator()<&Backend::softmax_backward>("softmax_backward");
  f.template operator()<&Backend::attention>("attention");
  f.template operator()<&Backend::attention_backward>("attention_backward");
  f.template operator()<&Backend::group_norm>("group_norm");
  f.template operator()<&Backend::group_norm_backward>("group_norm_backward");
  f.template operator()<&Backend::random>("random");
  f.template operator()<&Backend::dropout>("dropout");
  f.template operator()<&Backend::sum_of_squares>("sum_of_squares");
  f.template operator()<&Backend::optimizer_control>("optimizer_control");
  f.template operator()<&Backend::adam>("adam");
  f.template operator()<&Backend::sgd>("sgd");
  f.template operator()<&Backend::moving_average>("moving_average");
  f.template operator()<&Backend::max_pool2d>("max_pool2d");
}

/// One argument of an entry, to be kept after the call: with a copy of the list that it views, if it has one.
template <class Argument>
struct Kept {
  explicit Kept(const Argument& a) : argument(a) {}
  Argument get() const { return argument; }

  Argument argument;
};
template <class Argument>
requires requires(Argument a) { a.list; }
struct Kept<Argument> {
  using Item = std::remove_const_t<typename decltype(Argument::list)::element_type>;

  explicit Kept(const Argument& a) : argument(a), list(a.list.begin(), a.list.end()) {}
  /// Valid as long as this object.
  Argument get() const {
    Argument with_list = argument;
    with_list.list = list;
    return with_list;
  }

  Argument argument;
  std::vector<Item> list;
};

/// The call backend.*Entry(arguments...), to be made later.
template <auto Entry, class... Arguments>
auto later(const Backend& backend, const Arguments&... arguments) {
  return [&backend, kept = std::tuple{Kept<Arguments>(arguments)...}] {
    std::apply([&backend](const auto&... each) { (backend.*Entry)(each.get()...); }, kept);
  };
}

}  // namespace halfstep
