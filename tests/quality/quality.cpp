// halfstep_quality: how close generated pictures are to a data set. See docs/quality.md.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "tensor/error.h"
#include "tensor/files.h"
#include "tensor/safetensors.h"
#include "tests/quality/classifier.h"
#include "tests/quality/frechet.h"

namespace halfstep::quality {
namespace {

struct Options {
  std::string extractor;
  std::vector<std::string> samples;
  std::string data;              ///< empty: Fashion-MNIST where Debian puts it
  std::optional<int64_t> count;  ///< pictures taken of each file; all if not given
  std::optional<int64_t> train_steps;
  std::optional<uint64_t> seed;
  bool mirrored = false;  ///< real pictures half mirrored
  bool json = false;
};

Options parse(int argc, char** argv) {
  Options options;
  CLI::App app(
      "Measures how close generated pictures are to the test split of a data set: Frechet distance in the\n"
      "128 features of a small classifier, the classifier's confidence, and how evenly it finds the "
      "classes.\n"
      "Generated files come from `halfstep sample ... --tensors FILE`.\n");
  app.add_option(
         "--features", options.extractor,
         "file of the classifier; trained once and written where it does not exist, read where it does")
      ->required()
      ->type_name("FILE");
  app.add_option("--samples", options.samples, "files with `samples`, f32 [K, H, W, C] in [-1, 1]")
      ->required()
      ->type_name("FILE");
  app.add_option("--count", options.count, "pictures to take of each file (default: all)")
      ->check(CLI::Range(int64_t{2}, int64_t{1} << 32))
      ->type_name("K");
  app.add_option("--data", options.data, "folder of the data set (default: Debian's Fashion-MNIST)")
      ->type_name("DIR");
  app.add_option("--train-steps", options.train_steps,
                 fmt::format("length of the classifier's training (default: {})", Recipe().steps))
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 32))
      ->type_name("N");
  app.add_option("--seed", options.seed,
                 fmt::format("seed of the classifier's training (default: {})", Recipe().seed))
      ->type_name("S");
  app.add_flag("--mirrored", options.mirrored,
               "mirror every second real picture, as models that are trained with mirroring see them");
  app.add_flag("--json", options.json, "print one JSON object");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    std::exit(app.exit(e) == 0 ? 0 : 2);
  }
  return options;
}

/// The classifier of the file, or a new one, which is then written to it.
Extractor obtain_extractor(const Options& options, const Dataset& train, const Dataset& test) {
  namespace fs = std::filesystem;
  if (!fs::exists(options.extractor)) {
    const fs::path folder = fs::path(options.extractor).parent_path();
    if (!folder.empty()) create_folders(folder.string());  // now, not after the training
    Recipe recipe;
    recipe.steps = options.train_steps.value_or(recipe.steps);
    recipe.seed = options.seed.value_or(recipe.seed);
    const Extractor extractor = train_extractor(train, test, recipe, [&](int64_t step, double loss) {
      fmt::print(stderr, "training the classifier: step {} of {}, loss {:.4f}\n", step, recipe.steps, loss);
    });
    save_extractor(options.extractor, extractor);
  }
  // Also after training: a first and a second measurement go the same way.
  Extractor extractor = load_extractor(options.extractor, train);
  const Recipe& recipe = extractor.recipe;
  require(!options.train_steps || *options.train_steps == recipe.steps, "extractor",
          "{}: expected a classifier of {} steps as --train-steps says, got one of {}; give another file",
          options.extractor, options.train_steps.value_or(0), recipe.steps);
  require(!options.seed || *options.seed == recipe.seed, "extractor",
          "{}: expected a classifier of seed {} as --seed says, got one of {}; give another file",
          options.extractor, options.seed.value_or(0), recipe.seed);
  return extractor;
}

/// The first `count` (or all) pictures of a file.
Tensor load_samples(const std::string& path, const Dataset& dataset, std::optional<int64_t> count) {
  const Tensor samples = read_safetensors(path).at("samples");
  const Shape expected = {samples.rank() > 0 ? samples.size(0) : 0, dataset.height, dataset.width,
                          dataset.channels};
  require(samples.shape() == expected && is_floating(samples.dtype()), "samples",
          "{}: expected floating-point `samples` [K, {}, {}, {}] as in '{}', got {} {}", path, dataset.height,
          dataset.width, dataset.channels, dataset.name, name_of(samples.dtype()), str(samples.shape()));
  const int64_t needed = count.value_or(2);
  require(samples.size(0) >= needed, "samples",
          "{}: expected {} pictures or more, got {}; sample more with --num", path, needed, samples.size(0));
  const Tensor taken = samples.slice(0, 0, count.value_or(samples.size(0))).to(DType::f32);
  for (const float value : taken.to_vector<float>()) {
    require(std::abs(value) <= 1, "samples",
            "{}: expected values in [-1, 1], got {}; sampled without clipping?", path, value);
  }
  return taken;
}

struct Measurement {
  int64_t count;
  double frechet_distance, mean_confidence, class_entropy;
  std::vector<int64_t> histogram;
};

/// Measures sets of pictures against one reference set.
class Yardstick {
 public:
  Yardstick(Classifier classifier, const Tensor& reference, int num_classes)
      : classifier_(std::move(classifier)),
        num_classes_(num_classes),
        reference_(feature_statistics(read(classifier_, reference).features)) {}

