// Convolutions as implicit matrix products (cuda/conv2d.h) on tensor cores, for compute capability 8.0 and
// later: factors in bf16, or f32 rounded to TF32; sums in f32.
//
// A step of the sum is 64 bytes of terms (32 of bf16, 16 of f32). Tiles of both factors travel from global to
// shared memory in vectors of 16 bytes by asynchronous copies, which pass the registers by and fill in the
// zeros of the images' borders themselves. Four stages of shared memory are in flight: three steps are being
// copied while one is multiplied, which hides the latency of global memory with few threads. A block of
// 128 x 128 fetches 16 KiB per step from L2 for 128 * 128 * 32 products of bf16.
//
// How a tile lies in shared memory follows from what is contiguous in global memory, so that copies are whole
// vectors; the warps get their fragments (cuda/tensor_cores.h) from either layout:
//   terms contiguous: a line is 64 bytes; ldmatrix gives fragments of both types. Vector c of line l lies at
//     c ^ (l / 2 % 4): eight lines that ldmatrix reads at once fall on eight different groups of 4 banks;
//   lines contiguous: a row is one term of all lines. bf16: ldmatrix transposes; vector c of row k lies at
//     c ^ (k % 8). TF32: ldmatrix can only transpose 2-byte numbers, so lanes read single numbers; vector c
//     of row k lies at c ^ (2 (k % 4)), which sends the 4 rows x 8 lines of a fragment to 32 banks.
#include "cuda/conv2d.h"
#include "cuda/tensor_cores.h"

namespace halfstep::cuda {
namespace {

constexpr int kStages = 4;
constexpr int kStepBytes = 64;  // of terms, per line and step

/// m x n sums of a block; a warp has warp_m x warp_n of them. kResident: blocks on a multiprocessor at once.
template <int m, int n, int warp_m, int warp_n, int kResident_>
struct Tile {
  static constexpr int kM = m, kN = n, kWarpM = warp_m, kWarpN = warp_n, kResident = kResident_;
  static constexpr int kWarpsN = n / kWarpN;
  static constexpr int kBlock = m / kWarpM * kWarpsN * 32;
  static constexpr int kStage = (m + n) * kStepBytes;
};
using Large = Tile<128, 128, 64, 32, 2>;
using Small = Tile<64, 64, 32, 32, 4>;

/// Numbers of type In in 16 bytes, and in a step.
template <class In>
constexpr int kVectorOf = 16 / static_cast<int>(sizeof(In));
template <class In>
constexpr int kStepOf = kStepBytes / static_cast<int>(sizeof(In));

/// The layout of one factor's tile of kLines lines in a stage; offsets are in bytes.
template <class In, int kLines, bool kTermsContiguous_>
struct Layout {
  static constexpr bool kTermsContiguous = kTermsContiguous_, kHalves = sizeof(In) == 2;
  /// Contiguous bytes: of a line, or of a term.
  static constexpr int kRun = kTermsContiguous ? kStepBytes : kLines * static_cast<int>(sizeof(In));

  /// Where the 16 bytes with (line, term) lie.
  __device__ __forceinline__ static int vector(int line, int term) {
    constexpr int kVector = kVectorOf<In>;
    if constexpr (kTermsContiguous) {
      return line * kRun + (term / kVector ^ (line / 2 & 3)) * 16;
    } else {
      return term * kRun + (line / kVector ^ (kHalves ? term & 7 : 2 * (term & 3))) * 16;
    }
  }

