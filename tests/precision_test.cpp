// bf16: entries that compute in f32 and round once, gradients, and networks in mixed precision, on the CPU,
// by the plain loops, and on a GPU where there is one (an emulated one, too).
#include "nn/precision.h"

#include <doctest/doctest.h>

#include <cmath>
#include <functional>
#include <string>
#include <vector>

#include "autograd/functional.h"
#include "autograd/ops.h"
#include "diffusion/distill.h"
#include "diffusion/sampler.h"
#include "diffusion/trainer.h"
#include "nn/layers.h"
#include "tests/device_without_bf16.h"
#include "tests/error_of.h"
#include "tests/tiny_training.h"
#include "tests/worst.h"

using namespace halfstep;
using namespace halfstep::test;

namespace {

/// The unit roundoff of bf16: rounding to 8 bits changes a number by at most this part of it.
constexpr double kUnit = 0x1p-8;

std::vector<Device*> devices() {
  std::vector<Device*> all{&reference_device(), &cpu_device()};
  if (const CudaProbe probe = probe_cuda(); probe.backend && probe.backend->computes_bf16)
    all.push_back(&device_by_name("cuda"));
  return all;
}

/// Numbers that bf16 holds, f64 on the reference device.
Tensor rounded_normal(const Shape& shape, uint64_t seed) {
  return random_normal(shape, {seed, 0}, 0, {DType::f32, &reference_device()}).to(DType::bf16).to(DType::f64);
}

using Tensors = std::vector<Tensor>;

/// A function of tensors. inputs: f64 on the reference device. The last `fine` of them are f32 beside bf16:
/// gains, biases, statistics.
struct EntryCase {
  std::string name;
  Tensors inputs;
  std::function<Tensors(const Tensors&)> function;
  size_t fine = 0;
};

/// Each result in bf16 (or f32: statistics) against that of the same numbers in f64. The entry computes in
/// f32, whose error, for sums of a few hundred terms, stays below 2^-14 of the largest result, and rounds to
/// bf16 once: by half a unit in the last of 8 bits, u of the number. A second rounding would exceed that at
/// some of hundreds of elements.
void check_entry(const EntryCase& c, Device& device) {
  CAPTURE(c.name);
  CAPTURE(device.name());
  Tensors in;
  for (size_t i = 0; i < c.inputs.size(); ++i) {
    const Tensor& x = c.inputs[i];
    const bool stays = x.dtype() == DType::i64 || i + c.fine >= c.inputs.size();
    in.push_back(x.to(x.dtype() == DType::i64 ? DType::i64 : stays ? DType::f32 : DType::bf16).to(device));
  }
  const Tensors got = c.function(in), expected = c.function(c.inputs);
  REQUIRE(got.size() == expected.size());
  for (size_t k = 0; k < got.size(); ++k) {
    CAPTURE(k);
    REQUIRE(got[k].shape() == expected[k].shape());
    const std::vector<double> a = got[k].to_vector<double>(), b = expected[k].to_vector<double>();
    if (got[k].dtype() == DType::i64) {
      CHECK(a == b);
      continue;
    }
    const bool is_rounded = got[k].dtype() == DType::bf16;
    CHECK((is_rounded || got[k].dtype() == DType::f32));
    double largest = 0, worst = 0;
    for (const double v : b) largest = std::max(largest, std::abs(v));
    for (size_t i = 0; i < a.size(); ++i) {
      const double allowed = 0x1p-14 * largest + (is_rounded ? kUnit / (1 + kUnit) * std::abs(b[i]) : 0);
      keep_worst(worst, std::abs(a[i] - b[i]) - allowed);  // above 0: too far
    }
    CHECK(worst <= 0);
  }
}

Tensor fine_normal(const Shape& shape, uint64_t seed) {
  return random_normal(shape, {seed, 0}, 0, {DType::f32, &reference_device()}).to(DType::f64);
}

/// Both directions of a group norm, with gain and bias per example in f32.
EntryCase norm_case(const Shape& shape, int groups) {
  const Shape factors = {shape[0], shape[shape.rank() - 1]};
  return {"group norm of " + str(shape),
          {rounded_normal(shape, 31), rounded_normal(shape, 32), fine_normal(factors, 33),
           fine_normal(factors, 34)},
          [groups](const Tensors& in) {
            const GroupNormResult r = group_norm(in[0], in[2], in[3], groups, 1e-6, Activation::silu);
            const GroupNormGradients d =
                group_norm_backward(in[1], in[0], in[2], in[3], r, groups, 1e-6, Activation::silu);
            return Tensors{r.y, r.mean, r.rstd, d.dx, d.dgain, d.dbias};
          },
          2};
}

std::vector<EntryCase> entry_cases() {
  const Tensor x = rounded_normal({2, 6, 5, 8}, 1), y = rounded_normal({2, 6, 5, 8}, 2),
               row = rounded_normal({8}, 3);
  const Tensor kernel = rounded_normal({3, 3, 8, 16}, 6), kernel_bias = rounded_normal({16}, 7),
               dy = rounded_normal({2, 6, 5, 16}, 8);
  const Tensor q = rounded_normal({2, 12, 2, 8}, 9), k = rounded_normal({2, 12, 2, 8}, 10),
               v = rounded_normal({2, 12, 2, 8}, 11), d_out = rounded_normal({2, 12, 2, 8}, 12);
  const Tensor a = rounded_normal({3, 40, 24}, 13), b = rounded_normal({3, 24, 16}, 14);
  const Tensor index =
      Tensor::from(std::vector<int64_t>{3, 0, 5, 5}, {1, 4, 1, 1}, {DType::i64, &reference_device()})
          .expand({2, 4, 5, 8})
          .contiguous();
  const Conv2dGeometry same{.pad_top = 1, .pad_bottom = 1, .pad_left = 1, .pad_right = 1};
  const Conv2dGeometry half{.stride_h = 2, .stride_w = 2, .pad_bottom = 1, .pad_right = 1};
  const auto f32 = [](const Tensor& t) { return t.to(DType::f32).to(DType::f64); };
  const AttentionResult attended = attention(q, k, v, 0.4);
  const Tensor out = attended.out.to(DType::bf16).to(DType::f64), log_sum_exp = f32(attended.log_sum_exp);
  const Tensor probability = softmax(x).to(DType::bf16).to(DType::f64);
  return {
      {"silu", {x}, [](const Tensors& in) { return Tensors{unary({.op = UnaryOp::silu}, in[0])}; }},
      {"derivative",
       {x},
       [](const Tensors& in) { return Tensors{unary({.op = UnaryOp::silu, .derivative = 1}, in[0])}; }},
      {"chain",
       {x, y},
       [](const Tensors& in) {
         return Tensors{unary_chain({.op = UnaryOp::silu, .derivative = 1}, in[1], in[0])};
       }},
      {"affine of strides",
       {x},
       [](const Tensors& in) { return Tensors{affine(in[0].transpose(1, 3), 1.7, 0.3)}; }},
      {"add", {x, y}, [](const Tensors& in) { return Tensors{add(in[0], in[1])}; }},
      {"multiply a row", {x, row}, [](const Tensors& in) { return Tensors{multiply(in[0], in[1])}; }},
      {"in place",
       {x, row},
       [](const Tensors& in) {
         const Tensor target = in[0].clone();
         binary_(BinaryOp::add, target, in[1]);
         return Tensors{target};
       }},
      {"where",
       {x, y},
       [](const Tensors& in) { return Tensors{where(less(in[0], in[1]), in[0], affine(in[1], 3, 0))}; }},
      {"sum",
       {x},
       [](const Tensors& in) {
         return Tensors{sum(in[0], {1, 2}), sum(in[0]), sum_to(in[0], {8})};
       }},
      {"extrema",
       {x},
       [](const Tensors& in) {
         return Tensors{max(in[0], {3}), min(in[0]), argmax(in[0], 3)};
       }},
      {"cumulative sum", {x}, [](const Tensors& in) { return Tensors{cumulative_sum(in[0], 1)}; }},
      {"sort",
       {x},
       [](const Tensors& in) {
         return Tensors{argsort(in[0], 3), sort(in[0], 1, true)};
       }},
      {"gather", {x, index}, [](const Tensors& in) { return Tensors{gather(in[0], 1, in[1])}; }},
      {"scatter_add",
       {rounded_normal({2, 4, 5, 8}, 15), index},
       [](const Tensors& in) { return Tensors{scatter_add(in[0], 1, in[1], 6)}; }},
      {"matmul",
       {a, b, rounded_normal({16}, 16)},
       [](const Tensors& in) {
         return Tensors{matmul(in[0], in[1], in[2]), matmul(in[0], in[1])};
       }},
      {"matmul that is added to",
       {a.slice(0, 0, 1).squeeze(0), b.slice(0, 0, 1).squeeze(0), rounded_normal({40, 16}, 23)},
       [](const Tensors& in) {
         const Tensor c = in[2].clone();
         c.device().backend.gemm(
             {.a = in[0].array(), .b = in[1].array(), .c = c.array(), .bias = {}, .beta = 1});
         return Tensors{c};
       }},
      {"conv2d",
       {x, kernel, kernel_bias},
       [=](const Tensors& in) {
         return Tensors{conv2d(in[0], in[1], in[2], same), conv2d(in[0].slice(2, 0, 4), in[1], {}, half)};
       }},
      {"conv2d backward",
       {x, kernel, dy},
       [=](const Tensors& in) {
         return Tensors{conv2d_backward_data(in[2], in[1], 6, 5, same),
                        conv2d_backward_kernel(in[0], in[2], 3, 3, same)};
       }},
      {"max_pool2d",
       {x},
       [](const Tensors& in) {
         const MaxPoolResult r = max_pool2d(in[0], 2, 2, {.stride_h = 2, .stride_w = 2});
         return Tensors{r.y, r.index};
       }},
      {"concat",
       {x, y},
       [](const Tensors& in) {
         return Tensors{concat({in[0], in[1]}, -1)};
       }},
      {"softmax", {x}, [](const Tensors& in) { return Tensors{softmax(in[0])}; }},
      {"softmax backward",
       {y, probability},
       [](const Tensors& in) { return Tensors{softmax_backward(in[0], in[1])}; }},
      {"attention",
       {q, k, v},
       [](const Tensors& in) {
         const AttentionResult r = attention(in[0], in[1], in[2], 0.4);
         return Tensors{r.out, r.log_sum_exp};
       }},
      {"attention backward",
       {d_out, q, k, v, out, log_sum_exp},
       [](const Tensors& in) {
         const AttentionGradients d = attention_backward(in[0], in[1], in[2], in[3], {in[4], in[5]}, 0.4);
         return Tensors{d.dq, d.dk, d.dv};
       },
       1},
      {"group norm with factors in bf16",
       {x, row, rounded_normal({8}, 17)},
       [](const Tensors& in) {
         return Tensors{group_norm(in[0], in[1], in[2], 2, 1e-6, Activation::none).y};
       }},
      norm_case({2, 6, 5, 8}, 4),     // whole vectors of channels
      norm_case({2, 5, 5, 6}, 3),     // single channels
      norm_case({1, 40, 30, 16}, 4),  // slices of the pixels
      {"odd number of elements",
       {rounded_normal({7, 3, 5}, 19), rounded_normal({7, 3, 5}, 20)},
       [](const Tensors& in) {
         return Tensors{add(in[0], in[1]), unary({.op = UnaryOp::silu}, in[0])};
       }},
      {"addresses that are not those of vectors",
       {rounded_normal({65}, 21), rounded_normal({65}, 22)},
       [](const Tensors& in) {
         const Tensor u = in[0].slice(0, 1, 65), w = in[1].slice(0, 1, 65);
         return Tensors{multiply(u, w), affine(u, 3, 1), where(less(u, w), u, w)};
       }},
      {"dropout",
       {x},
       [](const Tensors& in) {
         return Tensors{dropout(in[0], 0.3, {7, 1})};
       }},
      {"nothing",
       {rounded_normal({0, 8}, 18), row},
       [](const Tensors& in) {
         return Tensors{add(in[0], in[1]), sum(in[0], {0})};
       }},
  };
}

}  // namespace

