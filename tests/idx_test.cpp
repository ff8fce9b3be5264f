// IDX files: correct ones in each spelling, and every way to be wrong; batches as a pure function of their
// number.
#include "diffusion/idx.h"

#include <doctest/doctest.h>
#include <zlib.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <functional>
#include <numeric>
#include <set>

#include "diffusion/batches.h"
#include "tensor/error.h"
#include "tensor/files.h"
#include "tests/temporary_folder.h"

using namespace halfstep;
using halfstep::test::TemporaryFolder;

namespace {

std::string big_endian(uint32_t value) {
  return {static_cast<char>(value >> 24), static_cast<char>(value >> 16), static_cast<char>(value >> 8),
          static_cast<char>(value)};
}

std::string gzip(const std::string& bytes) {
  z_stream stream{};
  REQUIRE(deflateInit2(&stream, 6, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY) == Z_OK);
  std::string out(deflateBound(&stream, bytes.size()) + 64, '\0');
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(bytes.data()));
  stream.avail_in = static_cast<uInt>(bytes.size());
  stream.next_out = reinterpret_cast<Bytef*>(out.data());
  stream.avail_out = static_cast<uInt>(out.size());
  REQUIRE(deflate(&stream, Z_FINISH) == Z_STREAM_END);
  out.resize(stream.total_out);
  deflateEnd(&stream);
  return out;
}

/// Image i is [2, 3] with pixels 10 i ... 10 i + 5.
std::string some_images(uint32_t count) {
  std::string bytes = big_endian(0x803) + big_endian(count) + big_endian(2) + big_endian(3);
  for (uint32_t i = 0; i < count; ++i) {
    for (uint32_t p = 0; p < 6; ++p) bytes += static_cast<char>(10 * i + p);
  }
  return bytes;
}

std::string some_labels(uint32_t count) {
  std::string bytes = big_endian(0x801) + big_endian(count);
  for (uint32_t i = 0; i < count; ++i) bytes += static_cast<char>(i % 4);
  return bytes;
}

constexpr const char* kImages = "train-images-idx3-ubyte";
constexpr const char* kLabels = "train-labels-idx1-ubyte";

/// The message with which a data set of these two files is refused.
std::string refusal(const std::string& images, const std::string& labels) {
  static const TemporaryFolder folder;
  // Thousands of these files are made, so they must not wait for the disk: not by write_file, and not over a
  // file that exists, which some file systems take as a wish to be safe.
  std::filesystem::remove(folder / kImages);
  std::filesystem::remove(folder / kLabels);
  std::ofstream(folder / kImages, std::ios::binary) << images;
  std::ofstream(folder / kLabels, std::ios::binary) << labels;
  try {
    load_dataset(folder.path(), Split::train);
  } catch (const Error& error) {
    return error.what();
  }
  return "accepted";
}

bool contains(const std::string& text, const std::string& part) {
  INFO("message: ", text);
  CHECK(text.find(part) != std::string::npos);
  return text.find(part) != std::string::npos;
}

/// `count` images [1, 2] with pixels (i, 255 - i).
Dataset tiny_dataset(int count) {
  Dataset dataset;
  dataset.name = "tiny";
  dataset.count = count;
  dataset.height = 1;
  dataset.width = 2;
  for (int i = 0; i < count; ++i) {
    dataset.pixels.push_back(static_cast<uint8_t>(i));
    dataset.pixels.push_back(static_cast<uint8_t>(255 - i));
    dataset.labels.push_back(static_cast<uint8_t>(i % 3));
  }
  dataset.num_classes = 3;
  return dataset;
}

/// Which image of tiny_dataset each row of a batch is, and whether it is mirrored.
std::vector<std::pair<int, bool>> identify(const Batch& batch) {
  const std::vector<float> x = batch.x.to_vector<float>();
  std::vector<std::pair<int, bool>> found;
  for (size_t i = 0; i < x.size(); i += 2) {
    const int left = static_cast<int>((x[i] + 1.0f) * 127.5f + 0.5f);
    const int right = static_cast<int>((x[i + 1] + 1.0f) * 127.5f + 0.5f);
    CHECK(left + right == 255);
    found.emplace_back(std::min(left, right), left > right);
  }
  return found;
}

}  // namespace

TEST_CASE("a data set is read plain and compressed, whatever the names say") {
  const std::string images = some_images(5), labels = some_labels(5);
  for (const bool compress_images : {false, true}) {
    for (const std::string suffix : {"", ".gz"}) {
      const TemporaryFolder folder;
      const std::string data = folder / "pictures";
      create_folders(data);
      write_file(data + "/" + kImages + suffix, compress_images ? gzip(images) : images);
      write_file(data + "/" + kLabels + suffix, compress_images ? labels : gzip(labels));
      for (const std::string& spelling : {data, data + "/"}) {
        const Dataset dataset = load_dataset(spelling, Split::train);
        CHECK(dataset.name == "pictures");
        CHECK(dataset.count == 5);
        CHECK(dataset.height == 2);
        CHECK(dataset.width == 3);
        CHECK(dataset.channels == 1);
        CHECK(dataset.num_classes == 4);
        REQUIRE(dataset.pixels.size() == 30);
        CHECK(dataset.pixels[0] == 0);
        CHECK(dataset.pixels[29] == 45);
        CHECK(dataset.labels == std::vector<uint8_t>{0, 1, 2, 3, 0});
      }
    }
  }
}

