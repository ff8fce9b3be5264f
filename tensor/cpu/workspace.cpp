#include "tensor/cpu/workspace.h"

#include <algorithm>
#include <new>
#include <vector>

#include "tensor/cpu/pages.h"

namespace halfstep::cpu {
namespace {

constexpr size_t kMaxKept = 16;

struct Block {
  void* data;
  size_t bytes;
};

/// Free blocks of one thread, smallest first.
struct FreeList {
  std::vector<Block> blocks;
  ~FreeList() {
    for (const Block& block : blocks) release_pages(block.data, block.bytes);
  }
};

thread_local FreeList free_list;

}  // namespace

Workspace::Workspace(size_t bytes) : data(nullptr), bytes_(bytes) {
  // A whole large page rather than half a page of small ones.
  if (bytes_ > kLargePage / 2) bytes_ = (bytes_ + kLargePage - 1) / kLargePage * kLargePage;
  auto& blocks = free_list.blocks;
  const auto fits =
      std::find_if(blocks.begin(), blocks.end(), [&](const Block& b) { return b.bytes >= bytes_; });
  if (fits != blocks.end()) {
    data = fits->data;
    bytes_ = fits->bytes;
    blocks.erase(fits);
  } else {
    data = allocate_pages(bytes_);
    if (!data) throw std::bad_alloc();
  }
}

Workspace::~Workspace() {
  auto& blocks = free_list.blocks;
  if (blocks.size() == kMaxKept) {  // the smallest is the cheapest to allocate again
    release_pages(blocks.front().data, blocks.front().bytes);
    blocks.erase(blocks.begin());
  }
  const auto larger =
      std::find_if(blocks.begin(), blocks.end(), [&](const Block& b) { return b.bytes >= bytes_; });
  blocks.insert(larger, {data, bytes_});
}

}  // namespace halfstep::cpu
