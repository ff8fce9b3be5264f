// Attention and its gradients without the L x S matrix in memory (Dao et al. 2022, "FlashAttention").
//
// All results are of one form: rows of a matrix O = W C, with weights W that are made from products of rows:
//     out  = softmax(scale q k^T) v
//     dv   = p^T d_out                   p  = exp(scale q k^T - log_sum_exp)
//     dk   = ds^T q                      ds = scale p (d_out v^T - dots),  dots = d_out . out, row by row
//     dq   = ds k
// A block makes a tile of rows of O. It walks over tiles of the other side (keys, or queries) and, for each,
//   1. multiplies its rows with theirs into a tile of scores, in registers: chunks of kChunk of both pass
//      through shared memory, transposed, so that a thread reads neighbouring rows as one piece;
//   2. turns scores into weights, and leaves these in shared memory, transposed again;
//   3. multiplies the weights with the lines of C, which pass through shared memory, into O in registers.
// Forward, weights are relative to the largest score so far of their row, and O shrinks whenever that grows
// ("online softmax"). Backward, the weights are final. No two blocks write to the same place.
//
// A thread of the f32 kernels keeps 8 x 4 scores (4 x 4 for wide heads), and 8 (4) rows of kWidth / 16
// columns of O: 32 multiplications for 3 reads of 16 bytes from shared memory, so arithmetic sets the pace.
// Tiles of 64 rows and 64 others make 20 and more operations for each byte from the caches. Where D exceeds
// the widest O, several blocks share its columns, and each computes the scores by itself.
//
// Scores are kept in units of ln 2, for which the hardware has the exponential.
#include <algorithm>
#include <numbers>
#include <type_traits>

#include "cuda/entries.h"
#include "cuda/runtime.h"
#include "cuda/warp.h"
#include "tensor/formulas.h"

