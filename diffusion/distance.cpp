#include "diffusion/distance.h"

#include <cmath>

#include "tensor/error.h"
#include "tensor/ops.h"

namespace halfstep {

namespace {

void require_pair(std::string_view name, const Tensor& a, const Tensor& b) {
  require(a.shape() == b.shape() && a.rank() >= 1 && a.numel() > 0, name,
          "expected two sets of one shape [K, ...], got {} and {}", str(a.shape()), str(b.shape()));
}

double rms(const Tensor& x) { return std::sqrt(mean(multiply(x, x)).item()); }

}  // namespace

double sliced_wasserstein(const Tensor& a, const Tensor& b, int64_t directions, uint64_t seed) {
  require_pair("sliced_wasserstein", a, b);
  const int64_t count = a.size(0), pixels = a.numel() / count;
  const Tensor raw = random_normal({pixels, directions}, {seed, 0}, 0, {.dtype = DType::f64});
  const Tensor unit = divide(raw, sqrt(sum(multiply(raw, raw), {0}, true)));
  const auto sorted = [&](const Tensor& x) {
    return sort(matmul(x.to(cpu_device()).to(DType::f64).contiguous().reshape({count, pixels}), unit), 0);
  };
  return rms(subtract(sorted(a), sorted(b)));
}

double rms_difference(const Tensor& a, const Tensor& b) {
  require_pair("rms_difference", a, b);
  return rms(subtract(a.to(DType::f64), b.to(DType::f64)));
}

}  // namespace halfstep
