// Every kind of misuse and the message that it gets. tests/error_rows_test.py demands a row for every message
// in tensor/, autograd/ and nn/.
//
// In the expected text '*' stands for anything, where it depends on the machine or on a library.
#include <doctest/doctest.h>

#include <cmath>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <optional>
#include <regex>
#include <string>
#include <vector>

#include "autograd/anomaly.h"
#include "autograd/cases/op_cases.h"
#include "autograd/checkpoint.h"
#include "autograd/complex_step.h"
#include "autograd/functional.h"
#include "autograd/gradcheck.h"
#include "autograd/graph.h"
#include "autograd/ops.h"
#include "diffusion/config.h"
#include "nn/ema.h"
#include "nn/init.h"
#include "nn/layers.h"
#include "nn/module.h"
#include "nn/optimizer.h"
#include "tensor/cpu/cpu_backend.h"
#include "tensor/error.h"
#include "tensor/files.h"
#include "tensor/ops.h"
#include "tensor/safetensors.h"
#include "tensor/threads.h"
#include "tests/error_of.h"
#include "tests/temporary_folder.h"

using namespace halfstep;
using halfstep::test::error_of;
using halfstep::test::TemporaryFolder;

namespace {

struct Row {
  std::string name;  ///< the misuse
  std::function<void()> misuse;
  std::string text;
};

/// Whether `text` is `pattern`, in which '*' stands for any text.
bool matches(std::string_view pattern, std::string_view text) {
  const size_t star = pattern.find('*');
  if (star == std::string_view::npos) return pattern == text;
  if (text.substr(0, star) != pattern.substr(0, star)) return false;
  pattern.remove_prefix(star + 1);
  for (size_t skipped = star; skipped <= text.size(); ++skipped)
    if (matches(pattern, text.substr(skipped))) return true;
  return false;
}

/// What holds for every message: one form, what was expected, and what came.
void check_form(const std::string& text) {
  static const std::regex form(R"(^\[[A-Za-z0-9_ .:-]+\] [^\n]+$)");
  static const std::regex expectation(
      R"(expected|differ|outside|must|at most|only|cannot|do(es)? not|was not|)"
      R"(larger|out of range|unknown|was (changed|freed|given)|returned|gave)");
  static const std::regex reality(R"([0-9']|got|set_value|the output)");
  CHECK_MESSAGE(std::regex_match(text, form), "not '[where] one line': ", text);
  CHECK_MESSAGE(std::regex_search(text, expectation), "does not say what was expected: ", text);
  CHECK_MESSAGE(std::regex_search(text, reality), "does not say what came: ", text);
}

void check_rows(const std::vector<Row>& rows) {
  for (const Row& row : rows) {
    CAPTURE(row.name);
    const std::string text = error_of(row.misuse);
    CHECK_MESSAGE(matches(row.text, text), row.name, ":\n  expected ", row.text, "\n  got      ", text);
    check_form(text);
  }
}

/// Runs `action` with a variable of the environment set.
void with_environment(const char* name, const char* value, const std::function<void()>& action) {
  const char* const set = std::getenv(name);
  const std::optional<std::string> before = set ? std::optional<std::string>(set) : std::nullopt;
  const auto restore = [&] { before ? setenv(name, before->c_str(), 1) : unsetenv(name); };
  setenv(name, value, 1);
  try {
    action();
  } catch (...) {
    restore();
    throw;
  }
  restore();
}

Tensor ones(const Shape& shape, DType dtype = DType::f32) { return Tensor::ones(shape, {dtype}); }
Tensor elsewhere(const Shape& shape) { return Tensor::ones(shape, {DType::f32, &reference_device()}); }
Variable leaf(const Shape& shape, DType dtype = DType::f64) { return Variable(ones(shape, dtype), true); }

/// A result whose rule returns `gradients`.
Variable with_rule(const Variable& x, const std::vector<Variable>& gradients) {
  return record("mine", x.value(), {x}, [gradients](const Variable&) { return gradients; });
}

/// The bytes of a .safetensors file.
std::string file_of(const std::string& header, const std::string& data = "") {
  std::string bytes;
  for (int i = 0; i < 8; ++i) bytes += static_cast<char>(header.size() >> (8 * i) & 0xff);
  return bytes + header + data;
}
void parse(const std::string& bytes) { parse_safetensors(bytes, "f"); }
void parse_tensor(const std::string& entry, const std::string& data = "") {
  parse(file_of("{\"a\":" + entry + "}", data));
}

struct Two {
  Linear first{2, 3}, second{3, 1};

  template <class Self, class Visitor>
  static void fields(Self& self, Visitor&& visit) {
    visit("first", self.first);
    visit("second", self.second);
  }
};
Two two() {
  Two module;
  init_parameters(module, 1);
  return module;
}

/// The gradients that an optimiser needs.
void fill_gradients(const Parameters& all) {
  for (NamedVariable p : all) p.variable.set_grad(Variable(Tensor::ones(p.variable.shape())));
}

}  // namespace

// First: the number of threads is chosen when the first kernel runs.
TEST_CASE("errors of the environment") {
  check_rows({
      {"threads from the environment",
       [] { with_environment("HALFSTEP_THREADS", "many", [] { num_threads(); }); },
       "[HALFSTEP_THREADS] expected a number from 1 to 1024, got 'many'"},
      {"number of threads", [] { set_num_threads(0); },
       "[set_num_threads] expected 1 to 1024 threads, got 0"},
      {"instruction set from the environment",
       [] { with_environment("HALFSTEP_CPU", "sse9", [] { selected_isa(); }); },
       "[HALFSTEP_CPU] expected portable, avx2 or avx512, got 'sse9'"},
      {"no instruction set", [] { name_of(static_cast<Isa>(9)); }, "[cpu] unknown instruction set number 9"},
      {"name of a device", [] { device_by_name("gpu"); },
       "[device] expected cpu, cuda, auto or reference, got 'gpu'"},
      {"a GPU that is not there", [] { device_by_name("cuda"); },
       "[device] expected a CUDA device, got none: *; use --device cpu"},
      {"name of a dtype", [] { dtype_by_name("half"); },
       "[dtype] expected f32, f64, bf16 or i64, got 'half'"},
      {"size of no dtype", [] { size_of(static_cast<DType>(9)); }, "[dtype] unknown dtype number 9"},
      {"name of no dtype", [] { name_of(static_cast<DType>(9)); }, "[dtype] unknown dtype number 9"},
  });
  // Which of them this machine lacks, if any, is not known beforehand.
  for (const Isa isa : {Isa::avx2, Isa::avx512}) {
    if (is_supported(isa)) continue;
    const std::string name(name_of(isa));
    CHECK(error_of([&] { with_environment("HALFSTEP_CPU", name.c_str(), [] { selected_isa(); }); }) ==
          "[HALFSTEP_CPU] this build or this CPU does not run " + name + " kernels");
    CHECK(error_of([&] { cpu_backend_for(isa); }) ==
          "[cpu] this build or this CPU does not run " + name + " kernels");
  }
}

