#include "nn/module.h"

#include <algorithm>

#include "tensor/error.h"
#include "tensor/nearest.h"

namespace halfstep::detail {
namespace {

/// "what: a, b, c and 12 more"; empty for no items.
std::string listing(std::string_view what, const std::vector<std::string>& items) {
  constexpr size_t kShown = 6;
  if (items.empty()) return "";
  std::string text;
  for (size_t i = 0; i < std::min(items.size(), kShown); ++i) text += (i ? ", " : "") + items[i];
  if (items.size() > kShown) text += fmt::format(" and {} more", items.size() - kShown);
  return fmt::format("; {}: {}", what, text);
}

}  // namespace

void copy_state(std::string_view where, const TensorMap& from, const TensorMap& to, std::string_view prefix) {
  std::vector<std::string> missing, unexpected, mismatched;
  for (const auto& [name, expected] : to) {
    const auto found = from.find(name);
    if (found == from.end())
      missing.push_back(name);
    else if (found->second.numel() != expected.numel())
      mismatched.push_back(
          fmt::format("{} (expected {}, got {})", name, str(expected.shape()), str(found->second.shape())));
  }
  for (const auto& [name, tensor] : from) {
    if (to.contains(name) || !name.starts_with(prefix)) continue;
    // Near means near to a name that nothing was given for: that is the likely spelling mistake.
    const std::string nearest = nearest_name(name, missing);
    unexpected.push_back(nearest.empty() ? name : fmt::format("{} (nearest: {})", name, nearest));
  }
  if (!missing.empty() || !unexpected.empty() || !mismatched.empty())
    fail(where, "expected exactly {} tensors{}{}{}; was the state saved with another configuration?",
         to.size(), listing("missing", missing), listing("unexpected", unexpected),
         listing("wrong size", mismatched));

  for (const auto& [name, target] : to)
    target.copy_(from.at(name).to(target.device()).reshape(target.shape()));
}

void copy_parameters(const Parameters& from, const Parameters& to) {
  require(from.size() == to.size(), "copy_parameters", "expected equal modules, got {} and {} parameters",
          from.size(), to.size());
  for (size_t i = 0; i < from.size(); ++i)
    require(from[i].name == to[i].name && from[i].variable.shape() == to[i].variable.shape(),
            "copy_parameters", "expected equal modules, got {} {} and {} {}", from[i].name,
            str(from[i].variable.shape()), to[i].name, str(to[i].variable.shape()));
  for (size_t i = 0; i < from.size(); ++i) to[i].variable.value().copy_(from[i].variable.value());
}

void require_alike(std::string_view where, const Parameters& parameters) {
  require(!parameters.empty(), where, "expected at least one parameter, got none");
  const TensorOptions options = parameters.front().variable.options();
  for (const auto& [name, p] : parameters)
    require(is_floating(p.dtype()) && p.dtype() == options.dtype && p.options().device == options.device,
            where, "expected all parameters as f32 or f64 on one device; {} is {} on {}, {} is {} on {}",
            parameters.front().name, name_of(options.dtype), options.device->name(), name, name_of(p.dtype()),
            p.options().device->name());
}

void require_unchanged(std::string_view where, const NamedVariable& parameter, const Shape& shape) {
  const auto& [name, p] = parameter;
  require(p.value().contiguous_layout() && p.shape() == shape, where,
          "expected parameter {} contiguous and of shape {}, as it was at first; it is now {}", name,
          str(shape), str(p.shape()));
}

}  // namespace halfstep::detail
