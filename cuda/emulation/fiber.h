// Fibers: functions that hand over to one another without the system's help. One fiber per CUDA thread.
#pragma once

#include <cstddef>

namespace halfstep::emulation {

/// A suspended fiber, or the suspended scheduler: all that is kept lies on its stack.
using StackPointer = void*;

/// Prepares the stack [memory, memory + bytes) so that the first switch to the result calls entry(argument),
/// which must not return.
StackPointer prepare_fiber(void* memory, size_t bytes, void (*entry)(void*), void* argument);

/// Suspends the caller, whose place is kept in `from`, and goes on where `to` was suspended.
void switch_fiber(StackPointer& from, StackPointer to);

}  // namespace halfstep::emulation
