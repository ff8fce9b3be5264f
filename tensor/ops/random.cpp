// Random numbers and dropout.
#include "tensor/error.h"
#include "tensor/ops.h"
#include "tensor/ops/check.h"

namespace halfstep {

namespace {
Tensor random(RandomKind kind, const Shape& shape, RandomKey key, uint64_t first_row, TensorOptions options) {
  Tensor out = Tensor::empty(shape, options);
  require_floating(out, "random");
  const int64_t rows = shape.rank() ? shape[0] : 1;
  require(first_row + static_cast<uint64_t>(rows) <= uint64_t{1} << 32, "random",
          "rows must stay below 2^32, got {} + {}", first_row, rows);
  if (out.numel() == 0) return out;
  backend_of(out).random({.kind = kind,
                          .out = out.reshape({rows, out.numel() / rows}).array(),
                          .seed = key.seed,
                          .stream = key.stream,
                          .first_row = first_row});
  return out;
}
}  // namespace

Tensor random_normal(const Shape& shape, RandomKey key, uint64_t first_row, TensorOptions options) {
  return random(RandomKind::normal, shape, key, first_row, options);
}

Tensor random_uniform(const Shape& shape, RandomKey key, uint64_t first_row, TensorOptions options) {
  return random(RandomKind::uniform, shape, key, first_row, options);
}

Tensor dropout(const Tensor& x, double p, RandomKey key, const Tensor& row) {
  require_floating(x, "dropout");
  require(p >= 0 && p < 1, "dropout", "expected a probability in [0, 1), got {}", p);
  if (row.defined())
    require(row.dtype() == DType::i64 && row.numel() == 1 && &row.device() == &x.device(), "dropout",
            "expected the row as an i64 scalar on '{}', got {} {} on '{}'", x.device().name(),
            name_of(row.dtype()), str(row.shape()), row.device().name());
  const Tensor xc = x.contiguous();
  Tensor y = Tensor::empty(x.shape(), x.options());
  backend_of(x).dropout({.x = xc.array(),
                         .y = y.array(),
                         .p = p,
                         .seed = key.seed,
                         .stream = key.stream,
                         .row = row.defined() ? row.array() : Array{}});
  return y;
}

}  // namespace halfstep
