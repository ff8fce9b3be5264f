// The computing entries of a Backend, as a list, their arguments as values, and the arrays among them: for
// tables that wrap every one of them.
#pragma once

#include <string_view>
#include <tuple>
#include <type_traits>
#include <utility>
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
/// An argument that views a list of the caller.
template <class Argument>
concept Listing = requires(Argument a) {
  a.list;
};
template <Listing Argument>
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
auto later(const Backend& backend, std::tuple<Kept<Arguments>...> arguments) {
  return [&backend, arguments = std::move(arguments)] {
    std::apply([&backend](const auto&... each) { (backend.*Entry)(each.get()...); }, arguments);
  };
}

/// What an entry does with an array.
enum class Use : uint8_t { read, write, update };

namespace detail {

/// Entries of other arguments have other types and cannot be compared.
template <auto Entry, auto Other>
inline constexpr bool is_entry = std::is_same_v<decltype(Entry), decltype(Other)>;

// The arrays of each kind of arguments, absent ones included; Entry tells the passes apart that share one.
template <auto Entry, class F>
void arrays_of(GemmArgs& a, F f) {
  f(a.a, Use::read), f(a.b, Use::read), f(a.bias, Use::read);
  f(a.c, a.beta != 0 ? Use::update : Use::write);
}
template <auto Entry, class F>
void arrays_of(Conv2dArgs& a, F f) {
  const Array* const result = Entry == &Backend::conv2d_forward         ? &a.y
                              : Entry == &Backend::conv2d_backward_data ? &a.x
                                                                        : &a.kernel;
  for (Array* array : {&a.x, &a.kernel, &a.bias, &a.y, &a.residual})
    f(*array, array == result ? Use::write : Use::read);
}
template <auto Entry, class F>
void arrays_of(GroupNormArgs& a, F f) {
  for (Array* array : {&a.x, &a.gain, &a.bias}) f(*array, Use::read);
  const Use use = is_entry<Entry, &Backend::group_norm> ? Use::write : Use::read;
  for (Array* array : {&a.y, &a.mean, &a.rstd}) f(*array, use);
}
template <auto Entry, class F>
void arrays_of(GroupNormBackwardArgs& a, F f) {
  arrays_of<Entry>(a.forward, f);
  f(a.dy, Use::read);
  for (Array* array : {&a.dx, &a.dgain, &a.dbias}) f(*array, Use::write);
}
template <auto Entry, class F>
void arrays_of(AttentionArgs& a, F f) {
  for (Array* array : {&a.q, &a.k, &a.v}) f(*array, Use::read);
  const Use use = is_entry<Entry, &Backend::attention> ? Use::write : Use::read;
  for (Array* array : {&a.out, &a.log_sum_exp}) f(*array, use);
}
template <auto Entry, class F>
void arrays_of(AttentionBackwardArgs& a, F f) {
  arrays_of<Entry>(a.forward, f);
  f(a.d_out, Use::read);
  for (Array* array : {&a.dq, &a.dk, &a.dv}) f(*array, Use::write);
}
template <auto Entry, class F>
void arrays_of(RandomArgs& a, F f) {
  f(a.out, Use::write);
}
template <auto Entry, class F>
void arrays_of(DropoutArgs& a, F f) {
  f(a.x, Use::read), f(a.row, Use::read), f(a.y, Use::write);
}
template <auto Entry, class F>
void arrays_of(OptimizerControlArgs& a, F f) {
  f(a.control, Use::update), f(a.sum_squares, Use::read);
}
template <auto Entry, class F>
void arrays_of(SumOfSquaresArgs& a, F f) {
  f(a.out, Use::write);
}
template <auto Entry, class F>
void arrays_of(AdamArgs& a, F f) {
  f(a.control, Use::read), f(a.learning_rate, Use::read);
}
template <auto Entry, class F>
void arrays_of(SgdArgs& a, F f) {
  f(a.control, Use::read), f(a.learning_rate, Use::read);
}
template <auto Entry, class F>
void arrays_of(MovingAverageArgs& a, F f) {
  f(a.weight, Use::read);
}
template <auto Entry, class F>
void arrays_of(MaxPool2dArgs& a, F f) {
  f(a.x, Use::read), f(a.y, Use::write), f(a.index, Use::write);
}
template <auto Entry, class F>
void arrays_of(UnaryArgs&, F) {}

// The arrays of one element of a list.
template <auto Entry, class F>
void arrays_of(Array& a, F f) {
  f(a, Use::read);
}
template <auto Entry, class F>
void arrays_of(AdamParameter& a, F f) {
  for (Array* array : {&a.param, &a.m, &a.v, &a.v_max}) f(*array, Use::update);
  f(a.grad, Use::read);
}
template <auto Entry, class F>
void arrays_of(SgdParameter& a, F f) {
  for (Array* array : {&a.param, &a.buffer}) f(*array, Use::update);
  f(a.grad, Use::read);
}
template <auto Entry, class F>
void arrays_of(AveragedArray& a, F f) {
  f(a.average, Use::update), f(a.source, Use::read);
}

}  // namespace detail

/// Calls f(Array&, Use) for every array among the arguments of an entry, absent ones included, but for those
/// of lists:
///   for_each_array<&Backend::gemm>(f, args);
/// Where arrays are arguments themselves, the first of them is the result.
template <auto Entry, class F, class... Args>
void for_each_array(F f, Args&... args) {
  Use next = Use::write;
  const auto visit = [&](auto& argument) {
    using T = std::remove_reference_t<decltype(argument)>;
    if constexpr (std::is_same_v<T, Array>)
      f(argument, std::exchange(next, Use::read));
    else if constexpr (std::is_class_v<T>)
      detail::arrays_of<Entry>(argument, f);
  };
  (visit(args), ...);
}

/// The same for the lists among the arguments of an entry, which are kept.
template <auto Entry, class F, class... Args>
void for_each_listed_array(F f, Kept<Args>&... kept) {
  const auto visit = [&]<class Argument>(Kept<Argument>& each) {
    if constexpr (Listing<Argument>)
      for (auto& item : each.list) detail::arrays_of<Entry>(item, f);
  };
  (visit(kept), ...);
}

/// The same for all arrays among the arguments of an entry, those of lists included.
template <auto Entry, class F, class... Args>
void for_each_kept_array(F f, std::tuple<Kept<Args>...>& arguments) {
  std::apply(
      [&](auto&... kept) {
        for_each_array<Entry>(f, kept.argument...);
        for_each_listed_array<Entry>(f, kept...);
      },
      arguments);
}

}  // namespace halfstep
