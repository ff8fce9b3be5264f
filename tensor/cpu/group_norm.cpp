// Group normalisation fused with its activation. Examples are shared out over the threads.
#include "tensor/cpu/kernels.h"
#include "tensor/cpu/simd.h"
#include "tensor/cpu/thread_pool.h"
#include "tensor/cpu/workspace.h"
#include "tensor/formulas.h"

namespace halfstep::cpu::inline HALFSTEP_ISA {
namespace {

// Per-channel factors are laid out for several pixels one after the other, so that the loops over elements
// are long and plain however few channels there are.
constexpr int64_t kTileElements = 1024;
int64_t pixels_per_tile(int64_t pixels, int64_t channels) {
  return max(1, min(pixels, kTileElements / channels));
}

/// sums[c] += the sum over pixels of f(row[c], c) for each of the `Sums` rows sums[0], sums[1] ...: f takes
/// vectors of double that begin at channel c, one from each of the matrices x, and returns as many as there
/// are sums.
template <int Sums, class F, class... T>
void add_channel_sums(double* const (&sums)[Sums], int64_t pixels, int64_t channels, F f, const T*... x) {
  constexpr int L = kLanes<double>;
  // Some vectors side by side, so that whole lines of memory are used as they come, and even and odd pixels
  // apart: the additions of a long sum wait for each other, and their errors add up.
  constexpr int kSide = kVectorRegisters == 32 ? 4 : 2;
  int64_t c = 0;
  const auto add = [&]<int Side>(Constant<Side>) {
    Vector<double> sum[2][Sums][Side] = {};
    const auto add_pixel = [&](auto& into, int64_t i) {
#pragma GCC unroll 4
      for (int v = 0; v < Side; ++v) {
        const int64_t at = c + v * L;
        const auto terms = f(at, load_wide(x + i * channels + at)...);
#pragma GCC unroll 4
        for (int s = 0; s < Sums; ++s) into[s][v] += terms.of[s];
      }
    };
    int64_t i = 0;
    for (; i + 2 <= pixels; i += 2) add_pixel(sum[0], i), add_pixel(sum[1], i + 1);
    if (i < pixels) add_pixel(sum[0], i);
    for (int s = 0; s < Sums; ++s) {
      for (int v = 0; v < Side; ++v) {
        double* const total = sums[s] + c + v * L;
        store(total, load(total) + (sum[0][s][v] + sum[1][s][v]));
      }
    }
    c += Side * L;
  };
  while (c + kSide * L <= channels) add(Constant<kSide>{});
  while (c + L <= channels) add(Constant<1>{});
  for (; c < channels; ++c) {
    double sum[Sums] = {};
    for (int64_t i = 0; i < pixels; ++i) {
      const auto terms = f(c, (Vector<double>{} + double{x[i * channels + c]})...);
      for (int s = 0; s < Sums; ++s) sum[s] += terms.of[s][0];
    }
    for (int s = 0; s < Sums; ++s) sums[s][c] += sum[s];
  }
}

/// What add_channel_sums adds at a time.
template <int Sums>
struct Terms {
  Vector<double> of[Sums];
};

/// Factors of one example, each [tile pixels][channels], in consecutive parts of a workspace.
template <class T>
struct Factors {
  int64_t channels, tile;  ///< tile: elements
  Workspace memory;
  T* part(int i) const { return static_cast<T*>(memory.data) + i * tile; }

