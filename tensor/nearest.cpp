#include "tensor/nearest.h"

#include <algorithm>
#include <numeric>

namespace halfstep {

namespace {
/// The smallest number of inserted, deleted or replaced characters.
size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), size_t{0});
  for (size_t i = 0; i < a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i + 1;
    for (size_t j = 0; j < b.size(); ++j) {
      const size_t replaced = diagonal + (a[i] != b[j]);
      diagonal = row[j + 1];
      row[j + 1] = std::min({replaced, row[j] + 1, diagonal + 1});
    }
  }
  return row[b.size()];
}
}  // namespace

std::string nearest_name(std::string_view name, const std::vector<std::string>& candidates) {
  const auto nearest =
      std::min_element(candidates.begin(), candidates.end(), [&](const auto& a, const auto& b) {
        const size_t to_a = edit_distance(name, a), to_b = edit_distance(name, b);
        return to_a != to_b ? to_a < to_b : a.size() > b.size();
      });
  return nearest == candidates.end() ? std::string() : *nearest;
}

bool is_near(std::string_view name, std::string_view candidate) {
  const size_t edits = edit_distance(name, candidate);
  return edits <= (name.size() + 1) / 3 && edits < name.size();
}

std::string did_you_mean(std::string_view name, const std::vector<std::string>& candidates) {
  const std::string nearest = nearest_name(name, candidates);
  return is_near(name, nearest) ? "; did you mean '" + nearest + "'?" : std::string();
}

}  // namespace halfstep
