#include "tensor/safetensors.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>
#include <vector>

#include "tensor/error.h"
#include "tensor/files.h"

namespace halfstep {
namespace {

static_assert(std::endian::native == std::endian::little,
              "the data is copied as it is, which is little endian");

constexpr size_t kLengthBytes = 8;
constexpr size_t kAlignment = 8;
constexpr std::string_view kMetadata = "__metadata__";

/// A dtype of the file and the one that it becomes.
struct FileType {
  std::string_view name;
  size_t bytes;
  DType dtype;
};

constexpr FileType kFileTypes[] = {{"F32", 4, DType::f32}, {"F64", 8, DType::f64}, {"BF16", 2, DType::bf16},
                                   {"I64", 8, DType::i64}, {"F16", 2, DType::f32}, {"I32", 4, DType::i64},
                                   {"I16", 2, DType::i64}, {"I8", 1, DType::i64},  {"U8", 1, DType::i64},
                                   {"BOOL", 1, DType::i64}};

/// The first entry that becomes `dtype` is the one that is `dtype`.
const FileType& file_type_of(DType dtype) {
  return *std::find_if(std::begin(kFileTypes), std::end(kFileTypes),
                       [&](const FileType& type) { return type.dtype == dtype; });
}

/// IEEE 754 binary16.
float half_to_float(uint16_t half) {
  const int exponent = (half >> 10) & 31, fraction = half & 1023;
  float value = 0;
  if (exponent == 31) {
    value = fraction == 0 ? std::numeric_limits<float>::infinity() : std::numeric_limits<float>::quiet_NaN();
  } else if (exponent == 0) {
    value = std::ldexp(static_cast<float>(fraction), -24);
  } else {
    value = std::ldexp(static_cast<float>(1024 + fraction), exponent - 25);
  }
  return half & 0x8000 ? -value : value;
}

/// One tensor as the header describes it, checked.
struct Entry {
  std::string name;
  const FileType* type;
  Shape shape;
  size_t begin, end;  ///< from the end of the header
};

/// Reads one file; knows its name for the error messages.
class Parser {
 public:
  Parser(std::string_view bytes, const std::string& source) : bytes_(bytes), source_(source) {}

  NamedTensors parse(Device& device) {
    read_length();
    NamedTensors content;
    content.source = source_;
    std::vector<Entry> entries;
    const nlohmann::json header = read_json();
    for (const auto& [name, value] : header.items()) {
      if (name == kMetadata) {
        content.metadata = read_metadata(value);
      } else {
        entries.push_back(read_entry(name, value));
      }
    }
    check_layout(entries);
    for (const Entry& entry : entries) content.tensors.emplace(entry.name, load(entry, device));
    return content;
  }

 private:
  template <class... Args>
  [[noreturn]] void fail_at(size_t byte, fmt::format_string<Args...> format, Args&&... args) const {
    fail("safetensors", "{}, byte {}: {}", source_, byte, fmt::format(format, std::forward<Args>(args)...));
  }

  /// JSON for an error message, of which a file may hold any amount.
  static std::string shown(const nlohmann::json& value) {
    constexpr size_t kShown = 100;
    const std::string text = value.dump(-1, ' ', true);
    return text.size() <= kShown ? text : text.substr(0, kShown) + " ...";
  }

  void read_length() {
    if (bytes_.size() < kLengthBytes) {
      fail_at(bytes_.size(), "expected 8 bytes of header length, the file ends after {}; truncated?",
              bytes_.size());
    }
    uint64_t length = 0;
    std::memcpy(&length, bytes_.data(), kLengthBytes);
    if (length > bytes_.size() - kLengthBytes) {
      fail_at(
          0,
          "expected a header length of at most {}, the rest of the file, got {}; truncated or foreign file?",
          bytes_.size() - kLengthBytes, length);
    }
    header_ = bytes_.substr(kLengthBytes, length);
    data_ = bytes_.substr(kLengthBytes + length);
    if (header_.empty() || header_[0] != '{') {
      fail_at(kLengthBytes, "expected '{{', the start of the JSON header, got {}; foreign file?",
              header_.empty() ? "an empty header"
                              : fmt::format("byte {}", int{static_cast<unsigned char>(header_[0])}));
    }
  }

