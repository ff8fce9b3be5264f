// 3x3 convolutions by Winograd's F(4x4, 3x3): see winograd.h for the transforms.
#include "tensor/cpu/winograd.h"

#include "tensor/cpu/thread_pool.h"
#include "tensor/cpu/tile.h"
#include "tensor/cpu/workspace.h"

namespace halfstep::cpu::inline HALFSTEP_ISA {
namespace {

constexpr int L = kLanes<float>, MR = kTileRows, NR = kTileColumns<float>;
using Vec = Vector<float>;
// Rows of the scratch matrices are this much longer than they must be: at steps of a power of two they would
// share few lines of the cache.
constexpr int64_t kPad = 16;

/// Where the tiles of 4x4 outputs lie: all of a batch, in the order of the images' rows.
struct Tiles {
  int64_t images, h, w, oh, ow, pad_top, pad_left;
  int64_t tall = ceil_div(oh, kWinogradOut), wide = ceil_div(ow, kWinogradOut);

  int64_t count() const { return images * tall * wide; }
  int64_t image(int64_t tile) const { return tile / (tall * wide); }
  int64_t top(int64_t tile) const { return tile / wide % tall * kWinogradOut; }
  int64_t left(int64_t tile) const { return tile % wide * kWinogradOut; }
};

/// A run of an image's channels.
struct Channels {
  const float* images;
  int64_t all;  ///< channels of a pixel
  int64_t first, count;
};

/// Pointers to the pixels of a window, to `zeros` outside the image.
template <int Size>
void window(const float* (&pixels)[Size][Size], const Channels& x, int64_t image, int64_t h, int64_t w,
            int64_t top, int64_t left, const float* zeros) {
  const float* const origin = x.images + image * h * w * x.all + x.first;
  for (int i = 0; i < Size; ++i) {
    for (int j = 0; j < Size; ++j) {
      const int64_t row = top + i, column = left + j;
      const bool inside = 0 <= row && row < h && 0 <= column && column < w;
      pixels[i][j] = inside ? origin + (row * w + column) * x.all : zeros;
    }
  }
}

/// out[f * step + c] = B^T d B, where d is the input of a tile.
void transform_input(float* out, int64_t step, const Tiles& tiles, int64_t tile, const Channels& x,
                     const float* zeros) {
  const float* pixels[kWinogradIn][kWinogradIn];
  window(pixels, x, tiles.image(tile), tiles.h, tiles.w, tiles.top(tile) - tiles.pad_top,
         tiles.left(tile) - tiles.pad_left, zeros);
  for (int64_t c = 0; c < x.count; c += L) {
    Vec t[kWinogradIn][kWinogradIn];
#pragma GCC unroll 6
    for (int j = 0; j < kWinogradIn; ++j) {
      Vec column[kWinogradIn];
#pragma GCC unroll 6
      for (int i = 0; i < kWinogradIn; ++i) column[i] = load(pixels[i][j] + c);
      winograd::input(column);
#pragma GCC unroll 6
      for (int i = 0; i < kWinogradIn; ++i) t[i][j] = column[i];
    }
#pragma GCC unroll 6
    for (int i = 0; i < kWinogradIn; ++i) {
      winograd::input(t[i]);
#pragma GCC unroll 6
      for (int j = 0; j < kWinogradIn; ++j) store(out + (i * kWinogradIn + j) * step + c, t[i][j]);
    }
  }
}

/// out[f * step + c] = A dy A^T, where dy is the gradient of a tile's output: the adjoint of
/// transform_output.
void transform_gradient(float* out, int64_t step, const Tiles& tiles, int64_t tile, const Channels& dy,
                        const float* zeros) {
  const float* pixels[kWinogradOut][kWinogradOut];
  window(pixels, dy, tiles.image(tile), tiles.oh, tiles.ow, tiles.top(tile), tiles.left(tile), zeros);
  for (int64_t c = 0; c < dy.count; c += L) {
    Vec t[kWinogradIn][kWinogradOut];
#pragma GCC unroll 4
    for (int j = 0; j < kWinogradOut; ++j) {
      Vec column[kWinogradOut], m[kWinogradIn];
#pragma GCC unroll 4
      for (int i = 0; i < kWinogradOut; ++i) column[i] = load(pixels[i][j] + c);
      winograd::output_adjoint(column, m);
#pragma GCC unroll 6
      for (int i = 0; i < kWinogradIn; ++i) t[i][j] = m[i];
    }
#pragma GCC unroll 6
    for (int i = 0; i < kWinogradIn; ++i) {
      Vec m[kWinogradIn];
      winograd::output_adjoint(t[i], m);
#pragma GCC unroll 6
      for (int j = 0; j < kWinogradIn; ++j) store(out + (i * kWinogradIn + j) * step + c, m[j]);
    }
  }
}

/// The outputs of a tile in channels [first, first + channels) of y = A^T m A + bias; m is m[f * step + c].
void transform_output(float* y, int64_t all_channels, int64_t first, int64_t channels, const Tiles& tiles,
                      int64_t tile, const float* m, int64_t step, const float* bias) {
  const int64_t top = tiles.top(tile), left = tiles.left(tile);
  const int64_t tall = min(kWinogradOut, tiles.oh - top), wide = min(kWinogradOut, tiles.ow - left);
  float* out = y + ((tiles.image(tile) * tiles.oh + top) * tiles.ow + left) * all_channels + first;
  for (int64_t c = 0; c < channels; c += L) {
    Vec t[kWinogradOut][kWinogradIn];
#pragma GCC unroll 6
    for (int j = 0; j < kWinogradIn; ++j) {
      Vec column[kWinogradIn], s[kWinogradOut];
#pragma GCC unroll 6
      for (int i = 0; i < kWinogradIn; ++i) column[i] = load(m + (i * kWinogradIn + j) * step + c);
      winograd::output(column, s);
#pragma GCC unroll 4
      for (int i = 0; i < kWinogradOut; ++i) t[i][j] = s[i];
    }
    const Vec b = bias ? load(bias + first + c) : Vec{};
#pragma GCC unroll 4
    for (int i = 0; i < kWinogradOut; ++i) {
      Vec s[kWinogradOut];
      winograd::output(t[i], s);
      if (i >= tall) break;
#pragma GCC unroll 4
      for (int j = 0; j < kWinogradOut; ++j) {
        if (j < wide) store(out + (i * tiles.ow + j) * all_channels + c, s[j] + b);
      }
    }
  }
}

/// The filters of a convolution from `depth` channels to `columns` channels: those of kernel
/// [tap][depth][columns], or the ones of its gradient, kernel [tap][columns][depth] turned by 180 degrees.
struct Filters {
  const float* kernel;
  int64_t depth, columns;
  bool turned;

