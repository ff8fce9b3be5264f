// Convolutions as implicit matrix products (cuda/conv2d.h) on the ordinary arithmetic units: f32, f64, and
// bf16 where tensor cores cannot take it.
//
// A block holds a tile of m x n sums in the registers of its threads, 8 x 8 or 4 x 4 each. Step by step it
// copies k terms of both factors to the fast memory that its threads share, where each is read by many: per
// term, an 8 x 8 thread reads 16 numbers for 64 products, and a block of 128 x 128 fetches 256 numbers from
// L2 for 16384. While one step is multiplied, the next is on its way to registers; there are two buffers, so
// that one barrier per step is enough.
//
// Factors lie as [k][lines] in shared memory. What comes with k contiguous (windows of pixels) is transposed
// by the copy; a swizzle of the lines lets the lanes of a warp hit different banks then. Lanes of a warp form
// 4 x 8 so that a warp's reads of 16 bytes per lane touch each bank once.
#include "cuda/conv2d.h"

namespace halfstep::cuda {
namespace {

/// m x n sums in steps of k; each thread has kRows x kColumns of them, in quads of neighbours. kResident
/// blocks run on a multiprocessor at once, which limits a thread's registers. kVectorsOnly: for arrays that
/// allow 16 bytes at once; the code for others would cost registers.
template <int m, int n, int k, int kRows_, int kColumns_, int kLanesM_, int kResident_, bool kVectorsOnly_>
struct Tile {
  static constexpr int kM = m, kN = n, kK = k, kRows = kRows_, kColumns = kColumns_;
  static constexpr int kLanesM = kLanesM_, kLanesN = 32 / kLanesM;
  static constexpr int kWarpM = kLanesM * kRows, kWarpN = kLanesN * kColumns;  ///< sums of a warp
  static constexpr int kWarpsN = n / kWarpN;
  static constexpr int kBlock = m / kWarpM * kWarpsN * 32;
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 1000
  // There the assembler needs some registers more, and would keep them in memory.
  static constexpr int kResident = kResident_ > 1 ? kResident_ - 1 : 1;
#else
  static constexpr int kResident = kResident_;
#endif
  static constexpr bool kVectorsOnly = kVectorsOnly_;
};
using Large = Tile<128, 128, 8, 8, 8, 4, 2, true>;
using Small = Tile<64, 64, 16, 4, 4, 4, 3, false>;
using Narrow = Tile<128, 16, 16, 4, 4, 8, 4, false>;  // for few output channels
using Double = Tile<64, 64, 8, 4, 4, 4, 1, false>;

template <class T>
TileShape shape_of(double speed) {
  return {T::kM, T::kN, T::kK, speed};
}

// --- vectors -----------------------------------------------------------------------------------------------

__device__ __forceinline__ void read_vector(const float* from, float (&to)[4]) {
  const float4 v = *reinterpret_cast<const float4*>(from);
  to[0] = v.x, to[1] = v.y, to[2] = v.z, to[3] = v.w;
}
__device__ __forceinline__ void read_vector(const double* from, double (&to)[2]) {
  const double2 v = *reinterpret_cast<const double2*>(from);
  to[0] = v.x, to[1] = v.y;
}
__device__ __forceinline__ void write_vector(float* to, const float* v) {
  *reinterpret_cast<float4*>(to) = make_float4(v[0], v[1], v[2], v[3]);
}
__device__ __forceinline__ void write_vector(double* to, const double* v) {
  *reinterpret_cast<double2*>(to) = make_double2(v[0], v[1]);
}
__device__ __forceinline__ void read_quad(const float* from, float* to) {
  const float4 v = *reinterpret_cast<const float4*>(from);
  to[0] = v.x, to[1] = v.y, to[2] = v.z, to[3] = v.w;
}
__device__ __forceinline__ void read_quad(const double* from, double* to) {
  const double2 v = *reinterpret_cast<const double2*>(from);
  const double2 w = *reinterpret_cast<const double2*>(from + 2);
  to[0] = v.x, to[1] = v.y, to[2] = w.x, to[3] = w.y;
}
__device__ __forceinline__ void write_quad(float* to, const float* v) { write_vector(to, v); }
__device__ __forceinline__ void write_quad(double* to, const double* v) {
  write_vector(to, v);
  write_vector(to + 2, v + 2);
}

// --- a factor's tile in shared memory ----------------------------------------------------------------------

/// Rows of k terms, padded by 16 bytes or more that keep vectors aligned.
template <class T, int kLines, int kDepth>
struct FactorTile {
  alignas(16) T rows[kDepth][kLines + 4];

