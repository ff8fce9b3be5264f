// The computing entries of a Backend, as a list: for tables that wrap every one of them.
#pragma once

#include <string_view>

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
  f.template operator()<&Backend::optimizer_control>("optimizer_control");
  f.template operator()<&Backend::adam>("adam");
  f.template operator()<&Backend::sgd>("sgd");
  f.template operator()<&Backend::max_pool2d>("max_pool2d");
}

}  // namespace halfstep