TEST_CASE("errors of shapes and tensors") {
  const Tensor m43 = ones({4, 3});
  check_rows({
      {"too many axes", [] { Dims::filled(9, 1); }, "[shape] at most 8 axes are supported, got one more"},
      {"insert position",
       [] {
         Shape({1, 2}).insert(3, 1);
       },
       "[shape] insert position 3 is outside 0..2"},
      {"erase position",
       [] {
         Shape({1, 2}).erase(2);
       },
       "[shape] erase position 2 is outside 0..1"},
      {"undefined tensor", [] { Tensor().clone(); },
       "[tensor] expected a tensor, got an undefined one (default-constructed)"},
      {"negative size",
       [] {
         Tensor::empty({2, -3});
       },
       "[empty] sizes must not be negative, got (2, -3)"},
      {"number of values",
       [] {
         Tensor::from<double>({1, 2}, {3});
       },
       "[from] expected 3 values for shape (3,), got 2"},
      {"axis", [&] { m43.size(2); }, "[size] axis 2 is outside -2..1 of a tensor with 2 axes"},
      {"axis of a scalar", [] { ones({}).size(0); },
       "[size] expected a tensor with axes, got a scalar and axis 0"},
      {"axis of transpose", [&] { m43.transpose(0, -3); },
       "[transpose] axis -3 is outside -2..1 of a tensor with 2 axes"},
      {"axis of unsqueeze", [&] { m43.unsqueeze(3); },
       "[unsqueeze] axis 3 is outside -3..2 of a tensor with 3 axes"},
      {"axis of squeeze", [&] { m43.squeeze(5); },
       "[squeeze] axis 5 is outside -2..1 of a tensor with 2 axes"},
      {"axis of slice", [&] { m43.slice(2, 0, 1); },
       "[slice] axis 2 is outside -2..1 of a tensor with 2 axes"},
      {"axis of permute",
       [&] {
         m43.permute({0, 2});
       },
       "[permute] axis 2 is outside -2..1 of a tensor with 2 axes"},
      {"axis of sum", [&] { sum(m43, {2}); }, "[sum] axis 2 is outside -2..1 of a tensor with 2 axes"},
      {"axis of concat", [&] { concat({m43}, 2); },
       "[concat] axis 2 is outside -2..1 of a tensor with 2 axes"},
      {"squeeze of a size", [&] { m43.squeeze(0); }, "[squeeze] expected size 1 on axis 0 of (4, 3), got 4"},
      {"range", [&] { m43.slice(0, 3, 9); }, "[slice] range 3..9 is outside axis 0 of (4, 3)"},
      {"number of axes", [&] { m43.permute({0}); }, "[permute] expected 2 axes for (4, 3), got 1"},
      {"axis twice",
       [&] {
         m43.permute({0, -2});
       },
       "[permute] expected each axis once, got axis 0 twice"},
      {"expand",
       [&] {
         m43.expand({4, 4});
       },
       "[expand] (4, 3) does not broadcast to (4, 4); sizes must be equal or 1, aligned at the last axis"},
      {"reshape", [&] { m43.reshape({5}); }, "[reshape] (4, 3) has 12 elements and does not fit (5,)"},
      {"reshape with two unknown sizes",
       [&] {
         m43.reshape({-1, -1});
       },
       "[reshape] at most one size may be -1, got (-1, -1)"},
      {"item of many", [&] { m43.item(); }, "[item] expected one element, got shape (4, 3)"},
      {"copy from another device",
       [&] {
         m43.copy_(elsewhere({4, 3}));
       },
       "[copy_] expected a tensor on 'cpu', got one on 'reference'; use to(device)"},
      {"copy of another shape", [&] { m43.copy_(ones({4})); }, "[expand] (4,) does not broadcast to (4, 3)*"},
  });
}

