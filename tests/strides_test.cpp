// Kernels have faster loops for some strides. Here every combination of small strides, with lengths around
// the vector widths, on memory that ends with the last element that the strides reach.
#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "tensor/cpu/cpu_backend.h"
#include "tests/fenced.h"

using namespace halfstep;
using halfstep::test::Fenced;

namespace {

std::mt19937_64 generator(99);

/// An array of its own memory, which reaches exactly from element (0, ..., 0) to the last one.
template <class T>
struct Strided {
  Fenced<T> memory;
  Shape shape;
  Strides strides;

  Strided(const Shape& s, const Strides& st) : shape(s), strides(st) {
    int64_t last = 0;
    for (int i = 0; i < s.rank(); ++i) last += (s[i] - 1) * st[i];
    memory.resize(static_cast<size_t>(numel(s) == 0 ? 1 : last + 1));
    std::uniform_real_distribution<double> value(-2, 2);
    for (T& v : memory) v = static_cast<T>(value(generator) * (sizeof(T) == 8 && T(0.5) == T(0) ? 1000 : 1));
  }
  Array array() const { return {const_cast<T*>(memory.data()), dtype_of<T>(), shape, strides}; }
};

std::vector<const Backend*> cpu_backends() {
  std::vector<const Backend*> backends;
  for (Isa isa : {Isa::portable, Isa::avx2, Isa::avx512})
    if (is_supported(isa)) backends.push_back(&cpu_backend_for(isa));
  return backends;
}

/// Runs the entry on copies of `out` by the reference and by every cpu backend; all of its memory must agree
/// to the given relative error, gaps between the elements included.
template <class T, class Run>
void check(const Strided<T>& out, double error, Run run) {
  Strided<T> expected = out;
  run(reference_backend(), expected.array());
  for (const Backend* backend : cpu_backends()) {
    Strided<T> got = out;
    run(*backend, got.array());
    size_t wrong = 0;
    for (size_t i = 0; i < got.memory.size(); ++i) {
      const double e = static_cast<double>(expected.memory[i]), g = static_cast<double>(got.memory[i]);
      wrong += !(std::abs(g - e) <= error * (1 + std::abs(e)));
    }
    CHECK(wrong == 0);
  }
}

const int64_t kLengths[] = {1, 2, 7, 16, 33};

}  // namespace

TEST_CASE("strides: elementwise") {
  for (int64_t n : kLengths)
    for (int64_t so : {1, 2, 3})
      for (int64_t sx : {0, 1, 2, 3}) {
        CAPTURE(n);
        CAPTURE(so);
        CAPTURE(sx);
        const Strided<float> x({n}, {sx}), out({n}, {so});
        const Strided<double> x64({n}, {sx}), out64({n}, {so});
        const Strided<int64_t> labels({n}, {sx}), out_labels({n}, {so});
        check(out, 0, [&](const Backend& b, Array o) { b.unary({.op = UnaryOp::relu}, o, x.array()); });
        check(out, 0, [&](const Backend& b, Array o) { b.copy(o, x.array()); });
        check(out, 0, [&](const Backend& b, Array o) { b.copy(o, x64.array()); });
        check(out64, 0, [&](const Backend& b, Array o) { b.copy(o, x.array()); });
        check(out64, 0, [&](const Backend& b, Array o) { b.copy(o, x64.array()); });
        check(out_labels, 0, [&](const Backend& b, Array o) { b.copy(o, labels.array()); });
        check(out_labels, 0, [&](const Backend& b, Array o) { b.copy(o, x64.array()); });
        check(out, 0, [&](const Backend& b, Array o) { b.copy(o, labels.array()); });
        check(out, 0, [&](const Backend& b, Array o) { b.fill(o, 1.5); });
        check(out64, 0, [&](const Backend& b, Array o) { b.fill(o, 1.5); });
        check(out_labels, 0, [&](const Backend& b, Array o) { b.fill(o, 3); });
        for (int64_t sy : {0, 1, 2, 3}) {
          const Strided<float> y({n}, {sy});
          const Strided<double> y64({n}, {sy});
          check(out, 0,
                [&](const Backend& b, Array o) { b.binary(BinaryOp::subtract, 0, o, x.array(), y.array()); });
          check(out64, 0, [&](const Backend& b, Array o) {
            b.binary(BinaryOp::divide, 0, o, x64.array(), y64.array());
          });
          check(out, 0, [&](const Backend& b, Array o) {
            b.unary_chain({.op = UnaryOp::affine, .derivative = 1, .p0 = 3}, o, x.array(), y.array());
          });
        }
      }
}

