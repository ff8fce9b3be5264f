// Configurations as JSON values, for the files that contain one. Not a public header: it needs nlohmann_json.
#pragma once

#include <nlohmann/json.hpp>
#include <type_traits>

#include "diffusion/config.h"
#include "tensor/error.h"

namespace halfstep {

/// Keys keep the order of the structs.
using Json = nlohmann::ordered_json;

/// Parses JSON; Error names the source and the position.
Json parse_json(const std::string& text, const std::string& source);

/// {"model": {...}, "train": {...}, "distill": {...}}
Json to_json(const Config& config);
/// Reads "model", "train" and "distill" over `config`; other keys of `json` are an error.
void read_json(const Json& json, const std::string& source, Config& config);

/// What a value of type T is in JSON.
template <class T>
constexpr std::string_view kind_of() {
  if constexpr (std::is_same_v<T, bool>)
    return "true or false";
  else if constexpr (std::is_arithmetic_v<T>)
    return "a number";
  else if constexpr (std::is_same_v<T, std::string>)
    return "a text";
  else if constexpr (requires { typename T::mapped_type; })
    return "an object of numbers";
  else
    return "a list of numbers";
}

/// Reads json[key] into `value` if the key is there; Error names the key, the expected type and the value.
template <class T>
void read_field(const Json& json, const std::string& source, const std::string& key, T& value) {
  const auto it = json.find(key);
  if (it == json.end()) return;
  try {
    value = it->get<T>();
  } catch (const nlohmann::json::exception&) {
    fail("config", "{}: expected {} as the value of '{}', got {}", source, kind_of<T>(), key, it->dump());
  }
}

/// Throws Error for a key of `json` that is not in `known`; names the nearest.
void require_known_keys(const Json& json, const std::string& source, const std::vector<std::string>& known);

}  // namespace halfstep
