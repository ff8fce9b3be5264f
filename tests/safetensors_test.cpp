// .safetensors: round trips, a file byte for byte as the format's own library writes it, and everything that
// must be refused.
#include "tensor/safetensors.h"

#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "tensor/error.h"
#include "tensor/files.h"
#include "tests/temporary_folder.h"

using namespace halfstep;
using halfstep::test::TemporaryFolder;

namespace {

/// A file of this header and data.
std::string file_of(const std::string& header, const std::string& data) {
  const uint64_t length = header.size();
  std::string bytes(8, '\0');
  std::memcpy(bytes.data(), &length, 8);
  return bytes + header + data;
}

/// The header of one tensor "a".
std::string one(const std::string& dtype, const std::string& shape, const std::string& offsets) {
  return R"({"a":{"dtype":")" + dtype + R"(","shape":)" + shape + R"(,"data_offsets":)" + offsets + "}}";
}

NamedTensors parse(const std::string& bytes) { return parse_safetensors(bytes, "test.safetensors"); }

/// The message with which a file is refused.
std::string refusal(const std::string& bytes) {
  try {
    parse(bytes);
  } catch (const Error& error) {
    return error.what();
  }
  return "accepted";
}

template <class T>
std::string raw(std::initializer_list<T> values) {
  std::string bytes(values.size() * sizeof(T), '\0');
  std::memcpy(bytes.data(), std::data(values), bytes.size());
  return bytes;
}

NamedTensors some_tensors() {
  NamedTensors content;
  content.tensors["matrix"] = Tensor::from(std::vector<float>{1, 2, 3, 4, 5, 6}, {2, 3});
  content.tensors["f64"] = Tensor::from(std::vector<double>{0.1, -1e300}, {2}, {.dtype = DType::f64});
  content.tensors["bf16"] = Tensor::from(std::vector<float>{1.5f, -2, 256}, {3, 1}, {.dtype = DType::bf16});
  content.tensors["labels"] =
      Tensor::from(std::vector<int64_t>{-1, int64_t{1} << 62}, {2}, {.dtype = DType::i64});
  content.tensors["scalar"] = Tensor::scalar(7);
  content.tensors["empty"] = Tensor::empty({0, 4});
  content.metadata = {{"format", "pt"}, {"Größe", "\"quoted\"\n"}};
  return content;
}

void check_equal(const NamedTensors& a, const NamedTensors& b) {
  CHECK(a.metadata == b.metadata);
  REQUIRE(a.tensors.size() == b.tensors.size());
  for (const auto& entry : a.tensors) {
    INFO("tensor ", entry.first);
    const Tensor &tensor = entry.second, &other = b.at(entry.first);
    CHECK(tensor.shape() == other.shape());
    CHECK(tensor.dtype() == other.dtype());
    if (tensor.dtype() == DType::i64) {
      CHECK(tensor.to_vector<int64_t>() == other.to_vector<int64_t>());
    } else {
      CHECK(tensor.to_vector<double>() == other.to_vector<double>());
    }
  }
}

}  // namespace

TEST_CASE("safetensors keep names, shapes, dtypes, values and metadata") {
  const TemporaryFolder folder;
  const NamedTensors content = some_tensors();
  write_safetensors(folder / "file.safetensors", content);
  const NamedTensors back = read_safetensors(folder / "file.safetensors");
  check_equal(content, back);
  CHECK(back.source == folder / "file.safetensors");
  check_equal(NamedTensors{}, parse(format_safetensors({})));
}

TEST_CASE("safetensors keep infinities, NaN and the sign of zero") {
  const float inf = std::numeric_limits<float>::infinity();
  NamedTensors content;
  content.tensors["a"] = Tensor::from(std::vector<float>{inf, -inf, std::nanf(""), -0.0f}, {4});
  const std::vector<float> values = parse(format_safetensors(content)).at("a").to_vector<float>();
  CHECK(values[0] == inf);
  CHECK(values[1] == -inf);
  CHECK(std::isnan(values[2]));
  CHECK((values[3] == 0 && std::signbit(values[3])));
}

