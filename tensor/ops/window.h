// Windows that slide over an image: what convolution and pooling check alike. For tensor/ops/ only.
#pragma once

#include <string_view>

#include "tensor/backend.h"

namespace halfstep {

struct WindowSizes {
  int64_t out_height, out_width;
};

/// Throws where the window (or kernel) is empty or the geometry makes no sense. `what`: "kernel" or "window".
void require_window(int64_t window_height, int64_t window_width, const Conv2dGeometry& geometry,
                    std::string_view where, std::string_view what);

/// How often a window (or kernel) of the given size fits into the padded image:
/// floor((height + padding - dilation (window_height - 1) - 1) / stride) + 1. Throws where it does not fit,
/// and as require_window.
WindowSizes window_sizes(int64_t height, int64_t width, int64_t window_height, int64_t window_width,
                         const Conv2dGeometry& geometry, std::string_view where, std::string_view what);

}  // namespace halfstep
