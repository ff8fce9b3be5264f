// Single PyTorch operations and small compositions of them: result, and the gradients of sum(out * R).
//
// PyTorch's images are [B, C, H, W] and its kernels [O, I, KH, KW]. They are permuted on the way into an
// operation and back (nhwc, nchw, hwio): differentiable steps, so gradients arrive in PyTorch's order.
#include "tests/golden_runner/torch_ops.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <map>

#include "autograd/ops.h"
#include "tests/golden_runner/kinds.h"
#include "tests/golden_runner/torch_call.h"

namespace halfstep::test {
namespace {

Variable nhwc(const Variable& x) { return permute(x, {0, 2, 3, 1}); }
Variable nchw(const Variable& x) { return permute(x, {0, 3, 1, 2}); }
Variable hwio(const Variable& kernel) { return permute(kernel, {2, 3, 1, 0}); }

/// x [B, C, ...] with its channels last, and back.
Variable channels_last(const Variable& x) {
  std::vector<int> order = {0};
  for (int axis = 2; axis < x.rank(); ++axis) order.push_back(axis);
  order.push_back(1);
  return permute(x, order);
}
Variable channels_second(const Variable& x) {
  std::vector<int> order = {0, x.rank() - 1};
  for (int axis = 1; axis + 1 < x.rank(); ++axis) order.push_back(axis);
  return permute(x, order);
}

/// One case: its inputs by number, its parameters by name.
class OpCase {
 public:
  explicit OpCase(GoldenRun& run)
      : run_(run),
        call_(parse_torch_call(reference_text(run.golden))),
        config_(run.golden.facts.value("config", nlohmann::json::object())),
        names_(run.golden.facts.value("inputs", std::vector<std::string>())) {}

  const TorchCall& call() const { return call_; }
  TensorOptions options() const { return run_.options(); }

  /// Inputs in the order of the reference's signature.
  size_t inputs() const { return names_.size(); }
  Variable input(size_t i) {
    require(i < names_.size(), "golden", "expected at least {} entries in inputs, got {}", i + 1,
            names_.size());
    return input(names_[i]);
  }
  /// Undefined where there is none: an absent bias.
  Variable optional_input(size_t i) { return i < names_.size() ? input(i) : Variable(); }
  Variable input(const std::string& name) {
    auto found = leaves_.find(name);
    if (found == leaves_.end()) found = leaves_.emplace(name, run_.leaf(name)).first;
    return found->second;
  }
  /// The i-th of the inputs that have a gradient in the file.
  Variable differentiable(size_t i) {
    for (const std::string& name : names_)
      if (has("grad." + name + ".f64") && i-- == 0) return input(name);
    fail("golden", "expected one more input with a gradient");
  }
  bool has(const std::string& name) const { return run_.golden.has(name); }
  /// The one tensor that is no result and has no gradient: indices, classes, targets.
  Tensor companion() {
    std::vector<std::string> found;
    for (const auto& entry : run_.golden.tensors()) {
      const std::string& name = entry.first;
      if (name == "R" || name.starts_with("out.") || name.starts_with("grad.") ||
          has("grad." + name + ".f64"))
        continue;
      found.push_back(name);
    }
    require(found.size() == 1, "golden", "expected one tensor without gradient beside the inputs, got {}",
            found.size());
    return run_.golden.raw(found[0]);
  }
  Tensor integers() { return companion().to(DType::i64).to(*options().device); }