TEST_CASE("views are written as what they show, and tensors are read onto the given device") {
  const Tensor matrix = Tensor::from(std::vector<float>{1, 2, 3, 4, 5, 6}, {2, 3});
  NamedTensors content;
  content.tensors["transposed"] = matrix.transpose(0, 1);
  content.tensors["row"] = matrix.slice(0, 1, 2);
  content.tensors["expanded"] = matrix.slice(1, 2, 3).expand({2, 2});
  const NamedTensors back = parse_safetensors(format_safetensors(content), "test", reference_device());
  CHECK(back.at("transposed").to_vector<float>() == std::vector<float>{1, 4, 2, 5, 3, 6});
  CHECK(back.at("row").to_vector<float>() == std::vector<float>{4, 5, 6});
  CHECK(back.at("expanded").to_vector<float>() == std::vector<float>{3, 3, 6, 6});
  CHECK(&back.at("row").device() == &reference_device());
}

TEST_CASE("a file of the format's own library is read, and rewritten with the same layout") {
  // safetensors.numpy.save({"w": f32 [[1, 2], [3, 4]], "b": f64 [0.5], "i": i64 [3]}, {"k": "v"}) of version
  // 0.8.0.
  const std::string theirs =
      std::string("\xc0\0\0\0\0\0\0\0", 8) +
      R"({"__metadata__":{"k":"v"},"i":{"dtype":"I64","shape":[1],"data_offsets":[0,8]},)"
      R"("b":{"dtype":"F64","shape":[1],"data_offsets":[8,16]},)"
      R"("w":{"dtype":"F32","shape":[2,2],"data_offsets":[16,32]}}  )" +
      raw<int64_t>({3}) + raw<double>({0.5}) + raw<float>({1, 2, 3, 4});
  const NamedTensors content = parse(theirs);
  CHECK(content.at("w").to_vector<float>() == std::vector<float>{1, 2, 3, 4});
  CHECK(content.at("w").shape() == Shape{2, 2});
  CHECK(content.at("b").to_vector<double>() == std::vector<double>{0.5});
  CHECK(content.at("i").to_vector<int64_t>() == std::vector<int64_t>{3});
  CHECK(content.metadata.at("k") == "v");

  // Types of one width are in the order of names, and so are the keys of an entry; else it is the same file.
  const std::string ours = format_safetensors(content);
  CHECK(ours.size() == theirs.size());
  CHECK(ours.substr(0, 8) == theirs.substr(0, 8));
  CHECK(ours.ends_with(raw<double>({0.5}) + raw<int64_t>({3}) + raw<float>({1, 2, 3, 4})));
}

TEST_CASE("the data of every tensor is aligned to its type") {
  const std::string bytes = format_safetensors(some_tensors());
  uint64_t length = 0;
  std::memcpy(&length, bytes.data(), 8);
  CHECK(length % 8 == 0);
  // Widest types first: f64 and i64, then f32, then bf16.
  const std::string tail = raw<uint16_t>({0x3fc0, 0xc000, 0x4380});
  CHECK(bytes.ends_with(tail));
}

