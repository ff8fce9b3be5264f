// Reductions.
#include <limits>

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
      {"max all", [](const In& in) { return max(in[0]); }, {{2, 3, 4}}},
      {"max axes 0 2",
       [](const In& in) {
         return max(in[0], {0, 2});
       },
       {{2, 3, 4}}},
      {"min axis -1 keep", [](const In& in) { return min(in[0], {-1}, true); }, {{2, 3, 4}}},
      {"variance all", [](const In& in) { return variance(in[0]); }, {{3, 5}}},
      {"variance axes 1 2 biased",
       [](const In& in) {
         return variance(in[0], {1, 2}, true, 0);
       },
       {{2, 3, 4}}},
      {"standard_deviation axis 1", [](const In& in) { return standard_deviation(in[0], {1}); }, {{4, 3}}},
      {"norm 2 axis 1", [](const In& in) { return norm(in[0], {1}); }, {{3, 5}}},
      {"norm 1 all", [](const In& in) { return norm(in[0], {}, false, 1); }, {{3, 5}}, 0.1, 2},
      {"norm 3 axis 0 keep", [](const In& in) { return norm(in[0], {0}, true, 3); }, {{3, 5}}, -2, -0.1},
      {"norm infinity axis 1",
       [](const In& in) { return norm(in[0], {1}, false, std::numeric_limits<double>::infinity()); },
       {{3, 5}},
       0.1,
       2},
      {"logsumexp axis 1", [](const In& in) { return logsumexp(in[0], {1}); }, {{3, 5}}, -3, 3},
      {"logsumexp all keep", [](const In& in) { return logsumexp(in[0], {}, true); }, {{2, 3, 2}}, -3, 3},
      {"cumulative_sum axis 0", [](const In& in) { return cumulative_sum(in[0], 0); }, {{5, 3}}},
      {"cumulative_sum axis -1", [](const In& in) { return cumulative_sum(in[0], -1); }, {{2, 3, 7}}},
  };
}

}  // namespace halfstep
