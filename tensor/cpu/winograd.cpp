// 3x3 convolutions by Winograd's F(4x4, 3x3): see winograd.h for the transforms.
//
// The three matrices of a convolution, for each of the 36 frequencies f, are
//   V [tile][channel of the input]   the transformed tiles of the input,
//   U [channel of the input][channel of the output]   the transformed filters,
//   M [tile][channel of the output] = V U   what is transformed to the output.
// They are cut so that what is multiplied lies in the caches and comes in the order of memory:
//   V  chunk of the input's channels, frequency, tile, channel
//   U  panel of the output's channels, chunk, frequency, channel of the input, channel of the panel
//   M  frequency, tile, channel of the panel
#include "tensor/cpu/winograd.h"

#include "tensor/cpu/caches.h"
#include "tensor/cpu/thread_pool.h"
#include "tensor/cpu/tile.h"
#include "tensor/cpu/workspace.h"

namespace halfstep::cpu::inline HALFSTEP_ISA {
namespace {

constexpr int L = kLanes<float>, MR = kTileRows, NR = kTileColumns<float>;
constexpr int64_t kFloat = sizeof(float), kLine = 64 / kFloat;
using Vec = Vector<float>;
// Rows of the scratch matrices are this much longer than they must be: at steps of a power of two they would
// share few lines of the cache.
constexpr int64_t kPad = 16;

/// Bytes of the second-level cache that matrices may count on; the rest is for what streams by.
int64_t cache_room() { return second_level_cache() / 8 * 5; }

/// T X T^T for a one-dimensional transform T of In numbers to Out: first the columns of X, then the rows of
/// the result. `load(i, j)` gives an element of X, `store(i, j, value)` takes one of rows
/// row_of(0) ... row_of(Rows - 1).
template <int In, int Out, int Rows, class Transform, class RowOf, class Load, class Store>
[[gnu::always_inline]] inline void transform_rows(Transform transform, RowOf row_of, Load load, Store store) {
  Vec t[Rows][In];
#pragma GCC unroll 6
  for (int j = 0; j < In; ++j) {
    Vec column[In], result[Out];
#pragma GCC unroll 6
    for (int i = 0; i < In; ++i) column[i] = load(i, j);
    transform(column, result);
#pragma GCC unroll 6
    for (int i = 0; i < Rows; ++i) t[i][j] = result[row_of(i)];
  }
#pragma GCC unroll 6
  for (int i = 0; i < Rows; ++i) {
    Vec result[Out];
    transform(t[i], result);
#pragma GCC unroll 6
    for (int j = 0; j < Out; ++j) store(i, j, result[j]);
  }
}
constexpr auto kEveryRow = [](int i) { return i; };
template <int In, int Out, class Transform, class Load, class Store>
[[gnu::always_inline]] inline void transform_square(Transform transform, Load load, Store store) {
  transform_rows<In, Out, Out>(transform, kEveryRow, load, store);
}

/// Where the tiles of 4x4 outputs lie: all of a batch, in the order of the images' rows.
struct Tiles {
  int64_t images, h, w, oh, ow, pad_top, pad_left;
  int64_t tall = ceil_div(oh, kWinogradOut), wide = ceil_div(ow, kWinogradOut);

  int64_t count() const { return images * tall * wide; }
  int64_t image(int64_t tile) const { return tile / (tall * wide); }
  int64_t top(int64_t tile) const { return tile / wide % tall * kWinogradOut; }
  int64_t left(int64_t tile) const { return tile % wide * kWinogradOut; }
  /// The first pixel of its outputs, counted through the batch.
  int64_t output(int64_t tile) const { return (image(tile) * oh + top(tile)) * ow + left(tile); }
};

/// A tile's window into images [image][h][w][channels]: pointers to its pixels, to `zeros` outside the image.
template <int Size>
struct Window {
  const float* pixels[Size][Size];

