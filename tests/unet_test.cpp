// diffusion/unet.h and diffusion/unet_config.h. The official code's numbers: tests/golden_runner/jax_unet.cpp
// and jax_embedding.cpp.
#include "diffusion/unet.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>

#include "autograd/gradcheck.h"
#include "tensor/error.h"
#include "tests/golden_runner/jax_unet.h"

using namespace halfstep;
using halfstep::test::GoldenCase;

namespace {

double max_abs(const std::vector<double>& values) {
  double result = 0;
  for (const double v : values)
    if (!(std::abs(v) <= result)) result = std::isnan(v) ? INFINITY : std::abs(v);
  return result;
}

double max_difference(const Variable& a, const Variable& b) {
  require(a.shape() == b.shape(), "max_difference", "{} against {}", str(a.shape()), str(b.shape()));
  return max_abs((a - b).value().to_vector<double>());
}

/// Moves every parameter off its first value, so that no gradient vanishes behind a layer that starts at 0.
void randomise(UNet& net) {
  for_each_parameter(net, [](const std::string& name, Parameter& p) {
    p.set_value(
        add(p.value(),
            affine(random_normal(p.shape(), fold_in(RandomKey{77, 1}, name), 0, p.options()), 0.2, 0)));
  });
}

/// Small enough for finite differences through the whole network, with every kind of block on both levels.
UNetConfig small_config() {
  UNetConfig config;
  config.height = 8;
  config.width = 4;
  config.in_channels = 2;
  config.out_channels = 3;
  config.channels = 8;
  config.emb_channels = 12;
  config.channel_multipliers = {1, 2};
  config.num_res_blocks = 1;
  config.attention_resolutions = {8};
  config.num_heads = 2;
  config.groups = 4;
  return config;
}

const std::vector<double> kLogsnr = {-3.25, 4.5};

Tensor images(const UNetConfig& config, DType dtype) {
  return random_normal({2, config.height, config.width, config.in_channels}, {5, 6}, 0, {.dtype = dtype});
}

Tensor labels(const UNetConfig& config, std::vector<int64_t> values = {2, 0}) {
  return config.conditional() ? Tensor::from(values, {2}, {.dtype = DType::i64}) : Tensor{};
}

/// Differences against backward, for the images and every parameter tensor of a randomised network.
void check_gradients(const UNetConfig& config, ForwardContext context = {}) {
  UNet net(config, 3, {.dtype = DType::f64});
  randomise(net);
  const Tensor label = labels(config);
  std::vector<Variable> inputs = {Variable(images(config, DType::f64), true)};
  std::vector<std::string> names = {"z"};
  for (const auto& [name, variable] : parameters(net)) {
    names.push_back(name);
    inputs.push_back(variable);
  }
  const auto forward = [&](const std::vector<Variable>& in) {
    UNet probe = net;
    size_t i = 1;
    for_each_parameter(probe, [&](const std::string&, Parameter& p) { static_cast<Variable&>(p) = in[i++]; });
    ForwardContext fresh = context;
    return probe(in[0], kLogsnr, label, fresh);
  };
  const GradcheckReport report =
      gradcheck(forward, inputs, {.mode = GradcheckMode::random_direction, .directions = 1});
  INFO("worst input: ", report.input >= 0 ? names[static_cast<size_t>(report.input)] : "none", " ",
       report.message);
  CHECK(report.ok);
  CHECK(report.worst_error <= 1e-6);

  // The check above says little where a gradient is 0 everywhere: only those that must vanish may.
  ForwardContext fresh = context;
  Variable out = net(inputs[0], kLogsnr, label, fresh);
  out.backward(Variable(random_normal(out.shape(), {8, 8}, 0, out.options())));
  for (size_t i = 0; i < inputs.size(); ++i) {
    INFO(names[i]);
    REQUIRE(inputs[i].grad().defined());
    const bool softmax_invariant = names[i].ends_with(".k.bias");
    CHECK((max_abs(inputs[i].grad().value().to_vector<double>()) > 1e-6) == !softmax_invariant);
  }
}

}  // namespace

