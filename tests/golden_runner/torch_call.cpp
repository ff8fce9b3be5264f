#include "tests/golden_runner/torch_call.h"

#include <algorithm>
#include <cctype>

#include "tensor/error.h"

namespace halfstep::test {
namespace {

std::string stripped(std::string_view text) {
  while (!text.empty() && std::isspace(static_cast<unsigned char>(text.front()))) text.remove_prefix(1);
  while (!text.empty() && std::isspace(static_cast<unsigned char>(text.back()))) text.remove_suffix(1);
  return std::string(text);
}

/// A Python literal as JSON: (0, 1) -> [0, 1], 'none' -> "none", None -> null; null for a name.
nlohmann::json literal(const std::string& text) {
  if (text == "None") return nullptr;
  if (text == "True") return true;
  if (text == "False") return false;
  std::string json = text;
  for (char& c : json) {
    if (c == '(') c = '[';
    if (c == ')') c = ']';
    if (c == '\'') c = '"';
  }
  if (const size_t comma = json.rfind(",]"); comma != std::string::npos) json.erase(comma, 1);
  const nlohmann::json value = nlohmann::json::parse(json, nullptr, false);
  return value.is_discarded() ? nlohmann::json() : value;
}

}  // namespace

TorchCall parse_torch_call(std::string_view reference) {
  TorchCall call;
  // What was done before the call has its own entries in the configuration.
  if (const size_t after = reference.find(" after "); after != std::string_view::npos)
    reference = reference.substr(0, after);
  const size_t open = reference.find('(');
  const std::string path = stripped(reference.substr(0, open));
  const size_t last = path.find_last_of(". ");
  call.function = last == std::string::npos ? path : path.substr(last + 1);
  std::transform(call.function.begin(), call.function.end(), call.function.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  if (open == std::string_view::npos) return call;

  int depth = 0;
  std::string argument;
  const auto finish = [&] {
    const std::string text = stripped(argument);
    argument.clear();
    if (text.empty()) return;
    const size_t equals = text.find('=');
    if (equals == std::string::npos)
      call.positional.push_back(literal(text));
    else
      call.keywords[stripped(text.substr(0, equals))] = literal(stripped(text.substr(equals + 1)));
  };
  for (const char c : reference.substr(open)) {
    if (c == ')' || c == ']') --depth;
    if ((c == ',' && depth == 1) || depth == 0) {
      if (c != '(') finish();
      if (depth == 0 && c == ')') return call;
    } else {
      argument += c;
    }
    if (c == '(' || c == '[') ++depth;
  }
  fail("golden", "expected brackets that close in the reference '{}'", reference);
}

}  // namespace halfstep::test