  Window(const float* images, int64_t channels, int64_t image, int64_t h, int64_t w, int64_t top,
         int64_t left, const float* zeros) {
    const float* const origin = images + image * h * w * channels;
    for (int i = 0; i < Size; ++i) {
      for (int j = 0; j < Size; ++j) {
        const int64_t row = top + i, column = left + j;
        const bool inside = 0 <= row && row < h && 0 <= column && column < w;
        pixels[i][j] = inside ? origin + (row * w + column) * channels : zeros;
      }
    }
  }
};

Window<kWinogradIn> input_window(const Tiles& tiles, int64_t tile, const float* x, int64_t channels,
                                 const float* zeros) {
  return {x,
          channels,
          tiles.image(tile),
          tiles.h,
          tiles.w,
          tiles.top(tile) - tiles.pad_top,
          tiles.left(tile) - tiles.pad_left,
          zeros};
}
Window<kWinogradOut> output_window(const Tiles& tiles, int64_t tile, const float* y, int64_t channels,
                                   const float* zeros) {
  return {y, channels, tiles.image(tile), tiles.oh, tiles.ow, tiles.top(tile), tiles.left(tile), zeros};
}

/// Calls use(i, window, next) for windows i < count: `next` is the one that follows, so that it can be
/// fetched meanwhile, or the last one itself.
template <class WindowOf, class Use>
[[gnu::always_inline]] inline void for_each_window(int64_t count, WindowOf window_of, Use use) {
  if (count <= 0) return;
  auto window = window_of(int64_t{0});
  for (int64_t i = 0; i < count; ++i) {
    const auto next = window_of(min(i + 1, count - 1));
    use(i, window, next);
    window = next;
  }
}

/// out[(i * kWinogradIn + j) * step + c] = element (i, j) of what transform_rows makes of channel first + c
/// of a window, for c < `channels`. What `next` has that its neighbour to the left has not is fetched.
template <int Rows, int Size, class Transform, class RowOf>
[[gnu::always_inline]] inline void transform_window(float* out, int64_t step, const Window<Size>& window,
                                                    const Window<Size>& next, int64_t first, int64_t channels,
                                                    Transform transform, RowOf row_of) {
  for (int64_t c = 0; c < channels; c += L) {
#pragma GCC unroll 6
    for (int i = Size - kWinogradOut; i < Size; ++i) {
#pragma GCC unroll 6
      for (int j = Size - kWinogradOut; j < Size; ++j) __builtin_prefetch(next.pixels[i][j] + first + c);
    }
    transform_rows<Size, kWinogradIn, Rows>(
        transform, row_of, [&](int i, int j) { return load(window.pixels[i][j] + first + c); },
        [&](int i, int j, Vec value) { store(out + (i * kWinogradIn + j) * step + c, value); });
  }
}

// V and Z: the transforms of a tile's input and of its output's gradient.
constexpr auto kInput = [](auto& in, auto& result) { winograd::input(in, result); };
constexpr auto kOutputAdjoint = [](auto& in, auto& result) { winograd::output_adjoint(in, result); };

/// A vector of zeros for every channel.
class Zeros {
 public:
  explicit Zeros(int64_t channels) : memory_(kFloat * channels) {
    std::memset(memory_.data, 0, kFloat * channels);
  }
  operator const float*() const { return static_cast<const float*>(memory_.data); }