TEST_CASE("bf16: entries compute in f32 and round once") {
  for (const EntryCase& c : entry_cases())
    for (Device* device : devices()) check_entry(c, *device);
}

TEST_CASE("bf16: random numbers are those of f32, rounded; norms of gradients are summed in f64") {
  for (Device* device : devices()) {
    const Tensor fine = random_normal({5, 7}, {3, 1}, 2, {DType::f32, device});
    const Tensor coarse = random_normal({5, 7}, {3, 1}, 2, {DType::bf16, device});
    CHECK(coarse.dtype() == DType::bf16);
    CHECK(coarse.to_vector<double>() == fine.to(DType::bf16).to_vector<double>());
    const Tensor squares = sum_of_squares({coarse});
    CHECK(squares.dtype() == DType::f64);
    CHECK(squares.item() == doctest::Approx(sum_of_squares({coarse.to(DType::f64)}).item()).epsilon(1e-6));
  }
}

// --- gradients
// -----------------------------------------------------------------------------------------------

namespace {

using Variables = std::vector<Variable>;

/// |a - b| / |b| in the Euclidean norm; NaN stays.
double relative(const Tensor& a, const Tensor& b) {
  REQUIRE(a.shape() == b.shape());
  const std::vector<double> x = a.to_vector<double>(), y = b.to_vector<double>();
  double error = 0, size = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    error += (x[i] - y[i]) * (x[i] - y[i]);
    size += y[i] * y[i];
  }
  return std::sqrt(error / size);
}