  /// Where a lane begins to read the fragments of a warp whose lines start at `line`.
  __device__ __forceinline__ static int lane_offset(int line, int lane) {
    if constexpr (kTermsContiguous) {
      return vector(line + lane % 16, lane / 16 * kVectorOf<In>);
    } else if constexpr (kHalves) {
      return vector(line + lane / 8 % 2 * 8, lane % 8 + lane / 16 * 8);
    } else {
      return vector(line + lane / 4, lane % 4) + lane / 4 % 4 * 4;
    }
  }
};

/// Starts the copies of a thread's vectors of one step.
template <class In, class Layout, class Source>
__device__ __forceinline__ void copy_step(const Source& source, uint32_t tile, const void* anywhere) {
  using Share = typename Source::Share;
  static_assert(Share::kEven);
#pragma unroll
  for (int i = 0; i < Share::kCount; ++i) {
    const In* const from = source.vector(i);
    copy_async(tile + Layout::vector(Share::line(i), Share::term(i)), from ? from : anywhere,
               from != nullptr);
  }
}

/// Loads the fragments of lines 16 i to 16 i + 15 of a warp, and 32 bytes of terms, in the order of the first
/// factor: (lines 0-7, first 16 bytes), (lines 8-15, first), (lines 0-7, last), (lines 8-15, last). The
/// second factor is two blocks of 8 lines: registers 0 and 2 are one, 1 and 3 the other. at: the tile's
/// offset and the lane's. A warp's first line is a multiple of its lines, so that steps along a swizzled axis
/// are exclusive ors: no address is kept but `at`.
template <class In, class Layout>
__device__ __forceinline__ void load_fragment(uint32_t (&to)[4], const unsigned char* stages, uint32_t memory,
                                              int at, int i, int term) {
  if constexpr (Layout::kTermsContiguous) {
    load_matrices(to, memory + (at ^ term / kVectorOf<In> * 16) + i * 16 * Layout::kRun);
  } else if constexpr (Layout::kHalves) {
    load_matrices_transposed(to, memory + (at ^ i * 32) + term * Layout::kRun);
  } else {
#pragma unroll
    for (int part = 0; part < 4; ++part) {
      const int offset = (at ^ (i * 64 + part % 2 * 32)) + (term + part / 2 * 4) * Layout::kRun;
      to[part] = *reinterpret_cast<const uint32_t*>(stages + offset);
    }
  }
  if constexpr (!Layout::kHalves) {
#pragma unroll
    for (int part = 0; part < 4; ++part) to[part] = round_to_tf32(to[part]);
  }
}

template <class In>
__device__ __forceinline__ void multiply_fragments(float (&sums)[4], const uint32_t (&a)[4], uint32_t b0,
                                                   uint32_t b1) {
  if constexpr (std::is_same_v<In, Bf16>) {
    multiply_bf16(sums, a, b0, b1);
  } else {
    multiply_tf32(sums, a, b0, b1);
  }
}

/// Writes two neighbouring sums; at: of the first. Channels are multiples of 4, so both are inside the group.
template <class In>
__device__ __forceinline__ void write_pair(const Convolution& conv, int split, int64_t at, float2 pair,
                                           int64_t channel) {
  if (conv.partial) {
    *reinterpret_cast<float2*>(static_cast<float*>(conv.partial) + split * conv.out_elements + at) = pair;
    return;
  }
  if (conv.bias) {
    pair.x += bias_of<In>(conv, channel);
    pair.y += bias_of<In>(conv, channel + 1);
  }
  if (std::is_same_v<In, Bf16> && conv.out_bf16) {
    const uint32_t bits = to_bf16(pair.x).bits | uint32_t{to_bf16(pair.y).bits} << 16;
    *reinterpret_cast<uint32_t*>(static_cast<Bf16*>(conv.out) + at) = bits;
  } else {
    *reinterpret_cast<float2*>(static_cast<float*>(conv.out) + at) = pair;
  }
}

template <Pass pass, class In, class T>
__global__ void __launch_bounds__(T::kBlock, T::kResident)
    multiply(const __grid_constant__ Convolution conv) {
  // Older devices are never asked; they do not know the instructions.
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
  constexpr int kStep = kStepOf<In>, kVector = kVectorOf<In>;
  constexpr int kFirstBytes = T::kM * kStepBytes;
  constexpr int kFragmentsM = T::kWarpM / 16, kPairsN = T::kWarpN / 16;
  constexpr bool kFirstTerms = pass != Pass::weights, kSecondTerms = pass == Pass::data;
  using Factors = Sources<pass, In, T::kM, T::kN, kStep, kVector, T::kBlock>;
  using FirstLayout = Layout<In, T::kM, kFirstTerms>;
  using SecondLayout = Layout<In, T::kN, kSecondTerms>;
  extern __shared__ __align__(128) unsigned char stages[];
  __shared__ Block<pass> block;

  if (threadIdx.x == 0) find_work(block, conv, T::kM, T::kN, kStep);
  __syncthreads();
  if (block.m >= block.rows) return;  // a phase with fewer pixels than others
  typename Factors::First first(conv, block);
  typename Factors::Second second(conv, block);

  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int row = warp / T::kWarpsN * T::kWarpM, column = warp % T::kWarpsN * T::kWarpN;

  float sums[kFragmentsM][2 * kPairsN][4];
#pragma unroll
  for (int i = 0; i < kFragmentsM; ++i) {
#pragma unroll
    for (int j = 0; j < 2 * kPairsN; ++j) {
#pragma unroll
      for (int e = 0; e < 4; ++e) sums[i][j][e] = 0;
    }
  }

  const uint32_t memory = shared_address(stages);
  const int first_lane = FirstLayout::lane_offset(row, lane);
  const int second_lane = SecondLayout::lane_offset(column, lane) + kFirstBytes;
  const int steps = block.steps;
  int copied = 0;
  // One group per call, also where there is nothing left to copy: the waits count groups.
  const auto copy_next = [&] {
    if (copied < steps) {
      const uint32_t stage = memory + copied % kStages * T::kStage;
      copy_step<In, FirstLayout>(first, stage, conv.first);
      copy_step<In, SecondLayout>(second, stage + kFirstBytes, conv.second);
      first.advance();
      second.advance();
    }
    commit_copies();
    ++copied;
  };

#pragma unroll 1
  for (int i = 0; i < kStages - 1; ++i) copy_next();
#pragma unroll 1
  for (int step = 0; step < steps; ++step) {
    wait_copies<kStages - 2>();
    // Now this step is in shared memory, and all warps have left the stage of the step before, which is the
    // one to be filled next.
    __syncthreads();
    copy_next();
    const int stage = step % kStages * T::kStage;
#pragma unroll
    for (int term = 0; term < kStep; term += 2 * kVector) {
      uint32_t a[kFragmentsM][4];
#pragma unroll
      for (int i = 0; i < kFragmentsM; ++i) {
        load_fragment<In, FirstLayout>(a[i], stages, memory, stage + first_lane, i, term);
      }
#pragma unroll
      for (int j = 0; j < kPairsN; ++j) {
        uint32_t b[4];
        load_fragment<In, SecondLayout>(b, stages, memory, stage + second_lane, j, term);
#pragma unroll
        for (int i = 0; i < kFragmentsM; ++i) {
          multiply_fragments<In>(sums[i][2 * j], a[i], b[0], b[2]);
          multiply_fragments<In>(sums[i][2 * j + 1], a[i], b[1], b[3]);
        }
      }
    }
  }
  wait_copies<0>();

#pragma unroll
  for (int i = 0; i < kFragmentsM; ++i) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int r = row + i * 16 + half * 8 + lane / 4;
      if (block.m + r >= block.rows) continue;
      const int64_t at = block.out_offset(conv, r);
#pragma unroll
      for (int j = 0; j < 2 * kPairsN; ++j) {
        const int n = block.n + column + j * 8 + lane % 4 * 2;
        if (n >= conv.columns) continue;
        write_pair<In>(conv, block.split, at + n, make_float2(sums[i][j][2 * half], sums[i][j][2 * half + 1]),
                       int64_t{block.group} * conv.columns + n);
      }
    }
  }
#endif
}

template <class In>
TileShape shape_of(int m, int n, double speed) {
  return {m, n, kStepOf<In>, speed};
}

template <class In, class T>
void run(Pass pass, Convolution& conv) {
  const unsigned blocks = plan_grid(pass, conv, shape_of<In>(T::kM, T::kN, 1), sizeof(float));
  const Launch where{dim3(blocks), dim3(T::kBlock), kStages * T::kStage};
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

template <class In>
void choose(Pass pass, Convolution& conv) {
  const double large = estimate(pass, conv, shape_of<In>(Large::kM, Large::kN, 1));
  const double small = estimate(pass, conv, shape_of<In>(Small::kM, Small::kN, 0.7));
  small < large ? run<In, Small>(pass, conv) : run<In, Large>(pass, conv);
}

}  // namespace

void multiply_on_tensor_cores(Pass pass, Convolution conv, DType dtype) {
  dtype == DType::bf16 ? choose<Bf16>(pass, conv) : choose<float>(pass, conv);
}

}  // namespace halfstep::cuda
