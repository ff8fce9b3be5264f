// diffusion/distill.h. The official code's numbers: tests/golden_runner/jax_loss.cpp.
#include "diffusion/distill.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cstring>

#include "diffusion/sampler.h"
#include "diffusion/train_step.h"
#include "tensor/error.h"
#include "tests/analytic_network.h"

using namespace halfstep;
using namespace halfstep::test;

namespace {

const CosineSchedule kSchedule;

const Coefficients kTeacher{0.7, 0.1, 3.0, 0.05, 0.3};
const Coefficients kOther{0.4, -0.2, 2.0, 0.03, 0.2};

Denoiser analytic_teacher(Prediction kind) { return {analytic_network(kind, kTeacher, kOther), kind}; }

/// Step indices that cover both ends and the middle of 0 ... num_steps-1.
std::vector<int64_t> some_steps(int64_t num_steps) {
  std::vector<int64_t> i;
  for (const int64_t index : {int64_t{0}, int64_t{1}, int64_t{2}, num_steps / 8, num_steps / 4, num_steps / 2,
                              3 * num_steps / 4, num_steps - 3, num_steps - 2, num_steps - 1}) {
    i.push_back(std::clamp<int64_t>(index, 0, num_steps - 1));
  }
  return i;
}

Tensor some_z(const std::vector<int64_t>& i, DType dtype) {
  return random_normal({static_cast<int64_t>(i.size()), 2, 2, 1}, {11, 3}, 0, {dtype});
}

/// The paper's own form of x~ (below "Algorithm 2" in distill.h), in the dtype of z_t.
Tensor papers_target(const DistillationTarget& d, const Tensor& z_t) {
  const auto at_t = signal_and_noise(d.logsnr_t, Variable(z_t), "test");
  const auto at_s = signal_and_noise(d.logsnr_s, Variable(z_t), "test");
  const Variable f = at_s.sigma / at_t.sigma;
  return ((Variable(d.z_s) - f * Variable(z_t)) / (at_s.alpha - f * at_t.alpha)).value();
}

double largest(const std::vector<double>& values) {
  double result = 0;
  for (const double value : values) {
    if (!(std::abs(value) <= result)) result = std::abs(value);
  }
  return result;
}

/// Largest |number| that takes part in one of the teacher's steps.
double magnitude(const DistillationTarget& d, const Tensor& z_t) {
  double result = 1;
  for (const Tensor& t : {z_t, d.z_m, d.z_s, d.teacher_t.x.value(), d.teacher_t.eps.value(),
                          d.teacher_m.x.value(), d.teacher_m.eps.value()}) {
    result = std::max(result, largest(t.to_vector<double>()));
  }
  return result;
}

std::vector<int64_t> powers_of_two(int64_t last) {
  std::vector<int64_t> powers;
  for (int64_t n = 1; n <= last; n *= 2) powers.push_back(n);
  return powers;
}

}  // namespace

TEST_CASE("distillation target: the stable form is the paper's, in f64 for 1 to 8192 steps") {
  for (const Prediction kind : kPredictions) {
    for (const int64_t num_steps : powers_of_two(8192)) {
      const std::vector<int64_t> i = some_steps(num_steps);
      const Tensor z_t = some_z(i, DType::f64);
      const DistillationTarget d =
          distillation_target(analytic_teacher(kind), z_t, i, num_steps, kSchedule, {});
      const std::vector<double> stable = d.target.x.value().to_vector<double>();
      const std::vector<double> paper = papers_target(d, z_t).to_vector<double>();
      const std::vector<double> second = d.teacher_m.x.value().to_vector<double>();
      const double size = magnitude(d, z_t);
      for (size_t n = 0; n < stable.size(); ++n) {
        const size_t k = n / 4;
        INFO(name_of(kind), " N ", num_steps, " i ", i[k]);
        if (i[k] == 0) {
          CHECK(stable[n] == second[n]);
          continue;
        }
        // The paper's numerator is a difference of numbers of `size` that went through about twenty roundings
        // of 2^-53 (z_m, the teacher's x and eps there, z_s, the ratio of sigmas); its denominator D, near
        // 2/N, makes the error grow. The stable form adds a few roundings of `size`.
        const double f = sigma(d.logsnr_s[k]) / sigma(d.logsnr_t[k]);
        const double denominator = alpha(d.logsnr_s[k]) - f * alpha(d.logsnr_t[k]);
        CHECK(std::abs(stable[n] - paper[n]) <= 32 * 0x1p-53 * size / denominator);
      }
    }
  }
}

