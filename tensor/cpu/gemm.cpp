// Matrix products: matmul() on the micro-kernel of tile.h, and the gemm entry, which puts leading axes around
// it.
#include "tensor/cpu/kernels.h"
#include "tensor/cpu/matmul.h"
#include "tensor/cpu/thread_pool.h"
#include "tensor/cpu/tile.h"
#include "tensor/cpu/workspace.h"

namespace halfstep::cpu::inline HALFSTEP_ISA {

namespace {

// The rows of k that are multiplied at a time: their part of a panel of B stays in the first-level cache
// while the rows of A go by.
constexpr int64_t kBlockK = 192;

/// Rows of A as the micro-kernel reads them: element (i, p) is data[i * row + p * step] within a tile, and
/// tiles of kTileRows rows begin at steps of `tile`.
template <class T>
struct RowsOfA {
  const T* data;
  int64_t row, step, tile;
};

/// Elements of the workspace of rows_of_a.
template <class T>
int64_t copied_size(int64_t rows, int64_t k) {
  return ceil_div(rows, kTileRows) * kTileRows * (k + 64 / static_cast<int64_t>(sizeof(T)));
}

/// The [rows, k] block of A at `a`, copied where the micro-kernel would read it slowly: columns that lie
/// apart, or rows that lie a large power of two apart and share few lines of the cache. A transposed matrix
/// is read where it lies if its lines lie an odd number of the cache's lines apart, which spreads them best.
template <class T>
RowsOfA<T> rows_of_a(T* copy, Matrix<const T> a, int64_t rows, int64_t k) {
  constexpr int MR = kTileRows;
  if (a.column == 1 && (a.row * static_cast<int64_t>(sizeof(T)) % 2048 != 0 || rows == 1)) {
    return {a.data, a.row, 1, MR * a.row};
  }
  if (a.row == 1 && a.column * static_cast<int64_t>(sizeof(T)) % 128 == 64) return {a.data, 1, a.column, MR};
  if (a.row == 1) {  // a transposed matrix: its lines are cut into kTileRows elements for each tile
    const int64_t whole = rows / MR * MR;
    for (int64_t p = 0; p < k; ++p) {
      const T* const line = a.data + p * a.column;
      T* const out = copy + p * MR;
      for (int64_t i = 0; i < whole; i += MR) std::memcpy(out + i * k, line + i, MR * sizeof(T));
      for (int64_t i = whole; i < rows; ++i) out[whole * k + i - whole] = line[i];
    }
    return {copy, 1, MR, MR * k};
  }
  const int64_t row = k + 64 / static_cast<int64_t>(sizeof(T));
  for (int64_t i = 0; i < rows; ++i) {
    const T* source = a.data + i * a.row;
    if (a.column == 1) {
      std::memcpy(copy + i * row, source, k * sizeof(T));
    } else {
      for (int64_t p = 0; p < k; ++p) copy[i * row + p] = source[p * a.column];
    }
  }
  return {copy, row, 1, MR * row};
}

/// c [rows, columns of the panels] = alpha * a b + bias (+ c) for a block of k.
template <class T>
struct BlockProduct {
  int64_t rows, k, columns;
  RowsOfA<T> a;
  const T* b;  ///< of the first panel
  int64_t b_step, b_panel;
  Matrix<T> c;
  const T* bias;
  T alpha;
  bool accumulate;
  Ahead<T> ahead[2] = {};  ///< fetched meanwhile
};

template <class T>
void multiply_block(const BlockProduct<T>& block) {
  constexpr int MR = kTileRows, NR = kTileColumns<T>;
  Segment<T> segment = {};
  segment.run = block.k;
  T* rows_of_c[MR] = {};
  // The rows of A that follow are fetched meanwhile, unless they lie far apart.
  const bool together = block.a.tile <= 2 * MR * block.k;
  const int64_t fetch_step = block.a.row == 1 ? block.a.step
                             : together       ? ceil_div(block.a.tile, max(1, block.k))
                                              : 0;
  // What is wanted after this block is spread over its tiles, half of them for each.
  const int64_t half = max(1, ceil_div(block.columns, NR) * ceil_div(block.rows, MR) / 2);
  int64_t done = 0;
  for (int64_t j = 0; j < block.columns; j += NR) {
    segment.b = block.b + j / NR * block.b_panel;
    Tile<T> tile{.segments = &segment,
                 .count = 1,
                 .a_step = block.a.step,
                 .b_step = block.b_step,
                 .b_offset = 0,
                 .c = rows_of_c,
                 .c_step = block.c.column,
                 .columns = static_cast<int>(min(NR, block.columns - j)),
                 .bias = block.bias ? block.bias + j : nullptr,
                 .alpha = block.alpha,
                 .added = block.accumulate ? rows_of_c : nullptr,
                 .even = true,
                 .a_row = block.a.row};
    for (int64_t i = 0; i < block.rows; i += MR) {
      const int rows = static_cast<int>(min(MR, block.rows - i));
      T* const c = block.c.data + i * block.c.row + j * block.c.column;
      for (int r = 0; r < rows; ++r) rows_of_c[r] = c + r * block.c.row;
      segment.a[0] = block.a.data + i / MR * block.a.tile;
      tile.fetch = {segment.a[0] + block.a.tile, fetch_step};
      tile.later = {segment.a[0], 0};
      if (const Ahead<T>& ahead = block.ahead[done < half ? 0 : 1]; ahead.memory) {
        const int64_t per_tile = ceil_div(ahead.elements, half);
        tile.later = {ahead.memory + done % half * per_tile, ceil_div(per_tile, max(1, block.k))};
      }
      ++done;
      compute_tile_rows(tile, rows);
    }
  }
}

/// c = alpha * a b + bias (+ c), block by block of k. b: what the micro-kernel reads, at row 0 and column 0.
template <class T>
void multiply_blocks(int64_t rows, int64_t columns, int64_t k, Matrix<const T> a, const T* b, int64_t b_step,
                     int64_t b_panel, Matrix<T> c, const T* bias, T alpha, bool accumulate,
                     const Ahead<T> (&ahead)[2] = {}) {
  const Workspace copy(sizeof(T) * copied_size<T>(rows, min(kBlockK, k)));
  int64_t p = 0;
  do {
    const int64_t run = min(kBlockK, k - p);
    const Matrix<const T> part{a.data + p * a.column, a.row, a.column};
    multiply_block<T>({.rows = rows,
                       .k = run,
                       .columns = columns,
                       .a = rows_of_a(static_cast<T*>(copy.data), part, rows, run),
                       .b = b + p * b_step,
                       .b_step = b_step,
                       .b_panel = b_panel,
                       .c = c,
                       .bias = p + run == k ? bias : nullptr,
                       .alpha = alpha,
                       .accumulate = accumulate || p > 0,
                       .ahead = {ahead[0], ahead[1]}});
    p += run;
  } while (p < k);
}

}  // namespace

template <class T>
void multiply_packed(int64_t m, int64_t n, int64_t k, Matrix<const T> a, const T* packed, Matrix<T> c,
                     T alpha, bool accumulate, const Ahead<T> (&ahead)[2]) {
  constexpr int NR = kTileColumns<T>;
  // As many rows as leave a copied A in the second-level cache.
  constexpr int64_t kRows = 32 * kTileRows;
  for (int64_t i = 0; i < m; i += kRows) {
    multiply_blocks<T>(min(kRows, m - i), n, k, {a.data + i * a.row, a.row, a.column}, packed, NR, k * NR,
                       {c.data + i * c.row, c.row, c.column}, nullptr, alpha, accumulate, ahead);
  }
}

namespace {

/// A small c and a long sum over the rows of two matrices, as in the gradient of weights: the sum is cut into
/// parts, a task each, that are added up in the end.
template <class T>
class LongSum {
 public:
  LongSum(int64_t m, int64_t n, int64_t k, Matrix<const T> a) : m_(m), n_(n), k_(k) {
    constexpr int64_t kManyParts = 8, kFewParts = 4, kFewElements = 256 * 256;
    const int64_t parts = m * n <= kFewElements && k >= kManyParts * kBlockK ? kManyParts : kFewParts;
    // The partial sums of a larger c are worth their way to memory only for a longer sum. And only where a is
    // transposed: rows of a that belong to examples must not matter to each other, and m, the size of their
    // batch, must not choose the order of their sums.
    const int64_t least = (m * n <= kFewElements ? kFewParts : kManyParts) * kBlockK;
    is_worthwhile_ = a.column != 1 && m * n <= kFewParts * kFewElements && k >= least && m > 2 * kTileRows;
    part_ = ceil_div(k, parts);
    run_ = ceil_div(part_, max(1, ceil_div(part_, kBlockK)));
  }