TEST_CASE("Fashion-MNIST of the Debian package") {
  if (!std::filesystem::exists("/usr/share/datasets/fashion-mnist")) {
    CHECK_THROWS_WITH_AS(default_dataset_folder(), doctest::Contains("dataset-fashion-mnist"), Error);
    return;
  }
  const Dataset test = load_dataset(default_dataset_folder(), Split::test);
  CHECK(test.name == "fashion-mnist");
  CHECK(test.count == 10000);
  CHECK(test.height == 28);
  CHECK(test.width == 28);
  CHECK(test.num_classes == 10);
  // Each class has 1000 test images (README of Fashion-MNIST).
  for (uint8_t c = 0; c < 10; ++c) CHECK(std::count(test.labels.begin(), test.labels.end(), c) == 1000);
  const Dataset train = load_dataset(default_dataset_folder(), Split::train);
  CHECK(train.count == 60000);
}

TEST_CASE("missing files are named, with the package that has them") {
  const TemporaryFolder folder;
  CHECK_THROWS_WITH_AS(load_dataset(folder.path(), Split::test),
                       doctest::Contains("t10k-images-idx3-ubyte.gz"), Error);
  CHECK_THROWS_WITH_AS(load_dataset(folder.path(), Split::test), doctest::Contains("dataset-fashion-mnist"),
                       Error);
  CHECK_THROWS_AS(load_dataset(folder / "none", Split::train), Error);
}

TEST_CASE("wrong IDX files are refused with file, byte and expectation") {
  const std::string images = some_images(5), labels = some_labels(5);
  CHECK(refusal(images, labels) == "accepted");
  contains(refusal(labels, images), std::string(kImages) + ", byte 0: expected magic number 0x00000803");
  contains(refusal(labels, images), "got 0x00000801; are images and labels swapped?");
  contains(refusal("PK\x03\x04 not an IDX file", labels), "got 0x504b0304; foreign file?");
  contains(refusal(images, some_labels(4)), std::string(kLabels) + ", byte 4: expected 5 labels");
  contains(refusal(images + "x", labels), ", byte 46: expected the end of the file");
  contains(refusal(images, labels + "x"), std::string(kLabels) + ", byte 13: expected the end of the file");
  contains(refusal(big_endian(0x803) + big_endian(5) + big_endian(0) + big_endian(3), labels),
           ", byte 8: expected sizes above 0");
  // Sizes whose product overflows, or would ask for much more memory than the file has bytes.
  const std::string most = big_endian(0xffffffff);
  contains(refusal(big_endian(0x803) + most + most + most + "abc", labels), "whose product fits");
  contains(refusal(big_endian(0x803) + most + big_endian(100) + big_endian(100) + "abc", labels),
           "truncated?");
  contains(refusal(gzip(big_endian(0x803) + most + big_endian(100) + big_endian(100) + "abc"), labels),
           "truncated?");
}

TEST_CASE("IDX files cut at any byte are refused") {
  const std::string images = some_images(2), labels = some_labels(2), packed = gzip(images);
  for (size_t size = 0; size < images.size(); ++size) {
    contains(refusal(images.substr(0, size), labels), kImages);
  }
  for (size_t size = 0; size < packed.size(); ++size) {
    contains(refusal(packed.substr(0, size), labels), kImages);
  }
}

TEST_CASE("damaged and overlong gzip files are refused") {
  const std::string images = some_images(100), labels = some_labels(100), packed = gzip(images);
  contains(refusal(packed + "more", labels), "expected the end of the file, got 4 more bytes");
  contains(refusal(gzip(images + "more"), labels), "uncompressed byte 616: expected the end of the file");
  for (size_t at = 0; at < packed.size(); ++at) {
    // Time stamp, operating system and a flag say nothing about the contents, nor do the bits that fill the
    // last byte of the compressed data, in front of checksum and size.
    if ((at >= 3 && at < 10) || at == packed.size() - 9) continue;
    for (int bit = 0; bit < 8; ++bit) {
      std::string damaged = packed;
      damaged[at] = static_cast<char>(damaged[at] ^ 1 << bit);
      contains(refusal(damaged, labels), kImages);
    }
  }
}

