#include "tensor/ops/window.h"

#include "tensor/error.h"

namespace halfstep {

void require_window(int64_t window_height, int64_t window_width, const Conv2dGeometry& g,
                    std::string_view where, std::string_view what) {
  require(window_height > 0 && window_width > 0, where, "expected a {} of at least 1 x 1 pixels, got {} x {}",
          what, window_height, window_width);
  require(g.stride_h > 0 && g.stride_w > 0, where, "strides must be positive, got {} x {}", g.stride_h,
          g.stride_w);
  require(g.dilation_h > 0 && g.dilation_w > 0, where, "dilations must be positive, got {} x {}",
          g.dilation_h, g.dilation_w);
  require(g.pad_top >= 0 && g.pad_bottom >= 0 && g.pad_left >= 0 && g.pad_right >= 0, where,
          "padding must not be negative, got {} and {} rows, {} and {} columns", g.pad_top, g.pad_bottom,
          g.pad_left, g.pad_right);
}

WindowSizes window_sizes(int64_t height, int64_t width, int64_t window_height, int64_t window_width,
                         const Conv2dGeometry& g, std::string_view where, std::string_view what) {
  require_window(window_height, window_width, g, where, what);
  const int64_t padded_height = height + g.pad_top + g.pad_bottom,
                padded_width = width + g.pad_left + g.pad_right;
  const int64_t span_height = g.dilation_h * (window_height - 1) + 1,
                span_width = g.dilation_w * (window_width - 1) + 1;
  require(span_height <= padded_height && span_width <= padded_width, where,
          "the {} {} x {}{} is larger than the padded image {} x {}", what, span_height, span_width,
          g.dilation_h > 1 || g.dilation_w > 1 ? " (with its dilation)" : "", padded_height, padded_width);
  return {(padded_height - span_height) / g.stride_h + 1, (padded_width - span_width) / g.stride_w + 1};
}

}  // namespace halfstep