 private:
  Workspace memory_;
};

/// Where a convolution's outputs go, and what is added to them: nullptr, or a bias per channel and an image
/// batch like y.
struct Outputs {
  float* y;
  const float *bias, *residual;
};

/// The outputs of a tile in channels [first, first + channels) of y = A^T m A + bias + residual; m is
/// m[f * step + c].
void transform_output(const Outputs& outputs, int64_t all_channels, int64_t first, int64_t channels,
                      const Tiles& tiles, int64_t tile, const float* m, int64_t step) {
  const int64_t top = tiles.top(tile), left = tiles.left(tile);
  const int64_t tall = min(kWinogradOut, tiles.oh - top), wide = min(kWinogradOut, tiles.ow - left);
  const int64_t start = tiles.output(tile) * all_channels + first;
  // Where the tile after the next goes is fetched meanwhile, to be written.
  const int64_t ahead = (tiles.output(min(tile + 2, tiles.count() - 1)) - tiles.output(tile)) * all_channels;
  for (int64_t c = 0; c < channels; c += L) {
    const Vec b = outputs.bias ? load(outputs.bias + first + c) : Vec{};
    transform_square<kWinogradIn, kWinogradOut>(
        [](auto& in, auto& result) { winograd::output(in, result); },
        [&](int i, int j) { return load(m + (i * kWinogradIn + j) * step + c); },
        [&](int i, int j, Vec value) {
          if (i >= tall || j >= wide) return;
          const int64_t at = start + (i * tiles.ow + j) * all_channels + c;
          __builtin_prefetch(outputs.y + at + ahead, 1);
          store(outputs.y + at, outputs.residual ? value + b + load(outputs.residual + at) : value + b);
        });
  }
}

/// The filters of a convolution from `depth` channels to `columns` channels: those of kernel
/// [tap][depth][columns], or the ones of its gradient, kernel [tap][columns][depth] turned by 180 degrees.
struct Filters {
  const float* kernel;
  int64_t depth, columns;
  bool turned;
  int64_t chunk = depth;  ///< so many channels of the input lie together in U and V

  int64_t panels() const { return ceil_div(columns, NR); }
  int64_t width_of(int64_t panel) const { return min(NR, columns - panel * NR); }
  int64_t chunks() const { return ceil_div(depth, chunk); }
  int64_t channels_of(int64_t c) const { return min(chunk, depth - c * chunk); }
  /// From one frequency to the next, and all of them, for a panel and a chunk.
  int64_t u_step() const { return chunk * NR + kPad; }
  int64_t u_size() const { return kFrequencies * u_step(); }
};

// Channels of the input whose filters are transformed at a time.
constexpr int64_t kFilterChannels = 64;

/// u[f * u_step + (i - first) * NR + j] = the transform of the filter from channel i to column j of a panel,
/// for i from `first` to `last`, at most kFilterChannels of them. The zeros behind the last column are not
/// written.
void transform_filters(float* u, const Filters& filters, int64_t panel, int64_t first, int64_t last) {
  const int64_t j0 = panel * NR, wide = filters.width_of(panel), count = last - first,
                step = filters.u_step();
  const Workspace memory(filters.turned ? kFloat * 9 * kFilterChannels * NR : 0);
  float* const turned = static_cast<float*>(memory.data);
  // Tap t of channel first + i is at source[t * tap_step + i * channel_step].
  const float* source = filters.kernel + first * filters.columns + j0;
  int64_t tap_step = filters.depth * filters.columns, channel_step = filters.columns;
  if (filters.turned) {
    tap_step = kFilterChannels * NR, channel_step = NR;
    for (int64_t tap = 0; tap < 9; ++tap) {
      const float* const from = filters.kernel + (tap * filters.columns + j0) * filters.depth + first;
      for (int64_t i = 0; i < count; i += L) {
        for (int64_t j = 0; j < wide; j += L) {
          transpose_square(turned + (8 - tap) * tap_step + i * NR + j, NR, from + j * filters.depth + i,
                           filters.depth);
        }
      }
    }
    source = turned;
  }
  constexpr int64_t kAhead = 6;  // channels whose filters are fetched meanwhile
  for (int64_t i = 0; i < count; ++i) {
    for (int64_t j = 0; j < wide; j += L) {
      const float* const taps = source + i * channel_step + j;
      float* const out = u + i * NR + j;
      transform_square<3, kWinogradIn>(
          [](auto& in, auto& result) { winograd::filter(in, result); },
          [&](int k, int l) {
            const float* const tap = taps + (k * 3 + l) * tap_step;
            __builtin_prefetch(tap + kAhead * channel_step);
            return load(tap);
          },
          [&](int k, int l, Vec value) { store(out + (k * kWinogradIn + l) * step, value); });
    }
  }
}

/// The convolution of x by filters.
class Convolution {
 public:
  Convolution(const Tiles& all_tiles, const float* images, const Filters& all_filters,
              const Outputs& all_outputs)
      : tiles(all_tiles), x(images), filters(all_filters), outputs(all_outputs) {
    if (is_small()) {
      const int64_t fitting = cache_room() / (kFloat * kFrequencies * NR) / kFilterChannels * kFilterChannels;
      filters.chunk = min(filters.depth, max(kFilterChannels, fitting));
    }
    v_row = filters.chunk + kPad;
  }