TEST_CASE("errors of operations") {
  const Tensor m43 = ones({4, 3}), m52 = ones({5, 2}), labels = ones({4}, DType::i64);
  const Tensor image = ones({1, 4, 4, 3}), kernel = ones({3, 3, 3, 5}), heads = ones({1, 2, 1, 3});
  const Tensor norm_x = ones({2, 2, 6}), gain = ones({6});
  check_rows({
      {"undefined operand", [&] { add(m43, Tensor()); },
       "[add] expected a tensor, got an undefined one (default-constructed)"},
      {"integers", [&] { affine(labels, 1, 0); },
       "[affine] expected f32 or f64, got i64; convert with to(dtype)"},
      {"bf16", [] { exp(Variable(ones({2}, DType::bf16))); },
       "[exp] expected f32 or f64, got bf16; convert with to(dtype)"},
      {"dtypes",
       [&] {
         multiply(m43, ones({4, 3}, DType::f64));
       },
       "[multiply] dtypes differ: f32 and f64; convert one with to(dtype)"},
      {"devices",
       [&] {
         divide(m43, elsewhere({4, 3}));
       },
       "[divide] devices differ: 'cpu' and 'reference'; move one with to(device)"},
      {"broadcasting", [&] { add(m43, m52); },
       "[add] shapes do not broadcast: (4, 3) and (5, 2); sizes must be equal or 1, aligned at the last "
       "axis"},
      {"order of a derivative", [&] { unary({.op = UnaryOp::exp, .derivative = 4}, m43); },
       "[exp] expected a derivative of order 0 to 3, got 4"},
      {"shape of a gradient", [&] { unary_chain({.op = UnaryOp::exp, .derivative = 1}, m52, m43); },
       "[exp] shapes differ: gradient (5, 2) and input (4, 3)"},
      {"mean of nothing", [] { mean(ones({0})); }, "[mean] expected at least one element, got shape (0,)"},
      {"mean of nothing, with gradient", [] { mean(leaf({0})); },
       "[mean] expected at least one element, got shape (0,)"},
      {"max of nothing", [] { max(ones({0})); }, "[max] expected at least one element, got shape (0,)"},
      {"sum_to",
       [&] {
         sum_to(m43, {4, 2});
       },
       "[sum_to] (4, 3) was not broadcast from (4, 2)"},
      {"sum of squares of nothing", [] { sum_of_squares({}); },
       "[sum_of_squares] expected at least one tensor, got none"},
      {"sum of squares on two devices",
       [&] {
         sum_of_squares({m43, elsewhere({2})});
       },
       "[sum_of_squares] devices differ: 'cpu' and 'reference'"},
      {"product of a vector", [&] { matmul(ones({3}), m43); },
       "[matmul] expected matrices, got (3,) x (4, 3); add an axis with unsqueeze"},
      {"inner sizes", [&] { matmul(m43, m52); },
       "[matmul] inner sizes differ: (4, 3) x (5, 2); is one operand to be transposed?"},
      {"bias of a product",
       [&] {
         matmul(m43, ones({3, 2}), ones({3}));
       },
       "[matmul] expected a bias of shape (2,), got (3,)"},
      {"product of batches",
       [] {
         matmul(ones({2, 4, 3}), ones({3, 3, 4}));
       },
       "[matmul] shapes do not broadcast: (2,) and (3,); sizes must be equal or 1, aligned at the last axis"},
      {"linear of a scalar",
       [&] {
         linear(leaf({}), leaf({3, 2}));
       },
       "[linear] expected x [..., K] and kernel [K, N], got () and (3, 2)"},
      {"inner sizes of linear",
       [&] {
         linear(leaf({4, 3}), leaf({5, 2}));
       },
       "[linear] inner sizes differ: (4, 3) x (5, 2)"},
      {"rank of an image", [&] { conv2d(m43, kernel, {}, {}); },
       "[conv2d] expected an image batch [B, H, W, C] with 4 axes, got (4, 3)"},
      {"channels",
       [&] {
         conv2d(image, ones({3, 3, 2, 5}), {}, {});
       },
       "[conv2d] channels differ: image (1, 4, 4, 3) and kernel (3, 3, 2, 5) (HWIO)"},
      {"kernel too large",
       [&] {
         conv2d(ones({1, 2, 2, 3}), kernel, {}, {});
       },
       "[conv2d] the kernel 3 x 3 is larger than the padded image 2 x 2"},
      {"strides", [&] { conv2d(image, kernel, {}, {.stride_h = 0}); },
       "[conv2d] strides must be positive, got 0 x 1"},
      {"padding", [&] { conv2d(image, kernel, {}, {.pad_left = -1}); },
       "[conv2d] padding must not be negative, got 0 and 0 rows, -1 and 0 columns"},
      {"bias of a convolution", [&] { conv2d(image, kernel, ones({3}), {}); },
       "[conv2d] expected a bias of shape (5,), got (3,)"},
      {"gradient of a convolution", [&] { conv2d_backward_data(image, kernel, 4, 4, {}); },
       "[conv2d_backward_data] expected a gradient (1, 2, 2, 5), got (1, 4, 4, 3)"},
      {"rank of a gradient", [&] { conv2d_backward_data(m43, kernel, 4, 4, {}); },
       "[conv2d_backward_data] expected a gradient [B, OH, OW, O] with 4 axes, got (4, 3)"},
      {"gradient of a kernel",
       [&] {
         conv2d_backward_kernel(image, ones({2, 2, 2, 5}), 3, 3, {});
       },
       "[conv2d_backward_kernel] expected a gradient (1, 2, 2, 5), got (2, 2, 2, 5)"},
      {"concat of nothing", [] { concat(std::vector<Tensor>{}, 0); },
       "[concat] expected at least one tensor, got none"},
      {"concat of undefined",
       [&] {
         concat({m43, Tensor()}, 0);
       },
       "[concat] expected tensors, got an undefined one"},
      {"concat of two dtypes",
       [&] {
         concat({m43, ones({4, 3}, DType::f64)}, 0);
       },
       "[concat] parts differ: f32 on 'cpu' and f64 on 'cpu'; convert or move one with to()"},
      {"concat of two shapes",
       [&] {
         concat({m43, m52}, 0);
       },
       "[concat] parts differ outside axis 0: (4, 3) and (5, 2)"},
      {"softmax of a scalar", [] { softmax(ones({})); },
       "[softmax] expected at least one axis, got a scalar"},
      {"gradient of softmax", [&] { softmax_backward(m43, m52); },
       "[softmax_backward] shapes differ: (4, 3) and (5, 2)"},
      {"norm of a vector", [&] { group_norm(gain, gain, gain, 1, 1e-6, Activation::none); },
       "[group_norm] expected [B, ..., C], got (6,)"},
      {"groups", [&] { group_norm(norm_x, gain, gain, 4, 1e-6, Activation::none); },
       "[group_norm] 6 channels do not divide into 4 groups"},
      {"gain", [&] { group_norm(norm_x, ones({3}), gain, 2, 1e-6, Activation::none); },
       "[group_norm] expected gain of shape (6,), (1, 6) or (2, 6), got (3,)"},
      {"gradient of group_norm",
       [&] { group_norm_backward(m43, norm_x, gain, gain, {}, 2, 1e-6, Activation::none); },
       "[group_norm_backward] shapes differ: (4, 3) and (2, 2, 6)"},
      {"attention",
       [&] {
         attention(heads, ones({1, 2, 1, 4}), ones({1, 2, 1, 4}), 1);
       },
       "[attention] expected q [B, L, H, D] and k, v [B, S, H, D], got (1, 2, 1, 3), (1, 2, 1, 4) and (1, 2, "
       "1, "
       "4)"},
      {"attention of a matrix", [&] { attention(m43, m43, m43, 1); },
       "[attention] expected [B, L, H, D] with 4 axes, got (4, 3)"},
      {"attention to nothing",
       [&] {
         attention(heads, ones({1, 0, 1, 3}), ones({1, 0, 1, 3}), 1);
       },
       "[attention] expected at least one key, got (1, 0, 1, 3)"},
      {"gradient of attention",
       [&] {
         attention_backward(ones({1, 1, 1, 3}), heads, heads, heads, {ones({1}), ones({1})}, 1);
       },
       "[attention_backward] shapes differ: (1, 1, 1, 3) and (1, 2, 1, 3)"},
      {"rows of random numbers",
       [] {
         random_normal({2, 1}, {}, (uint64_t{1} << 32) - 1);
       },
       "[random] rows must stay below 2^32, got 4294967295 + 2"},
      {"random integers", [] { random_normal({2}, {}, 0, {DType::i64}); },
       "[random] expected f32 or f64, got i64; convert with to(dtype)"},
      {"probability", [&] { dropout(m43, 1, {}); }, "[dropout] expected a probability in [0, 1), got 1"},
      {"probability is not a number", [&] { dropout(m43, NAN, {}); },
       "[dropout] expected a probability in [0, 1), got nan"},
      {"bounds", [] { clamp(leaf({2}), 2, 1); }, "[clamp] expected low <= high, got 2 and 1"},
      {"pictures without channels",
       [] {
         average_pool(leaf({2, 4, 4}));
       },
       "[average_pool] expected an image batch [B, H, W, C], got (2, 4, 4)"},
      {"factor",
       [] {
         upsample_nearest(leaf({1, 2, 2, 1}), 0);
       },
       "[upsample_nearest] expected a factor of at least 1, got 0"},
      {"blocks of pixels",
       [] {
         space_to_depth(leaf({1, 3, 4, 1}), 2);
       },
       "[space_to_depth] image 3 x 4 does not divide into blocks of 2 x 2"},
      {"channels of pixels",
       [] {
         depth_to_space(leaf({1, 2, 2, 6}), 2);
       },
       "[depth_to_space] 6 channels do not divide into 2 x 2 pixels"},
      {"differentiable conversion to integers", [] { to(leaf({2}), DType::i64); },
       "[to] expected f32 or f64, got i64"},
  });
}

