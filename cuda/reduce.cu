// Sums and extrema over axes.
//
// Every element is read once, so a reduction is bound by memory: it needs whole lines of memory read at once
// and many of them on their way. The axes are sorted into kept loops (one output each) and inner loops (what
// is joined), and the layout of x chooses between two kernels:
//   * reduce_lines: 1, 2, 4, ... 32 or 256 threads join the elements of one output, neighbouring threads
//     neighbouring elements. For inner axes that are contiguous, and whatever else there is;
//   * reduce_columns: for kept axes that are contiguous (the gradient of a bias: sums over rows). A block
//     takes up to 32 or 128 neighbouring columns, its warps take every eighth row.
// Where that makes too few blocks to fill the device, each output is cut into chunks, whose results go to the
// workspace and are joined by a second launch of the same kernels: rounds of a fixed order in place of atomic
// additions, so that equal calls give equal bits. How the work is cut depends on shapes alone.
//
// Sums of f32 run in f32, but no number is added to more than some tens of others in a row before the result
// joins others of its size: the error stays that of pairwise summation. f64 results accumulate in double.
#include "cuda/entries.h"
#include "cuda/lists.h"
#include "cuda/loops.h"
#include "tensor/formulas.h"

namespace halfstep::cuda {
namespace {

// --- what is joined ----------------------------------------------------------------------------------------

/// A reduction starts from kStart, takes term(x) of every element and joins two results.
struct Sum {
  static constexpr float kStart = 0;
  using Again = Sum;  ///< joins results
  template <class A>
  static __device__ A term(A x) {
    return x;
  }
  template <class A>
  static __device__ A join(A a, A b) {
    return a + b;
  }
};
struct SumOfSquares : Sum {
  template <class A>
  static __device__ A term(A x) {
    return x * x;
  }
};
struct Max {
  static constexpr float kStart = -HUGE_VALF;
  using Again = Max;
  template <class A>
  static __device__ A term(A x) {
    return x;
  }
  template <class A>
  static __device__ A join(A a, A b) {
    return formulas::Maximum{}(a, b, A(0));
  }
};
struct Min {
  static constexpr float kStart = HUGE_VALF;
  using Again = Min;
  template <class A>
  static __device__ A term(A x) {
    return x;
  }
  template <class A>
  static __device__ A join(A a, A b) {
    return formulas::Minimum{}(a, b, A(0));
  }
};

// --- one output per group of threads -----------------------------------------------------------------------

constexpr int kWarp = 32;
constexpr int kUnroll = 8;  // loads of a thread on their way

/// Joins the elements lane, lane + group, ... of p[0], p[step], ... p[(count - 1) * step].
template <class Op, class Acc, class T>
__device__ Acc join_strided(const T* p, int64_t step, int64_t count, uint32_t lane, uint32_t group) {
  Acc total = static_cast<Acc>(Op::kStart);
  for (int64_t first = lane; first < count; first += int64_t{kUnroll} * group) {
    Acc part = static_cast<Acc>(Op::kStart);
#pragma unroll
    for (int k = 0; k < kUnroll; ++k) {
      const int64_t i = first + int64_t{k} * group;
      if (i < count) part = Op::join(part, Op::term(static_cast<Acc>(p[i * step])));
    }
    total = Op::join(total, part);
  }
  return total;
}

/// The same for neighbouring elements, 16 bytes per load but for those before the first boundary of 16 bytes
/// and behind the last. group is at least 32.
template <class Op, class Acc, class T>
__device__ Acc join_contiguous(const T* p, int64_t count, uint32_t lane, uint32_t group) {
  constexpr int kWidth = 16 / sizeof(T), kPacks = 4;
  const auto misplaced = static_cast<int64_t>(reinterpret_cast<uintptr_t>(p) / sizeof(T) % kWidth);
  int64_t head = (kWidth - misplaced) % kWidth;
  if (head > count) head = count;
  Acc total = static_cast<Acc>(Op::kStart);
  if (lane < head) total = Op::term(static_cast<Acc>(p[lane]));
  const auto* const packs = reinterpret_cast<const Pack<T, kWidth>*>(p + head);
  const int64_t pack_count = (count - head) / kWidth;
  for (int64_t first = lane; first < pack_count; first += int64_t{kPacks} * group) {
    Acc part = static_cast<Acc>(Op::kStart);
#pragma unroll
    for (int k = 0; k < kPacks; ++k) {
      const int64_t i = first + int64_t{k} * group;
      if (i < pack_count) {
        const Pack<T, kWidth> pack = packs[i];
        Acc joined = Op::term(static_cast<Acc>(pack.at[0]));
#pragma unroll
        for (int w = 1; w < kWidth; ++w) joined = Op::join(joined, Op::term(static_cast<Acc>(pack.at[w])));
        part = Op::join(part, joined);
      }
    }
    total = Op::join(total, part);
  }
  const int64_t tail = head + pack_count * kWidth + lane;
  if (tail < count) total = Op::join(total, Op::term(static_cast<Acc>(p[tail])));
  return total;
}

/// The joint result of `group` neighbouring threads (a power of 2 up to 32, or the block), in lane 0.
template <class Op, class Acc>
__device__ Acc join_group(Acc result, uint32_t lane, uint32_t group) {
  const int width = group < kWarp ? static_cast<int>(group) : kWarp;
  for (int distance = width / 2; distance > 0; distance /= 2) {
    result = Op::join(result, __shfl_down_sync(0xffffffffu, result, distance, width));
  }
  if (group == kThreads) {
    constexpr int kWarps = kThreads / kWarp;
    __shared__ Acc warps[kWarps];
    if (lane % kWarp == 0) warps[lane / kWarp] = result;
    __syncthreads();
    if (lane == 0) {
      for (int distance = kWarps / 2; distance > 0; distance /= 2) {
        for (int w = 0; w < distance; ++w) warps[w] = Op::join(warps[w], warps[w + distance]);
      }
      result = warps[0];
    }
  }
  return result;
}

/// out[o] of the kept loops (x offset, out offset) from the inner loops. `group` threads take one chunk of
/// one output; with several chunks the results go to partials [outputs, chunks].
template <class Op, class T, class Acc, class Out>
__global__ void __launch_bounds__(kThreads)
    reduce_lines(const __grid_constant__ Loops<2> kept, const __grid_constant__ Loops<1> inner,
                 uint32_t group, int64_t chunk, uint32_t chunks, const T* x, Out* out, Acc* partials) {
  const uint32_t lane = threadIdx.x & (group - 1), groups = kThreads / group;
  const int64_t task = static_cast<int64_t>(blockIdx.x) * groups + threadIdx.x / group;
  const bool active = task < kept.total * chunks;
  Acc result = static_cast<Acc>(Op::kStart);
  int64_t offset[2] = {0, 0};
  if (active) {
    const uint32_t output = static_cast<uint32_t>(chunks == 1 ? task : task / chunks);
    kept.locate(output, offset);
    const int64_t begin = (task - static_cast<int64_t>(output) * chunks) * chunk;
    const int64_t end = begin + chunk < inner.total ? begin + chunk : inner.total;
    const T* const start = x + offset[0];
    if (inner.rank <= 1) {
      const int64_t step = inner.rank == 0 ? 1 : inner.step[0][0];
      if (step == 1 && group >= kWarp) {
        result = join_contiguous<Op, Acc>(start + begin, end - begin, lane, group);
      } else {
        result = join_strided<Op, Acc>(start + begin * step, step, end - begin, lane, group);
      }
    } else {
      for (int64_t first = begin + lane; first < end; first += int64_t{kUnroll} * group) {
        Acc part = static_cast<Acc>(Op::kStart);
#pragma unroll 1
        for (int k = 0; k < kUnroll; ++k) {
          const int64_t i = first + int64_t{k} * group;
          if (i >= end) break;
          int64_t place[1];
          inner.locate_any(i, place);
          part = Op::join(part, Op::term(static_cast<Acc>(start[place[0]])));
        }
        result = Op::join(result, part);
      }
    }
  }
  result = join_group<Op>(result, lane, group);
  if (lane != 0 || !active) return;
  if (chunks == 1) {
    out[offset[1]] = static_cast<Out>(result);
  } else {
    partials[task] = result;
  }
}

// --- sums over rows ----------------------------------------------------------------------------------------

/// How x lies for reduce_columns: for every element of `outer` (x offset, out offset) a matrix whose rows are
/// the inner loops and whose columns are contiguous.
struct Columns {
  Loops<2> outer;
  Loops<1> rows;
  int64_t count, out_step;  ///< of columns
};

/// A block takes lanes * Width columns of one chunk of rows, kThreads / lanes rows at a time. With several
/// chunks the results go to partials [outer, chunks, columns].
template <class Op, int Width, class T, class Acc, class Out>
__global__ void __launch_bounds__(kThreads)
    reduce_columns(const __grid_constant__ Columns columns, uint32_t lanes, int64_t chunk, uint32_t chunks,
                   uint32_t column_blocks, const T* x, Out* out, Acc* partials) {
  const uint32_t lane = threadIdx.x & (lanes - 1), way = threadIdx.x / lanes, ways = kThreads / lanes;
  const uint32_t column_block = blockIdx.x % column_blocks, rest = blockIdx.x / column_blocks;
  const uint32_t chunk_number = rest % chunks, matrix = rest / chunks;
  const int64_t column = (static_cast<int64_t>(column_block) * lanes + lane) * Width;
  const int64_t begin = chunk_number * chunk;
  const int64_t end = begin + chunk < columns.rows.total ? begin + chunk : columns.rows.total;
  int64_t offset[2];
  columns.outer.locate(matrix, offset);

  Acc total[Width];
#pragma unroll
  for (int w = 0; w < Width; ++w) total[w] = static_cast<Acc>(Op::kStart);
  if (column < columns.count) {
    const T* const start = x + offset[0] + column;
    for (int64_t first = begin + way; first < end; first += int64_t{kUnroll} * ways) {
      Acc part[Width];
#pragma unroll
      for (int w = 0; w < Width; ++w) part[w] = static_cast<Acc>(Op::kStart);
      const auto take = [&](int64_t place) {
        const auto pack = *reinterpret_cast<const Pack<T, Width>*>(start + place);
#pragma unroll
        for (int w = 0; w < Width; ++w) part[w] = Op::join(part[w], Op::term(static_cast<Acc>(pack.at[w])));
      };
      if (columns.rows.rank <= 1) {
#pragma unroll
        for (int k = 0; k < kUnroll; ++k) {
          const int64_t row = first + int64_t{k} * ways;
          if (row < end) take(row * columns.rows.step[0][0]);
        }
      } else {
#pragma unroll 1
        for (int k = 0; k < kUnroll; ++k) {
          const int64_t row = first + int64_t{k} * ways;
          if (row >= end) break;
          int64_t place[1];
          columns.rows.locate_any(row, place);
          take(place[0]);
        }
      }
#pragma unroll
      for (int w = 0; w < Width; ++w) total[w] = Op::join(total[w], part[w]);
    }
  }

  __shared__ Acc results[Width][kThreads];
#pragma unroll
  for (int w = 0; w < Width; ++w) results[w][threadIdx.x] = total[w];
  for (uint32_t half = ways / 2; half > 0; half /= 2) {
    __syncthreads();
    if (way < half) {
#pragma unroll
      for (int w = 0; w < Width; ++w) {
        total[w] = Op::join(total[w], results[w][threadIdx.x + half * lanes]);
        results[w][threadIdx.x] = total[w];
      }
    }
  }
  if (way != 0 || column >= columns.count) return;
#pragma unroll
  for (int w = 0; w < Width; ++w) {
    if (chunks == 1) {
      out[offset[1] + (column + w) * columns.out_step] = static_cast<Out>(total[w]);
    } else {
      partials[(static_cast<int64_t>(matrix) * chunks + chunk_number) * columns.count + column + w] =
          total[w];
    }
  }
}

// --- sums over a list --------------------------------------------------------------------------------------

/// partials[first + block] = the sum of squares of a block's range.
template <class T>
__global__ void __launch_bounds__(kThreads)
    sum_squares_of_list(const __grid_constant__ ListPart<1> list, double* partials, int64_t first) {
  const auto range = list.range_of_block();
  const double sum =
      join_group<SumOfSquares>(join_contiguous<SumOfSquares, double>(list.array<const T>(range, 0),
                                                                     range.count, threadIdx.x, kThreads),
                               threadIdx.x, kThreads);
  if (threadIdx.x == 0) partials[first + blockIdx.x] = sum;
}

// --- launches ----------------------------------------------------------------------------------------------

// Results of this many chunks fill the largest devices.
constexpr int64_t kManyBlocks = 2048;

int64_t clamp(int64_t value, int64_t low, int64_t high) {
  if (value > high) value = high;
  return value < low ? low : value;
}

/// The least power of 2 that is not below n.
uint32_t power_of_two(int64_t n) {
  uint32_t power = 1;
  while (power < n) power *= 2;
  return power;
}

/// Elements per chunk where `total` of them are cut into about `chunks` equal ones.
int64_t chunk_of(int64_t total, int64_t chunks, int64_t multiple) {
  return ceil_div(ceil_div(total, chunks), multiple) * multiple;
}

/// The same outputs, for partial results that lie in the order of the loops, `distance` apart.
Loops<2> over_partials(Loops<2> outputs, int64_t distance) {
  for (int loop = 0; loop < outputs.rank; ++loop) {
    outputs.step[loop][0] = distance;
    distance *= outputs.size[loop];
  }
  return outputs;
}

template <class Op, class T, class Acc, class Out>
void launch_lines(const Loops<2>& kept, const Loops<1>& inner, const T* x, Out* out, bool may_cut) {
  constexpr int64_t kLongest = 65536, kShortest = 4096;  // chunks
  const int64_t length = inner.total;
  // About four elements per thread and more, so that the last steps, where few threads are busy, weigh
  // little.
  uint32_t group = kThreads;
  if (length <= 1024) group = power_of_two(clamp(ceil_div(length, 4), 1, kWarp));
  // Outputs side by side in memory: a thread for each.
  if (length <= 64 && kept.rank > 0 && kept.step[0][0] == 1) group = 1;
  int64_t chunks = 1, chunk = length;
  if (may_cut && group == kThreads) {
    chunks = clamp(ceil_div(length, kShortest), 1, ceil_div(kManyBlocks, kept.total));
    chunks = clamp(chunks, ceil_div(length, kLongest), length);
    chunk = chunk_of(length, chunks, 1024);
    chunks = ceil_div(length, chunk);
  }
  Acc* const partials =
      chunks == 1 ? nullptr
                  : static_cast<Acc*>(workspace(sizeof(Acc) * static_cast<size_t>(kept.total * chunks)));
  const auto blocks = static_cast<unsigned>(ceil_div(kept.total * chunks, kThreads / group));
  launch({blocks}, reduce_lines<Op, T, Acc, Out>, kept, inner, group, chunk, chunks, x, out, partials);
  if (chunks == 1) return;
  Loops<1> parts;
  parts.add_axis(chunks, {1});
  parts.prepare();
  launch_lines<typename Op::Again, Acc, Acc, Out>(over_partials(kept, chunks), parts, partials, out, false);
}

template <class Op, int Width, class T, class Acc, class Out>
void launch_columns(const Columns& columns, const T* x, Out* out, bool may_cut) {
  constexpr int64_t kMostChunks = 256, kRowsPerThread = 16;
  const uint32_t lanes = power_of_two(clamp(ceil_div(columns.count, Width), 1, kWarp));
  const int64_t ways = kThreads / lanes, rows = columns.rows.total;
  const int64_t column_blocks = ceil_div(columns.count, int64_t{lanes} * Width);
  int64_t chunks = 1, chunk = rows;
  if (may_cut && rows > 0) {
    const int64_t wanted = ceil_div(kManyBlocks, column_blocks * columns.outer.total);
    chunks = clamp(ceil_div(rows, ways * kRowsPerThread), 1, clamp(wanted, 1, kMostChunks));
    chunk = chunk_of(rows, chunks, ways);
    chunks = ceil_div(rows, chunk);
  }
  const int64_t outer = columns.outer.total;
  Acc* const partials =
      chunks == 1
          ? nullptr
          : static_cast<Acc*>(workspace(sizeof(Acc) * static_cast<size_t>(outer * chunks * columns.count)));
  const auto blocks = static_cast<unsigned>(outer * chunks * column_blocks);
  launch({blocks}, reduce_columns<Op, Width, T, Acc, Out>, columns, lanes, chunk, chunks, column_blocks, x,
         out, partials);
  if (chunks == 1) return;
  Columns again{.outer = over_partials(columns.outer, chunks * columns.count),
                .rows = {},
                .count = columns.count,
                .out_step = columns.out_step};
  again.rows.add_axis(chunks, {columns.count});
  again.rows.prepare();
  launch_columns<typename Op::Again, 1, Acc, Acc, Out>(again, partials, out, false);
}

template <class Op, class T, class Acc, class Out>
void reduce_part(const Loops<2>& kept, const Loops<1>& inner, const T* x, Out* out) {
  const bool few_rows = inner.total <= 64 && kept.total >= 8192;
  if (kept.rank == 0 || kept.step[0][0] != 1 || few_rows) {
    return launch_lines<Op, T, Acc, Out>(kept, inner, x, out, true);
  }
  Columns columns{.outer = {}, .rows = inner, .count = kept.size[0], .out_step = kept.step[0][1]};
  for (int loop = 1; loop < kept.rank; ++loop) columns.outer.add_axis(kept.size[loop], kept.step[loop]);
  columns.outer.prepare();
  if constexpr (sizeof(T) == sizeof(Acc) && sizeof(T) == 4) {
    constexpr int kWidth = 4;
    bool aligned = is_aligned(x, 16) && columns.count % kWidth == 0;
    for (int loop = 0; loop < columns.outer.rank; ++loop) {
      aligned = aligned && columns.outer.step[loop][0] % kWidth == 0;
    }
    for (int loop = 0; loop < inner.rank; ++loop) aligned = aligned && inner.step[loop][0] % kWidth == 0;
    if (aligned) return launch_columns<Op, kWidth, T, Acc, Out>(columns, x, out, true);
  }
  launch_columns<Op, 1, T, Acc, Out>(columns, x, out, true);
}

template <class Op, class T, class Acc, class Out>
void reduce_of(const Array& out_array, const Array& x_array) {
  int order[kMaxRank];
  sort_axes(x_array.strides, order);
  Loops<2> kept;
  Loops<1> inner;
  for (int n = 0; n < x_array.shape.rank(); ++n) {
    const int axis = order[n];
    const int64_t size = x_array.shape[axis], step = x_array.strides[axis];
    if (out_array.shape[axis] == size) {
      kept.add_axis(size, {step, out_array.strides[axis]});
    } else {
      inner.add_axis(size, {step});
    }
  }
  if (inner.total == 0) inner.rank = 0;
  inner.prepare();
  for_each_part(kept, [&](const Loops<2>& part, const int64_t(&start)[2]) {
    reduce_part<Op, T, Acc, Out>(part, inner, x_array.as<const T>() + start[0],
                                 out_array.as<Out>() + start[1]);
  });
}

void sum_of_squares_of(const SumOfSquaresArgs& args, auto tag) {
  using T = decltype(tag);
  constexpr int64_t kRange = 8192;
  int64_t ranges = 0;
  for (const Array& x : args.list) ranges += ceil_div(numel(x.shape), kRange);
  // One number at least, so that there is memory to point at.
  auto* const partials = static_cast<double*>(workspace(sizeof(double) * static_cast<size_t>(ranges + 1)));
  for_each_list_part<1>(
      args.list, kRange, [](const Array& x) { return std::array{x}; },
      [&](const ListPart<1>& part, unsigned blocks, int64_t before) {
        launch({blocks}, sum_squares_of_list<T>, part, partials, before);
      });
  Loops<2> one;
  one.prepare();
  Loops<1> parts;
  parts.add_axis(ranges, {1});
  if (ranges == 0) parts.rank = 0;
  parts.prepare();
  launch_lines<Sum, double, double, double>(one, parts, partials, args.out.as<double>(), false);
}

template <class Op>
void reduce_by_dtype(const Array& out, const Array& x) {
  if (x.dtype == DType::f64) return reduce_of<Op, double, double, double>(out, x);
  if (out.dtype == DType::f64) return reduce_of<Op, float, double, double>(out, x);
  reduce_of<Op, float, float, float>(out, x);
}

}  // namespace

void sum_of_squares(SumOfSquaresArgs args) {
  const DType dtype = args.list.empty() ? DType::f32 : args.list.front().dtype;
  with_float(dtype, [&](auto tag) { sum_of_squares_of(args, tag); });
}

void reduce(ReduceOp op, Array out, Array x) {
  if (numel(out.shape) == 0) return;
  switch (op) {
    case ReduceOp::sum:
      return reduce_by_dtype<Sum>(out, x);
    case ReduceOp::max:
      return reduce_by_dtype<Max>(out, x);
    case ReduceOp::min:
      return reduce_by_dtype<Min>(out, x);
  }
}

}  // namespace halfstep::cuda
