// The framework on the GPU, real or emulated: operations and their gradients, training, distillation and
// sampling against the reference and the CPU. (kernels_test.cpp checks the kernels one by one.)
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "autograd/cases/op_cases.h"
#include "autograd/gradcheck.h"
#include "autograd/ops.h"
#include "diffusion/batches.h"
#include "diffusion/sampler.h"
#include "diffusion/train_step.h"
#include "diffusion/trainer.h"
#include "tensor/captured.h"
#include "tensor/device.h"
#include "tensor/kernel_counts.h"
#include "tensor/ops.h"
#include "tests/case_results.h"
#include "tests/error_of.h"
#include "tests/recorded_training.h"
#include "tests/tiny_training.h"
#include "tests/worst.h"

using namespace halfstep;
using namespace halfstep::test;

namespace {
Device& cuda() { return device_by_name("cuda"); }
constexpr DType kDTypes[] = {DType::f32, DType::f64};
}  // namespace

TEST_CASE("cuda: every operation agrees with reference, forward and backward, in any layout") {
  for (const OpCase& c : op_cases())
    for (InputLayout layout : kInputLayouts) {
      CAPTURE(c.name);
      CAPTURE(name_of(layout));
      for (DType dtype : kDTypes) {
        const auto laid_out = [&](Device& device) {
          std::vector<Variable> laid;
          for (const Variable& v : make_inputs(c, {dtype, &reference_device()}, true))
            laid.emplace_back(with_layout(v.value().to(device), layout), true);
          return case_results(c, laid);
        };
        const auto expected = laid_out(reference_device());
        check_all_close(laid_out(cuda()), expected, rounding_bound(c, expected, dtype));
      }
    }
}

// The results would be right without them.
TEST_CASE("cuda: convolutions take the fast ways where their channels allow") {
  const CudaCounters* const counters = probe_cuda().counters;
  if (!counters) return;  // a real GPU does not count
  struct Counted {
    int64_t tensor_core_products = 0;
    double bytes_per_request = 0;  ///< of a warp: 512 where each lane reads 16 bytes at once
  };
  const auto count = [&](DType dtype, int64_t channels) {
    const TensorOptions options{dtype, &cuda()};
    const Tensor x = Tensor::ones({1, 16, 16, channels}, options),
                 kernel = Tensor::ones({3, 3, channels, channels}, options);
    counters->start();
    conv2d(x, kernel, {}, {1, 1, 1, 1, 1, 1});
    counters->stop();
    Counted counted;
    int64_t bytes = 0, requests = 0;
    for (const KernelCounts& row : counters->read()) {
      for (const auto& [name, number] : row.instructions)
        if (name.starts_with("mma.")) counted.tensor_core_products += number * row.launches;
      bytes += (row.global_bytes_read + row.global_bytes_written) * row.launches;
      requests += row.global_requests * row.launches;
    }
    counted.bytes_per_request = static_cast<double>(bytes) / static_cast<double>(requests);
    return counted;
  };
  CHECK(count(DType::bf16, 32).tensor_core_products > 0);
  CHECK(count(DType::bf16, 3).tensor_core_products == 0);
  CHECK(count(DType::f32, 32).bytes_per_request > 256);
  CHECK(count(DType::f32, 3).bytes_per_request <= 128);
}

TEST_CASE("cuda: awkward sizes agree with reference") {
  for (const OpCase& c : op_cases()) {
    CAPTURE(c.name);
    for (const auto& shapes : larger_inputs(c))
      for (DType dtype : kDTypes) {
        const auto expected = case_results(c, make_inputs(c, shapes, {dtype, &reference_device()}, true));
        check_all_close(case_results(c, make_inputs(c, shapes, {dtype, &cuda()}, true)), expected,
                        rounding_bound(c, expected, dtype));
      }
  }
}

TEST_CASE("cuda: gradients agree with differences in f64, of first and second order") {
  for (const OpCase& c : op_cases()) {
    CAPTURE(c.name);
    const auto inputs = make_inputs(c, {DType::f64, &cuda()});
    const auto report = gradcheck(c.function, inputs, {.mode = GradcheckMode::random_direction});
    CHECK_MESSAGE(report.ok, report.message);
    CHECK(report.checked > 0);
    if (!c.second_order) continue;
    const auto second = gradgradcheck(c.function, inputs, {.mode = GradcheckMode::random_direction});
    CHECK_MESSAGE(second.ok, second.message);
  }
}

