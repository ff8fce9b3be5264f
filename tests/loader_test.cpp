// Batches prepared ahead, time left, and distances between sets of pictures.
#include <doctest/doctest.h>

#include <cmath>
#include <limits>

#include "diffusion/batch_loader.h"
#include "diffusion/distance.h"
#include "diffusion/evaluation.h"
#include "diffusion/time_left.h"
#include "tensor/ops.h"
#include "tests/error_of.h"
#include "tests/tiny_training.h"

using namespace halfstep;
using namespace halfstep::test;

TEST_CASE("batches prepared ahead are those of their source, in order, whatever the number of threads") {
  const Dataset data = tiny_data();
  BatchSource source(data, 5, 3);
  for (const int64_t threads : {0, 1, 3}) {
    CAPTURE(threads);
    BatchLoader loader(data, 5, 3, true, cpu_device(), 7, threads);
    for (int64_t k = 7; k < 30; ++k) {
      const Batch expected = source.batch(k), got = loader.next();
      CHECK(got.x.to_vector<float>() == expected.x.to_vector<float>());
      CHECK(got.label.to_vector<int64_t>() == expected.label.to_vector<int64_t>());
    }
    CHECK(loader.seconds_waited() > 0);
  }
}

TEST_CASE("an error of the data reaches the update that needs the batch") {
  Dataset data = tiny_data();
  BatchLoader loader(data, 4, 1, true, reference_device(), -2, 2);  // there is no batch -2
  CHECK(contains(error_of([&] { loader.next(); }), "expected a batch number of 0 or more, got -2"));
  CHECK(contains(error_of([&] { loader.next(); }), "got -1"));
  CHECK(&loader.next().x.device() == &reference_device());
  CHECK(contains(error_of([&] { BatchLoader(data, 4, 1, true, cpu_device(), 0, -1); }), "number of threads"));
}

TEST_CASE("time left: exact at constant speed, follows a change, spreads what is rare") {
  TimeLeft constant;
  CHECK(std::isnan(constant.seconds_per_step()));
  constant.add(100, 50);
  CHECK(std::isnan(constant.seconds_per_step()));
  for (int i = 1; i <= 10; ++i) constant.add(100 + i, 50 + 0.25 * i);
  CHECK(constant.seconds_per_step() == 0.25);

  TimeLeft changed;  // 1 s a step for 100 s, then 4 s a step for 100 s
  double now = 0;
  for (int i = 0; i <= 100; ++i) changed.add(i, now = i);
  for (int i = 1; i <= 25; ++i) changed.add(100 + i, now += 4);
  CHECK(changed.seconds_per_step() == 4);

  TimeLeft rare;  // every tenth step takes 10 s more: 2 s in the mean
  now = 0;
  for (int i = 0; i < 1000; ++i) rare.add(i, now += i % 10 == 0 ? 11 : 1);
  CHECK(rare.seconds_per_step() == doctest::Approx(2).epsilon(0.01));
}

TEST_CASE("sliced Wasserstein distance: 0 for a permutation, a shift in its own units, symmetric") {
  const int64_t count = 32, pixels = 12;
  const Tensor a = random_normal({count, 3, 4, 1}, {1, 0}, 0, {.dtype = DType::f64});
  CHECK(sliced_wasserstein(a, a.flip({0})) == 0);
  // A shift by d changes every projection by <d, u>; over unit vectors <d, u>^2 has the mean |d|^2 / pixels
  // and the deviation sqrt(2) times that, so 4096 directions leave 2 percent; the root halves it. 5 sigma.
  const Tensor shifted = affine(a, 1, 0.5);
  CHECK(sliced_wasserstein(a, shifted, 4096) == doctest::Approx(0.5).epsilon(0.06));
  const Tensor b = random_normal({count, 3, 4, 1}, {2, 0}, 0, {.dtype = DType::f64});
  CHECK(sliced_wasserstein(a, b) == doctest::Approx(sliced_wasserstein(b, a)).epsilon(1e-12));
  // In one dimension there is one direction, and the distance is that of the sorted values.
  const Tensor x = Tensor::from(std::vector<double>{3, 1, 2}, {3, 1}, {DType::f64}),
               y = Tensor::from(std::vector<double>{5, 1, 3}, {3, 1}, {DType::f64});
  CHECK(sliced_wasserstein(x, y, 8) == doctest::Approx(std::sqrt((0 + 1 + 4) / 3.0)).epsilon(1e-12));
  CHECK(rms_difference(x, y) == doctest::Approx(std::sqrt((4 + 0 + 1) / 3.0)).epsilon(1e-12));
  CHECK(std::isnan(sliced_wasserstein(x, affine(y, std::numeric_limits<double>::quiet_NaN(), 0))));
  CHECK(contains(error_of([&] { sliced_wasserstein(x, a); }), "expected two sets of one shape"));
  CHECK(pixels == a.numel() / count);
}

TEST_CASE("an evaluation repeats itself, and knows data from noise") {
  const Dataset data = tiny_data();
  Config config = tiny_config();
  config.train.eval_samples = 16;
  config.train.eval_steps = 4;
  // A denoiser that always predicts x = 0.7, another that returns its noise.
  const auto constant = [](double value) {
    return Denoiser{[value](const Variable& z, const NoiseLevels&, const Tensor&) {
                      return Variable(Tensor::full(z.shape(), value));
                    },
                    Prediction::x};
  };
  const Denoiser teacher = constant(0.5);
  const Evaluator evaluator(config, 2, data, cpu_device(), &teacher);
  CHECK(evaluator.sampling_steps() == 2);
  CHECK(Evaluator(config, 0, data, cpu_device()).sampling_steps() == 4);
  CHECK(Evaluator(config, 64, data, cpu_device()).sampling_steps() == 4);
  const Evaluation grey = evaluator(constant(0)), again = evaluator(constant(0)), same = evaluator(teacher);
  CHECK(grey.distance_to_teacher.value() == 0.5);
  CHECK(same.distance_to_teacher.value() == 0);
  CHECK(grey.distance_to_data == again.distance_to_data);
  CHECK(grey.samples.shape() == Shape{16, 8, 8, 1});
  CHECK(evaluator.floor() < grey.distance_to_data);
  CHECK_FALSE(Evaluator(config, 0, data, cpu_device())(teacher).distance_to_teacher.has_value());
}
