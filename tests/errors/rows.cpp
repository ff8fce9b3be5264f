#include "tests/errors/rows.h"

#include <doctest/doctest.h>

#include <cstdlib>
#include <optional>
#include <regex>

#include "tests/error_of.h"

namespace halfstep::test {

namespace {

/// Whether `text` is `pattern`, in which '*' stands for any text.
bool matches(std::string_view pattern, std::string_view text) {
  const size_t star = pattern.find('*');
  if (star == std::string_view::npos) return pattern == text;
  if (text.substr(0, star) != pattern.substr(0, star)) return false;
  pattern.remove_prefix(star + 1);
  for (size_t skipped = star; skipped <= text.size(); ++skipped)
    if (matches(pattern, text.substr(skipped))) return true;
  return false;
}

/// What holds for every message: one form, what was expected, and what came.
void check_form(const std::string& text) {
  static const std::regex form(R"(^\[[A-Za-z0-9_ .:-]+\] [^\n]+$)");
  static const std::regex expectation(
      R"(expected|differ|outside|must|at most|only|cannot|do(es)? not|was not|)"
      R"(larger|out of range|unknown|was (changed|freed|given)|returned|gave)");
  static const std::regex reality(R"([0-9']|got|set_value|the output)");
  CHECK_MESSAGE(std::regex_match(text, form), "not '[where] one line': ", text);
  CHECK_MESSAGE(std::regex_search(text, expectation), "does not say what was expected: ", text);
  CHECK_MESSAGE(std::regex_search(text, reality), "does not say what came: ", text);
}

}  // namespace

void check_rows(const std::vector<Row>& rows) {
  for (const Row& row : rows) {
    CAPTURE(row.name);
    const std::string text = error_of(row.misuse);
    CHECK_MESSAGE(matches(row.text, text), row.name, ":\n  expected ", row.text, "\n  got      ", text);
    check_form(text);
  }
}

void with_environment(const char* name, const char* value, const std::function<void()>& action) {
  const char* const set = std::getenv(name);
  const std::optional<std::string> before = set ? std::optional<std::string>(set) : std::nullopt;
  const auto restore = [&] { before ? setenv(name, before->c_str(), 1) : unsetenv(name); };
  setenv(name, value, 1);
  try {
    action();
  } catch (...) {
    restore();
    throw;
  }
  restore();
}

}  // namespace halfstep::test