TEST_CASE("cuda: uploads of any size arrive, and work that was there before them sees the old values") {
  Device& device = cuda();
  // From one float to more than the ring of pinned memory, which they fill several times over.
  for (const int64_t n : {1, 63, 64, 1000, 524287, 524288, 524289, 2500000}) {
    CAPTURE(n);
    const Tensor target = Tensor::zeros({n}, {DType::f32, &device});
    std::vector<float> host(static_cast<size_t>(n));
    std::vector<Tensor> copies;
    for (int k = 1; k <= 6; ++k) {
      copies.push_back(target.clone());
      std::fill(host.begin(), host.end(), static_cast<float>(k));
      host.back() = static_cast<float>(-k);
      device.upload(target.array().data, host.data(), host.size() * sizeof(float));
      std::fill(host.begin(), host.end(), 1000.0f);  // the call has taken them
    }
    copies.push_back(target);
    for (size_t k = 0; k < copies.size(); ++k) {
      CAPTURE(k);
      std::fill(host.begin(), host.end(), static_cast<float>(k));
      host.back() = -static_cast<float>(k);
      CHECK(copies[k].to_vector<float>() == host);
    }
  }
}

TEST_CASE("cuda: recorded updates and sampling steps have the bits of those that are not") {
  check_recorded_training(cuda());
  check_recorded_sampling(cuda());
}

TEST_CASE("cuda: what recorded work may not do is an error, and the device goes on") {
  const Tensor x = Tensor::full({4}, 3, {DType::f32, &cuda()});
  for (const bool reading : {true, false}) {
    bool allowed = true;
    Captured captured;
    const auto function = [&](const std::vector<Tensor>& in) {
      const Tensor y = multiply(in[0], in[0]);
      if (!allowed && reading) y.to_vector<float>();
      if (!allowed && !reading) cuda().synchronize();
      return std::vector<Tensor>{y};
    };
    captured({x}, function);
    allowed = false;
    CHECK(error_of([&] {
            captured({x}, function);
          }).starts_with(reading ? "[download] expected" : "[synchronize] expected"));
    allowed = true;
    for (int i = 0; i < 3; ++i) CHECK(sum(captured({x}, function)[0]).item() == 36);
    CHECK(captured.recorded());
  }
}

TEST_CASE("cuda: the kernels of a graph are counted when it is started") {
  const Tensor x = Tensor::full({4}, 3, {DType::f32, &cuda()});
  Captured captured;
  const auto function = [](const std::vector<Tensor>& in) {
    return std::vector<Tensor>{multiply(multiply(in[0], in[0]), in[0])};
  };
  for (int i = 0; i < 4; ++i) {
    const DeviceStatistics before = cuda().statistics();
    captured({x}, function);
    const DeviceStatistics after = cuda().statistics();
    // Two products, and from the second call on a copy of the input.
    CHECK(after.launches - before.launches == (i == 0 ? 2 : 3));
    CHECK(after.graph_launches - before.graph_launches == (i == 0 ? 0 : 1));
  }
}

TEST_CASE("cuda: a graph keeps its workspace when others need a larger one") {
  // Sums over long lines join partial sums in the workspace.
  const auto total = [](const std::vector<Tensor>& in) { return std::vector<Tensor>{sum(in[0], {0})}; };
  const Tensor small = Tensor::ones({50000, 3}, {DType::f32, &cuda()});
  Captured captured;
  for (int i = 0; i < 2; ++i) captured({small}, total);
  const Tensor large = Tensor::ones({100000, 64}, {DType::f32, &cuda()});
  CHECK(total({large})[0].to_vector<double>() == std::vector<double>(64, 100000));
  CHECK(captured({small}, total)[0].to_vector<double>() == std::vector<double>(3, 50000));
}

TEST_CASE("cuda: NaN is passed on, whatever its bits") {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  for (DType dtype : kDTypes) {
    // Computed on the device: there NaN has other bits than on the host.
    const Variable bad(multiply(Tensor::from(std::vector<double>{nan, 1}, {2}, {dtype, &cuda()}),
                                Tensor::ones({2}, {dtype, &cuda()})));
    for (auto f : {silu, sigmoid, exp, relu, sqrt, tanh, abs, erf, gelu, softplus})
      CHECK(std::isnan(f(bad).value().to_vector<double>()[0]));
    CHECK(std::isnan(clamp(bad, -1, 1).value().to_vector<double>()[0]));
    CHECK(std::isnan(max(bad.value()).item()));
    CHECK(std::isnan(sum(bad.value()).item()));
  }
}