struct GradientCase {
  std::string name;
  Tensors inputs;  ///< that bf16 holds
  std::function<Variable(const Variables&)> function;
  /// Roundings between an input and the output, and back: each changes a result by at most u, as a part of
  /// it.
  double roundings;
  size_t fine = 0;
};

}  // namespace

TEST_CASE("bf16: gradients have the dtype of their values and are those of f32, rounded") {
  const Tensor x = rounded_normal({2, 4, 4, 8}, 1), y = rounded_normal({2, 4, 4, 8}, 2);
  const Tensor gain = rounded_normal({8}, 3), bias = rounded_normal({8}, 4);
  const Tensor q = rounded_normal({2, 9, 2, 8}, 5), k = rounded_normal({2, 9, 2, 8}, 6),
               v = rounded_normal({2, 9, 2, 8}, 7);
  const Conv2dGeometry same{.pad_top = 1, .pad_bottom = 1, .pad_left = 1, .pad_right = 1};
  const std::vector<GradientCase> cases{
      {"silu", {x}, [](const Variables& in) { return silu(in[0]); }, 1},
      {"affine", {x}, [](const Variables& in) { return 1.7 * in[0] + 0.3; }, 1},
      {"add a row", {x, gain}, [](const Variables& in) { return in[0] + in[1]; }, 1},
      {"multiply", {x, y}, [](const Variables& in) { return in[0] * in[1]; }, 1},
      {"concat",
       {x, y},
       [](const Variables& in) {
         return concat({in[0], in[1]}, -1);
       },
       0},
      {"upsample", {x}, [](const Variables& in) { return upsample_nearest(in[0]); }, 1},
      {"average_pool", {x}, [](const Variables& in) { return average_pool(in[0]); }, 2},
      {"max_pool2d",
       {x},
       [](const Variables& in) { return max_pool2d(in[0], 2, 2, {.stride_h = 2, .stride_w = 2}); },
       1},
      {"space_to_depth", {x}, [](const Variables& in) { return space_to_depth(in[0]); }, 0},
      {"sum",
       {x},
       [](const Variables& in) {
         return sum(in[0], {1, 2});
       },
       0},
      {"linear",
       {x, rounded_normal({8, 6}, 8), rounded_normal({6}, 9)},
       [](const Variables& in) { return linear(in[0], in[1], in[2]); },
       1},
      {"conv2d",
       {x, rounded_normal({3, 3, 8, 16}, 10), rounded_normal({16}, 11)},
       [=](const Variables& in) { return conv2d(in[0], in[1], in[2], same); },
       1},
      {"softmax", {x}, [](const Variables& in) { return softmax(in[0]); }, 2},
      {"logsumexp", {x}, [](const Variables& in) { return logsumexp(in[0], {3}); }, 6},
      {"attention", {q, k, v}, [](const Variables& in) { return attention(in[0], in[1], in[2]); }, 2},
      {"group norm",
       {x, gain, bias},
       [](const Variables& in) { return group_norm(in[0], in[1], in[2], 4, 1e-6, Activation::silu); },
       1,
       2},
      {"conversion",
       {x},
       [](const Variables& in) { return to(to(in[0], DType::f32) * 1.7, in[0].dtype()); },
       1},
  };
  for (const GradientCase& c : cases) {
    for (Device* device : devices()) {
      CAPTURE(c.name);
      CAPTURE(device->name());
      const auto gradients = [&](bool coarse) {
        Variables in;
        for (size_t i = 0; i < c.inputs.size(); ++i) {
          const bool fine = !coarse || i + c.fine >= c.inputs.size();
          in.emplace_back(c.inputs[i].to(fine ? DType::f32 : DType::bf16).to(*device), true);
        }
        const Variable out = c.function(in);
        CHECK(out.dtype() == (coarse ? DType::bf16 : DType::f32));
        const Variable upstream(rounded_normal(out.shape(), 20).to(out.dtype()).to(*device));
        Variables g = grad(out, in, upstream);
        for (size_t i = 0; i < in.size(); ++i) CHECK(g[i].dtype() == in[i].dtype());
        return g;
      };
      const Variables coarse = gradients(true), fine = gradients(false);
      for (size_t i = 0; i < coarse.size(); ++i) {
        CAPTURE(i);
        // 2^-12: what f32 itself may differ by.
        CHECK(relative(coarse[i].value(), fine[i].value()) <= (c.roundings + 1) * kUnit + 0x1p-12);
      }
    }
  }
}