TEST_CASE("distillation target: in f32 the error does not grow with the number of steps") {
  for (const int64_t num_steps : powers_of_two(8192)) {
    INFO("N ", num_steps);
    const std::vector<int64_t> i = some_steps(num_steps);
    const Tensor z_t = some_z(i, DType::f32);
    const Denoiser teacher = analytic_teacher(Prediction::v);
    const DistillationTarget d = distillation_target(teacher, z_t, i, num_steps, kSchedule, {});
    const DistillationTarget exact =
        distillation_target(teacher, z_t.to(DType::f64), i, num_steps, kSchedule, {});
    const Tensor truth = exact.target.x.value();
    const auto error = [&](const Tensor& x) {
      return largest(subtract(x.to(DType::f64), truth).to_vector<double>());
    };
    // z_m and the two predictions are sums of a few products each, and the target is their weighted mean:
    // about sixteen roundings of 2^-24, whatever N (3e-6 here).
    const double tolerance = 16 * 0x1p-24 * magnitude(exact, z_t);
    CHECK(tolerance <= 5e-6);
    CHECK(error(d.target.x.value()) <= tolerance);
    // The paper's form, for comparison; without i = 0, where it does not apply.
    if (num_steps == 4096) {
      const Tensor paper = papers_target(d, z_t);
      const int64_t examples = truth.size(0);
      CHECK(largest(subtract(paper.to(DType::f64), truth).slice(0, 1, examples).to_vector<double>()) >= 1e-4);
    }
  }
}

TEST_CASE("distillation target: one DDIM step of a perfect student is two of the teacher") {
  const int64_t num_steps = 8;
  const std::vector<int64_t> i = {1, 2, 5, 7};
  const Tensor z_t = some_z(i, DType::f64);
  for (const Prediction kind : kPredictions) {
    const DistillationTarget d =
        distillation_target(analytic_teacher(kind), z_t, i, num_steps, kSchedule, {});
    const Tensor student = ddim_step(d.target, d.logsnr_s);
    // At i = 7, t = 1, an eps teacher divides by alpha = 4.5e-5 and its roundings grow with its numbers.
    CHECK(largest(subtract(student, d.z_s).to_vector<double>()) <= 1e-13 * magnitude(d, z_t));
  }
}

TEST_CASE("distillation target: the teacher is neither clipped nor re-timed") {
  // A network that predicts x = 3 (outside of [-1, 1]) and notes the logsnr that it is asked at.
  std::vector<double> asked;
  const Denoiser teacher{[&](const Variable& z, const NoiseLevels& logsnr, const Tensor&) {
                           asked.insert(asked.end(), logsnr.logsnr().begin(), logsnr.logsnr().end());
                           return Variable(Tensor::full(z.shape(), 3, z.options()));
                         },
                         Prediction::x};
  const Tensor z_t = some_z({2}, DType::f64);
  const DistillationTarget d = distillation_target(teacher, z_t, {2}, 4, kSchedule, {});
  for (const double x : d.target.x.value().to_vector<double>()) CHECK(x == doctest::Approx(3).epsilon(1e-15));
  CHECK(asked ==
        std::vector<double>{kSchedule.logsnr(0.75), kSchedule.logsnr(0.625)});  // t, then t' = t - 0.5/N
  CHECK(d.logsnr_s == std::vector<double>{kSchedule.logsnr(0.5)});              // t'' = t - 1/N
}

