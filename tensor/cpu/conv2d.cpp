// Convolutions as implicit matrix products on the micro-kernel of tile.h: the direct method, for any kernel.
// Where Winograd's method applies, the entries hand over to winograd.cpp.
#include "tensor/cpu/kernels.h"
#include "tensor/cpu/matmul.h"
#include "tensor/cpu/thread_pool.h"
#include "tensor/cpu/tile.h"
#include "tensor/cpu/winograd.h"
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
  int64_t in_image, in_pixel;  ///< elements per image and per pixel
  const int64_t* offset;       ///< [rows][taps] into an image, or -1: zeros (padding)
  T* out;
  int64_t out_image;
  const int64_t* out_offset;  ///< [rows]
  const T* packed;            ///< panels of taps * depth rows
  const T* zeros;             ///< depth zeros
  const T* bias;
  const T* residual;  ///< added; laid out as out
};

/// TapProduct with few columns, which would leave most of a vector unused: first each pixel's products with
/// the matrices of all taps, which lie beside each other then, and from these the sums.
template <class T>
class NarrowProduct {
 public:
  explicit NarrowProduct(const TapProduct<T>& conv)
      : conv_(conv),
        pixels_(conv.in_image / conv.in_pixel),
        width_(conv.taps * conv.columns),
        packed_memory_(sizeof(T) * packed_size<T>(conv.depth, width_)),
        place_memory_(sizeof(int64_t) * conv.rows * conv.taps) {}

  static bool is_worthwhile(const TapProduct<T>& conv) {
    constexpr int64_t kLeastDepth = 16;
    return conv.taps > 1 && 2 * conv.columns <= kLanes<T> && conv.depth >= kLeastDepth &&
           2 * conv.rows >= conv.in_image / conv.in_pixel;
  }

  void run() const {
    pack();
    locate();
    // Few images are shared out by pixels.
    constexpr int64_t kManyImages = 8;
    if (conv_.images >= kManyImages) {
      parallel_for(conv_.images, 1, [this](int64_t begin, int64_t end) {
        const Workspace memory(sizeof(T) * pixels_ * width_);
        T* const products = static_cast<T*>(memory.data);
        for (int64_t image = begin; image < end; ++image) {
          multiply(products, image, 0, pixels_);
          add(products, image, 0, conv_.rows);
        }
      });
      return;
    }
    const Workspace memory(sizeof(T) * pixels_ * width_);
    T* const products = static_cast<T*>(memory.data);
    for (int64_t image = 0; image < conv_.images; ++image) {
      constexpr int64_t kGrain = 8 * kTileRows;
      parallel_for(pixels_, kGrain,
                   [=, this](int64_t begin, int64_t end) { multiply(products, image, begin, end); });
      parallel_for(conv_.rows, kGrain,
                   [=, this](int64_t begin, int64_t end) { add(products, image, begin, end); });
    }
  }

 private:
  T* packed() const { return static_cast<T*>(packed_memory_.data); }
  int64_t* places() const { return static_cast<int64_t*>(place_memory_.data); }

  /// [taps][depth][columns] to the panels of [depth][taps][columns].
  void pack() const {
    constexpr int NR = kTileColumns<T>;
    const Workspace memory(sizeof(T) * conv_.depth * width_);
    T* const beside = static_cast<T*>(memory.data);
    for (int64_t tap = 0; tap < conv_.taps; ++tap) {
      for (int64_t d = 0; d < conv_.depth; ++d) {
        std::memcpy(beside + d * width_ + tap * conv_.columns, conv_.packed + (tap * conv_.depth + d) * NR,
                    sizeof(T) * conv_.columns);
      }
    }
    pack_panels(packed(), conv_.depth, static_cast<const T*>(beside), conv_.depth, width_, width_,
                int64_t{1});
  }

  /// Where each row finds the products of its taps, or -1.
  void locate() const {
    for (int64_t i = 0; i < conv_.rows * conv_.taps; ++i) {
      const int64_t offset = conv_.offset[i];
      places()[i] = offset < 0 ? -1 : offset / conv_.in_pixel * width_ + i % conv_.taps * conv_.columns;
    }
  }

