// Convolutions as implicit matrix products on the micro-kernel of tile.h.
#include "tensor/cpu/kernels.h"
#include "tensor/cpu/thread_pool.h"
#include "tensor/cpu/tile.h"
#include "tensor/cpu/workspace.h"

namespace halfstep::cpu::inline HALFSTEP_ISA {
namespace {

// --- forward, and the gradient of the input ----------------------------------------------------------------

/// For each image: out[row] = sum over taps of in[offset[row][tap]] (a run of `depth` channels) times the
/// packed matrix of the tap. Forward and backward_data differ in the tables alone.
template <class T>
struct TapProduct {
  int64_t images, rows, taps, depth, columns;
  const T* in;
  int64_t in_image;       ///< elements per image
  const int64_t* offset;  ///< [rows][taps] into an image, or -1: zeros (padding)
  T* out;
  int64_t out_image;
  const int64_t* out_offset;  ///< [rows]
  const T* packed;            ///< panels of taps * depth rows
  const T* zeros;             ///< depth zeros
  const T* bias;
};

template <class T>
void run_taps(const TapProduct<T>& conv) {
  constexpr int MR = kTileRows, NR = kTileColumns<T>;
  const int64_t k = conv.taps * conv.depth, m = conv.images * conv.rows;
  const int64_t panels = ceil_div(conv.columns, NR);
  if (m == 0 || panels == 0) return;
  const int64_t block_panels = min(panels, cached_columns<T>(k) / NR);
  const int64_t tiles_per_task = max(1, min(32, 400000 / (MR * NR * block_panels * max(k, 1))));
  const int64_t row_tasks = ceil_div(m, MR * tiles_per_task);

  parallel_for(row_tasks * ceil_div(panels, block_panels), 1,
               [&conv, k, m, panels, block_panels, tiles_per_task, row_tasks](int64_t begin, int64_t end) {
                 const Workspace memory(sizeof(Segment<T>) * max(conv.taps, 1));
                 auto* segments = static_cast<Segment<T>*>(memory.data);
                 for (int64_t task = begin; task < end; ++task) {
                   const int64_t panel_begin = task / row_tasks * block_panels;
                   const int64_t panel_end = min(panels, panel_begin + block_panels);
                   const int64_t i_begin = task % row_tasks * tiles_per_task * MR;
                   const int64_t i_end = min(m, i_begin + tiles_per_task * MR);
                   int64_t image = i_begin / conv.rows, row = i_begin % conv.rows;
                   for (int64_t i = i_begin; i < i_end; i += MR) {
                     const int rows = static_cast<int>(min(MR, i_end - i));
                     T* out[MR] = {};
                     T* out_columns[MR] = {};
                     for (int r = 0; r < rows; ++r) {
                       const T* in = conv.in + image * conv.in_image;
                       const int64_t* offset = conv.offset + row * conv.taps;
                       for (int64_t tap = 0; tap < conv.taps; ++tap) {
                         segments[tap].a[r] = offset[tap] < 0 ? conv.zeros : in + offset[tap];
                       }
                       out[r] = conv.out + image * conv.out_image + conv.out_offset[row];
                       if (++row == conv.rows) row = 0, ++image;
                     }
                     for (int64_t tap = 0; tap < conv.taps; ++tap) {
                       segments[tap].run = conv.depth;
                       segments[tap].b = conv.packed + tap * conv.depth * NR;
                     }
                     for (int64_t panel = panel_begin; panel < panel_end; ++panel) {
                       const int64_t j = panel * NR;
                       for (int r = 0; r < rows; ++r) out_columns[r] = out[r] + j;
                       const Tile<T> tile{.segments = segments,
                                          .count = conv.taps,
                                          .a_step = 1,
                                          .b_step = NR,
                                          .b_offset = panel * k * NR,
                                          .c = out_columns,
                                          .c_step = 1,
                                          .columns = static_cast<int>(min(NR, conv.columns - j)),
                                          .bias = conv.bias ? conv.bias + j : nullptr,
                                          .alpha = 1,
                                          .accumulate = false};
                       compute_tile_rows(tile, rows);
                     }
                   }
                 }
               });
}

struct Sizes {
  int64_t b, h, w, kh, kw, c, o, oh, ow;
};

Sizes sizes_of(const Conv2dArgs& args) {
  return {args.x.shape[0],      args.x.shape[1],      args.x.shape[2],
          args.kernel.shape[0], args.kernel.shape[1], args.kernel.shape[2],
          args.kernel.shape[3], args.y.shape[1],      args.y.shape[2]};
}

template <class T>
void forward(const Conv2dArgs& args) {
  constexpr int NR = kTileColumns<T>;
  const Sizes s = sizes_of(args);
  const Conv2dGeometry& g = args.geometry;
  const int64_t taps = s.kh * s.kw, rows = s.oh * s.ow, k = taps * s.c;
  const Workspace packed_memory(sizeof(T) * packed_size<T>(k, s.o)), zeros_memory(sizeof(T) * s.c);
  const Workspace offset_memory(sizeof(int64_t) * rows * (taps + 1));
  T* packed = static_cast<T*>(packed_memory.data);
  auto* offset = static_cast<int64_t*>(offset_memory.data);
  int64_t* out_offset = offset + rows * taps;
  std::memset(zeros_memory.data, 0, sizeof(T) * s.c);

  parallel_for(ceil_div(s.o, NR), max(1, 32768 / (NR * max(k, 1))), [=, &args](int64_t begin, int64_t end) {
    const int64_t j = begin * NR;
    pack_panels(packed + j * k, k, args.kernel.as<const T>() + j, k, min(s.o, end * NR) - j, s.o, int64_t{1});
  });
  for (int64_t row = 0; row < rows; ++row) {
    const int64_t top = row / s.ow * g.stride_h - g.pad_top, left = row % s.ow * g.stride_w - g.pad_left;
    for (int64_t i = 0; i < s.kh; ++i) {
      for (int64_t j = 0; j < s.kw; ++j) {
        const int64_t y = top + i, x = left + j;
        const bool inside = 0 <= y && y < s.h && 0 <= x && x < s.w;
        *offset++ = inside ? (y * s.w + x) * s.c : -1;
      }
    }
    out_offset[row] = row * s.o;
  }
  run_taps<T>({.images = s.b,
               .rows = rows,
               .taps = taps,
               .depth = s.c,
               .columns = s.o,
               .in = args.x.as<const T>(),
               .in_image = s.h * s.w * s.c,
               .offset = static_cast<const int64_t*>(offset_memory.data),
               .out = args.y.as<T>(),
               .out_image = rows * s.o,
               .out_offset = out_offset,
               .packed = packed,
               .zeros = static_cast<const T*>(zeros_memory.data),
               .bias = args.bias.as<const T>()});
}

/// dx[y, x] sums dy[oy, ox] over the taps (i, j) with oy * stride + i - pad = y. With a stride, only taps of
/// the right remainder reach a pixel: the pixels of each remainder (y mod stride, x mod stride) form a
/// product of their own, over their own taps.
template <class T>
void backward_data(const Conv2dArgs& args) {
  const Sizes s = sizes_of(args);
  const Conv2dGeometry& g = args.geometry;
  const int64_t all_taps = s.kh * s.kw;
  const Workspace packed_memory(sizeof(T) * packed_size<T>(all_taps * s.o, s.c)),
      zeros_memory(sizeof(T) * s.o);
  const Workspace offset_memory(sizeof(int64_t) * s.h * s.w * (all_taps + 1));
  T* packed = static_cast<T*>(packed_memory.data);
  std::memset(zeros_memory.data, 0, sizeof(T) * s.o);

  for (int64_t rest_y = 0; rest_y < min(g.stride_h, s.h); ++rest_y) {
    for (int64_t rest_x = 0; rest_x < min(g.stride_w, s.w); ++rest_x) {
      const int64_t rows_y = ceil_div(s.h - rest_y, g.stride_h), rows_x = ceil_div(s.w - rest_x, g.stride_w);
      const int64_t rows = rows_y * rows_x;
      const int64_t first_i = (rest_y + g.pad_top) % g.stride_h, first_j = (rest_x + g.pad_left) % g.stride_w;
      const int64_t taps_i = s.kh > first_i ? ceil_div(s.kh - first_i, g.stride_h) : 0;
      const int64_t taps_j = s.kw > first_j ? ceil_div(s.kw - first_j, g.stride_w) : 0;
      const int64_t taps = taps_i * taps_j, k = taps * s.o;

      int64_t tap = 0;
      for (int64_t i = first_i; i < s.kh; i += g.stride_h) {
        for (int64_t j = first_j; j < s.kw; j += g.stride_w, ++tap) {
          pack_panels(packed + tap * s.o * kTileColumns<T>, k,
                      args.kernel.as<const T>() + (i * s.kw + j) * s.c * s.o, s.o, s.c, int64_t{1}, s.o);
        }
      }
      auto* offset = static_cast<int64_t*>(offset_memory.data);
      int64_t* out_offset = offset + rows * taps;
      for (int64_t row = 0; row < rows; ++row) {
        const int64_t y = row / rows_x * g.stride_h + rest_y, x = row % rows_x * g.stride_w + rest_x;
        for (int64_t i = first_i; i < s.kh; i += g.stride_h) {
          for (int64_t j = first_j; j < s.kw; j += g.stride_w) {
            // The numerators are multiples of the stride by the choice of the taps.
            const int64_t oy = (y + g.pad_top - i) / g.stride_h, ox = (x + g.pad_left - j) / g.stride_w;
            const bool inside = 0 <= oy && oy < s.oh && 0 <= ox && ox < s.ow;
            *offset++ = inside ? (oy * s.ow + ox) * s.o : -1;
          }
        }
        out_offset[row] = (y * s.w + x) * s.c;
      }
      run_taps<T>({.images = s.b,
                   .rows = rows,
                   .taps = taps,
                   .depth = s.o,
                   .columns = s.c,
                   .in = args.y.as<const T>(),
                   .in_image = s.oh * s.ow * s.o,
                   .offset = static_cast<const int64_t*>(offset_memory.data),
                   .out = args.x.as<T>(),
                   .out_image = s.h * s.w * s.c,
                   .out_offset = out_offset,
                   .packed = packed,
                   .zeros = static_cast<const T*>(zeros_memory.data),
                   .bias = nullptr});
    }
  }
}

// --- the gradient of the kernel ----------------------------------------------------------------------------

/// dkernel[tap][c][o] = sum over pixels of x[pixel of tap][c] dy[pixel][o], computed as rows o (read with
/// stride from dy) times columns c, so that x is read where it lies: a segment is an image row of y, cut to
/// where the tap does not hit padding. Where the channels do not fill vectors, all taps of a block of pixels
/// are gathered side by side instead and play the part of the channels of a 1x1 kernel.
template <class T>
struct KernelGradient {
  const Conv2dArgs& args;
  Sizes s;
  bool gather;
  int64_t taps,
      channels;  ///< of the product: (kh * kw, c), or gathered (1, kh * kw * c rounded up to vectors)