TEST_CASE("bf16: a group norm with factors in f32 has second derivatives, in its values' dtypes") {
  const auto second = [](DType dtype) {
    const Variable x(rounded_normal({2, 3, 3, 8}, 1).to(cpu_device()).to(dtype), true);
    const Variable gain(rounded_normal({8}, 2).to(cpu_device()).to(DType::f32), true);
    const Variable bias(rounded_normal({8}, 3).to(cpu_device()).to(DType::f32), true);
    const Variable y = group_norm(x, gain, bias, 2, 1e-6, Activation::silu);
    const Variable upstream(rounded_normal(y.shape(), 4).to(cpu_device()).to(dtype));
    const Variable first = grad(y, {x}, upstream, true, true)[0];
    CHECK(first.dtype() == dtype);
    return grad(sum(square(to(first, DType::f32))), {x, gain});
  };
  const Variables coarse = second(DType::bf16), fine = second(DType::f32);
  CHECK(coarse[0].dtype() == DType::bf16);
  CHECK(coarse[1].dtype() == DType::f32);
  // Roundings of y, of the gradient, of its square's slope and of the result, each once on the way.
  for (size_t i = 0; i < 2; ++i) CHECK(relative(coarse[i].value(), fine[i].value()) <= 8 * kUnit);
}