  void multiply(T* products, int64_t image, int64_t first, int64_t last) const {
    const T* const in = conv_.in + image * conv_.in_image + first * conv_.in_pixel;
    multiply_packed<T>(last - first, width_, conv_.depth, {in, conv_.in_pixel, 1}, packed(),
                       {products + first * width_, width_, 1}, T(1), false);
  }

  void add(const T* products, int64_t image, int64_t first, int64_t last) const {
    for (int64_t row = first; row < last; ++row) {
      T sums[kLanes<T>];
      for (int64_t j = 0; j < conv_.columns; ++j) sums[j] = conv_.bias ? conv_.bias[j] : T(0);
      for (int64_t tap = 0; tap < conv_.taps; ++tap) {
        const int64_t place = places()[row * conv_.taps + tap];
        if (place < 0) continue;
        for (int64_t j = 0; j < conv_.columns; ++j) sums[j] += products[place + j];
      }
      const int64_t at = image * conv_.out_image + conv_.out_offset[row];
      if (conv_.residual) {
        for (int64_t j = 0; j < conv_.columns; ++j) sums[j] += conv_.residual[at + j];
      }
      std::memcpy(conv_.out + at, sums, sizeof(T) * conv_.columns);
    }
  }

  const TapProduct<T>& conv_;
  int64_t pixels_, width_;
  Workspace packed_memory_, place_memory_;
};

template <class T>
void run_taps(const TapProduct<T>& conv) {
  if (NarrowProduct<T>::is_worthwhile(conv)) return NarrowProduct<T>(conv).run();
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
                     int64_t out[MR] = {};
                     T* out_columns[MR] = {};
                     const T* residual_columns[MR] = {};
                     for (int r = 0; r < rows; ++r) {
                       const T* in = conv.in + image * conv.in_image;
                       const int64_t* offset = conv.offset + row * conv.taps;
                       for (int64_t tap = 0; tap < conv.taps; ++tap) {
                         segments[tap].a[r] = offset[tap] < 0 ? conv.zeros : in + offset[tap];
                       }
                       out[r] = image * conv.out_image + conv.out_offset[row];
                       if (++row == conv.rows) row = 0, ++image;
                     }
                     for (int64_t tap = 0; tap < conv.taps; ++tap) {
                       segments[tap].run = conv.depth;
                       segments[tap].b = conv.packed + tap * conv.depth * NR;
                     }
                     for (int64_t panel = panel_begin; panel < panel_end; ++panel) {
                       const int64_t j = panel * NR;
                       for (int r = 0; r < rows; ++r) {
                         out_columns[r] = conv.out + out[r] + j;
                         if (conv.residual) residual_columns[r] = conv.residual + out[r] + j;
                       }
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
                                          .added = conv.residual ? residual_columns : nullptr};
                       compute_tile_rows(tile, rows);
                     }
                   }
                 }
               });
}

/// c and o are the channels of one group, all_c and all_o those of a pixel. Each group is a product of its
/// own on runs of channels: it differs from a dense convolution in the steps from pixel to pixel.
struct Sizes {
  int64_t b, h, w, kh, kw, c, o, oh, ow, all_c, all_o;
};