  /// By shapes and strides alone: the order of the sum depends on it.
  bool is_worthwhile() const { return is_worthwhile_; }

  void run(Matrix<const T> a, Matrix<const T> b, Matrix<T> c, const T* bias, T alpha, bool accumulate) const {
    constexpr int NR = kTileColumns<T>;
    const int64_t parts = ceil_div(k_, part_), size = m_ * n_;
    const Workspace memory(sizeof(T) * parts * size);
    T* const sums = static_cast<T*>(memory.data);
    parallel_for(parts, 1, [=, this](int64_t begin, int64_t end) {
      const Workspace packed_memory(sizeof(T) * packed_size<T>(run_, n_));
      T* const packed = static_cast<T*>(packed_memory.data);
      for (int64_t part = begin; part < end; ++part) {
        const int64_t first = part * part_, last = min(k_, first + part_);
        for (int64_t p = first; p < last; p += run_) {
          const int64_t run = min(run_, last - p);
          // The rows that follow are fetched beside the products, also those of the next part, which a thread
          // goes on with.
          const int64_t next = p + run, rows = min(run_, k_ - next);
          pack_panels(packed, run, b.data + p * b.row, run, n_, b.row, b.column);
          multiply_blocks<T>(
              m_, n_, run, {a.data + p * a.column, a.row, a.column}, packed, NR, run * NR,
              {sums + part * size, n_, 1}, nullptr, T(1), p > first,
              {{a.data + next * a.column, rows * a.column}, {b.data + next * b.row, rows * b.row}});
        }
      }
    });
    parallel_for(m_, max(1, 8192 / n_), [=, this](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        T* const total = sums + i * n_;
        for (int64_t part = 1; part < parts; ++part) {
          const T* const more = total + part * size;
          independent_loop(n_, [=](int64_t j) { total[j] += more[j]; });
        }
        for (int64_t j = 0; j < n_; ++j) {
          const T sum = alpha * total[j] + (bias ? bias[j] : T(0));
          T& out = c.data[i * c.row + j * c.column];
          out = accumulate ? out + sum : sum;
        }
      }
    });
  }