  void run() const {
    if (count == 0) return;
    is_small() ? by_panels() : by_blocks();
  }

 private:
  Tiles tiles;
  const float* x;
  Filters filters;
  Outputs outputs;
  int64_t count = tiles.count(), v_row;

  /// Few tiles do not pay for filters that make the way to memory and back.
  bool is_small() const { return count <= 64; }

  /// V of `n` tiles: from one frequency to the next, and of a chunk.
  int64_t v_step(int64_t n) const { return n * v_row + kPad; }
  int64_t v_size(int64_t n) const { return kFrequencies * v_step(n); }
  int64_t m_step(int64_t n) const { return n * NR + kPad; }

  /// Tiles [first, last) of V, which has room for n of them.
  void transform_inputs(float* v, int64_t n, int64_t first, int64_t last) const {
    const Zeros zeros(filters.depth);
    for_each_window(
        last - first, [&](int64_t i) { return input_window(tiles, first + i, x, filters.depth, zeros); },
        [&](int64_t i, const auto& window, const auto& next) {
          for (int64_t chunk = 0; chunk < filters.chunks(); ++chunk) {
            transform_window<kWinogradIn>(v + chunk * v_size(n) + i * v_row, v_step(n), window, next,
                                          chunk * filters.chunk, filters.channels_of(chunk), kInput,
                                          kEveryRow);
          }
        });
  }

  /// M (+)= V U for `used` of n tiles, a panel and a chunk. What is multiplied next is fetched beside it.
  void multiply_chunk(float* m, const float* v, const float* u, int64_t n, int64_t used, int64_t panel,
                      int64_t chunk) const {
    for (int64_t f = 0; f < kFrequencies; ++f) {
      const float *const v_f = v + f * v_step(n), *const u_f = u + f * filters.u_step();
      multiply<float>({.m = used,
                       .n = filters.width_of(panel),
                       .k = filters.channels_of(chunk),
                       .a = v_f,
                       .a_row = v_row,
                       .a_step = 1,
                       .b = u_f,
                       .b_row = NR,
                       .c = m + f * m_step(n),
                       .c_row = NR,
                       .accumulate = chunk > 0,
                       .ahead = {{v_f + v_step(n), v_step(n)}, {u_f + filters.u_step(), filters.u_step()}}});
    }
  }

  void transform_outputs(const float* m, int64_t n, int64_t panel, int64_t first, int64_t last) const {
    for (int64_t t = first; t < last; ++t) {
      transform_output(outputs, filters.columns, panel * NR, filters.width_of(panel), tiles, t,
                       m + (t - first) * NR, m_step(n));
    }
  }

