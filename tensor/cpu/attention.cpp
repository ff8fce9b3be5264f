// Softmax and attention.
#include "tensor/cpu/kernels.h"
#include "tensor/cpu/matmul.h"
#include "tensor/cpu/pack.h"
#include "tensor/cpu/simd.h"
#include "tensor/cpu/thread_pool.h"
#include "tensor/cpu/workspace.h"
#include "tensor/formulas.h"

namespace halfstep::cpu::inline HALFSTEP_ISA {
namespace {

/// A vector whose lane 0 is the fold of all: lanes that lie D apart are joined, then those D / 2 apart.
template <int D, class V, class Op, int... I>
V join_lanes(V v, Op op, Lanes<I...>) {
  return op(v, __builtin_shufflevector(v, v, (I ^ D)...));
}
template <int D, class V, class Op>
V fold_lanes(V v, Op op) {
  if constexpr (D == 0) {
    return v;
  } else {
    constexpr int N = sizeof(V) / sizeof(v[0]);
    return fold_lanes<D / 2>(join_lanes<D>(v, op, typename LanesBelow<N>::type{}), op);
  }
}

/// The fold by `op`, from `start`, of term(x[i], ...) over i < n. The order is fixed: some vectors of partial
/// results side by side, so that they do not wait for each other. Both functions take vectors and numbers.
template <class T, class Term, class Op, class... X>
T fold(int64_t n, T start, Term term, Op op, const X*... x) {
  constexpr int L = kLanes<T>, kWays = 4;
  Vector<T> ways[kWays];
  for (Vector<T>& way : ways) way = Vector<T>{} + start;
  int64_t i = 0;
  for (; i + kWays * L <= n; i += kWays * L) {
#pragma GCC unroll 4
    for (int w = 0; w < kWays; ++w) ways[w] = op(ways[w], term(load(x + i + w * L)...));
  }
  for (; i + L <= n; i += L) ways[0] = op(ways[0], term(load(x + i)...));
  T result = fold_lanes<L / 2>(op(op(ways[0], ways[1]), op(ways[2], ways[3])), op)[0];
  for (; i < n; ++i) result = op(result, term(x[i]...));
  return result;
}

template <class T>
T sum(int64_t n, const T* x) {
  return fold(
      n, T(0), [](auto v) { return v; }, [](auto u, auto v) { return u + v; }, x);
}
template <class T>
T dot(int64_t n, const T* x, const T* y) {
  return fold(
      n, T(0), [](auto u, auto v) { return u * v; }, [](auto u, auto v) { return u + v; }, x, y);
}
/// NaN does not matter here: it comes back through the exponentials.
template <class T>
T largest(int64_t n, const T* x) {
  return fold(
      n, static_cast<T>(-HUGE_VAL), [](auto v) { return v; }, [](auto u, auto v) { return u < v ? v : u; },
      x);
}

/// y = exp(x - shift), also in place.
template <class T>
void shifted_exp(int64_t n, T* y, const T* x, T shift) {
  independent_loop(n, [&](int64_t i) { y[i] = formulas::exp(x[i] - shift); });
}

template <class T>
void scale_row(int64_t n, T* y, T factor) {
  for (int64_t i = 0; i < n; ++i) y[i] *= factor;
}

/// Rows of the last axis, shared out over the threads.
template <class F>
void for_each_row(const Array& x, F row) {
  const int64_t n = x.shape.back(), rows = n ? numel(x.shape) / n : 0;
  parallel_for(rows, max(1, 8192 / max(1, n)), [=](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) row(r * n, n);
  });
}

template <class T>
void softmax_of(const Array& y_array, const Array& x_array) {
  T* const y_data = y_array.as<T>();
  const T* const x_data = x_array.as<const T>();
  for_each_row(x_array, [=](int64_t offset, int64_t n) {
    const T* x = x_data + offset;
    T* y = y_data + offset;
    shifted_exp(n, y, x, largest(n, x));
    scale_row(n, y, T(1) / sum(n, y));
  });
}

template <class T>
void softmax_backward_of(const Array& dx_array, const Array& dy_array, const Array& y_array) {
  T* const dx_data = dx_array.as<T>();
  const T* const dy_data = dy_array.as<const T>();
  const T* const y_data = y_array.as<const T>();
  for_each_row(y_array, [=](int64_t offset, int64_t n) {
    const T *dy = dy_data + offset, *y = y_data + offset;
    T* dx = dx_data + offset;
    const T mean = dot(n, dy, y);
    independent_loop(n, [&](int64_t i) { dx[i] = y[i] * (dy[i] - mean); });
  });
}

// --- attention ---------------------------------------------------------------------------------------------

// Queries whose scores are held at a time.
constexpr int64_t kQueries = 96, kQueriesBackward = 132;

/// From row to row of the scores: an odd number of the cache's lines, so that columns do not share few of
/// them.
template <class T>
int64_t score_row(int64_t keys) {
  constexpr int64_t kLine = 64 / sizeof(T);
  return (ceil_div(keys, kLine) | 1) * kLine;
}

/// The matrix [rows, D] of one head of one example.
template <class T>
Matrix<T> head(const Array& a, int64_t example, int64_t h) {
  return {a.as<T>() + example * a.strides[0] + h * a.strides[2], a.strides[1], 1};
}
template <class T>
Matrix<T> transposed(Matrix<T> m) {
  return {m.data, m.column, m.row};
}
template <class T>
Matrix<T> rows_from(Matrix<T> m, int64_t row) {
  return {m.data + row * m.row, m.row, m.column};
}
template <class T>
Matrix<const T> read(Matrix<T> m) {
  return {m.data, m.row, m.column};
}

struct HeadSizes {
  int64_t length, keys, width;
};
HeadSizes sizes_of(const AttentionArgs& args) { return {args.q.shape[1], args.k.shape[1], args.q.shape[3]}; }
int64_t heads_of(const AttentionArgs& args) { return args.q.shape[0] * args.q.shape[2]; }

/// The scratch memory of a head, in parts that follow each other.
template <class T>
class Scratch {
 public:
  explicit Scratch(T* memory) : next_(memory) {}
  T* take(int64_t elements) { return (next_ += elements) - elements; }
  /// b [k, n] as multiply_packed wants it.
  const T* pack(int64_t k, int64_t n, Matrix<const T> b) {
    T* const packed = take(packed_size<T>(k, n));
    pack_panels(packed, k, b.data, k, n, b.row, b.column);
    return packed;
  }

