#include "tests/golden_runner/run.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "tensor/dtype.h"

namespace halfstep::test {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

/// The largest |value|; NaN if there is one.
double largest(const std::vector<double>& values) {
  double result = 0;
  for (const double value : values)
    if (!(std::abs(value) <= result)) {
      if (std::isnan(value)) return value;
      result = std::abs(value);
    }
  return result;
}

std::string joined(const std::vector<std::string>& names) {
  constexpr size_t kShown = 8;
  std::string text;
  for (size_t i = 0; i < std::min(names.size(), kShown); ++i) text += (i == 0 ? "" : ", ") + names[i];
  if (names.size() > kShown) text += fmt::format(" and {} more", names.size() - kShown);
  return text;
}

/// The other half of a pair of results in f64 and f32, of which only the first is compared.
std::string exact_twin(const std::string& name) {
  if (name.starts_with("out32/")) return "ref64/" + name.substr(6);
  if (name.ends_with(".f32")) return name.substr(0, name.size() - 4) + ".f64";
  return "";
}

/// numpy's name of what tensors.safetensors was written from.
std::string_view numpy_name(DType dtype) {
  switch (dtype) {
    case DType::f32:
      return "float32";
    case DType::f64:
      return "float64";
    default:
      return "int64";
  }
}

}  // namespace

Comparison compare(const std::string& name, const Tensor& expected_tensor, const Tensor& actual_tensor,
                   const Tolerance& tolerance) {
  Comparison result;
  result.name = name;
  const auto failed = [&](const std::string& remark) {
    result.error = result.share = kInfinity;
    result.remark = remark;
    return result;
  };
  if (!actual_tensor.defined()) return failed("there is no result");
  if (expected_tensor.shape() != actual_tensor.shape())
    return failed(
        fmt::format("shape {} instead of {}", str(actual_tensor.shape()), str(expected_tensor.shape())));
  const std::vector<double> expected = expected_tensor.to(DType::f64).to_vector<double>(),
                            actual = actual_tensor.to_vector<double>(), &bounds = tolerance.bounds;
  if (bounds.empty() || expected.size() % bounds.size() != 0)
    return failed(fmt::format("{} tolerances for {} elements", bounds.size(), expected.size()));
  double unit = tolerance.relative ? largest(expected) : 1;
  if (std::isnan(unit) || std::isinf(unit)) return failed("the reference is not finite");
  if (unit == 0) unit = 1;

  result.bound = bounds.front();
  for (size_t i = 0; i < expected.size(); ++i) {
    const double bound = bounds[i * bounds.size() / expected.size()];
    // Also infinities, and a bound of 0.
    const double error = actual[i] == expected[i] ? 0 : std::abs(actual[i] - expected[i]) / unit;
    const double share = error == 0 && bound >= 0 ? 0 : error / bound;
    if (std::isnan(share) || !(bound >= 0)) {
      result.bound = bound;
      return failed(fmt::format("{} instead of {} at element {}", actual[i], expected[i], i));
    }
    if (i == 0 || share > result.share) {
      result.error = error;
      result.bound = bound;
      result.share = share;
    }
  }
  return result;
}

void GoldenRun::check(const std::string& reference, const Tensor& actual, const Tolerance& tolerance) {
  Comparison result = compare(reference, golden.raw(reference), actual, tolerance);
  if (actual.defined() && actual.dtype() != options_.dtype && result.remark.empty()) {
    result.share = kInfinity;
    result.remark = fmt::format("{} instead of {}", name_of(actual.dtype()), name_of(options_.dtype));
  }
  comparisons_.push_back(std::move(result));
}

void GoldenRun::output(const std::string& name, const Tensor& actual) {
  const nlohmann::json& outputs = golden.facts.at("outputs");
  const auto found = outputs.find(name);
  if (found == outputs.end()) return;
  Tolerance tolerance;
  if (found->contains("atol_per_row"))
    tolerance.bounds = found->at("atol_per_row").get<std::vector<double>>();
  else
    tolerance.bounds = {found->at("atol").get<double>()};
  // The listed shape is the program's own; the file holds its scalars as [1].
  const Tensor& stored = golden.raw("ref64/" + name);
  const bool as_listed =
      !found->contains("shape") ||
      (actual.defined() && Shape(found->at("shape").get<std::vector<int64_t>>()) == actual.shape());
  check("ref64/" + name,
        as_listed && actual.defined() && actual.numel() == stored.numel() ? actual.reshape(stored.shape())
                                                                          : actual,
        tolerance);
}

std::vector<std::string> GoldenRun::unfinished() const {
  std::vector<std::string> problems;
  if (comparisons_.empty()) problems.push_back("nothing was compared");

  const nlohmann::json& facts = golden.facts;
  std::set<std::string> compared;
  for (const Comparison& c : comparisons_) compared.insert(c.name);
  std::vector<std::string> missing;
  if (facts.contains("outputs") && facts.at("outputs").is_object())
    for (const auto& output : facts.at("outputs").items())
      if (!compared.contains("ref64/" + output.key())) missing.push_back(output.key());
  if (!missing.empty()) problems.push_back("outputs that this kind does not know: " + joined(missing));

  missing.clear();
  if (facts.contains("tensors") && facts.at("tensors").is_object())
    for (const auto& listed : facts.at("tensors").items()) {
      const auto found = golden.tensors().find(listed.key());
      if (found == golden.tensors().end()) {
        missing.push_back(listed.key());
        continue;
      }
      const Tensor& tensor = found->second;
      const nlohmann::json shape = std::vector<int64_t>(tensor.shape().begin(), tensor.shape().end());
      if (listed.value().at("shape") != shape)
        problems.push_back(fmt::format("tensor {} has shape {}, case.json says {}", listed.key(),
                                       shape.dump(), listed.value().at("shape").dump()));
      const std::string dtype = listed.value().value("dtype", "");
      if (dtype.starts_with("float") && dtype != numpy_name(tensor.dtype()))
        problems.push_back(
            fmt::format("tensor {} is {}, case.json says {}", listed.key(), name_of(tensor.dtype()), dtype));
    }
  if (!missing.empty()) problems.push_back("tensors that are missing: " + joined(missing));

  std::vector<std::string> unread = golden.unread();
  std::erase_if(unread, [&](const std::string& name) { return compared.contains(exact_twin(name)); });
  if (!unread.empty()) problems.push_back("tensors that nobody read: " + joined(unread));
  return problems;
}

}  // namespace halfstep::test
