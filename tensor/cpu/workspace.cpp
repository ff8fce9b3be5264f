#include "tensor/cpu/workspace.h"

#include <algorithm>
#include <new>
#include <vector>

namespace halfstep::cpu {
namespace {

constexpr std::align_val_t kAlignment{64};
constexpr size_t kMaxKept = 16;

struct Block {
  void* data;
  size_t bytes;
};

/// Free blocks of one thread, smallest first.
struct FreeList {
  std::vector<Block> blocks;
  ~FreeList() {
    for (const Block& block : blocks) ::operator delete(block.data, kAlignment);
  }
};

thread_local FreeList free_list;

}  // namespace

Workspace::Workspace(size_t bytes) : data(nullptr), bytes_(bytes) {
  auto& blocks = free_list.blocks;
  const auto fits =
      std::find_if(blocks.begin(), blocks.end(), [&](const Block& b) { return b.bytes >= bytes; });
  if (fits != blocks.end()) {
    data = fits->data;
    bytes_ = fits->bytes;
    blocks.erase(fits);
  } else {
    data = ::operator new(bytes, kAlignment);
  }
}

Workspace::~Workspace() {
  auto& blocks = free_list.blocks;
  if (blocks.size() == kMaxKept) {  // the smallest is the cheapest to allocate again
    ::operator delete(blocks.front().data, kAlignment);
    blocks.erase(blocks.begin());
  }
  const auto larger =
      std::find_if(blocks.begin(), blocks.end(), [&](const Block& b) { return b.bytes >= bytes_; });
  blocks.insert(larger, {data, bytes_});
}

}  // namespace halfstep::cpu
