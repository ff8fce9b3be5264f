// Pictures as PNG files: a grid of samples, and labelled rows to compare samplers side by side.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "tensor/tensor.h"

namespace halfstep {

/// clamp((x + 1) * 127.5, 0, 255) rounded to nearest, for x: [..] of any shape, row-major. (The notebook of
/// the official code truncates instead, which makes its pictures half a grey level darker on average.) Throws
/// Error for NaN.
std::vector<uint8_t> to_pixels(const Tensor& x);

/// How pictures are laid out in one image.
struct GridOptions {
  int columns = 0;  ///< pictures in a row; 0: as near to a square as possible. Not used by write_rows.
  int padding = 2;  ///< white pixels around and between the pictures, after enlarging
  int scale = 1;    ///< each pixel becomes a square of this size
};

/// Writes `images` [K, H, W, C], C = 1 or 3, in [-1, 1], K >= 1, as a PNG grid, row after row. The file is
/// replaced in one step (see write_file). Throws Error for other shapes, NaN, options out of range and failed
/// writes.
void write_grid(const std::string& path, const Tensor& images, const GridOptions& options = {});

/// What the first bytes of a PNG file say.
struct PngHead {
  int64_t width = 0, height = 0;
  int channels = 0;  ///< 1 grey, 2 grey and alpha, 3 RGB, 4 RGBA
};
/// Throws Error, naming `source`, if `png` does not begin as a PNG file does.
PngHead read_png_head(std::string_view png, const std::string& source);

/// One row of write_rows.
struct LabelledRow {
  std::string label;  ///< printable ASCII; other characters are shown as '?'
  Tensor images;      ///< [K, H, W, C] as in write_grid; K may differ from row to row
};

/// Writes rows of pictures with a label to the left of each, and above them a title unless it is empty.
/// Throws as write_grid does, also when rows are missing or their pictures differ in size.
void write_rows(const std::string& path, const std::vector<LabelledRow>& rows, const std::string& title = {},
                const GridOptions& options = {});

}  // namespace halfstep