TEST_CASE("bf16: layers take it from their input; their parameters and gradients stay f32") {
  Linear linear(8, 6);
  Conv2d conv(8, 6);
  GroupNorm norm(8, 4);
  LayerNorm layer(8);
  InstanceNorm instance(8);
  init_parameters(linear, 1);
  init_parameters(conv, 2);
  init_parameters(norm, 3);
  init_parameters(layer, 4);
  init_parameters(instance, 5);
  const Variable x(rounded_normal({2, 4, 4, 8}, 1).to(cpu_device()).to(DType::bf16));
  for (const Variable& y :
       {linear(x), conv(x), norm(x), layer(x), instance(x), layer_norm(x, {}, layer.bias)}) {
    CHECK(y.dtype() == DType::bf16);
    sum(y).backward();
  }
  for (const Parameter* p :
       {&linear.kernel, &linear.bias, &conv.kernel, &norm.scale, &layer.scale, &instance.bias}) {
    CHECK(p->dtype() == DType::f32);
    CHECK(p->grad().dtype() == DType::f32);
  }
}

// --- networks
// ------------------------------------------------------------------------------------------------

namespace {

constexpr Precision kBoth[] = {Precision::f32, Precision::bf16};

/// Roundings on the longest way through the tiny network: 7 residual blocks of 2 norms, 2 convolutions and a
/// sum, attention of 6, in 4 of them, resampling, conv_in and norm_out. In a residual network they add up
/// like parts of one sum, so that this many u bound the relative error of the output.
constexpr double kWay = 7 * 5 + 4 * 6 + 6;

/// No layer is 0, which would hide what is before it.
TensorMap randomised(const TensorMap& weights) {
  TensorMap result;
  for (const auto& [name, t] : weights) {
    const double size = t.rank() > 1 ? 1 / std::sqrt(static_cast<double>(t.numel() / t.size(-1))) : 0.1;
    const Tensor noise =
        random_normal(t.shape(), {7, static_cast<uint64_t>(t.numel())}, 0, {t.dtype(), &cpu_device()});
    result.emplace(name, affine(noise, size, name.ends_with("scale") ? 1 : 0).to(t.device()));
  }
  return result;
}

struct UpdateResult {
  double loss;
  TensorMap first_moments;  ///< of Adam: (1 - beta1) times the clipped gradients
};

/// One update from randomised weights.
UpdateResult first_update(Device& device, Precision precision, bool distilling) {
  Config config = tiny_config();
  config.train.precision = precision;
  Trainer trainer(config, device);
  trainer.start_from(randomised(trainer.weights()));
  UNet teacher(config.model.unet, 3, {DType::f32, &device});
  load_state(teacher, randomised(state(teacher)));
  set_requires_grad(teacher, false);
  const Batch batch = BatchSource(tiny_data(), 4, 1, true, device).batch(0);
  if (distilling)
    trainer.update(batch, make_denoiser(teacher, config.model.prediction, precision), 4);
  else
    trainer.update(batch);
  UpdateResult result{trainer.mean_loss(), {}};
  for (const auto& [name, t] : trainer.state()) {
    if (name.starts_with("raw.")) CHECK(t.dtype() == DType::f32);
    if (t.dtype() == DType::bf16) FAIL(name);
    if (name.starts_with("adam.m.")) result.first_moments.emplace(name, t.to(cpu_device()));
  }
  REQUIRE(!result.first_moments.empty());
  return result;
}

/// The difference of all gradients together, as a part of their size.
double relative(const TensorMap& a, const TensorMap& b) {
  double error = 0, size = 0;
  for (const auto& [name, t] : a) {
    const std::vector<double> x = t.to_vector<double>(), y = b.at(name).to_vector<double>();
    for (size_t i = 0; i < x.size(); ++i) {
      error += (x[i] - y[i]) * (x[i] - y[i]);
      size += y[i] * y[i];
    }
  }
  return std::sqrt(error / size);
}

}  // namespace