TEST_CASE("images_at maps 0, 255 to -1, 1 and mirrors left to right") {
  Dataset dataset;
  dataset.count = 2;
  dataset.height = 1;
  dataset.width = 2;
  dataset.channels = 3;
  dataset.pixels = {0, 255, 51, 102, 153, 204, 1, 2, 3, 4, 5, 6};
  dataset.labels = {7, 9};
  const std::vector<int64_t> indices = {1, 0};
  const std::vector<uint8_t> flip = {0, 1};
  const Tensor x = images_at(dataset, indices, flip);
  CHECK(x.shape() == Shape{2, 1, 2, 3});
  CHECK(x.dtype() == DType::f32);
  const std::vector<double> values = x.to_vector<double>();
  const int expected[] = {1, 2, 3, 4, 5, 6, 102, 153, 204, 0, 255, 51};
  // Division and subtraction round once each: at most 2 ulp of a value up to 2.
  for (size_t i = 0; i < 12; ++i) CHECK(std::abs(values[i] - (expected[i] / 127.5 - 1)) <= 2.4e-7);
  CHECK(values[9] == -1.0);
  CHECK(values[10] == 1.0);
  CHECK(labels_at(dataset, indices).to_vector<int64_t>() == std::vector<int64_t>{9, 7});
  CHECK_THROWS_AS(images_at(dataset, std::vector<int64_t>{2}), Error);
  CHECK_THROWS_AS(labels_at(dataset, std::vector<int64_t>{-1}), Error);
  CHECK_THROWS_AS(images_at(dataset, indices, std::vector<uint8_t>{1}), Error);
}

TEST_CASE("batch k is the same in any order of calls and for any source with the seed") {
  const Dataset dataset = tiny_dataset(50);
  BatchSource forwards(dataset, 8, 3), backwards(dataset, 8, 3), other_seed(dataset, 8, 4);
  std::vector<Batch> batches;
  for (int64_t k = 0; k < 20; ++k) batches.push_back(forwards.batch(k));
  int equal_to_other = 0;
  for (int64_t k = 19; k >= 0; --k) {
    const Batch again = backwards.batch(k);
    CHECK(again.x.shape() == Shape{8, 1, 2, 1});
    CHECK(again.label.dtype() == DType::i64);
    CHECK(again.x.to_vector<float>() == batches[static_cast<size_t>(k)].x.to_vector<float>());
    CHECK(again.label.to_vector<int64_t>() == batches[static_cast<size_t>(k)].label.to_vector<int64_t>());
    equal_to_other += again.x.to_vector<float>() == other_seed.batch(k).x.to_vector<float>();
  }
  CHECK(equal_to_other == 0);
}

TEST_CASE("an epoch has every example once, and each epoch an order of its own") {
  const Dataset dataset = tiny_dataset(50);
  for (const int64_t batch_size : {1, 8, 50, 120}) {
    BatchSource source(dataset, batch_size, 1);
    std::vector<int> sequence;
    for (int64_t k = 0; std::ssize(sequence) < 200; ++k) {
      const Batch batch = source.batch(k);
      const auto found = identify(batch);
      const std::vector<int64_t> labels = batch.label.to_vector<int64_t>();
      for (size_t i = 0; i < found.size(); ++i) {
        sequence.push_back(found[i].first);
        CHECK(labels[i] == found[i].first % 3);
      }
    }
    std::set<std::vector<int>> orders;
    for (int epoch = 0; epoch < 4; ++epoch) {
      const std::vector<int> order(sequence.begin() + 50 * epoch, sequence.begin() + 50 * (epoch + 1));
      CHECK(std::set<int>(order.begin(), order.end()).size() == 50);
      orders.insert(order);
    }
    CHECK(orders.size() == 4);
  }
}

TEST_CASE("order and mirroring are fair") {
  const Dataset dataset = tiny_dataset(100);
  BatchSource source(dataset, 100, 5), unflipped(dataset, 100, 5, false);
  const int epochs = 400;
  int mirrored = 0;
  double place_of_first = 0;
  for (int64_t k = 0; k < epochs; ++k) {
    const auto found = identify(source.batch(k)), plain = identify(unflipped.batch(k));
    for (size_t i = 0; i < found.size(); ++i) {
      mirrored += found[i].second;
      CHECK(plain[i].first == found[i].first);
      CHECK_FALSE(plain[i].second);
      if (found[i].first == 0) place_of_first += static_cast<double>(i) / epochs;
    }
  }
  // Five standard deviations: a fixed seed makes this a fixed outcome, the bound says that it is plausible.
  CHECK(std::abs(mirrored - 20000) <= 5 * 100);              // binomial, n = 40000: sd = 100
  CHECK(std::abs(place_of_first - 49.5) <= 5 * 28.87 / 20);  // mean of 400 places uniform in 0 ... 99
}

TEST_CASE("batch sources refuse what cannot be drawn") {
  const Dataset dataset = tiny_dataset(3);
  CHECK_THROWS_AS(BatchSource(dataset, 0, 1), Error);
  CHECK_THROWS_AS(BatchSource(Dataset{}, 1, 1), Error);
  BatchSource source(dataset, 2, 1);
  CHECK_THROWS_AS(source.batch(-1), Error);
}