  /// Where line `line` lies in row k. A transposing copy writes one line per lane group of 4 with k 4 apart:
  /// rows 8 apart would fall on the same banks.
  __device__ __forceinline__ static int place(int k, int line) { return line ^ (k / 8 * 8); }

  template <class Share>
  __device__ __forceinline__ void store(const T (&v)[Share::kCount][Share::kVector]) {
#pragma unroll
    for (int i = 0; i < Share::kCount; ++i) {
      if (!Share::has(i)) continue;
      const int line = Share::line(i), k = Share::term(i);
      if constexpr (Share::kAlongSum) {
#pragma unroll
        for (int e = 0; e < Share::kVector; ++e) rows[k + e][place(k, line)] = v[i][e];
      } else {
        write_vector(&rows[k][place(k, line)], v[i]);
      }
    }
  }
};

/// A thread's vectors of one step, from global memory.
template <class T, class In, class Source, class Share = typename Source::Share>
__device__ __forceinline__ void fetch(const Source& source, bool vectors,
                                      T (&to)[Share::kCount][Share::kVector]) {
#pragma unroll
  for (int i = 0; i < Share::kCount; ++i) {
    if constexpr (std::is_same_v<T, In>) {
      if (vectors) {
        const In* const from = source.vector(i);
        if (from) {
          read_vector(from, to[i]);
        } else {
#pragma unroll
          for (int e = 0; e < Share::kVector; ++e) to[i][e] = 0;
        }
        continue;
      }
    }
    const In* from[Share::kVector];
    source.elements(i, from);
#pragma unroll
    for (int e = 0; e < Share::kVector; ++e) to[i][e] = from[e] ? to_sum(*from[e]) : T(0);
  }
}

// --- the product -------------------------------------------------------------------------------------------

/// Writes four neighbouring sums of a row of out, as far as they are inside the group; at: of the first.
template <class In>
__device__ __forceinline__ void write_sums(const Convolution& conv, int split, int64_t at, int inside,
                                           Sum<In>* sums, int64_t channel) {
  using T = Sum<In>;
  if (conv.bias && !conv.partial) {
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      if (e < inside) sums[e] += bias_of<In>(conv, channel + e);
    }
  }
  if constexpr (std::is_same_v<In, Bf16>) {
    if (!conv.partial && conv.out_bf16) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        if (e < inside) static_cast<Bf16*>(conv.out)[at + e] = to_bf16(sums[e]);
      }
      return;
    }
  }
  T* const to =
      (conv.partial ? static_cast<T*>(conv.partial) + split * conv.out_elements : static_cast<T*>(conv.out)) +
      at;
  if (conv.out_vectors && inside >= 4) return write_quad(to, sums);
#pragma unroll
  for (int e = 0; e < 4; ++e) {
    if (e < inside) to[e] = sums[e];
  }
}

