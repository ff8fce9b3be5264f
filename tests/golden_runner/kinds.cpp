#include "tests/golden_runner/kinds.h"

#include <fmt/format.h>

namespace halfstep::test {

Kind jax_schedule_kind();
Kind jax_embedding_kind();
Kind jax_unet_kind();
Kind jax_prediction_kind();
Kind jax_loss_kind();
Kind jax_distill_kind();
Kind jax_sampler_kind();
Kind torch_op_kind();
Kind torch_optimizer_kind();
Kind torch_ema_kind();

const std::vector<Kind>& kinds() {
  static const std::vector<Kind> all = {
      jax_schedule_kind(), jax_embedding_kind(), jax_unet_kind(), jax_prediction_kind(),  jax_loss_kind(),
      jax_distill_kind(),  jax_sampler_kind(),   torch_op_kind(), torch_optimizer_kind(), torch_ema_kind()};
  return all;
}

const Kind& kind_of(const GoldenCase& golden) {
  std::string known;
  for (const Kind& kind : kinds()) {
    if (kind.recognises(golden)) return kind;
    known += (known.empty() ? "" : ", ") + std::string(kind.name);
  }
  constexpr size_t kShown = 120;
  std::string reference = reference_text(golden);
  if (reference.size() > kShown) reference = reference.substr(0, kShown) + " ...";
  fail("golden", "unknown kind of case, made by '{}'; known kinds: {}", reference, known);
}

std::string reference_text(const GoldenCase& golden) {
  const auto found = golden.facts.find("reference");
  if (found == golden.facts.end()) return "";
  if (found->is_string()) return found->get<std::string>();
  if (found->is_object() && found->contains("functions")) {
    std::string text;
    for (const auto& function : found->at("functions"))
      text += (text.empty() ? "" : ", ") + (function.is_string() ? function.get<std::string>() : "");
    return text;
  }
  return found->dump();
}

bool has_output(const GoldenCase& golden, std::string_view name) {
  const auto outputs = golden.facts.find("outputs");
  if (outputs == golden.facts.end() || !outputs->is_object()) return false;
  const std::string ending = fmt::format("/{}", name);
  for (const auto& output : outputs->items())
    if (output.key() == name || output.key().ends_with(ending)) return true;
  return false;
}

std::vector<std::string> split(const std::string& text, char separator) {
  std::vector<std::string> parts(1);
  for (const char c : text) {
    if (c == separator)
      parts.emplace_back();
    else
      parts.back() += c;
  }
  return parts;
}

}  // namespace halfstep::test