TEST_CASE("errors of operations with indices and layouts") {
  const Tensor m43 = ones({4, 3}), none = ones({0, 3});
  const auto indices = [](std::vector<int64_t> values, const Shape& shape) {
    return Tensor::from(values, shape, {DType::i64});
  };
  const Tensor two = indices({0, 1}, {2}), column = indices({0, 1}, {2, 1});
  check_rows({
      {"indices that are floats", [&] { gather(m43, 0, m43); },
       "[gather] expected indices of type i64, got f32"},
      {"index out of range",
       [&] {
         gather(m43, 0, indices({4}, {1, 1}));
       },
       "[gather] expected indices in 0..3, got 4"},
      {"rank of indices", [&] { gather(m43, 0, two); },
       "[gather] expected indices with 2 axes for (4, 3), got (2,)"},
      {"shape of indices",
       [&] {
         gather(m43, 0, indices({0, 1}, {1, 2}));
       },
       "[gather] expected indices that broadcast to (4, 3) off axis 0, got (1, 2)"},
      {"indices on another device",
       [&] {
         gather(elsewhere({4, 3}), 0, column);
       },
       "[gather] devices differ: 'reference' and 'cpu'; move one with to(device)"},
      {"gather from bf16", [&] { gather(ones({2}, DType::bf16), 0, two); },
       "[gather] expected f32, f64 or i64, got bf16"},
      {"negative size of arange", [] { arange(-1); }, "[arange] expected a size of at least 0, got -1"},
      {"negative size of scatter_add", [&] { scatter_add(m43, 0, column, -1); },
       "[scatter_add] expected a size of at least 0, got -1"},
      {"too few indices", [&] { scatter_add(m43, 0, column, 2); },
       "[scatter_add] expected one index for each of (4, 3) on axis 0, got (2, 1)"},
      {"one_hot of integers", [&] { one_hot(two, 2, DType::i64); },
       "[one_hot] expected a result of f32 or f64, got i64"},
      {"no class", [&] { one_hot(two, 0); }, "[one_hot] expected at least one class, got 0"},
      {"table of embedding", [&] { embedding(leaf({3}), two); },
       "[embedding] expected a table [N, D], got (3,)"},
      {"no ids",
       [] {
         embedding(leaf({3, 2}), Tensor());
       },
       "[embedding] expected ids, got an undefined tensor"},
      {"argmax of nothing", [&] { argmax(none, 0); },
       "[argmax] expected at least one element on axis 0, got shape (0, 3)"},
      {"argmin of nothing", [&] { argmin(none, 0); },
       "[argmin] expected at least one element on axis 0, got shape (0, 3)"},
      {"argmax of a long f32 axis", [] { argmax(ones({1}).expand({(1 << 24) + 1}), 0); },
       "[argmax] axis 0 of (16777217,) has more elements than f32 can count (2^24); convert with "
       "to(DType::f64)"},
      {"min of nothing", [&] { min(none); }, "[min] expected at least one element, got shape (0, 3)"},
      {"axis of cumulative_sum", [&] { cumulative_sum(m43, 2); },
       "[cumulative_sum] axis 2 is outside -2..1 of a tensor with 2 axes"},
      {"axis of argsort", [&] { argsort(m43, 2); },
       "[argsort] axis 2 is outside -2..1 of a tensor with 2 axes"},
      {"axis of sort", [&] { sort(m43, 2); }, "[*sort] axis 2 is outside -2..1 of a tensor with 2 axes"},
      {"stack of nothing", [] { stack(std::vector<Tensor>{}, 0); },
       "[stack] expected at least one tensor, got none"},
      {"stack of no variables", [] { stack(std::vector<Variable>{}, 0); },
       "[stack] expected at least one tensor, got none"},
      {"stack of undefined",
       [&] {
         stack({m43, Tensor()}, 0);
       },
       "[stack] expected tensors, got an undefined one"},
      {"stack of two shapes",
       [&] {
         stack({m43, none}, 0);
       },
       "[stack] expected parts of one shape, got (4, 3) and (0, 3)"},
      {"stack of variables of two shapes",
       [] {
         stack({leaf({4}), leaf({3})}, 0);
       },
       "[stack] expected parts of one shape, got (4,) and (3,)"},
      {"pad of undefined", [] { pad(Tensor(), {}, {}); },
       "[pad] expected a tensor, got an undefined one (default-constructed)"},
      {"sizes of pad",
       [&] {
         pad(m43, {1}, {1, 1});
       },
       "[pad] expected one size before and one after for each axis of (4, 3), got 1 and 2"},
      {"negative pad",
       [&] {
         pad(m43, {0, -1}, {0, 0});
       },
       "[pad] expected sizes of at least 0, got -1 and 0 for axis 1; crop with slice"},
      {"negative part",
       [] {
         split(leaf({4}), {5, -1}, 0);
       },
       "[split] expected sizes of at least 0, got -1"},
      {"parts of another size",
       [] {
         split(leaf({4}), {2, 3}, 0);
       },
       "[split] expected sizes that add up to 4 (axis 0 of (4,)), got 5"},
      {"step", [&] { m43.slice(0, 0, 4, 0); },
       "[slice] expected a step of at least 1, got 0; reverse with flip"},
      {"condition of where", [&] { where(none, m43, m43); },
       "[where] shapes do not broadcast: (0, 3) and (4, 3); sizes must be equal or 1, aligned at the last "
       "axis"},
      {"flip of an axis twice",
       [&] {
         m43.flip({0, -2});
       },
       "[flip] expected each axis once, got axis -2 twice"},
      {"log_softmax of nothing", [] { log_softmax(leaf({0})); },
       "[log_softmax] expected at least one element, got shape (0,)"},
      {"logsumexp of nothing", [] { logsumexp(leaf({0})); },
       "[logsumexp] expected at least one element, got shape (0,)"},
      {"cross entropy without labels",
       [] {
         cross_entropy(leaf({2, 3}), Tensor());
       },
       "[cross_entropy] expected logits [..., classes] and labels, got (2, 3) and an undefined tensor"},
      {"shape of labels",
       [&] {
         cross_entropy(leaf({3, 3}), two);
       },
       "[cross_entropy] expected labels of shape (3,) for logits (3, 3), got (2,)"},
      {"variance of one", [] { variance(leaf({1})); },
       "[variance] expected more elements than the correction, which is at least 0; got 1 elements and "
       "correction "
       "1"},
      {"order of a norm", [] { norm(leaf({2}), {}, false, 0.5); },
       "[norm] expected an order p of at least 1 (or infinity), got 0.5"},
  });
}

