// Matrix products: matmul() on the micro-kernel of tile.h, and the gemm entry, which puts leading axes around
// it.
#include "tensor/cpu/kernels.h"
#include "tensor/cpu/matmul.h"
#include "tensor/cpu/thread_pool.h"
#include "tensor/cpu/tile.h"
#include "tensor/cpu/workspace.h"

namespace halfstep::cpu::inline HALFSTEP_ISA {

template <class T>
void matmul(int64_t m, int64_t n, int64_t k, Matrix<const T> a, Matrix<const T> b, Matrix<T> c, const T* bias,
            T alpha, bool accumulate) {
  constexpr int MR = kTileRows, NR = kTileColumns<T>;
  constexpr int64_t kBlockK = 2048;
  if (m == 0 || n == 0) return;

  // B is read in place where packing would cost more than it brings: few rows of A, and no ragged last panel.
  const bool in_place = b.column == 1 && n % kLanes<T> == 0 && m <= 2 * MR;
  const Workspace memory(in_place ? 0 : sizeof(T) * packed_size<T>(k, n));
  T* const packed = static_cast<T*>(memory.data);
  const int64_t panels = ceil_div(n, NR);
  if (!in_place) {
    parallel_for(panels, max(1, 32768 / (NR * max(k, 1))), [=](int64_t begin, int64_t end) {
      pack_panels(packed + begin * NR * k, k, b.data + begin * NR * b.column, k,
                  min(n, end * NR) - begin * NR, b.row, b.column);
    });
  }

  // Tasks: blocks of columns whose part of B stays in the cache, times groups of row tiles.
  const int64_t row_tiles = ceil_div(m, MR);
  const int64_t block_panels = row_tiles >= 8 ? min(panels, cached_columns<T>(min(k, kBlockK)) / NR) : 1;
  const int64_t column_blocks = ceil_div(panels, block_panels);
  const int64_t work_per_tile = MR * NR * block_panels * max(k, 1);
  const int64_t tiles_per_task = max(1, min(16, 400000 / work_per_tile));
  const int64_t row_tasks = ceil_div(row_tiles, tiles_per_task);
  const int64_t tasks_per_block = max(1, 100000 / (work_per_tile * tiles_per_task));

  parallel_for(row_tasks * column_blocks, tasks_per_block, [=](int64_t begin, int64_t end) {
    Segment<T> segment = {};
    T* rows_of_c[MR] = {};
    for (int64_t task = begin; task < end; ++task) {
      const int64_t column_block = task / row_tasks, row_task = task % row_tasks;
      const int64_t panel_end = min(panels, (column_block + 1) * block_panels);
      const int64_t i_end = min(m, (row_task + 1) * tiles_per_task * MR);
      int64_t k0 = 0;
      do {  // at least once: with k = 0 the sum is empty, but c is written
        segment.run = min(kBlockK, k - k0);
        const bool last = k0 + segment.run == k;
        for (int64_t i = row_task * tiles_per_task * MR; i < i_end; i += MR) {
          const int rows = static_cast<int>(min(MR, i_end - i));
          for (int r = 0; r < rows; ++r) segment.a[r] = a.data + (i + r) * a.row + k0 * a.column;
          for (int64_t panel = column_block * block_panels; panel < panel_end; ++panel) {
            const int64_t j = panel * NR;
            segment.b = in_place ? b.data + k0 * b.row + j : packed + (panel * k + k0) * NR;
            for (int r = 0; r < rows; ++r) rows_of_c[r] = c.data + (i + r) * c.row + j * c.column;
            const Tile<T> tile{.segments = &segment,
                               .count = 1,
                               .a_step = a.column,
                               .b_step = in_place ? b.row : NR,
                               .b_offset = 0,
                               .c = rows_of_c,
                               .c_step = c.column,
                               .columns = static_cast<int>(min(NR, n - j)),
                               .bias = bias && last ? bias + j : nullptr,
                               .alpha = alpha,
                               .accumulate = accumulate || k0 > 0};
            compute_tile_rows(tile, rows);
          }
        }
        k0 += segment.run;
      } while (k0 < k);
    }
  });
}

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
