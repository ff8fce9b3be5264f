// Spelling help for error messages.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace halfstep {

/// The candidate with the smallest edit distance (Levenshtein) to `name`; empty if there are no candidates.
std::string nearest_name(std::string_view name, const std::vector<std::string>& candidates);

}  // namespace halfstep