TEST_CASE("errors of automatic differentiation") {
  const Variable x = leaf({2});
  check_rows({
      {"undefined variable", [] { Variable().value(); },
       "[Variable] expected a variable, got an undefined one (default-constructed)"},
      {"variable of an undefined tensor", [] { Variable{Tensor()}; },
       "[Variable] expected a tensor, got an undefined one (default-constructed)"},
      {"gradient of an undefined variable", [] { Variable().grad(); },
       "[grad] expected a variable, got an undefined one (default-constructed)"},
      {"gradients of integers", [] { leaf({2}, DType::i64); },
       "[requires_grad] only f32 and f64 have gradients, got i64"},
      {"requires_grad of a result", [&] { square(x).set_requires_grad(false); },
       "[requires_grad] expected a leaf, got the result of '*'; use detach()"},
      {"value of a result", [&] { (x + x).set_value(ones({2})); },
       "[set_value] expected a leaf, got the result of *"},
      {"gradient of another shape", [&] { leaf({2}).set_grad(leaf({3})); },
       "[set_grad] expected a gradient of shape (2,), got (3,)*"},
      {"hook without gradient",
       [] { Variable(ones({2})).register_hook([](const Variable& g) { return g; }); },
       "[register_hook] expected a variable that requires a gradient, got one that does not: the hook would "
       "never run"},
      {"backward without history", [&] { x.detach().backward(); },
       "[backward] the output does not depend on anything that requires a gradient"},
      {"backward of a vector", [&] { (x * 2.0).backward(); },
       "[backward] expected a scalar output, got shape (2,); pass an upstream gradient"},
      {"upstream shape", [&] { (x * 2.0).backward(leaf({3})); },
       "[backward] expected an upstream gradient of the shape (2,) of the output, got (3,)"},
      {"upstream dtype", [&] { (x * 2.0).backward(leaf({2}, DType::f32)); },
       "[backward] *the caller* gave a gradient of f32 on 'cpu' for a value of f64 on 'cpu'"},
      {"upstream device", [] { (leaf({2}, DType::f32) * 2.0).backward(Variable(elsewhere({2}))); },
       "[backward] *the caller* gave a gradient of f32 on 'reference' for a value of f32 on 'cpu'"},
      {"freed graph",
       [&] {
         const Variable y = sum(x * x);
         y.backward();
         y.backward();
       },
       "[backward] the graph of 'sum' was freed by an earlier backward; pass retain_graph = true there*"},
      {"in-place damage",
       [] {
         const Variable p = leaf({2});
         const Variable y = sum(p * p);
         p.value().fill_(3);
         y.backward();
       },
       "[backward] a value saved for the gradient was changed in place (version *, expected *); change a "
       "clone() "
       "instead*"},
      {"damage by set_value",
       [] {
         Variable p = leaf({2});
         const Variable y = sum(p * p);
         p.set_value(ones({2}, DType::f64));
         y.backward();
       },
       "[backward] a variable saved for the gradient was given another value by set_value; call it after "
       "backward()*"},
      {"rule with too few gradients", [&] { sum(with_rule(x, {})).backward(); },
       "[backward] the rule of 'mine' returned 0 gradients for 1 inputs*"},
      {"rule with a gradient of another shape", [&] { sum(with_rule(x, {leaf({3})})).backward(); },
       "[backward] 'mine' gave a gradient of shape (3,) for a value of shape (2,)*"},
      {"rule with a gradient of another dtype",
       [&] { sum(with_rule(x, {leaf({2}, DType::f32)})).backward(); },
       "[backward] 'mine' gave a gradient of f32 on 'cpu' for a value of f64 on 'cpu'*"},
      {"no outputs", [&] { grad(std::vector<Variable>{}, {x}); },
       "[backward] expected at least one output, got none"},
      {"too many upstream gradients",
       [&] {
         grad(std::vector<Variable>{sum(x)}, {x}, std::vector<Variable>{leaf({}), leaf({})});
       },
       "[backward] expected one upstream gradient for each of 1 outputs, got 2; an undefined one stands for "
       "1"},
      {"undefined output", [] { Variable().backward(); },
       "[backward] expected results, got an undefined variable as the output"},
      {"undefined input of grad", [&] { grad(sum(x), {Variable()}); },
       "[grad] expected variables, got an undefined one as input 0"},
      {"set_value before backward, seen by the walk",
       [] {
         Variable p = leaf({2});
         const Variable y = sum(p);
         p.set_value(ones({2}, DType::f64));
         y.backward();
       },
       "[backward] a leaf of shape (2,) in the graph was given another value by set_value; call it after "
       "backward()"},
      {"hook with a gradient of another shape",
       [&] {
         const Variable y = x * 2.0;
         y.register_hook([](const Variable&) { return leaf({3}); });
         sum(y).backward();
       },
       "[backward] a hook of '*' gave a gradient of shape (3,) for a value of shape (2,)"},
      {"empty hook", [] { leaf({2}).register_hook(nullptr); },
       "[register_hook] expected a function, got an empty one"},
      {"hook of accumulation without gradient",
       [] { Variable(ones({2})).register_accumulated_hook([](const Variable&) {}); },
       "[register_accumulated_hook] expected a variable that requires a gradient, got one that does not: the "
       "hook "
       "would never run"},
      {"hook of accumulation on a result", [&] { sum(x).register_accumulated_hook([](const Variable&) {}); },
       "[register_accumulated_hook] expected a leaf, got the result of 'sum', which accumulates nothing; use "
       "register_hook"},
      {"empty hook of accumulation", [] { leaf({2}).register_accumulated_hook(nullptr); },
       "[register_accumulated_hook] expected a function, got an empty one"},
      {"undefined value", [] { leaf({2}).set_value(Tensor()); },
       "[set_value] expected a tensor, got an undefined one (default-constructed)"},
      {"value without gradients", [] { leaf({2}).set_value(ones({2}, DType::i64)); },
       "[set_value] only f32 and f64 have gradients, got i64; call set_requires_grad(false) before"},
      {"grad without inputs", [&] { grad(sum(x), {}); }, "[grad] expected at least one input, got none"},
      {"fourth derivative",
       [] {
         const Variable p = leaf({1});
         Variable y = exp(p);
         for (int order = 0; order < 4; ++order) y = grad(y, {p}, {}, true, true)[0];
       },
       "[exp] *order*"},
      {"gradcheck of undefined inputs", [] { gradcheck([](const auto& in) { return in[0]; }, {Variable()}); },
       "[gradcheck] expected inputs, got an undefined variable"},
      {"gradgradcheck of nothing", [] { gradgradcheck([](const auto& in) { return in[0]; }, {}); },
       "[gradgradcheck] expected at least one input, got none"},
  });
}