TEST_CASE("narrow types are widened on reading") {
  const auto ints = [](const std::string& dtype, const std::string& data, const std::string& end) {
    const NamedTensors content = parse(file_of(one(dtype, "[2]", "[0," + end + "]"), data));
    CHECK(content.at("a").dtype() == DType::i64);
    return content.at("a").to_vector<int64_t>();
  };
  CHECK(ints("I32", raw<int32_t>({-5, 1 << 30}), "8") == std::vector<int64_t>{-5, 1 << 30});
  CHECK(ints("I16", raw<int16_t>({-5, 1 << 14}), "4") == std::vector<int64_t>{-5, 1 << 14});
  CHECK(ints("I8", raw<int8_t>({-5, 100}), "2") == std::vector<int64_t>{-5, 100});
  CHECK(ints("U8", raw<uint8_t>({5, 255}), "2") == std::vector<int64_t>{5, 255});
  CHECK(ints("BOOL", raw<uint8_t>({0, 1}), "2") == std::vector<int64_t>{0, 1});

  // 1, -2, largest, smallest normal, smallest subnormal, -0, infinity (IEEE 754-2008, binary16).
  const NamedTensors half =
      parse(file_of(one("F16", "[8]", "[0,16]"),
                    raw<uint16_t>({0x3c00, 0xc000, 0x7bff, 0x0400, 0x0001, 0x8000, 0x7c00, 0x7e00})));
  CHECK(half.at("a").dtype() == DType::f32);
  const std::vector<float> values = half.at("a").to_vector<float>();
  CHECK(values[0] == 1.0f);
  CHECK(values[1] == -2.0f);
  CHECK(values[2] == 65504.0f);
  CHECK(values[3] == 0x1p-14f);
  CHECK(values[4] == 0x1p-24f);
  CHECK((values[5] == 0 && std::signbit(values[5])));
  CHECK(values[6] == std::numeric_limits<float>::infinity());
  CHECK(std::isnan(values[7]));
}

