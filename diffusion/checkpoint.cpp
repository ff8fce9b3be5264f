#include "diffusion/checkpoint.h"

#include <algorithm>
#include <charconv>
#include <filesystem>

#include "diffusion/internal/json.h"
#include "tensor/error.h"
#include "tensor/files.h"
#include "tensor/safetensors.h"

namespace halfstep {

namespace {

namespace fs = std::filesystem;

constexpr const char* kFormat = "halfstep-checkpoint";
constexpr int kVersion = 1;

/// The number behind `prefix` in a folder's name, if the name has that form.
std::optional<int64_t> number_after(const std::string& name, std::string_view prefix) {
  if (!name.starts_with(prefix) || name.size() == prefix.size()) return std::nullopt;
  int64_t number = 0;
  const char *begin = name.data() + prefix.size(), *end = name.data() + name.size();
  const auto [stopped, error] = std::from_chars(begin, end, number);
  return error == std::errc() && stopped == end && number >= 0 ? std::optional(number) : std::nullopt;
}

/// Sub-folders named PREFIXnumber with their numbers, smallest first.
std::vector<std::pair<int64_t, std::string>> numbered_folders(const std::string& folder,
                                                              std::string_view prefix) {
  std::vector<std::pair<int64_t, std::string>> found;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(folder, error))
    if (const auto number = number_after(entry.path().filename().string(), prefix);
        number && entry.is_directory())
      found.emplace_back(*number, entry.path().string());
  std::sort(found.begin(), found.end());
  return found;
}

Json to_json(const CheckpointInfo& info) {
  Json json{{"format", kFormat},           {"version", kVersion}, {"step", info.step},
            {"num_steps", info.num_steps}, {"data", info.data},   {"history", Json::array()}};
  if (info.stopped_early) json["stopped_early"] = true;
  for (const HistoryEntry& h : info.history)
    json["history"].push_back({{"teacher_steps", h.teacher_steps},
                               {"num_steps", h.num_steps},
                               {"updates", h.updates},
                               {"final_loss", h.final_loss}});
  const Json config = to_json(info.config);
  json["model"] = config["model"];
  json["train"] = config["train"];
  json["distill"] = config["distill"];
  return json;
}

CheckpointInfo info_from_json(const std::string& text, const std::string& source) {
  const Json json = parse_json(text, source);
  require_known_keys(json, source,
                     {"format", "version", "step", "num_steps", "data", "stopped_early", "history", "model",
                      "train", "distill"});
  std::string format;
  int version = 0;
  read_field(json, source, "format", format);
  read_field(json, source, "version", version);
  require(format == kFormat, "checkpoint", "{}: expected \"format\": \"{}\", got \"{}\"", source, kFormat,
          format);
  require(version == kVersion, "checkpoint",
          "{}: expected version {}, got {}; was it written by another release?", source, kVersion, version);
  CheckpointInfo info;
  read_field(json, source, "step", info.step);
  read_field(json, source, "num_steps", info.num_steps);
  read_field(json, source, "data", info.data);
  read_field(json, source, "stopped_early", info.stopped_early);
  for (const Json& entry : json.value("history", Json::array())) {
    require_known_keys(entry, source, {"teacher_steps", "num_steps", "updates", "final_loss"});
    HistoryEntry h;
    read_field(entry, source, "teacher_steps", h.teacher_steps);
    read_field(entry, source, "num_steps", h.num_steps);
    read_field(entry, source, "updates", h.updates);
    if (entry.contains("final_loss") && !entry["final_loss"].is_null())  // JSON has no NaN
      read_field(entry, source, "final_loss", h.final_loss);
    info.history.push_back(h);
  }
  Json config = Json::object();
  for (const char* section : {"model", "train", "distill"})
    if (json.contains(section)) config[section] = json[section];
  read_json(config, source, info.config);
  info.config.validate();
  return info;
}

}  // namespace

std::string save_checkpoint(const std::string& run, const CheckpointInfo& info, const TensorMap& weights,
                            const TensorMap& state) {
  create_folders(run);
  const std::string path = fmt::format("{}/step-{:08}", run, info.step);
  publish_folder(path, [&](const std::string& folder) {
    write_file(folder + "/config.json", to_json(info).dump(2) + "\n");
    write_safetensors(folder + "/model.safetensors", {weights, {{"format", "halfstep"}}, {}});
    write_safetensors(folder + "/state.safetensors", {state, {{"format", "halfstep"}}, {}});
  });
  return path;
}

std::optional<std::string> newest_checkpoint(const std::string& run) {
  const auto found = numbered_folders(run, "step-");
  return found.empty() ? std::nullopt : std::optional(found.back().second);
}

void prune_checkpoints(const std::string& run, int64_t keep) {
  remove_leftovers(run);
  if (keep == 0) return;
  const auto found = numbered_folders(run, "step-");
  for (size_t i = 0; i + static_cast<size_t>(keep) < found.size(); ++i) remove_folder(found[i].second);
}

std::string resolve_checkpoint(const std::string& path) {
  require(fs::is_directory(path), "checkpoint", "expected a checkpoint or run folder, got '{}', which is {}",
          path, fs::exists(path) ? "not a folder" : "not there");
  if (fs::exists(fs::path(path) / "config.json")) return path;
  if (const auto newest = newest_checkpoint(path)) return *newest;
  for (const auto& [steps, student] : numbered_folders(path, "student-"))
    if (const auto newest = newest_checkpoint(student)) return *newest;
  fail("checkpoint",
       "'{}' holds no checkpoint: expected config.json (a checkpoint), step-* (a run) or student-*/step-* (a "
       "chain of "
       "halvings)",
       path);
}

Checkpoint load_checkpoint(const std::string& path, Device& device) {
  const std::string folder = resolve_checkpoint(path);
  return {load_checkpoint_info(folder), read_safetensors(folder + "/model.safetensors", device).tensors,
          folder};
}

CheckpointInfo load_checkpoint_info(const std::string& path) {
  const std::string config = resolve_checkpoint(path) + "/config.json";
  return info_from_json(read_file(config), config);
}

TensorMap load_checkpoint_state(const std::string& path, Device& device) {
  return read_safetensors(resolve_checkpoint(path) + "/state.safetensors", device).tensors;
}

}  // namespace halfstep
