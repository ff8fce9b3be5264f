// A checkpoint ready to be used, and sampling from it.
#pragma once

#include <cstdint>
#include <string>

#include "diffusion/checkpoint.h"
#include "diffusion/sampler.h"
#include "diffusion/unet.h"

namespace halfstep {

/// A checkpoint made ready for use: the network with its weights.
struct Model {
  CheckpointInfo info;
  std::string path;  ///< the checkpoint's folder
  UNet unet;

  /// Refers to this model's unet. Throws Error where its device lacks `precision`.
  Denoiser denoiser(Precision precision = Precision::f32) const;
};

/// The network of a checkpoint, frozen, with parameters of `dtype`.
Model make_model(const Checkpoint& checkpoint, Device& device, DType dtype = DType::f32);
/// The network of the checkpoint that `path` names (see resolve_checkpoint), with parameters of `dtype`.
Model load_model(const std::string& path, Device& device, DType dtype = DType::f32);

/// Labels of samples 0 ... count-1 of a class-conditional model, uniform; label k depends on (seed, k) alone.
/// i64 [count], on the CPU.
Tensor draw_labels(int64_t num_classes, int64_t count, uint64_t seed);

/// sample() for any number of samples, `batch_size` at a time; the division into batches changes no sample.
/// noise: [K, H, W, C] of samples 0 ... K-1, label: i64 [K] on the CPU, or undefined.
Tensor sample_in_batches(const Denoiser& denoiser, const Tensor& noise, const Tensor& label,
                         const SamplerOptions& options, int64_t batch_size, Trajectory* trajectory = nullptr);

}  // namespace halfstep
