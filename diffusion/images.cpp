#include "diffusion/images.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "tensor/error.h"
#include "tensor/files.h"

// The two libraries consist of headers with functions, which are compiled here and nowhere else.
#if defined(__GNUC__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wconversion"
#pragma GCC diagnostic ignored "-Wextra"
#pragma GCC diagnostic ignored "-Wmissing-field-initializers"
#pragma GCC diagnostic ignored "-Wshadow"
#pragma GCC diagnostic ignored "-Wsign-compare"
#pragma GCC diagnostic ignored "-Wunused-function"
#pragma GCC diagnostic ignored "-Wwrite-strings"
#endif
#define STBI_WRITE_NO_STDIO
#define STB_IMAGE_WRITE_STATIC
#define STB_IMAGE_WRITE_IMPLEMENTATION
#include <stb/stb_easy_font.h>
#include <stb/stb_image_write.h>
#if defined(__GNUC__)
#pragma GCC diagnostic pop
#endif

namespace halfstep {
namespace {

constexpr uint8_t kPaper = 255, kInk = 40;
constexpr int kTextScale = 2;                ///< pixels of the picture for one of the font
constexpr int kTextHeight = 8 * kTextScale;  ///< of a capital letter and its descender
constexpr int kMaxSide = 1 << 15;            ///< larger pictures are a mistake of the caller

/// Text that the font has: other characters would be read outside of its tables.
std::string printable(std::string text) {
  std::replace_if(
      text.begin(), text.end(), [](char c) { return c < ' ' || c > '~'; }, '?');
  return text;
}

int text_width(const std::string& text) {
  std::string shown = printable(text);
  return stb_easy_font_width(shown.data()) * kTextScale;
}

/// A picture in the making.
class Canvas {
 public:
  Canvas(int64_t width, int64_t height, int channels) {
    require(width <= kMaxSide && height <= kMaxSide, "image",
            "expected a picture of at most {0} x {0} pixels, got {1} x {2}", kMaxSide, width, height);
    width_ = static_cast<int>(width);
    height_ = static_cast<int>(height);
    channels_ = channels;
    pixels_.assign(static_cast<size_t>(width * height) * static_cast<size_t>(channels), kPaper);
  }

  /// Fills a rectangle, as far as it lies on the canvas.
  void fill(int left, int top, int width, int height, const uint8_t* colour) {
    for (int y = std::max(top, 0); y < std::min(top + height, height_); ++y) {
      for (int x = std::max(left, 0); x < std::min(left + width, width_); ++x) {
        std::copy_n(colour, channels_, &pixels_[(static_cast<size_t>(y) * width_ + x) * channels_]);
      }
    }
  }

  /// Draws an image [height, width, channels] enlarged by `scale`.
  void draw(int left, int top, const uint8_t* image, int64_t height, int64_t width, int scale) {
    for (int y = 0; y < height; ++y) {
      for (int x = 0; x < width; ++x) {
        fill(left + x * scale, top + y * scale, scale, scale, image + (y * width + x) * channels_);
      }
    }
  }

  void write_text(int left, int top, const std::string& text) {
    // The font comes as rectangles, four corners of 16 bytes (x, y, z, colour) each.
    constexpr size_t kCorner = 16, kMaxRectangles = 40;
    std::string shown = printable(text);
    std::vector<char> corners(4 * kCorner * kMaxRectangles * (shown.size() + 1));
    const int count =
        stb_easy_font_print(0, 0, shown.data(), nullptr, corners.data(), static_cast<int>(corners.size()));
    const uint8_t ink[] = {kInk, kInk, kInk};
    for (int i = 0; i < count; ++i) {
      float first[2], opposite[2];
      std::memcpy(first, &corners[4 * kCorner * i], sizeof first);
      std::memcpy(opposite, &corners[4 * kCorner * i + 2 * kCorner], sizeof opposite);
      const auto scaled = [](float value) { return static_cast<int>(std::lround(value * kTextScale)); };
      fill(left + scaled(first[0]), top + scaled(first[1]), scaled(opposite[0] - first[0]),
           scaled(opposite[1] - first[1]), ink);
    }
  }

  void save(const std::string& path) const {
    std::string png;
    const auto append = [](void* to, void* bytes, int size) {
      static_cast<std::string*>(to)->append(static_cast<const char*>(bytes), static_cast<size_t>(size));
    };
    const int ok =
        stbi_write_png_to_func(append, &png, width_, height_, channels_, pixels_.data(), width_ * channels_);
    require(ok != 0, "image", "cannot compress '{}'; out of memory?", path);
    write_file(path, png);
  }