 private:
  int64_t m_, n_, k_, part_, run_;  ///< run_: of k, multiplied at a time
  bool is_worthwhile_;
};

}  // namespace

template <class T>
void matmul(int64_t m, int64_t n, int64_t k, Matrix<const T> a, Matrix<const T> b, Matrix<T> c, const T* bias,
            T alpha, bool accumulate) {
  constexpr int MR = kTileRows, NR = kTileColumns<T>;
  if (m == 0 || n == 0) return;
  if (const LongSum<T> sum(m, n, k, a); sum.is_worthwhile()) return sum.run(a, b, c, bias, alpha, accumulate);

  // B is read in place where packing would cost more than it brings: few rows of A, and no ragged last panel.
  const bool in_place = b.column == 1 && n % kLanes<T> == 0 && m <= 2 * MR;
  const int64_t panels = ceil_div(n, NR), threads = num_threads();
  // A long sum goes in chunks, whose part of B is packed and used while it is in the cache.
  constexpr int64_t kChunkBytes = 1 << 20;
  const int64_t row_bytes = panels * NR * static_cast<int64_t>(sizeof(T));
  const int64_t chunk = min(max(k, 1), max(1, kChunkBytes / row_bytes / kBlockK) * kBlockK);
  const auto pack = [=](T* packed, int64_t first, int64_t last, int64_t k0, int64_t run) {
    pack_panels(packed, run, b.data + k0 * b.row + first * NR * b.column, run, min(n, last * NR) - first * NR,
                b.row, b.column);
  };
  // A block of c from row i and panel `panel` on; `part` is its part of B.
  const auto multiply_part = [=](int64_t i, int64_t rows, int64_t panel, int64_t count, const T* part,
                                 int64_t k0, int64_t run) {
    const int64_t j = panel * NR;
    const bool last = k0 + run == k;
    multiply_blocks<T>(rows, min(n - j, count * NR), run,
                       {a.data + i * a.row + k0 * a.column, a.row, a.column}, part, in_place ? b.row : NR,
                       in_place ? NR : run * NR, {c.data + i * c.row + j * c.column, c.row, c.column},
                       bias && last ? bias + j : nullptr, alpha, accumulate || k0 > 0);
  };

  // Few rows: each thread packs panels of its own, which no other one then asks for: lines that are written
  // by one thread and read by another take longer than the work on them.
  constexpr int64_t kMostRows = 16 * MR, kFewRows = 1024;
  if (!in_place && m <= kFewRows && panels % threads == 0) {
    parallel_for(panels, max(panels / threads, 100000 / (m * NR * max(k, 1))),
                 [=](int64_t begin, int64_t end) {
                   const Workspace memory(sizeof(T) * (end - begin) * NR * chunk);
                   T* const packed = static_cast<T*>(memory.data);
                   int64_t k0 = 0;
                   do {
                     const int64_t run = min(chunk, k - k0);
                     pack(packed, begin, end, k0, run);
                     for (int64_t i = 0; i < m; i += kMostRows) {
                       multiply_part(i, min(kMostRows, m - i), begin, end - begin, packed, k0, run);
                     }
                     k0 += chunk;
                   } while (k0 < k);
                 });
    return;
  }

  const Workspace memory(in_place ? 0 : row_bytes * chunk);
  T* const packed = static_cast<T*>(memory.data);
  // Tasks: blocks of rows times blocks of panels, large enough to be worth a task and to use a packed A
  // often, and small enough that there are some of them for every thread. How c is cut does not change its
  // bits.
  constexpr int64_t kMostPanels = 16;
  const int64_t few_tasks = threads == 1 ? 1 : 2 * threads;
  const int64_t row_tiles = ceil_div(m, MR);
  int64_t block_rows = min(kMostRows, row_tiles * MR), block_panels = min(kMostPanels, panels);
  const auto tasks_of = [&] { return ceil_div(m, block_rows) * ceil_div(panels, block_panels); };
  while (tasks_of() < few_tasks && block_panels > 2) block_panels = ceil_div(block_panels, 2);
  while (tasks_of() < few_tasks && block_rows > 4 * MR) block_rows = ceil_div(block_rows / MR, 2) * MR;
  const int64_t row_blocks = ceil_div(m, block_rows), tasks = tasks_of();
  const int64_t work_per_task = block_rows * block_panels * NR * max(chunk, 1);

  int64_t k0 = 0;
  do {  // at least once: with k = 0 the sum is empty, but c is written
    const int64_t run = min(chunk, k - k0);
    if (!in_place) {
      parallel_for(panels, max(1, 32768 / (NR * max(run, 1))),
                   [=](int64_t begin, int64_t end) { pack(packed + begin * NR * run, begin, end, k0, run); });
    }
    parallel_for(tasks, max(1, 100000 / work_per_task), [=](int64_t begin, int64_t end) {
      for (int64_t task = begin; task < end; ++task) {
        const int64_t i = task % row_blocks * block_rows, panel = task / row_blocks * block_panels;
        const T* const part = in_place ? b.data + k0 * b.row + panel * NR : packed + panel * run * NR;
        multiply_part(i, min(block_rows, m - i), panel, block_panels, part, k0, run);
      }
    });
    k0 += run;
  } while (k0 < k);
}

