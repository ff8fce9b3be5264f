// Reads one golden case: a folder under tests/golden with case.json and tensors.safetensors (see the
// PROVENANCE.md beside the cases). Files hold f32; a test chooses the dtype that it computes in.
#pragma once

#include <cmath>
#include <filesystem>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tensor/error.h"
#include "tensor/safetensors.h"

namespace halfstep::test {

class GoldenCase {
 public:
  /// `name`: path below tests/golden, such as "jax/02a_unet_small".
  explicit GoldenCase(const std::string& name) {
    const auto folder = std::filesystem::path(HALFSTEP_TESTS_DIR) / "golden" / name;
    std::ifstream file(folder / "case.json");
    require(file.good(), "golden", "expected {}/case.json; is the checkout complete?", folder.string());
    facts = nlohmann::json::parse(file);
    content = read_safetensors((folder / "tensors.safetensors").string());
  }

  Tensor tensor(const std::string& name, DType dtype) const { return content.at(name).to(dtype); }
  std::vector<double> values(const std::string& name) const {
    return tensor(name, DType::f64).to_vector<double>();
  }

  /// Largest |actual - ref64/name| in units of the case's tolerance (`atol_per_row` over the leading index
  /// where it is given, else `atol`): a check passes at <= 1. Infinite where actual is NaN.
  double error(const std::string& name, const Tensor& actual) const {
    const auto& output = facts.at("outputs").at(name);
    if (output.contains("atol_per_row"))
      return error("ref64/" + name, actual, output.at("atol_per_row").get<std::vector<double>>());
    return error("ref64/" + name, actual, {output.at("atol").get<double>()});
  }

  /// The same for any tensor of the file, with one tolerance per equal share of the elements.
  double error(const std::string& tensor_name, const Tensor& actual,
               const std::vector<double>& tolerances) const {
    const std::vector<double> expected = values(tensor_name), got = actual.to_vector<double>();
    require(expected.size() == got.size(), "golden", "{}: expected {} elements, got {}", tensor_name,
            expected.size(), got.size());
    double worst = 0;
    for (size_t i = 0; i < expected.size(); ++i) {
      if (got[i] == expected[i]) continue;  // also where the tolerance is 0
      const double ratio =
          std::abs(got[i] - expected[i]) / tolerances[i * tolerances.size() / expected.size()];
      if (!(ratio <= worst)) worst = std::isnan(ratio) ? std::numeric_limits<double>::infinity() : ratio;
    }
    return worst;
  }

  nlohmann::json facts;  ///< case.json
  NamedTensors content;  ///< tensors.safetensors
};

}  // namespace halfstep::test
