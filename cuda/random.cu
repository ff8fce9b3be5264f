// Random numbers and dropout. A thread computes the four numbers that one Philox counter serves and writes
// them at once; nothing else is read, so the ten rounds of integer multiplications are about as dear as
// writing 16 bytes. Every backend must produce the same bits: these are exact operations, and the file is
// compiled without contraction (see tensor/philox.h).
#include "cuda/entries.h"
#include "cuda/loops.h"
#include "tensor/philox.h"

namespace halfstep::cuda {
namespace {

constexpr int kNumbers = 4;  // of one counter

/// Writes the first `count` values, all four with wide stores where they are aligned.
template <class T>
__device__ void store_numbers(T* out, const Pack<T, kNumbers>& values, int64_t count) {
  constexpr int kWidth = 16 / sizeof(T);
  if (count >= kNumbers && reinterpret_cast<uintptr_t>(out) % 16 == 0) {
#pragma unroll
    for (int first = 0; first < kNumbers; first += kWidth) {
      Pack<T, kWidth> pack;
#pragma unroll
      for (int k = 0; k < kWidth; ++k) pack.at[k] = values.at[first + k];
      *reinterpret_cast<Pack<T, kWidth>*>(out + first) = pack;
    }
    return;
  }
#pragma unroll
  for (int k = 0; k < kNumbers; ++k) {
    if (k < count) out[k] = values.at[k];
  }
}

/// Counters first_block ... first_block + blocks - 1 of `rows` rows of n numbers; rows * blocks is below
/// 2^31.
template <class T>
__global__ void __launch_bounds__(kThreads)
    random_numbers(RandomKind kind, T* out, int64_t n, uint32_t rows, uint32_t blocks, Divider by_blocks,
                   int64_t first_block, uint64_t first_row, uint64_t seed, uint64_t stream) {
  const uint32_t total = rows * blocks;
  for (uint32_t i = blockIdx.x * blockDim.x + threadIdx.x; i < total; i += gridDim.x * blockDim.x) {
    const uint32_t row = by_blocks.divide(i);
    const int64_t block = first_block + (i - row * blocks);
    const philox::Block words = philox::words(seed, stream, first_row + row, static_cast<uint64_t>(block));
    float numbers[kNumbers];
    if (kind == RandomKind::normal) {
      philox::normals(words, numbers);
    } else {
#pragma unroll
      for (int k = 0; k < kNumbers; ++k) numbers[k] = philox::uniform(words.word[k]);
    }
    Pack<T, kNumbers> values;
#pragma unroll
    for (int k = 0; k < kNumbers; ++k) values.at[k] = static_cast<T>(numbers[k]);
    store_numbers(out + row * n + block * kNumbers, values, n - block * kNumbers);
  }
}

template <class T>
void random_of(const RandomArgs& args) {
  const int64_t rows = args.out.shape[0], n = args.out.shape[1], blocks = ceil_div(n, kNumbers);
  // Launches of whole rows, or of parts of one row where that is too long.
  const int64_t most_blocks = blocks < kMaxPart ? blocks : kMaxPart, most_rows = kMaxPart / most_blocks;
  for (int64_t row = 0; row < rows; row += most_rows) {
    const int64_t row_count = most_rows < rows - row ? most_rows : rows - row;
    for (int64_t block = 0; block < blocks; block += most_blocks) {
      const int64_t block_count = most_blocks < blocks - block ? most_blocks : blocks - block;
      launch({grid_for(row_count * block_count)}, random_numbers<T>, args.kind, args.out.as<T>() + row * n, n,
             row_count, block_count, Divider(block_count), block, args.first_row + static_cast<uint64_t>(row),
             args.seed, args.stream);
    }
  }
}

/// y may be x. Reads x in packs where it is aligned. row: nullptr for row 0.
template <class T>
__global__ void __launch_bounds__(kThreads) drop(const T* x, T* y, int64_t n, float p, T scale, uint64_t seed,
                                                 uint64_t stream, const int64_t* row_number) {
  constexpr int kWidth = 16 / sizeof(T);
  const uint64_t row = row_number ? static_cast<uint64_t>(*row_number) : 0;
  const bool aligned = reinterpret_cast<uintptr_t>(x) % 16 == 0;
  const int64_t blocks = (n + kNumbers - 1) / kNumbers, threads = int64_t{gridDim.x} * blockDim.x;
  for (int64_t block = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; block < blocks; block += threads) {
    const int64_t first = block * kNumbers, count = n - first;
    const philox::Block words = philox::words(seed, stream, row, static_cast<uint64_t>(block));
    Pack<T, kNumbers> values;
    if (aligned && count >= kNumbers) {
#pragma unroll
      for (int begin = 0; begin < kNumbers; begin += kWidth) {
        const auto pack = *reinterpret_cast<const Pack<T, kWidth>*>(x + first + begin);
#pragma unroll
        for (int k = 0; k < kWidth; ++k) values.at[begin + k] = pack.at[k];
      }
    } else {
#pragma unroll
      for (int k = 0; k < kNumbers; ++k) values.at[k] = k < count ? x[first + k] : T(0);
    }
#pragma unroll
    for (int k = 0; k < kNumbers; ++k) {
      values.at[k] = philox::uniform(words.word[k]) >= p ? values.at[k] * scale : T(0);
    }
    store_numbers(y + first, values, count);
  }
}

template <class T>
void dropout_of(const DropoutArgs& args) {
  const int64_t n = numel(args.x.shape);
  launch({grid_for(ceil_div(n, kNumbers))}, drop<T>, args.x.as<const T>(), args.y.as<T>(), n,
         static_cast<float>(args.p), static_cast<T>(1 / (1 - args.p)), args.seed, args.stream,
         args.row.as<const int64_t>());
}

}  // namespace

void random(RandomArgs args) {
  if (numel(args.out.shape) == 0) return;
  args.out.dtype == DType::f32 ? random_of<float>(args) : random_of<double>(args);
}

void dropout(DropoutArgs args) {
  if (numel(args.x.shape) == 0) return;
  args.x.dtype == DType::f32 ? dropout_of<float>(args) : dropout_of<double>(args);
}

}  // namespace halfstep::cuda
