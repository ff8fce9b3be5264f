// Entries along one axis that follow indices or make them: cumulative sums, sorting, gather and its adjoint.
//
//   * cumulative_sum: one thread per line where there are many lines; otherwise each line is cut into chunks:
//     a first launch sums the chunks, and a second one scans each of them with 256 threads, starting from the
//     sum of the chunks before it. Reads x once or twice, writes out once.
//   * argsort: keys become unsigned integers that sort like the numbers. A block sorts up to 2048 pairs (key,
//     index) in on-chip memory by a bitonic network: fixed pairs of places are compared and exchanged, in
//     log2(n) (log2(n) + 1) / 2 rounds, whatever the data. Longer lines are merged from such tiles, in passes
//     over memory that double the length of the sorted runs each.
//   * gather: an elementwise copy whose source offset depends on an index.
//   * scatter_add: several sources may meet in one place, in an order that is fixed by the interface. Atomic
//     additions would add in any order; instead every output looks for its sources. For few sources per line
//     it reads all indices. Otherwise the pairs (index, i) are sorted as above, so that the sources of one
//     output are neighbours, in the order of i. Lines that share their indices (rows of an embedding) share
//     the sorting.
#include <cstring>
#include <limits>

#include "cuda/entries.h"
#include "cuda/loops.h"

