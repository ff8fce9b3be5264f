// TO BE REMOVED: stand-in for the Sgd of nn/optimizer.h until it is there.
#pragma once

#include "nn/module.h"
#include "tensor/ops.h"

namespace halfstep::test {

struct SgdConfig {
  double momentum = 0, dampening = 0;
  bool nesterov = false;
  double l2 = 0;
};

class Sgd {
 public:
  Sgd(Parameters parameters, SgdConfig config) : parameters_(std::move(parameters)), config_(config) {}

  void step(double lr) {
    for (auto& [name, p] : parameters_) {
      const Tensor g = add(p.grad().value(), affine(p.value(), config_.l2, 0));
      Tensor update = g;
      if (config_.momentum != 0) {
        const auto found = buffers_.find(name);
        const Tensor buffer = found == buffers_.end() ? g
                                                      : add(affine(found->second, config_.momentum, 0),
                                                            affine(g, 1 - config_.dampening, 0));
        buffers_[name] = buffer;
        update = config_.nesterov ? add(g, affine(buffer, config_.momentum, 0)) : buffer;
      }
      p.value().copy_(add(p.value(), affine(update, -lr, 0)));
    }
  }
  TensorMap state() const {
    TensorMap state;
    for (const auto& entry : buffers_) state.emplace("sgd.momentum." + entry.first, entry.second);
    return state;
  }

 private:
  Parameters parameters_;
  SgdConfig config_;
  TensorMap buffers_;
};

}  // namespace halfstep::test
