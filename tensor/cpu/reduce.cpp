// Sums and maxima over axes. Sums accumulate in double, in blocks fixed by the shape.
#include <type_traits>

#include "tensor/cpu/column_sums.h"
#include "tensor/cpu/kernels.h"
#include "tensor/cpu/lists.h"
#include "tensor/cpu/thread_pool.h"
#include "tensor/cpu/walk.h"
#include "tensor/cpu/workspace.h"
#include "tensor/formulas.h"

namespace halfstep::cpu::inline HALFSTEP_ISA {
namespace {

constexpr int64_t kBlock = 32768;  // elements that one task reduces
constexpr int64_t kRow = 512;      // accumulators of one task
constexpr int kWays = 16;          // independent partial results along a contiguous run

/// Reductions of the elements themselves.
struct OfElements {
  template <class V>
  static V term(V x) {
    return x;
  }
};
// What joins two results, and where that starts.
struct Sum {
  static constexpr double kStart = 0;
  double operator()(double a, double b) const { return a + b; }
};
struct SumOf : Sum, OfElements {};
struct SumOfSquares : Sum {
  template <class V>
  static V term(V x) {
    return x * x;
  }
};
struct MaxOf : OfElements {
  static constexpr double kStart = -HUGE_VAL;
  double operator()(double a, double b) const { return formulas::Maximum{}(a, b, 0.0); }
};
struct MinOf : OfElements {
  static constexpr double kStart = HUGE_VAL;
  double operator()(double a, double b) const { return formulas::Minimum{}(a, b, 0.0); }
};
template <class Op>
constexpr bool kIsSum = std::is_base_of_v<Sum, Op>;

/// The axes of x, sorted into three nests: for every output of `outer` (x offset, out offset), reduce over
/// `inner` (x offset) rows of `row` contiguous outputs. row is 1 with steps 0 where no kept axis is
/// contiguous in x.
struct Nest {
  Walk<2> outer;
  Walk<1> inner;
  int64_t row = 1, row_out_step = 0;
};

Nest nest_of(const Array& out, const Array& x) {
  Nest nest;
  int row_axis = -1;
  for (int axis = x.shape.rank() - 1; axis >= 0; --axis) {
    const bool kept = x.shape[axis] == out.shape[axis];
    if (!kept) {
      nest.inner.add_axis(x.shape[axis], {x.strides[axis]});
      continue;
    }
    const bool first = row_axis < 0 && x.strides[axis] == 1 && x.shape[axis] > 1;
    // Contiguous kept axes further out lengthen the row.
    const bool longer = row_axis >= 0 && x.strides[axis] == nest.row &&
                        out.strides[axis] == nest.row * nest.row_out_step && row_axis == axis + 1;
    if (first || longer) {
      if (first) nest.row_out_step = out.strides[axis];
      nest.row *= x.shape[axis];
      row_axis = axis;
    } else {
      nest.outer.add_axis(x.shape[axis], {x.strides[axis], out.strides[axis]});
    }
  }
  return nest;
}

/// acc[0 .. count) <- the rows x + offset for elements [begin, end) of inner.
template <class Op, class T>
requires kIsSum<Op>
void reduce_rows(double* acc, int64_t count, const T* x, const Walk<1>& inner, int64_t begin, int64_t end) {
  inner.for_each_run(begin, end, [&](int64_t n, const int64_t* offset, const int64_t* step) {
    add_column_sums<1>(
        {acc}, n, count, step[0], [](int64_t, Vector<double> v) { return Terms<1>{{Op::term(v)}}; },
        x + offset[0]);
  });
}
/// The same for extrema, four rows at a time.
template <class Op, class T>
requires(!kIsSum<Op>) void reduce_rows(double* acc, int64_t count, const T* x, const Walk<1>& inner,
                                       int64_t begin, int64_t end) {
  const Op op;
  const T* rows[4];
  int held = 0;
  inner.for_each_run(begin, end, [&](int64_t n, const int64_t* offset, const int64_t* step) {
    for (int64_t r = 0; r < n; ++r) {
      rows[held++] = x + offset[0] + r * step[0];
      if (held < 4) continue;
      held = 0;
      const T *r0 = rows[0], *r1 = rows[1], *r2 = rows[2], *r3 = rows[3];
      independent_loop(count,
                       [&](int64_t i) { acc[i] = op(acc[i], op(op(r0[i], r1[i]), op(r2[i], r3[i]))); });
    }
  });
  for (int r = 0; r < held; ++r) {
    const T* row = rows[r];
    independent_loop(count, [&](int64_t i) { acc[i] = op(acc[i], row[i]); });
  }
}

/// The same with a single output: kWays partial results along each run.
template <class Op, class T>
double reduce_run(const T* x, const Walk<1>& inner, int64_t begin, int64_t end) {
  const Op op;
  double ways[kWays];
  for (double& way : ways) way = Op::kStart;
  inner.for_each_run(begin, end, [&ways, x, op](int64_t n, const int64_t* offset, const int64_t* step) {
    const T* p = x + offset[0];
    const int64_t s = step[0];
    int64_t i = 0;
    if (s == 1) {
      for (; i + kWays <= n; i += kWays) {
        // A page ahead: the processor's own prefetching stops at its end.
        constexpr int64_t kLine = 64 / sizeof(T), kPage = 4096 / sizeof(T);
        for (int64_t e = 0; e < kWays; e += kLine) __builtin_prefetch(p + i + kPage + e);
        for (int w = 0; w < kWays; ++w) ways[w] = op(ways[w], Op::term(double{p[i + w]}));
      }
    }
    for (int w = 0; i < n; ++i, w = (w + 1) % kWays) ways[w] = op(ways[w], Op::term(double{p[i * s]}));
  });
  double result = Op::kStart;
  for (double way : ways) result = op(result, way);
  return result;
}

template <class Op, class T, class Out>
void reduce_of(const Array& out_array, const Array& x_array) {
  const Nest nest = nest_of(out_array, x_array);
  const T* const x = x_array.as<const T>();
  Out* const out = out_array.as<Out>();
  const int64_t columns = min(nest.row, kRow), column_blocks = ceil_div(nest.row, kRow);
  const int64_t block = max(4, kBlock / max(1, columns));
  const int64_t blocks = max(1, ceil_div(nest.inner.total, block));
  const int64_t tasks = nest.outer.total * blocks * column_blocks;
  const int64_t per_task = max(1, min(block, nest.inner.total) * columns);
  // Several blocks per output: each leaves its partial results here, which are combined in order at the end.
  const Workspace memory(blocks > 1 ? sizeof(double) * nest.outer.total * blocks * nest.row : 0);
  double* const partials = static_cast<double*>(memory.data);

  parallel_for(
      tasks, max(1, kBlock / per_task),
      [&nest, x, out, column_blocks, block, blocks, partials](int64_t begin, int64_t end) {
        alignas(64) double acc[kRow];
        const auto reduce_block = [&](const T* start, int64_t count, int64_t b) {
          const int64_t first = b * block, last = min(nest.inner.total, first + block);
          if (nest.row == 1) {
            acc[0] = reduce_run<Op>(start, nest.inner, first, last);
          } else {
            for (int64_t i = 0; i < count; ++i) acc[i] = Op::kStart;
            reduce_rows<Op>(acc, count, start, nest.inner, first, last);
          }
        };
        const auto finish = [&](Out* y, int64_t count) {
          const int64_t step = nest.row_out_step;
          if (step == 1) {
            for (int64_t i = 0; i < count; ++i) y[i] = static_cast<Out>(acc[i]);
          } else {
            for (int64_t i = 0; i < count; ++i) y[i * step] = static_cast<Out>(acc[i]);
          }
        };
        if (blocks == 1 &&
            column_blocks == 1) {  // a task per output: many small ones, walked without divisions
          nest.outer.for_each_run(begin, end, [&](int64_t n, const int64_t* offset, const int64_t* step) {
            for (int64_t i = 0; i < n; ++i) {
              reduce_block(x + offset[0] + i * step[0], nest.row, 0);
              finish(out + offset[1] + i * step[1], nest.row);
            }
          });
          return;
        }
        for (int64_t task = begin; task < end; ++task) {
          const int64_t column = task % column_blocks * kRow, count = min(kRow, nest.row - column);
          const int64_t b = task / column_blocks % blocks, o = task / column_blocks / blocks;
          int64_t offset[2];
          nest.outer.locate(o, offset);
          reduce_block(x + offset[0] + column, count, b);
          if (blocks > 1) {
            std::memcpy(partials + (o * blocks + b) * nest.row + column, acc, sizeof(double) * count);
          } else {
            finish(out + offset[1] + column * nest.row_out_step, count);
          }
        }
      });
  if (blocks == 1) return;
  parallel_for(nest.outer.total, max(1, kBlock / (blocks * nest.row)),
               [&nest, out, blocks, partials](int64_t begin, int64_t end) {
                 const Op op;
                 for (int64_t o = begin; o < end; ++o) {
                   int64_t offset[2];
                   nest.outer.locate(o, offset);
                   for (int64_t i = 0; i < nest.row; ++i) {
                     double result = Op::kStart;
                     for (int64_t b = 0; b < blocks; ++b)
                       result = op(result, partials[(o * blocks + b) * nest.row + i]);
                     out[offset[1] + i * nest.row_out_step] = static_cast<Out>(result);
                   }
                 }
               });
}

template <class Op>
void reduce_by_dtype(const Array& out, const Array& x) {
  if (x.dtype == DType::f64) return reduce_of<Op, double, double>(out, x);
  if (out.dtype == DType::f64) return reduce_of<Op, float, double>(out, x);
  reduce_of<Op, float, float>(out, x);
}

template <class T>
void sum_of_squares_of(const SumOfSquaresArgs& args) {
  const ListBlocks blocks(args.list.data(), static_cast<int64_t>(args.list.size()),
                          [](const Array& x) { return numel(x.shape); });
  const Workspace memory(sizeof(double) * static_cast<size_t>(blocks.count()));
  double* const partials = static_cast<double*>(memory.data);
  for (int64_t b = 0; b < blocks.count(); ++b) partials[b] = 0;
  blocks.for_each([=](int64_t block, const Array& x, int64_t begin, int64_t end) {
    Walk<1> all;
    all.add_axis(numel(x.shape), {1});
    partials[block] += reduce_run<SumOfSquares>(x.as<const T>(), all, begin, end);
  });
  double sum = 0;
  for (int64_t b = 0; b < blocks.count(); ++b) sum += partials[b];
  *args.out.as<double>() = sum;
}

}  // namespace

void sum_of_squares(SumOfSquaresArgs args) {
  const bool single = args.list.empty() || args.list.front().dtype == DType::f32;
  single ? sum_of_squares_of<float>(args) : sum_of_squares_of<double>(args);
}

void reduce(ReduceOp op, Array out, Array x) {
  switch (op) {
    case ReduceOp::sum:
      return reduce_by_dtype<SumOf>(out, x);
    case ReduceOp::max:
      return reduce_by_dtype<MaxOf>(out, x);
    case ReduceOp::min:
      return reduce_by_dtype<MinOf>(out, x);
  }
}

}  // namespace halfstep::cpu::inline HALFSTEP_ISA