namespace halfstep::cuda {
namespace {

constexpr int kWarp = 32;
constexpr int kWarps = kThreads / kWarp;
constexpr unsigned kAllLanes = 0xffffffffu;

int64_t min(int64_t a, int64_t b) { return a < b ? a : b; }
int64_t max(int64_t a, int64_t b) { return a > b ? a : b; }

// --- cumulative sums ---------------------------------------------------------------------------------------

/// A thread for each line (out offset, x offset).
template <class T>
__global__ void __launch_bounds__(kThreads)
    sum_lines(const __grid_constant__ Loops<2> lines, int64_t length, int64_t out_stride, int64_t x_stride,
              T* out, const T* x) {
  const auto total = static_cast<uint32_t>(lines.total);
  for (uint32_t line = blockIdx.x * blockDim.x + threadIdx.x; line < total; line += gridDim.x * blockDim.x) {
    int64_t offset[2];
    lines.locate(line, offset);
    T* to = out + offset[0];
    const T* from = x + offset[1];
    double sum = 0;
    for (int64_t i = 0; i < length; ++i, to += out_stride, from += x_stride) {
      sum += *from;
      *to = static_cast<T>(sum);
    }
  }
}

/// The sum of every thread's value, for all threads of the block. `warps` may be written again after a
/// barrier.
__device__ double sum_of_block(double value, double (&warps)[kWarps]) {
#pragma unroll
  for (int distance = kWarp / 2; distance > 0; distance /= 2) {
    value += __shfl_down_sync(kAllLanes, value, distance);
  }
  if (threadIdx.x % kWarp == 0) warps[threadIdx.x / kWarp] = value;
  __syncthreads();
  double sum = 0;
#pragma unroll
  for (int w = 0; w < kWarps; ++w) sum += warps[w];
  return sum;
}

/// totals[line, chunk] of the elements of each chunk.
template <class T>
__global__ void __launch_bounds__(kThreads)
    sum_chunks(const __grid_constant__ Loops<2> lines, int64_t length, int64_t x_stride, int64_t chunk,
               uint32_t chunks, const T* x, double* totals) {
  __shared__ double warps[kWarps];
  int64_t offset[2];
  lines.locate(blockIdx.x / chunks, offset);
  const int64_t begin = blockIdx.x % chunks * chunk;
  const int64_t end = begin + chunk < length ? begin + chunk : length;
  double sum = 0;
  for (int64_t i = begin + threadIdx.x; i < end; i += kThreads) sum += x[offset[1] + i * x_stride];
  sum = sum_of_block(sum, warps);
  if (threadIdx.x == 0) totals[blockIdx.x] = sum;
}

constexpr int kScanned = 4;                     // neighbouring elements of a thread
constexpr int kScanTile = kThreads * kScanned;  // elements of a block at a time
constexpr int64_t kMostChunks = kThreads;       // of a line: one for each thread that adds them up

/// out = the sums of the chunks before, and of the elements of the chunk up to each: threads sum their own
/// elements, warps scan the sums of their threads, and all threads add those of the warps before.
template <class T>
__global__ void __launch_bounds__(kThreads)
    scan_chunks(const __grid_constant__ Loops<2> lines, int64_t length, int64_t out_stride, int64_t x_stride,
                int64_t chunk, uint32_t chunks, const double* totals, T* out, const T* x) {
  __shared__ double warps[kWarps];
  const uint32_t line = blockIdx.x / chunks, number = blockIdx.x % chunks;
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  int64_t offset[2];
  lines.locate(line, offset);
  double carry = 0;
  if (chunks > 1)
    carry = sum_of_block(threadIdx.x < number ? totals[line * chunks + threadIdx.x] : 0.0, warps);
  const int64_t begin = number * chunk, end = begin + chunk < length ? begin + chunk : length;
  for (int64_t tile = begin; tile < end; tile += kScanTile) {
    const int64_t first = tile + threadIdx.x * kScanned;
    double sums[kScanned];
    double sum = 0;
#pragma unroll
    for (int k = 0; k < kScanned; ++k) {
      if (first + k < end) sum += x[offset[1] + (first + k) * x_stride];
      sums[k] = sum;
    }
    double before = sum;  // the inclusive scan over the lanes, made exclusive below
#pragma unroll
    for (int distance = 1; distance < kWarp; distance *= 2) {
      const double other = __shfl_up_sync(kAllLanes, before, distance);
      if (lane >= distance) before += other;
    }
    __syncthreads();  // the sums of the last tile have been read
    if (lane == kWarp - 1) warps[warp] = before;
    before = __shfl_up_sync(kAllLanes, before, 1);
    if (lane == 0) before = 0;
    __syncthreads();
    double all = 0, of_warps = 0;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) {
      if (w == warp) of_warps = all;
      all += warps[w];
    }
    const double start = carry + (of_warps + before);
#pragma unroll
    for (int k = 0; k < kScanned; ++k) {
      if (first + k < end) out[offset[0] + (first + k) * out_stride] = static_cast<T>(start + sums[k]);
    }
    carry += all;
  }
}

template <class T>
void cumulative_sum_of(const Array& out_array, const Array& x_array, int axis) {
  constexpr int64_t kManyLines = 4096, kManyBlocks = 1024;
  const int64_t length = x_array.shape[axis];
  const int64_t out_stride = out_array.strides[axis], x_stride = x_array.strides[axis];
  for_each_part(lines_over(axis, out_array, x_array), [&](const Loops<2>& lines, const int64_t(&start)[2]) {
    T* const out = out_array.as<T>() + start[0];
    const T* const x = x_array.as<const T>() + start[1];
    // A warp of threads that each follow a line reads whole lines of memory if the lines lie side by side.
    const bool side_by_side = lines.rank > 0 && lines.step[0][0] == 1;
    if (length <= 32 || (side_by_side && lines.total >= kManyLines)) {
      launch({grid_for(lines.total)}, sum_lines<T>, lines, length, out_stride, x_stride, out, x);
      return;
    }
    int64_t chunks = min(ceil_div(length, 4 * kScanTile), ceil_div(kManyBlocks, lines.total));
    chunks = max(1, min(chunks, kMostChunks));
    const int64_t chunk = ceil_div(ceil_div(length, chunks), kScanTile) * kScanTile;
    chunks = ceil_div(length, chunk);
    const auto blocks = static_cast<unsigned>(lines.total * chunks);
    double* totals = nullptr;
    if (chunks > 1) {
      totals = static_cast<double*>(workspace(sizeof(double) * blocks));
      launch({blocks}, sum_chunks<T>, lines, length, x_stride, chunk, chunks, x, totals);
    }
    launch({blocks}, scan_chunks<T>, lines, length, out_stride, x_stride, chunk, chunks, totals, out, x);
  });
}

// --- sorting -----------------------------------------------------------------------------------------------

constexpr int kTile = 2048;  // pairs that a block sorts

/// An unsigned integer that sorts like the number: with the sign bit turned around, and the others as well if
/// it was set. -0 becomes 0, and every NaN the largest number.
__device__ uint32_t key_of(float value) {
  if (value != value) return ~uint32_t{0};
  if (value == 0) value = 0;
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits >> 31 ? ~bits : bits | uint32_t{1} << 31;
}
__device__ uint64_t key_of(double value) {
  if (value != value) return ~uint64_t{0};
  if (value == 0) value = 0;
  uint64_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits >> 63 ? ~bits : bits | uint64_t{1} << 63;
}
template <class T>
using KeyOf = decltype(key_of(T{}));

// What is sorted: line(n) finds the n-th line, key(line, i) the key of its element i.

/// The keys of numbers. Equal keys keep their order in both directions, so descending order is that of the
/// inverted keys.
template <class T>
struct NumberKeys {
  using Key = KeyOf<T>;
  Loops<2> lines;  ///< (out offset, x offset)
  int64_t stride;
  const T* x;
  uint32_t first_line;
  bool descending;