TEST_CASE("wrong files are refused with file, byte and expectation") {
  const std::string four(4, 'x'), eight(8, 'x');
  CHECK(refusal(file_of(one("F32", "[2]", "[0,8]"), eight)) == "accepted");
  const auto check = [](const std::string& bytes, const std::string& part) {
    const std::string message = refusal(bytes);
    INFO("message: ", message);
    CHECK(message.starts_with("[safetensors] test.safetensors, byte "));
    CHECK(message.find(part) != std::string::npos);
  };
  // Header.
  check("", "byte 0: expected 8 bytes of header length");
  check(
      "\x7f"
      "ELF\x02\x01\x01\x03 and more",
      "expected a header length of at most");
  check(std::string(8, '\0'), "byte 8: expected '{'");
  check(file_of("[]", ""), "byte 8: expected '{'");
  check(file_of("{\"a\":", ""), "byte 13: expected a JSON header");
  check(file_of("{} x", ""), "expected a JSON header");
  check(file_of("{\"\xff\":1}", ""), "expected a JSON header");
  check(file_of("{\"a\":1e999}", ""), "header");
  check(file_of("{\"a\":" + std::string(200'000, '['), ""), "at most three levels");
  check(file_of(R"({"a":{"dtype":"F32","shape":[0],"data_offsets":[0,0]},"a":{}})", ""), "got \"a\" twice");
  check(file_of(R"({"a":{"dtype":"F32","dtype":"F32","shape":[0],"data_offsets":[0,0]}})", ""), "twice");
  check(file_of(R"({"__metadata__":{"k":"v","k":"w"}})", ""), "twice");
  check(file_of(R"({"__metadata__":[]})", ""), "__metadata__");
  check(file_of(R"({"__metadata__":{"k":1}})", ""), "__metadata__ 'k' to be a string");
  // Entries.
  check(file_of(R"({"a":1})", ""), "'a': expected an object with dtype");
  check(file_of(R"({"a":{"dtype":"F32","shape":[0]}})", ""), "'a': expected an object with dtype");
  check(file_of(one("F8", "[2]", "[0,8]"), eight), R"(got "F8")");
  check(file_of(R"({"a":{"dtype":4,"shape":[2],"data_offsets":[0,8]}})", eight), "got 4");
  for (const std::string shape :
       {"2", "[-2]", "[2.0]", "[true]", "[\"2\"]", "{}", "[1,1,1,1,1,1,1,1,2]", "null"}) {
    check(file_of(one("F32", shape, "[0,8]"), eight), "expected a shape");
  }
  // Products that wrap around to 8 bytes, and an empty tensor whose strides would overflow.
  check(file_of(one("F32", "[4294967296,4294967296,2]", "[0,8]"), eight), "whose product fits");
  check(file_of(one("F32", "[4611686018427387906]", "[0,8]"), eight), "whose product fits");
  check(file_of(one("F32", "[18446744073709551615]", "[0,8]"), eight), "whose product fits");
  check(file_of(one("F32", "[0,4294967296,4294967296]", "[0,0]"), ""), "whose product fits");
  for (const std::string offsets : {"8", "[0]", "[0,8,8]", "[-8,0]", "[0,8.0]", "[\"0\",8]"}) {
    check(file_of(one("F32", "[2]", offsets), eight), "expected data_offsets [begin, end]");
  }
  check(file_of(one("F32", "[2]", "[8,0]"), eight), "got [8, 0]");
  check(file_of(one("F32", "[2]", "[0,8]"), four), "within the 4 bytes of data, got [0, 8]; truncated?");
  check(file_of(one("F32", "[2]", "[18446744073709551608,18446744073709551615]"), eight),
        "within the 8 bytes");
  check(file_of(one("F32", "[3]", "[0,8]"), eight), "expected 12 bytes for F32 (3,), got 8");
  check(file_of(one("F32", "[1]", "[0,8]"), eight), "expected 4 bytes for F32 (1,), got 8");
  check(file_of(one("F32", "[2]", "[0,8]"), eight + "x"), "expected the end of the file, got 1 more bytes");
  check(file_of(one("F32", "[1]", "[4,8]"), eight), "a hole");
  const std::string second = R"(,"b":{"dtype":"F32","shape":[1],"data_offsets":)";
  std::string header = one("F32", "[2]", "[0,8]");
  header.pop_back();
  check(file_of(header + second + "[4,8]}}", eight), "overlap");
  check(file_of(header + second + "[12,16]}}", eight + eight), "a hole");
  CHECK(refusal(file_of(header + second + "[8,12]}}", eight + four)) == "accepted");
}

TEST_CASE("files cut at any byte are refused") {
  const std::string bytes = format_safetensors(some_tensors());
  for (size_t size = 0; size < bytes.size(); ++size) {
    const std::string message = refusal(bytes.substr(0, size));
    INFO("size ", size, ": ", message);
    CHECK(message.starts_with("[safetensors] test.safetensors, byte "));
  }
}

TEST_CASE("a file with any flipped bit is read or refused, within its own size of memory") {
  const std::string bytes = format_safetensors(some_tensors());
  cpu_device().allocator.reset_peak();
  const size_t before = cpu_device().allocator.current_bytes();
  int refused = 0;
  for (size_t at = 0; at < bytes.size(); ++at) {
    for (int bit = 0; bit < 8; ++bit) {
      std::string damaged = bytes;
      damaged[at] = static_cast<char>(damaged[at] ^ 1 << bit);
      const std::string message = refusal(damaged);
      if (message == "accepted") continue;
      ++refused;
      CHECK(message.starts_with("[safetensors] test.safetensors, byte "));
    }
  }
  CHECK(refused > 1000);
  // Six tensors of at most 24 bytes, each in a block of the allocator.
  CHECK(cpu_device().allocator.peak_bytes() - before <= 64 * 1024);
}

TEST_CASE("what the format cannot hold is not written") {
  NamedTensors content;
  content.tensors["__metadata__"] = Tensor::scalar(1);
  CHECK_THROWS_WITH_AS(format_safetensors(content), doctest::Contains("reserves"), Error);
  content.tensors = {{"\xff", Tensor::scalar(1)}};
  CHECK_THROWS_WITH_AS(format_safetensors(content), doctest::Contains("UTF-8"), Error);
  CHECK_THROWS_AS(write_safetensors("/dev/full", some_tensors()), Error);
}

TEST_CASE("a tensor that is not there is named, with those that are") {
  NamedTensors content = parse(file_of(one("F32", "[2]", "[0,8]"), std::string(8, 'x')));
  CHECK_THROWS_WITH_AS(content.at("noise"),
                       "[safetensors] test.safetensors: expected a tensor named 'noise'; there are: a",
                       Error);
}