TEST_CASE("logsnr embedding: the range of the linear input, and what it refuses") {
  UNetConfig config;
  config.logsnr_input = LogsnrInput::linear;
  config.logsnr_min = -4;
  config.logsnr_max = 12;
  CHECK(logsnr_input(config, {-4, 8, 20}, cpu_device()).to_vector<double>() ==
        std::vector<double>{0, 0.75, 1.5});  // not clipped
  const Tensor frequencies = embedding_frequencies(config.channels, cpu_device());
  CHECK_THROWS_WITH_AS(logsnr_embedding(config, {NAN}, frequencies, DType::f32),
                       doctest::Contains("[logsnr_embedding]"), Error);
  CHECK_THROWS_WITH_AS(logsnr_input_by_name("log"), doctest::Contains("linear, sigmoid or inv_cos, got log"),
                       Error);
}

TEST_CASE("UNet: in double nothing but the golden file's rounding separates us from the official code") {
  // The runner holds this case to its own tolerances, which have room for f32. The file's numbers are rounded
  // to f32: 2^-24 of each element.
  const GoldenCase golden(test::golden_folder("jax/02a_unet_small"));
  const TensorOptions options{.dtype = DType::f64};
  const test::UNetResult result = test::evaluate(test::unet_of(golden, options), golden, options);
  const auto zero_gradients = golden.facts.at("zero_gradient_params").get<std::vector<std::string>>();
  const auto share = [&](const std::string& name, const Tensor& actual) {
    return test::compare(name, golden.raw(name), actual.reshape(golden.raw(name).shape()), {{1e-7}, true})
        .share;
  };
  CHECK(share("ref64/out", result.out.value()) <= 1);
  CHECK(share("ref64/grad_input", result.grad_input.value()) <= 1);
  size_t checked = 0;
  for (const auto& entry : golden.facts.at("grad_full")) {
    const auto path = entry.get<std::string>();
    INFO(path);
    const Tensor& gradient = result.gradients.at(test::dotted(path));
    const bool zero = std::find(zero_gradients.begin(), zero_gradients.end(), path) != zero_gradients.end();
    if (zero)
      CHECK(max_abs(gradient.to_vector<double>()) <= 1e-11);
    else
      CHECK(share("ref64/grad/" + path, gradient) <= 1);
    ++checked;
  }
  CHECK(checked > 300);
}

TEST_CASE("UNet: gradients of every parameter against differences, residual resampling") {
  check_gradients(small_config());
}

TEST_CASE("UNet: gradients with plain resampling (stride-2 convolutions)") {
  UNetConfig config = small_config();
  config.resblock_resample = false;
  config.channel_multipliers = {2, 1};
  check_gradients(config);
}

TEST_CASE("UNet: gradients with classes, head_dim and the sigmoid input") {
  UNetConfig config = small_config();
  config.num_classes = 3;
  config.num_heads = 1;
  config.head_dim = 4;
  config.logsnr_input = LogsnrInput::sigmoid;
  check_gradients(config);
}

TEST_CASE("UNet: gradients with the space-to-depth stem, the linear input and dropout") {
  UNetConfig config = small_config();
  config.space_to_depth = 2;
  config.attention_resolutions = {4};
  config.logsnr_input = LogsnrInput::linear;
  config.dropout = 0.25;
  check_gradients(config, {.training = true, .key = {4, 2}});
}

TEST_CASE("UNet: the wiring, written out for blocks that are their shortcuts") {
  UNetConfig config = small_config();
  config.resblock_resample = false;
  config.channel_multipliers = {1, 1};
  // conv2 and proj_out start at 0: blocks without a shortcut are the identity, the others are nin_shortcut.
  UNet net(config, 2, {.dtype = DType::f64});
  net.conv_out.kernel.set_value(
      init::lecun_normal()(net.conv_out.kernel.shape(), {1, 1}, {.dtype = DType::f64}));
  const Variable z(images(config, DType::f64));
  const auto shortcut = [](const ResnetBlock& block, const Variable& h, const Variable& skip) {
    return (*block.nin_shortcut)(concat({h, skip}, -1));
  };
  const auto plain = [](const std::optional<Resampler>& resampler) { return std::get<Conv2d>(*resampler); };

  const Variable input = net.conv_in(z), block0 = input;
  const Variable halved = plain(net.down[0].downsample)(block0), block1 = halved;
  Variable h = block1;  // through the middle
  h = shortcut(net.up[1].blocks[0], h, block1);
  h = shortcut(net.up[1].blocks[1], h, halved);
  h = plain(net.up[1].upsample)(upsample_nearest(h));
  h = shortcut(net.up[0].blocks[0], h, block0);
  h = shortcut(net.up[0].blocks[1], h, input);
  h = net.conv_out(silu(net.norm_out(h)));

  ForwardContext context;
  CHECK(max_difference(net(z, kLogsnr, {}, context), h) <= 1e-12);
}

