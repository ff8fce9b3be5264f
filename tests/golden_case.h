// One golden case: a folder with case.json (what was run, with what tolerance) and tensors.safetensors
// (inputs and results). docs/golden.md describes the two and who made them.
#pragma once

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <vector>

#include "tensor/error.h"
#include "tensor/safetensors.h"

namespace halfstep::test {

/// A case of tests/golden, such as "jax/02a_unet_small".
inline std::filesystem::path golden_folder(const std::string& name) {
  return std::filesystem::path(HALFSTEP_TESTS_DIR) / "golden" / name;
}

/// Knows which of its tensors were asked for, so that a test can tell that it left none out.
class GoldenCase {
 public:
  /// Throws Error where a file is missing or cannot be read, or where case.json is not an object.
  explicit GoldenCase(const std::filesystem::path& folder) {
    const std::filesystem::path json = folder / "case.json";
    std::ifstream file(json);
    require(file.good(), "golden", "expected a file {}", json.string());
    try {
      facts = nlohmann::json::parse(file);
    } catch (const nlohmann::json::exception& e) {
      fail("golden", "{}: {}", json.string(), e.what());
    }
    require(facts.is_object(), "golden", "{}: expected an object", json.string());
    content_ = read_safetensors((folder / "tensors.safetensors").string());
  }

  bool has(const std::string& name) const { return content_.tensors.contains(name); }
  const std::map<std::string, Tensor>& tensors() const { return content_.tensors; }

  /// As it is in the file: f32, f64 or i64, on the CPU. Counts as read.
  const Tensor& raw(const std::string& name) const {
    const auto found = content_.tensors.find(name);
    require(found != content_.tensors.end(), "golden",
            "tensors.safetensors has no tensor '{}', which is needed", name);
    read_.insert(name);
    return found->second;
  }
  Tensor tensor(const std::string& name, TensorOptions options) const {
    return raw(name).to(options.dtype).to(*options.device);
  }
  std::vector<double> values(const std::string& name) const {
    return raw(name).to(DType::f64).to_vector<double>();
  }

  /// Names in the order of the alphabet.
  std::vector<std::string> unread() const {
    std::vector<std::string> names;
    for (const auto& entry : content_.tensors)
      if (!read_.contains(entry.first)) names.push_back(entry.first);
    return names;
  }
  void forget_reads() { read_.clear(); }

  nlohmann::json facts;  ///< case.json

 private:
  NamedTensors content_;
  mutable std::set<std::string> read_;
};

}  // namespace halfstep::test