  Factors(int64_t pixels, int64_t c, int parts)
      : channels(c), tile(pixels_per_tile(pixels, c) * c), memory(sizeof(T) * tile * parts) {}
  /// Repeats the first `channels` elements of a part over the tile.
  void repeat(int i) const {
    T* p = part(i);
    for (int64_t e = channels; e < tile; ++e) p[e] = p[e - channels];
  }
};

template <class T>
const T* channel_row(const Array& a, int64_t example) {
  return a.as<const T>() + (a.shape[0] == 1 ? 0 : example * a.shape[1]);
}

template <class T>
void forward_example(const GroupNormArgs& args, int64_t example, double* sums, const Factors<T>& factors) {
  const int64_t pixels = args.x.shape[1], channels = args.x.shape[2], width = channels / args.groups;
  const int64_t size = pixels * channels;
  const T* const x = args.x.as<const T>() + example * size;
  T* const y = args.y.as<T>() + example * size;
  double* const means = sums + channels;
  const double count = static_cast<double>(pixels * width);

  // In double. For f32 data one pass will do: squares are exact, and the variance loses digits only where the
  // data have none. For f64 a second pass keeps them where the mean is much larger than the deviation.
  constexpr bool kOnePass = sizeof(T) == sizeof(float);
  double* const squares = means + channels;
  for (int64_t c = 0; c < channels; ++c) sums[c] = squares[c] = 0;
  if constexpr (kOnePass) {
    add_channel_sums<2>(
        {sums, squares}, pixels, channels,
        [](int64_t, Vector<double> v) {
          return Terms<2>{{v, v * v}};
        },
        x);
  } else {
    add_channel_sums<1>(
        {sums}, pixels, channels, [](int64_t, Vector<double> v) { return Terms<1>{{v}}; }, x);
  }
  for (int64_t first = 0; first < channels; first += width) {
    double sum = 0;
    for (int64_t c = 0; c < width; ++c) sum += sums[first + c];
    for (int64_t c = 0; c < width; ++c) means[first + c] = sum / count;
  }
  if constexpr (!kOnePass) {
    const int64_t whole = channels / kLanes<double> * kLanes<double>;
    add_channel_sums<1>(
        {squares}, pixels, channels,
        [means, whole](int64_t c, Vector<double> v) {
          const Vector<double> d = v - (c < whole ? load(means + c) : Vector<double>{} + means[c]);
          return Terms<1>{{d * d}};
        },
        x);
  }

  T* const mean = factors.part(0);
  T* const scale = factors.part(1);
  T* const shift = factors.part(2);
  const T* gain = channel_row<T>(args.gain, example);
  const T* bias = channel_row<T>(args.bias, example);
  for (int64_t g = 0; g < args.groups; ++g) {
    double sum = 0;
    for (int64_t c = g * width; c < (g + 1) * width; ++c) sum += squares[c];
    const double group_mean = means[g * width];
    const double variance = kOnePass ? sum / count - group_mean * group_mean : sum / count;
    const double rstd = 1 / formulas::sqrt((variance < 0 ? 0 : variance) + args.eps);
    args.mean.as<T>()[example * args.groups + g] = static_cast<T>(group_mean);
    args.rstd.as<T>()[example * args.groups + g] = static_cast<T>(rstd);
    for (int64_t c = g * width; c < (g + 1) * width; ++c) {
      mean[c] = static_cast<T>(means[c]);
      scale[c] = static_cast<T>(rstd * gain[c]);
      // The rounding error of the mean, which is large beside a small deviation, is corrected here.
      shift[c] = static_cast<T>(bias[c] - (means[c] - mean[c]) * rstd * gain[c]);
    }
  }
  for (int i = 0; i < 3; ++i) factors.repeat(i);

  const auto normalize = [&](auto activation) {
    for (int64_t e = 0; e < size; e += factors.tile) {
      const int64_t n = min(factors.tile, size - e);
      const T* in = x + e;
      T* out = y + e;
      independent_loop(n, [&](int64_t i) { out[i] = activation((in[i] - mean[i]) * scale[i] + shift[i]); });
    }
  };
  if (args.activation == Activation::silu) {
    normalize([](T u) { return formulas::Silu{}(u, 0.0, 0.0); });
  } else {
    normalize([](T u) { return u; });
  }
}

/// With h = (x - mean) rstd, u = h gain + bias and du = dy activation'(u), for each group
/// dx = rstd (du gain - mean(du gain) - h mean(du gain h)).
template <class T>
void backward_example(const GroupNormBackwardArgs& args, int64_t example, double* sums,
                      const Factors<T>& factors) {
  const GroupNormArgs& f = args.forward;
  const int64_t pixels = f.x.shape[1], channels = f.x.shape[2], width = channels / f.groups;
  const int64_t size = pixels * channels;
  const T* const x = f.x.as<const T>() + example * size;
  const T* const dy = args.dy.as<const T>() + example * size;
  T* const dx = args.dx.as<T>() + example * size;
  double *const sum_du = sums, *const sum_du_h = sums + channels;

  T* const mean = factors.part(0);
  T* const rstd = factors.part(1);
  T* const gain = factors.part(2);
  T* const bias = factors.part(3);
  T* const du_h = factors.part(4);
  for (int64_t c = 0; c < channels; ++c) {
    mean[c] = f.mean.as<const T>()[example * f.groups + c / width];
    rstd[c] = f.rstd.as<const T>()[example * f.groups + c / width];
    gain[c] = channel_row<T>(f.gain, example)[c];
    bias[c] = channel_row<T>(f.bias, example)[c];
    sum_du[c] = sum_du_h[c] = 0;
  }
  for (int i = 0; i < 4; ++i) factors.repeat(i);

  // First pass: du (kept in dx) and the sums over pixels of du and du h.
  const auto first_pass = [&](auto slope) {
    for (int64_t e = 0; e < size; e += factors.tile) {
      const int64_t n = min(factors.tile, size - e);
      const T *in = x + e, *up = dy + e;
      T* du = dx + e;
      independent_loop(n, [&](int64_t i) {
        const T h = (in[i] - mean[i]) * rstd[i];
        const T d = up[i] * slope(h * gain[i] + bias[i]);
        du[i] = d;
        du_h[i] = d * h;
      });
      add_channel_sums<2>(
          {sum_du, sum_du_h}, n / channels, channels,
          [](int64_t, Vector<double> d, Vector<double> d_h) {
            return Terms<2>{{d, d_h}};
          },
          static_cast<const T*>(du), static_cast<const T*>(du_h));
    }
  };
  if (f.activation == Activation::silu) {
    // The slope of silu from one exponential; formulas::derivative spends two.
    first_pass([](T u) {
      const T s = formulas::sigmoid(u);
      return s * (T(1) + u * (T(1) - s));
    });
  } else {
    first_pass([](T) { return T(1); });
  }

  // Second pass: dx = a du - b - (x - mean) c. The parts of gain, bias and du h serve as a, b and c.
  const double count = static_cast<double>(pixels * width);
  for (int64_t first = 0; first < channels; first += width) {
    double sum = 0, sum_h = 0;
    for (int64_t c = first; c < first + width; ++c) {
      sum += sum_du[c] * gain[c];
      sum_h += sum_du_h[c] * gain[c];
    }
    for (int64_t c = first; c < first + width; ++c) {
      args.dbias.as<T>()[example * channels + c] = static_cast<T>(sum_du[c]);
      args.dgain.as<T>()[example * channels + c] = static_cast<T>(sum_du_h[c]);
      const double r = rstd[c];
      gain[c] = static_cast<T>(r * gain[c]);
      bias[c] = static_cast<T>(r * sum / count);
      du_h[c] = static_cast<T>(r * r * sum_h / count);
    }
  }
  for (int i = 2; i < 5; ++i) factors.repeat(i);
  for (int64_t e = 0; e < size; e += factors.tile) {
    const int64_t n = min(factors.tile, size - e);
    const T* in = x + e;
    T* out = dx + e;
    independent_loop(n,
                     [&](int64_t i) { out[i] = gain[i] * out[i] - bias[i] - (in[i] - mean[i]) * du_h[i]; });
  }
}

/// Calls example(index, sums [3 * channels], factors) for every example.
template <class T, class F>
void for_each_example(const Array& x, int parts, F example) {
  const int64_t pixels = x.shape[1], channels = x.shape[2], size = max(1, pixels * channels);
  if (numel(x.shape) == 0) return;
  parallel_for(x.shape[0], max(max(1, x.shape[0] / 8), 8192 / size), [=](int64_t begin, int64_t end) {
    const Workspace sums(sizeof(double) * 3 * channels);
    const Factors<T> factors(pixels, channels, parts);
    for (int64_t i = begin; i < end; ++i) example(i, static_cast<double*>(sums.data), factors);
  });
}

template <class T>
void forward(const GroupNormArgs& args) {
  for_each_example<T>(args.x, 3, [&args](int64_t i, double* sums, const Factors<T>& factors) {
    forward_example(args, i, sums, factors);
  });
}

template <class T>
void backward(const GroupNormBackwardArgs& args) {
  for_each_example<T>(args.forward.x, 5, [&args](int64_t i, double* sums, const Factors<T>& factors) {
    backward_example(args, i, sums, factors);
  });
}

}  // namespace

void group_norm(GroupNormArgs args) {
  args.x.dtype == DType::f32 ? forward<float>(args) : forward<double>(args);
}

void group_norm_backward(GroupNormBackwardArgs args) {
  args.dx.dtype == DType::f32 ? backward<float>(args) : backward<double>(args);
}

}  // namespace halfstep::cpu::inline HALFSTEP_ISA
