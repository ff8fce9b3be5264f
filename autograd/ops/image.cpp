// Resampling of images [B, H, W, C], all by reshaping: a window becomes two axes of its own. No rules are
// needed, because every step has one.
#include "autograd/ops.h"
#include "tensor/error.h"

namespace halfstep {

namespace {
void require_image(const Variable& x, int factor, std::string_view where) {
  require(x.rank() == 4, where, "expected an image batch [B, H, W, C], got {}", str(x.shape()));
  require(factor >= 1, where, "expected a factor of at least 1, got {}", factor);
}
}  // namespace

Variable upsample_nearest(const Variable& x, int factor) {
  require_image(x, factor, "upsample_nearest");
  const int64_t b = x.size(0), h = x.size(1), w = x.size(2), c = x.size(3);
  const Variable pixels = reshape(x, {b, h, 1, w, 1, c});
  return reshape(expand(pixels, {b, h, factor, w, factor, c}), {b, h * factor, w * factor, c});
}

Variable average_pool(const Variable& x, int factor) {
  require_image(x, factor, "average_pool");
  const int64_t b = x.size(0), h = x.size(1) / factor, w = x.size(2) / factor, c = x.size(3);
  Variable whole = x;
  if (x.size(1) != h * factor) whole = slice(whole, 1, 0, h * factor);
  if (x.size(2) != w * factor) whole = slice(whole, 2, 0, w * factor);
  return mean(reshape(whole, {b, h, factor, w, factor, c}), {2, 4});
}

Variable space_to_depth(const Variable& x, int factor) {
  require_image(x, factor, "space_to_depth");
  const int64_t b = x.size(0), h = x.size(1), w = x.size(2), c = x.size(3);
  require(h % factor == 0 && w % factor == 0, "space_to_depth",
          "image {} x {} does not divide into blocks of {} x {}", h, w, factor, factor);
  const Variable blocks = reshape(x, {b, h / factor, factor, w / factor, factor, c});
  return reshape(permute(blocks, {0, 1, 3, 2, 4, 5}), {b, h / factor, w / factor, factor * factor * c});
}

Variable depth_to_space(const Variable& x, int factor) {
  require_image(x, factor, "depth_to_space");
  const int64_t b = x.size(0), h = x.size(1), w = x.size(2), c = x.size(3) / (factor * factor);
  require(x.size(3) == c * factor * factor, "depth_to_space", "{} channels do not divide into {} x {} pixels",
          x.size(3), factor, factor);
  const Variable blocks = reshape(x, {b, h, w, factor, factor, c});
  return reshape(permute(blocks, {0, 1, 3, 2, 4, 5}), {b, h * factor, w * factor, c});
}

}  // namespace halfstep