  nlohmann::json read_json() const {
    // Called at each key: JSON itself allows repeated names, and the library would keep the last one
    // silently.
    std::vector<std::set<std::string>> names;
    const auto check = [&](int depth, nlohmann::json::parse_event_t event, nlohmann::json& value) {
      using Event = nlohmann::json::parse_event_t;
      if (depth > 3) fail_at(kLengthBytes, "expected a header of at most three levels, got a deeper one");
      if (event == Event::object_start) names.emplace_back();
      if (event == Event::object_end) names.pop_back();
      if (event == Event::key && !names.back().insert(value.get<std::string>()).second) {
        fail_at(kLengthBytes, "expected each name once in the header, got {} twice", shown(value));
      }
      return true;
    };
    try {
      return nlohmann::json::parse(header_, check);
    } catch (const nlohmann::json::parse_error& error) {
      // Counted from 1 by the library; 0 where it does not know.
      fail_at(kLengthBytes + std::max<size_t>(error.byte, 1) - 1, "expected a JSON header: {}", error.what());
    } catch (const nlohmann::json::out_of_range& error) {
      fail_at(kLengthBytes, "expected numbers within range in the header: {}", error.what());
    }
  }

  std::map<std::string, std::string> read_metadata(const nlohmann::json& value) const {
    if (!value.is_object())
      fail_at(kLengthBytes, "expected __metadata__ to be an object of strings, got {}", value.type_name());
    std::map<std::string, std::string> metadata;
    for (const auto& [key, text] : value.items()) {
      if (!text.is_string())
        fail_at(kLengthBytes, "expected __metadata__ '{}' to be a string, got {}", key, text.type_name());
      metadata.emplace(key, text.get<std::string>());
    }
    return metadata;
  }

  Entry read_entry(const std::string& name, const nlohmann::json& value) const {
    if (!value.is_object() || value.size() != 3 || !value.contains("dtype") || !value.contains("shape") ||
        !value.contains("data_offsets")) {
      fail_at(kLengthBytes, "tensor '{}': expected an object with dtype, shape and data_offsets, got {}",
              name, shown(value));
    }
    Entry entry{name, read_type(name, value["dtype"]), {}, 0, 0};
    const size_t bytes = read_shape(name, value["shape"], entry);
    const nlohmann::json& offsets = value["data_offsets"];
    if (!offsets.is_array() || offsets.size() != 2 || !offsets[0].is_number_unsigned() ||
        !offsets[1].is_number_unsigned()) {
      fail_at(kLengthBytes, "tensor '{}': expected data_offsets [begin, end] >= 0, got {}", name,
              shown(offsets));
    }
    entry.begin = offsets[0].get<size_t>();
    entry.end = offsets[1].get<size_t>();
    if (entry.begin > entry.end || entry.end > data_.size()) {
      fail_at(bytes_.size(),
              "tensor '{}': expected data_offsets within the {} bytes of data, got [{}, {}]; truncated?",
              name, data_.size(), entry.begin, entry.end);
    }
    if (entry.end - entry.begin != bytes) {
      fail_at(data_byte(entry.begin), "tensor '{}': expected {} bytes for {} {}, got {}", name, bytes,
              entry.type->name, str(entry.shape), entry.end - entry.begin);
    }
    return entry;
  }

  const FileType* read_type(const std::string& name, const nlohmann::json& value) const {
    std::string known;
    for (const FileType& type : kFileTypes) {
      if (value.is_string() && value.get_ref<const std::string&>() == type.name) return &type;
      known += fmt::format("{}{}", known.empty() ? "" : ", ", type.name);
    }
    fail_at(kLengthBytes, "tensor '{}': expected a dtype of {}; got {}", name, known, shown(value));
  }

  /// Sets entry.shape and returns its size in bytes.
  size_t read_shape(const std::string& name, const nlohmann::json& value, Entry& entry) const {
    if (!value.is_array() || value.size() > kMaxRank) {
      fail_at(kLengthBytes, "tensor '{}': expected a shape of at most {} sizes, got {}", name, kMaxRank,
              shown(value));
    }
    // The bound counts empty axes as 1: also the strides of an empty tensor must fit.
    int64_t bound = static_cast<int64_t>(entry.type->bytes), bytes = bound;
    for (const nlohmann::json& size : value) {
      if (!size.is_number_unsigned() ||
          size.get<uint64_t>() > static_cast<uint64_t>(std::numeric_limits<int64_t>::max()) / 8 ||
          __builtin_mul_overflow(bound, std::max<int64_t>(size.get<int64_t>(), 1), &bound)) {
        fail_at(kLengthBytes, "tensor '{}': expected a shape of sizes >= 0 whose product fits, got {}", name,
                shown(value));
      }
      bytes *= size.get<int64_t>();
      entry.shape.push_back(size.get<int64_t>());
    }
    return static_cast<size_t>(bytes);
  }

  /// The data must be covered once and completely, so that nothing can hide in a file.
  void check_layout(std::vector<Entry>& entries) const {
    std::sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) {
      return std::pair(a.begin, a.end) < std::pair(b.begin, b.end);
    });
    size_t covered = 0;
    for (const Entry& entry : entries) {
      if (entry.begin != covered) {
        fail_at(data_byte(covered),
                "tensor '{}': expected its data here without {}, got offset {} instead of {}", entry.name,
                entry.begin < covered ? "overlap" : "a hole", entry.begin, covered);
      }
      covered = entry.end;
    }
    if (covered != data_.size()) {
      fail_at(data_byte(covered), "expected the end of the file, got {} more bytes", data_.size() - covered);
    }
  }