  /// Many tiles: filters are transformed first. Then blocks of tiles go all the way to y, so that V and M
  /// never leave the cache.
  void by_blocks() const {
    const int64_t panels = filters.panels(), threads = num_threads();
    // More tiles in a block use each filter more often; fewer leave room for the filters in the cache.
    constexpr int64_t kMostTiles = 24;
    const int64_t fitting = cache_room() / (kFloat * kFrequencies * (v_row + NR)) / MR * MR;
    const int64_t most = max(MR, min(kMostTiles, fitting));
    const int64_t n = ceil_div(ceil_div(count, ceil_div(count, most)), MR) * MR;
    // Where there are not too many tiles for it, each thread takes panels of its own and transforms all
    // inputs for them: cheaper than to wait for filters that another one has transformed.
    constexpr int64_t kTilesPerColumn = 8;
    if (threads > 1 && panels % threads == 0 && count <= kTilesPerColumn * filters.columns) {
      parallel_for(panels, panels / threads, [=, this](int64_t begin, int64_t end) {
        const Workspace memory(kFloat * (end - begin) * filters.u_size());
        float* const u = static_cast<float*>(memory.data);
        for (int64_t panel = begin; panel < end; ++panel) {
          transform_channels(u + (panel - begin) * filters.u_size(), panel, 0, filters.depth);
        }
        multiply_tiles(u, begin, end, n, 0, count);
      });
      return;
    }
    const Workspace memory(kFloat * panels * filters.u_size());
    float* const u = static_cast<float*>(memory.data);
    const int64_t pieces = ceil_div(filters.depth, kFilterChannels);
    parallel_for(panels * pieces, 1, [=, this](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t panel = i / pieces, first = i % pieces * kFilterChannels;
        transform_channels(u + panel * filters.u_size() + first * NR, panel, first,
                           min(filters.depth, first + kFilterChannels));
      }
    });
    parallel_for(ceil_div(count, n), 1, [=, this](int64_t begin, int64_t end) {
      multiply_tiles(u, 0, panels, n, begin * n, min(count, end * n));
    });
  }

  /// Channels [first, last) of a panel of U.
  void transform_channels(float* u, int64_t panel, int64_t first, int64_t last) const {
    for (int64_t i = first; i < last; i += kFilterChannels) {
      transform_filters(u + (i - first) * NR, filters, panel, i, min(last, i + kFilterChannels));
    }
  }

  /// Panels [begin, end) of y at tiles [first, last), n at a time, out of U of these panels.
  void multiply_tiles(const float* u, int64_t begin, int64_t end, int64_t n, int64_t first,
                      int64_t last) const {
    const Workspace memory(kFloat * (v_size(n) + kFrequencies * m_step(n)));
    float* const v = static_cast<float*>(memory.data);
    float* const m = v + v_size(n);
    for (int64_t tile = first; tile < last; tile += n) {
      const int64_t stop = min(last, tile + n);
      transform_inputs(v, n, tile, stop);
      for (int64_t panel = begin; panel < end; ++panel) {
        multiply_chunk(m, v, u + (panel - begin) * filters.u_size(), n, stop - tile, panel, 0);
        transform_outputs(m, n, panel, tile, stop);
      }
    }
  }

  /// Asks for the filters of some panels, all at once: they come from memory, in runs that the machine does
  /// not foresee. Inlined, because gcc leaves out calls of functions that do nothing but fetch.
  [[gnu::always_inline]] void fetch_filters(int64_t begin, int64_t end) const {
    const int64_t first = begin * NR, wide = min(filters.columns, end * NR) - first;
    const int64_t rows = filters.turned ? wide : filters.depth, run = filters.turned ? filters.depth : wide;
    const int64_t step = filters.turned ? filters.depth : filters.columns;
    const float* corner = filters.kernel + first * (filters.turned ? filters.depth : 1);
    for (int64_t tap = 0; tap < 9; ++tap, corner += filters.depth * filters.columns) {
      for (int64_t row = 0; row < rows; ++row) {
        for (int64_t j = 0; j < run; j += kLine) __builtin_prefetch(corner + row * step + j);
      }
    }
  }