TEST_CASE("UNet: a class adds its row of class_emb and the bias to the conditioning") {
  UNetConfig config = small_config();
  config.num_classes = 3;
  UNet net(config, 2, {.dtype = DType::f64});
  randomise(net);
  UNet unconditional = net;
  unconditional.class_emb.reset();
  const Variable with = net.conditioning(kLogsnr, labels(config)),
                 without = unconditional.conditioning(kLogsnr, {});
  const Variable rows =
      concat({slice(net.class_emb->kernel, 0, 2, 3), slice(net.class_emb->kernel, 0, 0, 1)}, 0);
  CHECK(max_difference(with, without + rows + net.class_emb->bias) <= 1e-14);
}

TEST_CASE("UNet: head_dim and the space-to-depth stem are other words for networks that exist") {
  UNetConfig config = small_config();
  config.channel_multipliers = {1, 1};
  config.space_to_depth = 2;
  config.attention_resolutions = {4};
  UNet net(config, 2, {.dtype = DType::f64});
  randomise(net);
  const Variable z(images(config, DType::f64));
  ForwardContext context;
  const Variable out = net(z, kLogsnr, {}, context);

  UNetConfig by_width = config;
  by_width.num_heads = 1;
  by_width.head_dim = 4;
  UNet same(by_width, 0, {.dtype = DType::f64});
  load_state(same, state(net));
  CHECK(max_difference(same(z, kLogsnr, {}, context), out) == 0);

  UNetConfig inside = config;
  inside.space_to_depth = 1;
  inside.height /= 2;
  inside.width /= 2;
  inside.in_channels *= 4;
  inside.out_channels *= 4;
  UNet core(inside, 0, {.dtype = DType::f64});
  load_state(core, state(net));
  CHECK(max_difference(depth_to_space(core(space_to_depth(z), kLogsnr, {}, context)), out) == 0);
}

