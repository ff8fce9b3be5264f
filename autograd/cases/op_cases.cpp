#include "autograd/cases/op_cases.h"

#include <cctype>

#include "autograd/ops.h"
#include "tensor/error.h"

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

std::string op_of(const OpCase& c) {
  size_t end = 0;
  while (end < c.name.size() && (std::isalnum(static_cast<unsigned char>(c.name[end])) || c.name[end] == '_'))
    ++end;
  return c.name.substr(0, end);
}

std::vector<Variable> make_inputs(const OpCase& c, TensorOptions options, bool requires_grad) {
  return make_inputs(c, c.inputs, options, requires_grad);
}

std::vector<Variable> make_inputs(const OpCase& c, const std::vector<Shape>& shapes, TensorOptions options,
                                  bool requires_grad, uint64_t seed) {
  std::vector<Variable> inputs;
  for (size_t i = 0; i < shapes.size(); ++i) {
    const Tensor u = random_uniform(shapes[i], {seed, i}, 0, {DType::f32, options.device});
    inputs.emplace_back(affine(u, c.high - c.low, c.low).to(options.dtype), requires_grad);
  }
  return inputs;
}

namespace {

constexpr int64_t kLargestInput = 20000;

std::vector<Shape> resized(const std::vector<Shape>& shapes, int64_t factor, int64_t plus) {
  std::vector<Shape> result = shapes;
  for (Shape& shape : result)
    for (int axis = 0; axis < shape.rank(); ++axis)
      if (shape[axis] > 1) shape[axis] = factor * shape[axis] + plus;
  return result;
}

/// Whether the function takes inputs of these shapes; whatever else goes wrong is for tests to find.
bool takes(const OpCase& c, const std::vector<Shape>& shapes) {
  int64_t elements = 0;
  for (const Shape& shape : shapes) elements += numel(shape);
  if (elements > kLargestInput) return false;
  NoGrad no_grad;
  try {
    return c.function(make_inputs(c, shapes, {DType::f32, &cpu_device()}, false)).numel() <= kLargestInput;
  } catch (const Error&) {
    return false;
  }
}

}  // namespace

std::vector<std::vector<Shape>> larger_inputs(const OpCase& c) {
  if (!c.larger.empty()) return c.larger;
  std::vector<std::vector<Shape>> found;
  for (const auto& shapes :
       {resized(c.inputs, 8, 1), resized(c.inputs, 8, -1), resized(c.inputs, 1, 8), resized(c.inputs, 3, 0)})
    if (shapes != c.inputs && takes(c, shapes)) found.push_back(shapes);
  return found;
}

std::string_view name_of(InputLayout layout) {
  switch (layout) {
    case InputLayout::contiguous:
      return "contiguous";
    case InputLayout::transposed:
      return "transposed";
    case InputLayout::sliced:
      return "sliced";
    case InputLayout::expanded:
      return "expanded";
    case InputLayout::flipped:
      return "flipped";
  }
  return "contiguous";
}

InputLayout layout_by_name(std::string_view name) {
  for (InputLayout layout : kInputLayouts)
    if (name == name_of(layout)) return layout;
  fail("layout", "expected contiguous, transposed, sliced, expanded or flipped, got '{}'", name);
}

Tensor with_layout(const Tensor& x, InputLayout layout) {
  switch (layout) {
    case InputLayout::contiguous:
      break;
    case InputLayout::transposed: {
      std::vector<int> reversed;
      for (int axis = x.rank() - 1; axis >= 0; --axis) reversed.push_back(axis);
      return x.permute(reversed).clone().permute(reversed);
    }
    case InputLayout::sliced: {
      Shape outer = x.shape();
      for (int axis = 0; axis < x.rank(); ++axis) outer[axis] += 3;
      Tensor window = Tensor::full(outer, 1e30, x.options());  // to be noticed wherever it leaks in
      for (int axis = 0; axis < x.rank(); ++axis) window = window.slice(axis, 1, 1 + x.shape()[axis]);
      window.copy_(x);
      return window;
    }
    case InputLayout::expanded:
      for (int axis = 0; axis < x.rank(); ++axis)
        if (x.shape()[axis] > 1) return x.slice(axis, 0, 1).expand(x.shape());
      break;
    case InputLayout::flipped: {
      std::vector<int> axes;
      for (int axis = 0; axis < x.rank(); ++axis) axes.push_back(axis);
      return x.flip(axes).clone().flip(axes);
    }
  }
  return x;
}

}  // namespace halfstep
