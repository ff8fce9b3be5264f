#include "diffusion/event_file.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <charconv>
#include <chrono>
#include <cmath>
#include <filesystem>

#include "tensor/error.h"

namespace halfstep {

namespace {

constexpr std::string_view kPrefix = "events.out.tfevents.";

// --- protobuf's wire format --------------------------------------------------------------------------------

/// The least significant byte first, on every machine.
template <class T>
void put_fixed(std::string& to, T bits) {
  for (size_t i = 0; i < sizeof(T); ++i) to += static_cast<char>(bits >> 8 * i & 0xff);
}

void put_varint(std::string& to, uint64_t value) {
  for (; value >= 0x80; value >>= 7) to += static_cast<char>((value & 0x7f) | 0x80);
  to += static_cast<char>(value);
}

enum class Wire : uint64_t { varint = 0, bits64 = 1, bytes = 2, bits32 = 5 };

void put_key(std::string& to, uint64_t field, Wire wire) {
  put_varint(to, field << 3 | static_cast<uint64_t>(wire));
}

std::string varint_field(uint64_t field, int64_t value) {
  std::string text;
  put_key(text, field, Wire::varint);
  put_varint(text, static_cast<uint64_t>(value));
  return text;
}

std::string double_field(uint64_t field, double value) {
  std::string text;
  put_key(text, field, Wire::bits64);
  put_fixed(text, std::bit_cast<uint64_t>(value));
  return text;
}

std::string float_field(uint64_t field, float value) {
  std::string text;
  put_key(text, field, Wire::bits32);
  put_fixed(text, std::bit_cast<uint32_t>(value));
  return text;
}

/// A text, or a message in a message.
std::string bytes_field(uint64_t field, std::string_view value) {
  std::string text;
  put_key(text, field, Wire::bytes);
  put_varint(text, value.size());
  text += value;
  return text;
}

// Numbers of the fields in event.proto and summary.proto.
namespace event {
constexpr uint64_t kWallTime = 1, kStep = 2, kFileVersion = 3, kSummary = 5, kSessionLog = 7;
}
namespace session_log {
constexpr uint64_t kStatus = 1;
constexpr int64_t kStart = 1;
}  // namespace session_log
namespace summary {
constexpr uint64_t kValue = 1, kTag = 1, kSimpleValue = 2, kImage = 4;
}
namespace image_message {
constexpr uint64_t kHeight = 1, kWidth = 2, kColorspace = 3, kEncoded = 4;
}

// --- records -----------------------------------------------------------------------------------------------

/// Records hold their own checksums; the mask keeps these apart from checksums in the data.
uint32_t masked_crc(std::string_view bytes) { return std::rotr(crc32c(bytes), 15) + 0xa282ead8u; }

std::string record_of(std::string_view bytes) {
  std::string record;
  put_fixed(record, static_cast<uint64_t>(bytes.size()));
  put_fixed(record, masked_crc(record));
  record += bytes;
  put_fixed(record, masked_crc(bytes));
  return record;
}

// --- names -------------------------------------------------------------------------------------------------

std::string host_name() {
  char name[256] = {};
  if (::gethostname(name, sizeof name - 1) != 0 || !name[0]) return "host";
  std::string host = name;
  std::replace_if(
      host.begin(), host.end(), [](char c) { return !std::isalnum(static_cast<unsigned char>(c)); }, '-');
  return host;
}

void require_step(int64_t step) {
  require(step >= 0, "event file", "expected a step of 0 or more, got {}", step);
}

/// A name behind those of the event files in `folder`, even if the clock was set back.
std::string next_name(const std::string& folder, int64_t now) {
  int64_t seconds = now;
  std::error_code error;  // comes back when the file is created
  for (const auto& entry : std::filesystem::directory_iterator(folder, error)) {
    const std::string name = entry.path().filename().string();
    if (!name.starts_with(kPrefix)) continue;
    int64_t used = 0;
    const auto parsed = std::from_chars(name.data() + kPrefix.size(), name.data() + name.size(), used);
    if (parsed.ec == std::errc()) seconds = std::max(seconds, used + 1);
  }
  return fmt::format("{}/{}{:010}.{}.{}", folder, kPrefix, seconds, host_name(), ::getpid());
}

}  // namespace

double wall_time() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

uint32_t crc32c(std::string_view bytes) {
  static const auto kTable = [] {
    std::array<uint32_t, 256> table{};
    for (uint32_t i = 0; i < table.size(); ++i) {
      uint32_t rest = i;
      for (int bit = 0; bit < 8; ++bit) rest = rest >> 1 ^ (rest & 1 ? 0x82f63b78u : 0);
      table[i] = rest;
    }
    return table;
  }();
  uint32_t crc = 0xffffffffu;
  for (const char c : bytes) crc = crc >> 8 ^ kTable[(crc ^ static_cast<uint8_t>(c)) & 0xff];
  return ~crc;
}

EventFile::EventFile(const std::string& folder, std::optional<int64_t> resumed_step,
                     std::function<double()> clock)
    : clock_(std::move(clock)), path_(next_name(folder, static_cast<int64_t>(clock_()))), file_(path_) {
  write_event(0, bytes_field(event::kFileVersion, "brain.Event:2"));
  if (!resumed_step) return;
  require_step(*resumed_step);
  // TensorBoard drops what it has of this step and later ones.
  write_event(*resumed_step + 1,
              bytes_field(event::kSessionLog, varint_field(session_log::kStatus, session_log::kStart)));
}

void EventFile::write_event(int64_t step, std::string_view content) {
  std::string message = double_field(event::kWallTime, clock_());
  if (step != 0) message += varint_field(event::kStep, step);  // protobuf leaves zeros out
  message += content;
  file_.append(record_of(message));
}

void EventFile::write_summary(std::string_view tag, int64_t step, std::string_view value) {
  require(!tag.empty(), "event file", "expected a tag such as \"train/loss\", got an empty one");
  require_step(step);
  write_event(step, bytes_field(event::kSummary,
                                bytes_field(summary::kValue, bytes_field(summary::kTag, tag).append(value))));
}

void EventFile::scalar(std::string_view tag, int64_t step, double value) {
  write_summary(tag, step, float_field(summary::kSimpleValue, static_cast<float>(value)));
}

void EventFile::image(std::string_view tag, int64_t step, std::string_view png, int64_t width, int64_t height,
                      int channels) {
  require(png.starts_with("\x89PNG\r\n\x1a\n"), "event file",
          "expected the bytes of a PNG file, got {} bytes of something else", png.size());
  require(width > 0 && height > 0 && channels >= 1 && channels <= 4, "event file",
          "expected a picture with pixels of 1 to 4 channels, got {} x {} x {}", width, height, channels);
  write_summary(tag, step,
                bytes_field(summary::kImage, varint_field(image_message::kHeight, height) +
                                                 varint_field(image_message::kWidth, width) +
                                                 varint_field(image_message::kColorspace, channels) +
                                                 bytes_field(image_message::kEncoded, png)));
}

}  // namespace halfstep