  int64_t panels() const { return ceil_div(columns, NR); }
};

// Channels of the input whose filters are transformed at a time; those of a panel stay in the second-level
// cache.
constexpr int64_t kChunk = 64;

/// out[f * out_step + (c - first) * NR + j] = the transform of the filter from channel c to column j of a
/// panel, for c from `first` to `last`, at most kChunk of them. The zeros behind the last column are not
/// written.
void transform_filters(float* out, int64_t out_step, const Filters& filters, int64_t panel, int64_t first,
                       int64_t last) {
  const int64_t j0 = panel * NR, wide = min(NR, filters.columns - j0), count = last - first;
  const Workspace memory(filters.turned ? sizeof(float) * 9 * kChunk * NR : 0);
  float* const turned = static_cast<float*>(memory.data);
  // Tap t of channel c is at source[t * tap_step + c * c_step].
  const float* source = filters.kernel + first * filters.columns + j0;
  int64_t tap_step = filters.depth * filters.columns, c_step = filters.columns;
  if (filters.turned) {
    for (int64_t tap = 0; tap < 9; ++tap) {
      const float* const from = filters.kernel + (tap * filters.columns + j0) * filters.depth + first;
      for (int64_t c = 0; c < count; c += L) {
        for (int64_t j = 0; j < wide; j += L) {
          transpose_square(turned + ((8 - tap) * kChunk + c) * NR + j, NR, from + j * filters.depth + c,
                           filters.depth);
        }
      }
    }
    source = turned, tap_step = kChunk * NR, c_step = NR;
  }
  for (int64_t c = 0; c < count; ++c) {
    for (int64_t j = 0; j < wide; j += L) {
      Vec t[kWinogradIn][3];
#pragma GCC unroll 3
      for (int k = 0; k < 3; ++k) {
        Vec column[3], u[kWinogradIn];
#pragma GCC unroll 3
        for (int i = 0; i < 3; ++i) column[i] = load(source + (i * 3 + k) * tap_step + c * c_step + j);
        winograd::filter(column, u);
#pragma GCC unroll 6
        for (int i = 0; i < kWinogradIn; ++i) t[i][k] = u[i];
      }
#pragma GCC unroll 6
      for (int i = 0; i < kWinogradIn; ++i) {
        Vec u[kWinogradIn];
        winograd::filter(t[i], u);
#pragma GCC unroll 6
        for (int k = 0; k < kWinogradIn; ++k)
          store(out + (i * kWinogradIn + k) * out_step + c * NR + j, u[k]);
      }
    }
  }
}

/// The convolution of x by filters, plus bias.
struct Convolution {
  Tiles tiles;
  const float* x;
  Filters filters;
  const float* bias;
  float* y;
  int64_t count = tiles.count(), row = filters.depth + kPad;  ///< row: of V