  Measurement measure(const Tensor& images) const {
    const Reading reading = read(classifier_, images);
    const std::vector<int64_t> histogram = reading.histogram(num_classes_);
    return {images.size(0), frechet_distance(feature_statistics(reading.features), reference_),
            reading.mean_confidence(), entropy(histogram), histogram};
  }

 private:
  Classifier classifier_;
  int num_classes_;
  FeatureStatistics reference_;
};

struct Report {
  Extractor extractor;
  Dataset test;
  std::vector<Measurement> floors = {};  ///< training pictures, for each count that occurs among the files
  std::vector<Measurement> files = {};   ///< in the order of Options::samples
  std::vector<std::string> warnings = {};
};

Report measure_all(const Options& options) {
  const std::string folder = options.data.empty() ? default_dataset_folder() : options.data;
  const Dataset train = load_dataset(folder, Split::train);
  Report report{.extractor = {Classifier(train), {}, 0}, .test = load_dataset(folder, Split::test)};
  std::vector<Tensor> samples;  // before the training: a wrong file should not cost minutes
  for (const std::string& path : options.samples) samples.push_back(load_samples(path, train, options.count));

  report.extractor = obtain_extractor(options, train, report.test);
  const double accuracy = read(report.extractor.classifier, first_images(report.test, report.test.count))
                              .accuracy(report.test.labels);
  // Machines round differently, which may turn the class of a few pictures; more is another data set.
  require(std::abs(accuracy - report.extractor.test_accuracy) <= 0.002, "extractor",
          "{}: expected a test accuracy of {:.4f} as recorded, got {:.4f} on '{}'; trained on other data?",
          options.extractor, report.extractor.test_accuracy, accuracy, folder);

  const Yardstick yardstick(report.extractor.classifier,
                            first_images(report.test, report.test.count, options.mirrored),
                            report.test.num_classes);
  std::set<int64_t> counts;
  for (const Tensor& images : samples) {
    report.files.push_back(yardstick.measure(images));
    counts.insert(images.size(0));
  }
  for (const int64_t count : counts) {
    report.floors.push_back(
        yardstick.measure(first_images(train, std::min(count, train.count), options.mirrored)));
  }
  if (counts.size() > 1) {
    report.warnings.push_back(
        "The files have different numbers of pictures: their distances must not be compared; use --count.");
  }
  if (*counts.begin() < 10000) {
    report.warnings.push_back(
        "Distances from fewer than 10000 pictures are biased upward: compare them only with distances from "
        "the same number of pictures.");
  }
  return report;
}

void print_json(const Options& options, const Report& report) {
  const auto to_json = [](const Measurement& m) {
    return nlohmann::json{{"count", m.count},
                          {"frechet_distance", m.frechet_distance},
                          {"mean_confidence", m.mean_confidence},
                          {"class_entropy", m.class_entropy},
                          {"class_histogram", m.histogram}};
  };
  nlohmann::json result = {{"extractor",
                            {{"file", options.extractor},
                             {"seed", report.extractor.recipe.seed},
                             {"steps", report.extractor.recipe.steps},
                             {"features", kFeatures},
                             {"test_accuracy", report.extractor.test_accuracy}}},
                           {"reference",
                            {{"data", report.test.name},
                             {"split", "test"},
                             {"count", report.test.count},
                             {"mirrored", options.mirrored}}},
                           {"train_floor", nlohmann::json::array()},
                           {"files", nlohmann::json::array()},
                           {"warnings", report.warnings}};
  for (const Measurement& floor : report.floors) result["train_floor"].push_back(to_json(floor));
  for (size_t i = 0; i < report.files.size(); ++i) {
    result["files"].push_back(to_json(report.files[i]));
    result["files"].back()["file"] = options.samples[i];
  }
  fmt::print("{}\n", result.dump(2));
}

void print_table(const Options& options, const Report& report) {
  const Recipe& recipe = report.extractor.recipe;
  fmt::print("features    {} of the classifier {} ({} steps, seed {}, test accuracy {:.2f} %)\n", kFeatures,
             options.extractor, recipe.steps, recipe.seed, 100 * report.extractor.test_accuracy);
  fmt::print("reference   {}, {} test pictures{}\n\n", report.test.name, report.test.count,
             options.mirrored ? ", every second one mirrored" : "");
  fmt::print("{:>8} {:>10} {:>11} {:>14}  {}\n", "pictures", "Frechet", "confidence", "class entropy", "set");
  const auto print_row = [](const Measurement& m, std::string_view name) {
    fmt::print("{:>8} {:>10.2f} {:>11.3f} {:>14.3f}  {}\n", m.count, m.frechet_distance, m.mean_confidence,
               m.class_entropy, name);
  };
  for (const Measurement& floor : report.floors) print_row(floor, "(training pictures: the floor)");
  for (size_t i = 0; i < report.files.size(); ++i) print_row(report.files[i], options.samples[i]);
  fmt::print("\nClass entropy is at most {:.3f}.\n", std::log(report.test.num_classes));
  for (const std::string& warning : report.warnings) fmt::print("{}\n", warning);
}

}  // namespace
}  // namespace halfstep::quality

int main(int argc, char** argv) {
  using namespace halfstep;
  using namespace halfstep::quality;
  const Options options = parse(argc, argv);
  try {
    const Report report = measure_all(options);
    options.json ? print_json(options, report) : print_table(options, report);
    return 0;
  } catch (const std::exception& e) {
    fmt::print(stderr, "{}\n", e.what());
    return 1;
  }
}
