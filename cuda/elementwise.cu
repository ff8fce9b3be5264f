// Elementwise entries. The formulas are those of tensor/formulas.h; here are only the kernels around them.
//
// An elementwise kernel is bound by memory: each element is read and written once, and the arithmetic hides
// behind that. So what counts is how many bytes are on their way at once. Three kernels share the work:
//   * map_packs: a thread moves 16 bytes per access. For arrays that are contiguous along the innermost loop
//     (see loops.h), among them broadcast operands: a row of channels, one number per row, one number;
//   * map_elements: a thread moves one element per access, for any strides;
//   * transpose_tiles: copies between arrays whose contiguous axes differ, through on-chip memory, so that
//     both reading and writing happen in whole lines.
// Threads run a grid-stride loop: thread t of T does elements t, t + T, ...: at each step the threads of a
// warp touch neighbouring addresses.
//
// Training computes in f32: contiguous f32 functions and their gradients get a kernel for each formula. What
// is rare (f64, strides, higher derivatives), and bf16, where the formulas that matter are parts of other
// kernels, shares kernels that choose the formula by a switch, which all threads take alike; that keeps the
// library small.
#include <algorithm>
#include <cstring>
#include <type_traits>

#include "cuda/entries.h"
#include "cuda/loops.h"

// visit_formula() is for host and device alike, and here the host calls it with functions of the host, which
// launch kernels. nvcc warns of that wherever the function was defined.
#pragma nv_diagnostic push
#pragma nv_diag_suppress 20013, 20015
#include "tensor/formulas.h"
#pragma nv_diagnostic pop