  size_t data_byte(size_t offset) const { return kLengthBytes + header_.size() + offset; }

  Tensor load(const Entry& entry, Device& device) const {
    const char* data = data_.data() + entry.begin;
    const TensorOptions options{entry.type->dtype, &device};
    if (entry.type->bytes == size_of(entry.type->dtype)) {
      Tensor tensor = Tensor::empty(entry.shape, options);
      device.upload(tensor.array().data, data, entry.end - entry.begin);
      return tensor;
    }
    const std::string_view type = entry.type->name;
    if (type == "F16") return convert<uint16_t, float>(data, entry.shape, options, half_to_float);
    const auto widen = [](auto value) { return static_cast<int64_t>(value); };
    if (type == "I32") return convert<int32_t, int64_t>(data, entry.shape, options, widen);
    if (type == "I16") return convert<int16_t, int64_t>(data, entry.shape, options, widen);
    if (type == "I8") return convert<int8_t, int64_t>(data, entry.shape, options, widen);
    return convert<uint8_t, int64_t>(data, entry.shape, options, widen);  // U8 and BOOL
  }

  template <class From, class To, class Convert>
  static Tensor convert(const char* data, const Shape& shape, TensorOptions options, Convert convert_value) {
    std::vector<To> values(static_cast<size_t>(numel(shape)));
    for (To& value : values) {
      From raw;
      std::memcpy(&raw, data, sizeof raw);
      value = convert_value(raw);
      data += sizeof raw;
    }
    return Tensor::from(values, shape, options);
  }

  std::string_view bytes_, header_, data_;
  const std::string& source_;
};

}  // namespace

const Tensor& NamedTensors::at(const std::string& name) const {
  const auto found = tensors.find(name);
  if (found != tensors.end()) return found->second;
  std::string names;
  for (const auto& [other, tensor] : tensors) names += (names.empty() ? "" : ", ") + other;
  fail("safetensors", "{}: expected a tensor named '{}'; there are: {}", source, name,
       names.empty() ? "none" : names);
}

NamedTensors parse_safetensors(std::string_view bytes, const std::string& source, Device& device) {
  return Parser(bytes, source).parse(device);
}

std::string format_safetensors(const NamedTensors& content) {
  require(!content.tensors.contains(std::string(kMetadata)), "safetensors",
          "expected no tensor named {}, which the format reserves, got one", kMetadata);
  // The widest type first, as the format's own writer does it: so every tensor starts aligned.
  std::vector<std::pair<std::string, Tensor>> ordered(content.tensors.begin(), content.tensors.end());
  std::stable_sort(ordered.begin(), ordered.end(), [](const auto& a, const auto& b) {
    return size_of(a.second.dtype()) > size_of(b.second.dtype());
  });

  nlohmann::json header = nlohmann::json::object();
  if (!content.metadata.empty()) header[kMetadata] = content.metadata;
  size_t offset = 0;
  for (const auto& [name, tensor] : ordered) {
    const size_t end = offset + static_cast<size_t>(tensor.numel()) * size_of(tensor.dtype());
    header[name] = {{"dtype", file_type_of(tensor.dtype()).name},
                    {"shape", std::vector<int64_t>(tensor.shape().begin(), tensor.shape().end())},
                    {"data_offsets", {offset, end}}};
    offset = end;
  }
  std::string text;
  try {
    text = header.dump();
  } catch (const nlohmann::json::type_error& error) {
    fail("safetensors", "expected names and metadata to be UTF-8 text: {}", error.what());
  }
  text.resize((text.size() + kAlignment - 1) / kAlignment * kAlignment, ' ');

  const uint64_t length = text.size();
  std::string bytes(kLengthBytes, '\0');
  std::memcpy(bytes.data(), &length, kLengthBytes);
  bytes += text;
  size_t at = bytes.size();
  bytes.resize(at + offset);
  for (const auto& [name, tensor] : ordered) {
    const Tensor packed = tensor.contiguous();
    const size_t size = static_cast<size_t>(packed.numel()) * size_of(packed.dtype());
    packed.device().download(bytes.data() + at, packed.array().data, size);
    at += size;
  }
  return bytes;
}

NamedTensors read_safetensors(const std::string& path, Device& device) {
  return parse_safetensors(read_file(path), path, device);
}

void write_safetensors(const std::string& path, const NamedTensors& content) {
  write_file(path, format_safetensors(content));
}

}  // namespace halfstep
