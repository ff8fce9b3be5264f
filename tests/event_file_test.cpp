#include "diffusion/event_file.h"

#include <doctest/doctest.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <limits>
#include <vector>

#include "tests/error_of.h"
#include "tests/temporary_folder.h"

using namespace halfstep;
using halfstep::test::error_of;
using halfstep::test::TemporaryFolder;
namespace fs = std::filesystem;

namespace {

using namespace std::string_literals;

constexpr std::string_view kPng = "\x89PNG\r\n\x1a\n...";

/// 1.0 as a little-endian f64, the time of every event of these tests.
const std::string kTime = "\x09\0\0\0\0\0\0\xf0\x3f"s;

/// The messages of a file; checks the framing, byte by byte, and that nothing is left over.
std::vector<std::string> messages_of(const std::string& path) {
  const std::string bytes = read_file(path);
  const auto number = [&](size_t at, size_t count) {
    uint64_t value = 0;
    for (size_t i = count; i-- > 0;) value = value << 8 | static_cast<uint8_t>(bytes.at(at + i));
    return value;
  };
  const auto masked = [](std::string_view text) {
    const uint32_t crc = crc32c(text);
    return static_cast<uint32_t>((crc >> 15 | crc << 17) + 0xa282ead8u);
  };
  std::vector<std::string> messages;
  for (size_t at = 0; at < bytes.size();) {
    const auto length = static_cast<size_t>(number(at, 8));
    CHECK(number(at + 8, 4) == masked(std::string_view(bytes).substr(at, 8)));
    messages.push_back(bytes.substr(at + 12, length));
    REQUIRE(messages.back().size() == length);
    CHECK(number(at + 12 + length, 4) == masked(messages.back()));
    at += 16 + length;
  }
  return messages;
}

double one() { return 1; }

}  // namespace

TEST_CASE("CRC-32C of the known answers") {
  CHECK(crc32c("123456789") == 0xE3069283u);
  CHECK(crc32c("") == 0);
  CHECK(crc32c(std::string(32, '\0')) == 0x8A9136AAu);  // RFC 3720, B.4
  CHECK(crc32c(std::string(32, '\xff')) == 0x62A8AB43u);
}

TEST_CASE("an event file holds exactly these bytes") {
  const TemporaryFolder folder;
  EventFile file(folder.path(), {}, one);
  // Every event file of TensorFlow begins with these 12 bytes.
  CHECK(read_file(file.path()).substr(0, 12) == "\x18\0\0\0\0\0\0\0\xa3\x7f\x4b\x22"s);
  file.scalar("a/b", 300, 1.5);
  file.scalar("nan", 0, std::nan(""));
  file.image("p", 1, kPng, 200, 3, 1);
  file.flush();
  const std::vector<std::string> messages = messages_of(file.path());
  REQUIRE(messages.size() == 4);
  CHECK(messages[0] == kTime + "\x1a\x0d" + "brain.Event:2");
  CHECK(messages[1] ==
        kTime + "\x10\xac\x02" + "\x2a\x0c" + "\x0a\x0a" + "\x0a\x03" + "a/b" + "\x15\0\0\xc0\x3f"s);
  CHECK(messages[2] == kTime + "\x2a\x0c" + "\x0a\x0a" + "\x0a\x03" + "nan" + "\x15\0\0\xc0\x7f"s);
  CHECK(messages[3] == kTime + "\x10\x01" + "\x2a\x1b" + "\x0a\x19" + "\x0a\x01" + "p" + "\x22\x14" +
                           "\x08\x03" + "\x10\xc8\x01" + "\x18\x01" + "\x22\x0b" + std::string(kPng));
}

TEST_CASE("a resumed run opens a new file behind the others and says from where") {
  const TemporaryFolder folder;
  std::vector<std::string> names;
  // Twice in one second, and after the clock was set back.
  for (const double seconds : {1.7e9, 1.7e9, 1.6e9}) {
    EventFile file(folder.path(), names.empty() ? std::nullopt : std::optional<int64_t>(0),
                   [=] { return seconds; });
    names.push_back(file.path());
    CHECK(fs::path(file.path()).filename().string().starts_with("events.out.tfevents.17000000"));
  }
  CHECK(names[0] < names[1]);
  CHECK(names[1] < names[2]);
  EventFile resumed(folder.path(), 200, one);
  const std::vector<std::string> messages = messages_of(resumed.path());
  REQUIRE(messages.size() == 2);
  CHECK(messages[1] == kTime + "\x10\xc9\x01" + "\x3a\x02\x08\x01");  // SessionLog START at step 201
}

TEST_CASE("every event is in the file at once, a kill -9 loses none") {
  const TemporaryFolder folder;
  const pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    EventFile file(folder.path(), {}, one);
    for (int64_t step = 0; step < 1000; ++step) file.scalar("loss", step, 1);
    ::kill(::getpid(), SIGKILL);
  }
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  CHECK(WIFSIGNALED(status));
  const std::string path = fs::directory_iterator(folder.path())->path().string();
  CHECK(messages_of(path).size() == 1001);
}

TEST_CASE("what an event file refuses") {
  const TemporaryFolder folder;
  EventFile file(folder.path(), {}, one);
  const size_t size = read_file(file.path()).size();
  CHECK(error_of([&] { EventFile(folder / "none"); }).find("create the folder first") != std::string::npos);
  CHECK(error_of([&] { EventFile(folder.path(), -1); }) ==
        "[event file] expected a step of 0 or more, got -1");
  CHECK(error_of([&] { file.scalar("loss", -2, 0); }) == "[event file] expected a step of 0 or more, got -2");
  CHECK(error_of([&] { file.scalar("", 0, 0); }).find("got an empty one") != std::string::npos);
  CHECK(error_of([&] { file.image("p", 0, "GIF89a", 1, 1, 1); }).find("got 6 bytes of something else") !=
        std::string::npos);
  CHECK(error_of([&] { file.image("p", 0, kPng, 1, 0, 1); }).find("got 1 x 0 x 1") != std::string::npos);
  CHECK(error_of([&] { file.image("p", 0, kPng, 1, 1, 5); }).find("got 1 x 1 x 5") != std::string::npos);
  CHECK(read_file(file.path()).size() == size);
}
