#include "diffusion/noise_levels.h"

#include <cmath>
#include <utility>

#include "diffusion/schedule.h"
#include "tensor/error.h"

namespace halfstep {

namespace {
constexpr int64_t kRows = 4;
}

NoiseLevels::NoiseLevels(std::vector<double> logsnr) : logsnr_(std::move(logsnr)) {}
NoiseLevels::NoiseLevels(std::initializer_list<double> logsnr) : logsnr_(logsnr) {}

const Tensor& NoiseLevels::table(Device& device) const {
  if (table_.defined() && &table_.device() == &device) return table_;
  std::vector<double> values = logsnr_;
  for (const double l : logsnr_) values.push_back(halfstep::alpha(l));
  for (const double l : logsnr_) values.push_back(halfstep::sigma(l));
  for (const double l : logsnr_) values.push_back(std::atan(std::exp(-0.5 * l)));
  table_ = Tensor::from(values, {kRows, size()}, {DType::f64, &device});
  return table_;
}

NoiseLevels NoiseLevels::with_table(Tensor table) const {
  require(table.defined() && table.dtype() == DType::f64 && table.shape() == Shape{kRows, size()},
          "NoiseLevels", "expected a table as f64 {}, got {}", str(Shape{kRows, size()}),
          table.defined() ? fmt::format("{} {}", name_of(table.dtype()), str(table.shape())) : "none");
  NoiseLevels levels = *this;
  levels.table_ = std::move(table);
  return levels;
}

NoiseLevels NoiseLevels::slice(int64_t begin, int64_t end) const {
  require(begin >= 0 && begin <= end && end <= size(), "NoiseLevels", "range {}..{} is outside {} examples",
          begin, end, size());
  NoiseLevels part(std::vector<double>(logsnr_.begin() + begin, logsnr_.begin() + end));
  if (table_.defined()) part.table_ = table_.slice(1, begin, end);
  return part;
}

Tensor NoiseLevels::row(int64_t which, Device& device) const {
  return table(device).slice(0, which, which + 1).squeeze(0);
}

Tensor per_example(const Tensor& numbers, int rank, DType dtype) {
  require(rank >= 1, "per_example", "expected a rank of at least 1, got {}", rank);
  Shape shape = Shape::filled(rank, 1);
  shape[0] = numbers.numel();
  return numbers.reshape(shape).to(dtype);
}

Tensor per_example(const std::vector<double>& values, int rank, TensorOptions options) {
  const Tensor sent =
      Tensor::from(values, {static_cast<int64_t>(values.size())}, {DType::f64, options.device});
  return per_example(sent, rank, options.dtype);
}

}  // namespace halfstep
