// Convolutions.
#include "autograd/cases/op_cases.h"
#include "autograd/ops.h"

namespace halfstep {

namespace {
using In = std::vector<Variable>;

OpCase conv_case(std::string name, Shape x, Shape kernel, Conv2dGeometry g, bool bias = true) {
  std::vector<Shape> inputs{x, kernel};
  if (bias) inputs.push_back({kernel[3]});
  return {"conv2d " + name,
          [g, bias](const In& in) { return conv2d(in[0], in[1], bias ? in[2] : Variable(), g); }, inputs};
}

OpCase transposed_case(std::string name, Shape x, Shape kernel, Conv2dGeometry g, int output_padding_h = 0,
                       int output_padding_w = 0, bool bias = true) {
  std::vector<Shape> inputs{x, kernel};
  if (bias) inputs.push_back({kernel[2] * g.groups});
  return {"conv_transpose2d " + name,
          [=](const In& in) {
            return conv_transpose2d(in[0], in[1], bias ? in[2] : Variable(), g, output_padding_h,
                                    output_padding_w);
          },
          inputs};
}
}  // namespace

std::vector<OpCase> conv2d_cases() {
  const auto with_residual = [](const In& in) {
    return conv2d(in[0], in[1], in[2], {1, 1, 1, 1, 1, 1, 2}, in[3]);
  };
  return {
      {"conv2d plus a residual", with_residual, {{2, 3, 4, 4}, {3, 3, 2, 6}, {6}, {2, 3, 4, 6}}},
      conv_case("3x3", {2, 5, 4, 3}, {3, 3, 3, 4}, {1, 1, 1, 1, 1, 1}),
      conv_case("1x1", {2, 3, 3, 4}, {1, 1, 4, 2}, {}),
      {"conv2d_backward_data 3x3",
       [](const In& in) {
         return conv2d_backward_data(in[0], in[1], 4, 5, {1, 1, 1, 1, 1, 1});
       },
       {{2, 4, 5, 3}, {3, 3, 2, 3}}},
      {"conv2d_backward_kernel 3x3",
       [](const In& in) {
         return conv2d_backward_kernel(in[0], in[1], 3, 3, {1, 1, 1, 1, 1, 1});
       },
       {{2, 4, 5, 2}, {2, 4, 5, 3}}},
      conv_case("3x3 stride 2, padded after", {1, 6, 6, 2}, {3, 3, 2, 3}, {2, 2, 0, 1, 0, 1}),
      conv_case("3x3 stride 2, odd size", {1, 5, 7, 2}, {3, 3, 2, 2}, {2, 2, 1, 1, 1, 1}, false),
      conv_case("2x3 stride 1x2, lopsided", {1, 4, 7, 1}, {2, 3, 1, 2}, {1, 2, 1, 0, 2, 1}),
      conv_case("one channel in and out", {1, 6, 5, 1}, {3, 3, 1, 1}, {1, 1, 1, 1, 1, 1}, false),
      conv_case("two groups", {2, 4, 5, 4}, {3, 3, 2, 6}, {1, 1, 1, 1, 1, 1, 2}),
      conv_case("depthwise, stride 2", {1, 5, 6, 3}, {3, 3, 1, 3}, {2, 2, 1, 1, 1, 1, 3}),
      conv_case("depthwise, two outputs per channel", {1, 4, 4, 2}, {2, 2, 1, 4}, {1, 1, 0, 1, 1, 0, 2},
                false),
      conv_case("dilation 2", {1, 7, 6, 2}, {3, 3, 2, 2}, {1, 1, 2, 2, 2, 2, 1, 2, 2}),
      conv_case("dilation 3x2, stride 2x3, two groups", {1, 9, 8, 4}, {3, 2, 2, 4},
                {2, 3, 1, 2, 0, 3, 2, 3, 2}),
      {"conv2d_backward_data, two groups",
       [](const In& in) {
         return conv2d_backward_data(in[0], in[1], 5, 4, {2, 1, 1, 1, 1, 1, 2});
       },
       {{1, 3, 4, 4}, {3, 3, 1, 4}}},
      {"conv2d_backward_kernel, dilated",
       [](const In& in) {
         return conv2d_backward_kernel(in[0], in[1], 2, 3, {1, 2, 1, 0, 1, 1, 1, 2, 1});
       },
       {{2, 5, 6, 2}, {2, 4, 3, 3}}},
      transposed_case("stride 2", {1, 3, 4, 3}, {3, 3, 2, 3}, {2, 2, 1, 1, 1, 1}, 1, 0),
      transposed_case("lopsided, two groups", {2, 3, 2, 4}, {2, 3, 3, 4}, {1, 3, 1, 0, 0, 2, 2}, 0, 2),
      transposed_case("dilated", {1, 3, 3, 2}, {3, 2, 1, 2}, {2, 1, 1, 1, 1, 0, 1, 2, 3}, 1, 0, false),
  };
}

}  // namespace halfstep