TEST_CASE("UNet: names and shapes of the parameters in every variant") {
  const auto shapes = [](const UNetConfig& config) {
    std::map<std::string, Shape> result;
    for_each_parameter(UNet(config),
                       [&](const std::string& name, const Parameter& p) { result.emplace(name, p.shape()); });
    return result;
  };
  const auto block = [](bool shortcut) { return shortcut ? 12 : 10; };  // tensors per residual block

  UNetConfig config = small_config();
  auto names = shapes(config);
  // dense0, dense1, conv_in, norm_out, conv_out; down: 1 block + attention, downsample, 1 block; middle; up:
  // 2 blocks, upsample, 2 blocks + 2 attentions. All up blocks have a shortcut.
  CHECK(names.size() == size_t(10 + block(false) + 10 + block(false) + block(true) + 2 * block(false) + 10 +
                               2 * block(true) + block(false) + 2 * (block(true) + 10)));
  CHECK(names.at("dense0.kernel") == Shape{8, 12});
  CHECK(names.at("dense1.kernel") == Shape{12, 12});
  CHECK(names.at("conv_in.kernel") == Shape{3, 3, 2, 8});
  CHECK(names.at("down_0.attn_0.q.kernel") == Shape{8, 8});
  CHECK(names.at("down_0.downsample.conv1.kernel") == Shape{3, 3, 8, 8});
  CHECK(names.at("down_1.block_0.temb_proj.kernel") == Shape{12, 32});
  CHECK(names.at("down_1.block_0.nin_shortcut.kernel") == Shape{8, 16});
  CHECK(names.at("mid.attn_1.proj_out.kernel") == Shape{16, 16});
  CHECK(names.at("up_1.block_1.conv1.kernel") ==
        Shape{3, 3, 24, 16});  // 16 from below, 8 from the downsample's skip
  CHECK(names.at("up_1.upsample.norm1.scale") == Shape{16});
  CHECK(names.at("up_0.block_0.norm1.bias") == Shape{24});
  CHECK(names.at("up_0.attn_1.v.bias") == Shape{8});
  CHECK(names.at("conv_out.kernel") == Shape{3, 3, 8, 3});
  CHECK(!names.contains("class_emb.kernel"));
  CHECK(!names.contains("down_1.attn_0.q.kernel"));
  CHECK(!names.contains("down_1.downsample.conv1.kernel"));
  CHECK(!names.contains("up_0.upsample.conv1.kernel"));

  config.resblock_resample = false;
  names = shapes(config);
  CHECK(names.at("down_0.downsample.kernel") == Shape{3, 3, 8, 8});
  CHECK(names.at("up_1.upsample.bias") == Shape{16});

  config.num_classes = 10;
  CHECK(shapes(config).at("class_emb.kernel") == Shape{10, 12});

  config.space_to_depth = 2;
  names = shapes(config);
  CHECK(names.at("conv_in.kernel") == Shape{3, 3, 8, 8});
  CHECK(names.at("conv_out.kernel") == Shape{3, 3, 8, 12});
  CHECK(!names.contains("down_0.attn_0.q.kernel"));  // 8 is the height outside the stem; inside it is 4 and 2
}

TEST_CASE("UNet: a new network predicts 0, and f32 and f64 start alike") {
  const UNetConfig config = small_config();
  const UNet net(config, 11), wide(config, 11, {.dtype = DType::f64}), other(config, 12);
  ForwardContext context;
  const Tensor out = net(Variable(images(config, DType::f32)), kLogsnr, {}, context).value();
  CHECK(out.shape() == Shape{2, 8, 4, 3});
  CHECK(max_abs(out.to_vector<double>()) == 0);

  const TensorMap values = state(net), wide_values = state(wide), other_values = state(other);
  for (const auto& entry : values) {
    const std::string& name = entry.first;
    const Tensor& value = entry.second;
    const auto a = value.to_vector<double>();
    INFO(name);
    const double difference = max_difference(Variable(value.to(DType::f64)), Variable(wide_values.at(name)));
    CHECK(difference <= 1.2e-7 * max_abs(a));  // one rounding to f32
    const bool constant = name.ends_with("bias") || name.ends_with("scale") ||
                          name.ends_with("conv2.kernel") || name.ends_with("proj_out.kernel") ||
                          name == "conv_out.kernel";
    CHECK((a == other_values.at(name).to_vector<double>()) == constant);
    if (name.ends_with("kernel")) CHECK((max_abs(a) == 0) == constant);
  }
}

TEST_CASE("UNet: images do not influence each other, and recording changes nothing") {
  UNetConfig config = small_config();
  config.num_classes = 3;
  UNet net(config, 1, {.dtype = DType::f64});
  randomise(net);
  const Tensor z = images(config, DType::f64);
  ForwardContext context;
  const Variable both = net(Variable(z), kLogsnr, labels(config), context);
  CHECK(both.requires_grad());
  NoGrad guard;
  const Variable second =
      net(Variable(z.slice(0, 1, 2)), {kLogsnr[1]}, labels(config).slice(0, 1, 2), context);
  CHECK(!second.requires_grad());
  // Kernels may sum a larger batch in another order.
  CHECK(max_difference(slice(both, 0, 1, 2), second) <= 1e-12 * max_abs(second.value().to_vector<double>()));
  CHECK(net(Variable(z), kLogsnr, labels(config), context).value().to_vector<double>() ==
        both.value().to_vector<double>());
  // Noise level and class matter.
  const auto first = both.value().slice(0, 0, 1).to_vector<double>();
  const Variable x0(z.slice(0, 0, 1));
  CHECK(net(x0, {1.0}, labels(config).slice(0, 0, 1), context).value().to_vector<double>() != first);
  CHECK(net(x0, {kLogsnr[0]}, labels(config).slice(0, 1, 2), context).value().to_vector<double>() != first);
}