namespace halfstep::cuda {
namespace {

// --- the kernels -------------------------------------------------------------------------------------------

/// Neighbouring elements, or one that serves for all where the array does not move along the loop.
template <int Width, class T>
__device__ Pack<T, Width> load_pack(const T* x, bool moves) {
  if (moves) return *reinterpret_cast<const Pack<T, Width>*>(x);
  Pack<T, Width> pack;
  const T value = *x;
#pragma unroll
  for (int k = 0; k < Width; ++k) pack.at[k] = value;
  return pack;
}

template <class Out, class F, int Width, class... In>
__device__ void store_pack(Out* out, const F& f, const Pack<In, Width>&... x) {
  Pack<Out, Width> y;
#pragma unroll
  for (int k = 0; k < Width; ++k) y.at[k] = f(x.at[k]...);
  *reinterpret_cast<Pack<Out, Width>*>(out) = y;
}

/// out = f(in...) by packs; the elements behind the last whole pack follow one by one.
template <int Width, class Out, class F, class... In>
__global__ void __launch_bounds__(kThreads)
    map_packs(const __grid_constant__ Loops<1 + sizeof...(In)> loops, const F f, Out* out, const In*... in) {
  constexpr int kArrays = 1 + sizeof...(In);
  const auto total = static_cast<uint32_t>(loops.total), packs = total / Width;
  const uint32_t thread = blockIdx.x * blockDim.x + threadIdx.x, threads = gridDim.x * blockDim.x;
  int64_t offset[kArrays];
  [&]<size_t... I>(std::index_sequence<I...>) {
    for (uint32_t i = thread; i < packs; i += threads) {
      loops.locate(i * Width, offset);
      store_pack<Out, F, Width, In...>(out + offset[0], f,
                                       load_pack<Width>(in + offset[1 + I], loops.step[0][1 + I] != 0)...);
    }
    const uint32_t rest = packs * Width + thread;
    if (rest < total) {
      loops.locate(rest, offset);
      out[offset[0]] = f(in[offset[1 + I]]...);
    }
  }
  (std::index_sequence_for<In...>{});
}

/// out = f(in...) one element at a time.
template <class Out, class F, class... In>
__global__ void __launch_bounds__(kThreads)
    map_elements(const __grid_constant__ Loops<1 + sizeof...(In)> loops, const F f, Out* out,
                 const In*... in) {
  const auto total = static_cast<uint32_t>(loops.total);
  int64_t offset[1 + sizeof...(In)];
  [&]<size_t... I>(std::index_sequence<I...>) {
    for (uint32_t i = blockIdx.x * blockDim.x + threadIdx.x; i < total; i += gridDim.x * blockDim.x) {
      loops.locate(i, offset);
      out[offset[0]] = f(in[offset[1 + I]]...);
    }
  }
  (std::index_sequence_for<In...>{});
}

constexpr int kTile = 32;
constexpr int kTileRows = kThreads / kTile;  // that the threads of a block read at once

/// out[r, c] = in[c, r] for matrices whose rows are contiguous: a block reads a tile of 32 x 32 along the
/// rows of `in`, and writes it along the rows of `out`. The tile's rows are one element longer, so that a
/// column of it lies in 32 different banks.
template <class T>
__global__ void __launch_bounds__(kThreads)
    transpose_tiles(const __grid_constant__ Loops<2> matrices, uint32_t rows, uint32_t columns,
                    int64_t out_row_step, int64_t in_column_step, uint32_t row_tiles, uint32_t column_tiles,
                    T* out, const T* in) {
  __shared__ T tile[kTile][kTile + 1];
  const uint32_t x = threadIdx.x % kTile, y = threadIdx.x / kTile;
  const uint32_t column_tile = blockIdx.x % column_tiles, rest = blockIdx.x / column_tiles;
  const uint32_t first_row = rest % row_tiles * kTile, first_column = column_tile * kTile;
  int64_t offset[2];
  matrices.locate(rest / row_tiles, offset);
#pragma unroll
  for (uint32_t k = 0; k < kTile; k += kTileRows) {
    const uint32_t c = y + k;
    if (first_row + x < rows && first_column + c < columns) {
      tile[c][x] = in[offset[1] + (first_column + c) * in_column_step + first_row + x];
    }
  }
  __syncthreads();
#pragma unroll
  for (uint32_t k = 0; k < kTile; k += kTileRows) {
    const uint32_t r = y + k;
    if (first_row + r < rows && first_column + x < columns) {
      out[offset[0] + (first_row + r) * out_row_step + first_column + x] = tile[x][r];
    }
  }
}

// --- launches ----------------------------------------------------------------------------------------------

/// Elements per access, so that the widest of these types takes 16 bytes.
template <class... T>
constexpr int pack_width() {
  size_t widest = 0;
  ((widest = sizeof(T) > widest ? sizeof(T) : widest), ...);
  return static_cast<int>(16 / widest);
}

/// Elements that a thread computes at once with F, where its registers do not hold as many as a pack.
template <class F>
inline constexpr int kMostElements = 8;

/// out = f(in...) by packs, where the arrays allow it; otherwise returns false.
template <class Out, class... In, class F, class... Arrays>
bool try_packs(const F& f, const Array& out, const Arrays&... in) {
  constexpr int kArrays = 1 + sizeof...(In);
  constexpr int kWidth = std::min(pack_width<Out, In...>(), kMostElements<F>);
  const Loops<kArrays> loops = loops_over(out, in...);
  if (!in_packs<kArrays>(loops, {out.data, in.data...}, {sizeof(Out), sizeof(In)...}, kWidth)) return false;
  for_each_part(loops, [&](const Loops<kArrays>& part, const int64_t(&start)[kArrays]) {
    [&]<size_t... I>(std::index_sequence<I...>) {
      launch({grid_for(ceil_div(part.total, kWidth))}, map_packs<kWidth, Out, F, In...>, part, f,
             out.as<Out>() + start[0], in.template as<const In>() + start[1 + I]...);
    }
    (std::index_sequence_for<In...>{});
  });
  return true;
}

/// out = f(in...) for any strides.
template <class Out, class... In, class F, class... Arrays>
void map(const F& f, const Array& out, const Arrays&... in) {
  constexpr int kArrays = 1 + sizeof...(In);
  for_each_part(loops_over(out, in...), [&](const Loops<kArrays>& part, const int64_t(&start)[kArrays]) {
    [&]<size_t... I>(std::index_sequence<I...>) {
      launch({grid_for(part.total)}, map_elements<Out, F, In...>, part, f, out.as<Out>() + start[0],
             in.template as<const In>() + start[1 + I]...);
    }
    (std::index_sequence_for<In...>{});
  });
}

// --- functions of one and two arguments --------------------------------------------------------------------

/// A formula's derivative of this order.
template <class Formula, int Order>
struct Derivative {
  double p0, p1;
  template <class T>
  __device__ T operator()(T x) const {
    return formulas::derivative<Order>(Formula{}, x, p0, p1);
  }
};

/// The same times the upstream gradient.
template <class Formula, int Order>
struct Chain {
  double p0, p1;
  template <class T>
  __device__ T operator()(T upstream, T x) const {
    return upstream * formulas::derivative<Order>(Formula{}, x, p0, p1);
  }
};

/// Any formula and order, with the upstream gradient or without.
struct AnyDerivative {
  UnaryArgs op;
  bool chain;
  template <class T>
  __device__ T operator()(T upstream, T x) const {
    T y{};
    formulas::visit_formula(op.op, [&](auto formula) {
      switch (op.derivative) {
        case 0:
          y = formulas::derivative<0>(formula, x, op.p0, op.p1);
          break;
        case 1:
          y = formulas::derivative<1>(formula, x, op.p0, op.p1);
          break;
        case 2:
          y = formulas::derivative<2>(formula, x, op.p0, op.p1);
          break;
        case 3:
          y = formulas::derivative<3>(formula, x, op.p0, op.p1);
          break;
      }
    });
    return chain ? upstream * y : y;
  }
};

/// A formula of two arguments with its parameter.
template <class Formula, class T>
struct Binary {
  T p0;
  __device__ T operator()(T a, T b) const { return Formula{}(a, b, p0); }
};

template <class T>
struct AnyBinary {
  BinaryOp op;
  T p0;
  __device__ T operator()(T a, T b) const {
    T y{};
    formulas::visit_formula(op, [&](auto formula) { y = formula(a, b, p0); });
    return y;
  }
};

struct Select {
  template <class T>
  __device__ T operator()(T condition, T a, T b) const {
    return condition != T(0) ? a : b;
  }
};

// --- storage types -----------------------------------------------------------------------------------------

/// Between the types of two dtypes, where bf16 is stored as uint16_t.
template <class Out>
struct Convert {
  template <class In>
  __host__ __device__ Out operator()(In value) const {
    if constexpr (std::is_same_v<In, uint16_t>) {
      return Convert<Out>{}(formulas::from_bf16(value));
    } else if constexpr (std::is_same_v<Out, uint16_t>) {
      return formulas::to_bf16(static_cast<float>(value));
    } else {
      return static_cast<Out>(value);
    }
  }
};

/// f(x...) of numbers in bf16, computed in f32 and rounded.
template <class F>
struct InF32 {
  F f;
  template <class... T>
  __device__ uint16_t operator()(T... x) const {
    return formulas::to_bf16(f(formulas::from_bf16(x)...));
  }
};

template <>
inline constexpr int kMostElements<InF32<AnyDerivative>> = 4;

/// out = f(in...) in bf16, for any strides.
template <class F, class... Arrays>
void map_bf16(const F& f, const Array& out, const Arrays&... in) {
  const auto run = [&]<class... In>(In...) {
    if (!try_packs<uint16_t, In...>(InF32<F>{f}, out, in...)) map<uint16_t, In...>(InF32<F>{f}, out, in...);
  };
  run((static_cast<void>(in), uint16_t{})...);
}

/// Calls f(T{}) with the type that a dtype is stored as.
template <class F>
void with_storage(DType dtype, F&& f) {
  switch (dtype) {
    case DType::f32:
      return f(float{});
    case DType::f64:
      return f(double{});
    case DType::i64:
      return f(int64_t{});
    case DType::bf16:
      return f(uint16_t{});
  }
}

/// Calls f(T{}) with an unsigned type of a dtype's size: moving elements does not look at their values.
template <class F>
void with_bits(DType dtype, F&& f) {
  switch (dtype) {
    case DType::bf16:
      return f(uint16_t{});
    case DType::f32:
      return f(uint32_t{});
    case DType::f64:
    case DType::i64:
      return f(uint64_t{});
  }
}

template <class T>
struct Constant {
  T value;
  __device__ T operator()() const { return value; }
};

struct Identity {
  template <class T>
  __device__ T operator()(T value) const {
    return value;
  }
};

/// Copies one part of an array by tiles if the innermost loops of the two sides differ and are long enough to
/// fill tiles; otherwise returns false.
template <class T>
bool try_tiles(const Loops<2>& loops, T* out, const T* in) {
  constexpr int64_t kLeast = 8;
  if (loops.rank < 2 || loops.step[0][0] != 1 || loops.step[0][1] == 1 || loops.size[0] < kLeast)
    return false;
  int row_loop = 0;
  for (int loop = 1; loop < loops.rank && row_loop == 0; ++loop) {
    if (loops.step[loop][1] == 1 && loops.size[loop] >= kLeast) row_loop = loop;
  }
  if (row_loop == 0) return false;
  Loops<2> matrices;
  for (int loop = 1; loop < loops.rank; ++loop) {
    if (loop != row_loop) matrices.add_axis(loops.size[loop], loops.step[loop]);
  }
  matrices.prepare();
  const int64_t rows = loops.size[row_loop], columns = loops.size[0];
  const int64_t row_tiles = ceil_div(rows, kTile), column_tiles = ceil_div(columns, kTile);
  const auto blocks = static_cast<unsigned>(matrices.total * row_tiles * column_tiles);
  launch({blocks}, transpose_tiles<T>, matrices, rows, columns, loops.step[row_loop][0], loops.step[0][1],
         row_tiles, column_tiles, out, in);
  return true;
}

/// Copies without a conversion.
template <class T>
void move_elements(const Array& out, const Array& in) {
  if (try_packs<T, T>(Identity{}, out, in)) return;
  for_each_part(loops_over(out, in), [&](const Loops<2>& part, const int64_t(&start)[2]) {
    T* const to = out.as<T>() + start[0];
    const T* const from = in.as<const T>() + start[1];
    if (try_tiles(part, to, from)) return;
    launch({grid_for(part.total)}, map_elements<T, Identity, T>, part, Identity{}, to, from);
  });
}

}  // namespace

void fill(Array out, double value) {
  if (numel(out.shape) == 0) return;
  // The pattern is made on the host, so that there is one kernel per element size.
  with_storage(out.dtype, [&](auto tag) {
    const auto element = Convert<decltype(tag)>{}(value);
    with_bits(out.dtype, [&](auto bits) {
      using Bits = decltype(bits);
      if constexpr (sizeof(bits) == sizeof(element)) {
        std::memcpy(&bits, &element, sizeof(bits));
        const Constant<Bits> constant{bits};
        if (!try_packs<Bits>(constant, out)) map<Bits>(constant, out);
      }
    });
  });
}

void copy(Array out, Array in) {
  if (numel(out.shape) == 0) return;
  if (out.dtype == in.dtype) {
    return with_bits(out.dtype, [&](auto tag) { move_elements<decltype(tag)>(out, in); });
  }
  with_storage(out.dtype, [&](auto out_tag) {
    with_storage(in.dtype, [&](auto in_tag) {
      using Out = decltype(out_tag);
      using In = decltype(in_tag);
      if constexpr (!std::is_same_v<Out, In>) {
        const Convert<Out> convert;
        if (!try_packs<Out, In>(convert, out, in)) map<Out, In>(convert, out, in);
      }
    });
  });
}

void unary(UnaryArgs op, Array out, Array x) {
  if (numel(out.shape) == 0) return;
  if (x.dtype == DType::bf16) return map_bf16(AnyDerivative{op, false}, out, x, x);
  bool done = false;
  if (x.dtype == DType::f32 && op.derivative <= 1) {
    formulas::visit_formula(op.op, [&](auto formula) {
      using Formula = decltype(formula);
      done = op.derivative == 0 ? try_packs<float, float>(Derivative<Formula, 0>{op.p0, op.p1}, out, x)
                                : try_packs<float, float>(Derivative<Formula, 1>{op.p0, op.p1}, out, x);
    });
  }
  if (done) return;
  with_float(x.dtype, [&](auto tag) {
    using T = decltype(tag);
    map<T, T, T>(AnyDerivative{op, false}, out, x, x);
  });
}

void unary_chain(UnaryArgs op, Array out, Array upstream, Array x) {
  if (numel(out.shape) == 0) return;
  if (x.dtype == DType::bf16) return map_bf16(AnyDerivative{op, true}, out, upstream, x);
  bool done = false;
  if (x.dtype == DType::f32 && op.derivative == 1) {
    formulas::visit_formula(op.op, [&](auto formula) {
      done = try_packs<float, float, float>(Chain<decltype(formula), 1>{op.p0, op.p1}, out, upstream, x);
    });
  }
  if (done) return;
  with_float(x.dtype, [&](auto tag) {
    using T = decltype(tag);
    map<T, T, T>(AnyDerivative{op, true}, out, upstream, x);
  });
}

void binary(BinaryOp op, double p0, Array out, Array a, Array b) {
  if (numel(out.shape) == 0) return;
  if (a.dtype == DType::bf16) return map_bf16(AnyBinary<float>{op, static_cast<float>(p0)}, out, a, b);
  bool done = false;
  if (a.dtype == DType::f32) {
    formulas::visit_formula(op, [&](auto formula) {
      done =
          try_packs<float, float, float>(Binary<decltype(formula), float>{static_cast<float>(p0)}, out, a, b);
    });
  }
  if (done) return;
  with_float(a.dtype, [&](auto tag) {
    using T = decltype(tag);
    map<T, T, T>(AnyBinary<T>{op, static_cast<T>(p0)}, out, a, b);
  });
}

void where(Array out, Array condition, Array a, Array b) {
  if (numel(out.shape) == 0) return;
  if (a.dtype == DType::bf16) return map_bf16(Select{}, out, condition, a, b);
  with_float(a.dtype, [&](auto tag) {
    using T = decltype(tag);
    if (!try_packs<T, T, T, T>(Select{}, out, condition, a, b))
      map<T, T, T, T>(Select{}, out, condition, a, b);
  });
}

}  // namespace halfstep::cuda