TEST_CASE("errors of functional derivatives, checkpoints, anomalies and graphs") {
  using Variables = std::vector<Variable>;
  const Variable x = leaf({2});
  const auto same = [](const Variables& in) { return in[0]; };
  const auto nothing = [](const Variables&) { return Variable(); };
  const MultiFunction no_output = [](const Variables&) { return Variables{Variable()}; };
  const auto nan = [](const Shape& shape) { return Variable(Tensor::full(shape, NAN, {DType::f64})); };
  const auto rows = [](const std::vector<int64_t>& sizes) { return leaf(Shape(sizes)); };
  check_rows({
      {"undefined input of vjp", [&] { vjp(same, {Variable()}, x); },
       "[vjp] expected variables, got an undefined one as input 0"},
      {"undefined input of jacobian", [&] { jacobian(same, {Variable()}); },
       "[jacobian] expected variables, got an undefined one as input 0"},
      {"undefined input of hessian", [&] { hessian(same, {Variable()}); },
       "[hessian] expected variables, got an undefined one as input 0"},
      {"upstream gradients of vjp",
       [&] { vjp(MultiFunction([](const Variables& in) { return in; }), {x}, {}); },
       "[vjp] expected one upstream gradient per output, 1 in all, got 0"},
      {"undefined output of vjp", [&] { vjp(no_output, {x}, Variables{x}); },
       "[vjp] the function returned an undefined variable as output 0"},
      {"shape for vjp", [&] { vjp(same, {x}, leaf({3})); },
       "[vjp] expected an upstream gradient of shape (2,) for output 0, got (3,)"},
      {"number of tangents", [&] { jvp(same, {x}, {}); },
       "[jvp] expected one tangent per input, 1 in all, got 0"},
      {"shape of a tangent", [&] { jvp(same, {x}, {leaf({3})}); },
       "[jvp] expected a tangent of shape (2,) and f64 for input 0, got (3,) and f64"},
      {"undefined output of jvp", [&] { jvp(no_output, {x}, Variables{x}); },
       "[jvp] the function returned an undefined variable as output 0"},
      {"undefined result of jacobian", [&] { jacobian(nothing, {x}); },
       "[jacobian] the function returned an undefined variable"},
      {"axes of a jacobian",
       [&] {
         jacobian(same, {rows({1, 1, 1, 1, 1})});
       },
       "[jacobian] expected at most 8 axes in all, got output (1, 1, 1, 1, 1) and input (1, 1, 1, 1, 1); "
       "reshape one "
       "of them"},
      {"hessian of a vector", [&] { hessian(same, {x}); },
       "[hessian] expected a function with a scalar result, got shape (2,)"},
      {"vectors of hvp", [&] { hvp(same, {x}, {}); }, "[hvp] expected one vector per input, 1 in all, got 0"},
      {"checkpoint of nothing", [&] { checkpoint(nothing, {x}); },
       "[checkpoint] the function returned an undefined variable as output 0"},
      {"checkpoint with another number of outputs",
       [&] {
         int runs = 0;
         const MultiFunction changes = [&](const Variables& in) {
           return Variables(runs++ ? 2 : 1, in[0] * 2.0);
         };
         sum(checkpoint(changes, {x})[0]).backward();
       },
       "[checkpoint] the function returned 1 outputs, then 2 when it was run again; it must do the same each "
       "time"},
      {"checkpoint with another shape",
       [&] {
         int runs = 0;
         sum(checkpoint([&](const Variables& in) { return runs++ ? sum(in[0]) : in[0] * 2.0; }, {x}))
             .backward();
       },
       "[checkpoint] output 0 had shape (2,) and f64, then () and f64 when the function was run again; it "
       "must do "
       "the same each time"},
      {"NaN of a value",
       [&] {
         DetectAnomaly guard;
         log(leaf({2}) - 3.0);
       },
       "[anomaly] the value of 'log' contains NaN: *"},
      {"NaN upstream",
       [&] {
         DetectAnomaly guard;
         (x * 2.0).backward(nan({2}));
       },
       "[anomaly] the upstream gradient given for '*' contains NaN before any rule has run: *"},
      {"NaN of a hook",
       [&] {
         DetectAnomaly guard;
         const Variable y = x * 2.0;
         y.register_hook([&](const Variable&) { return nan({2}); });
         sum(y).backward();
       },
       "[anomaly] a hook of '*' returned NaN: *"},
      {"NaN of a rule",
       [&] {
         DetectAnomaly guard;
         sum(with_rule(x, {nan({2})})).backward();
       },
       "[anomaly] the backward of 'mine' produced NaN: gradient of its input 0, *"},
      {"NaN of a sum",
       [&] {
         DetectAnomaly guard;
         const Variable infinite(Tensor::full({2}, INFINITY, {DType::f64}));
         const Variable p = leaf({2});
         sum(with_rule(p, {infinite}) + with_rule(p, {-infinite})).backward();
       },
       "[anomaly] adding up the gradients of the uses of '*' gave NaN: *"},
      {"name of a picture", [&] { write_graph(sum(x), "graph.jpg"); },
       "[write_graph] expected a file name that ends in .dot, .gv or .svg, got 'graph.jpg'"},
      {"graph of nothing", [&] { write_graph(x.detach(), "graph.dot"); },
       "[write_graph] the output does not depend on anything that requires a gradient, so there is no graph"},
      {"no Graphviz",
       [&] { with_environment("PATH", "/nowhere", [&] { write_graph(sum(x), "graph.svg"); }); },
       "[write_graph] expected Graphviz's program 'dot' to draw the picture, but it does not start: *; "
       "install "
       "graphviz (Debian: apt-get install graphviz), or write a .dot file"},
  });
}