  /// Few tiles: each task takes panels of filters, some channels at a time, which are used as soon as they
  /// are transformed. It transforms all inputs for itself: lines of a V that threads write together and then
  /// read would wander between their caches, which takes longer.
  void by_panels() const {
    const int64_t chunks = filters.chunks(), u_size = filters.u_size(), m_size = kFrequencies * m_step(count);
    const int64_t panels = filters.panels();
    parallel_for(panels, ceil_div(panels, num_threads()), [=, this](int64_t begin, int64_t end) {
      const Workspace memory(kFloat * (chunks * v_size(count) + u_size + m_size));
      float* const v = static_cast<float*>(memory.data);
      float* const u = v + chunks * v_size(count);
      float* const m = u + u_size;
      fetch_filters(begin, end);
      transform_inputs(v, count, 0, count);
      for (int64_t panel = begin; panel < end; ++panel) {
        for (int64_t chunk = 0; chunk < chunks; ++chunk) {
          const int64_t first = chunk * filters.chunk;
          transform_channels(u, panel, first, first + filters.channels_of(chunk));
          multiply_chunk(m, v + chunk * v_size(count), u, count, count, panel, chunk);
        }
        transform_outputs(m, count, panel, 0, count);
      }
    });
  }
};

Tiles tiles_of(const Conv2dArgs& args) {
  return {.images = args.x.shape[0],
          .h = args.x.shape[1],
          .w = args.x.shape[2],
          .oh = args.y.shape[1],
          .ow = args.y.shape[2],
          .pad_top = args.geometry.pad_top,
          .pad_left = args.geometry.pad_left};
}

/// The gradient of the filters, before the adjoint transform: for each frequency a matrix [c, o], the sum
/// over tiles of a column of V times a row of Z, the transforms of x and dy.
struct FilterGradient {
  Tiles tiles;
  int64_t c, o, count;
  const float *x, *dy;
  // The six rows of frequencies are worked on three at a time, whose matrices the cache holds. In this order
  // each half has a pair of points +-p, which share most of their transform.
  static constexpr int kRows[kWinogradIn] = {0, 1, 2, 5, 3, 4}, kSlices = 2,
                       kSliceRows = kWinogradIn / kSlices;
  // Tasks: blocks of channels, times groups of tiles with a partial sum each, times halves of the rows; with
  // few tiles and many channels, blocks of channels all the way to the filters. All are fixed by the shapes
  // alone, and so is the order of the sum.
  static constexpr int64_t kInputs = 64, kOutputs = 128, kTiles = 48, kFewTasks = 8, kFewTiles = 128;
  int64_t c_block, o_block, c_blocks, o_blocks, panels;
  int64_t tiles_at_once, tiles_per_group, groups;
  bool whole;                 ///< a task finishes its block of filters
  float* out;                 ///< [tap][c][o]
  float* partials = nullptr;  ///< unless `whole`: [group][c block][o block][row][6][panel][channel of c][NR]

  explicit FilterGradient(const Conv2dArgs& args)
      : tiles(tiles_of(args)),
        c(args.kernel.shape[2]),
        o(args.kernel.shape[3]),
        count(tiles.count()),
        x(args.x.as<const float>()),
        dy(args.y.as<const float>()),
        out(args.kernel.as<float>()) {
    const auto even_part = [](int64_t n, int64_t most, int64_t unit) {
      return ceil_div(ceil_div(n, ceil_div(n, most)), unit) * unit;
    };
    whole = count <= kFewTiles && ceil_div(c, kInputs) * ceil_div(o, kOutputs) >= kFewTasks;
    c_block = even_part(c, kInputs, L), o_block = even_part(o, kOutputs, NR);
    c_blocks = ceil_div(c, c_block), o_blocks = ceil_div(o, o_block);
    panels = o_block / NR;
    const int64_t steps = max(1, ceil_div(count, kTiles));
    tiles_at_once = max(1, ceil_div(count, steps));
    const int64_t few_groups = whole ? 1 : ceil_div(kFewTasks, tasks_of(1));
    tiles_per_group = ceil_div(steps, min(steps, few_groups)) * tiles_at_once;
    groups = max(1, ceil_div(count, tiles_per_group));
  }

  int64_t slices_per_task() const { return whole ? kSlices : 1; }
  int64_t tasks_of(int64_t n) const { return n * c_blocks * o_blocks * kSlices / slices_per_task(); }
  int64_t tasks() const { return tasks_of(groups); }
  int64_t matrix() const { return panels * c_block * NR; }
  int64_t slice_size() const { return kSliceRows * kWinogradIn * matrix(); }
  int64_t block_size() const { return kFrequencies * matrix(); }
  int64_t group_size() const { return c_blocks * o_blocks * block_size(); }
  int64_t partials_size() const { return whole ? 0 : groups * group_size(); }

