// The official UNet as a golden case describes it.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "diffusion/unet.h"
#include "tests/golden_runner/run.h"

namespace halfstep::test {

/// From the case's `config` (the official names: ch, emb_ch, ch_mult, ...) and its images [height, width,
/// channels].
UNetConfig unet_config(const GoldenCase& golden);
/// The network with the case's parameters, `params/<path>`. Throws Error for missing and unexpected ones.
UNet unet_of(const GoldenCase& golden, TensorOptions options);
/// The parameter's name here of an official path: "down_0.block_0/conv1/kernel" with '.' for '/'.
std::string dotted(std::string path);

/// Output and gradients of sum(out * R) for the inputs of the case.
struct UNetResult {
  Variable sinusoids;
  Variable dense1;        ///< before the class's embedding is added
  Variable conditioning;  ///< after it
  Variable out, loss, grad_input;
  std::map<std::string, Tensor> gradients;  ///< by dotted name
};
UNetResult evaluate(const UNet& net, const GoldenCase& golden, TensorOptions options);

}  // namespace halfstep::test
