// Finds golden cases in a tree of folders, runs each by its kind and reports.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "tests/golden_runner/kinds.h"

namespace halfstep::test {

/// What became of one case in one dtype.
struct CaseResult {
  std::string name;  ///< the folder, from the root of the tree
  DType dtype = DType::f32;
  std::vector<Comparison> comparisons;
  /// Why it failed apart from numbers: an exception, a tensor that nobody read.
  std::vector<std::string> problems;

  bool passed() const;
  /// The comparison with the largest share of its tolerance; nullptr if there is none.
  const Comparison* worst() const;
};

/// Folders below `root` (itself included) that hold a case.json or a tensors.safetensors, in the order of
/// their paths. Symbolic links are followed, each folder is visited once.
std::vector<std::filesystem::path> find_cases(const std::filesystem::path& root);

/// Never throws: whatever goes wrong is a problem of the result.
CaseResult run_case(const std::filesystem::path& folder, const std::string& name, TensorOptions options);

/// The line of a result, of at most 100 columns, and a line for every problem and for every comparison that
/// failed (`verbose`: for every comparison).
std::string report(const CaseResult& result, bool verbose);

/// The program: arguments without its name. Prints to `out` as it goes. 0: all passed; 1: something failed,
/// or there was no case; 2: wrong command line.
int run_golden(const std::vector<std::string>& arguments, std::FILE* out);

}  // namespace halfstep::test
