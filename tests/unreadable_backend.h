// A test-only device that behaves like a GPU where the host could cheat: at its addresses the host can
// neither read nor write (PROT_NONE; its kernels find the memory elsewhere), and its calls are queued and run
// later, in order. A pointer to host memory is an error; a peek at device data or an argument struct that
// refers to something temporary crashes the test.
#pragma once

#include "tensor/device.h"

namespace halfstep {

/// The kernels are those of the reference backend. Calls run at download, upload or synchronize. It has
/// graphs.
Device& unreadable_device();

/// Downloads since the process started: to prove that a training step reads nothing back.
int64_t unreadable_downloads();

}  // namespace halfstep
