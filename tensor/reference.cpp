// The reference backend: every entry of the table as the plainest loops that define it. It is the oracle that
// all other backends are tested against, so it is written for reading; sums run in double.
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <numeric>
#include <vector>

#include "tensor/backend.h"
#include "tensor/bf16_entries.h"
#include "tensor/error.h"
#include "tensor/formulas.h"
#include "tensor/philox.h"

namespace halfstep {
namespace {

// --- helpers -----------------------------------------------------------------------------------------------

/// Calls f(T{}) with the C++ type of a floating dtype.
template <class F>
void with_float(DType dtype, F&& f) {
  if (dtype == DType::f32) return f(float{});
  if (dtype == DType::f64) return f(double{});
  fail("reference", "expected f32 or f64, got {}", name_of(dtype));
}

/// The memory offset (in elements) of the n-th element in row-major order.
int64_t offset_of(const Array& a, int64_t n) {
  int64_t offset = 0;
  for (int i = a.shape.rank() - 1; i >= 0; --i) {
    offset += n % a.shape[i] * a.strides[i];
    n /= a.shape[i];
  }
  return offset;
}

template <class T>
T& at(const Array& a, int64_t n) {
  return a.as<T>()[a.contiguous() ? n : offset_of(a, n)];
}

// --- memory ------------------------------------------------------------------------------------------------

void* allocate(size_t bytes) { return std::aligned_alloc(64, (bytes + 63) / 64 * 64); }
void release(void* memory, size_t) { std::free(memory); }
void upload(void* device, const void* host, size_t bytes) {
  if (bytes) std::memcpy(device, host, bytes);
}
void download(void* host, const void* device, size_t bytes) {
  if (bytes) std::memcpy(host, device, bytes);
}
void synchronize() {}

// --- elementwise -------------------------------------------------------------------------------------------

/// Calls f(load, store): how a dtype is read and written as a number of its own precision.
template <class F>
void with_element(DType dtype, F&& f) {
  switch (dtype) {
    case DType::f32:
      return f(
          float{}, [](float v) { return v; }, [](auto v) { return static_cast<float>(v); });
    case DType::f64:
      return f(
          double{}, [](double v) { return v; }, [](auto v) { return static_cast<double>(v); });
    case DType::i64:
      return f(
          int64_t{}, [](int64_t v) { return v; }, [](auto v) { return static_cast<int64_t>(v); });
    case DType::bf16:
      return f(
          uint16_t{}, [](uint16_t v) { return formulas::from_bf16(v); },
          [](auto v) { return formulas::to_bf16(static_cast<float>(v)); });
  }
}

void fill(Array out, double value) {
  with_element(out.dtype, [&](auto tag, auto, auto store) {
    using T = decltype(tag);
    for (int64_t i = 0; i < numel(out.shape); ++i) at<T>(out, i) = store(value);
  });
}

void copy(Array out, Array in) {
  with_element(out.dtype, [&](auto out_tag, auto, auto store) {
    with_element(in.dtype, [&](auto in_tag, auto load, auto) {
      for (int64_t i = 0; i < numel(out.shape); ++i)
        at<decltype(out_tag)>(out, i) = store(load(at<decltype(in_tag)>(in, i)));
    });
  });
}

/// Calls f(g) where g(x) is the derivative of order `op.derivative` of the formula.
template <class T, class F>
void with_derivative(UnaryArgs op, F&& f) {
  formulas::visit_formula(op.op, [&](auto formula) {
    const auto order = [&](auto n) {
      f([=](T x) { return formulas::derivative<decltype(n)::value>(formula, x, op.p0, op.p1); });
    };
    switch (op.derivative) {
      case 0:
        return order(std::integral_constant<int, 0>{});
      case 1:
        return order(std::integral_constant<int, 1>{});
      case 2:
        return order(std::integral_constant<int, 2>{});
      case 3:
        return order(std::integral_constant<int, 3>{});
    }
  });
}

void unary(UnaryArgs op, Array out, Array x) {
  with_float(x.dtype, [&](auto tag) {
    using T = decltype(tag);
    with_derivative<T>(op, [&](auto f) {
      for (int64_t i = 0; i < numel(out.shape); ++i) at<T>(out, i) = f(at<T>(x, i));
    });
  });
}

void unary_chain(UnaryArgs op, Array out, Array upstream, Array x) {
  with_float(x.dtype, [&](auto tag) {
    using T = decltype(tag);
    with_derivative<T>(op, [&](auto f) {
      for (int64_t i = 0; i < numel(out.shape); ++i) at<T>(out, i) = at<T>(upstream, i) * f(at<T>(x, i));
    });
  });
}

void binary(BinaryOp op, double p0, Array out, Array a, Array b) {
  with_float(a.dtype, [&](auto tag) {
    using T = decltype(tag);
    formulas::visit_formula(op, [&](auto formula) {
      for (int64_t i = 0; i < numel(out.shape); ++i)
        at<T>(out, i) = formula(at<T>(a, i), at<T>(b, i), static_cast<T>(p0));
    });
  });
}

void where(Array out, Array condition, Array a, Array b) {
  with_float(a.dtype, [&](auto tag) {
    using T = decltype(tag);
    for (int64_t i = 0; i < numel(out.shape); ++i)
      at<T>(out, i) = at<T>(condition, i) != T(0) ? at<T>(a, i) : at<T>(b, i);
  });
}

// --- reductions --------------------------------------------------------------------------------------------

void reduce(ReduceOp op, Array out, Array x) {
  // The axes of size 1 in `out` that are larger in `x` are walked by an inner loop over a window of x.
  Array kept = x, inner = x;
  for (int i = 0; i < x.shape.rank(); ++i) {
    if (out.shape[i] != x.shape[i])
      kept.shape[i] = 1;
    else
      inner.shape[i] = 1;
  }
  with_float(x.dtype, [&](auto tag) {
    using T = decltype(tag);
    for (int64_t i = 0; i < numel(out.shape); ++i) {
      const T* base = x.as<T>() + offset_of(kept, i);
      constexpr double kInfinity = std::numeric_limits<double>::infinity();
      const bool adds = op == ReduceOp::sum;
      double result = adds ? 0 : op == ReduceOp::max ? -kInfinity : kInfinity;
      for (int64_t j = 0; j < numel(inner.shape); ++j) {
        const double value = base[offset_of(inner, j)];
        if (adds)
          result += value;
        else if ((op == ReduceOp::max ? value > result : value < result) || value != value)
          result = value;
        if (!adds && result != result) break;  // NaN wins
      }
      if (out.dtype == DType::f64)
        at<double>(out, i) = result;
      else
        at<float>(out, i) = static_cast<float>(result);
    }
  });
}

/// Calls f(n) for the row-major number n of every element at position 0 of `axis`.
template <class F>
void for_each_line(const Array& a, int axis, F&& f) {
  Array line = a;
  line.shape[axis] = 1;
  for (int64_t i = 0; i < numel(line.shape); ++i) f(i);
}

/// The memory offset of the i-th such element.
int64_t line_offset(const Array& a, int axis, int64_t i) {
  Array line = a;
  line.shape[axis] = 1;
  return offset_of(line, i);
}

void cumulative_sum(Array out, Array x, int axis) {
  with_float(x.dtype, [&](auto tag) {
    using T = decltype(tag);
    for_each_line(x, axis, [&](int64_t line) {
      const T* in = x.as<T>() + line_offset(x, axis, line);
      T* to = out.as<T>() + line_offset(out, axis, line);
      double sum = 0;
      for (int64_t i = 0; i < x.shape[axis]; ++i) {
        sum += in[i * x.strides[axis]];
        to[i * out.strides[axis]] = static_cast<T>(sum);
      }
    });
  });
}

void argsort(Array out, Array x, int axis, bool descending) {
  with_float(x.dtype, [&](auto tag) {
    using T = decltype(tag);
    const auto less = [](T a, T b) { return a < b || (b != b && a == a); };  // NaN is the largest
    for_each_line(x, axis, [&](int64_t line) {
      const T* in = x.as<T>() + line_offset(x, axis, line);
      int64_t* to = out.as<int64_t>() + line_offset(out, axis, line);
      std::vector<int64_t> order(static_cast<size_t>(x.shape[axis]));
      std::iota(order.begin(), order.end(), 0);
      std::stable_sort(order.begin(), order.end(), [&](int64_t i, int64_t j) {
        const T a = in[i * x.strides[axis]], b = in[j * x.strides[axis]];
        return descending ? less(b, a) : less(a, b);
      });
      for (size_t i = 0; i < order.size(); ++i) to[static_cast<int64_t>(i) * out.strides[axis]] = order[i];
    });
  });
}

void gather(Array out, Array x, Array index, int axis) {
  const auto gather_of = [&](auto missing) {
    using T = decltype(missing);
    for_each_line(out, axis, [&](int64_t line) {
      T* to = out.as<T>() + line_offset(out, axis, line);
      const T* from = x.as<T>() + line_offset(x, axis, line);
      const int64_t* place = index.as<int64_t>() + line_offset(index, axis, line);
      for (int64_t i = 0; i < out.shape[axis]; ++i) {
        const int64_t j = place[i * index.strides[axis]];
        const bool inside = 0 <= j && j < x.shape[axis];
        to[i * out.strides[axis]] = inside ? from[j * x.strides[axis]] : missing;
      }
    });
  };
  if (x.dtype == DType::i64) return gather_of(int64_t{-1});
  with_float(x.dtype, [&](auto tag) { gather_of(std::numeric_limits<decltype(tag)>::quiet_NaN()); });
}

void scatter_add(Array out, Array source, Array index, int axis) {
  with_float(out.dtype, [&](auto tag) {
    using T = decltype(tag);
    for_each_line(source, axis, [&](int64_t line) {
      T* to = out.as<T>() + line_offset(out, axis, line);
      const T* from = source.as<T>() + line_offset(source, axis, line);
      const int64_t* place = index.as<int64_t>() + line_offset(index, axis, line);
      std::vector<double> sums(static_cast<size_t>(out.shape[axis]), 0.0);
      for (int64_t i = 0; i < source.shape[axis]; ++i) {
        const int64_t j = place[i * index.strides[axis]];
        if (0 <= j && j < out.shape[axis]) sums[static_cast<size_t>(j)] += from[i * source.strides[axis]];
      }
      for (int64_t j = 0; j < out.shape[axis]; ++j)
        to[j * out.strides[axis]] = static_cast<T>(sums[static_cast<size_t>(j)]);
    });
  });
}

// --- matrix products and convolution -----------------------------------------------------------------------

void gemm(GemmArgs g) {
  with_float(g.c.dtype, [&](auto tag) {
    using T = decltype(tag);
    const int r = g.c.shape.rank();
    const int64_t m = g.c.shape[r - 2], n = g.c.shape[r - 1], k = g.a.shape[r - 1];
    // Windows over the leading axes, to find each matrix of the batch.
    Array batch_a = g.a, batch_b = g.b, batch_c = g.c;
    for (Array* batch : {&batch_a, &batch_b, &batch_c}) batch->shape[r - 2] = batch->shape[r - 1] = 1;
    for (int64_t i = 0; i < numel(batch_c.shape); ++i) {
      const T* a = g.a.as<T>() + offset_of(batch_a, i);
      const T* b = g.b.as<T>() + offset_of(batch_b, i);
      T* c = g.c.as<T>() + offset_of(batch_c, i);
      for (int64_t row = 0; row < m; ++row) {
        for (int64_t col = 0; col < n; ++col) {
          double sum = 0;
          for (int64_t l = 0; l < k; ++l)
            sum += double{a[row * g.a.strides[r - 2] + l * g.a.strides[r - 1]]} *
                   b[l * g.b.strides[r - 2] + col * g.b.strides[r - 1]];
          T& out = c[row * g.c.strides[r - 2] + col * g.c.strides[r - 1]];
          double result = g.alpha * sum;
          if (g.beta != 0) result += g.beta * out;
          if (!g.bias.absent()) result += g.bias.as<T>()[col * g.bias.strides[0]];
          out = static_cast<T>(result);
        }
      }
    }
  });
}

/// Calls f(offset in x, offset in kernel, offset in y) for every pixel and tap of the convolution, with
/// channel 0 of x and of y; taps outside the image are skipped.
template <class F>
void for_each_tap(const Conv2dArgs& c, F&& f) {
  const int64_t batch = c.x.shape[0], h = c.x.shape[1], w = c.x.shape[2], in = c.x.shape[3];
  const int64_t kh = c.kernel.shape[0], kw = c.kernel.shape[1], out = c.kernel.shape[3];
  const int64_t oh = c.y.shape[1], ow = c.y.shape[2], tap_size = c.kernel.shape[2] * out;
  const Conv2dGeometry& g = c.geometry;
  for (int64_t b = 0; b < batch; ++b)
    for (int64_t oy = 0; oy < oh; ++oy)
      for (int64_t ox = 0; ox < ow; ++ox)
        for (int64_t ky = 0; ky < kh; ++ky)
          for (int64_t kx = 0; kx < kw; ++kx) {
            const int64_t iy = oy * g.stride_h - g.pad_top + ky * g.dilation_h;
            const int64_t ix = ox * g.stride_w - g.pad_left + kx * g.dilation_w;
            if (iy < 0 || iy >= h || ix < 0 || ix >= w) continue;
            f(((b * h + iy) * w + ix) * in, (ky * kw + kx) * tap_size, ((b * oh + oy) * ow + ox) * out);
          }
}

/// Runs one of the three convolution passes with double accumulators: product(x, kernel, y, accumulators) per
/// tap and pair of channels of one group, accumulated into an array of `target`'s size.
template <class T, class F>
std::vector<double> accumulate_taps(const Conv2dArgs& c, const Array& target, F&& product) {
  std::vector<double> sums(static_cast<size_t>(numel(target.shape)), 0.0);
  const int64_t in = c.kernel.shape[2], all_out = c.kernel.shape[3], out = all_out / c.geometry.groups;
  for_each_tap(c, [&](int64_t x, int64_t kernel, int64_t y) {
    for (int64_t g = 0; g < c.geometry.groups; ++g)
      for (int64_t i = 0; i < in; ++i)
        for (int64_t o = g * out; o < (g + 1) * out; ++o)
          product(sums, x + g * in + i, kernel + i * all_out + o, y + o);
  });
  return sums;
}

void conv2d_forward(Conv2dArgs c) {
  with_float(c.x.dtype, [&](auto tag) {
    using T = decltype(tag);
    const T *x = c.x.as<T>(), *kernel = c.kernel.as<T>();
    const auto sums = accumulate_taps<T>(c, c.y, [&](auto& acc, int64_t xi, int64_t ki, int64_t yi) {
      acc[yi] += double{x[xi]} * kernel[ki];
    });
    const int64_t out = c.y.shape[3];
    for (int64_t i = 0; i < numel(c.y.shape); ++i) {
      const double bias = c.bias.absent() ? 0.0 : double{at<T>(c.bias, i % out)},
                   residual = c.residual.absent() ? 0.0 : double{c.residual.as<const T>()[i]};
      c.y.as<T>()[i] = static_cast<T>(sums[i] + bias + residual);
    }
  });
}

void conv2d_backward_data(Conv2dArgs c) {
  with_float(c.x.dtype, [&](auto tag) {
    using T = decltype(tag);
    const T *dy = c.y.as<T>(), *kernel = c.kernel.as<T>();
    const auto sums = accumulate_taps<T>(c, c.x, [&](auto& acc, int64_t xi, int64_t ki, int64_t yi) {
      acc[xi] += double{dy[yi]} * kernel[ki];
    });
    for (size_t i = 0; i < sums.size(); ++i) c.x.as<T>()[i] = static_cast<T>(sums[i]);
  });
}

void conv2d_backward_kernel(Conv2dArgs c) {
  with_float(c.x.dtype, [&](auto tag) {
    using T = decltype(tag);
    const T *x = c.x.as<T>(), *dy = c.y.as<T>();
    const auto sums = accumulate_taps<T>(c, c.kernel, [&](auto& acc, int64_t xi, int64_t ki, int64_t yi) {
      acc[ki] += double{x[xi]} * dy[yi];
    });
    for (size_t i = 0; i < sums.size(); ++i) c.kernel.as<T>()[i] = static_cast<T>(sums[i]);
  });
}

// --- softmax and attention ---------------------------------------------------------------------------------

void softmax(Array y, Array x) {
  with_float(x.dtype, [&](auto tag) {
    using T = decltype(tag);
    const int64_t n = x.shape.back(), rows = n ? numel(x.shape) / n : 0;
    for (int64_t r = 0; r < rows; ++r) {
      const T* in = x.as<T>() + r * n;
      T* out = y.as<T>() + r * n;
      double largest = in[0], total = 0;
      for (int64_t i = 1; i < n; ++i) largest = in[i] > largest ? in[i] : largest;
      for (int64_t i = 0; i < n; ++i) total += std::exp(in[i] - largest);
      for (int64_t i = 0; i < n; ++i) out[i] = static_cast<T>(std::exp(in[i] - largest) / total);
    }
  });
}

void softmax_backward(Array dx, Array dy, Array y) {
  with_float(y.dtype, [&](auto tag) {
    using T = decltype(tag);
    const int64_t n = y.shape.back(), rows = n ? numel(y.shape) / n : 0;
    for (int64_t r = 0; r < rows; ++r) {
      const T *g = dy.as<T>() + r * n, *p = y.as<T>() + r * n;
      double dot = 0;
      for (int64_t i = 0; i < n; ++i) dot += double{g[i]} * p[i];
      for (int64_t i = 0; i < n; ++i) dx.as<T>()[r * n + i] = static_cast<T>(p[i] * (g[i] - dot));
    }
  });
}

/// One head of one example as matrices [rows, D].
template <class T>
struct HeadMatrix {
  T* data;
  int64_t stride;
  HeadMatrix(const Array& a, int64_t b, int64_t h)
      : data(a.as<T>() + b * a.strides[0] + h * a.strides[2]), stride(a.strides[1]) {}
  T& operator()(int64_t row, int64_t d) const { return data[row * stride + d]; }
};

void attention(AttentionArgs a) {
  with_float(a.q.dtype, [&](auto tag) {
    using T = decltype(tag);
    const int64_t batch = a.q.shape[0], length = a.q.shape[1], heads = a.q.shape[2], width = a.q.shape[3];
    const int64_t keys = a.k.shape[1];
    std::vector<double> weight(static_cast<size_t>(keys));
    for (int64_t b = 0; b < batch; ++b)
      for (int64_t h = 0; h < heads; ++h) {
        const HeadMatrix<T> q(a.q, b, h), k(a.k, b, h), v(a.v, b, h), out(a.out, b, h);
        for (int64_t i = 0; i < length; ++i) {
          double largest = -std::numeric_limits<double>::infinity(), total = 0;
          for (int64_t j = 0; j < keys; ++j) {
            double dot = 0;
            for (int64_t d = 0; d < width; ++d) dot += double{q(i, d)} * k(j, d);
            weight[j] = a.scale * dot;
            if (weight[j] > largest) largest = weight[j];
          }
          for (int64_t j = 0; j < keys; ++j) total += weight[j] = std::exp(weight[j] - largest);
          for (int64_t d = 0; d < width; ++d) {
            double sum = 0;
            for (int64_t j = 0; j < keys; ++j) sum += weight[j] * v(j, d);
            out(i, d) = static_cast<T>(sum / total);
          }
          a.log_sum_exp.as<T>()[(b * heads + h) * length + i] = static_cast<T>(largest + std::log(total));
        }
      }
  });
}

void attention_backward(AttentionBackwardArgs args) {
  const AttentionArgs& a = args.forward;
  with_float(a.q.dtype, [&](auto tag) {
    using T = decltype(tag);
    const int64_t batch = a.q.shape[0], length = a.q.shape[1], heads = a.q.shape[2], width = a.q.shape[3];
    const int64_t keys = a.k.shape[1];
    for (int64_t b = 0; b < batch; ++b)
      for (int64_t h = 0; h < heads; ++h) {
        const HeadMatrix<T> q(a.q, b, h), k(a.k, b, h), v(a.v, b, h), out(a.out, b, h),
            d_out(args.d_out, b, h);
        const HeadMatrix<T> dq(args.dq, b, h), dk(args.dk, b, h), dv(args.dv, b, h);
        std::vector<double> dq_sum(length * width), dk_sum(keys * width), dv_sum(keys * width);
        for (int64_t i = 0; i < length; ++i) {
          // Softmax rule: d_score = p (dp - sum(p dp)); sum(p dp) = d_out . out.
          double dot_out = 0;
          for (int64_t d = 0; d < width; ++d) dot_out += double{d_out(i, d)} * out(i, d);
          const double lse = a.log_sum_exp.as<T>()[(b * heads + h) * length + i];
          for (int64_t j = 0; j < keys; ++j) {
            double score = 0, dp = 0;
            for (int64_t d = 0; d < width; ++d) {
              score += double{q(i, d)} * k(j, d);
              dp += double{d_out(i, d)} * v(j, d);
            }
            const double p = std::exp(a.scale * score - lse), d_score = a.scale * p * (dp - dot_out);
            for (int64_t d = 0; d < width; ++d) {
              dq_sum[i * width + d] += d_score * k(j, d);
              dk_sum[j * width + d] += d_score * q(i, d);
              dv_sum[j * width + d] += p * d_out(i, d);
            }
          }
        }
        for (int64_t i = 0; i < length; ++i)
          for (int64_t d = 0; d < width; ++d) dq(i, d) = static_cast<T>(dq_sum[i * width + d]);
        for (int64_t j = 0; j < keys; ++j)
          for (int64_t d = 0; d < width; ++d) {
            dk(j, d) = static_cast<T>(dk_sum[j * width + d]);
            dv(j, d) = static_cast<T>(dv_sum[j * width + d]);
          }
      }
  });
}

// --- group norm --------------------------------------------------------------------------------------------

/// Row b of gain or bias, which may have one row for all examples.
template <class T>
const T* channel_row(const Array& a, int64_t b) {
  return a.as<T>() + (a.shape[0] == 1 ? 0 : b * a.shape[1]);
}

void group_norm(GroupNormArgs n) {
  with_float(n.x.dtype, [&](auto tag) {
    using T = decltype(tag);
    const int64_t batch = n.x.shape[0], pixels = n.x.shape[1], channels = n.x.shape[2];
    const int64_t width = channels / n.groups;
    for (int64_t b = 0; b < batch; ++b)
      for (int64_t g = 0; g < n.groups; ++g) {
        const T* x = n.x.as<T>() + b * pixels * channels + g * width;
        T* y = n.y.as<T>() + b * pixels * channels + g * width;
        const T *gain = channel_row<T>(n.gain, b) + g * width, *bias = channel_row<T>(n.bias, b) + g * width;
        double sum = 0, squares = 0;
        for (int64_t p = 0; p < pixels; ++p)
          for (int64_t c = 0; c < width; ++c) sum += x[p * channels + c];
        const double count = static_cast<double>(pixels * width), mean = sum / count;
        for (int64_t p = 0; p < pixels; ++p)
          for (int64_t c = 0; c < width; ++c)
            squares += (x[p * channels + c] - mean) * (x[p * channels + c] - mean);
        const double rstd = 1 / std::sqrt(squares / count + n.eps);
        for (int64_t p = 0; p < pixels; ++p)
          for (int64_t c = 0; c < width; ++c) {
            const double u = (x[p * channels + c] - mean) * rstd * gain[c] + bias[c];
            y[p * channels + c] =
                static_cast<T>(n.activation == Activation::silu ? u * formulas::sigmoid(u) : u);
          }
        n.mean.as<T>()[b * n.groups + g] = static_cast<T>(mean);
        n.rstd.as<T>()[b * n.groups + g] = static_cast<T>(rstd);
      }
  });
}

void group_norm_backward(GroupNormBackwardArgs args) {
  const GroupNormArgs& n = args.forward;
  with_float(n.x.dtype, [&](auto tag) {
    using T = decltype(tag);
    const int64_t batch = n.x.shape[0], pixels = n.x.shape[1], channels = n.x.shape[2];
    const int64_t width = channels / n.groups;
    for (int64_t b = 0; b < batch; ++b)
      for (int64_t g = 0; g < n.groups; ++g) {
        const int64_t base = b * pixels * channels + g * width;
        const T *x = n.x.as<T>() + base, *dy = args.dy.as<T>() + base;
        const T *gain = channel_row<T>(n.gain, b) + g * width, *bias = channel_row<T>(n.bias, b) + g * width;
        const double mean = n.mean.as<T>()[b * n.groups + g], rstd = n.rstd.as<T>()[b * n.groups + g];
        // With h = (x - mean) rstd and u = h gain + bias: du = dy activation'(u);
        // dx = rstd (du gain - mean(du gain) - h mean(du gain h)), means over the group.
        const auto du = [&](int64_t p, int64_t c) {
          const double h = (x[p * channels + c] - mean) * rstd, u = h * gain[c] + bias[c];
          const double slope =
              n.activation == Activation::silu ? formulas::derivative<1>(formulas::Silu{}, u, 0, 0) : 1.0;
          return dy[p * channels + c] * slope;
        };
        double sum = 0, sum_h = 0;
        for (int64_t c = 0; c < width; ++c) {
          double dgain = 0, dbias = 0;
          for (int64_t p = 0; p < pixels; ++p) {
            dgain += du(p, c) * (x[p * channels + c] - mean) * rstd;
            dbias += du(p, c);
          }
          args.dgain.as<T>()[b * channels + g * width + c] = static_cast<T>(dgain);
          args.dbias.as<T>()[b * channels + g * width + c] = static_cast<T>(dbias);
          sum += dbias * gain[c];
          sum_h += dgain * gain[c];
        }
        const double count = static_cast<double>(pixels * width);
        for (int64_t p = 0; p < pixels; ++p)
          for (int64_t c = 0; c < width; ++c) {
            const double h = (x[p * channels + c] - mean) * rstd;
            args.dx.as<T>()[base + p * channels + c] =
                static_cast<T>(rstd * (du(p, c) * gain[c] - sum / count - h * sum_h / count));
          }
      }
  });
}

// --- random ------------------------------------------------------------------------------------------------

void random(RandomArgs r) {
  const int64_t rows = r.out.shape[0], n = r.out.shape[1];
  with_float(r.out.dtype, [&](auto tag) {
    using T = decltype(tag);
    for (int64_t row = 0; row < rows; ++row)
      for (int64_t block = 0; block * 4 < n; ++block) {
        const philox::Block words = philox::words(r.seed, r.stream, r.first_row + row, block);
        float values[4];
        if (r.kind == RandomKind::normal)
          philox::normals(words, values);
        else
          for (int i = 0; i < 4; ++i) values[i] = philox::uniform(words.word[i]);
        for (int64_t i = 0; i < 4 && block * 4 + i < n; ++i)
          r.out.as<T>()[row * n + block * 4 + i] = values[i];
      }
  });
}

void dropout(DropoutArgs d) {
  with_float(d.x.dtype, [&](auto tag) {
    using T = decltype(tag);
    const int64_t n = numel(d.x.shape);
    const T scale = static_cast<T>(1 / (1 - d.p));
    const uint64_t row = d.row.absent() ? 0 : static_cast<uint64_t>(*d.row.as<int64_t>());
    for (int64_t i = 0; i < n; ++i) {
      const float u = philox::uniform(philox::words(d.seed, d.stream, row, i / 4).word[i % 4]);
      d.y.as<T>()[i] = u >= static_cast<float>(d.p) ? d.x.as<T>()[i] * scale : T(0);
    }
  });
}

// --- optimiser ---------------------------------------------------------------------------------------------

void sum_of_squares(SumOfSquaresArgs s) {
  double sum = 0;
  for (const Array& x : s.list)
    with_float(x.dtype, [&](auto tag) {
      for (int64_t i = 0; i < numel(x.shape); ++i) {
        const double value = x.as<const decltype(tag)>()[i];
        sum += value * value;
      }
    });
  *s.out.as<double>() = sum;
}

void optimizer_control(OptimizerControlArgs o) {
  double* control = o.control.as<double>();
  const double norm = std::sqrt(*o.sum_squares.as<double>());
  const bool finite = std::isfinite(norm);
  control[finite ? 0 : 1] += 1;
  const double limited = norm + o.clip_eps;
  control[2] = !finite ? 0 : (o.max_norm > 0 && limited > o.max_norm ? o.max_norm / limited : 1);
  control[3] = norm;
}

void adam(AdamArgs a) {
  const double* control = a.control.as<double>();
  if (!std::isfinite(control[3])) return;
  const double lr = *a.learning_rate.as<double>();
  const double correction1 = 1 - std::pow(a.beta1, control[0]),
               correction2 = 1 - std::pow(a.beta2, control[0]);
  for (const AdamParameter& parameter : a.list)
    with_float(parameter.param.dtype, [&](auto tag) {
      using T = decltype(tag);
      for (int64_t i = 0; i < numel(parameter.param.shape); ++i) {
        T &p = parameter.param.as<T>()[i], &m = parameter.m.as<T>()[i], &v = parameter.v.as<T>()[i];
        const double g = control[2] * parameter.grad.as<T>()[i] + a.l2 * p;
        const double m_new = a.beta1 * m + (1 - a.beta1) * g, v_new = a.beta2 * v + (1 - a.beta2) * g * g;
        m = static_cast<T>(m_new);
        v = static_cast<T>(v_new);
        double v_used = v_new;
        if (!parameter.v_max.absent()) {
          T& v_max = parameter.v_max.as<T>()[i];
          v_used = v_max > v_new ? v_max : v_new;
          v_max = static_cast<T>(v_used);
        }
        p = static_cast<T>(p - lr * (m_new / correction1) / (std::sqrt(v_used / correction2) + a.eps) -
                           lr * a.weight_decay * p);
      }
    });
}

void sgd(SgdArgs s) {
  const double* control = s.control.as<double>();
  if (!std::isfinite(control[3])) return;
  const double lr = *s.learning_rate.as<double>();
  for (const SgdParameter& parameter : s.list)
    with_float(parameter.param.dtype, [&](auto tag) {
      using T = decltype(tag);
      for (int64_t i = 0; i < numel(parameter.param.shape); ++i) {
        T& p = parameter.param.as<T>()[i];
        double g = control[2] * parameter.grad.as<T>()[i] + s.l2 * p;
        if (!parameter.buffer.absent()) {
          T& buffer = parameter.buffer.as<T>()[i];
          const double average = control[0] == 1 ? g : s.momentum * buffer + (1 - s.dampening) * g;
          buffer = static_cast<T>(average);
          g = s.nesterov ? g + s.momentum * average : average;
        }
        p = static_cast<T>(p - lr * g);
      }
    });
}

void moving_average(MovingAverageArgs m) {
  for (const AveragedArray& moved : m.list)
    with_float(moved.average.dtype, [&](auto tag) {
      using T = decltype(tag);
      const T weight = static_cast<T>(*m.weight.as<double>());
      for (int64_t i = 0; i < numel(moved.average.shape); ++i) {
        T& average = moved.average.as<T>()[i];
        const T source = moved.source.as<T>()[i];
        average = weight == T(1) ? source : formulas::Lerp{}(average, source, weight);
      }
    });
}

// --- pooling -----------------------------------------------------------------------------------------------

void max_pool2d(MaxPool2dArgs p) {
  with_float(p.x.dtype, [&](auto tag) {
    using T = decltype(tag);
    const int64_t h = p.x.shape[1], w = p.x.shape[2], channels = p.x.shape[3];
    const int64_t oh = p.y.shape[1], ow = p.y.shape[2];
    const Conv2dGeometry& g = p.geometry;
    for (int64_t i = 0; i < numel(p.y.shape); ++i) {
      const int64_t c = i % channels, ox = i / channels % ow, oy = i / (channels * ow) % oh,
                    b = i / (channels * ow * oh);
      const T* image = p.x.as<T>() + b * h * w * channels + c;
      int64_t best = -1;
      for (int64_t ky = 0; ky < p.window_h; ++ky)
        for (int64_t kx = 0; kx < p.window_w; ++kx) {
          const int64_t iy = oy * g.stride_h - g.pad_top + ky * g.dilation_h;
          const int64_t ix = ox * g.stride_w - g.pad_left + kx * g.dilation_w;
          if (iy < 0 || iy >= h || ix < 0 || ix >= w) continue;
          const int64_t pixel = iy * w + ix;
          if (best >= 0) {
            const T value = image[pixel * channels], largest = image[best * channels];
            const bool first_nan = std::isnan(value) && !std::isnan(largest);
            if (!(value > largest || first_nan)) continue;
          }
          best = pixel;
        }
      p.y.as<T>()[i] = image[best * channels];
      p.index.as<int64_t>()[i] = best;
    }
  });
}

constexpr Backend kReference = {
    .name = "reference",
    .synchronous = true,
    .computes_bf16 = false,
    .allocate = allocate,
    .release = release,
    .upload = upload,
    .download = download,
    .synchronize = synchronize,
    .launches = nullptr,
    .fill = fill,
    .copy = copy,
    .unary = unary,
    .unary_chain = unary_chain,
    .binary = binary,
    .where = where,
    .reduce = reduce,
    .cumulative_sum = cumulative_sum,
    .argsort = argsort,
    .gather = gather,
    .scatter_add = scatter_add,
    .gemm = gemm,
    .conv2d_forward = conv2d_forward,
    .conv2d_backward_data = conv2d_backward_data,
    .conv2d_backward_kernel = conv2d_backward_kernel,
    .softmax = softmax,
    .softmax_backward = softmax_backward,
    .attention = attention,
    .attention_backward = attention_backward,
    .group_norm = group_norm,
    .group_norm_backward = group_norm_backward,
    .random = random,
    .dropout = dropout,
    .sum_of_squares = sum_of_squares,
    .optimizer_control = optimizer_control,
    .adam = adam,
    .sgd = sgd,
    .moving_average = moving_average,
    .max_pool2d = max_pool2d,
};
const Backend& plain() { return kReference; }

}  // namespace

const Backend& reference_backend() {
  static const Backend table = with_bf16<plain>();
  return table;
}

}  // namespace halfstep