namespace halfstep::cuda {
namespace {

// Threads of a block that stand side by side along the columns of scores and of O.
constexpr int kAcross = 16;
// Elements of the rows that pass through shared memory at a time.
constexpr int kChunk = 32;
// Pieces that a thread has on their way from global to shared memory: enough beside the other blocks of a
// multiprocessor, and few registers.
constexpr int kInFlight = 2;

/// Sizes of a block's tiles. A thread has kM rows, kN scores in each of them, and kO elements of O.
template <class Element, int kDown, int M, int N, int O, int kBlocks>
struct Tiles {
  using T = Element;
  /// Blocks that share a multiprocessor's registers.
  static constexpr int kResident = kBlocks;
  static constexpr int kM = M, kN = N, kO = O;
  static constexpr int kRowThreads = kDown, kThreads = kDown * kAcross;
  static constexpr int kRows = kDown * M, kColumns = kAcross * N, kWidth = kAcross * O;
  /// Lines of C in shared memory: not more than 16 KiB.
  static constexpr int kDepth = std::min<int>(32, (16 << 10) / (kWidth * static_cast<int>(sizeof(T))));
  static constexpr int kWeights = kRows * kColumns;
  /// For the chunks of both sides, and then for the weights in their place.
  static constexpr int kScratch = std::max(kChunk * (kRows + kColumns), kWeights);
  static_assert(kRows % 32 == 0 && kColumns % 32 == 0 && kRows == kColumns && kDepth % 4 == 0);
};
using Narrow = Tiles<float, 8, 8, 4, 2, 4>;
using Middle = Tiles<float, 8, 8, 4, 4, 3>;
using Broad = Tiles<float, 8, 8, 4, 8, 3>;
using Broadest = Tiles<float, 16, 4, 4, 16, 2>;
// The gradients hold two tiles of scores beside O, and take fewer rows for each thread, or more registers.
using BroadGradients = Tiles<float, 16, 4, 4, 8, 2>;
using BroadestGradients = Tiles<float, 16, 4, 4, 16, 1>;
using Doubles = Tiles<double, 16, 2, 2, 4, 2>;

/// One of the arrays [B, L, H, D], with its strides.
template <class T>
struct Heads {
  T* data;
  int64_t example, row, head;
};

/// D, and whether all arrays allow pieces of 4 elements to be moved at once.
struct Width {
  int elements;
  bool wide;
};

/// Rows of one head.
template <class T>
struct Rows {
  T* data;
  int64_t stride;
};
template <class T>
__device__ Rows<T> rows_of(const Heads<T>& a, int64_t example, int64_t head, int64_t first) {
  return {a.data + example * a.example + head * a.head + first * a.row, a.row};
}
template <class T>
__device__ Rows<T> rows_from(const Rows<T>& rows, int64_t first) {
  return {rows.data + first * rows.stride, rows.stride};
}

/// What is left, up to the size of a tile.
__device__ int at_most(int tile, int64_t left) { return left < tile ? static_cast<int>(left) : tile; }

__device__ float power_of_two(float x) { return exp2f(x); }
__device__ double power_of_two(double x) { return exp2(x); }
__device__ float multiply_add(float a, float b, float c) { return fmaf(a, b, c); }
__device__ double multiply_add(double a, double b, double c) { return fma(a, b, c); }

// --- tiles in shared memory --------------------------------------------------------------------------------

/// Transposed tiles hold element `column` of a line at a place that depends on the line: threads that write a
/// column of neighbouring lines, and threads that read a line, both meet different banks. Pieces of 4 stay
/// together.
__device__ int twist_of(int line) { return line & 28; }

/// Elements [column, column + 4) of a row; 0 behind its end, and for a row that does not exist.
template <class T>
__device__ Piece<T, 4> load_four(const T* row, int column, bool exists, const Width& width) {
  Piece<T, 4> piece;
  __builtin_assume(__isGlobal(row));
  const int end = exists ? width.elements : 0;
  if (width.wide && column < end) return load_piece<T, 4>(row + column);
#pragma unroll
  for (int v = 0; v < 4; ++v) piece.at[v] = column + v < end ? row[column + v] : T(0);
  return piece;
}

/// tile[c][row] = rows[row][first + c] for a chunk, twisted; 0 where there is no such element. Eight
/// neighbouring threads read 32 neighbouring elements.
template <class S, int kLine, class T = typename S::T>
__device__ void stage_transposed(T* tile, const Rows<const T>& rows, int count, int first,
                                 const Width& width) {
  constexpr int kGroups = kChunk / 4, kStep = S::kThreads / kGroups, kSteps = kLine / kStep;
  static_assert(kSteps * kStep == kLine);
  constexpr int kBatch = kSteps < kInFlight ? kSteps : kInFlight;
  const int column = static_cast<int>(threadIdx.x) % kGroups * 4;
  int row = static_cast<int>(threadIdx.x) / kGroups;
  T* const to = tile + column * kLine;
  const T* from = rows.data + row * rows.stride;
#pragma unroll 1
  for (int batch = 0; batch < kSteps; batch += kBatch) {
    Piece<T, 4> pieces[kBatch];
#pragma unroll
    for (int s = 0; s < kBatch; ++s, from += kStep * rows.stride) {
      pieces[s] = load_four(from, first + column, row + s * kStep < count, width);
    }
#pragma unroll
    for (int s = 0; s < kBatch; ++s, row += kStep) {
#pragma unroll
      for (int v = 0; v < 4; ++v) to[v * kLine + (row ^ twist_of(column))] = pieces[s].at[v];
    }
  }
}

/// lines[line][c] = rows[line][first + c]; 0 where there is no such element.
template <class S, class T = typename S::T>
__device__ void stage_lines(T* lines, const Rows<const T>& rows, int count, int first, const Width& width) {
  constexpr int kGroups = S::kWidth / 4, kStep = S::kThreads / kGroups, kSteps = S::kDepth / kStep;
  static_assert(kSteps * kStep == S::kDepth);
  constexpr int kBatch = kSteps < kInFlight ? kSteps : kInFlight;
  const int column = static_cast<int>(threadIdx.x) % kGroups * 4;
  int line = static_cast<int>(threadIdx.x) / kGroups;
  const T* from = rows.data + line * rows.stride;
#pragma unroll 1
  for (int batch = 0; batch < kSteps; batch += kBatch) {
    Piece<T, 4> pieces[kBatch];
#pragma unroll
    for (int s = 0; s < kBatch; ++s, from += kStep * rows.stride)
      pieces[s] = load_four(from, first + column, line + s * kStep < count, width);
#pragma unroll
    for (int s = 0; s < kBatch; ++s, line += kStep) store_piece(lines + line * S::kWidth + column, pieces[s]);
  }
}

/// The places of a thread that holds kCount of kThreads * kCount elements: pieces of 16 bytes (or all) in
/// turns, so that neighbouring threads read neighbouring pieces.
template <class T, int kCount, int kThreadsAlong>
struct Share {
  static constexpr int kPiece = std::min(kCount, kWide<T>), kPieces = kCount / kPiece;
  static __device__ int start(int thread, int piece) { return (piece * kThreadsAlong + thread) * kPiece; }
  static __device__ int place(int thread, int i) { return start(thread, i / kPiece) + i % kPiece; }
  /// The elements of one line of a tile.
  static __device__ void load(T (&values)[kCount], const T* line, int thread, int twist) {
#pragma unroll
    for (int p = 0; p < kPieces; ++p) {
      const Piece<T, kPiece> piece = load_piece<T, kPiece>(line + (start(thread, p) ^ twist));
#pragma unroll
      for (int v = 0; v < kPiece; ++v) values[p * kPiece + v] = piece.at[v];
    }
  }
};
template <class S>
using RowShare = Share<typename S::T, S::kM, S::kRowThreads>;
template <class S>
using ColumnShare = Share<typename S::T, S::kN, kAcross>;
template <class S>
using WidthShare = Share<typename S::T, S::kO, kAcross>;

/// sums[m][n] += the products of line l + first of `left` ([..][kRows], twisted) and line l of `right`
/// ([..][kAcross * N], twisted or not), for l < lines, rounded up to 4.
template <class S, bool kTwisted, int N, class T = typename S::T>
__device__ void multiply(T (&sums)[S::kM][N], const T* left, int first, const T* right, int lines) {
  constexpr int kLine = kAcross * N;
  const int across = static_cast<int>(threadIdx.x) % kAcross, down = static_cast<int>(threadIdx.x) / kAcross;
#pragma unroll 1
  for (int line = 0; line < lines; line += 4) {
    const int twist = twist_of(first + line);
#pragma unroll
    for (int l = line; l < line + 4; ++l) {
      T a[S::kM], b[N];
      RowShare<S>::load(a, left + (first + l) * S::kRows, down, twist);
      Share<T, N, kAcross>::load(b, right + l * kLine, across, kTwisted ? twist : 0);
#pragma unroll
      for (int m = 0; m < S::kM; ++m) {
#pragma unroll
        for (int n = 0; n < N; ++n) sums[m][n] = multiply_add(a[m], b[n], sums[m][n]);
      }
    }
  }
}

/// scores += products of `rows` rows of a and `columns` rows of b. Waits before it returns, unless width = 0.
template <class S, class T = typename S::T>
__device__ void add_scores(T (&scores)[S::kM][S::kN], T* scratch, const Rows<const T>& a, int rows,
                           const Rows<const T>& b, int columns, const Width& width) {
  T* const left = scratch;
  T* const right = scratch + kChunk * S::kRows;
#pragma unroll 1
  for (int first = 0; first < width.elements; first += kChunk) {
    stage_transposed<S, S::kRows>(left, a, rows, first, width);
    stage_transposed<S, S::kColumns>(right, b, columns, first, width);
    __syncthreads();
    multiply<S, true, S::kN>(scores, left, 0, right, min(kChunk, width.elements - first));
    __syncthreads();
  }
}

/// The transposed weights [kColumns][kRows], twisted.
template <class S, class T = typename S::T>
__device__ void store_weights(T* tile, const T (&weights)[S::kM][S::kN]) {
  using Down = RowShare<S>;
  const int across = static_cast<int>(threadIdx.x) % kAcross, down = static_cast<int>(threadIdx.x) / kAcross;
#pragma unroll
  for (int n = 0; n < S::kN; ++n) {
    const int line = ColumnShare<S>::place(across, n);
#pragma unroll
    for (int p = 0; p < Down::kPieces; ++p) {
      Piece<T, Down::kPiece> piece;
#pragma unroll
      for (int v = 0; v < Down::kPiece; ++v) piece.at[v] = weights[p * Down::kPiece + v][n];
      store_piece(tile + line * S::kRows + (Down::start(down, p) ^ twist_of(line)), piece);
    }
  }
}

/// out += weights c, for `columns` rows of c from `start` of their elements on. The weights need not be
/// complete on entry: it waits for them. On return their memory is free.
template <class S, class T = typename S::T>
__device__ void add_outputs(T (&out)[S::kM][S::kO], const T* weights, T* lines, const Rows<const T>& c,
                            int columns, int start, const Width& width) {
#pragma unroll 1
  for (int first = 0; first < columns; first += S::kDepth) {
    stage_lines<S>(lines, rows_from(c, first), columns - first, start, width);
    __syncthreads();
    multiply<S, false, S::kO>(out, weights, first, lines, min(S::kDepth, columns - first));
    __syncthreads();
  }
}

/// Writes row m of the thread's part of O to row `row` of `to`, from its element `start` on.
template <class S, class T = typename S::T>
__device__ void store_row(const Rows<T>& to, int row, const T (&values)[S::kO], int start,
                          const Width& width) {
  using Across = WidthShare<S>;
  constexpr int kPiece = Across::kPiece;
  const int across = static_cast<int>(threadIdx.x) % kAcross;
  T* const line = to.data + row * to.stride;
  __builtin_assume(__isGlobal(line));
#pragma unroll
  for (int p = 0; p < Across::kPieces; ++p) {
    const int column = start + Across::start(across, p);
    Piece<T, kPiece> piece;
#pragma unroll
    for (int v = 0; v < kPiece; ++v) piece.at[v] = values[p * kPiece + v];
    if (width.wide) {
      if (column < width.elements) store_piece(line + column, piece);
    } else {
#pragma unroll
      for (int v = 0; v < kPiece; ++v) {
        if (column + v < width.elements) line[column + v] = piece.at[v];
      }
    }
  }
}

/// Sizes that all kernels use.
struct Sizes {
  int64_t batch, heads, length, keys;
  Width width;
  int slabs;                ///< blocks that share the columns of a row of O
  int64_t first_block = 0;  ///< number of the launch's first block among those of the call
};

/// The tile of a block: some rows of one head.
struct Work {
  int64_t pair, example, head, first;  ///< pair: number of the head among all examples
  int start;                           ///< the first column of O
  __device__ Work(const Sizes& s, int64_t item, int64_t tiles, int rows, int slab_width) {
    start = static_cast<int>(item % s.slabs) * slab_width;
    first = item / s.slabs % tiles * rows;
    pair = item / s.slabs / tiles;
    example = pair / s.heads;
    head = pair % s.heads;
  }
};
__host__ __device__ int64_t tiles_of(int64_t rows, int tile) { return (rows + tile - 1) / tile; }

// --- forward -----------------------------------------------------------------------------------------------

template <class T>
struct ForwardArgs {
  Sizes sizes;
  Heads<const T> q, k, v;
  Heads<T> out;
  T* log_sum_exp;
  T factor;  ///< scale / ln 2
};

template <class S, class T = typename S::T>
__global__ void __launch_bounds__(S::kThreads, S::kResident) attention_forward(ForwardArgs<T> args) {
  alignas(16) __shared__ T scratch[S::kScratch];
  alignas(16) __shared__ T lines[S::kDepth * S::kWidth];
  const Sizes& s = args.sizes;
  const int across = static_cast<int>(threadIdx.x) % kAcross, down = static_cast<int>(threadIdx.x) / kAcross;
  const Work work(s, s.first_block + blockIdx.x, tiles_of(s.length, S::kRows), S::kRows, S::kWidth);
  const int rows = at_most(S::kRows, s.length - work.first);
  const Rows<const T> q = rows_of(args.q, work.example, work.head, work.first);
  const Rows<const T> k = rows_of(args.k, work.example, work.head, 0);
  const Rows<const T> v = rows_of(args.v, work.example, work.head, 0);

  // total: of the thread's own columns; their sum is taken at the end.
  T out[S::kM][S::kO] = {}, top[S::kM], total[S::kM];
#pragma unroll
  for (int m = 0; m < S::kM; ++m) {
    top[m] = lowest<T>();
    total[m] = T(0);
  }
  for (int64_t first = 0; first < s.keys; first += S::kColumns) {
    const int columns = at_most(S::kColumns, s.keys - first);
    T scores[S::kM][S::kN] = {};
    add_scores<S>(scores, scratch, q, rows, rows_from(k, first), columns, s.width);
#pragma unroll
    for (int m = 0; m < S::kM; ++m) {
      T grown = lowest<T>();
#pragma unroll
      for (int n = 0; n < S::kN; ++n) {
        const bool exists = ColumnShare<S>::place(across, n) < columns;
        scores[m][n] = exists ? scores[m][n] * args.factor : lowest<T>();
        grown = larger(grown, scores[m][n]);
      }
      grown = larger(top[m], lanes_max<kAcross>(grown));
      // Nothing but -inf so far: weights of 0, where -inf - -inf would be NaN for good.
      const T base = grown == lowest<T>() ? T(0) : grown;
      const T shrink = power_of_two(top[m] - base);
      top[m] = grown;
      T sum = T(0);
#pragma unroll
      for (int n = 0; n < S::kN; ++n) sum += scores[m][n] = power_of_two(scores[m][n] - base);
      total[m] = multiply_add(total[m], shrink, sum);
#pragma unroll
      for (int o = 0; o < S::kO; ++o) out[m][o] *= shrink;
    }
    store_weights<S>(scratch, scores);
    add_outputs<S>(out, scratch, lines, rows_from(v, first), columns, work.start, s.width);
  }

  const Rows<T> to = rows_of(args.out, work.example, work.head, work.first);
#pragma unroll
  for (int m = 0; m < S::kM; ++m) {
    const int row = RowShare<S>::place(down, m);
    const T sum = lanes_sum<kAcross>(total[m]), inverse = T(1) / sum;
#pragma unroll
    for (int o = 0; o < S::kO; ++o) out[m][o] *= inverse;
    if (row >= rows) continue;
    store_row<S>(to, row, out[m], work.start, s.width);
    if (across == 0 && work.start == 0) {
      // Scores of nothing but -inf have no softmax: NaN, as in `out`.
      const bool undefined = sum == T(0) && s.keys > 0;
      const T result = multiply_add(top[m], static_cast<T>(std::numbers::ln2), formulas::log(sum));
      args.log_sum_exp[work.pair * s.length + work.first + row] = undefined ? static_cast<T>(NAN) : result;
    }
  }
}

// --- backward ----------------------------------------------------------------------------------------------

template <class T>
struct BackwardArgs {
  Sizes sizes;
  Heads<const T> q, k, v, out, d_out;
  Heads<T> dq, dk, dv;
  const T* log_sum_exp;
  T* dots;   ///< [B, H, L]
  T factor;  ///< scale / ln 2
  T scale;
};

/// dots = d_out . out; a warp for each row.
template <class T>
__global__ void __launch_bounds__(kThreads) attention_dots(BackwardArgs<T> args) {
  const Sizes& s = args.sizes;
  const int lane = threadIdx.x % kWarp;
  const int64_t step = static_cast<int64_t>(gridDim.x) * (kThreads / kWarp);
  int64_t item = static_cast<int64_t>(blockIdx.x) * (kThreads / kWarp) + threadIdx.x / kWarp;
  for (; item < s.batch * s.heads * s.length; item += step) {
    const int64_t row = item % s.length, pair = item / s.length;
    const T* const out = rows_of(args.out, pair / s.heads, pair % s.heads, row).data;
    const T* const d_out = rows_of(args.d_out, pair / s.heads, pair % s.heads, row).data;
    T sum = T(0);
    for (int d = lane; d < s.width.elements; d += kWarp) sum = multiply_add(out[d], d_out[d], sum);
    sum = lanes_sum(sum);
    if (lane == 0) args.dots[item] = sum;
  }
}

/// The task of a block: p comes from left right^T, the factor of ds from left_slope right_slope^T, and O is
/// made of rows of terms. Left ones start at the block's own rows.
template <class T>
struct Task {
  Rows<const T> left, right, left_slope, right_slope, terms;
  Rows<T> to;
  int64_t others;      ///< rows on the right
  int64_t statistics;  ///< where those of the head's queries start in log_sum_exp and dots
  int64_t first;       ///< of the block's own rows
  int rows, start;     ///< how many these are, and the first column of O
  bool by_query;       ///< own rows are queries
  bool for_values;     ///< weights are p

