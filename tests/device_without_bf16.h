// A device like a GPU of compute capability below 8.0.
#pragma once

#include "tensor/device.h"

namespace halfstep::test {

/// "old": the CPU, but that it does not compute in bf16.
inline Device& device_without_bf16() {
  static const Backend table = [] {
    Backend without = cpu_backend();
    without.name = "old";
    without.computes_bf16 = false;
    return without;
  }();
  static Device& device = *new Device(table);  // as all devices, for the life of the process
  return device;
}

}  // namespace halfstep::test
