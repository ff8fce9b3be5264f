// PNG files, decoded again by another library.
#include "diffusion/images.h"

#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <numeric>

#include "tensor/error.h"
#include "tensor/files.h"
#include "tests/error_of.h"
#include "tests/temporary_folder.h"

#if defined(__GNUC__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wconversion"
#pragma GCC diagnostic ignored "-Wextra"
#pragma GCC diagnostic ignored "-Wshadow"
#pragma GCC diagnostic ignored "-Wunused-function"
#endif
#define STBI_ONLY_PNG
#define STB_IMAGE_STATIC
#define STB_IMAGE_IMPLEMENTATION
#include <stb/stb_image.h>
#if defined(__GNUC__)
#pragma GCC diagnostic pop
#endif

using namespace halfstep;
using halfstep::test::error_of;
using halfstep::test::TemporaryFolder;

namespace {

struct Picture {
  int width = 0, height = 0, channels = 0;
  std::vector<uint8_t> pixels;

  int at(int x, int y, int channel = 0) const {
    return pixels[(static_cast<size_t>(y) * width + x) * channels + channel];
  }
};

Picture load(const std::string& path) {
  const std::string png = read_file(path);
  Picture picture;
  uint8_t* pixels =
      stbi_load_from_memory(reinterpret_cast<const uint8_t*>(png.data()), static_cast<int>(png.size()),
                            &picture.width, &picture.height, &picture.channels, 0);
  REQUIRE(pixels != nullptr);
  picture.pixels.assign(pixels, pixels + picture.width * picture.height * picture.channels);
  stbi_image_free(pixels);
  return picture;
}

/// [count, height, width, channels] whose pixels are `first`, `first` + 1, ... as to_pixels sees them.
Tensor counting(int first, const Shape& shape) {
  std::vector<float> values(static_cast<size_t>(numel(shape)));
  for (size_t i = 0; i < values.size(); ++i)
    values[i] = static_cast<float>(first + static_cast<int>(i)) / 127.5f - 1;
  return Tensor::from(values, shape);
}

}  // namespace

TEST_CASE("pixels are rounded to nearest and clamped, and NaN is an error") {
  const float inf = std::numeric_limits<float>::infinity();
  const Tensor x =
      Tensor::from(std::vector<float>{-1, 1, 0.9f / 127.5f - 1, 1.4f / 127.5f - 1, -7, 7, inf, -inf}, {8});
  CHECK(to_pixels(x) == std::vector<uint8_t>{0, 255, 1, 1, 0, 255, 255, 0});
  std::vector<uint8_t> all(256);
  std::iota(all.begin(), all.end(), uint8_t{0});
  CHECK(to_pixels(counting(0, {256})) == all);
  CHECK_THROWS_WITH_AS(to_pixels(Tensor::from(std::vector<float>{0, std::nanf("")}, {2})),
                       doctest::Contains("NaN at element 1"), Error);
}

TEST_CASE("a grid has every picture at its place") {
  const TemporaryFolder folder;
  for (const int channels : {1, 3}) {
    const Tensor images = counting(10, {5, 2, 3, channels});
    write_grid(folder / "grid.png", images, {.columns = 2, .padding = 1, .scale = 2});
    const Picture picture = load(folder / "grid.png");
    CHECK(picture.channels == channels);
    REQUIRE(picture.width == 1 + 2 * (3 * 2 + 1));
    REQUIRE(picture.height == 1 + 3 * (2 * 2 + 1));
    int covered = 0;
    for (int k = 0; k < 5; ++k) {
      for (int y = 0; y < 4; ++y) {
        for (int x = 0; x < 6; ++x) {
          for (int c = 0; c < channels; ++c) {
            CHECK(picture.at(1 + k % 2 * 7 + x, 1 + k / 2 * 5 + y, c) ==
                  10 + ((k * 2 + y / 2) * 3 + x / 2) * channels + c);
            ++covered;
          }
        }
      }
    }
    // Everything else is paper.
    CHECK(std::count(picture.pixels.begin(), picture.pixels.end(), 255) ==
          std::ssize(picture.pixels) - covered);
  }
}

TEST_CASE("grids are as square as possible unless columns are given") {
  const TemporaryFolder folder;
  const std::string path = folder / "grid.png";
  const auto size = [&](int count, int columns) {
    write_grid(path, Tensor::zeros({count, 1, 1, 1}), {.columns = columns, .padding = 0, .scale = 1});
    const Picture picture = load(path);
    return std::pair(picture.width, picture.height);
  };
  CHECK(size(1, 0) == std::pair(1, 1));
  CHECK(size(10, 0) == std::pair(4, 3));
  CHECK(size(16, 0) == std::pair(4, 4));
  CHECK(size(10, 10) == std::pair(10, 1));
  CHECK(size(3, 10) == std::pair(3, 1));
}