TEST_CASE("errors of pooling, norms, gradient checks and SGD") {
  const Tensor image = ones({1, 4, 4, 2}), kernel = ones({3, 3, 2, 3});
  const Variable batch(image), scalar(ones({})), row(ones({3})), x = leaf({2});
  const std::vector<Variable> none, labels{Variable(Tensor::zeros({2}, {DType::i64}))};
  const auto sgd = [](SgdConfig config) { Sgd(Parameters{{"p", leaf({1})}}, config); };
  check_rows({
      {"pooling in groups", [&] { max_pool2d(image, 2, 2, {.groups = 2}); },
       "[max_pool2d] pooling has no groups; expected groups = 1, got 2"},
      {"window in the padding alone", [&] { max_pool2d(image, 1, 1, {.pad_top = 1}); },
       "[max_pool2d] expected windows that reach the image, got one of 1 x 1 in the padding alone for image "
       "(1, 4, 4, 2); use less padding"},
      {"average over a vector", [&] { average_pool2d(row, 2, 2, {}); },
       "[average_pool2d] expected an image batch [B, H, W, C], got (3,)"},
      {"bias of a transposed convolution",
       [&] {
         conv_transpose2d(ones({1, 4, 4, 3}), kernel, ones({5}), {}, 0, 0);
       },
       "[conv_transpose2d] expected a bias of shape (2,), got (5,)"},
      {"layer norm of a scalar", [&] { layer_norm(scalar, {}, {}); },
       "[layer_norm] expected x [..., C], got a scalar"},
      {"instance norm without pixels", [&] { instance_norm(row, {}, {}); },
       "[instance_norm] expected x [B, ..., C] with axes of pixels between and at least one channel, got "
       "(3,)"},
      {"name of a layout", [] { layout_by_name("diagonal"); },
       "[layout] expected contiguous, transposed, sliced, expanded or flipped, got 'diagonal'"},
      {"check of integers", [&] { gradcheck([](const std::vector<Variable>& in) { return in[0]; }, labels); },
       "[gradcheck] expected an f32 or f64 input, got none"},
      {"check without inputs",
       [&] { gradcheck([](const std::vector<Variable>&) { return leaf({1}); }, none); },
       "[gradcheck] expected at least one input, got none"},
      {"check of a function without result",
       [&] { gradcheck([](const std::vector<Variable>&) { return Variable(); }, {x}); },
       "[gradcheck] the function returned an undefined variable"},
      {"function of changing shape",
       [&] {
         int calls = 0;
         gradcheck(
             [&](const std::vector<Variable>& in) {
               return ++calls > 2 ? reshape(in[0], {2, 1}) : in[0] * 2.0;
             },
             {x});
       },
       "[gradcheck] the function returned another number or shape of results for other values of its inputs"},
      {"derivative beyond the last",
       [] { complex_step_check({.op = UnaryOp::exp, .derivative = kMaxDerivative}, {0.5}); },
       "[complex_step_check] expected a derivative of 0 to 2, got 3"},
      {"momentum", [&] { sgd({.momentum = 1}); },
       "[Sgd] momentum = 1 is out of range; momentum lies in [0, 1), dampening in [0, 1], the others are not "
       "negative"},
      {"dampening alone", [&] { sgd({.dampening = 0.5}); },
       "[Sgd] expected momentum > 0 with dampening = 0.5, got 0: dampening needs momentum, an average to "
       "dampen"},
      {"nesterov alone", [&] { sgd({.nesterov = true}); },
       "[Sgd] expected momentum > 0 and no dampening with nesterov, got momentum 0 and dampening 0"},
  });
}

TEST_CASE("errors of modules and optimisers") {
  const Two module = two();
  const Parameters all = parameters(module);
  check_rows({
      {"state without its tensors",
       [] {
         Two target = two();
         TensorMap saved = state(target);
         saved.erase("first.bias");
         saved["second.kernel"] = ones({3, 2});
         saved["first.bais"] = ones({3});
         load_state(target, saved);
       },
       "[load_state] expected exactly 4 tensors; missing: first.bias; unexpected: first.bais (nearest: "
       "first.bias); "
       "wrong size: second.kernel (expected (3, 1), got (3, 2)); was the state saved with another "
       "configuration?"},
      {"another state of an optimiser",
       [&] {
         Adam adam(all, {});
         adam.load_state({{"adam.m.frist.kernel", ones({1})}});
       },
       "[Adam] expected exactly 9 tensors; missing: *; unexpected: adam.m.frist.kernel (nearest: "
       "adam.m.first.kernel); was the state saved with another configuration?"},
      {"copy between different modules", [&] { detail::copy_parameters(all, {all[0]}); },
       "[copy_parameters] expected equal modules, got 4 and 1 parameters"},
      {"copy between modules of other names", [&] { detail::copy_parameters({all[0]}, {all[1]}); },
       "[copy_parameters] expected equal modules, got first.kernel (2, 3) and first.bias (3,)"},
      {"parameter that was not initialised",
       [] {
         Linear(2, 3)(leaf({1, 2}, DType::f32));
       },
       "[Variable] expected a variable, got an undefined one (default-constructed)"},
      {"initialiser of a bias", [] { init::lecun_normal()({3}, {}, {}); },
       "[variance_scaling] expected a kernel [..., in, out] without empty axes, got shape (3,); use zeros or "
       "ones "
       "for biases and scales"},
      {"stride of a layer", [] { Conv2d(3, 3, 3); }, "[Conv2d] expected stride 1 or 2, got 3"},
      {"odd image",
       [] {
         Conv2d layer(1, 1, 2);
         init_parameters(layer, 1);
         layer(leaf({1, 3, 4, 1}, DType::f32));
       },
       "[Conv2d] expected images [B, H, W, C] of even height and width for stride 2, got (1, 3, 4, 1)"},
      {"groups of a layer", [] { GroupNorm(6, 4); }, "[GroupNorm] 4 groups do not divide 6 channels"},
      {"heads of a layer", [] { SelfAttention(6, 4, 1); },
       "[SelfAttention] 4 heads do not divide 6 channels"},
      {"attention without images",
       [] {
         SelfAttention layer(2, 1, 1);
         init_parameters(layer, 1);
         layer(leaf({1, 3, 2}, DType::f32));
       },
       "[SelfAttention] expected images [B, H, W, C], got (1, 3, 2)"},
      {"decay", [&] { Ema(all, 1, EmaWarmup::none); }, "[Ema] expected a decay in [0, 1), got 1"},
      {"warm-up of an average", [] { ema_warmup_by_name("slow"); },
       "[ema_warmup] expected none, ramp or power, got 'slow'"},
      {"name of no warm-up", [] { name_of(static_cast<EmaWarmup>(9)); },
       "[ema_warmup] expected a warm-up of the list, got number 9"},
      {"average with no warm-up", [&] { Ema(all, 0.5, static_cast<EmaWarmup>(9)).update(); },
       "[Ema] expected a warm-up of the list, got number 9"},
      {"optimiser of nothing", [] { Adam({}, {}); }, "[Adam] expected at least one parameter, got none"},
      {"constant of an optimiser", [&] { Adam(all, {.beta1 = 1}); },
       "[Adam] beta1 = 1 is out of range; betas lie in [0, 1), eps is positive, the others are not negative"},
      {"parameters of two dtypes",
       [&] {
         Adam({all[0], {"odd", leaf({1}, DType::f64)}}, {});
       },
       "[Adam] expected all parameters as f32 or f64 on one device; first.kernel is f32 on cpu, odd is f64 "
       "on cpu"},
      {"learning rate",
       [&] {
         Adam adam(all, {});
         fill_gradients(all);
         adam.step(-1);
       },
       "[Adam] expected a learning rate >= 0, got -1"},
      {"step without gradients",
       [&] {
         Two fresh = two();
         Adam adam(parameters(fresh), {});
         adam.step(0.1);
       },
       "[Adam] expected a parameter with a gradient, got none; call backward() before step()"},
      {"parameter of another shape",
       [] {
         Two changed = two();
         Parameters parts = parameters(changed);
         Adam adam(parts, {});
         parts[0].variable.set_value(ones({5, 5}));
         fill_gradients(parts);
         adam.step(0.1);
       },
       "[Adam] expected parameter first.kernel contiguous and of shape (2, 3), as the optimiser met it; it "
       "is now "
       "(5, 5)"},
      {"learning rate of no step", [] { LearningRateSchedule{.base = 1}(-1); },
       "[learning rate] expected a step number >= 0, got -1"},
      {"warm-up longer than the training",
       [] { LearningRateSchedule{.base = 1, .warmup_steps = 5, .anneal_total_steps = 4}(6); },
       "[learning rate] expected more steps in total than in the warm-up, got 4 and 5"},
  });
}

