// Times the CPU kernels: median of several runs, with the fraction of the measured multiply-add peak for
// matrix kernels and GB/s for the others. Usage: kernel_bench [filter]; HALFSTEP_THREADS and HALFSTEP_CPU
// apply.
#include <fmt/core.h>

#include <algorithm>
#include <chrono>
#include <functional>
#include <string>
#include <vector>

#include "bench/peak.h"
#include "tensor/cpu/thread_pool.h"
#include "tensor/tensor.h"

using namespace halfstep;

namespace {

struct Case {
  std::string name;
  double operations;  ///< multiply-adds * 2, or bytes moved
  bool matrix;
  std::function<void()> run;
};

Tensor filled(const Shape& shape) {
  Tensor t = Tensor::empty(shape);
  t.device().backend.random(
      {.kind = RandomKind::uniform, .out = t.reshape({1, t.numel()}).array(), .seed = 1});
  return t;
}

const Backend& cpu() { return cpu_device().backend; }

void add_gemm(std::vector<Case>& cases, int64_t m, int64_t k, int64_t n, bool transpose_a = false,
              bool transpose_b = false) {
  const Tensor a = transpose_a ? filled({k, m}).transpose(0, 1) : filled({m, k});
  const Tensor b = transpose_b ? filled({n, k}).transpose(0, 1) : filled({k, n});
  const Tensor c = filled({m, n});
  cases.push_back(
      {fmt::format("gemm{}{} {}x{}x{}", transpose_a ? " a^T" : "", transpose_b ? " b^T" : "", m, k, n),
       2.0 * static_cast<double>(m * n * k), true,
       [=] { cpu().gemm({.a = a.array(), .b = b.array(), .c = c.array(), .bias = {}}); }});
}

void add_conv(std::vector<Case>& cases, int64_t batch, int64_t size, int64_t in, int64_t out, int64_t kernel,
              int stride = 1) {
  const int64_t out_size = (size - 1) / stride + 1;
  const int pad = static_cast<int>(kernel / 2);
  const Tensor x = filled({batch, size, size, in}), w = filled({kernel, kernel, in, out});
  const Tensor y = filled({batch, out_size, out_size, out});
  const Conv2dArgs args{.x = x.array(),
                        .kernel = w.array(),
                        .bias = {},
                        .y = y.array(),
                        .geometry = {stride, stride, pad, pad, pad, pad}};
  const double operations =
      2.0 * static_cast<double>(batch * out_size * out_size * out * kernel * kernel * in);
  const std::string name =
      fmt::format("conv{}x{} [{},{},{},{}]->{} /{}", kernel, kernel, batch, size, size, in, out, stride);
  // The tensors are captured to live as long as the case.
  cases.push_back({name + " forward", operations, true,
                   [=, keep = std::vector{x, w, y}] { cpu().conv2d_forward(args); }});
  cases.push_back({name + " data", operations, true,
                   [=, keep = std::vector{x, w, y}] { cpu().conv2d_backward_data(args); }});
  cases.push_back({name + " kernel", operations, true,
                   [=, keep = std::vector{x, w, y}] { cpu().conv2d_backward_kernel(args); }});
}

void add_group_norm(std::vector<Case>& cases, int64_t batch, int64_t pixels, int64_t channels, int groups) {
  const Tensor x = filled({batch, pixels, channels}), y = filled({batch, pixels, channels}),
               dy = filled({batch, pixels, channels});
  const Tensor gain = filled({batch, channels}), bias = filled({batch, channels}),
               dgain = filled({batch, channels}), dbias = filled({batch, channels});
  const Tensor mean = filled({batch, groups}), rstd = filled({batch, groups});
  const GroupNormArgs args{.x = x.array(),
                           .gain = gain.array(),
                           .bias = bias.array(),
                           .y = y.array(),
                           .mean = mean.array(),
                           .rstd = rstd.array(),
                           .groups = groups,
                           .eps = 1e-6,
                           .activation = Activation::silu};
  const std::vector keep{x, y, dy, gain, bias, dgain, dbias, mean, rstd};
  const std::string name = fmt::format("group_norm silu [{},{},{}]", batch, pixels, channels);
  const double bytes = 4.0 * static_cast<double>(x.numel());
  cases.push_back({name + " forward", 2 * bytes, false, [=] {
                     cpu().group_norm(args);
                     (void)keep;
                   }});
  cases.push_back({name + " backward", 3 * bytes, false, [=] {
                     cpu().group_norm_backward({args, dy.array(), y.array(), dgain.array(), dbias.array()});
                     (void)keep;
                   }});
}

void add_elementwise(std::vector<Case>& cases) {
  const Shape shape{64, 28, 28, 32};
  const Tensor x = filled(shape), y = filled(shape), z = filled(shape);
  const double bytes = 4.0 * static_cast<double>(x.numel());
  cases.push_back({"silu [64,28,28,32]", 2 * bytes, false,
                   [=] { cpu().unary({.op = UnaryOp::silu}, y.array(), x.array()); }});
  cases.push_back(
      {"silu chain", 3 * bytes, false,
       [=] { cpu().unary_chain({.op = UnaryOp::silu, .derivative = 1}, z.array(), y.array(), x.array()); }});
  cases.push_back(
      {"add", 3 * bytes, false, [=] { cpu().binary(BinaryOp::add, 0, z.array(), x.array(), y.array()); }});
  cases.push_back({"add in place", 3 * bytes, false,
                   [=] { cpu().binary(BinaryOp::add, 0, y.array(), y.array(), x.array()); }});
  const Tensor channel = filled({32}).expand(shape), example = filled({64, 1, 1, 1}).expand(shape);
  cases.push_back({"add [C]", 2 * bytes, false,
                   [=] { cpu().binary(BinaryOp::add, 0, z.array(), x.array(), channel.array()); }});
  cases.push_back({"multiply [B,1,1,1]", 2 * bytes, false,
                   [=] { cpu().binary(BinaryOp::multiply, 0, z.array(), x.array(), example.array()); }});
  cases.push_back({"copy", 2 * bytes, false, [=] { cpu().copy(z.array(), x.array()); }});
  const Tensor nchw = x.permute({0, 3, 1, 2});
  const Tensor out = filled(nchw.shape());
  cases.push_back({"copy NHWC->NCHW", 2 * bytes, false, [=] { cpu().copy(out.array(), nchw.array()); }});
  const Tensor wide = filled({64, 14, 2, 14, 2, 32}), narrow = filled({64, 14, 1, 14, 1, 32});
  cases.push_back({"upsample copy", 1.25 * bytes, false,
                   [=] { cpu().copy(wide.array(), narrow.expand(wide.shape()).array()); }});
  cases.push_back({"sum pool 2x2", 1.25 * bytes, false,
                   [=] { cpu().reduce(ReduceOp::sum, narrow.array(), wide.array()); }});
  const Tensor all = filled({1, 1, 1, 1}), last = filled({1, 1, 1, 32}), pixels = filled({64, 1, 1, 32});
  cases.push_back({"sum all", bytes, false, [=] { cpu().reduce(ReduceOp::sum, all.array(), x.array()); }});
  cases.push_back(
      {"sum to [C]", bytes, false, [=] { cpu().reduce(ReduceOp::sum, last.array(), x.array()); }});
  cases.push_back(
      {"sum pixels", bytes, false, [=] { cpu().reduce(ReduceOp::sum, pixels.array(), x.array()); }});
  const Tensor noise = filled({64, 784});
  cases.push_back({"normal [64,784]", 4.0 * 64 * 784, false,
                   [=] { cpu().random({.kind = RandomKind::normal, .out = noise.array(), .seed = 2}); }});
  const Tensor control = Tensor::from(std::vector<double>{1, 0, 1, 1}, {4}, {.dtype = DType::f64});
  cases.push_back({"adam 1.6M", 7 * bytes, false, [=] {
                     cpu().adam({.param = x.array(),
                                 .grad = y.array(),
                                 .m = z.array(),
                                 .v = out.array(),
                                 .control = control.array(),
                                 .lr = 1e-3,
                                 .beta1 = 0.9,
                                 .beta2 = 0.999,
                                 .eps = 1e-8,
                                 .v_max = {}});
                   }});
}

void add_attention(std::vector<Case>& cases, int64_t batch, int64_t length, int64_t heads, int64_t width) {
  const Shape shape{batch, length, heads, width};
  const Tensor q = filled(shape), k = filled(shape), v = filled(shape), out = filled(shape),
               d_out = filled(shape), dq = filled(shape), dk = filled(shape), dv = filled(shape),
               lse = filled({batch, heads, length});
  const AttentionArgs args{.q = q.array(),
                           .k = k.array(),
                           .v = v.array(),
                           .out = out.array(),
                           .log_sum_exp = lse.array(),
                           .scale = 0.1};
  const std::vector keep{q, k, v, out, d_out, dq, dk, dv, lse};
  const double operations = 2.0 * static_cast<double>(batch * heads * length * length * width);
  const std::string name = fmt::format("attention [{},{},{},{}]", batch, length, heads, width);
  cases.push_back({name + " forward", 2 * operations, true, [=] {
                     cpu().attention(args);
                     (void)keep;
                   }});
  cases.push_back({name + " backward", 5 * operations, true, [=] {
                     cpu().attention_backward({args, d_out.array(), dq.array(), dk.array(), dv.array()});
                     (void)keep;
                   }});
}

double median_seconds(const std::function<void()>& run) {
  run();
  std::vector<double> times;
  double total = 0;
  for (int i = 0; i < 1000 && (i < 5 || total < 0.2); ++i) {
    const auto start = std::chrono::steady_clock::now();
    run();
    const std::chrono::duration<double> time = std::chrono::steady_clock::now() - start;
    times.push_back(time.count());
    total += time.count();
  }
  std::nth_element(times.begin(), times.begin() + static_cast<long>(times.size() / 2), times.end());
  return times[times.size() / 2];
}

}  // namespace