  /// A parameter: from config, else the keyword or the position in the reference; null if nowhere.
  nlohmann::json parameter(const std::string& name, size_t position = 1000) const {
    if (config_.contains(name)) return config_.at(name);
    if (const auto found = call_.keywords.find(name); found != call_.keywords.end()) return found->second;
    if (position < call_.positional.size()) return call_.positional[position];
    return nullptr;
  }
  nlohmann::json parameter_or(const std::string& name, nlohmann::json otherwise,
                              size_t position = 1000) const {
    const nlohmann::json value = parameter(name, position);
    return value.is_null() ? otherwise : value;
  }
  nlohmann::json needed(const std::string& name, size_t position = 1000) const {
    const nlohmann::json value = parameter(name, position);
    require(!value.is_null(), "golden", "expected '{}' in config or in the reference", name);
    return value;
  }
  int integer(const std::string& name, size_t position = 1000) const {
    return needed(name, position).get<int>();
  }
  /// {height, width} of a number for both or of a list.
  std::pair<int, int> pair(const std::string& name, const nlohmann::json& value) const {
    if (value.is_number()) return {value.get<int>(), value.get<int>()};
    require(value.is_array() && value.size() == 2, "golden", "expected {} as a number or two, got {}", name,
            value.dump());
    return {value[0].get<int>(), value[1].get<int>()};
  }
  /// The axes of a reduction: none (all), one or several.
  std::vector<int> axes(size_t position = 1) const {
    const nlohmann::json dim = parameter("dim", position);
    if (dim.is_null()) return {};
    if (dim.is_number()) return {dim.get<int>()};
    return dim.get<std::vector<int>>();
  }
  bool flag(const std::string& name, bool otherwise) const {
    return parameter_or(name, otherwise).get<bool>();
  }
  /// For what the runner has no equivalent of: better an error than a wrong number.
  void only(const std::string& name, const nlohmann::json& supported) const {
    const nlohmann::json value = parameter_or(name, supported);
    require(value == supported, "golden", "{} of {} is not supported, only {}", name, value.dump(),
            supported.dump());
  }

