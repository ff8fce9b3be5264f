// Files and configurations.
#include <doctest/doctest.h>

#include "diffusion/config.h"
#include "tensor/files.h"
#include "tensor/safetensors.h"
#include "tests/errors/rows.h"
#include "tests/temporary_folder.h"

using namespace halfstep;
using namespace halfstep::test;

namespace {

/// The bytes of a .safetensors file.
std::string file_of(const std::string& header, const std::string& data = "") {
  std::string bytes;
  for (int i = 0; i < 8; ++i) bytes += static_cast<char>(header.size() >> (8 * i) & 0xff);
  return bytes + header + data;
}
void parse(const std::string& bytes) { parse_safetensors(bytes, "f"); }
void parse_tensor(const std::string& entry, const std::string& data = "") {
  parse(file_of("{\"a\":" + entry + "}", data));
}

}  // namespace

TEST_CASE("errors of files") {
  const TemporaryFolder folder;
  check_rows({
      {"missing file", [&] { read_file(folder / "none"); },
       "[file] cannot read '*/none': No such file or directory; check the path, and create the folder first"},
      {"folder in place of a file", [&] { read_file(folder.path()); },
       "[file] cannot read '*': Is a directory; give the name of a file, not of a folder"},
      {"folder that exists", [&] { publish_folder(folder.path(), [](const std::string&) {}); },
       "[file] expected '*' to be a new folder, but it exists; nothing is ever replaced"},
      {"a folder that another process writes",
       [&] {
         const FolderLock lock(folder / "run");
         FolderLock second(folder / "run");
       },
       "[lock] expected to be the only writer of '*/run', but process * is one; wait for it, stop it, or "
       "choose another folder"},
      {"missing safetensors file", [&] { read_safetensors(folder / "none.safetensors"); },
       "[file] cannot read '*none.safetensors': No such file or directory; *"},
      {"file of a few bytes", [] { parse("abc"); },
       "[safetensors] f, byte 3: expected 8 bytes of header length, the file ends after 3; truncated?"},
      {"truncated header", [] { parse(file_of("{}").substr(0, 9)); },
       "[safetensors] f, byte 0: expected a header length of at most 1, the rest of the file, got 2; "
       "truncated or "
       "foreign file?"},
      {"another format", [] { parse(file_of("PNG")); },
       "[safetensors] f, byte 8: expected '{', the start of the JSON header, got byte 80; foreign file?"},
      {"empty header", [] { parse(file_of("")); },
       "[safetensors] f, byte 8: expected '{', the start of the JSON header, got an empty header; foreign "
       "file?"},
      {"header that is no JSON", [] { parse(file_of("{\"a\":")); },
       "[safetensors] f, byte 13: expected a JSON header: *"},
      {"number out of range", [] { parse(file_of("{\"a\":1e999}")); },
       "[safetensors] f, byte 8: expected numbers within range in the header: *"},
      {"deep header", [] { parse(file_of("{\"a\":{\"b\":{\"c\":{\"d\":1}}}}")); },
       "[safetensors] f, byte 8: expected a header of at most three levels, got a deeper one"},
      {"name twice", [] { parse(file_of("{\"__metadata__\":{\"k\":\"v\",\"k\":\"w\"}}")); },
       "[safetensors] f, byte 8: expected each name once in the header, got \"k\" twice"},
      {"metadata that is a list", [] { parse(file_of("{\"__metadata__\":[]}")); },
       "[safetensors] f, byte 8: expected __metadata__ to be an object of strings, got array"},
      {"metadata that is a number", [] { parse(file_of("{\"__metadata__\":{\"k\":1}}")); },
       "[safetensors] f, byte 8: expected __metadata__ 'k' to be a string, got number"},
      {"entry without offsets", [] { parse_tensor("{\"dtype\":\"F32\",\"shape\":[1]}"); },
       "[safetensors] f, byte 8: tensor 'a': expected an object with dtype, shape and data_offsets, got "
       "{\"dtype\":\"F32\",\"shape\":[1]}"},
      {"dtype of a file",
       [] { parse_tensor("{\"dtype\":\"F8\",\"shape\":[1],\"data_offsets\":[0,1]}", "x"); },
       "[safetensors] f, byte 8: tensor 'a': expected a dtype of F32, F64, *; got \"F8\""},
      {"shape that is a number",
       [] { parse_tensor("{\"dtype\":\"F32\",\"shape\":4,\"data_offsets\":[0,4]}", "1234"); },
       "[safetensors] f, byte 8: tensor 'a': expected a shape of at most 8 sizes, got 4"},
      {"negative size in a file",
       [] { parse_tensor("{\"dtype\":\"F32\",\"shape\":[-1],\"data_offsets\":[0,4]}", "1234"); },
       "[safetensors] f, byte 8: tensor 'a': expected a shape of sizes >= 0 whose product fits, got [-1]"},
      {"negative offset", [] { parse_tensor("{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[-4,0]}"); },
       "[safetensors] f, byte 8: tensor 'a': expected data_offsets [begin, end] >= 0, got [-4,0]"},
      {"truncated data",
       [] { parse_tensor("{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}", "1234"); },
       "[safetensors] f, byte *: tensor 'a': expected data_offsets within the 4 bytes of data, got [0, 8]; "
       "truncated?"},
      {"another size of data",
       [] { parse_tensor("{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,4]}", "1234"); },
       "[safetensors] f, byte *: tensor 'a': expected 8 bytes for F32 (2,), got 4"},
      {"hole in the data",
       [] { parse_tensor("{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]}", "12345678"); },
       "[safetensors] f, byte *: tensor 'a': expected its data here without a hole, got offset 4 instead of "
       "0"},
      {"data behind the last tensor",
       [] { parse_tensor("{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}", "12345678"); },
       "[safetensors] f, byte *: expected the end of the file, got 4 more bytes"},
      {"tensor that is not in the file",
       [] {
         NamedTensors content;
         content.source = "f";
         content.tensors["a"] = ones({1});
         content.at("b");
       },
       "[safetensors] f: expected a tensor named 'b'; there are: a"},
      {"reserved name",
       [] {
         NamedTensors content;
         content.tensors["__metadata__"] = ones({1});
         format_safetensors(content);
       },
       "[safetensors] expected no tensor named __metadata__, which the format reserves, got one"},
      {"name that is no text",
       [] {
         NamedTensors content;
         content.tensors["\xff"] = ones({1});
         format_safetensors(content);
       },
       "[safetensors] expected names and metadata to be UTF-8 text: *"},
  });
}

TEST_CASE("errors of configurations") {
  const auto read = [](const char* text) { return [text] { config_from_json(text, "f").validate(); }; };
  check_rows({
      {"no JSON", read("{"), "[config] f: expected JSON, got an error at byte *"},
      {"a list", read("[]"), "[config] f: expected a JSON object, got []"},
      {"unknown key", read("{\"train\": {\"lerning_rate\": 1}}"),
       "[config] f, section 'train': unknown key 'lerning_rate'; did you mean 'learning_rate'?"},
      {"section that is a number", read("{\"train\": 3}"),
       "[config] f: expected an object for 'train', got 3"},
      {"value of another kind", read("{\"train\": {\"batch_size\": \"many\"}}"),
       "[config] f: expected a number as the value of 'batch_size', got \"many\""},
      {"value out of range", read("{\"train\": {\"batch_size\": 0}}"),
       "[config] *expected batch_size >= 1, got 0"},
      {"network that cannot be built", read("{\"model\": {\"channels\": 2}}"),
       "[*] *channels must be at least 4 *, got 2"},
  });
}