 private:
  T* next_;
};

template <class T>
int64_t forward_scratch(const HeadSizes& s) {
  return packed_size<T>(s.width, s.keys) + packed_size<T>(s.keys, s.width) + kQueries * score_row<T>(s.keys);
}

/// A part, of `parts`, of the matrix that the example after this one has for a head, where its rows lie
/// together: to be fetched meanwhile.
template <class T>
Ahead<T> part_of_next(const Array& a, int64_t example, int64_t h, int64_t part, int64_t parts) {
  const int64_t rows = a.shape[1], width = a.shape[3];
  if (example + 1 == a.shape[0] || a.strides[1] != width) return {};
  const int64_t first = part * rows / parts, last = (part + 1) * rows / parts;
  return {head<const T>(a, example + 1, h).data + first * width, (last - first) * width};
}

/// Queries [first, last) of a head.
template <class T>
void attention_head(const AttentionArgs& args, const HeadSizes& s, int64_t example, int64_t h, int64_t first,
                    int64_t last, T* lse, Scratch<T> scratch) {
  const Matrix<const T> q = head<const T>(args.q, example, h), k = head<const T>(args.k, example, h),
                        v = head<const T>(args.v, example, h);
  const Matrix<T> out = head<T>(args.out, example, h);
  const T* const k_transposed = scratch.pack(s.width, s.keys, transposed(k));
  const T* const values = scratch.pack(s.keys, s.width, v);
  const int64_t score = score_row<T>(s.keys);
  const Matrix<T> weights{scratch.take(kQueries * score), score, 1};
  for (int64_t i = first; i < last; i += kQueries) {
    const int64_t n = min(kQueries, last - i);
    const auto fetched = [&](const Array& a) {
      return part_of_next<T>(a, example, h, (i - first) / kQueries, ceil_div(last - first, kQueries));
    };
    multiply_packed<T>(n, s.keys, s.width, rows_from(q, i), k_transposed, weights, static_cast<T>(args.scale),
                       false, {fetched(args.k), fetched(args.v)});
    for (int64_t r = 0; r < n; ++r) {
      T* row = weights.data + r * score;
      const T top = largest(s.keys, row);
      shifted_exp(s.keys, row, row, top);
      const T total = sum(s.keys, row);
      scale_row(s.keys, row, T(1) / total);
      lse[i + r] = top + formulas::log(total);
    }
    multiply_packed<T>(n, s.width, s.keys, read(weights), values, rows_from(out, i), T(1), false,
                       {fetched(args.q)});
  }
}

template <class T>
int64_t backward_scratch(const HeadSizes& s) {
  return 2 * packed_size<T>(s.width, s.keys) + packed_size<T>(s.keys, s.width) +
         2 * packed_size<T>(kQueriesBackward, s.width) + 2 * kQueriesBackward * score_row<T>(s.keys);
}

/// With p = exp(scale q k^T - lse): dv = p^T d_out, dp = d_out v^T, ds = scale p (dp - d_out . out), dq = ds
/// k, dk = ds^T q.
template <class T>
void attention_head_backward(const AttentionBackwardArgs& args, const HeadSizes& s, int64_t example,
                             int64_t h, const T* lse, Scratch<T> scratch) {
  const AttentionArgs& f = args.forward;
  const Matrix<const T> q = head<const T>(f.q, example, h), k = head<const T>(f.k, example, h),
                        v = head<const T>(f.v, example, h), out = head<const T>(f.out, example, h),
                        d_out = head<const T>(args.d_out, example, h);
  const Matrix<T> dq = head<T>(args.dq, example, h), dk = head<T>(args.dk, example, h),
                  dv = head<T>(args.dv, example, h);
  const T* const k_transposed = scratch.pack(s.width, s.keys, transposed(k));
  const T* const v_transposed = scratch.pack(s.width, s.keys, transposed(v));
  const T* const keys = scratch.pack(s.keys, s.width, k);
  const int64_t score = score_row<T>(s.keys);
  const Matrix<T> p{scratch.take(kQueriesBackward * score), score, 1},
      ds{scratch.take(kQueriesBackward * score), score, 1};
  const T scale = static_cast<T>(f.scale);
  for (int64_t i = 0; i < s.length; i += kQueriesBackward) {
    const int64_t n = min(kQueriesBackward, s.length - i);
    const bool accumulate = i > 0;
    const Matrix<const T> q_rows = rows_from(q, i), d_out_rows = rows_from(d_out, i);
    Scratch<T> rest = scratch;
    const T* const q_packed = rest.pack(n, s.width, q_rows);
    const T* const d_out_packed = rest.pack(n, s.width, d_out_rows);
    multiply_packed<T>(n, s.keys, s.width, q_rows, k_transposed, p, scale, false);
    multiply_packed<T>(n, s.keys, s.width, d_out_rows, v_transposed, ds, T(1), false);
    for (int64_t r = 0; r < n; ++r) {
      T* p_row = p.data + r * score;
      T* ds_row = ds.data + r * score;
      shifted_exp(s.keys, p_row, p_row, lse[i + r]);
      const T mean = dot(s.width, rows_from(d_out, i + r).data, rows_from(out, i + r).data);
      for (int64_t j = 0; j < s.keys; ++j) ds_row[j] = scale * p_row[j] * (ds_row[j] - mean);
    }
    const auto fetched = [&](const Array& a) {
      return part_of_next<T>(a, example, h, i / kQueriesBackward, ceil_div(s.length, kQueriesBackward));
    };
    multiply_packed<T>(s.keys, s.width, n, transposed(read(p)), d_out_packed, dv, T(1), accumulate);
    multiply_packed<T>(n, s.width, s.keys, read(ds), keys, rows_from(dq, i), T(1), false, {fetched(f.k)});
    multiply_packed<T>(s.keys, s.width, n, transposed(read(ds)), q_packed, dk, T(1), accumulate,
                       {fetched(f.v)});
  }
}

/// Calls one_head(sizes, task, log_sum_exp row, scratch) for all tasks: `parts` for each head, the heads of
/// an example and the examples one after the other.
template <class T, class F>
void for_each_head(const AttentionArgs& args, int64_t parts, int64_t (*scratch_size)(const HeadSizes&),
                   F one_head) {
  const HeadSizes s = sizes_of(args);
  T* const lse = args.log_sum_exp.as<T>();
  parallel_for(heads_of(args) * parts, max(1, 32768 / max(1, s.length * s.keys * s.width / parts)),
               [=](int64_t begin, int64_t end) {
                 const Workspace memory(sizeof(T) * scratch_size(s));
                 for (int64_t task = begin; task < end; ++task) {
                   one_head(s, task, lse + task / parts * s.length, Scratch<T>(static_cast<T*>(memory.data)));
                 }
               });
}

template <class T>
void attention_of(const AttentionArgs& args) {
  // Few heads are cut into blocks of queries, so that there is work for some threads.
  constexpr int64_t kFewHeads = 4;
  const int64_t heads = args.q.shape[2], blocks = max(1, ceil_div(args.q.shape[1], kQueries));
  const int64_t parts = heads_of(args) < kFewHeads ? blocks : 1;
  for_each_head<T>(args, parts, forward_scratch<T>,
                   [&args, heads, parts](const HeadSizes& s, int64_t task, T* lse, Scratch<T> scratch) {
                     const int64_t head = task / parts, part = task % parts;
                     const int64_t rows = parts == 1 ? s.length : kQueries;
                     attention_head<T>(args, s, head / heads, head % heads, part * rows,
                                       min(s.length, (part + 1) * rows), lse, scratch);
                   });
}

template <class T>
void attention_backward_of(const AttentionBackwardArgs& args) {
  const int64_t heads = args.forward.q.shape[2];
  for_each_head<T>(args.forward, 1, backward_scratch<T>,
                   [&args, heads](const HeadSizes& s, int64_t head, T* lse, Scratch<T> scratch) {
                     attention_head_backward<T>(args, s, head / heads, head % heads, lse, scratch);
                   });
}

}  // namespace

void softmax(Array y, Array x) { x.dtype == DType::f32 ? softmax_of<float>(y, x) : softmax_of<double>(y, x); }

void softmax_backward(Array dx, Array dy, Array y) {
  y.dtype == DType::f32 ? softmax_backward_of<float>(dx, dy, y) : softmax_backward_of<double>(dx, dy, y);
}

void attention(AttentionArgs args) {
  args.q.dtype == DType::f32 ? attention_of<float>(args) : attention_of<double>(args);
}

void attention_backward(AttentionBackwardArgs args) {
  args.dq.dtype == DType::f32 ? attention_backward_of<float>(args) : attention_backward_of<double>(args);
}

}  // namespace halfstep::cpu::inline HALFSTEP_ISA