  __device__ const T* line(uint32_t n) const {
    int64_t offset[2];
    lines.locate(first_line + n, offset);
    return x + offset[1];
  }
  __device__ Key key(const T* line, uint32_t i) const {
    const Key key = key_of(line[i * stride]);
    return descending ? static_cast<Key>(~key) : key;
  }
};

/// Indices below `size`, which itself stands for all that are outside.
template <class K>
struct IndexKeys {
  using Key = K;
  Loops<1> lines;
  int64_t stride, size;
  const int64_t* index;

  __device__ const int64_t* line(uint32_t n) const {
    int64_t offset[1];
    lines.locate(n, offset);
    return index + offset[0];
  }
  __device__ Key key(const int64_t* line, uint32_t i) const {
    const int64_t value = line[i * stride];
    return static_cast<Key>(0 <= value && value < size ? value : size);
  }
};

// Where sorted pairs go: line(n), and store(line, place, key, index).

/// To memory: keys and indices of [lines, length].
template <class Key>
struct SortedPairs {
  struct Line {
    Key* keys;
    uint32_t* order;
  };
  Key* keys;
  uint32_t* order;
  uint32_t length;

  __device__ Line line(uint32_t n) const {
    const int64_t offset = int64_t{n} * length;
    return {keys + offset, order + offset};
  }
  __device__ void store(const Line& line, uint32_t place, Key key, uint32_t index) const {
    line.keys[place] = key;
    line.order[place] = index;
  }
};

/// The order alone, as the result of argsort.
struct SortedOrder {
  Loops<2> lines;  ///< (out offset, x offset)
  int64_t stride;
  int64_t* out;
  uint32_t first_line;

