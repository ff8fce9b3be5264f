// The classifier whose features serve as yardstick: its loss, what it can learn, and its file.
#include "tests/quality/classifier.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>

#include "autograd/gradcheck.h"
#include "tensor/error.h"
#include "tensor/files.h"
#include "tensor/safetensors.h"
#include "tests/temporary_folder.h"

using namespace halfstep;
using namespace halfstep::quality;
using halfstep::test::TemporaryFolder;

namespace {

/// 8 x 8 pictures of three classes: class c has c + 1 bright rows at the top, on grey that differs per
/// picture.
Dataset bars(int64_t count) {
  Dataset dataset;
  dataset.name = "bars";
  dataset.count = count;
  dataset.height = dataset.width = 8;
  dataset.num_classes = 3;
  for (int64_t i = 0; i < count; ++i) {
    const auto label = static_cast<uint8_t>(i % 3);
    dataset.labels.push_back(label);
    for (int64_t p = 0; p < 64; ++p) {
      dataset.pixels.push_back(p / 8 <= label ? 255 : static_cast<uint8_t>(i * 37 % 128));
    }
  }
  return dataset;
}

Extractor trained_on_bars() {
  return train_extractor(bars(96), bars(30), {.steps = 40, .batch_size = 16}, [](int64_t, double) {});
}

}  // namespace

TEST_CASE("cross entropy: closed forms, no overflow, and its gradient") {
  const Tensor label = Tensor::from<int64_t>({1, 0}, {2}, {DType::i64});
  const auto of = [&](const std::vector<double>& logits) {
    return cross_entropy(Variable(Tensor::from(logits, {2, 3}, {DType::f64})), label).item();
  };
  CHECK(of({5, 5, 5, -1, -1, -1}) == doctest::Approx(std::log(3)).epsilon(1e-14));
  CHECK(of({0, 1000, 0, 1000, 0, 0}) == 0);
  CHECK(of({1000, 0, 0, 0, 1000, 0}) == 1000);

  const Variable logits(random_normal({2, 3}, {3, 0}, 0, {DType::f64}), true);
  const auto loss = [&](const std::vector<Variable>& in) { return cross_entropy(in[0], label); };
  const GradcheckReport report = gradcheck(loss, {logits});
  CHECK_MESSAGE(report.ok, report.message);

  CHECK_THROWS_WITH_AS(
      cross_entropy(Variable(Tensor::ones({2, 3})), Tensor::from<int64_t>({0, 3}, {2}, {DType::i64})),
      "[gather] expected indices in 0..2, got 3", Error);
  CHECK_THROWS_AS(cross_entropy(Variable(Tensor::ones({3, 3})), label), Error);
}

TEST_CASE("entropy of histograms") {
  CHECK(entropy({0, 8, 0}) == 0);
  CHECK(entropy({5, 5, 5, 5}) == doctest::Approx(std::log(4)).epsilon(1e-15));
  CHECK(entropy({1, 3}) == doctest::Approx(0.25 * std::log(4) + 0.75 * std::log(4.0 / 3)).epsilon(1e-15));
}

TEST_CASE("every second picture is mirrored where asked") {
  Dataset dataset = bars(2);
  dataset.pixels[0] = dataset.pixels[64] = 51;  // the upper left corners
  const auto corners = [&](bool mirrored) {     // left and right, of both pictures
    const Tensor x = first_images(dataset, 2, mirrored);
    CHECK(x.shape() == Shape{2, 8, 8, 1});
    const std::vector<float> v = x.to_vector<float>();
    return std::vector<float>{v[0], v[7], v[64], v[71]};
  };
  const float corner = 51 / 127.5f - 1;
  CHECK(corners(false) == std::vector<float>{corner, 1, corner, 1});
  CHECK(corners(true) == std::vector<float>{corner, 1, 1, corner});
}

TEST_CASE("the classifier learns, and reads pictures the same in any company") {
  const Extractor extractor = trained_on_bars();
  CHECK(extractor.test_accuracy == 1);

  const Dataset test = bars(300);  // more than one batch of reading
  const Reading all = read(extractor.classifier, first_images(test, 300));
  CHECK(all.accuracy(test.labels) == 1);
  CHECK(all.histogram(3) == std::vector<int64_t>{100, 100, 100});
  CHECK(all.mean_confidence() > 1.0 / 3);
  CHECK(all.mean_confidence() <= 1 + 1e-6);
  CHECK(all.features.shape() == Shape{300, kFeatures});
  const Reading few = read(extractor.classifier, first_images(test, 10));
  const std::vector<double> features = few.features.to_vector<double>(),
                            same = all.features.slice(0, 0, 10).to_vector<double>();
  // Of length 1 or so; f32 sums of a few hundred terms in another order.
  for (size_t i = 0; i < features.size(); ++i) CHECK(std::abs(features[i] - same[i]) <= 1e-4);
}

TEST_CASE("equal recipes give equal classifiers, and a file keeps one to the bit") {
  const TemporaryFolder folder;
  const Extractor a = trained_on_bars(), b = trained_on_bars();
  save_extractor(folder / "a", a);
  save_extractor(folder / "b", b);
  CHECK(read_file(folder / "a") == read_file(folder / "b"));

  const Extractor loaded = load_extractor(folder / "a", bars(3));
  CHECK(loaded.recipe == a.recipe);
  CHECK(loaded.test_accuracy == a.test_accuracy);
  const Tensor x = first_images(bars(5), 5);
  CHECK(read(loaded.classifier, x).features.to_vector<float>() ==
        read(a.classifier, x).features.to_vector<float>());
}

TEST_CASE("files that are no extractor for these pictures are named") {
  const TemporaryFolder folder;
  NamedTensors foreign;
  foreign.tensors["x"] = Tensor::ones({2});
  write_safetensors(folder / "foreign", foreign);
  CHECK_THROWS_WITH_AS(load_extractor(folder / "foreign", bars(3)),
                       doctest::Contains("foreign: expected a file that this program has written"), Error);
  foreign.metadata["extractor"] = R"({"seed": 1})";
  write_safetensors(folder / "foreign", foreign);
  CHECK_THROWS_WITH_AS(load_extractor(folder / "foreign", bars(3)),
                       doctest::Contains("expected the recipe of a training"), Error);

  save_extractor(folder / "bars", trained_on_bars());
  Dataset four_classes = bars(3);
  four_classes.num_classes = 4;
  CHECK_THROWS_WITH_AS(load_extractor(folder / "bars", four_classes),
                       doctest::Contains("expected a classifier of 8 x 8 x 1 pictures in 4 classes"), Error);
  Dataset odd = bars(3);
  odd.width = 6;
  CHECK_THROWS_WITH_AS(Classifier{odd}, doctest::Contains("multiples of 4, got 8 x 6"), Error);
}
