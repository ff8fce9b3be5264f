#include "cuda/emulation/fiber.h"

#include <cstdint>

#if defined(__x86_64__)

// Only what the calling convention lets a callee keep is saved: six registers. (The control words of the
// floating-point units are the same in all fibers.) A switch costs a few nanoseconds.
extern "C" void halfstep_switch_fiber(void** from, void* to);
extern "C" void halfstep_start_fiber();
asm(R"(
  .text
  .type halfstep_switch_fiber, @function
halfstep_switch_fiber:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
  .size halfstep_switch_fiber, .-halfstep_switch_fiber

  .type halfstep_start_fiber, @function
halfstep_start_fiber:
  movq %r13, %rdi
  callq *%r12
  ud2
  .size halfstep_start_fiber, .-halfstep_start_fiber
)");

namespace halfstep::emulation {

StackPointer prepare_fiber(void* memory, size_t bytes, void (*entry)(void*), void* argument) {
  auto* top = reinterpret_cast<uint64_t*>((reinterpret_cast<uintptr_t>(memory) + bytes) & ~uintptr_t{15});
  // The call in halfstep_start_fiber wants the stack at a multiple of 16; above it nobody returns to.
  *--top = 0;
  *--top = 0;
  *--top = reinterpret_cast<uint64_t>(&halfstep_start_fiber);
  *--top = 0;                                     // rbp
  *--top = 0;                                     // rbx
  *--top = reinterpret_cast<uint64_t>(entry);     // r12
  *--top = reinterpret_cast<uint64_t>(argument);  // r13
  *--top = 0;                                     // r14
  *--top = 0;                                     // r15
  return top;
}

void switch_fiber(StackPointer& from, StackPointer to) { halfstep_switch_fiber(&from, to); }

}  // namespace halfstep::emulation

#else

#include <ucontext.h>

// Elsewhere the system's contexts do, some twenty times slower: a context lies at the top of its stack.
namespace halfstep::emulation {
namespace {

struct Start {
  ucontext_t context;
  void (*entry)(void*);
  void* argument;
};

void enter(unsigned high, unsigned low) {
  auto* start = reinterpret_cast<Start*>(uintptr_t{high} << 32 | low);
  start->entry(start->argument);
}

}  // namespace

StackPointer prepare_fiber(void* memory, size_t bytes, void (*entry)(void*), void* argument) {
  const uintptr_t top = (reinterpret_cast<uintptr_t>(memory) + bytes - sizeof(Start)) & ~uintptr_t{63};
  auto* start = reinterpret_cast<Start*>(top);
  start->entry = entry;
  start->argument = argument;
  getcontext(&start->context);
  start->context.uc_stack.ss_sp = memory;
  start->context.uc_stack.ss_size = top - reinterpret_cast<uintptr_t>(memory);
  start->context.uc_link = nullptr;
  makecontext(&start->context, reinterpret_cast<void (*)()>(enter), 2, static_cast<unsigned>(top >> 32),
              static_cast<unsigned>(top));
  return &start->context;
}

void switch_fiber(StackPointer& from, StackPointer to) {
  ucontext_t here;
  from = &here;
  swapcontext(&here, static_cast<ucontext_t*>(to));
}

}  // namespace halfstep::emulation

#endif