template void multiply_packed(int64_t, int64_t, int64_t, Matrix<const float>, const float*, Matrix<float>,
                              float, bool, const Ahead<float> (&)[2]);
template void multiply_packed(int64_t, int64_t, int64_t, Matrix<const double>, const double*, Matrix<double>,
                              double, bool, const Ahead<double> (&)[2]);
template void matmul(int64_t, int64_t, int64_t, Matrix<const float>, Matrix<const float>, Matrix<float>,
                     const float*, float, bool);
template void matmul(int64_t, int64_t, int64_t, Matrix<const double>, Matrix<const double>, Matrix<double>,
                     const double*, double, bool);

namespace {

template <class T>
void gemm_of(const GemmArgs& args) {
  const int rank = args.c.shape.rank(), batch_rank = rank - 2;
  const int64_t m = args.c.shape[rank - 2], n = args.c.shape[rank - 1], k = args.a.shape[rank - 1];
  const Array &a = args.a, &b = args.b, &c = args.c;
  const T* bias = args.bias.as<const T>();
  const Workspace bias_memory(bias ? sizeof(T) * n : 0);
  if (bias && args.bias.strides[0] != 1) {
    T* gathered = static_cast<T*>(bias_memory.data);
    for (int64_t j = 0; j < n; ++j) gathered[j] = bias[j * args.bias.strides[0]];
    bias = gathered;
  }
  const T alpha = static_cast<T>(args.alpha);
  const bool accumulate = args.beta != 0;

  int64_t batch = 1;
  bool shared_b = true, joinable = true;  // joinable: the leading axes continue the rows of a and c
  int64_t rows = m;
  for (int axis = batch_rank - 1; axis >= 0; --axis) {
    const int64_t size = c.shape[axis];
    if (size != 1) {
      shared_b = shared_b && b.strides[axis] == 0;
      joinable = joinable && a.strides[axis] == rows * a.strides[rank - 2] &&
                 c.strides[axis] == rows * c.strides[rank - 2];
    }
    rows *= size;
    batch *= size;
  }
  const bool one_product = shared_b && joinable;

  const auto product = [&](int64_t index, int64_t product_rows) {
    int64_t offset_a = 0, offset_b = 0, offset_c = 0;
    for (int axis = batch_rank - 1; axis >= 0; --axis) {
      const int64_t i = index % c.shape[axis];
      index /= c.shape[axis];
      offset_a += i * a.strides[axis];
      offset_b += i * b.strides[axis];
      offset_c += i * c.strides[axis];
    }
    matmul<T>(product_rows, n, k, {a.as<const T>() + offset_a, a.strides[rank - 2], a.strides[rank - 1]},
              {b.as<const T>() + offset_b, b.strides[rank - 2], b.strides[rank - 1]},
              {c.as<T>() + offset_c, c.strides[rank - 2], c.strides[rank - 1]}, bias, alpha, accumulate);
  };
  if (rows == 0) return;
  if (one_product) return product(0, rows);
  if (batch < 8) {  // too few to share out: threads work inside each product
    for (int64_t i = 0; i < batch; ++i) product(i, m);
    return;
  }
  const int64_t grain = max(1, 100000 / max(1, m * n * k));
  parallel_for(batch, grain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) product(i, m);
  });
}

}  // namespace

void gemm(GemmArgs args) {
  if (args.c.dtype == DType::f32) {
    gemm_of<float>(args);
  } else {
    gemm_of<double>(args);
  }
}

}  // namespace halfstep::cpu::inline HALFSTEP_ISA