  void run() const {
    if (count == 0) return;
    // Few tiles do not pay for filters that make the way to memory and back.
    constexpr int64_t kFewTiles = 128;
    count <= kFewTiles ? by_panels() : by_blocks();
  }

 private:
  /// V at v[f * v_step + (tile - first) * row + c] for tiles [first, last).
  void transform_inputs(float* v, int64_t v_step, int64_t first, int64_t last) const {
    const Workspace memory(sizeof(float) * filters.depth);
    float* const zeros = static_cast<float*>(memory.data);
    std::memset(zeros, 0, sizeof(float) * filters.depth);
    for (int64_t t = first; t < last; ++t) {
      transform_input(v + (t - first) * row, v_step, tiles, t, {x, filters.depth, 0, filters.depth}, zeros);
    }
  }

  /// M [f][tile][NR] (+)= V U for n tiles, a panel and k channels.
  void multiply_panel(float* m, int64_t m_step, const float* v, int64_t v_step, const float* u,
                      int64_t u_step, int64_t n, int64_t wide, int64_t k, bool accumulate) const {
    for (int64_t f = 0; f < kFrequencies; ++f) {
      multiply<float>({.m = n,
                       .n = wide,
                       .k = k,
                       .a = v + f * v_step,
                       .a_row = row,
                       .a_step = 1,
                       .b = u + f * u_step,
                       .b_row = NR,
                       .c = m + f * m_step,
                       .c_row = NR,
                       .accumulate = accumulate});
    }
  }

  int64_t width_of(int64_t panel) const { return min(NR, filters.columns - panel * NR); }

  /// Many tiles: all filters are transformed first. Then each task takes a block of tiles all the way to y,
  /// so that V and M never leave the cache.
  void by_blocks() const {
    const int64_t depth = filters.depth, panels = filters.panels(), chunks = ceil_div(depth, kChunk);
    const int64_t panel_size = kFrequencies * depth * NR;
    const Workspace filter_memory(sizeof(float) * panels * panel_size);
    float* const u = static_cast<float*>(filter_memory.data);
    parallel_for(panels * chunks, 1, [=, this](int64_t begin, int64_t end) {
      for (int64_t task = begin; task < end; ++task) {
        const int64_t panel = task / chunks, c = task % chunks * kChunk;
        transform_filters(u + panel * panel_size + c * NR, depth * NR, filters, panel, c,
                          min(depth, c + kChunk));
      }
    });

    // More tiles in a block use each filter more often; fewer leave room for the filters in the cache.
    constexpr int64_t kCacheBytes = 640 * 1024, kMostTiles = 48;
    const int64_t fitting =
        kCacheBytes / (kFrequencies * row * static_cast<int64_t>(sizeof(float))) / MR * MR;
    const int64_t most = max(MR, min(kMostTiles, fitting));
    const int64_t block = ceil_div(ceil_div(count, ceil_div(count, most)), MR) * MR;
    parallel_for(ceil_div(count, block), 1, [=, this](int64_t begin, int64_t end) {
      const int64_t v_step = block * row + kPad, m_step = block * NR + kPad;
      const Workspace memory(sizeof(float) * kFrequencies * (v_step + m_step));
      float* const v = static_cast<float*>(memory.data);
      float* const m = v + kFrequencies * v_step;
      for (int64_t task = begin; task < end; ++task) {
        const int64_t first = task * block, last = min(count, first + block);
        transform_inputs(v, v_step, first, last);
        for (int64_t panel = 0; panel < panels; ++panel) {
          multiply_panel(m, m_step, v, v_step, u + panel * panel_size, depth * NR, last - first,
                         width_of(panel), depth, false);
          transform_outputs(m, m_step, panel, first, last);
        }
      }
    });
  }