  /// The partial sums of tasks [begin, end), or the filters.
  void run(int64_t begin, int64_t end) const {
    const Workspace memory(kFloat * kSliceRows * kWinogradIn * (v_step() + z_step()));
    const Workspace sum_memory(whole ? kFloat * block_size() : 0);
    const Zeros zeros(max(c, o));
    // The groups of a block follow each other: mostly one thread sums them, and finishes the block.
    for (int64_t i = begin * slices_per_task(); i < end * slices_per_task(); ++i) {
      const int64_t slice = i % kSlices, group = i / kSlices % groups, block = i / kSlices / groups;
      const int64_t start = group * tiles_per_group, stop = min(count, start + tiles_per_group);
      float* const sums_of_block = whole ? static_cast<float*>(sum_memory.data)
                                         : partials + group * group_size() + block * block_size();
      int64_t tile = start;
      do {  // at least once: an empty sum is written, too
        const Part part{.c0 = block / o_blocks * c_block,
                        .o0 = block % o_blocks * o_block,
                        .tile = tile,
                        .count = min(tiles_at_once, stop - tile),
                        .v = static_cast<float*>(memory.data),
                        .zeros = zeros,
                        .sums = sums_of_block + slice * slice_size(),
                        .accumulate = tile > start};
        slice == 0 ? add_part<0>(part) : add_part<kSliceRows>(part);
        tile += tiles_at_once;
      } while (tile < stop);
      if (whole && slice == kSlices - 1) {
        for (int64_t channel = 0; channel < c_block; ++channel) finish(sums_of_block, block, channel);
      }
    }
  }

  /// The filters of a block from its channel i, out of its sums, which lie group_size() apart.
  void finish(const float* sums, int64_t block, int64_t i) const {
    const int64_t channel = block / o_blocks * c_block + i, o0 = block % o_blocks * o_block;
    if (channel >= c) return;
    for (int64_t n = 0; n < min(o_block, o - o0); n += L) {
      const float* const source = sums + n / NR * (c_block * NR) + i * NR + n % NR;
      const float* row[kWinogradIn];
      for (int k = 0; k < kWinogradIn; ++k) row[kRows[k]] = source + k * kWinogradIn * matrix();
      transform_square<kWinogradIn, 3>(
          [](auto& from, auto& to) { winograd::filter_adjoint(from, to); },
          [&](int k, int l) {
            const float* sum = row[k] + l * matrix();
            Vec total = load(sum);
            for (int64_t group = 1; group < groups; ++group) total += load(sum += group_size());
            return total;
          },
          [&](int k, int l, Vec value) { store(out + ((k * 3 + l) * c + channel) * o + o0 + n, value); });
    }
  }

 private:
  int64_t v_row() const { return c_block + kPad; }
  int64_t z_row() const { return panels * NR + kPad; }
  int64_t v_step() const { return tiles_at_once * v_row() + kPad; }
  int64_t z_step() const { return tiles_at_once * z_row() + kPad; }

  /// Some tiles' part of the sums of some rows, for channels from c0 and o0.
  struct Part {
    int64_t c0, o0, tile, count;
    float* v;  ///< room for V, and Z behind it
    const float* zeros;
    float* sums;
    bool accumulate;
  };

