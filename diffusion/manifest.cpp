#include "diffusion/manifest.h"

#include <filesystem>

#include "diffusion/internal/json.h"
#include "tensor/error.h"
#include "tensor/files.h"

namespace halfstep {

namespace {

constexpr const char* kFormat = "halfstep-manifest";
constexpr int kVersion = 1;

std::string path_in(const std::string& folder) { return folder + "/manifest.json"; }

// The walks below are the only lists of keys, as in config.cpp.

template <class Self, class Visitor>
void command_fields(Self& c, Visitor&& visit) {
  visit("line", c.line);
  visit("started", c.started);
  visit("program", c.program);
  visit("device", c.device);
  visit("threads", c.threads);
}

template <class Self, class Visitor>
void stage_fields(Self& s, Visitor&& visit) {
  visit("name", s.name);
  visit("folder", s.folder);
  visit("status", s.status);
  visit("teacher_steps", s.teacher_steps);
  visit("num_steps", s.num_steps);
  visit("step", s.step);
  visit("max_steps", s.max_steps);
  visit("seconds", s.seconds);
  visit("final_loss", s.final_loss);
  visit("checkpoint", s.checkpoint);
  visit("model_sha256", s.model_sha256);
  visit("parent_sha256", s.parent_sha256);
  visit("grid", s.grid);
  visit("distance_to_data", s.distance_to_data);
  visit("distance_to_teacher", s.distance_to_teacher);
}

template <class Self, class Visitor>
void teacher_fields(Self& t, Visitor&& visit) {
  visit("checkpoint", t.checkpoint);
  visit("num_steps", t.num_steps);
  visit("model_sha256", t.model_sha256);
}

StageStatus status_by_name(const std::string& name) {
  for (const StageStatus status :
       {StageStatus::waiting, StageStatus::running, StageStatus::stopped, StageStatus::done})
    if (name == name_of(status)) return status;
  fail("manifest", "expected the status waiting, running, stopped or done, got '{}'", name);
}

struct Writer {
  Json& json;
  template <class T>
  void operator()(const char* key, const T& value) const {
    json[key] = value;
  }
  template <class T>
  void operator()(const char* key, const std::optional<T>& value) const {
    json[key] = value ? Json(*value) : Json();
  }
  void operator()(const char* key, StageStatus value) const { json[key] = std::string(name_of(value)); }
};

struct Reader {
  const Json& json;
  const std::string& source;
  template <class T>
  void operator()(const char* key, T& value) const {
    read_field(json, source, key, value);
  }
  template <class T>
  void operator()(const char* key, std::optional<T>& value) const {
    if (!json.contains(key) || json[key].is_null()) return;
    value.emplace();
    read_field(json, source, key, *value);
  }
  void operator()(const char* key, StageStatus& value) const {
    std::string name(name_of(value));
    read_field(json, source, key, name);
    value = status_by_name(name);
  }
};

}  // namespace

std::string_view name_of(StageStatus status) {
  switch (status) {
    case StageStatus::waiting:
      return "waiting";
    case StageStatus::running:
      return "running";
    case StageStatus::stopped:
      return "stopped";
    case StageStatus::done:
      return "done";
  }
  fail("manifest", "expected a status of the list, got number {}", static_cast<int>(status));
}

void write_manifest(const std::string& folder, const Manifest& m) {
  Json json{{"format", kFormat},
            {"version", kVersion},
            {"kind", m.kind},
            {"commands", Json::array()},
            {"data", {{"name", m.data_name}, {"images", m.data_images}, {"floor", m.data_floor}}},
            {"config", to_json(m.config)},
            {"stages", Json::array()}};
  for (const ManifestCommand& c : m.commands) command_fields(c, Writer{json["commands"].emplace_back()});
  if (m.teacher) teacher_fields(*m.teacher, Writer{json["teacher"]});
  for (const ManifestStage& s : m.stages) stage_fields(s, Writer{json["stages"].emplace_back()});
  write_file(path_in(folder), json.dump(2) + "\n");
}

std::optional<Manifest> read_manifest(const std::string& folder) {
  const std::string path = path_in(folder);
  if (!std::filesystem::exists(path)) return std::nullopt;
  const Json json = parse_json(read_file(path), path);
  require(json.is_object() && json.value("format", Json()) == kFormat &&
              json.value("version", Json()) == kVersion,
          "manifest",
          "{}: expected \"format\": \"{}\", \"version\": {}; move the file away to start a new one", path,
          kFormat, kVersion);
  Manifest m;
  read_field(json, path, "kind", m.kind);
  for (const Json& entry : json.value("commands", Json::array()))
    command_fields(m.commands.emplace_back(), Reader{entry, path});
  const Json data = json.value("data", Json::object());
  read_field(data, path, "name", m.data_name);
  read_field(data, path, "images", m.data_images);
  read_field(data, path, "floor", m.data_floor);
  read_json(json.value("config", Json::object()), path, m.config);
  m.config.validate();
  if (json.contains("teacher")) teacher_fields(m.teacher.emplace(), Reader{json["teacher"], path});
  for (const Json& entry : json.value("stages", Json::array()))
    stage_fields(m.stages.emplace_back(), Reader{entry, path});
  return m;
}

}  // namespace halfstep
