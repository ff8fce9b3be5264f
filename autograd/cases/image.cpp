// Resampling of images.
#include "autograd/cases/op_cases.h"
#include "autograd/ops.h"

namespace halfstep {

namespace {
using In = std::vector<Variable>;

}  // namespace

std::vector<OpCase> image_cases() {
  return {
      {"upsample_nearest", [](const In& in) { return upsample_nearest(in[0], 2); }, {{2, 3, 2, 3}}},
      {"average_pool", [](const In& in) { return average_pool(in[0], 2); }, {{2, 4, 6, 3}}},
      {"average_pool odd", [](const In& in) { return average_pool(in[0], 2); }, {{1, 5, 3, 2}}},
      {"max_pool2d 2x2, stride 2",
       [](const In& in) {
         return max_pool2d(in[0], 2, 2, {2, 2});
       },
       {{2, 4, 6, 3}}},
      {"max_pool2d 3x2, overlapping, padded, dilated",
       [](const In& in) {
         return max_pool2d(in[0], 3, 2, {2, 1, 1, 1, 1, 0, 1, 1, 2});
       },
       {{1, 6, 5, 2}}},
      {"average_pool2d 3x2, overlapping, padded, dilated",
       [](const In& in) {
         return average_pool2d(in[0], 3, 2, {2, 1, 1, 1, 0, 1, 1, 1, 2});
       },
       {{1, 6, 5, 2}}},
      {"space_to_depth", [](const In& in) { return space_to_depth(in[0], 2); }, {{2, 4, 6, 3}}},
      {"depth_to_space", [](const In& in) { return depth_to_space(in[0], 2); }, {{2, 2, 3, 8}}},
  };
}

}  // namespace halfstep