 private:
  GoldenRun& run_;
  TorchCall call_;
  nlohmann::json config_;
  std::vector<std::string> names_;
  std::map<std::string, Variable> leaves_;
};

// --- elementwise -------------------------------------------------------------------------------------------

using Elementwise = Variable (*)(const Variable&);

const std::map<std::string, Elementwise>& elementwise() {
  static const std::map<std::string, Elementwise> functions = {
      {"exp", exp},
      {"log", log},
      {"sqrt", sqrt},
      {"sin", sin},
      {"cos", cos},
      {"tanh", tanh},
      {"sigmoid", sigmoid},
      {"silu", silu},
      {"swish", silu},
      {"relu", relu},
      {"erf", erf},
      {"abs", abs},
      {"square", square},
      {"reciprocal", reciprocal},
      {"neg", [](const Variable& x) { return -x; }},
      {"logsigmoid", [](const Variable& x) { return -softplus(-x); }},
      {"mish", [](const Variable& x) { return x * tanh(softplus(x)); }},
      {"rsqrt", [](const Variable& x) { return pow(x, -0.5); }}};
  return functions;
}

Variable run_gelu(OpCase& c) {
  const std::string approximate = c.parameter_or("approximate", "none").get<std::string>();
  require(approximate == "none" || approximate == "tanh", "golden", "gelu approximate='{}' is unknown",
          approximate);
  return approximate == "tanh" ? gelu_tanh(c.input(0)) : gelu(c.input(0));
}
Variable run_leaky_relu(OpCase& c) {
  return leaky_relu(c.input(0), c.parameter_or("negative_slope", 0.01, 1).get<double>());
}
/// log(1 + e^(beta x)) / beta; PyTorch's threshold only changes the rounding.
Variable run_softplus(OpCase& c) {
  const double beta = c.parameter_or("beta", 1.0, 1).get<double>();
  return softplus(c.input(0) * beta) / beta;
}
Variable run_clamp(OpCase& c) {
  constexpr double kNone = std::numeric_limits<double>::infinity();
  return clamp(c.input(0), c.parameter_or("min", -kNone, 1).get<double>(),
               c.parameter_or("max", kNone, 2).get<double>());
}
Variable run_pow(OpCase& c) { return pow(c.input(0), c.needed("exponent", 1).get<double>()); }

// --- arithmetic with broadcasting --------------------------------------------------------------------------

/// The second operand: a tensor, or a number of the reference.
Variable second(OpCase& c) {
  if (c.inputs() > 1) return c.input(1);
  return Variable(Tensor::scalar(c.needed("other", 1).get<double>(), c.options()));
}
Variable run_add(OpCase& c) { return c.input(0) + c.parameter_or("alpha", 1.0).get<double>() * second(c); }
Variable run_sub(OpCase& c) { return c.input(0) - c.parameter_or("alpha", 1.0).get<double>() * second(c); }
Variable run_mul(OpCase& c) { return c.input(0) * second(c); }
Variable run_div(OpCase& c) { return c.input(0) / second(c); }
Variable run_maximum(OpCase& c) { return maximum(c.input(0), second(c)); }
Variable run_minimum(OpCase& c) { return minimum(c.input(0), second(c)); }

// --- reductions and losses ---------------------------------------------------------------------------------

Variable run_sum(OpCase& c) { return sum(c.input(0), c.axes(), c.flag("keepdim", false)); }
Variable run_mean(OpCase& c) { return mean(c.input(0), c.axes(), c.flag("keepdim", false)); }

/// torch.max and torch.min of two tensors are elementwise.
Variable run_amax(OpCase& c) {
  if (c.inputs() == 2) return run_maximum(c);
  return max(c.input(0), c.axes(), c.flag("keepdim", false));
}
Variable run_amin(OpCase& c) {
  if (c.inputs() == 2) return run_minimum(c);
  return min(c.input(0), c.axes(), c.flag("keepdim", false));
}
/// 1 unless the case says otherwise: `correction`, or `unbiased` of old.
int correction(const OpCase& c) {
  const nlohmann::json unbiased = c.parameter("unbiased");
  return unbiased.is_boolean() ? unbiased.get<bool>() : c.parameter_or("correction", 1).get<int>();
}
Variable run_var(OpCase& c) {
  return variance(c.input(0), c.axes(), c.flag("keepdim", false), correction(c));
}
Variable run_std(OpCase& c) {
  return standard_deviation(c.input(0), c.axes(), c.flag("keepdim", false), correction(c));
}
/// torch.norm(x, p, dim) and torch.linalg.vector_norm(x, ord, dim).
Variable run_norm(OpCase& c) {
  const nlohmann::json order = c.parameter_or("p", c.parameter_or("ord", 2.0, 1), 1);
  const double p = order.is_number() ? order.get<double>() : std::numeric_limits<double>::infinity();
  require(order.is_number() || order == "inf", "golden", "norm of order {} is not supported", order.dump());
  return norm(c.input(0), c.axes(2), c.flag("keepdim", false), p);
}
Variable run_logsumexp(OpCase& c) { return logsumexp(c.input(0), c.axes(), c.flag("keepdim", false)); }
Variable run_cumsum(OpCase& c) { return cumulative_sum(c.input(0), c.integer("dim", 1)); }

Reduction reduction(const OpCase& c) {
  const std::string name = c.parameter_or("reduction", "mean").get<std::string>();
  if (name == "none") return Reduction::none;
  require(name == "mean" || name == "sum", "golden", "reduction='{}' is unknown", name);
  return name == "sum" ? Reduction::sum : Reduction::mean;
}
Variable reduced(const OpCase& c, const Variable& losses) {
  const Reduction how = reduction(c);
  return how == Reduction::none ? losses : how == Reduction::sum ? sum(losses) : mean(losses);
}
Variable run_mse_loss(OpCase& c) {
  if (reduction(c) == Reduction::mean) return mse(c.input(0), c.input(1));
  return reduced(c, square(c.input(0) - c.input(1)));
}
Variable run_l1_loss(OpCase& c) { return reduced(c, abs(c.input(0) - c.input(1))); }
/// Classes are on axis 1 in PyTorch, on the last here.
Variable run_cross_entropy(OpCase& c) {
  c.only("label_smoothing", 0.0);
  return cross_entropy(channels_last(c.differentiable(0)), c.integers(), reduction(c));
}
Variable run_bce_with_logits(OpCase& c) {
  const Variable x = c.differentiable(0);
  const Variable target(c.companion().to(c.options().dtype).to(*c.options().device));
  return reduced(c, softplus(x) - x * target);
}
/// PyTorch's nll_loss: minus the log-probability of the class.
Variable run_nll_loss(OpCase& c) {
  const Variable x = channels_last(c.differentiable(0));
  Shape one_column = x.shape();
  one_column[one_column.rank() - 1] = 1;
  const Variable picked = gather(x, -1, c.integers().reshape(one_column));
  return reduced(c, -squeeze(picked, -1));
}

// --- layout ------------------------------------------------------------------------------------------------

/// `order` names the parts where one of them is used twice.
std::vector<Variable> parts_of(OpCase& c) {
  std::vector<Variable> parts;
  const nlohmann::json order = c.parameter("order");
  if (order.is_array())
    for (const auto& name : order) parts.push_back(c.input(name.get<std::string>()));
  else
    for (size_t i = 0; i < c.inputs(); ++i) parts.push_back(c.input(i));
  return parts;
}
Variable run_cat(OpCase& c) { return concat(parts_of(c), c.parameter_or("dim", 0, 1).get<int>()); }
Variable run_stack(OpCase& c) { return stack(parts_of(c), c.parameter_or("dim", 0, 1).get<int>()); }

/// Pairs {before, after} of the last axis, the one before it, ...; negative ones cut.
Variable padded(const Variable& x, const std::vector<int64_t>& pairs, double value) {
  require(pairs.size() % 2 == 0 && static_cast<int>(pairs.size() / 2) <= x.rank(), "golden",
          "expected two numbers of padding for up to {} axes, got {}", x.rank(), pairs.size());
  Variable result = x;
  std::vector<int64_t> before(static_cast<size_t>(x.rank())), after = before;
  for (size_t k = 0; k < pairs.size() / 2; ++k) {
    const int axis = x.rank() - 1 - static_cast<int>(k);
    const int64_t first = pairs[2 * k], last = pairs[2 * k + 1];
    if (first < 0 || last < 0)
      result =
          slice(result, axis, std::max<int64_t>(-first, 0), result.size(axis) - std::max<int64_t>(-last, 0));
    before[static_cast<size_t>(axis)] = std::max<int64_t>(first, 0);
    after[static_cast<size_t>(axis)] = std::max<int64_t>(last, 0);
  }
  return pad(result, before, after, value);
}
Variable run_pad(OpCase& c) {
  c.only("mode", "constant");
  return padded(c.input(0), c.needed("pad", 1).get<std::vector<int64_t>>(),
                c.parameter_or("value", 0.0, 3).get<double>());
}

Variable run_reshape(OpCase& c) {
  return reshape(c.input(0), Shape(c.needed("out_shape", 1).get<std::vector<int64_t>>()));
}
Variable run_flip(OpCase& c) { return flip(c.input(0), c.needed("dims", 1).get<std::vector<int>>()); }
Variable run_unsqueeze(OpCase& c) { return unsqueeze(c.input(0), c.integer("dim", 1)); }
Variable run_squeeze(OpCase& c) { return squeeze(c.input(0), c.integer("dim", 1)); }
Variable run_narrow(OpCase& c) {
  const int start = c.integer("start", 2);
  return slice(c.input(0), c.integer("dim", 1), start, start + c.integer("length", 3));
}
Variable run_permute(OpCase& c) { return permute(c.input(0), c.needed("dims", 1).get<std::vector<int>>()); }
Variable run_transpose(OpCase& c) {
  return transpose(c.input(0), c.integer("dim0", 1), c.integer("dim1", 2));
}

// --- linear algebra ----------------------------------------------------------------------------------------

/// A vector is a row on the left and a column on the right, and that axis goes away again.
Variable run_matmul(OpCase& c) {
  Variable a = c.input(0), b = c.input(1);
  const bool row = a.rank() == 1, column = b.rank() == 1;
  if (row) a = reshape(a, {1, a.size(0)});
  if (column) b = reshape(b, {b.size(0), 1});
  const Variable product = matmul(a, b);
  Shape shape = product.shape();
  if (column) shape.erase(shape.rank() - 1);
  if (row) shape.erase(shape.rank() - (column ? 1 : 2));
  return reshape(product, shape);
}
Variable run_linear(OpCase& c) {
  return linear(c.input(0), transpose(c.input(1), 0, 1), c.optional_input(2));
}

/// Stride, dilation and zero padding of a convolution, for a kernel of the given size.
Conv2dGeometry geometry_of(const OpCase& c, int64_t kernel_h, int64_t kernel_w, size_t stride_position) {
  const auto [stride_h, stride_w] = c.pair("stride", c.parameter_or("stride", 1, stride_position));
  const auto [dilation_h, dilation_w] = c.pair("dilation", c.parameter_or("dilation", 1));
  Conv2dGeometry geometry;
  geometry.stride_h = stride_h;
  geometry.stride_w = stride_w;
  geometry.dilation_h = dilation_h;
  geometry.dilation_w = dilation_w;
  geometry.groups = c.parameter_or("groups", 1).get<int>();
  const nlohmann::json padding = c.parameter_or("padding", 0, stride_position + 1);
  if (padding == "same") {  // the odd pixel goes to the bottom and right
    const int h = dilation_h * static_cast<int>(kernel_h - 1),
              w = dilation_w * static_cast<int>(kernel_w - 1);
    geometry.pad_top = h / 2;
    geometry.pad_bottom = h - h / 2;
    geometry.pad_left = w / 2;
    geometry.pad_right = w - w / 2;
  } else if (padding != "valid") {
    const auto [pad_h, pad_w] = c.pair("padding", padding);
    geometry.pad_top = geometry.pad_bottom = pad_h;
    geometry.pad_left = geometry.pad_right = pad_w;
  }
  // Zeros of an explicit pad before the convolution are zeros of its own padding.
  if (const nlohmann::json extra = c.parameter("zero_pad_before_left_right_top_bottom"); extra.is_array()) {
    geometry.pad_left += extra.at(0).get<int>();
    geometry.pad_right += extra.at(1).get<int>();
    geometry.pad_top += extra.at(2).get<int>();
    geometry.pad_bottom += extra.at(3).get<int>();
  }
  return geometry;
}
Variable run_conv2d(OpCase& c) {
  const Variable kernel = hwio(c.input(1));
  c.only("padding_mode", "zeros");
  return nchw(conv2d(nhwc(c.input(0)), kernel, c.optional_input(2),
                     geometry_of(c, kernel.size(0), kernel.size(1), 3)));
}
Variable run_conv_transpose2d(OpCase& c) {
  const Variable kernel = hwio(c.input(1));  // [KH, KW, O / groups, C]
  const auto [extra_h, extra_w] = c.pair("output_padding", c.parameter_or("output_padding", 0, 5));
  return nchw(conv_transpose2d(nhwc(c.input(0)), kernel, c.optional_input(2),
                               geometry_of(c, kernel.size(0), kernel.size(1), 3), extra_h, extra_w));
}
/// Rows of the table, which is the input with a gradient.
Variable run_embedding(OpCase& c) { return embedding(c.differentiable(0), c.integers()); }

// --- images ------------------------------------------------------------------------------------------------

/// The window's height and width, and a geometry with its stride (the window unless given) and padding.
struct Window {
  int height, width;
  Conv2dGeometry geometry;
};
Window window_of(const OpCase& c) {
  const auto [height, width] = c.pair("kernel_size", c.parameter_or("kernel_size", 2, 1));
  const auto [stride_h, stride_w] =
      c.pair("stride", c.parameter_or("stride", nlohmann::json{height, width}, 2));
  const auto [pad_h, pad_w] = c.pair("padding", c.parameter_or("padding", 0, 3));
  c.only("ceil_mode", false);
  Conv2dGeometry geometry;
  geometry.stride_h = stride_h;
  geometry.stride_w = stride_w;
  geometry.pad_top = geometry.pad_bottom = pad_h;
  geometry.pad_left = geometry.pad_right = pad_w;
  return {height, width, geometry};
}
Variable run_avg_pool2d(OpCase& c) {
  c.only("count_include_pad", true);
  const Window w = window_of(c);
  const Variable x = nhwc(c.input(0));
  const Conv2dGeometry& g = w.geometry;
  // The operation of the UNet where it applies, the general one elsewhere.
  const bool blocks = w.height == w.width && g.stride_h == w.height && g.stride_w == w.width &&
                      g.pad_top == 0 && g.pad_left == 0;
  return nchw(blocks ? average_pool(x, w.height) : average_pool2d(x, w.height, w.width, g));
}
Variable run_max_pool2d(OpCase& c) {
  Window w = window_of(c);
  const auto [dilation_h, dilation_w] = c.pair("dilation", c.parameter_or("dilation", 1, 4));
  w.geometry.dilation_h = dilation_h;
  w.geometry.dilation_w = dilation_w;
  return nchw(max_pool2d(nhwc(c.input(0)), w.height, w.width, w.geometry));
}

Variable run_interpolate(OpCase& c) {
  c.only("mode", "nearest");
  const nlohmann::json scale = c.parameter_or("scale_factor", 2.0);
  const double factor = scale.is_array() ? scale.at(0).get<double>() : scale.get<double>();
  require(factor >= 1 && factor == std::floor(factor) &&
              (!scale.is_array() || scale == nlohmann::json({factor, factor})),
          "golden", "nearest interpolation is supported for a whole factor of both axes, got {}",
          scale.dump());
  return nchw(upsample_nearest(nhwc(c.input(0)), static_cast<int>(factor)));
}

/// PyTorch orders the channels of a block (channel, row, column), space_to_depth (row, column, channel).
Variable run_pixel_shuffle(OpCase& c) {
  const int f = c.integer("upscale_factor", 1);
  const Variable x = nhwc(c.input(0));
  const int64_t channels = x.size(3) / (f * f);
  const Variable blocks = reshape(x, {x.size(0), x.size(1), x.size(2), channels, f * f});
  return nchw(depth_to_space(reshape(permute(blocks, {0, 1, 2, 4, 3}), x.shape()), f));
}
Variable run_pixel_unshuffle(OpCase& c) {
  const int f = c.integer("downscale_factor", 1);
  const Variable x = nhwc(c.input(0)), y = space_to_depth(x, f);
  const Variable blocks = reshape(y, {y.size(0), y.size(1), y.size(2), f * f, x.size(3)});
  return nchw(reshape(permute(blocks, {0, 1, 2, 4, 3}), y.shape()));
}

// --- normalisation and attention ---------------------------------------------------------------------------

Variable run_softmax(OpCase& c) { return softmax(c.input(0), c.parameter_or("dim", -1, 1).get<int>()); }
Variable run_log_softmax(OpCase& c) {
  return log_softmax(c.input(0), c.parameter_or("dim", -1, 1).get<int>());
}

/// Weight and bias, or 1 and 0 where the norm has none.
std::pair<Variable, Variable> affine_of(OpCase& c, size_t first, int64_t channels) {
  const Variable weight = c.optional_input(first), bias = c.optional_input(first + 1);
  return {weight.defined() ? weight : Variable(Tensor::ones({channels}, c.options())),
          bias.defined() ? bias : Variable(Tensor::zeros({channels}, c.options()))};
}
Variable run_group_norm(OpCase& c) {
  const Variable x = channels_last(c.input(0));
  const auto [weight, bias] = affine_of(c, 1, x.size(-1));
  return channels_second(
      group_norm(x, weight, bias, c.integer("num_groups", 1), c.parameter_or("eps", 1e-5, 4).get<double>()));
}
Variable run_instance_norm(OpCase& c) {
  return channels_second(instance_norm(channels_last(c.input(0)), c.optional_input(1), c.optional_input(2),
                                       c.parameter_or("eps", 1e-5).get<double>()));
}
/// Over the trailing axes that normalized_shape names: as many channels in one.
Variable run_layer_norm(OpCase& c) {
  const Variable x = c.input(0);
  const nlohmann::json given = c.parameter("normalized_shape", 1);
  const int axes = given.is_array() ? static_cast<int>(given.size()) : 1;
  Shape flat;
  for (int axis = 0; axis < x.rank() - axes; ++axis) flat.push_back(x.size(axis));
  int64_t channels = 1;
  for (int axis = x.rank() - axes; axis < x.rank(); ++axis) channels *= x.size(axis);
  flat.push_back(channels);
  const auto in_one = [&](const Variable& v) { return v.defined() ? reshape(v, {channels}) : v; };
  return reshape(layer_norm(reshape(x, flat), in_one(c.optional_input(1)), in_one(c.optional_input(2)),
                            c.parameter_or("eps", 1e-5, 4).get<double>()),
                 x.shape());
}

Variable run_attention(OpCase& c) {
  // [B, heads, L, D] against [B, L, heads, D].
  const auto ours = [](const Variable& t) { return transpose(t, 1, 2); };
  require(c.parameter("mask").is_null() && c.parameter("attn_mask").is_null(), "golden",
          "attention with a mask is not supported");
  c.only("is_causal", false);
  c.only("dropout_p", 0.0);
  const nlohmann::json scale = c.parameter("scale");  // a number, or a text that names the default
  return ours(attention(ours(c.input(0)), ours(c.input(1)), ours(c.input(2)),
                        scale.is_number() ? scale.get<double>() : 0.0));
}

// --- compositions, known by what they say of themselves ----------------------------------------------------

bool says(const GoldenCase& golden, const std::vector<std::string_view>& words) {
  const std::string what = golden.facts.value("what", "");
  return std::all_of(words.begin(), words.end(),
                     [&](std::string_view word) { return what.find(word) != std::string::npos; });
}

/// silu(group_norm(x)) -> 3x3 convolution -> + linear(silu(t)) per channel
Variable run_resblock_like(OpCase& c) {
  const Variable x = nhwc(c.input("x"));
  const Variable normed = group_norm(x, c.input("gw"), c.input("gb"), c.integer("groups"),
                                     c.needed("eps").get<double>(), Activation::silu);
  const Variable h = conv2d(normed, hwio(c.input("w")), c.input("b"),
                            {.pad_top = 1, .pad_bottom = 1, .pad_left = 1, .pad_right = 1});
  const Variable shift = linear(silu(c.input("t")), transpose(c.input("lw"), 0, 1), c.input("lb"));
  return nchw(h + reshape(shift, {shift.size(0), 1, 1, shift.size(1)}));
}

/// mean over the batch of w * mean over C, H, W of (a - b)^2
Variable run_weighted_mse(OpCase& c) {
  const Variable a = c.input(0);
  std::vector<int> inner;
  for (int axis = 1; axis < a.rank(); ++axis) inner.push_back(axis);
  return mean(c.input(2) * mse(a, c.input(1), inner));
}

// --- the table ---------------------------------------------------------------------------------------------

using Op = std::function<Variable(OpCase&)>;

/// By the last part of the reference's name.
const std::map<std::string, Op>& ops() {
  static const std::map<std::string, Op> all = [] {
    std::map<std::string, Op> table = {{"gelu", run_gelu},
                                       {"leaky_relu", run_leaky_relu},
                                       {"softplus", run_softplus},
                                       {"clamp", run_clamp},
                                       {"clip", run_clamp},
                                       {"pow", run_pow},
                                       {"add", run_add},
                                       {"sub", run_sub},
                                       {"subtract", run_sub},
                                       {"mul", run_mul},
                                       {"multiply", run_mul},
                                       {"div", run_div},
                                       {"divide", run_div},
                                       {"true_divide", run_div},
                                       {"maximum", run_maximum},
                                       {"minimum", run_minimum},
                                       {"sum", run_sum},
                                       {"mean", run_mean},
                                       {"amax", run_amax},
                                       {"amin", run_amin},
                                       {"max", run_amax},
                                       {"min", run_amin},
                                       {"var", run_var},
                                       {"std", run_std},
                                       {"norm", run_norm},
                                       {"vector_norm", run_norm},
                                       {"logsumexp", run_logsumexp},
                                       {"cumsum", run_cumsum},
                                       {"mse_loss", run_mse_loss},
                                       {"l1_loss", run_l1_loss},
                                       {"cross_entropy", run_cross_entropy},
                                       {"nll_loss", run_nll_loss},
                                       {"binary_cross_entropy_with_logits", run_bce_with_logits},
                                       {"cat", run_cat},
                                       {"concat", run_cat},
                                       {"concatenate", run_cat},
                                       {"stack", run_stack},
                                       {"pad", run_pad},
                                       {"reshape", run_reshape},
                                       {"view", run_reshape},
                                       {"permute", run_permute},
                                       {"transpose", run_transpose},
                                       {"flip", run_flip},
                                       {"squeeze", run_squeeze},
                                       {"unsqueeze", run_unsqueeze},
                                       {"narrow", run_narrow},
                                       {"matmul", run_matmul},
                                       {"mm", run_matmul},
                                       {"bmm", run_matmul},
                                       {"linear", run_linear},
                                       {"conv2d", run_conv2d},
                                       {"conv_transpose2d", run_conv_transpose2d},
                                       {"embedding", run_embedding},
                                       {"avg_pool2d", run_avg_pool2d},
                                       {"max_pool2d", run_max_pool2d},
                                       {"interpolate", run_interpolate},
                                       {"pixel_shuffle", run_pixel_shuffle},
                                       {"pixel_unshuffle", run_pixel_unshuffle},
                                       {"softmax", run_softmax},
                                       {"log_softmax", run_log_softmax},
                                       {"group_norm", run_group_norm},
                                       {"instance_norm", run_instance_norm},
                                       {"layer_norm", run_layer_norm},
                                       {"scaled_dot_product_attention", run_attention}};
    for (const auto& entry : elementwise()) {
      const Elementwise f = entry.second;
      table.emplace(entry.first, [f](OpCase& c) { return f(c.input(0)); });
    }
    return table;
  }();
  return all;
}

struct Composition {
  std::vector<std::string_view> words;  ///< all of them in `what`
  Op run;
};
const std::vector<Composition>& compositions() {
  static const std::vector<Composition> all = {
      {{"group_norm(x)", "conv3x3", "linear(silu(t))"}, run_resblock_like},
      {{"mean over batch", "(a-b)^2", "w_b"}, run_weighted_mse}};
  return all;
}

Op op_of(const GoldenCase& golden, const std::string& function) {
  if (const auto found = ops().find(function); found != ops().end()) return found->second;
  for (const Composition& composition : compositions())
    if (says(golden, composition.words)) return composition.run;
  std::string known;
  for (const std::string& name : torch_op_names()) known += (known.empty() ? "" : ", ") + name;
  fail("golden", "unknown PyTorch operation '{}' ({}); known: {}, and {} compositions", function,
       reference_text(golden), known, compositions().size());
}

bool recognises(const GoldenCase& golden) {
  const std::string reference = reference_text(golden);
  return (golden.has("out.f64") || golden.has("R")) &&
         (reference.starts_with("torch.") || reference.starts_with("torch ")) &&
         golden.facts.contains("tolerance");
}

/// tolerance.f32 or tolerance.f64, relative to the largest |reference| of each tensor unless the case says
/// otherwise.
Tolerance tolerance_of(const GoldenRun& run) {
  const nlohmann::json& facts = run.golden.facts.at("tolerance");
  const std::string metric = facts.value("metric", "max|a-b| / max|ref|");
  require(metric.find("|a-b|") != std::string::npos, "golden", "unknown metric '{}'", metric);
  return {.bounds = {facts.at(std::string(name_of(run.options().dtype))).get<double>()},
          .relative = metric.find("/ max|ref|") != std::string::npos};
}

void run(GoldenRun& run) {
  OpCase c(run);
  const Tolerance tolerance = tolerance_of(run);
  const Variable out = op_of(run.golden, c.call().function)(c);
  run.check("out.f64", out, tolerance);

  std::vector<std::string> names;
  std::vector<Variable> inputs;
  for (const auto& entry : run.golden.tensors()) {
    const std::string& name = entry.first;
    if (!name.starts_with("grad.") || !name.ends_with(".f64")) continue;
    names.push_back(name);
    inputs.push_back(c.input(name.substr(5, name.size() - 9)));
  }
  if (names.empty()) return;
  const std::vector<Variable> gradients = grad(out, inputs, Variable(run.tensor("R")));
  for (size_t i = 0; i < names.size(); ++i) run.check(names[i], gradients[i], tolerance);
}

}  // namespace

std::vector<std::string> torch_op_names() {
  std::vector<std::string> names;
  for (const auto& entry : ops()) names.push_back(entry.first);
  return names;
}

Kind torch_op_kind() {
  return {"torch op", "one PyTorch operation, chosen by the reference's name: result and all gradients",
          recognises, run};
}

}  // namespace halfstep::test
