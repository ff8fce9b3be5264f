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
}  // namespace

std::vector<OpCase> conv2d_cases() {
  return {
      conv_case("3x3", {2, 5, 4, 3}, {3, 3, 3, 4}, {1, 1, 1, 1, 1, 1}),
      conv_case("1x1", {2, 3, 3, 4}, {1, 1, 4, 2}, {}),
      conv_case("3x3 stride 2, padded after", {1, 6, 6, 2}, {3, 3, 2, 3}, {2, 2, 0, 1, 0, 1}),
      conv_case("3x3 stride 2, odd size", {1, 5, 7, 2}, {3, 3, 2, 2}, {2, 2, 1, 1, 1, 1}, false),
      conv_case("2x3 stride 1x2, lopsided", {1, 4, 7, 1}, {2, 3, 1, 2}, {1, 2, 1, 0, 2, 1}),
      conv_case("one channel in and out", {1, 6, 5, 1}, {3, 3, 1, 1}, {1, 1, 1, 1, 1, 1}, false),
  };
}

}  // namespace halfstep