TEST_CASE("labelled rows: pictures in line, text to the left and above") {
  const TemporaryFolder folder;
  const std::string path = folder / "rows.png";
  const Tensor black = Tensor::full({3, 28, 28, 1}, -1);
  write_rows(path, {{"teacher 16", black}, {"", black.slice(0, 0, 2)}, {"1", black}}, "Title",
             {.padding = 2, .scale = 1});
  const Picture picture = load(path);
  CHECK(picture.channels == 1);
  // Five pictures of 784 black pixels, and ink that is not black.
  CHECK(std::count(picture.pixels.begin(), picture.pixels.end(), 0) == 8 * 784);
  const int left = picture.width - 3 * 30;
  const auto ink = [&](int x0, int y0, int x1, int y1) {
    int count = 0;
    for (int y = y0; y < y1; ++y) {
      for (int x = x0; x < x1; ++x) count += picture.at(x, y) != 255;
    }
    return count;
  };
  const int top = picture.height - 3 * 30;
  CHECK(ink(left, top, left + 28, top + 28) == 784);
  CHECK(ink(0, 0, picture.width, top) > 20);     // the title
  CHECK(ink(0, top, left, top + 28) > 20);       // "teacher 16"
  CHECK(ink(0, top + 30, left, top + 58) == 0);  // no label
  CHECK(ink(0, top + 60, left, top + 88) > 5);   // "1"
  CHECK(ink(0, top, left, top + 28) > ink(0, top + 60, left, top + 88));
}

TEST_CASE("text that is long, odd or taller than its pictures stays on the canvas") {
  const TemporaryFolder folder;
  const std::string path = folder / "rows.png";
  std::string every;
  for (int c = 1; c < 256; ++c) every += static_cast<char>(c);
  write_rows(path, {{every + "gjpqy@", Tensor::zeros({1, 1, 1, 1})}}, every, {.padding = 0, .scale = 1});
  CHECK(load(path).width > 1000);
}

TEST_CASE("pictures that cannot be drawn are refused, and the old file stays") {
  const TemporaryFolder folder;
  const std::string path = folder / "grid.png";
  const Tensor image = Tensor::zeros({1, 2, 2, 1});
  write_grid(path, image);
  const std::string before = read_file(path);
  CHECK_THROWS_AS(write_grid(path, Tensor()), Error);
  CHECK_THROWS_AS(write_grid(path, Tensor::zeros({2, 2, 1})), Error);
  CHECK_THROWS_AS(write_grid(path, Tensor::zeros({1, 2, 2, 2})), Error);
  CHECK_THROWS_AS(write_grid(path, Tensor::zeros({0, 2, 2, 1})), Error);
  CHECK_THROWS_AS(write_grid(path, Tensor::full({1, 2, 2, 1}, std::nan(""))), Error);
  CHECK_THROWS_AS(write_grid(path, image, {.scale = 0}), Error);
  CHECK_THROWS_AS(write_grid(path, image, {.padding = -1}), Error);
  CHECK_THROWS_AS(write_grid(path, image, {.columns = -1}), Error);
  CHECK_THROWS_AS(write_grid(path, Tensor::zeros({1, 1000, 1000, 1}), {.scale = 64}), Error);
  CHECK_THROWS_AS(write_rows(path, {}), Error);
  CHECK_THROWS_AS(write_rows(path, {{"a", image}, {"b", Tensor::zeros({1, 2, 3, 1})}}), Error);
  CHECK_THROWS_AS(write_grid(folder / "none/grid.png", image), Error);
  CHECK(read_file(path) == before);
}

TEST_CASE("the head of a PNG file says its size") {
  const TemporaryFolder folder;
  for (const int64_t channels : {1, 3}) {
    write_grid(folder / "grid.png", Tensor::zeros({2, 300, 4, channels}), {.padding = 0});
    const PngHead head = read_png_head(read_file(folder / "grid.png"), "grid.png");
    CHECK(head.width == 8);
    CHECK(head.height == 300);
    CHECK(head.channels == channels);
  }
  const std::string png = read_file(folder / "grid.png");
  for (const std::string& bytes : {std::string(), std::string("GIF89a"), png.substr(0, 25), "x" + png})
    CHECK(error_of([&] { read_png_head(bytes, "p.png"); }) ==
          "[image] expected a PNG file, got 'p.png' with something else");
}