  /// Few tiles: all inputs are transformed first. Then each task takes a panel of filters, some channels at a
  /// time, which are used as soon as they are transformed.
  void by_panels() const {
    const int64_t depth = filters.depth, v_step = count * row + kPad;
    const Workspace input_memory(sizeof(float) * kFrequencies * v_step);
    float* const v = static_cast<float*>(input_memory.data);
    parallel_for(count, max(1, 1024 / depth), [=, this](int64_t begin, int64_t end) {
      transform_inputs(v + begin * row, v_step, begin, end);
    });
    parallel_for(filters.panels(), 1, [=, this](int64_t begin, int64_t end) {
      const int64_t u_step = kChunk * NR + kPad, m_step = count * NR + kPad;
      const Workspace memory(sizeof(float) * kFrequencies * (u_step + m_step));
      float* const u = static_cast<float*>(memory.data);
      float* const m = u + kFrequencies * u_step;
      for (int64_t panel = begin; panel < end; ++panel) {
        for (int64_t c = 0; c < depth; c += kChunk) {
          const int64_t last = min(depth, c + kChunk);
          transform_filters(u, u_step, filters, panel, c, last);
          multiply_panel(m, m_step, v + c, v_step, u, u_step, count, width_of(panel), last - c, c > 0);
        }
        transform_outputs(m, m_step, panel, 0, count);
      }
    });
  }

