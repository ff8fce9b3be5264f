// The kinds of golden cases that the runner knows. A new kind is a file with a function that returns its
// Kind, and that function's name in kinds.cpp.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "tests/golden_runner/run.h"

namespace halfstep::test {

struct Kind {
  std::string_view name;    ///< "jax unet"
  std::string_view covers;  ///< what its cases compare, in one line
  /// Decides by the facts (reference, names of outputs and tensors), never by the name of a folder.
  bool (*recognises)(const GoldenCase&);
  /// Computes what the case holds and compares. May throw anything: the case has then failed.
  void (*run)(GoldenRun&);
};

/// In the order in which they are tried.
const std::vector<Kind>& kinds();
/// The first kind that recognises the case; throws Error that names what the case says of itself and the
/// known kinds.
const Kind& kind_of(const GoldenCase& golden);

// --- to recognise cases with -------------------------------------------------------------------------------

/// The functions of the reference program that made the case, in one text (`reference`, in whatever form the
/// case gives it).
std::string reference_text(const GoldenCase& golden);
/// Whether the case has an output (JAX cases) of that name or one that ends with "/NAME".
bool has_output(const GoldenCase& golden, std::string_view name);

/// "a/b/c" -> {"a", "b", "c"}
std::vector<std::string> split(const std::string& text, char separator = '/');

}  // namespace halfstep::test
