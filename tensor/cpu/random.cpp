// Random numbers and dropout, threaded. Compiled like the reference, without wider instruction sets, because
// every backend must produce the same bits.
#include <algorithm>

#include "tensor/backend.h"
#include "tensor/cpu/thread_pool.h"
#include "tensor/philox.h"

namespace halfstep::cpu {
namespace {

constexpr int64_t kGrain = 2048;  // blocks of four numbers

template <class T>
void random_of(const RandomArgs& args) {
  const int64_t n = args.out.shape[1], blocks = (n + 3) / 4;
  T* const out = args.out.as<T>();
  parallel_for(args.out.shape[0] * blocks, kGrain, [&args, n, blocks, out](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t row = i / blocks, block = i % blocks;
      const philox::Block words = philox::words(args.seed, args.stream, args.first_row + row, block);
      float values[4];
      if (args.kind == RandomKind::normal) {
        philox::normals(words, values);
      } else {
        for (int j = 0; j < 4; ++j) values[j] = philox::uniform(words.word[j]);
      }
      std::copy_n(values, std::min<int64_t>(4, n - block * 4), out + row * n + block * 4);
    }
  });
}

template <class T>
void dropout_of(const DropoutArgs& args) {
  const int64_t n = numel(args.x.shape);
  const float p = static_cast<float>(args.p);
  const T scale = static_cast<T>(1 / (1 - args.p));
  const T* const x = args.x.as<const T>();
  T* const y = args.y.as<T>();
  const uint64_t row = args.row.absent() ? 0 : static_cast<uint64_t>(*args.row.as<int64_t>());
  parallel_for((n + 3) / 4, kGrain, [&args, n, p, scale, x, y, row](int64_t begin, int64_t end) {
    for (int64_t block = begin; block < end; ++block) {
      const philox::Block words = philox::words(args.seed, args.stream, row, block);
      for (int64_t i = block * 4, j = 0; i < std::min(n, block * 4 + 4); ++i, ++j) {
        y[i] = philox::uniform(words.word[j]) >= p ? x[i] * scale : T(0);
      }
    }
  });
}

void random(RandomArgs args) {
  args.out.dtype == DType::f32 ? random_of<float>(args) : random_of<double>(args);
}
void dropout(DropoutArgs args) {
  args.x.dtype == DType::f32 ? dropout_of<float>(args) : dropout_of<double>(args);
}

}  // namespace

void override_random(Backend& backend) {
  backend.random = random;
  backend.dropout = dropout;
}

}  // namespace halfstep::cpu