  explicit KernelGradient(const Conv2dArgs& a) : args(a), s(sizes_of(a)) {
    gather = s.c % kLanes<T> != 0;
    taps = gather ? 1 : s.kh * s.kw;
    channels = gather ? ceil_div(s.kh * s.kw * s.c, kLanes<T>) * kLanes<T> : s.c;
  }

  int64_t partial_size() const { return taps * s.o * channels; }

  /// Adds images [begin, end) to partial [taps][o][channels].
  void add_images(T* partial, int64_t begin, int64_t end) const {
    if (gather) {
      gathered(partial, begin, end);
    } else {
      for (int64_t tap = 0; tap < taps; ++tap) one_tap(partial + tap * s.o * channels, tap, begin, end);
    }
  }

  void one_tap(T* partial, int64_t tap, int64_t begin, int64_t end) const {
    const Conv2dGeometry& g = args.geometry;
    const Workspace memory(sizeof(Segment<T>) * (end - begin) * s.oh);
    const Workspace starts_memory(sizeof(const T*) * (end - begin) * s.oh);
    auto* segments = static_cast<Segment<T>*>(memory.data);
    auto* dy = static_cast<const T**>(starts_memory.data);
    const int64_t left = tap % s.kw - g.pad_left;  // column of x under column 0 of y
    const int64_t lo = left >= 0 ? 0 : ceil_div(-left, g.stride_w);
    const int64_t hi = min(s.ow, s.w - left > 0 ? ceil_div(s.w - left, g.stride_w) : 0);
    if (hi <= lo) return;
    int64_t count = 0;
    for (int64_t image = begin; image < end; ++image) {
      for (int64_t oy = 0; oy < s.oh; ++oy) {
        const int64_t y = oy * g.stride_h + tap / s.kw - g.pad_top;
        if (y < 0 || y >= s.h) continue;
        segments[count].run = hi - lo;
        segments[count].b =
            args.x.as<const T>() + ((image * s.h + y) * s.w + lo * g.stride_w + left) * channels;
        dy[count++] = args.y.as<const T>() + ((image * s.oh + oy) * s.ow + lo) * s.o;
      }
    }
    product(partial, segments, dy, count, g.stride_w * channels);
  }