TEST_CASE("bf16: a network's output is that of f32 within its roundings, in f32, and not the same") {
  for (Device* device : devices()) {
    if (device == &reference_device()) continue;
    CAPTURE(device->name());
    Config config = tiny_config();
    config.model.unet.resblock_resample = false;
    UNet unet(config.model.unet, 1, {DType::f32, device});
    load_state(unet, randomised(state(unet)));
    const Variable z(random_normal({3, 8, 8, 1}, {2, 0}, 0, {DType::f32, device}));
    const auto output = [&](Precision precision) {
      const NoGrad guard;
      return make_denoiser(unet, Prediction::v, precision).network(z, {-3, 0, 4}, {}).value();
    };
    const Tensor fine = output(Precision::f32), coarse = output(Precision::bf16);
    CHECK(coarse.dtype() == DType::f32);
    const double error = relative(coarse, fine);
    CHECK(error <= kWay * kUnit);
    CHECK(error > kUnit / 16);  // the option has an effect
  }
}

TEST_CASE(
    "bf16: the first update's loss and gradients are those of f32 within their roundings, on every device") {
  for (const bool distilling : {false, true}) {
    CAPTURE(distilling);
    const UpdateResult fine = first_update(cpu_device(), Precision::f32, distilling);
    const UpdateResult cpu = first_update(cpu_device(), Precision::bf16, distilling);
    // The loss is a mean of squares of what carries kWay roundings: twice as many. Gradients pass the network
    // twice.
    CHECK(std::abs(cpu.loss - fine.loss) <= 2 * kWay * kUnit * fine.loss);
    CHECK(relative(cpu.first_moments, fine.first_moments) <= 2 * kWay * kUnit);
    CHECK(relative(cpu.first_moments, fine.first_moments) > kUnit / 16);
    for (Device* device : devices()) {
      if (device == &cpu_device()) continue;
      CAPTURE(device->name());
      const UpdateResult other = first_update(*device, Precision::bf16, distilling);
      // Devices sum in f32 in orders of their own, which tips some roundings over.
      CHECK(std::abs(other.loss - cpu.loss) <= 2 * kWay * kUnit * cpu.loss);
      CHECK(relative(other.first_moments, cpu.first_moments) <= 2 * kWay * kUnit);
    }
  }
}

