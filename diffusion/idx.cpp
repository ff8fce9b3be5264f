#include "diffusion/idx.h"

#include <zlib.h>

#include <algorithm>
#include <filesystem>
#include <limits>
#include <string_view>

#include "tensor/error.h"
#include "tensor/files.h"

namespace halfstep {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kFashionMnist = "/usr/share/datasets/fashion-mnist";
constexpr std::string_view kHint =
    "install the Debian package dataset-fashion-mnist, or give the folder of the data";

bool is_gzip(std::string_view bytes) { return bytes.starts_with("\x1f\x8b"); }

/// An open inflate stream of zlib.
struct Inflate {
  Inflate() { require(inflateInit2(&stream, 15 + 16) == Z_OK, "data", "zlib cannot start; out of memory?"); }
  ~Inflate() { inflateEnd(&stream); }
  Inflate(const Inflate&) = delete;
  Inflate& operator=(const Inflate&) = delete;

  z_stream stream{};
};

/// Decompresses a gzip file up to `limit` bytes of contents, so that a small file cannot ask for much memory.
std::string gunzip(std::string_view bytes, const std::string& path, size_t limit) {
  // zlib counts in 32 bits.
  require(bytes.size() <= std::numeric_limits<uInt>::max(), "data",
          "{}: expected a file below 4 GiB, got {} bytes", path, bytes.size());
  Inflate inflate_state;
  z_stream& stream = inflate_state.stream;
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(bytes.data()));  // zlib only reads it
  stream.avail_in = static_cast<uInt>(bytes.size());

  std::string contents;
  for (int status = Z_OK; status != Z_STREAM_END && contents.size() < limit;) {
    const size_t filled = contents.size();
    contents.resize(std::min(limit, filled + (size_t{1} << 20)));
    stream.next_out = reinterpret_cast<Bytef*>(contents.data() + filled);
    stream.avail_out = static_cast<uInt>(contents.size() - filled);
    status = inflate(&stream, Z_NO_FLUSH);
    contents.resize(contents.size() - stream.avail_out);
    const size_t at = bytes.size() - stream.avail_in;
    require(status != Z_BUF_ERROR, "data",
            "{}, compressed byte {}: expected more data, the file ends; truncated?", path, at);
    require(status == Z_OK || status == Z_STREAM_END, "data",
            "{}, compressed byte {}: expected gzip data, got {}; corrupt?", path, at,
            stream.msg ? stream.msg : "an error of zlib");
    require(status != Z_STREAM_END || stream.avail_in == 0, "data",
            "{}, compressed byte {}: expected the end of the file, got {} more bytes", path, at,
            stream.avail_in);
  }
  return contents;
}

/// The array of u8 in one IDX file.
struct IdxArray {
  std::vector<int64_t> sizes;
  std::vector<uint8_t> values;
};

uint32_t big_endian(std::string_view bytes, size_t at) {
  uint32_t value = 0;
  for (size_t i = 0; i < 4; ++i) value = value << 8 | static_cast<uint8_t>(bytes[at + i]);
  return value;
}

/// Reads a file that must hold an array of `rank` sizes; `what` names it for the messages.
IdxArray read_idx(const std::string& path, int rank, std::string_view what) {
  const std::string file = read_file(path);
  const bool compressed = is_gzip(file);
  // Offsets of messages are those of the contents.
  const std::string_view unit = compressed ? "uncompressed byte" : "byte";
  const size_t header_bytes = 4 + 4 * static_cast<size_t>(rank);
  const std::string header = compressed ? gunzip(file, path, header_bytes) : file.substr(0, header_bytes);

  const uint32_t expected_magic = 0x0800 + static_cast<uint32_t>(rank);
  require(header.size() >= 4, "data",
          "{}, {} {}: expected 4 bytes of magic number, the file ends; truncated?", path, unit,
          header.size());
  const uint32_t magic = big_endian(header, 0);
  require(magic == expected_magic, "data", "{}, {} 0: expected magic number 0x{:08x} ({}), got 0x{:08x}{}",
          path, unit, expected_magic, what, magic,
          magic >> 8 == expected_magic >> 8 ? "; are images and labels swapped?" : "; foreign file?");
  require(header.size() == header_bytes, "data",
          "{}, {} {}: expected {} sizes of 4 bytes, the file ends; truncated?", path, unit, header.size(),
          rank);

  IdxArray array;
  uint64_t bytes = 1;
  for (int i = 0; i < rank; ++i) {
    const size_t at = 4 + 4 * static_cast<size_t>(i);
    const uint32_t size = big_endian(header, at);
    require(size > 0 && !__builtin_mul_overflow(bytes, size, &bytes), "data",
            "{}, {} {}: expected sizes above 0 whose product fits, got {}", path, unit, at, size);
    array.sizes.push_back(size);
  }

  // One byte more than expected is enough to see that there are too many.
  const uint64_t expected_bytes = header_bytes + bytes;
  require(expected_bytes > bytes, "data", "{}, {} 4: expected sizes whose product fits", path, unit);
  const std::string inflated = compressed ? gunzip(file, path, expected_bytes + 1) : std::string();
  const std::string& contents = compressed ? inflated : file;
  require(contents.size() >= expected_bytes, "data",
          "{}, {} {}: expected {} bytes as the sizes say, the file ends; truncated?", path, unit,
          contents.size(), expected_bytes);
  require(contents.size() == expected_bytes, "data",
          "{}, {} {}: expected the end of the file, got more bytes", path, unit, expected_bytes);
  array.values.assign(contents.begin() + static_cast<std::ptrdiff_t>(header_bytes), contents.end());
  return array;
}

/// `name` in `folder`, plain or with .gz.
std::string find_file(const std::string& folder, const std::string& name) {
  for (const std::string& candidate : {name, name + ".gz"}) {
    const fs::path path = fs::path(folder) / candidate;
    std::error_code error;  // what cannot be examined is not there
    if (fs::exists(path, error)) return path.string();
  }
  fail("data", "expected {} or {}.gz in the folder '{}', found neither; {}", name, name, folder, kHint);
}

}  // namespace

Dataset load_dataset(const std::string& folder, Split split) {
  const std::string prefix = split == Split::train ? "train" : "t10k";
  const std::string image_path = find_file(folder, prefix + "-images-idx3-ubyte");
  const std::string label_path = find_file(folder, prefix + "-labels-idx1-ubyte");
  IdxArray images = read_idx(image_path, 3, "u8 images [count, height, width]");
  IdxArray labels = read_idx(label_path, 1, "u8 labels [count]");
  require(images.sizes[0] == labels.sizes[0], "data",
          "{}, byte 4: expected {} labels, one for each image of {}, got {}; do the files belong together?",
          label_path, images.sizes[0], image_path, labels.sizes[0]);

  Dataset dataset;
  // The last component that is not empty: "data/mnist/" is named "mnist".
  const fs::path absolute = fs::absolute(folder).lexically_normal();
  dataset.name = (absolute.has_filename() ? absolute : absolute.parent_path()).filename().string();
  dataset.count = images.sizes[0];
  dataset.height = images.sizes[1];
  dataset.width = images.sizes[2];
  dataset.pixels = std::move(images.values);
  dataset.labels = std::move(labels.values);
  dataset.num_classes = 1 + *std::max_element(dataset.labels.begin(), dataset.labels.end());
  return dataset;
}

std::string default_dataset_folder() {
  std::string folder(kFashionMnist);
  std::error_code error;
  require(fs::is_directory(folder, error), "data", "expected Fashion-MNIST in '{}', found nothing; {}",
          folder, kHint);
  return folder;
}

}  // namespace halfstep
