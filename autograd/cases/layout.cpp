// Changes of layout.
#include "autograd/cases/op_cases.h"
#include "autograd/ops.h"

namespace halfstep {

namespace {
using In = std::vector<Variable>;

}  // namespace

std::vector<OpCase> layout_cases() {
  return {
      {"reshape",
       [](const In& in) {
         return reshape(in[0], {4, -1});
       },
       {{2, 6}}},
      {"transpose then reshape",
       [](const In& in) { return reshape(transpose(in[0], 0, 1), {12}); },
       {{3, 4}}},
      {"permute",
       [](const In& in) {
         return permute(in[0], {2, 0, 1});
       },
       {{2, 3, 4}}},
      {"expand",
       [](const In& in) {
         return expand(in[0], {4, 3, 2});
       },
       {{3, 1}}},
      {"contiguous", [](const In& in) { return contiguous(transpose(in[0], 0, 1)) * 2.0; }, {{3, 4}}},
      {"sum_to",
       [](const In& in) {
         return sum_to(in[0], {3, 1});
       },
       {{4, 3, 2}}},
      {"slice", [](const In& in) { return slice(in[0], 1, -3, -1); }, {{2, 5, 2}}},
      {"concat axis -1",
       [](const In& in) {
         return concat({in[0], in[1], in[0]}, -1);
       },
       {{2, 3}, {2, 1}}},
      {"concat axis 0",
       [](const In& in) {
         return concat({in[0], in[1]}, 0);
       },
       {{2, 3}, {4, 3}}},
      // With f32 inputs a conversion each way; with f64 ones none.
      {"to f64 and back",
       [](const In& in) { return to(square(to(in[0], DType::f64)), in[0].dtype()); },
       {{3, 4}}},
      {"slice overlapping",
       [](const In& in) { return multiply(slice(in[0], 0, 0, 4), slice(in[0], 0, 2, 6)); },
       {{6, 2}}},
      {"slice with step", [](const In& in) { return slice(in[0], 0, 1, 7, 3); }, {{8, 2}}},
      {"flip",
       [](const In& in) {
         return flip(in[0], {0, -1});
       },
       {{3, 2, 4}}},
      {"flip then multiply", [](const In& in) { return multiply(flip(in[0], {1}), in[0]); }, {{3, 4}}},
      {"squeeze", [](const In& in) { return squeeze(in[0], 1); }, {{3, 1, 2}}},
      {"unsqueeze and squeeze", [](const In& in) { return squeeze(unsqueeze(in[0], 1), -1); }, {{3, 1}}},
      {"stack axis 0",
       [](const In& in) {
         return stack({in[0], in[1]}, 0);
       },
       {{2, 3}, {2, 3}}},
      {"stack axis -1",
       [](const In& in) {
         return stack({in[0], in[1], in[0]}, -1);
       },
       {{2, 3}, {2, 3}}},
      {"split",
       [](const In& in) {
         const std::vector<Variable> parts = split(in[0], {2, 3, 1}, 1);
         return multiply(parts[0], parts[2]) + sum(parts[1]);
       },
       {{2, 6}}},
      {"pad",
       [](const In& in) {
         return pad(in[0], {1, 0, 2}, {0, 3, 1}, 0.5);
       },
       {{2, 3, 2}}},
  };
}

}  // namespace halfstep
