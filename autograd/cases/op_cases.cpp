#include "autograd/cases/op_cases.h"

#include "autograd/ops.h"

namespace halfstep {

// One family per file of this folder.
std::vector<OpCase> elementwise_cases();
std::vector<OpCase> reduce_cases();
std::vector<OpCase> layout_cases();
std::vector<OpCase> linear_cases();
std::vector<OpCase> conv2d_cases();
std::vector<OpCase> image_cases();
std::vector<OpCase> norm_cases();
std::vector<OpCase> indexing_cases();

const std::vector<OpCase>& op_cases() {
  static const std::vector<OpCase> all = [] {
    std::vector<OpCase> joined;
    for (const auto& family : {elementwise_cases(), reduce_cases(), layout_cases(), linear_cases(),
                               conv2d_cases(), image_cases(), norm_cases(), indexing_cases()})
      joined.insert(joined.end(), family.begin(), family.end());
    return joined;
  }();
  return all;
}

std::vector<Variable> make_inputs(const OpCase& c, TensorOptions options, bool requires_grad) {
  std::vector<Variable> inputs;
  for (size_t i = 0; i < c.inputs.size(); ++i) {
    const Tensor u = random_uniform(c.inputs[i], {42, i}, 0, {DType::f32, options.device});
    inputs.emplace_back(affine(u, c.high - c.low, c.low).to(options.dtype), requires_grad);
  }
  return inputs;
}

}  // namespace halfstep