  void transform_outputs(const float* m, int64_t m_step, int64_t panel, int64_t first, int64_t last) const {
    for (int64_t t = first; t < last; ++t) {
      transform_output(y, filters.columns, panel * NR, width_of(panel), tiles, t, m + (t - first) * NR,
                       m_step, bias);
    }
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
  // Tasks: squares of channels whose 36 matrices stay in the cache, times groups of tiles with a partial sum
  // each. Both are fixed by the shapes alone, and so is the order of the sum.
  static constexpr int64_t kChannels = 64, kTiles = 48, kFewTasks = 8;
  int64_t c_block, o_block, c_blocks, o_blocks, tiles_per_group, groups;
  float* partials = nullptr;  ///< [group][c block][o block][f][c_block][o_block]

  explicit FilterGradient(const Conv2dArgs& args)
      : tiles(tiles_of(args)),
        c(args.kernel.shape[2]),
        o(args.kernel.shape[3]),
        count(tiles.count()),
        x(args.x.as<const float>()),
        dy(args.y.as<const float>()) {
    c_block = min(c, kChannels), o_block = min(o, kChannels);
    c_blocks = ceil_div(c, c_block), o_blocks = ceil_div(o, o_block);
    const int64_t blocks = max(1, ceil_div(count, kTiles));
    tiles_per_group = ceil_div(blocks, min(blocks, ceil_div(kFewTasks, c_blocks * o_blocks))) * kTiles;
    groups = max(1, ceil_div(count, tiles_per_group));
  }

  int64_t tasks() const { return groups * c_blocks * o_blocks; }
  int64_t matrix() const { return c_block * o_block; }
  int64_t partial_size() const { return kFrequencies * matrix(); }

  /// The partial sums of tasks [begin, end).
  void run(int64_t begin, int64_t end) const {
    const int64_t v_row = c_block + kPad, z_row = o_block + kPad;
    const int64_t v_step = kTiles * v_row + kPad, z_step = kTiles * z_row + kPad;
    const Workspace memory(sizeof(float) * (kFrequencies * (v_step + z_step) + kChannels));
    float* const v = static_cast<float*>(memory.data);
    float* const z = v + kFrequencies * v_step;
    float* const zeros = z + kFrequencies * z_step;
    std::memset(zeros, 0, sizeof(float) * kChannels);
    for (int64_t task = begin; task < end; ++task) {
      const int64_t group = task / (c_blocks * o_blocks);
      const int64_t c0 = task / o_blocks % c_blocks * c_block, o0 = task % o_blocks * o_block;
      const Channels in{x, c, c0, min(c_block, c - c0)}, out{dy, o, o0, min(o_block, o - o0)};
      const int64_t start = group * tiles_per_group, stop = min(count, start + tiles_per_group);
      float* const partial = partials + task * partial_size();
      if (start >= stop) std::memset(partial, 0, sizeof(float) * partial_size());
      for (int64_t first = start; first < stop; first += kTiles) {
        const int64_t n = min(kTiles, stop - first);
        for (int64_t t = 0; t < n; ++t) {
          transform_input(v + t * v_row, v_step, tiles, first + t, in, zeros);
          transform_gradient(z + t * z_row, z_step, tiles, first + t, out, zeros);
        }
        for (int64_t f = 0; f < kFrequencies; ++f) {
          for (int64_t j = 0; j < out.count; j += NR) {
            multiply<float>({.m = in.count,
                             .n = min(NR, out.count - j),
                             .k = n,
                             .a = v + f * v_step,
                             .a_row = 1,
                             .a_step = v_row,
                             .b = z + f * z_step + j,
                             .b_row = z_row,
                             .c = partial + f * matrix() + j,
                             .c_row = o_block,
                             .accumulate = first > start});
          }
        }
      }
    }
  }

  /// out[tap][channel][o], for one channel: the sum over groups, transformed.
  void finish(float* out, int64_t channel) const {
    for (int64_t n = 0; n < o; n += L) {
      const float* const source = partials + (channel / c_block * o_blocks + n / o_block) * partial_size() +
                                  channel % c_block * o_block + n % o_block;
      Vec t[3][kWinogradIn];
      for (int j = 0; j < kWinogradIn; ++j) {
        Vec u[kWinogradIn], g[3];
        for (int i = 0; i < kWinogradIn; ++i) {
          const float* sum = source + (i * kWinogradIn + j) * matrix();
          u[i] = load(sum);
          for (int64_t group = 1; group < groups; ++group) {
            u[i] += load(sum += c_blocks * o_blocks * partial_size());
          }
        }
        winograd::filter_adjoint(u, g);
        for (int i = 0; i < 3; ++i) t[i][j] = g[i];
      }
      for (int i = 0; i < 3; ++i) {
        Vec g[3];
        winograd::filter_adjoint(t[i], g);
        for (int j = 0; j < 3; ++j) store(out + ((i * 3 + j) * c + channel) * o + n, g[j]);
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
  const Convolution convolution{
      .tiles = tiles_of(args),
      .x = args.x.as<const float>(),
      .filters = {args.kernel.as<const float>(), args.kernel.shape[2], args.kernel.shape[3], false},
      .bias = args.bias.as<const float>(),
      .y = args.y.as<float>()};
  convolution.run();
}

void winograd_backward_data(const Conv2dArgs& args) {
  // dx is the convolution of dy, padded by what the padding of x left of 2, with the filters turned.
  const Convolution convolution{
      .tiles = {.images = args.x.shape[0],
                .h = args.y.shape[1],
                .w = args.y.shape[2],
                .oh = args.x.shape[1],
                .ow = args.x.shape[2],
                .pad_top = 2 - args.geometry.pad_top,
                .pad_left = 2 - args.geometry.pad_left},
      .x = args.y.as<const float>(),
      .filters = {args.kernel.as<const float>(), args.kernel.shape[3], args.kernel.shape[2], true},
      .bias = nullptr,
      .y = args.x.as<float>()};
  convolution.run();
}

void winograd_backward_kernel(const Conv2dArgs& args) {
  FilterGradient gradient(args);
  const Workspace memory(sizeof(float) * gradient.tasks() * gradient.partial_size());
  gradient.partials = static_cast<float*>(memory.data);
  parallel_for(gradient.tasks(), 1, [&gradient](int64_t begin, int64_t end) { gradient.run(begin, end); });
  float* const out = args.kernel.as<float>();
  parallel_for(gradient.c, max(1, 4096 / gradient.o), [&gradient, out](int64_t begin, int64_t end) {
    for (int64_t channel = begin; channel < end; ++channel) gradient.finish(out, channel);
  });
}

}  // namespace halfstep::cpu::inline HALFSTEP_ISA