TEST_CASE("strides: elementwise over two axes, merged or not") {
  // Of x: contiguous, with a gap between rows, transposed, and broadcast on either axis; of the output: the
  // first three.
  const Strides layouts[] = {{17, 1}, {20, 1}, {1, 5}, {1, 7}, {34, 2}, {0, 1}, {1, 0}, {0, 0}};
  for (int o = 0; o < 5; ++o)
    for (const Strides& sx : layouts)
      for (const Strides& sy : layouts) {
        const Strided<float> out({5, 17}, layouts[o]), x({5, 17}, sx), y({5, 17}, sy);
        check(out, 0,
              [&](const Backend& b, Array a) { b.binary(BinaryOp::add, 0, a, x.array(), y.array()); });
        if (&sy == &layouts[0]) check(out, 0, [&](const Backend& b, Array a) { b.copy(a, x.array()); });
      }
}

TEST_CASE("strides: reductions into and out of any layout") {
  for (ReduceOp op : {ReduceOp::sum, ReduceOp::max})
    for (int64_t rows : {1, 2, 5, 37})
      for (int64_t columns : {1, 2, 3, 19}) {
        CAPTURE(rows);
        CAPTURE(columns);
        const Shape shape{rows, columns};
        for (const Strides& layout : {Strides{columns, 1}, Strides{columns + 3, 1}, Strides{1, rows},
                                      Strides{2 * columns, 2}, Strides{0, 1}, Strides{1, 0}, Strides{0, 0}}) {
          const Strided<float> x(shape, layout);
          const Strided<double> x64(shape, layout);
          for (int64_t step : {1, 2}) {
            const Strided<float> by_row({rows, 1}, {step, 1}), by_column({1, columns}, {1, step}),
                all({1, 1}, {1, 1});
            const Strided<double> by_column64({1, columns}, {1, step});
            const auto run = [&](const Array& in) {
              return [op, in](const Backend& b, Array o) { b.reduce(op, o, in); };
            };
            check(by_row, 1e-6, run(x.array()));
            check(by_column, 1e-6, run(x.array()));
            check(by_column64, 1e-14, run(x64.array()));
            check(by_column64, 1e-6, run(x.array()));  // f32 summed in f64
            check(all, 1e-6, run(x.array()));
          }
        }
      }
  // Kept axes around a reduced one, and outputs that lie in another order than their inputs.
  const Strided<float> x({3, 4, 5}, {20, 5, 1}), turned({3, 4, 5}, {1, 3, 12}), spread({3, 4, 5}, {0, 5, 1});
  for (const Strided<float>* in : {&x, &turned, &spread})
    for (const Strides& layout : {Strides{5, 5, 1}, Strides{1, 1, 3}, Strides{10, 1, 2}, Strides{6, 1, 1}})
      check(Strided<float>({3, 1, 5}, layout), 1e-6,
            [in](const Backend& b, Array o) { b.reduce(ReduceOp::sum, o, in->array()); });
  // Rows of more than one block of accumulators, into an output with gaps.
  const Strided<float> wide({40, 1100}, {1100, 1});
  for (int64_t step : {1, 2})
    check(Strided<float>({1, 1100}, {1100 * step, step}), 1e-5,
          [&wide](const Backend& b, Array o) { b.reduce(ReduceOp::sum, o, wide.array()); });
  const Strided<float> deep({2, 3000, 30}, {90000, 30, 1});
  for (int64_t step : {1, 2})
    check(Strided<float>({2, 1, 30}, {30 * step, 30 * step, step}), 1e-4,
          [&deep](const Backend& b, Array o) { b.reduce(ReduceOp::sum, o, deep.array()); });
}

TEST_CASE("strides: matrix products") {
  const int64_t sizes[][3] = {{1, 1, 1},   {2, 5, 64},  {5, 3, 16}, {13, 4, 33},
                              {30, 9, 32}, {200, 4, 0}, {0, 3, 4},  {3, 0, 4}};
  for (const auto& size : sizes) {
    const int64_t m = size[0], k = size[1], n = size[2];
    CAPTURE(m);
    CAPTURE(k);
    CAPTURE(n);
    const auto layouts = [](int64_t rows, int64_t columns, bool broadcast) {
      std::vector<Strides> all{{columns, 1}, {columns + 3, 1}, {1, rows}, {1, rows + 2}, {2 * columns, 2}};
      if (broadcast) all.insert(all.end(), {{0, 1}, {1, 0}, {0, 0}});
      return all;
    };
    for (const Strides& sa : layouts(m, k, true))
      for (const Strides& sb : layouts(k, n, true))
        for (const Strides& sc : layouts(m, n, false)) {
          if (&sa != &sb && sa == Strides{0, 0} && sb == Strides{0, 0}) continue;
          const Strided<float> a({m, k}, sa), b({k, n}, sb), c({m, n}, sc), bias({n}, {sb[1] == 1 ? 1 : 2});
          for (double beta : {0.0, 1.0})
            check(c, 1e-5, [&](const Backend& backend, Array o) {
              backend.gemm({.a = a.array(),
                            .b = b.array(),
                            .c = o,
                            .bias = bias.array(),
                            .alpha = -0.5,
                            .beta = beta});
            });
        }
  }
}
