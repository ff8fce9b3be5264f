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
#include "tests/golden_runner/missing_ops.h"
#include "tests/golden_runner/torch_call.h"

namespace halfstep::test {
namespace {

using namespace missing;

Variable nhwc(const Variable& x) { return permute(x, {0, 2, 3, 1}); }
Variable nchw(const Variable& x) { return permute(x, {0, 3, 1, 2}); }
Variable hwio(const Variable& kernel) { return permute(kernel, {2, 3, 1, 0}); }

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
  /// Integers beside the differentiable inputs (indices, classes): the tensor that has no gradient and is
  /// neither result nor R.
  Tensor integers() {
    std::vector<std::string> found;
    for (const auto& entry : run_.golden.tensors()) {
      const std::string& name = entry.first;
      if (name == "R" || name.starts_with("out.") || name.starts_with("grad.") ||
          has("grad." + name + ".f64"))
        continue;
      found.push_back(name);
    }
    require(found.size() == 1, "golden", "expected one tensor of integers (without gradient), got {}",
            found.size());
    return run_.golden.raw(found[0]).to(DType::i64);
  }

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
  std::vector<int> axes() const {
    const nlohmann::json dim = parameter("dim", 1);
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
      {"abs", abs},
      {"square", square},
      {"reciprocal", reciprocal},
      {"neg", [](const Variable& x) { return -x; }},
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

Variable reduced(const OpCase& c, const Variable& losses) {
  const std::string reduction = c.parameter_or("reduction", "mean").get<std::string>();
  if (reduction == "none") return losses;
  require(reduction == "mean" || reduction == "sum", "golden", "reduction='{}' is unknown", reduction);
  return reduction == "sum" ? sum(losses) : mean(losses);
}
Variable run_mse_loss(OpCase& c) {
  if (c.parameter_or("reduction", "mean") == "mean") return mse(c.input(0), c.input(1));
  return reduced(c, square(c.input(0) - c.input(1)));
}
Variable run_l1_loss(OpCase& c) { return reduced(c, abs(c.input(0) - c.input(1))); }

// --- layout ------------------------------------------------------------------------------------------------

Variable run_cat(OpCase& c) {
  std::vector<Variable> parts;
  const nlohmann::json order = c.parameter("order");
  if (order.is_array())
    for (const auto& name : order) parts.push_back(c.input(name.get<std::string>()));
  else
    for (size_t i = 0; i < c.inputs(); ++i) parts.push_back(c.input(i));
  return concat(parts, c.parameter_or("dim", 0, 1).get<int>());
}

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

Variable run_conv2d(OpCase& c) {
  const Variable x = nhwc(c.input(0)), kernel = hwio(c.input(1)), bias = c.optional_input(2);
  const auto [stride_h, stride_w] = c.pair("stride", c.parameter_or("stride", 1, 3));
  const auto [pad_h, pad_w] = c.pair("padding", c.parameter_or("padding", 0, 4));
  c.only("dilation", 1);
  Conv2dGeometry geometry{.stride_h = stride_h,
                          .stride_w = stride_w,
                          .pad_top = pad_h,
                          .pad_bottom = pad_h,
                          .pad_left = pad_w,
                          .pad_right = pad_w};
  // Zeros of an explicit pad before the convolution are zeros of its own padding.
  if (const nlohmann::json extra = c.parameter("zero_pad_before_left_right_top_bottom"); extra.is_array()) {
    geometry.pad_left += extra.at(0).get<int>();
    geometry.pad_right += extra.at(1).get<int>();
    geometry.pad_top += extra.at(2).get<int>();
    geometry.pad_bottom += extra.at(3).get<int>();
  }
  const int groups = c.parameter_or("groups", 1, 6).get<int>();
  if (groups == 1) return nchw(conv2d(x, kernel, bias, geometry));
  const int64_t in = x.size(3) / groups, out = kernel.size(3) / groups;
  std::vector<Variable> parts;
  for (int64_t g = 0; g < groups; ++g)
    parts.push_back(conv2d(slice(x, 3, g * in, (g + 1) * in), slice(kernel, 3, g * out, (g + 1) * out),
                           bias.defined() ? slice(bias, 0, g * out, (g + 1) * out) : Variable(), geometry));
  return nchw(concat(parts, 3));
}

/// Rows of the table, which is the input with a gradient.
Variable run_embedding(OpCase& c) { return embedding(c.differentiable(0), c.integers()); }

// --- images ------------------------------------------------------------------------------------------------

Variable run_avg_pool2d(OpCase& c) {
  const auto [kernel_h, kernel_w] = c.pair("kernel_size", c.parameter_or("kernel_size", 2, 1));
  const auto [stride_h, stride_w] =
      c.pair("stride", c.parameter_or("stride", nlohmann::json{kernel_h, kernel_w}, 2));
  c.only("padding", 0);
  c.only("ceil_mode", false);
  require(kernel_h == kernel_w && stride_h == kernel_h && stride_w == kernel_w, "golden",
          "average pooling is supported for equal kernel and stride in both axes, got {}x{} and {}x{}",
          kernel_h, kernel_w, stride_h, stride_w);
  return nchw(average_pool(nhwc(c.input(0)), kernel_h));
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

// --- normalisation and attention ---------------------------------------------------------------------------

Variable run_softmax(OpCase& c) {
  const int dim = c.parameter_or("dim", -1, 1).get<int>();
  return transpose(softmax(transpose(c.input(0), dim, -1)), dim, -1);
}

/// Weight and bias, or 1 and 0 where the norm has none.
std::pair<Variable, Variable> affine_of(OpCase& c, size_t first, int64_t channels) {
  const Variable weight = c.optional_input(first), bias = c.optional_input(first + 1);
  return {weight.defined() ? weight : Variable(Tensor::ones({channels}, c.options())),
          bias.defined() ? bias : Variable(Tensor::zeros({channels}, c.options()))};
}
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
Variable run_group_norm(OpCase& c) {
  const Variable x = channels_last(c.input(0));
  const auto [weight, bias] = affine_of(c, 1, x.size(-1));
  return channels_second(
      group_norm(x, weight, bias, c.integer("num_groups", 1), c.parameter_or("eps", 1e-5, 4).get<double>()));
}
Variable run_instance_norm(OpCase& c) {
  const Variable x = channels_last(c.input(0));
  const auto [weight, bias] = affine_of(c, 1, x.size(-1));
  return channels_second(
      group_norm(x, weight, bias, static_cast<int>(x.size(-1)), c.parameter_or("eps", 1e-5).get<double>()));
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
                                       {"mse_loss", run_mse_loss},
                                       {"l1_loss", run_l1_loss},
                                       {"cat", run_cat},
                                       {"concat", run_cat},
                                       {"concatenate", run_cat},
                                       {"pad", run_pad},
                                       {"reshape", run_reshape},
                                       {"view", run_reshape},
                                       {"permute", run_permute},
                                       {"transpose", run_transpose},
                                       {"matmul", run_matmul},
                                       {"mm", run_matmul},
                                       {"bmm", run_matmul},
                                       {"linear", run_linear},
                                       {"conv2d", run_conv2d},
                                       {"embedding", run_embedding},
                                       {"avg_pool2d", run_avg_pool2d},
                                       {"interpolate", run_interpolate},
                                       {"softmax", run_softmax},
                                       {"group_norm", run_group_norm},
                                       {"instance_norm", run_instance_norm},
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