  /// Tiles of dk come first, then dq and dv, the shorter work, last.
  template <class S>
  __device__ void find(const BackwardArgs<T>& args, S) {
    const Sizes& s = args.sizes;
    const int64_t key_tiles = tiles_of(s.keys, S::kRows), query_tiles = tiles_of(s.length, S::kRows);
    const int64_t key_items = s.batch * s.heads * key_tiles * s.slabs;
    const int64_t query_items = s.batch * s.heads * query_tiles * s.slabs;
    int64_t item = s.first_block + blockIdx.x;
    for_values = item >= key_items + query_items;
    by_query = item >= key_items && !for_values;
    item -= for_values ? key_items + query_items : by_query ? key_items : 0;
    const Work work(s, item, by_query ? query_tiles : key_tiles, S::kRows, S::kWidth);
    others = by_query ? s.keys : s.length;
    statistics = work.pair * s.length;
    first = work.first;
    rows = at_most(S::kRows, (by_query ? s.length : s.keys) - first);
    start = work.start;
    const auto all = [&](const auto& a) { return rows_of(a, work.example, work.head, 0); };
    left = rows_from(by_query ? all(args.q) : all(args.k), first);
    right = by_query ? all(args.k) : all(args.q);
    left_slope = rows_from(by_query ? all(args.d_out) : all(args.v), first);
    right_slope = by_query ? all(args.v) : all(args.d_out);
    terms = for_values ? all(args.d_out) : right;
    to = rows_from(for_values ? all(args.dv) : by_query ? all(args.dq) : all(args.dk), first);
  }
};

/// All three gradients: a tile of one of them for each block.
template <class S, class T = typename S::T>
__global__ void __launch_bounds__(S::kThreads, S::kResident) attention_gradients(BackwardArgs<T> args) {
  alignas(16) __shared__ T scratch[S::kScratch];
  alignas(16) __shared__ T lines[S::kDepth * S::kWidth];
  // Here rather than in registers, which are scarce.
  __shared__ Task<T> task;
  // Of the queries of the present tile: log_sum_exp / ln 2 and dots.
  __shared__ T shifts[S::kColumns], dots[S::kColumns];
  const Sizes& s = args.sizes;
  const int thread = static_cast<int>(threadIdx.x), across = thread % kAcross, down = thread / kAcross;
  if (thread == 0) task.find(args, S());
  __syncthreads();

  T out[S::kM][S::kO] = {};
#pragma unroll 1
  for (int64_t first = 0; first < task.others; first += S::kColumns) {
    const int columns = at_most(S::kColumns, task.others - first);
    if (thread < S::kColumns && !(task.by_query && first > 0)) {
      const int64_t query = (task.by_query ? task.first : first) + thread;
      const bool exists = query < s.length;
      const T log_sum = exists ? args.log_sum_exp[task.statistics + query] : T(0);
      shifts[thread] = log_sum * static_cast<T>(std::numbers::log2e);
      dots[thread] = exists ? args.dots[task.statistics + query] : T(0);
    }
    T weights[S::kM][S::kN] = {}, slopes[S::kM][S::kN] = {};
    add_scores<S>(weights, scratch, task.left, task.rows, rows_from(task.right, first), columns, s.width);
    if (!task.for_values)
      add_scores<S>(slopes, scratch, task.left_slope, task.rows, rows_from(task.right_slope, first), columns,
                    s.width);
    // query(m, n): of a score, in the present tile.
    const auto weigh = [&](auto query) {
#pragma unroll
      for (int m = 0; m < S::kM; ++m) {
#pragma unroll
        for (int n = 0; n < S::kN; ++n) {
          const T p = power_of_two(multiply_add(weights[m][n], args.factor, -shifts[query(m, n)]));
          const T weight = task.for_values ? p : args.scale * p * (slopes[m][n] - dots[query(m, n)]);
          weights[m][n] = ColumnShare<S>::place(across, n) < columns ? weight : T(0);
        }
      }
    };
    if (task.by_query) {
      weigh([down](int m, int) { return RowShare<S>::place(down, m); });
    } else {
      weigh([across](int, int n) { return ColumnShare<S>::place(across, n); });
    }
    store_weights<S>(scratch, weights);
    add_outputs<S>(out, scratch, lines, rows_from(task.terms, first), columns, task.start, s.width);
  }

#pragma unroll
  for (int m = 0; m < S::kM; ++m) {
    const int row = RowShare<S>::place(down, m);
    if (row < task.rows) store_row<S>(task.to, row, out[m], task.start, s.width);
  }
}

// --- launches ----------------------------------------------------------------------------------------------

template <class T>
Heads<T> heads_of(const Array& a) {
  return {a.as<T>(), a.strides[0], a.strides[1], a.strides[2]};
}

/// Whether all rows of the array start at a multiple of 16 bytes.
template <class T>
bool has_wide_rows(const Array& a) {
  bool wide = is_wide_aligned(a.data);
  for (int axis = 0; axis < 3; ++axis) wide = wide && (a.shape[axis] <= 1 || a.strides[axis] % kWide<T> == 0);
  return wide;
}

template <class T>
Sizes sizes_of(const AttentionArgs& args) {
  const bool wide = args.q.shape[3] % 4 == 0 && has_wide_rows<T>(args.q) && has_wide_rows<T>(args.k) &&
                    has_wide_rows<T>(args.v) && has_wide_rows<T>(args.out);
  return {.batch = args.q.shape[0],
          .heads = args.q.shape[2],
          .length = args.q.shape[1],
          .keys = args.k.shape[1],
          .width = {static_cast<int>(args.q.shape[3]), wide},
          .slabs = 1};
}

/// Launches a kernel with any number of blocks; a grid holds less than 2^31.
template <class S, class Args>
void launch_blocks(int64_t blocks, void (*kernel)(Args), Args args) {
  constexpr int64_t kMost = 1 << 30;
  for (int64_t& first = args.sizes.first_block; first < blocks; first += kMost)
    launch({.grid = static_cast<unsigned>(std::min(kMost, blocks - first)), .block = S::kThreads}, kernel,
           args);
}

template <class S, class T = typename S::T>
void forward(ForwardArgs<T> args) {
  Sizes& s = args.sizes;
  s.slabs = static_cast<int>(std::max<int64_t>(1, ceil_div(s.width.elements, S::kWidth)));
  launch_blocks<S>(s.batch * s.heads * tiles_of(s.length, S::kRows) * s.slabs, attention_forward<S>, args);
}

template <class S, class T = typename S::T>
void backward(BackwardArgs<T> args) {
  Sizes& s = args.sizes;
  s.slabs = static_cast<int>(ceil_div(s.width.elements, S::kWidth));
  const int64_t tiles = 2 * tiles_of(s.keys, S::kRows) + tiles_of(s.length, S::kRows);
  launch_blocks<S>(s.batch * s.heads * tiles * s.slabs, attention_gradients<S>, args);
}

/// Calls f(tiles) with those for heads of this width, forward or backward.
template <class T, bool kBackward, class F>
void with_tiles(int width, F f) {
  if constexpr (sizeof(T) == sizeof(double)) return f(Doubles());
  if constexpr (sizeof(T) == sizeof(float)) {
    if (width <= Narrow::kWidth) return f(Narrow());
    if (width <= Middle::kWidth) return f(Middle());
    if (width <= Broad::kWidth) return f(std::conditional_t<kBackward, BroadGradients, Broad>());
    f(std::conditional_t<kBackward, BroadestGradients, Broadest>());
  }
}

template <class T>
void attention_of(const AttentionArgs& args) {
  const Sizes sizes = sizes_of<T>(args);
  if (sizes.batch == 0 || sizes.heads == 0 || sizes.length == 0) return;
  with_tiles<T, false>(sizes.width.elements, [&](auto tiles) {
    forward<decltype(tiles)>({.sizes = sizes,
                              .q = heads_of<const T>(args.q),
                              .k = heads_of<const T>(args.k),
                              .v = heads_of<const T>(args.v),
                              .out = heads_of<T>(args.out),
                              .log_sum_exp = args.log_sum_exp.as<T>(),
                              .factor = static_cast<T>(args.scale * std::numbers::log2e)});
  });
}

template <class T>
void attention_backward_of(const AttentionBackwardArgs& backward_args) {
  const AttentionArgs& args = backward_args.forward;
  Sizes sizes = sizes_of<T>(args);
  if (sizes.batch == 0 || sizes.heads == 0 || sizes.width.elements == 0 || sizes.length + sizes.keys == 0)
    return;
  for (const Array& a : {backward_args.d_out, backward_args.dq, backward_args.dk, backward_args.dv})
    sizes.width.wide = sizes.width.wide && has_wide_rows<T>(a);
  const int64_t queries = sizes.batch * sizes.heads * sizes.length;
  const BackwardArgs<T> all = {
      .sizes = sizes,
      .q = heads_of<const T>(args.q),
      .k = heads_of<const T>(args.k),
      .v = heads_of<const T>(args.v),
      .out = heads_of<const T>(args.out),
      .d_out = heads_of<const T>(backward_args.d_out),
      .dq = heads_of<T>(backward_args.dq),
      .dk = heads_of<T>(backward_args.dk),
      .dv = heads_of<T>(backward_args.dv),
      .log_sum_exp = args.log_sum_exp.as<T>(),
      .dots = queries ? static_cast<T*>(workspace(sizeof(T) * static_cast<size_t>(queries))) : nullptr,
      .factor = static_cast<T>(args.scale * std::numbers::log2e),
      .scale = static_cast<T>(args.scale)};
  if (queries) launch({.grid = static_cast<unsigned>(grid_for(queries * kWarp))}, attention_dots<T>, all);
  with_tiles<T, true>(sizes.width.elements, [&](auto tiles) { backward<decltype(tiles)>(all); });
}

}  // namespace

void attention(AttentionArgs args) {
  args.q.dtype == DType::f32 ? attention_of<float>(args) : attention_of<double>(args);
}

void attention_backward(AttentionBackwardArgs args) {
  args.dq.dtype == DType::f32 ? attention_backward_of<float>(args) : attention_backward_of<double>(args);
}

}  // namespace halfstep::cuda
