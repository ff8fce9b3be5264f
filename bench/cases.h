// What `halfstep bench` times.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "diffusion/config.h"
#include "tensor/device.h"

namespace halfstep::bench {

/// One thing to time.
struct Case {
  std::string name;
  /// Makes the inputs on a device and returns the call to time, which owns them and need not wait for the
  /// device.
  std::function<std::function<void()>(Device&)> prepare;
};

/// Entries of the Backend table at the shapes of the UNets: "conv3x3 forward 32x32 64->64 batch 32".
std::vector<Case> kernel_cases();

/// The network of config.model on pictures of noise, config.train.batch_size at a time: "network call",
/// "training step", "distillation step", "sampling step" (the last three as `halfstep train`, `distill` and
/// `sample` do them, but for reading data), in config.train.precision.
std::vector<Case> model_cases(const Config& config);

}  // namespace halfstep::bench