TEST_CASE(
    "bf16: after some dozen updates the loss differs less from that of f32 than those of other seeds do") {
  const Dataset data = tiny_data();
  // Mean loss over the last third of 60 updates. Only the first weights depend on `seed`.
  const auto last_loss = [&](Precision precision, uint64_t seed) {
    Config config = tiny_config();
    config.train.max_steps = 60;
    config.train.precision = precision;
    Trainer trainer(config, cpu_device());
    trainer.start_from(state(UNet(config.model.unet, seed)));
    BatchSource batches(data, 4, 1, true, cpu_device());
    for (int step = 0; step < 60; ++step) {
      if (step == 40) trainer.restart_mean_loss();
      trainer.update(batches.batch(static_cast<uint64_t>(step)));
    }
    return trainer.mean_loss();
  };
  // A rounding of the activations does what another start does, but 2^8 times finer: the range of the losses
  // of four starts, on the same batches and noise, is far above it and far below an error of the method.
  double low = HUGE_VAL, high = -HUGE_VAL;
  for (const uint64_t seed : {1, 2, 3, 4}) {
    const double loss = last_loss(Precision::f32, seed);
    low = std::min(low, loss);
    high = std::max(high, loss);
  }
  const double fine = last_loss(Precision::f32, 1), coarse = last_loss(Precision::bf16, 1);
  MESSAGE("f32 " << fine << ", bf16 " << coarse << ", range of f32 over seeds " << low << " to " << high);
  CHECK(std::abs(coarse - fine) <= high - low);
  CHECK(coarse != fine);
}

TEST_CASE("bf16: a DDIM trajectory stays near that of f32") {
  const Config config = tiny_config();
  for (Device* device : devices()) {
    if (device == &reference_device()) continue;
    CAPTURE(device->name());
    UNet unet(config.model.unet, 3, {DType::f32, device});
    load_state(unet, randomised(state(unet)));
    const Tensor z = random_normal({2, 8, 8, 1}, {5, 0}, 0, {DType::f32, device});
    Trajectory way[2];
    for (const Precision precision : kBoth)
      sample(make_denoiser(unet, config.model.prediction, precision), z, {}, {.num_steps = 4},
             &way[precision == Precision::bf16]);
    CHECK(way[1].z.dtype() == DType::f32);
    // Four steps; each hands on what it was given and adds the roundings of one network.
    CHECK(relative(way[1].z, way[0].z) <= 4 * kWay * kUnit);
    CHECK(relative(way[1].z, way[0].z) > 0);
  }
}

TEST_CASE("bf16: a state that was saved goes on to the same bits; recomputed blocks, and f32 from there") {
  const Dataset data = tiny_data();
  Config config = tiny_config();
  config.model.unet.dropout = 0.2;
  config.train.precision = Precision::bf16;
  BatchSource batches(data, 4, 1, true, cpu_device());
  const auto update = [&](Trainer& trainer) {
    trainer.update(batches.batch(static_cast<uint64_t>(trainer.step())));
  };
  Trainer whole(config, cpu_device());
  for (int i = 0; i < 2; ++i) update(whole);
  TensorMap saved;
  for (const auto& [name, t] : whole.state()) saved.emplace(name, t.clone());
  for (int i = 0; i < 2; ++i) update(whole);

  Trainer continued(config, cpu_device());
  continued.load_state(saved);
  for (int i = 0; i < 2; ++i) update(continued);
  check_equal_bits(continued.state(), whole.state());

  // The masks of dropout are those of the first pass.
  const auto next_loss = [&](bool recompute) {
    config.train.recompute_blocks = recompute;
    Trainer trainer(config, cpu_device());
    trainer.load_state(saved);
    trainer.restart_mean_loss();
    update(trainer);
    return trainer.mean_loss();
  };
  CHECK(next_loss(true) == next_loss(false));

  // Weights of either precision serve the other: they are f32.
  config.train.precision = Precision::f32;
  Trainer fine(config, cpu_device());
  fine.load_state(saved);
  update(fine);
  CHECK(std::isfinite(fine.mean_loss()));
}

TEST_CASE("precision: names, and devices without bf16") {
  for (const Precision precision : kBoth) CHECK(precision_by_name(name_of(precision)) == precision);
  Device& old = device_without_bf16();
  Config config = tiny_config();
  Trainer(config, old);
  config.train.precision = Precision::bf16;
  const std::string expected =
      "[precision] expected a device that computes in bf16, got 'old'; a GPU needs compute capability 8.0: "
      "use f32";
  CHECK(error_of([&] { Trainer(config, old); }) == expected);
}
