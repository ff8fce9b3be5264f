// Elementwise entries. The formulas are those of tensor/formulas.h; here are only the loops around them.
#include "tensor/cpu/kernels.h"
#include "tensor/cpu/thread_pool.h"
#include "tensor/cpu/walk.h"
#include "tensor/formulas.h"

namespace halfstep::cpu::inline HALFSTEP_ISA {
namespace {

// Elements per task: some microseconds of work.
constexpr int64_t kGrain = 16384;

/// out = f(x) element by element.
template <class Out, class In, class F>
void map1(const Array& out_array, const Array& x_array, F f) {
  Out* const out_data = out_array.as<Out>();
  const In* const x_data = x_array.as<const In>();
  const Walk<2> walk = walk_over(out_array, x_array);
  parallel_for(walk.total, kGrain, [&walk, out_data, x_data, f](int64_t begin, int64_t end) {
    walk.for_each_run(begin, end,
                      [out_data, x_data, f](int64_t n, const int64_t* offset, const int64_t* step) {
                        Out* out = out_data + offset[0];
                        const In* x = x_data + offset[1];
                        const int64_t so = step[0], sx = step[1];
                        if (so == 1 && sx == 1) {
                          independent_loop(n, [&](int64_t i) { out[i] = f(x[i]); });
                        } else {
                          for (int64_t i = 0; i < n; ++i) out[i * so] = f(x[i * sx]);
                        }
                      });
  });
}

/// out = f(x, y) element by element. FastBroadcast: with vector loops also for operands that stay the same
/// along a run (each costs compile time for every f).
template <class T, bool FastBroadcast, class F>
void map2(const Array& out_array, const Array& x_array, const Array& y_array, F f) {
  T* const out_data = out_array.as<T>();
  const T* const x_data = x_array.as<const T>();
  const T* const y_data = y_array.as<const T>();
  const Walk<3> walk = walk_over(out_array, x_array, y_array);
  parallel_for(walk.total, kGrain, [&walk, out_data, x_data, y_data, f](int64_t begin, int64_t end) {
    walk.for_each_run(begin, end, [=](int64_t n, const int64_t* offset, const int64_t* step) {
      T* out = out_data + offset[0];
      const T* x = x_data + offset[1];
      const T* y = y_data + offset[2];
      const int64_t so = step[0], sx = step[1], sy = step[2];
      if (so == 1 && sx == 1 && sy == 1) {
        independent_loop(n, [&](int64_t i) { out[i] = f(x[i], y[i]); });
        return;
      }
      if constexpr (FastBroadcast) {
        if (so == 1 && sx == 1 && sy == 0) {
          const T value = *y;
          return independent_loop(n, [&](int64_t i) { out[i] = f(x[i], value); });
        }
        if (so == 1 && sx == 0 && sy == 1) {
          const T value = *x;
          return independent_loop(n, [&](int64_t i) { out[i] = f(value, y[i]); });
        }
      }
      for (int64_t i = 0; i < n; ++i) out[i * so] = f(x[i * sx], y[i * sy]);
    });
  });
}

template <class T>
void where_of(const Array& out_array, const Array& condition_array, const Array& a_array,
              const Array& b_array) {
  T* const out_data = out_array.as<T>();
  const T* const condition_data = condition_array.as<const T>();
  const T* const a_data = a_array.as<const T>();
  const T* const b_data = b_array.as<const T>();
  const Walk<4> walk = walk_over(out_array, condition_array, a_array, b_array);
  parallel_for(walk.total, kGrain,
               [&walk, out_data, condition_data, a_data, b_data](int64_t begin, int64_t end) {
                 walk.for_each_run(begin, end, [=](int64_t n, const int64_t* offset, const int64_t* step) {
                   T* out = out_data + offset[0];
                   const T* condition = condition_data + offset[1];
                   const T* a = a_data + offset[2];
                   const T* b = b_data + offset[3];
                   const int64_t so = step[0], sc = step[1], sa = step[2], sb = step[3];
                   if (so == 1 && sc == 1 && sa == 1 && sb == 1) {
                     independent_loop(n, [&](int64_t i) {
                       const T x = a[i], y = b[i];  // both are read, so that this is a select, not a branch
                       out[i] = condition[i] != T(0) ? x : y;
                     });
                   } else {
                     for (int64_t i = 0; i < n; ++i)
                       out[i * so] = condition[i * sc] != T(0) ? a[i * sa] : b[i * sb];
                   }
                 });
               });
}

template <class T>
void unary_of(UnaryArgs op, const Array& out, const Array& x) {
  formulas::visit_formula(op.op, [&](auto formula) {
    map1<T, T>(out, x, [formula, p0 = op.p0, p1 = op.p1](T v) { return formula(v, p0, p1); });
  });
}

template <class T>
void unary_chain_of(UnaryArgs op, const Array& out, const Array& upstream, const Array& x) {
  formulas::visit_formula(op.op, [&](auto formula) {
    map2<T, false>(out, upstream, x, [formula, p0 = op.p0, p1 = op.p1](T up, T v) {
      return up * formulas::derivative<1>(formula, v, p0, p1);
    });
  });
}

template <class T>
void binary_of(BinaryOp op, double p0, const Array& out, const Array& a, const Array& b) {
  formulas::visit_formula(op, [&](auto formula) {
    map2<T, true>(out, a, b, [formula, p = static_cast<T>(p0)](T x, T y) { return formula(x, y, p); });
  });
}

/// Moves elements of any type of this size.
template <class T>
void move_elements(const Array& out, const Array& in) {
  map1<T, T>(out, in, [](T v) { return v; });
}

template <class T>
void fill_with(const Array& out_array, T value) {
  T* const data = out_array.as<T>();
  const Walk<1> walk = walk_over(out_array);
  parallel_for(walk.total, kGrain, [&walk, data, value](int64_t begin, int64_t end) {
    walk.for_each_run(begin, end, [data, value](int64_t n, const int64_t* offset, const int64_t* step) {
      T* out = data + offset[0];
      if (step[0] == 1) {
        for (int64_t i = 0; i < n; ++i) out[i] = value;
      } else {
        for (int64_t i = 0; i < n; ++i) out[i * step[0]] = value;
      }
    });
  });
}

}  // namespace

void fill(Array out, double value) {
  switch (out.dtype) {
    case DType::f32:
      return fill_with(out, static_cast<float>(value));
    case DType::f64:
      return fill_with(out, value);
    default:
      return reference_backend().fill(out, value);
  }
}

void copy(Array out, Array in) {
  if (out.dtype == in.dtype) {
    switch (out.dtype) {
      case DType::f32:
        return move_elements<uint32_t>(out, in);
      case DType::bf16:
        return move_elements<uint16_t>(out, in);
      case DType::f64:
      case DType::i64:
        return move_elements<uint64_t>(out, in);
    }
  }
  if (out.dtype == DType::f64 && in.dtype == DType::f32)
    return map1<double, float>(out, in, [](float v) { return double{v}; });
  if (out.dtype == DType::f32 && in.dtype == DType::f64) {
    return map1<float, double>(out, in, [](double v) { return static_cast<float>(v); });
  }
  if (out.dtype == DType::f32 && in.dtype == DType::bf16)
    return map1<float, uint16_t>(out, in, [](uint16_t v) { return formulas::from_bf16(v); });
  if (out.dtype == DType::bf16 && in.dtype == DType::f32)
    return map1<uint16_t, float>(out, in, [](float v) { return formulas::to_bf16(v); });
  reference_backend().copy(out, in);
}

void unary(UnaryArgs op, Array out, Array x) {
  // Gradients ask for derivatives through unary_chain; bare ones are left to the plain loops.
  if (op.derivative != 0) return reference_backend().unary(op, out, x);
  x.dtype == DType::f32 ? unary_of<float>(op, out, x) : unary_of<double>(op, out, x);
}

void unary_chain(UnaryArgs op, Array out, Array upstream, Array x) {
  if (op.derivative != 1) return reference_backend().unary_chain(op, out, upstream, x);
  x.dtype == DType::f32 ? unary_chain_of<float>(op, out, upstream, x)
                        : unary_chain_of<double>(op, out, upstream, x);
}

void binary(BinaryOp op, double p0, Array out, Array a, Array b) {
  a.dtype == DType::f32 ? binary_of<float>(op, p0, out, a, b) : binary_of<double>(op, p0, out, a, b);
}

void where(Array out, Array condition, Array a, Array b) {
  a.dtype == DType::f32 ? where_of<float>(out, condition, a, b) : where_of<double>(out, condition, a, b);
}

}  // namespace halfstep::cpu::inline HALFSTEP_ISA
