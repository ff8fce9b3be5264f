// A device whose memory the host cannot use, behind a table that takes host memory: so the tests of kernels,
// which keep their arrays in fenced host memory, serve every device.
#pragma once

#include "tensor/backend.h"

namespace halfstep::test {

/// Each entry copies what its arrays span to new device memory of exactly that size (overlapping arrays
/// together, with the same alignment to 64 bytes), runs the device's entry, and copies everything back. One
/// device per process.
const Backend& mirrored(const Backend& device);

}  // namespace halfstep::test