TEST_CASE("errors of files") {
  const TemporaryFolder folder;
  check_rows({
      {"missing file", [&] { read_file(folder / "none"); },
       "[file] cannot read '*/none': No such file or directory; check the path, and create the folder first"},
      {"folder in place of a file", [&] { read_file(folder.path()); },
       "[file] cannot read '*': Is a directory; give the name of a file, not of a folder"},
      {"folder that exists", [&] { publish_folder(folder.path(), [](const std::string&) {}); },
       "[file] expected '*' to be a new folder, but it exists; nothing is ever replaced"},
      {"missing safetensors file", [&] { read_safetensors(folder / "none.safetensors"); },
       "[file] cannot read '*none.safetensors': No such file or directory; *"},
      {"file of a few bytes", [] { parse("abc"); },
       "[safetensors] f, byte 3: expected 8 bytes of header length, the file ends after 3; truncated?"},
      {"truncated header", [] { parse(file_of("{}").substr(0, 9)); },
       "[safetensors] f, byte 0: expected a header length of at most 1, the rest of the file, got 2; "
       "truncated or "
       "foreign file?"},
      {"another format", [] { parse(file_of("PNG")); },
       "[safetensors] f, byte 8: expected '{', the start of the JSON header, got byte 80; foreign file?"},
      {"empty header", [] { parse(file_of("")); },
       "[safetensors] f, byte 8: expected '{', the start of the JSON header, got an empty header; foreign "
       "file?"},
      {"header that is no JSON", [] { parse(file_of("{\"a\":")); },
       "[safetensors] f, byte 13: expected a JSON header: *"},
      {"number out of range", [] { parse(file_of("{\"a\":1e999}")); },
       "[safetensors] f, byte 8: expected numbers within range in the header: *"},
      {"deep header", [] { parse(file_of("{\"a\":{\"b\":{\"c\":{\"d\":1}}}}")); },
       "[safetensors] f, byte 8: expected a header of at most three levels, got a deeper one"},
      {"name twice", [] { parse(file_of("{\"__metadata__\":{\"k\":\"v\",\"k\":\"w\"}}")); },
       "[safetensors] f, byte 8: expected each name once in the header, got \"k\" twice"},
      {"metadata that is a list", [] { parse(file_of("{\"__metadata__\":[]}")); },
       "[safetensors] f, byte 8: expected __metadata__ to be an object of strings, got array"},
      {"metadata that is a number", [] { parse(file_of("{\"__metadata__\":{\"k\":1}}")); },
       "[safetensors] f, byte 8: expected __metadata__ 'k' to be a string, got number"},
      {"entry without offsets", [] { parse_tensor("{\"dtype\":\"F32\",\"shape\":[1]}"); },
       "[safetensors] f, byte 8: tensor 'a': expected an object with dtype, shape and data_offsets, got "
       "{\"dtype\":\"F32\",\"shape\":[1]}"},
      {"dtype of a file",
       [] { parse_tensor("{\"dtype\":\"F8\",\"shape\":[1],\"data_offsets\":[0,1]}", "x"); },
       "[safetensors] f, byte 8: tensor 'a': expected a dtype of F32, F64, *; got \"F8\""},
      {"shape that is a number",
       [] { parse_tensor("{\"dtype\":\"F32\",\"shape\":4,\"data_offsets\":[0,4]}", "1234"); },
       "[safetensors] f, byte 8: tensor 'a': expected a shape of at most 8 sizes, got 4"},
      {"negative size in a file",
       [] { parse_tensor("{\"dtype\":\"F32\",\"shape\":[-1],\"data_offsets\":[0,4]}", "1234"); },
       "[safetensors] f, byte 8: tensor 'a': expected a shape of sizes >= 0 whose product fits, got [-1]"},
      {"negative offset", [] { parse_tensor("{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[-4,0]}"); },
       "[safetensors] f, byte 8: tensor 'a': expected data_offsets [begin, end] >= 0, got [-4,0]"},
      {"truncated data",
       [] { parse_tensor("{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}", "1234"); },
       "[safetensors] f, byte *: tensor 'a': expected data_offsets within the 4 bytes of data, got [0, 8]; "
       "truncated?"},
      {"another size of data",
       [] { parse_tensor("{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,4]}", "1234"); },
       "[safetensors] f, byte *: tensor 'a': expected 8 bytes for F32 (2,), got 4"},
      {"hole in the data",
       [] { parse_tensor("{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]}", "12345678"); },
       "[safetensors] f, byte *: tensor 'a': expected its data here without a hole, got offset 4 instead of "
       "0"},
      {"data behind the last tensor",
       [] { parse_tensor("{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}", "12345678"); },
       "[safetensors] f, byte *: expected the end of the file, got 4 more bytes"},
      {"tensor that is not in the file",
       [] {
         NamedTensors content;
         content.source = "f";
         content.tensors["a"] = ones({1});
         content.at("b");
       },
       "[safetensors] f: expected a tensor named 'b'; there are: a"},
      {"reserved name",
       [] {
         NamedTensors content;
         content.tensors["__metadata__"] = ones({1});
         format_safetensors(content);
       },
       "[safetensors] expected no tensor named __metadata__, which the format reserves, got one"},
      {"name that is no text",
       [] {
         NamedTensors content;
         content.tensors["\xff"] = ones({1});
         format_safetensors(content);
       },
       "[safetensors] expected names and metadata to be UTF-8 text: *"},
  });
}

TEST_CASE("errors of configurations") {
  const auto read = [](const char* text) { return [text] { config_from_json(text, "f").validate(); }; };
  check_rows({
      {"no JSON", read("{"), "[config] f: expected JSON, got an error at byte *"},
      {"a list", read("[]"), "[config] f: expected a JSON object, got []"},
      {"unknown key", read("{\"train\": {\"lerning_rate\": 1}}"),
       "[config] f, section 'train': unknown key 'lerning_rate'; did you mean 'learning_rate'?"},
      {"section that is a number", read("{\"train\": 3}"),
       "[config] f: expected an object for 'train', got 3"},
      {"value of another kind", read("{\"train\": {\"batch_size\": \"many\"}}"),
       "[config] f: expected a number as the value of 'batch_size', got \"many\""},
      {"value out of range", read("{\"train\": {\"batch_size\": 0}}"),
       "[config] *expected batch_size >= 1, got 0"},
      {"network that cannot be built", read("{\"model\": {\"channels\": 2}}"),
       "[*] *channels must be at least 4 *, got 2"},
  });
}