TEST_CASE("distillation: the teacher's parameters do not change and get no gradient; the student's do") {
  const auto network_of = [](const Variable& gain) {
    return Denoiser{[gain](const Variable& z, const NoiseLevels&, const Tensor&) { return tanh(gain * z); },
                    Prediction::v};
  };
  const Variable teacher_gain(Tensor::from(std::vector<float>{0.3f, -0.7f}, {2}), true);
  const Variable student_gain(teacher_gain.value().clone(), true);
  const std::vector<float> before = teacher_gain.value().to_vector<float>();
  const uint64_t version = teacher_gain.value().version();

  const std::vector<int64_t> i = {0, 1, 3};
  const Tensor x = random_normal({3, 2, 2, 2}, {1, 1}), eps = random_normal({3, 2, 2, 2}, {1, 2});
  const DistillationTarget d = distillation_target(network_of(teacher_gain), x, i, 4, kSchedule, {});
  for (const Variable& t : {d.target.x, d.target.eps, d.target.v}) CHECK_FALSE(t.requires_grad());

  const Variable loss = distillation_loss(network_of(student_gain), network_of(teacher_gain),
                                          LossWeight::truncated_snr, kSchedule, x, {}, i, 4, eps);
  loss.backward();
  CHECK_FALSE(teacher_gain.grad().defined());
  REQUIRE(student_gain.grad().defined());
  CHECK(largest(student_gain.grad().value().to_vector<double>()) > 0);
  const std::vector<float> after = teacher_gain.value().to_vector<float>();
  CHECK(std::memcmp(before.data(), after.data(), sizeof(float) * before.size()) == 0);
  CHECK(teacher_gain.value().version() == version);
}

TEST_CASE("distillation loss: zero for a student that already does what two teacher steps do") {
  // If x_hat is the same everywhere, two steps are one: the student that equals the teacher has nothing to
  // learn.
  const Denoiser constant{[](const Variable& z, const NoiseLevels&, const Tensor&) {
                            return Variable(Tensor::full(z.shape(), 0.25, z.options()));
                          },
                          Prediction::x};
  const Tensor x = some_z({0, 1, 2, 3}, DType::f64), eps = add(x, x);
  for (const LossWeight weight : kLossWeights) {
    const double loss =
        distillation_loss(constant, constant, weight, kSchedule, x, {}, {0, 1, 2, 3}, 4, eps).item();
    CHECK(loss <= 1e-28);
  }
}

TEST_CASE("distillation: labels reach both networks") {
  int calls = 0;
  const Tensor label = Tensor::from(std::vector<int64_t>{4, 9}, {2}, {DType::i64});
  const Denoiser network{[&](const Variable& z, const NoiseLevels&, const Tensor& given) {
                           ++calls;
                           CHECK(given.to_vector<int64_t>() == std::vector<int64_t>{4, 9});
                           return z;
                         },
                         Prediction::v};
  const Tensor x = some_z({0, 1}, DType::f32);
  distillation_loss(network, network, LossWeight::constant, kSchedule, x, label, {0, 1}, 2, x);
  CHECK(calls == 3);  // teacher at t and m, student at t
}

TEST_CASE("distillation: errors") {
  const Tensor z = some_z({0, 1}, DType::f32);
  const Denoiser teacher = analytic_teacher(Prediction::v);
  CHECK_THROWS_WITH_AS(distillation_target(teacher, z, {0, 4}, 4, kSchedule, {}),
                       doctest::Contains("0 ... 3, got 4"), Error);
  CHECK_THROWS_AS(distillation_target(teacher, z, {0}, 4, kSchedule, {}), Error);
}

TEST_CASE("halvings") {
  CHECK(halvings(16, 1) == std::vector<int64_t>{8, 4, 2, 1});
  CHECK(halvings(8192, 2048) == std::vector<int64_t>{4096, 2048});
  CHECK(halvings(12, 3) == std::vector<int64_t>{6, 3});
  CHECK_THROWS_WITH_AS(halvings(15, 1), doctest::Contains("got the odd number 15"), Error);
  CHECK_THROWS_WITH_AS(halvings(12, 1), doctest::Contains("got the odd number 3;"), Error);
  CHECK_THROWS_WITH_AS(halvings(16, 3), doctest::Contains("expected to reach 3 steps by halving 16, got 2;"),
                       Error);
  CHECK_THROWS_WITH_AS(halvings(4, 4), doctest::Contains("more steps of the teacher"), Error);
  CHECK_THROWS_AS(halvings(4, 0), Error);
}