int main(int argc, char** argv) {
  const std::string filter = argc > 1 ? argv[1] : "";
  std::vector<Case> cases;
  add_gemm(cases, 1024, 1024, 1024);
  add_gemm(cases, 1024, 1024, 1024, true, false);
  add_gemm(cases, 1024, 1024, 1024, false, true);
  add_gemm(cases, 50176, 288, 32);
  add_gemm(cases, 12544, 576, 64);
  add_gemm(cases, 3136, 1152, 64);
  for (int64_t k : {32, 64, 256}) add_gemm(cases, 64, k, 256);
  add_gemm(cases, 64, 256, 64, false, true);
  add_gemm(cases, 256, 64, 256, true, false);
  add_gemm(cases, 50176, 32, 32);
  add_conv(cases, 64, 28, 1, 32, 3);
  add_conv(cases, 64, 28, 32, 1, 3);
  add_conv(cases, 64, 14, 4, 32, 3);
  add_conv(cases, 64, 28, 32, 32, 3);
  add_conv(cases, 64, 14, 32, 32, 3);
  add_conv(cases, 64, 14, 64, 64, 3);
  add_conv(cases, 64, 7, 64, 64, 3);
  add_conv(cases, 64, 7, 128, 128, 3);
  add_conv(cases, 64, 14, 128, 64, 3);
  add_conv(cases, 64, 28, 64, 32, 3);
  add_conv(cases, 64, 28, 96, 32, 3);
  add_conv(cases, 64, 14, 96, 64, 1);
  add_conv(cases, 64, 28, 32, 64, 3, 2);
  add_conv(cases, 8, 14, 64, 64, 3);
  add_group_norm(cases, 64, 784, 32, 8);
  add_group_norm(cases, 64, 196, 64, 32);
  add_group_norm(cases, 64, 49, 128, 32);
  add_elementwise(cases);
  add_attention(cases, 64, 49, 1, 64);
  add_attention(cases, 64, 196, 2, 32);

  const double peak = bench::peak_gflops(selected_isa());
  fmt::print("{}, {} threads, multiply-add peak {:.1f} GFLOP/s per thread\n", name_of(selected_isa()),
             num_threads(), peak);
  for (const Case& c : cases) {
    if (c.name.find(filter) == std::string::npos) continue;
    const double seconds = median_seconds(c.run), rate = 1e-9 * c.operations / seconds;
    if (c.matrix) {
      fmt::print("{:46} {:9.1f} us {:8.1f} GFLOP/s {:5.1f} % of peak\n", c.name, 1e6 * seconds, rate,
                 100 * rate / (peak * num_threads()));
    } else {
      fmt::print("{:46} {:9.1f} us {:8.1f} GB/s\n", c.name, 1e6 * seconds, rate);
    }
  }
}
