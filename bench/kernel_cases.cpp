// Entries of the Backend table at the shapes of UNets.
#include <fmt/core.h>

#include <array>

#include "bench/cases.h"
#include "tensor/conv_method.h"
#include "tensor/tensor.h"

namespace halfstep::bench {
namespace {

Tensor filled(const Shape& shape, Device& device) {
  Tensor t = Tensor::empty(shape, {DType::f32, &device});
  device.backend.random({.kind = RandomKind::uniform, .out = t.reshape({1, t.numel()}).array(), .seed = 1});
  return t;
}

Case gemm(int64_t m, int64_t k, int64_t n, bool transpose_a = false, bool transpose_b = false) {
  return {fmt::format("gemm {}x{}x{}{}{}", m, k, n, transpose_a ? " a^T" : "", transpose_b ? " b^T" : ""),
          [=](Device& device) {
            const Tensor a = transpose_a ? filled({k, m}, device).transpose(0, 1) : filled({m, k}, device);
            const Tensor b = transpose_b ? filled({n, k}, device).transpose(0, 1) : filled({k, n}, device);
            const Tensor c = filled({m, n}, device);
            return [=, &entry = device.backend.gemm] {
              entry({.a = a.array(), .b = b.array(), .c = c.array(), .bias = {}});
            };
          }};
}

void add_conv(std::vector<Case>& cases, int64_t batch, int64_t size, int64_t in, int64_t out,
              int64_t kernel = 3, int stride = 1) {
  const auto add = [&](const char* pass, void (*Backend::*member)(Conv2dArgs)) {
    cases.push_back({fmt::format("conv{}x{} {} {}x{} {}->{} batch {}{}", kernel, kernel, pass, size, size, in,
                                 out, batch, stride > 1 ? fmt::format(" stride {}", stride) : ""),
                     [=](Device& device) {
                       const int64_t out_size = (size - 1) / stride + 1;
                       const int pad = static_cast<int>(kernel / 2);
                       const Tensor x = filled({batch, size, size, in}, device),
                                    w = filled({kernel, kernel, in, out}, device),
                                    y = filled({batch, out_size, out_size, out}, device);
                       return [=, entry = device.backend.*member] {
                         entry({.x = x.array(),
                                .kernel = w.array(),
                                .bias = {},
                                .y = y.array(),
                                .geometry = {stride, stride, pad, pad, pad, pad},
                                .method = conv_method()});
                       };
                     }});
  };
  add("forward", &Backend::conv2d_forward);
  add("data", &Backend::conv2d_backward_data);
  add("kernel", &Backend::conv2d_backward_kernel);
}

void add_group_norm(std::vector<Case>& cases, int64_t batch, int64_t pixels, int64_t channels, int groups) {
  for (const bool backward : {false, true}) {
    cases.push_back(
        {fmt::format("group_norm silu {} [{},{},{}]", backward ? "backward" : "forward", batch, pixels,
                     channels),
         [=](Device& device) -> std::function<void()> {
           const Shape shape{batch, pixels, channels}, row{batch, channels}, group{batch, groups};
           const Tensor x = filled(shape, device), y = filled(shape, device), dy = filled(shape, device);
           const Tensor gain = filled(row, device), bias = filled(row, device), dgain = filled(row, device),
                        dbias = filled(row, device);
           const Tensor mean = filled(group, device), rstd = filled(group, device);
           const auto args = [=] {
             return GroupNormArgs{.x = x.array(),
                                  .gain = gain.array(),
                                  .bias = bias.array(),
                                  .y = y.array(),
                                  .mean = mean.array(),
                                  .rstd = rstd.array(),
                                  .groups = groups,
                                  .activation = Activation::silu};
           };
           const Backend& b = device.backend;
           if (!backward) return [=, &b] { b.group_norm(args()); };
           return [=, &b] {
             GroupNormArgs forward = args();
             forward.y = {};
             b.group_norm_backward({forward, dy.array(), y.array(), dgain.array(), dbias.array()});
           };
         }});
  }
}

void add_attention(std::vector<Case>& cases, int64_t batch, int64_t length, int64_t heads, int64_t width) {
  for (const bool backward : {false, true}) {
    cases.push_back({fmt::format("attention {} {}x{}{} batch {}", backward ? "backward" : "forward", length,
                                 heads == 1 ? "" : fmt::format("{}x", heads), width, batch),
                     [=](Device& device) -> std::function<void()> {
                       const Shape shape{batch, length, heads, width};
                       const auto make = [&] { return filled(shape, device); };
                       const Tensor q = make(), k = make(), v = make(), out = make(), d_out = make(),
                                    dq = make(), dk = make(), dv = make(),
                                    lse = filled({batch, heads, length}, device);
                       const auto args = [=] {
                         return AttentionArgs{.q = q.array(),
                                              .k = k.array(),
                                              .v = v.array(),
                                              .out = out.array(),
                                              .log_sum_exp = lse.array(),
                                              .scale = 0.1};
                       };
                       const Backend& b = device.backend;
                       if (!backward) return [=, &b] { b.attention(args()); };
                       return [=, &b] {
                         b.attention_backward({args(), d_out.array(), dq.array(), dk.array(), dv.array()});
                       };
                     }});
  }
}

/// A case on four tensors of one shape.
Case on_images(const std::string& name, const Shape& shape,
               void (*run)(const Backend&, const Tensor&, const Tensor&, const Tensor&, const Tensor&)) {
  return {name, [=](Device& device) {
            const Tensor x = filled(shape, device), y = filled(shape, device), z = filled(shape, device),
                         u = filled(shape, device);
            return [=, &b = device.backend] { run(b, x, y, z, u); };
          }};
}

void add_elementwise(std::vector<Case>& cases) {
  using T = const Tensor&;
  using B = const Backend&;
  const Shape images{64, 28, 28, 32};
  const auto add = [&](const char* name, auto run) { cases.push_back(on_images(name, images, run)); };
  add("silu [64,28,28,32]",
      [](B b, T x, T y, T, T) { b.unary({.op = UnaryOp::silu}, y.array(), x.array()); });
  add("silu chain", [](B b, T x, T y, T z, T) {
    b.unary_chain({.op = UnaryOp::silu, .derivative = 1}, z.array(), y.array(), x.array());
  });
  add("add", [](B b, T x, T y, T z, T) { b.binary(BinaryOp::add, 0, z.array(), x.array(), y.array()); });
  add("add in place",
      [](B b, T x, T y, T, T) { b.binary(BinaryOp::add, 0, y.array(), y.array(), x.array()); });
  add("add [C]", [](B b, T x, T y, T z, T) {
    const Tensor channel = y.slice(0, 0, 1).slice(1, 0, 1).slice(2, 0, 1).expand(x.shape());
    b.binary(BinaryOp::add, 0, z.array(), x.array(), channel.array());
  });
  add("multiply [B,1,1,1]", [](B b, T x, T y, T z, T) {
    const Tensor example = y.slice(1, 0, 1).slice(2, 0, 1).slice(3, 0, 1).expand(x.shape());
    b.binary(BinaryOp::multiply, 0, z.array(), x.array(), example.array());
  });
  add("copy", [](B b, T x, T, T z, T) { b.copy(z.array(), x.array()); });
  add("copy NHWC->NCHW", [](B b, T x, T, T z, T) {
    const Tensor nchw = x.permute({0, 3, 1, 2});
    b.copy(z.reshape(nchw.shape()).array(), nchw.array());
  });
  add("upsample copy 2x2", [](B b, T x, T y, T, T) {
    const Tensor wide = x.reshape({64, 14, 2, 14, 2, 32}),
                 narrow = y.slice(0, 0, 16).reshape({64, 14, 1, 14, 1, 32});
    b.copy(wide.array(), narrow.expand(wide.shape()).array());
  });
  add("sum pool 2x2", [](B b, T x, T y, T, T) {
    const Tensor wide = x.reshape({64, 14, 2, 14, 2, 32}),
                 narrow = y.slice(0, 0, 16).reshape({64, 14, 1, 14, 1, 32});
    b.reduce(ReduceOp::sum, narrow.array(), wide.array());
  });
  add("sum all", [](B b, T x, T y, T, T) {
    b.reduce(ReduceOp::sum, y.slice(0, 0, 1).slice(1, 0, 1).slice(2, 0, 1).slice(3, 0, 1).array(), x.array());
  });
  add("sum to [C]", [](B b, T x, T y, T, T) {
    b.reduce(ReduceOp::sum, y.slice(0, 0, 1).slice(1, 0, 1).slice(2, 0, 1).array(), x.array());
  });
  add("sum pixels", [](B b, T x, T y, T, T) {
    b.reduce(ReduceOp::sum, y.slice(1, 0, 1).slice(2, 0, 1).array(), x.array());
  });
  add("dropout",
      [](B b, T x, T y, T, T) { b.dropout({.x = x.array(), .y = y.array(), .p = 0.1, .seed = 3}); });
  cases.push_back(on_images("normal [64,784]", {64, 784}, [](B b, T x, T, T, T) {
    b.random({.kind = RandomKind::normal, .out = x.array(), .seed = 2});
  }));
  cases.push_back({"adam 6.8M", [](Device& device) {
                     const Shape shape{6'800'000};
                     const Tensor param = filled(shape, device), grad = filled(shape, device),
                                  m = filled(shape, device), v = filled(shape, device);
                     const TensorOptions f64{DType::f64, &device};
                     const Tensor control = Tensor::from(std::vector<double>{1, 0, 1, 1}, {4}, f64);
                     const Tensor learning_rate = Tensor::scalar(1e-3, f64);
                     return [=, &entry = device.backend.adam] {
                       const AdamParameter list[] = {{param.array(), grad.array(), m.array(), v.array()}};
                       entry({.list = list,
                              .control = control.array(),
                              .learning_rate = learning_rate.array(),
                              .beta1 = 0.9,
                              .beta2 = 0.999,
                              .eps = 1e-8});
                     };
                   }});
}

}  // namespace

std::vector<Case> kernel_cases() {
  std::vector<Case> cases{gemm(1024, 1024, 1024), gemm(1024, 1024, 1024, true, false),
                          gemm(1024, 1024, 1024, false, true), gemm(50176, 288, 32), gemm(50176, 32, 32)};
  // Linear layers of UNets: pixels or examples x channels; output, gradient of the input, gradient of the
  // weights.
  for (const auto& [rows, in, out] :
       {std::array{32768, 192, 64}, {8192, 128, 128}, {2048, 256, 128}, {32, 256, 256}}) {
    cases.push_back(gemm(rows, in, out));
    cases.push_back(gemm(rows, out, in, false, true));
    cases.push_back(gemm(in, rows, out, true, false));
  }
  // The shapes that docs/performance.md compares.
  add_conv(cases, 32, 32, 64, 64);
  add_conv(cases, 32, 32, 192, 64);
  add_conv(cases, 32, 16, 128, 128);
  add_conv(cases, 32, 16, 256, 128);
  add_conv(cases, 32, 8, 128, 128);
  add_conv(cases, 4, 32, 256, 256);
  add_conv(cases, 4, 16, 512, 256);
  add_conv(cases, 64, 28, 32, 32);
  // Images and pictures at the ends of a network, and other kernels.
  add_conv(cases, 64, 28, 1, 32);
  add_conv(cases, 64, 28, 32, 1);
  add_conv(cases, 64, 14, 4, 32);
  add_conv(cases, 64, 14, 64, 64);
  add_conv(cases, 64, 7, 128, 128);
  add_conv(cases, 1, 16, 128, 128);
  add_conv(cases, 64, 14, 96, 64, 1);
  add_conv(cases, 64, 28, 32, 64, 3, 2);
  add_group_norm(cases, 32, 1024, 64, 32);
  add_group_norm(cases, 32, 256, 128, 32);
  add_group_norm(cases, 32, 64, 128, 32);
  add_group_norm(cases, 1, 1024, 64, 32);
  add_attention(cases, 32, 256, 1, 128);
  add_attention(cases, 32, 64, 1, 128);
  add_attention(cases, 64, 196, 2, 32);
  add_elementwise(cases);
  return cases;
}

}  // namespace halfstep::bench