  /// A slice of the rows of frequencies, from kRows[First] on.
  template <int First>
  void add_part(const Part& part) const {
    constexpr int Rows = kSliceRows;
    const auto row = [](int i) { return kRows[First + i]; };
    const int64_t inputs = min(c_block, c - part.c0), outputs = min(o_block, o - part.o0);
    float *const v = part.v, *const z = v + Rows * kWinogradIn * v_step();
    for_each_window(
        part.count, [&](int64_t t) { return input_window(tiles, part.tile + t, x, c, part.zeros); },
        [&](int64_t t, const auto& window, const auto& next) {
          transform_window<Rows>(v + t * v_row(), v_step(), window, next, part.c0, inputs, kInput, row);
        });
    for_each_window(
        part.count, [&](int64_t t) { return output_window(tiles, part.tile + t, dy, o, part.zeros); },
        [&](int64_t t, const auto& window, const auto& next) {
          transform_window<Rows>(z + t * z_row(), z_step(), window, next, part.o0, outputs, kOutputAdjoint,
                                 row);
        });
    for (int64_t f = 0; f < Rows * kWinogradIn; ++f) {
      for (int64_t panel = 0; panel * NR < outputs; ++panel) {
        float* const sums = part.sums + f * matrix() + panel * c_block * NR;
        const bool even = panel % 2 == 0;
        multiply<float>({.m = inputs,
                         .n = min(NR, outputs - panel * NR),
                         .k = part.count,
                         .a = v + f * v_step(),
                         .a_row = 1,
                         .a_step = v_row(),
                         .b = z + f * z_step() + panel * NR,
                         .b_row = z_row(),
                         .c = sums,
                         .c_row = NR,
                         .accumulate = part.accumulate,
                         .ahead = {{sums + MR * NR, c_block * NR},
                                   even ? Ahead<float>{v + (f + 1) * v_step(), v_step()}
                                        : Ahead<float>{z + (f + 1) * z_step(), z_step()}}});
      }
    }
  }
};

}  // namespace

bool winograd_applies(const Conv2dArgs& args) {
  const Conv2dGeometry& g = args.geometry;
  const Shape& kernel = args.kernel.shape;
  const bool possible = args.x.dtype == DType::f32 && kernel[0] == 3 && kernel[1] == 3 && g.stride_h == 1 &&
                        g.stride_w == 1 && g.dilation_h == 1 && g.dilation_w == 1 && g.groups == 1 &&
                        kernel[2] % L == 0 && kernel[3] % L == 0 && kernel[2] > 0 && kernel[3] > 0 &&
                        max(max(g.pad_top, g.pad_left), max(g.pad_bottom, g.pad_right)) <= 2;
  if (args.method == ConvMethod::direct || !possible) return false;
  if (args.method == ConvMethod::winograd) return true;
  // For one image alone, so that its result does not depend on the others of a batch: multiplications for
  // each pair of channels, 9 for each output, against 36 for each tile, which cost two thirds more with the
  // transforms.
  Tiles image = tiles_of(args);
  image.images = 1;
  return 9 * image.oh * image.ow >= 60 * image.count();
}

void winograd_forward(const Conv2dArgs& args) {
  const Filters filters{args.kernel.as<const float>(), args.kernel.shape[2], args.kernel.shape[3], false};
  Convolution(tiles_of(args), args.x.as<const float>(), filters,
              {args.y.as<float>(), args.bias.as<const float>(), args.residual.as<const float>()})
      .run();
}

void winograd_backward_data(const Conv2dArgs& args) {
  // dx is the convolution of dy, padded by what the padding of x left of 2, with the filters turned.
  const Tiles tiles{.images = args.x.shape[0],
                    .h = args.y.shape[1],
                    .w = args.y.shape[2],
                    .oh = args.x.shape[1],
                    .ow = args.x.shape[2],
                    .pad_top = 2 - args.geometry.pad_top,
                    .pad_left = 2 - args.geometry.pad_left};
  const Filters filters{args.kernel.as<const float>(), args.kernel.shape[3], args.kernel.shape[2], true};
  Convolution(tiles, args.y.as<const float>(), filters, {args.x.as<float>(), nullptr, nullptr}).run();
}

void winograd_backward_kernel(const Conv2dArgs& args) {
  FilterGradient gradient(args);
  const Workspace memory(kFloat * gradient.partials_size());
  gradient.partials = static_cast<float*>(memory.data);
  parallel_for(gradient.tasks(), 1, [&gradient](int64_t begin, int64_t end) { gradient.run(begin, end); });
  if (gradient.whole) return;
  const int64_t rows = gradient.c_blocks * gradient.o_blocks * gradient.c_block;
  parallel_for(rows, max(1, 4096 / gradient.o_block), [&gradient](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const int64_t block = row / gradient.c_block;
      gradient.finish(gradient.partials + block * gradient.block_size(), block, row % gradient.c_block);
    }
  });
}

}  // namespace halfstep::cpu::inline HALFSTEP_ISA