Sizes sizes_of(const Conv2dArgs& args) {
  return {.b = args.x.shape[0],
          .h = args.x.shape[1],
          .w = args.x.shape[2],
          .kh = args.kernel.shape[0],
          .kw = args.kernel.shape[1],
          .c = args.kernel.shape[2],
          .o = args.kernel.shape[3] / args.geometry.groups,
          .oh = args.y.shape[1],
          .ow = args.y.shape[2],
          .all_c = args.x.shape[3],
          .all_o = args.kernel.shape[3]};
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

  for (int64_t row = 0; row < rows; ++row) {
    const int64_t top = row / s.ow * g.stride_h - g.pad_top, left = row % s.ow * g.stride_w - g.pad_left;
    for (int64_t i = 0; i < s.kh; ++i) {
      for (int64_t j = 0; j < s.kw; ++j) {
        const int64_t y = top + i * g.dilation_h, x = left + j * g.dilation_w;
        const bool inside = 0 <= y && y < s.h && 0 <= x && x < s.w;
        *offset++ = inside ? (y * s.w + x) * s.all_c : -1;
      }
    }
    out_offset[row] = row * s.all_o;
  }
  for (int64_t group = 0; group < g.groups; ++group) {
    const T* const kernel = args.kernel.as<const T>() + group * s.o;
    parallel_for(ceil_div(s.o, NR), max(1, 32768 / (NR * max(k, 1))), [=](int64_t begin, int64_t end) {
      const int64_t j = begin * NR;
      pack_panels(packed + j * k, k, kernel + j, k, min(s.o, end * NR) - j, s.all_o, int64_t{1});
    });
    run_taps<T>({.images = s.b,
                 .rows = rows,
                 .taps = taps,
                 .depth = s.c,
                 .columns = s.o,
                 .in = args.x.as<const T>() + group * s.c,
                 .in_image = s.h * s.w * s.all_c,
                 .in_pixel = s.all_c,
                 .offset = static_cast<const int64_t*>(offset_memory.data),
                 .out = args.y.as<T>() + group * s.o,
                 .out_image = rows * s.all_o,
                 .out_offset = out_offset,
                 .packed = packed,
                 .zeros = static_cast<const T*>(zeros_memory.data),
                 .bias = args.bias.absent() ? nullptr : args.bias.as<const T>() + group * s.o,
                 .residual = args.residual.absent() ? nullptr : args.residual.as<const T>() + group * s.o});
  }
}

/// Writes the taps of one axis that reach the pixels `rest`, rest + stride, ... and returns their number.
int64_t taps_reaching(int64_t* taps, int64_t rest, int64_t kernel_size, int pad, int dilation, int stride) {
  int64_t count = 0;
  for (int64_t i = 0; i < kernel_size; ++i) {
    if ((rest + pad - i * dilation) % stride == 0) taps[count++] = i;
  }
  return count;
}

/// dx[y, x] sums dy[oy, ox] over the taps (i, j) with oy * stride + i * dilation - pad = y. With a stride,
/// only taps of the right remainder reach a pixel: the pixels of each remainder (y mod stride, x mod stride)
/// form a product of their own, over their own taps.
template <class T>
void backward_data(const Conv2dArgs& args) {
  const Sizes s = sizes_of(args);
  const Conv2dGeometry& g = args.geometry;
  const int64_t all_taps = s.kh * s.kw;
  const Workspace packed_memory(sizeof(T) * packed_size<T>(all_taps * s.o, s.c)),
      zeros_memory(sizeof(T) * s.o);
  const Workspace offset_memory(sizeof(int64_t) * s.h * s.w * (all_taps + 1));
  const Workspace taps_memory(sizeof(int64_t) * (s.kh + s.kw));
  T* packed = static_cast<T*>(packed_memory.data);
  auto* const taps_y = static_cast<int64_t*>(taps_memory.data);
  int64_t* const taps_x = taps_y + s.kh;
  std::memset(zeros_memory.data, 0, sizeof(T) * s.o);

  for (int64_t rest_y = 0; rest_y < min(g.stride_h, s.h); ++rest_y) {
    for (int64_t rest_x = 0; rest_x < min(g.stride_w, s.w); ++rest_x) {
      const int64_t rows_y = ceil_div(s.h - rest_y, g.stride_h), rows_x = ceil_div(s.w - rest_x, g.stride_w);
      const int64_t rows = rows_y * rows_x;
      const int64_t taps_i = taps_reaching(taps_y, rest_y, s.kh, g.pad_top, g.dilation_h, g.stride_h);
      const int64_t taps_j = taps_reaching(taps_x, rest_x, s.kw, g.pad_left, g.dilation_w, g.stride_w);
      const int64_t taps = taps_i * taps_j, k = taps * s.o;

      auto* offset = static_cast<int64_t*>(offset_memory.data);
      int64_t* out_offset = offset + rows * taps;
      for (int64_t row = 0; row < rows; ++row) {
        const int64_t y = row / rows_x * g.stride_h + rest_y, x = row % rows_x * g.stride_w + rest_x;
        for (int64_t i = 0; i < taps_i; ++i) {
          for (int64_t j = 0; j < taps_j; ++j) {
            // The numerators are multiples of the stride by the choice of the taps.
            const int64_t oy = (y + g.pad_top - taps_y[i] * g.dilation_h) / g.stride_h;
            const int64_t ox = (x + g.pad_left - taps_x[j] * g.dilation_w) / g.stride_w;
            const bool inside = 0 <= oy && oy < s.oh && 0 <= ox && ox < s.ow;
            *offset++ = inside ? (oy * s.ow + ox) * s.all_o : -1;
          }
        }
        out_offset[row] = (y * s.w + x) * s.all_c;
      }
      for (int64_t group = 0; group < g.groups; ++group) {
        for (int64_t tap = 0; tap < taps; ++tap) {
          const int64_t number = taps_y[tap / taps_j] * s.kw + taps_x[tap % taps_j];
          pack_panels(packed + tap * s.o * kTileColumns<T>, k,
                      args.kernel.as<const T>() + number * s.c * s.all_o + group * s.o, s.o, s.c, int64_t{1},
                      s.all_o);
        }
        run_taps<T>({.images = s.b,
                     .rows = rows,
                     .taps = taps,
                     .depth = s.o,
                     .columns = s.c,
                     .in = args.y.as<const T>() + group * s.o,
                     .in_image = s.oh * s.ow * s.all_o,
                     .in_pixel = s.all_o,
                     .offset = static_cast<const int64_t*>(offset_memory.data),
                     .out = args.x.as<T>() + group * s.c,
                     .out_image = s.h * s.w * s.all_c,
                     .out_offset = out_offset,
                     .packed = packed,
                     .zeros = static_cast<const T*>(zeros_memory.data),
                     .bias = nullptr,
                     .residual = nullptr});
      }
    }
  }
}