  void gathered(T* partial, int64_t begin, int64_t end) const {
    const Conv2dGeometry& g = args.geometry;
    const int64_t pixels = s.oh * s.ow;
    const Workspace memory(sizeof(T) * pixels * channels);
    T* patches = static_cast<T*>(memory.data);
    Segment<T> segment = {};
    for (int64_t image = begin; image < end; ++image) {
      std::memset(patches, 0, sizeof(T) * pixels * channels);
      for (int64_t pixel = 0; pixel < pixels; ++pixel) {
        for (int64_t i = 0; i < s.kh; ++i) {
          const int64_t y = pixel / s.ow * g.stride_h + i - g.pad_top;
          if (y < 0 || y >= s.h) continue;
          const int64_t left = pixel % s.ow * g.stride_w - g.pad_left;
          const int64_t j0 = max(0, -left), j1 = min(s.kw, s.w - left);
          const T* in = args.x.as<const T>() + ((image * s.h + y) * s.w + left) * s.c;
          T* out = patches + pixel * channels + i * s.kw * s.c;
          for (int64_t e = j0 * s.c; e < j1 * s.c; ++e) out[e] = in[e];
        }
      }
      segment.run = pixels;
      segment.b = patches;
      const T* dy = args.y.as<const T>() + image * pixels * s.o;
      product(partial, &segment, &dy, 1, channels);
    }
  }