 private:
  int width_ = 0, height_ = 0, channels_ = 0;
  std::vector<uint8_t> pixels_;
};

void check(const Tensor& images, const GridOptions& options) {
  require(images.defined() && images.rank() == 4 && (images.size(3) == 1 || images.size(3) == 3) &&
              images.numel() > 0,
          "image", "expected images [K, H, W, C] with C = 1 or 3 and none empty, got {}",
          images.defined() ? str(images.shape()) : "an undefined tensor");
  require(options.scale >= 1 && options.scale <= 64, "image", "expected a scale of 1 to 64, got {}",
          options.scale);
  require(options.padding >= 0 && options.padding <= 1024, "image", "expected a padding of 0 to 1024, got {}",
          options.padding);
  require(options.columns >= 0, "image", "expected 0 columns (automatic) or more, got {}", options.columns);
}

/// Draws images [K, H, W, C] in rows of `columns`; (left, top) is the corner of the first.
void draw_images(Canvas& canvas, int left, int top, const Tensor& images, int64_t columns,
                 const GridOptions& options) {
  const std::vector<uint8_t> pixels = to_pixels(images);
  const int64_t height = images.size(1), width = images.size(2);
  for (int64_t k = 0; k < images.size(0); ++k) {
    const int64_t x = left + k % columns * (width * options.scale + options.padding);
    const int64_t y = top + k / columns * (height * options.scale + options.padding);
    canvas.draw(static_cast<int>(x), static_cast<int>(y),
                &pixels[static_cast<size_t>(k * height * width * images.size(3))], height, width,
                options.scale);
  }
}

}  // namespace

std::vector<uint8_t> to_pixels(const Tensor& x) {
  const std::vector<float> values = x.to_vector<float>();
  std::vector<uint8_t> pixels;
  pixels.reserve(values.size());
  for (const float value : values) {
    require(!std::isnan(value), "image", "expected numbers, got NaN at element {}; did the training diverge?",
            pixels.size());
    pixels.push_back(static_cast<uint8_t>(std::lround(std::clamp((value + 1.0f) * 127.5f, 0.0f, 255.0f))));
  }
  return pixels;
}

void write_grid(const std::string& path, const Tensor& images, const GridOptions& options) {
  check(images, options);
  const int64_t count = images.size(0);
  const int64_t columns = options.columns > 0
                              ? std::min<int64_t>(options.columns, count)
                              : static_cast<int64_t>(std::ceil(std::sqrt(static_cast<double>(count))));
  const int64_t rows = (count + columns - 1) / columns;
  const int64_t cell_width = images.size(2) * options.scale + options.padding;
  const int64_t cell_height = images.size(1) * options.scale + options.padding;
  Canvas canvas(columns * cell_width + options.padding, rows * cell_height + options.padding,
                static_cast<int>(images.size(3)));
  draw_images(canvas, options.padding, options.padding, images, columns, options);
  canvas.save(path);
}

PngHead read_png_head(std::string_view png, const std::string& source) {
  // Signature, length and name of the first chunk; its width, height, bit depth and colour type.
  constexpr std::string_view kBegin("\x89PNG\r\n\x1a\n\0\0\0\rIHDR", 16);
  constexpr size_t kColourType = 25;
  require(png.starts_with(kBegin) && png.size() > kColourType, "image",
          "expected a PNG file, got '{}' with something else", source);
  const auto number_at = [&](size_t begin) {
    int64_t value = 0;
    for (size_t i = 0; i < 4; ++i) value = value << 8 | static_cast<uint8_t>(png[begin + i]);
    return value;
  };
  const int colour = png[kColourType];
  return {number_at(kBegin.size()), number_at(kBegin.size() + 4),
          colour == 2   ? 3
          : colour == 4 ? 2
          : colour == 6 ? 4
                        : 1};
}

void write_rows(const std::string& path, const std::vector<LabelledRow>& rows, const std::string& title,
                const GridOptions& options) {
  require(!rows.empty(), "image", "expected at least one row of images");
  int64_t columns = 0;
  int label_width = 0;
  for (const LabelledRow& row : rows) {
    check(row.images, options);
    const Shape &shape = row.images.shape(), &first = rows[0].images.shape();
    require(shape[1] == first[1] && shape[2] == first[2] && shape[3] == first[3], "image",
            "expected images of one size in all rows, got {} and {}", str(first), str(shape));
    columns = std::max(columns, shape[0]);
    label_width = std::max(label_width, text_width(row.label));
  }
  const Shape& shape = rows[0].images.shape();
  const int64_t image_height = shape[1] * options.scale;
  const int64_t cell_width = shape[2] * options.scale + options.padding;
  const int64_t row_height = std::max<int64_t>(image_height, kTextHeight) + options.padding;
  const int margin = options.padding + kTextScale * 4;
  const int left = margin + label_width + margin;
  const int top = title.empty() ? options.padding : kTextHeight + 2 * margin;

  Canvas canvas(std::max(left + columns * cell_width, int64_t{2} * margin + text_width(title)),
                top + static_cast<int64_t>(rows.size()) * row_height, static_cast<int>(shape[3]));
  if (!title.empty()) canvas.write_text(margin, margin, title);
  for (size_t i = 0; i < rows.size(); ++i) {
    const int row_top = top + static_cast<int>(static_cast<int64_t>(i) * row_height);
    canvas.write_text(margin, row_top + static_cast<int>(row_height - options.padding - kTextHeight) / 2,
                      rows[i].label);
    draw_images(canvas, left, row_top, rows[i].images, columns, options);
  }
  canvas.save(path);
}

}  // namespace halfstep