  __device__ int64_t* line(uint32_t n) const {
    int64_t offset[2];
    lines.locate(first_line + n, offset);
    return out + offset[0];
  }
  template <class Key>
  __device__ void store(int64_t* line, uint32_t place, Key, uint32_t index) const {
    line[place * stride] = index;
  }
};

/// Sorts tiles of up to `tile` (a power of 2, at most kTile) pairs of every line. What is missing in the last
/// one is filled up with pairs that come last.
template <class Source, class Sink>
__global__ void __launch_bounds__(kThreads)
    sort_tiles(const __grid_constant__ Source source, const __grid_constant__ Sink sink, uint32_t length,
               uint32_t tile, uint32_t tiles) {
  using Key = typename Source::Key;
  __shared__ Key keys[kTile];
  __shared__ uint32_t order[kTile];
  const uint32_t line = blockIdx.x / tiles, first = blockIdx.x % tiles * tile;
  const auto from = source.line(line);
  for (uint32_t i = threadIdx.x; i < tile; i += blockDim.x) {
    keys[i] = first + i < length ? source.key(from, first + i) : ~Key{0};
    order[i] = first + i;
  }
  __syncthreads();
  for (uint32_t sorted = 2; sorted <= tile; sorted *= 2) {
    for (uint32_t distance = sorted / 2; distance > 0; distance /= 2) {
      for (uint32_t pair = threadIdx.x; pair < tile / 2; pair += blockDim.x) {
        const uint32_t i = 2 * pair - (pair & (distance - 1)), j = i + distance;
        const bool ascending = (i & sorted) == 0;
        const Key a = keys[i], b = keys[j];
        const uint32_t order_a = order[i], order_b = order[j];
        const bool after = a > b || (a == b && order_a > order_b);
        if (after == ascending) {
          keys[i] = b, keys[j] = a;
          order[i] = order_b, order[j] = order_a;
        }
      }
      __syncthreads();
    }
  }
  const auto to = sink.line(line);
  for (uint32_t i = threadIdx.x; i < tile && first + i < length; i += blockDim.x) {
    sink.store(to, first + i, keys[i], order[i]);
  }
}

/// How many of the first `count` elements of the merged sequence come from a: found by bisection, because
/// where a[m] comes before b[count - 1 - m], more than m do. Of equal keys those of a come first.
template <class Key>
__device__ uint32_t merged_from_a(const Key* a, uint32_t a_length, const Key* b, uint32_t b_length,
                                  uint32_t count) {
  uint32_t low = count > b_length ? count - b_length : 0, high = count < a_length ? count : a_length;
  while (low < high) {
    const uint32_t middle = low + (high - low) / 2;
    if (a[middle] <= b[count - 1 - middle]) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}

constexpr int kMerged = kTile / kThreads;  // neighbouring outputs of a thread

/// Merges neighbouring sorted runs of `run` pairs (a multiple of kTile): each block kTile outputs. It finds
/// its parts of the two runs, loads them, and then each thread does the same for its share.
template <class Key, class Sink>
__global__ void __launch_bounds__(kThreads)
    merge_runs(const __grid_constant__ Sink sink, const Key* all_keys, const uint32_t* all_order,
               uint32_t length, uint32_t run, uint32_t tiles) {
  __shared__ Key keys[kTile];
  __shared__ uint32_t order[kTile];
  __shared__ uint32_t from_a[2];
  const uint32_t line = blockIdx.x / tiles, first = blockIdx.x % tiles * kTile;
  const uint32_t base = first / run / 2 * 2 * run, rest = length - base;
  const uint32_t a_length = rest < run ? rest : run;
  const uint32_t b_length = rest - a_length < run ? rest - a_length : run;
  const int64_t offset = int64_t{line} * length + base;
  const Key *const a = all_keys + offset, *const b = a + a_length;
  const uint32_t begin = first - base, behind = a_length + b_length;
  const uint32_t end = behind - begin < kTile ? behind : begin + kTile;
  if (threadIdx.x % kWarp == 0 && threadIdx.x / kWarp < 2) {
    from_a[threadIdx.x / kWarp] =
        merged_from_a(a, a_length, b, b_length, threadIdx.x / kWarp == 0 ? begin : end);
  }
  __syncthreads();
  const uint32_t a_begin = from_a[0], a_count = from_a[1] - a_begin;
  const uint32_t b_begin = begin - a_begin, count = end - begin;
  for (uint32_t i = threadIdx.x; i < count; i += kThreads) {
    const uint32_t place = i < a_count ? a_begin + i : a_length + b_begin + (i - a_count);
    keys[i] = a[place];
    order[i] = all_order[offset + place];
  }
  __syncthreads();
  Key merged_keys[kMerged];
  uint32_t merged_order[kMerged];
  const uint32_t mine = threadIdx.x * kMerged;
  if (mine < count) {
    uint32_t i = merged_from_a(keys, a_count, keys + a_count, count - a_count, mine);
    uint32_t j = a_count + (mine - i);
#pragma unroll
    for (int k = 0; k < kMerged; ++k) {
      if (mine + k < count) {
        const bool take_a = i < a_count && (j >= count || keys[i] <= keys[j]);
        const uint32_t place = take_a ? i++ : j++;
        merged_keys[k] = keys[place];
        merged_order[k] = order[place];
      }
    }
  }
  __syncthreads();
#pragma unroll
  for (int k = 0; k < kMerged; ++k) {
    if (mine + k < count) {
      keys[mine + k] = merged_keys[k];
      order[mine + k] = merged_order[k];
    }
  }
  __syncthreads();
  const auto to = sink.line(line);
  for (uint32_t i = threadIdx.x; i < count; i += kThreads) sink.store(to, first + i, keys[i], order[i]);
}

/// Bytes of the two sets of pairs that sort_lines() needs for `pairs` of them.
template <class Key>
size_t sorting_bytes(int64_t pairs) {
  return 2 * static_cast<size_t>(pairs) * (sizeof(Key) + sizeof(uint32_t));
}

/// Sorts lines of `length` keys into `sink`, or, without one, into memory; returns where. `memory` is used
/// for lines of more than kTile elements and where there is no sink.
template <class Source, class Sink>
SortedPairs<typename Source::Key> sort_lines(const Source& source, const Sink* sink, int64_t lines,
                                             int64_t length, void* memory) {
  using Key = typename Source::Key;
  using Pairs = SortedPairs<Key>;
  const auto blocks_of = [lines](int64_t tiles) { return static_cast<unsigned>(lines * tiles); };
  const int64_t pairs = lines * length, tiles = ceil_div(length, kTile);
  // The keys of both sets come first: they are the wider ones.
  Key* const all_keys = static_cast<Key*>(memory);
  uint32_t* const all_order = reinterpret_cast<uint32_t*>(all_keys + 2 * pairs);
  Pairs from{all_keys, all_order, static_cast<uint32_t>(length)};
  Pairs to{all_keys + pairs, all_order + pairs, static_cast<uint32_t>(length)};

  int64_t tile = kTile;
  while (tiles == 1 && tile / 2 >= length) tile /= 2;
  const int64_t threads = max(kWarp, min(kThreads, tile / 2));
  const Launch sorting{blocks_of(tiles), static_cast<unsigned>(threads)};
  if (tiles == 1 && sink != nullptr) {
    launch(sorting, sort_tiles<Source, Sink>, source, *sink, length, tile, tiles);
    return from;
  }
  launch(sorting, sort_tiles<Source, Pairs>, source, from, length, tile, tiles);
  for (int64_t run = kTile; run < length; run *= 2) {
    if (2 * run >= length && sink != nullptr) {
      launch({blocks_of(tiles)}, merge_runs<Key, Sink>, *sink, from.keys, from.order, length, run, tiles);
    } else {
      launch({blocks_of(tiles)}, merge_runs<Key, Pairs>, to, from.keys, from.order, length, run, tiles);
    }
    const Pairs last = from;
    from = to;
    to = last;
  }
  return from;
}

// Places on a line have 32 bits in sorting.
constexpr int64_t kMostSorted = (int64_t{1} << 31) - 1;

template <class T>
void argsort_of(const Array& out, const Array& x, int axis, bool descending) {
  constexpr int64_t kPairsAtOnce = int64_t{1} << 25;
  const int64_t length = x.shape[axis];
  if (length > kMostSorted) check(cudaErrorInvalidValue);
  const Loops<2> all_lines = lines_over(axis, out, x);
  const int64_t at_once = min(all_lines.total, length <= kTile ? kMaxPart : max(1, kPairsAtOnce / length));
  void* const memory = length <= kTile ? nullptr : workspace(sorting_bytes<KeyOf<T>>(at_once * length));
  for_each_part(all_lines, [&](const Loops<2>& lines, const int64_t(&start)[2]) {
    for (int64_t line = 0; line < lines.total; line += at_once) {
      const auto first = static_cast<uint32_t>(line);
      const NumberKeys<T> source{lines, x.strides[axis], x.as<const T>() + start[1], first, descending};
      const SortedOrder sink{lines, out.strides[axis], out.as<int64_t>() + start[0], first};
      sort_lines(source, &sink, min(at_once, lines.total - line), length, memory);
    }
  });
}

// --- gather ------------------------------------------------------------------------------------------------

/// out[e] = x[e off the axis, index[e]] by packs that share one index; loops: (out, x, index) offsets, where
/// x does not move along the axis.
template <class T, int Width>
__global__ void __launch_bounds__(kThreads)
    gather_packs(const __grid_constant__ Loops<3> loops, int64_t size, int64_t x_stride, T missing, T* out,
                 const T* x, const int64_t* index) {
  const uint32_t packs = static_cast<uint32_t>(loops.total) / Width;
  for (uint32_t i = blockIdx.x * blockDim.x + threadIdx.x; i < packs; i += gridDim.x * blockDim.x) {
    int64_t offset[3];
    loops.locate(i * Width, offset);
    const int64_t j = index[offset[2]];
    Pack<T, Width> values;
    if (0 <= j && j < size) {
      values = *reinterpret_cast<const Pack<T, Width>*>(x + offset[1] + j * x_stride);
    } else {
#pragma unroll
      for (int k = 0; k < Width; ++k) values.at[k] = missing;
    }
    *reinterpret_cast<Pack<T, Width>*>(out + offset[0]) = values;
  }
}

template <class T>
void gather_of(const Array& out, const Array& x, const Array& index, int axis, T missing) {
  constexpr int kWidth = 16 / sizeof(T);
  Strides x_strides = x.strides;
  x_strides[axis] = 0;
  const int64_t size = x.shape[axis], x_stride = x.strides[axis];
  const Loops<3> all = loops_of<3>(out.shape, {&out.strides, &x_strides, &index.strides});
  // Packs lie within a row of the table and have one index.
  const bool wide = in_packs<3>(all, {out.data, x.data, index.data}, {sizeof(T), sizeof(T), 8}, kWidth) &&
                    all.step[0][1] == 1 && all.step[0][2] == 0 && all.size[0] % kWidth == 0 &&
                    x_stride % kWidth == 0;
  for_each_part(all, [&](const Loops<3>& part, const int64_t(&start)[3]) {
    T* const to = out.as<T>() + start[0];
    const T* const from = x.as<const T>() + start[1];
    const int64_t* const places = index.as<const int64_t>() + start[2];
    if (wide) {
      launch({grid_for(part.total / kWidth)}, gather_packs<T, kWidth>, part, size, x_stride, missing, to,
             from, places);
    } else {
      launch({grid_for(part.total)}, gather_packs<T, 1>, part, size, x_stride, missing, to, from, places);
    }
  });
}

// --- scatter_add -------------------------------------------------------------------------------------------

/// Every output adds up the sources whose index is its own place on the axis; loops: offsets of out, source
/// and index, and the place. source and index do not move along out's axis.
template <class T>
__global__ void __launch_bounds__(kThreads)
    scatter_scanning(const __grid_constant__ Loops<4> loops, int64_t length, int64_t source_stride,
                     int64_t index_stride, T* out, const T* source, const int64_t* index) {
  const auto total = static_cast<uint32_t>(loops.total);
  for (uint32_t e = blockIdx.x * blockDim.x + threadIdx.x; e < total; e += gridDim.x * blockDim.x) {
    int64_t offset[4];
    loops.locate(e, offset);
    double sum = 0;
    for (int64_t i = 0; i < length; ++i) {
      if (index[offset[2] + i * index_stride] == offset[3]) sum += source[offset[1] + i * source_stride];
    }
    out[offset[0]] = static_cast<T>(sum);
  }
}

/// The same from sorted pairs (index, i), `length` of them from the third offset on.
template <class T, class Key>
__global__ void __launch_bounds__(kThreads)
    scatter_sorted(const __grid_constant__ Loops<4> loops, uint32_t length, int64_t source_stride, T* out,
                   const T* source, const Key* keys, const uint32_t* order) {
  const auto total = static_cast<uint32_t>(loops.total);
  for (uint32_t e = blockIdx.x * blockDim.x + threadIdx.x; e < total; e += gridDim.x * blockDim.x) {
    int64_t offset[4];
    loops.locate(e, offset);
    const Key* const line_keys = keys + offset[2];
    const uint32_t* const line_order = order + offset[2];
    const T* const from = source + offset[1];
    // The first pair that is not below the place.
    const auto wanted = static_cast<Key>(offset[3]);
    uint32_t low = 0, high = length;
    while (low < high) {
      const uint32_t middle = low + (high - low) / 2;
      if (line_keys[middle] < wanted) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    double sum = 0;
    for (uint32_t i = low; i < length && line_keys[i] == wanted; ++i) {
      sum += from[line_order[i] * source_stride];
    }
    out[offset[0]] = static_cast<T>(sum);
  }
}

template <class T, class Key>
void scatter_by_sorting(const Array& out, const Array& source, const Array& index, int axis) {
  const int64_t length = source.shape[axis];
  // Lines whose indices are the same ones in memory are sorted once: `lines` are those that differ, and
  // line_strides says which of them, times their length, belongs to an output.
  Loops<1> lines;
  Strides line_strides = Dims::filled(out.shape.rank(), 0);
  for (int i = out.shape.rank() - 1; i >= 0; --i) {
    if (i == axis || index.strides[i] == 0) continue;
    line_strides[i] = lines.total * length;
    lines.add_axis(out.shape[i], {index.strides[i]});
  }
  lines.prepare();
  const IndexKeys<Key> keys{lines, index.strides[axis], out.shape[axis], index.as<const int64_t>()};
  void* const memory = workspace(sorting_bytes<Key>(lines.total * length));
  const auto sorted =
      sort_lines(keys, static_cast<const SortedPairs<Key>*>(nullptr), lines.total, length, memory);

  Strides source_strides = source.strides, place_strides = Dims::filled(out.shape.rank(), 0);
  source_strides[axis] = 0;
  place_strides[axis] = 1;
  const Loops<4> all = loops_of<4>(out.shape, {&out.strides, &source_strides, &line_strides, &place_strides});
  for_each_part(all, [&](const Loops<4>& part, const int64_t(&start)[4]) {
    launch({grid_for(part.total)}, scatter_sorted<T, Key>, part, length, source.strides[axis],
           out.as<T>() + start[0], source.as<const T>() + start[1], sorted.keys + start[2],
           sorted.order + start[2]);
  });
}

template <class T>
void scatter_add_of(const Array& out, const Array& source, const Array& index, int axis) {
  constexpr int64_t kShort = 64;
  const int64_t length = source.shape[axis];
  if (length > kShort && length <= kMostSorted) {
    if (out.shape[axis] < std::numeric_limits<uint32_t>::max()) {
      return scatter_by_sorting<T, uint32_t>(out, source, index, axis);
    }
    return scatter_by_sorting<T, uint64_t>(out, source, index, axis);
  }
  Strides source_strides = source.strides, index_strides = index.strides;
  Strides place_strides = Dims::filled(out.shape.rank(), 0);
  source_strides[axis] = index_strides[axis] = 0;
  place_strides[axis] = 1;
  const Loops<4> all =
      loops_of<4>(out.shape, {&out.strides, &source_strides, &index_strides, &place_strides});
  for_each_part(all, [&](const Loops<4>& part, const int64_t(&start)[4]) {
    launch({grid_for(part.total)}, scatter_scanning<T>, part, length, source.strides[axis],
           index.strides[axis], out.as<T>() + start[0], source.as<const T>() + start[1],
           index.as<const int64_t>() + start[2]);
  });
}

}  // namespace

void cumulative_sum(Array out, Array x, int axis) {
  if (numel(out.shape) == 0) return;
  x.dtype == DType::f32 ? cumulative_sum_of<float>(out, x, axis) : cumulative_sum_of<double>(out, x, axis);
}

void argsort(Array out, Array x, int axis, bool descending) {
  if (numel(out.shape) == 0) return;
  x.dtype == DType::f32 ? argsort_of<float>(out, x, axis, descending)
                        : argsort_of<double>(out, x, axis, descending);
}

void gather(Array out, Array x, Array index, int axis) {
  if (numel(out.shape) == 0) return;
  switch (x.dtype) {
    case DType::f32:
      return gather_of<float>(out, x, index, axis, std::numeric_limits<float>::quiet_NaN());
    case DType::f64:
      return gather_of<double>(out, x, index, axis, std::numeric_limits<double>::quiet_NaN());
    default:
      return gather_of<int64_t>(out, x, index, axis, -1);
  }
}

void scatter_add(Array out, Array source, Array index, int axis) {
  if (numel(out.shape) == 0) return;
  out.dtype == DType::f32 ? scatter_add_of<float>(out, source, index, axis)
                          : scatter_add_of<double>(out, source, index, axis);
}

}  // namespace halfstep::cuda
