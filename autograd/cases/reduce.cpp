// Reductions.
#include "autograd/cases/op_cases.h"
#include "autograd/ops.h"

namespace halfstep {

namespace {
using In = std::vector<Variable>;

}  // namespace

std::vector<OpCase> reduce_cases() {
  return {
      {"sum all", [](const In& in) { return sum(in[0]); }, {{2, 3, 4}}},
      {"sum axes 0 2",
       [](const In& in) {
         return sum(in[0], {0, 2});
       },
       {{2, 3, 4}}},
      {"sum axis -1 keep", [](const In& in) { return sum(in[0], {-1}, true); }, {{2, 3, 4}}},
      {"mean axes 1 2 3",
       [](const In& in) {
         return mean(in[0], {1, 2, 3});
       },
       {{2, 3, 4, 5}}},
      {"mse per example",
       [](const In& in) {
         return mse(in[0], in[1], {1, 2});
       },
       {{3, 4, 2}, {3, 4, 2}}},
  };
}

}  // namespace halfstep