template <Pass pass, class In, class T>
__global__ void __launch_bounds__(T::kBlock, T::kResident)
    multiply(const __grid_constant__ Convolution conv) {
  using Number = Sum<In>;
  constexpr int kVector = 16 / sizeof(Number);
  using Factors = Sources<pass, In, T::kM, T::kN, T::kK, kVector, T::kBlock>;
  using FirstShare = typename Factors::FirstSharing;
  using SecondShare = typename Factors::SecondSharing;
  __shared__ FactorTile<Number, T::kM, T::kK> first_tiles[2];
  __shared__ FactorTile<Number, T::kN, T::kK> second_tiles[2];

  __shared__ Block<pass> block;
  if (threadIdx.x == 0) find_work(block, conv, T::kM, T::kN, T::kK);
  __syncthreads();
  if (block.m >= block.rows) return;  // a phase with fewer pixels than others
  typename Factors::First first(conv, block);
  typename Factors::Second second(conv, block);

  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int row = warp / T::kWarpsN * T::kWarpM + lane / T::kLanesN * 4;
  const int column = warp % T::kWarpsN * T::kWarpN + lane % T::kLanesN * 4;

  Number sums[T::kRows][T::kColumns];
#pragma unroll
  for (int i = 0; i < T::kRows; ++i) {
#pragma unroll
    for (int j = 0; j < T::kColumns; ++j) sums[i][j] = 0;
  }

  Number next_first[FirstShare::kCount][kVector], next_second[SecondShare::kCount][kVector];
  const auto fetch_step = [&] {
    fetch<Number, In>(first, T::kVectorsOnly || conv.first_vectors, next_first);
    fetch<Number, In>(second, T::kVectorsOnly || conv.second_vectors, next_second);
    first.advance();
    second.advance();
  };
  const auto store_step = [&](int buffer) {
    first_tiles[buffer].template store<FirstShare>(next_first);
    second_tiles[buffer].template store<SecondShare>(next_second);
  };

  if (block.steps > 0) {
    fetch_step();
    store_step(0);
  }
  __syncthreads();
  for (int step = 0; step < block.steps; ++step) {
    const int buffer = step & 1;
    const bool more = step + 1 < block.steps;
    if (more) fetch_step();
#pragma unroll
    for (int k = 0; k < T::kK; ++k) {
      Number a[T::kRows], b[T::kColumns];
#pragma unroll
      for (int i = 0; i < T::kRows; i += 4) {
        const int line = first_tiles[0].place(k, row + i * T::kLanesM);
        read_quad(&first_tiles[buffer].rows[k][line], a + i);
      }
#pragma unroll
      for (int j = 0; j < T::kColumns; j += 4) {
        const int line = second_tiles[0].place(k, column + j * T::kLanesN);
        read_quad(&second_tiles[buffer].rows[k][line], b + j);
      }
#pragma unroll
      for (int i = 0; i < T::kRows; ++i) {
#pragma unroll
        for (int j = 0; j < T::kColumns; ++j) sums[i][j] += a[i] * b[j];
      }
    }
    if (more) store_step(buffer ^ 1);  // which all threads left before the last barrier
    __syncthreads();
  }

#pragma unroll
  for (int i = 0; i < T::kRows; ++i) {
    const int r = row + i / 4 * 4 * T::kLanesM + i % 4;
    if (block.m + r >= block.rows) continue;
    const int64_t at = block.out_offset(conv, r);
#pragma unroll
    for (int j = 0; j < T::kColumns; j += 4) {
      const int n = block.n + column + j * T::kLanesN;
      if (n >= conv.columns) continue;
      write_sums<In>(conv, block.split, at + n, conv.columns - n, sums[i] + j,
                     int64_t{block.group} * conv.columns + n);
    }
  }
}

// --- choice of tiles ---------------------------------------------------------------------------------------

template <class In, class T>
void run(Pass pass, Convolution& conv) {
  const unsigned blocks = plan_grid(pass, conv, shape_of<T>(1), sizeof(Sum<In>));
  const Launch where{dim3(blocks), dim3(T::kBlock)};
  switch (pass) {
    case Pass::forward:
      launch(where, multiply<Pass::forward, In, T>, conv);
      break;
    case Pass::data:
      launch(where, multiply<Pass::data, In, T>, conv);
      break;
    case Pass::weights:
      launch(where, multiply<Pass::weights, In, T>, conv);
      break;
  }
  finish_splits(conv, dtype_of_element<In>());
}

}  // namespace

void multiply_simt(Pass pass, Convolution conv, DType dtype) {
  if (dtype == DType::f64) return run<double, Double>(pass, conv);
  if (dtype == DType::bf16) return run<Bf16, Small>(pass, conv);
  // Smaller tiles read more numbers per product.
  const bool vectors = conv.first_vectors && conv.second_vectors;
  const double small = estimate(pass, conv, shape_of<Small>(0.7));
  const double narrow = estimate(pass, conv, shape_of<Narrow>(0.5));
  if (vectors && estimate(pass, conv, shape_of<Large>(1)) <= min(small, narrow)) {
    return run<float, Large>(pass, conv);
  }
  narrow < small ? run<float, Narrow>(pass, conv) : run<float, Small>(pass, conv);
}

}  // namespace halfstep::cuda