TEST_CASE("UNet: dropout follows the context's key, and only while training") {
  UNetConfig config = small_config();
  config.dropout = 0.3;
  UNet net(config, 1);
  randomise(net);
  const Variable z(images(config, DType::f32));
  const auto run = [&](ForwardContext context) {
    return net(z, kLogsnr, {}, context).value().to_vector<double>();
  };
  const auto masked = run({.training = true, .key = {1, 2}});
  CHECK(masked == run({.training = true, .key = {1, 2}}));
  CHECK(masked != run({.training = true, .key = {1, 3}}));
  CHECK(masked != run({.training = true, .key = {1, 2}, .keys_taken = 1}));
  const auto plain = run({});
  CHECK(masked != plain);
  CHECK(plain == run({.training = false, .key = {1, 3}}));

  // One key per residual block: two ways down, one down, two in the middle, four up, one up.
  ForwardContext context{.training = true};
  net(z, kLogsnr, {}, context);
  CHECK(context.keys_taken == 10);
}

TEST_CASE("UNet: what does not fit is named") {
  const UNetConfig good = small_config();
  const auto refused = [&](auto change, const char* text) {
    UNetConfig config = good;
    change(config);
    CAPTURE(text);
    CHECK_THROWS_WITH_AS(UNet{config}, doctest::Contains(text), Error);
  };
  refused([](auto& c) { c.height = 9; }, "[UNetConfig] height 9 is not divisible by 2");
  refused([](auto& c) { c.width = 6, c.space_to_depth = 2; }, "width 6 is not divisible by 4");
  refused([](auto& c) { c.groups = 3; }, "groups 3 does not divide channels 8; use groups 1");
  refused([](auto& c) { c.num_heads = 3; }, "num_heads 3 does not divide the 8 channels of level 0");
  refused([](auto& c) { c.num_heads = 1, c.head_dim = 5; },
          "head_dim 5 does not divide the 8 channels of level 0");
  refused([](auto& c) { c.head_dim = 4; }, "expected num_heads or head_dim");
  refused([](auto& c) { c.num_heads = 0; }, "expected num_heads or head_dim");
  refused([](auto& c) { c.channel_multipliers = {}; }, "channel_multipliers must name 1 to 31 levels");
  refused([](auto& c) { c.channel_multipliers = {1, 0}; }, "channel_multipliers must be positive, got 0");
  refused([](auto& c) { c.num_res_blocks = 0; }, "num_res_blocks must be positive");
  refused([](auto& c) { c.channels = 2; }, "channels must be at least 4");
  refused([](auto& c) { c.dropout = 1; }, "dropout must lie in [0, 1)");
  refused([](auto& c) { c.dropout = NAN; }, "dropout must lie in [0, 1)");
  refused([](auto& c) { c.logsnr_min = 10; }, "logsnr_min must be below logsnr_max");

  const Variable z(images(good, DType::f32));
  const Tensor two_labels = Tensor::from(std::vector<int64_t>{0, 1}, {2}, {.dtype = DType::i64});
  ForwardContext context;
  const UNet net(good);
  CHECK_THROWS_WITH_AS(net(z, {1.0}, {}, context), doctest::Contains("expected images (1, 8, 4, 2)"), Error);
  CHECK_THROWS_WITH_AS(net(z, kLogsnr, two_labels, context), doctest::Contains("unconditional"), Error);
  UNetConfig conditional = good;
  conditional.num_classes = 2;
  const UNet classes(conditional);
  CHECK_NOTHROW(classes(z, kLogsnr, two_labels, context));
  CHECK_THROWS_WITH_AS(classes(z, kLogsnr, {}, context), doctest::Contains("expects an i64 label"), Error);
  CHECK_THROWS_WITH_AS(classes(z, kLogsnr, labels(conditional, {2, 0}), context),
                       doctest::Contains("expected labels in 0 ... 1, got 2"), Error);
}
