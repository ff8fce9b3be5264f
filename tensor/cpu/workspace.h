// Scratch memory of the CPU kernels.
#pragma once

#include <cstddef>

namespace halfstep::cpu {

/// A block of uninitialised memory, aligned to 64 bytes, for the lifetime of the object. Blocks are recycled
/// per thread: a kernel that runs again allocates nothing.
class Workspace {
 public:
  explicit Workspace(size_t bytes);
  ~Workspace();
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;

  void* data;

 private:
  size_t bytes_;
};

}  // namespace halfstep::cpu