namespace {

/// The largest difference of two sets of weights, relative to the largest weight of each tensor.
double distance(const TensorMap& a, const TensorMap& b) {
  REQUIRE(a.size() == b.size());
  double worst = 0;
  for (const auto& [name, tensor] : a) {
    const auto x = tensor.to_vector<double>(), y = b.at(name).to_vector<double>();
    double largest = 1e-3, error = 0;
    for (size_t i = 0; i < x.size(); ++i) {
      largest = std::max(largest, std::abs(y[i]));
      keep_worst(error, std::abs(x[i] - y[i]));
    }
    keep_worst(worst, error / largest);
  }
  return worst;
}

/// Weights after some updates, and the mean loss.
TensorMap trained(Device& device, int updates, bool distilling, bool& copied) {
  Config config = tiny_config();
  config.model.unet.dropout = 0.1;
  // An update of Adam is a ratio of gradients: with this eps noise far below the gradients stays noise.
  config.train.adam.eps = 1e-3;
  const Dataset data = tiny_data();
  Trainer trainer(config, device);
  UNet teacher(config.model.unet, 3, {DType::f32, &device});
  set_requires_grad(teacher, false);
  BatchSource batches(data, 4, 1, true, device);
  for (int i = 0; i < updates; ++i) {
    const Batch batch = batches.batch(static_cast<uint64_t>(i));
    const DeviceStatistics before = device.statistics();
    if (distilling)
      trainer.update(batch, make_denoiser(teacher, config.model.prediction), 4);
    else
      trainer.update(batch);
    const DeviceStatistics after = device.statistics();
    // The tables of noise levels, and of the weights of a distillation's target, are computed on the host, in
    // double: they alone are sent.
    const int64_t tables = distilling ? 4 : 1, rows = distilling ? 3 * 4 + 2 : 4;
    copied = copied || after.downloads != before.downloads || after.uploads - before.uploads != tables ||
             after.uploaded_bytes - before.uploaded_bytes !=
                 rows * config.train.batch_size * static_cast<int64_t>(sizeof(double));
  }
  TensorMap result;
  for (const auto& [name, t] : trainer.weights()) result.emplace(name, t.to(cpu_device()));
  result.emplace("loss", Tensor::scalar(trainer.mean_loss()));
  return result;
}

}  // namespace

TEST_CASE("cuda: ten training updates and a distillation update end where the CPU's do, and copy little") {
  for (const bool distilling : {false, true}) {
    CAPTURE(distilling);
    const int updates = distilling ? 1 : 10;
    bool copied = false, ignored = false;
    const TensorMap gpu = trained(cuda(), updates, distilling, copied);
    CHECK_FALSE(copied);
    const TensorMap cpu = trained(cpu_device(), updates, distilling, ignored);
    // The yardstick is what the order of sums alone does: the CPU's kernels against the plain loops.
    const TensorMap loops = trained(reference_device(), updates, distilling, ignored);
    const double order = distance(cpu, loops);
    CHECK(distance(gpu, loops) <= 10 * order + 1e-6);
    // Again: the same bits. (Of training, what is recorded is held to what is not above.)
    if (distilling) check_equal_bits(trained(cuda(), updates, distilling, ignored), gpu);
  }
}

TEST_CASE("cuda: a DDIM trajectory follows the CPU's") {
  const Config config = tiny_config();
  const auto way_on = [&](Device& device) {
    UNet unet(config.model.unet, 3, {DType::f32, &device});
    const Tensor z = random_normal({2, 8, 8, 1}, {5, 0}, 0, {DType::f32, &device});
    Trajectory way;
    sample(make_denoiser(unet, config.model.prediction), z, {}, {.num_steps = 4}, &way);
    return TensorMap{{"z", way.z.to(cpu_device())}, {"x_hat", way.x_hat.to(cpu_device())}};
  };
  const TensorMap gpu = way_on(cuda()), cpu = way_on(cpu_device()), loops = way_on(reference_device());
  CHECK(distance(gpu, loops) <= 10 * distance(cpu, loops) + 1e-6);
}