// --- the gradient of the kernel ----------------------------------------------------------------------------

/// dkernel[tap][c][o] = sum over pixels of x[pixel of tap][c] dy[pixel][o], computed as rows o (read with
/// stride from dy) times columns c, so that x is read where it lies: a segment is an image row of y, cut to
/// where the tap does not hit padding. Where the channels do not fill vectors, all taps of a block of pixels
/// are gathered side by side instead and play the part of the channels of a 1x1 kernel. One channel group.
template <class T>
struct KernelGradient {
  const Conv2dArgs& args;
  Sizes s;
  const T *x, *dy;  ///< at the group's first channel
  bool gather;
  int64_t taps,
      channels;  ///< of the product: (kh * kw, c), or gathered (1, kh * kw * c rounded up to vectors)

  KernelGradient(const Conv2dArgs& a, int64_t group)
      : args(a), s(sizes_of(a)), x(a.x.as<const T>() + group * s.c), dy(a.y.as<const T>() + group * s.o) {
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
    auto* starts = static_cast<const T**>(starts_memory.data);
    const int64_t left = tap % s.kw * g.dilation_w - g.pad_left;  // column of x under column 0 of y
    const int64_t lo = left >= 0 ? 0 : ceil_div(-left, g.stride_w);
    const int64_t hi = min(s.ow, s.w - left > 0 ? ceil_div(s.w - left, g.stride_w) : 0);
    if (hi <= lo) return;
    int64_t count = 0;
    for (int64_t image = begin; image < end; ++image) {
      for (int64_t oy = 0; oy < s.oh; ++oy) {
        const int64_t y = oy * g.stride_h + tap / s.kw * g.dilation_h - g.pad_top;
        if (y < 0 || y >= s.h) continue;
        segments[count].run = hi - lo;
        segments[count].b = x + ((image * s.h + y) * s.w + lo * g.stride_w + left) * s.all_c;
        starts[count++] = dy + ((image * s.oh + oy) * s.ow + lo) * s.all_o;
      }
    }
    product(partial, segments, starts, count, g.stride_w * s.all_c);
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
          const int64_t y = pixel / s.ow * g.stride_h + i * g.dilation_h - g.pad_top;
          if (y < 0 || y >= s.h) continue;
          const int64_t left = pixel % s.ow * g.stride_w - g.pad_left;
          const T* in = x + ((image * s.h + y) * s.w + left) * s.all_c;
          T* out = patches + pixel * channels + i * s.kw * s.c;
          const int64_t step = g.dilation_w * s.all_c;  // from tap to tap
          if (step == s.c) {
            const int64_t j0 = max(0, -left), j1 = min(s.kw, s.w - left);
            for (int64_t e = j0 * s.c; e < j1 * s.c; ++e) out[e] = in[e];
          } else {
            for (int64_t j = 0; j < s.kw; ++j) {
              const int64_t column = left + j * g.dilation_w;
              if (column < 0 || column >= s.w) continue;
              for (int64_t c = 0; c < s.c; ++c) out[j * s.c + c] = in[j * step + c];
            }
          }
        }
      }
      segment.run = pixels;
      segment.b = patches;
      const T* start = dy + image * pixels * s.all_o;
      product(partial, &segment, &start, 1, channels);
    }
  }

  /// partial [o][channels] += sum over segments of dy (transposed) times b; starts[i] is where dy begins for
  /// segments[i].
  void product(T* partial, Segment<T>* segments, const T* const* starts, int64_t count,
               int64_t b_step) const {
    constexpr int MR = kTileRows, NR = kTileColumns<T>;
    for (int64_t o = 0; o < s.o; o += MR) {
      const int rows = static_cast<int>(min(MR, s.o - o));
      for (int64_t i = 0; i < count; ++i) {
        for (int r = 0; r < rows; ++r) segments[i].a[r] = starts[i] + o + r;
      }
      for (int64_t c = 0; c < channels; c += NR) {
        T* out[MR] = {};
        for (int r = 0; r < rows; ++r) out[r] = partial + (o + r) * channels + c;
        const Tile<T> tile{.segments = segments,
                           .count = count,
                           .a_step = s.all_o,
                           .b_step = b_step,
                           .b_offset = c,
                           .c = out,
                           .c_step = 1,
                           .columns = static_cast<int>(min(NR, channels - c)),
                           .bias = nullptr,
                           .alpha = 1,
                           .added = out};
        compute_tile_rows(tile, rows);
      }
    }
  }
};

