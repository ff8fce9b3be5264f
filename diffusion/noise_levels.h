// The noise levels of a batch: on the host for checks, and on the device for what is computed from them.
#pragma once

#include <initializer_list>
#include <vector>

#include "tensor/tensor.h"

namespace halfstep {

/// One log-SNR per example, l = log(alpha^2 / sigma^2), as doubles on the host. What the device needs of them
/// is computed in double, sent there once, and rounded there once. A vector of log-SNRs converts by itself.
class NoiseLevels {
 public:
  NoiseLevels(std::vector<double> logsnr);
  NoiseLevels(std::initializer_list<double> logsnr);

  int64_t size() const { return static_cast<int64_t>(logsnr_.size()); }
  const std::vector<double>& logsnr() const { return logsnr_; }

  /// f64 [4, B]: rows of log-SNR, alpha, sigma, and the angle atan(sigma / alpha), at which z = cos(angle) x
  /// + sin(angle) eps. The first call for a device sends it there, copies of this object keep it.
  const Tensor& table(Device& device) const;
  /// These levels with the table that they have on a device: another tensor with the same numbers, or, for a
  /// function that is recorded (tensor/captured.h), with those of the call at hand.
  NoiseLevels with_table(Tensor table) const;
  /// Examples begin ... end-1.
  NoiseLevels slice(int64_t begin, int64_t end) const;

  /// Rows of the table, f64 [B].
  Tensor logsnr(Device& device) const { return row(0, device); }
  Tensor alpha(Device& device) const { return row(1, device); }
  Tensor sigma(Device& device) const { return row(2, device); }
  Tensor angle(Device& device) const { return row(3, device); }

 private:
  Tensor row(int64_t which, Device& device) const;

  std::vector<double> logsnr_;
  mutable Tensor table_;  ///< undefined until somebody asks
};

/// Numbers of the examples, f64 [B] on a device, as factors of a [B, ...] of rank `rank`: [B, 1, ..., 1],
/// rounded to `dtype`.
Tensor per_example(const Tensor& numbers, int rank, DType dtype);
/// The same from numbers on the host, which are sent to options.device.
Tensor per_example(const std::vector<double>& values, int rank, TensorOptions options);

}  // namespace halfstep