  /// partial [o][channels] += sum over segments of dy (transposed) times b; dy[i] belongs to segments[i].
  void product(T* partial, Segment<T>* segments, const T* const* dy, int64_t count, int64_t b_step) const {
    constexpr int MR = kTileRows, NR = kTileColumns<T>;
    for (int64_t o = 0; o < s.o; o += MR) {
      const int rows = static_cast<int>(min(MR, s.o - o));
      for (int64_t i = 0; i < count; ++i) {
        for (int r = 0; r < rows; ++r) segments[i].a[r] = dy[i] + o + r;
      }
      for (int64_t c = 0; c < channels; c += NR) {
        T* out[MR] = {};
        for (int r = 0; r < rows; ++r) out[r] = partial + (o + r) * channels + c;
        const Tile<T> tile{.segments = segments,
                           .count = count,
                           .a_step = s.o,
                           .b_step = b_step,
                           .b_offset = c,
                           .c = out,
                           .c_step = 1,
                           .columns = static_cast<int>(min(NR, channels - c)),
                           .bias = nullptr,
                           .alpha = 1,
                           .accumulate = true};
        compute_tile_rows(tile, rows);
      }
    }
  }
};

template <class T>
void backward_kernel(const Conv2dArgs& args) {
  const KernelGradient<T> gradient(args);
  const Sizes& s = gradient.s;
  const int64_t size = gradient.partial_size();
  // Fixed by the shapes alone: blocks of images small enough for the cache, and large enough to be worth the
  // traffic of the accumulators; up to 16 groups of blocks, each with a partial sum of its own, added in
  // order at the end.
  const int64_t block = max(1, 512 / max(1, s.oh * s.ow)), blocks = ceil_div(s.b, block);
  constexpr int64_t kPartialBytes = 32 << 20;
  const int64_t most_groups =
      max(2, min(16, kPartialBytes / (max(size, 1) * static_cast<int64_t>(sizeof(T)))));
  const int64_t blocks_per_group = ceil_div(blocks, most_groups);
  const int64_t groups = blocks_per_group == 0 ? 0 : ceil_div(blocks, blocks_per_group);

  const Workspace memory(sizeof(T) * groups * size);
  T* partials = static_cast<T*>(memory.data);
  parallel_for(groups, 1,
               [&gradient, partials, size, block, blocks, blocks_per_group](int64_t begin, int64_t end) {
                 for (int64_t group = begin; group < end; ++group) {
                   T* partial = partials + group * size;
                   std::memset(partial, 0, sizeof(T) * size);
                   const int64_t last = min(blocks, (group + 1) * blocks_per_group);
                   for (int64_t i = group * blocks_per_group; i < last; ++i) {
                     gradient.add_images(partial, i * block, min(gradient.s.b, (i + 1) * block));
                   }
                 }
               });

  // Sum over groups, and from [taps][o][channels] to [kh][kw][c][o].
  const int64_t rows = s.kh * s.kw * s.c;
  T* out = args.kernel.as<T>();
  parallel_for(rows, max(1, 16384 / max(1, s.o * groups)),
               [&gradient, &s, partials, size, groups, out](int64_t begin, int64_t end) {
                 for (int64_t row = begin; row < end; ++row) {
                   const int64_t tap = gradient.gather ? 0 : row / s.c, c = gradient.gather ? row : row % s.c;
                   for (int64_t o = 0; o < s.o; ++o) {
                     const T* partial = partials + (tap * s.o + o) * gradient.channels + c;
                     T sum = 0;
                     for (int64_t group = 0; group < groups; ++group) sum += partial[group * size];
                     out[row * s.o + o] = sum;
                   }
                 }
               });
}

}  // namespace

void conv2d_forward(Conv2dArgs args) {
  args.x.dtype == DType::f32 ? forward<float>(args) : forward<double>(args);
}

void conv2d_backward_data(Conv2dArgs args) {
  args.x.dtype == DType::f32 ? backward_data<float>(args) : backward_data<double>(args);
}

void conv2d_backward_kernel(Conv2dArgs args) {
  args.x.dtype == DType::f32 ? backward_kernel<float>(args) : backward_kernel<double>(args);
}

}  // namespace halfstep::cpu::inline HALFSTEP_ISA