template <class T>
void backward_kernel_group(const Conv2dArgs& args, int64_t channel_group) {
  const KernelGradient<T> gradient(args, channel_group);
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
  T* out = args.kernel.as<T>() + channel_group * s.o;
  parallel_for(rows, max(1, 16384 / max(1, s.o * groups)),
               [&gradient, &s, partials, size, groups, out](int64_t begin, int64_t end) {
                 for (int64_t row = begin; row < end; ++row) {
                   const int64_t tap = gradient.gather ? 0 : row / s.c, c = gradient.gather ? row : row % s.c;
                   for (int64_t o = 0; o < s.o; ++o) {
                     const T* partial = partials + (tap * s.o + o) * gradient.channels + c;
                     T sum = 0;
                     for (int64_t group = 0; group < groups; ++group) sum += partial[group * size];
                     out[row * s.all_o + o] = sum;
                   }
                 }
               });
}

template <class T>
void backward_kernel(const Conv2dArgs& args) {
  for (int64_t group = 0; group < args.geometry.groups; ++group) backward_kernel_group<T>(args, group);
}

}  // namespace

void conv2d_forward(Conv2dArgs args) {
  if (winograd_applies(args)) return winograd_forward(args);
  args.x.dtype == DType::f32 ? forward<float>(args) : forward<double>(args);
}

void conv2d_backward_data(Conv2dArgs args) {
  if (winograd_applies(args)) return winograd_backward_data(args);
  args.x.dtype == DType::f32 ? backward_data<float>(args) : backward_data<double>(args);
}

void conv2d_backward_kernel(Conv2dArgs args) {
  if (winograd_applies(args)) return winograd_backward_kernel(args);
  args.x.dtype == DType::f32 ? backward_kernel<float>(args) : backward_kernel<double>(args);
}

}  // namespace halfstep::cpu::inline HALFSTEP_ISA
