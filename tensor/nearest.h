// Spelling help for error messages.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace halfstep {

/// The candidate with the smallest edit distance (Levenshtein) to `name`, the longest of several (letters are
/// left out more often than added), then the first; empty if there are no candidates.
std::string nearest_name(std::string_view name, const std::vector<std::string>& candidates);

/// Whether `name` may be a slip of the keys for `candidate`: at most one edit in three letters, and not all
/// of them.
bool is_near(std::string_view name, std::string_view candidate);

/// "; did you mean 'x'?" with the nearest name, or nothing where none is near: a far-fetched name misleads.
std::string did_you_mean(std::string_view name, const std::vector<std::string>& candidates);

}  // namespace halfstep
