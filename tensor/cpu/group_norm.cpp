// Group normalisation fused with its activation. Examples are shared out over the threads.
#include <cstring>

#include "tensor/cpu/column_sums.h"
#include "tensor/cpu/kernels.h"
#include "tensor/cpu/simd.h"
#include "tensor/cpu/thread_pool.h"
#include "tensor/cpu/workspace.h"
#include "tensor/formulas.h"

namespace halfstep::cpu::inline HALFSTEP_ISA {
namespace {

using formulas::multiply_add;

// Per-channel factors are laid out for several pixels one after the other, so that the loops over elements
// are long and plain however few channels there are.
constexpr int64_t kTileElements = 1024;
int64_t pixels_per_tile(int64_t pixels, int64_t channels) {
  return max(1, min(pixels, kTileElements / channels));
}

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
    for (int64_t e = channels; e < tile; e += channels) std::memcpy(p + e, p, sizeof(T) * channels);
  }
};

template <class T>
const T* channel_row(const Array& a, int64_t example) {
  return a.as<const T>() + (a.shape[0] == 1 ? 0 : example * a.shape[1]);
}

template <class T>
class Forward {
 public:
  explicit Forward(const GroupNormArgs& args)
      : args_(args), pixels_(args.x.shape[1]), channels_(args.x.shape[2]), width_(channels_ / args.groups) {}

  /// Elements of `statistics`: of each channel the mean and 1 / deviation of its group, and scratch memory.
  int64_t statistics_size() const { return 4 * channels_; }

  /// Channels [first, last), which are whole groups.
  void find_statistics(double* statistics, int64_t example, int64_t first, int64_t last) const {
    const T* const x = args_.x.as<const T>() + example * pixels_ * channels_ + first;
    double *const means = statistics + first, *const rstds = means + channels_;
    double *const sums = rstds + channels_, *const squares = sums + channels_;
    const int64_t count = last - first;
    const auto elements = static_cast<double>(pixels_ * width_);
    for (int64_t c = 0; c < count; ++c) sums[c] = squares[c] = 0;

    // In double. For f32 data one pass will do: squares are exact, and the variance loses digits only where
    // the data have none. For f64 a second pass keeps them where the mean is much larger than the deviation.
    constexpr bool kOnePass = sizeof(T) == sizeof(float);
    if constexpr (kOnePass) {
      add_column_sums<2>(
          {sums, squares}, pixels_, count, channels_,
          [](int64_t, Vector<double> v) {
            return Terms<2>{{v, v * v}};
          },
          x);
    } else {
      add_column_sums<1>(
          {sums}, pixels_, count, channels_, [](int64_t, Vector<double> v) { return Terms<1>{{v}}; }, x);
    }
    for (int64_t group = 0; group < count; group += width_) {
      double sum = 0;
      for (int64_t c = group; c < group + width_; ++c) sum += sums[c];
      for (int64_t c = group; c < group + width_; ++c) means[c] = sum / elements;
    }
    if constexpr (!kOnePass) {
      const int64_t whole = count / kLanes<double> * kLanes<double>;
      add_column_sums<1>(
          {squares}, pixels_, count, channels_,
          [means, whole](int64_t c, Vector<double> v) {
            const Vector<double> d = v - (c < whole ? load(means + c) : Vector<double>{} + means[c]);
            return Terms<1>{{d * d}};
          },
          x);
    }
    for (int64_t group = 0; group < count; group += width_) {
      double sum = 0;
      for (int64_t c = group; c < group + width_; ++c) sum += squares[c];
      const double mean = means[group];
      const double variance = kOnePass ? sum / elements - mean * mean : sum / elements;
      const double rstd = 1 / formulas::sqrt((variance < 0 ? 0 : variance) + args_.eps);
      for (int64_t c = group; c < group + width_; ++c) rstds[c] = rstd;
      const int64_t index = example * args_.groups + (first + group) / width_;
      args_.mean.as<T>()[index] = static_cast<T>(mean);
      args_.rstd.as<T>()[index] = static_cast<T>(rstd);
    }
  }

  /// y at pixels [first, last).
  void apply(const double* statistics, const Factors<T>& factors, int64_t example, int64_t first,
             int64_t last) const {
    T* const mean = factors.part(0);
    T* const scale = factors.part(1);
    T* const shift = factors.part(2);
    const T* gain = channel_row<T>(args_.gain, example);
    const T* bias = channel_row<T>(args_.bias, example);
    for (int64_t c = 0; c < channels_; ++c) {
      const double exact = statistics[c], rstd = statistics[channels_ + c];
      mean[c] = static_cast<T>(exact);
      scale[c] = static_cast<T>(rstd * gain[c]);
      // The rounding error of the mean, which is large beside a small deviation, is corrected here.
      shift[c] = static_cast<T>(bias[c] - (exact - mean[c]) * rstd * gain[c]);
    }
    for (int i = 0; i < 3; ++i) factors.repeat(i);

    const T* const x = args_.x.as<const T>() + example * pixels_ * channels_;
    T* const y = args_.y.as<T>() + example * pixels_ * channels_;
    const auto normalize = [&](auto activation) {
      for (int64_t e = first * channels_; e < last * channels_; e += factors.tile) {
        const int64_t n = min(factors.tile, last * channels_ - e);
        const T* in = x + e;
        T* out = y + e;
        independent_loop(
            n, [&](int64_t i) { out[i] = activation(multiply_add(in[i] - mean[i], scale[i], shift[i])); });
      }
    };
    if (args_.activation == Activation::silu) {
      normalize([](T u) { return formulas::Silu{}(u, 0.0, 0.0); });
    } else {
      normalize([](T u) { return u; });
    }
  }

  /// Channels that find_statistics may take by themselves with the same bits: whole groups, and whole steps
  /// of add_column_sums. All of them where that does not go up.
  int64_t slice() const {
    constexpr int64_t kStep = 4 * kLanes<double>;
    if (channels_ % kStep != 0) return channels_;
    if (width_ % kStep == 0) return width_;
    return kStep % width_ == 0 ? kStep : channels_;
  }

 private:
  const GroupNormArgs& args_;
  int64_t pixels_, channels_, width_;
};

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
  T* const scale = factors.part(1);
  T* const bias = factors.part(2);
  T* const du_sums = factors.part(3);
  T* const du_x_sums = factors.part(4);
  const T* const gain = channel_row<T>(f.gain, example);
  const T* const rstd = f.rstd.as<const T>() + example * f.groups;
  for (int64_t group = 0; group < f.groups; ++group) {
    for (int64_t c = group * width; c < (group + 1) * width; ++c) {
      mean[c] = f.mean.as<const T>()[example * f.groups + group];
      scale[c] = rstd[group] * gain[c];
      bias[c] = channel_row<T>(f.bias, example)[c];
      sum_du[c] = sum_du_h[c] = 0;
    }
  }
  for (int i = 0; i < 3; ++i) factors.repeat(i);

  // Calls body(Constant<pixels>, e, n) for elements [e, e + n): four pixels are worked on side by side where
  // they come in fours, so that the factors are read once for them.
  const auto for_each_tile = [&](auto body) {
    for (int64_t e = 0; e < size; e += factors.tile) {
      const int64_t n = min(factors.tile, size - e);
      n / channels % 4 == 0 ? body(Constant<4>{}, e, n) : body(Constant<1>{}, e, n);
    }
  };

  // First pass: du (kept in dx) and the sums over pixels of du and du (x - mean): in T over the pixels side
  // by side, which are three more roundings and a quarter of the sums in double.
  const auto first_pass = [&](auto slope) {
    for_each_tile([&]<int Pixels>(Constant<Pixels>, int64_t e, int64_t n) {
      const T *in = x + e, *up = dy + e;
      T* du = dx + e;
      const int64_t part = n / Pixels;
      independent_loop(part, [&](int64_t i) {
        T sum = 0, sum_x = 0;
#pragma GCC unroll 4
        for (int p = 0; p < Pixels; ++p) {
          const T centred = in[p * part + i] - mean[i];
          const T d = up[p * part + i] * slope(multiply_add(centred, scale[i], bias[i]));
          du[p * part + i] = d;
          sum += d;
          sum_x = multiply_add(d, centred, sum_x);
        }
        du_sums[i] = sum;
        du_x_sums[i] = sum_x;
      });
      add_column_sums<2>(
          {sum_du, sum_du_h}, part / channels, channels, channels,
          [](int64_t, Vector<double> d, Vector<double> d_x) {
            return Terms<2>{{d, d_x}};
          },
          du_sums, du_x_sums);
    });
  };
  if (f.activation == Activation::silu) {
    // The slope of silu from one exponential; formulas::derivative spends two.
    first_pass([](T u) {
      const T s = formulas::sigmoid(u);
      return s * multiply_add(u, T(1) - s, T(1));
    });
  } else {
    first_pass([](T) { return T(1); });
  }

  // Second pass: dx = a du - b - (x - mean) c.
  T *const a = scale, *const b = bias, *const c_part = du_sums;
  const double count = static_cast<double>(pixels * width);
  for (int64_t group = 0; group < f.groups; ++group) {
    const int64_t first = group * width, last = first + width;
    const double r = rstd[group];
    double sum = 0, sum_h = 0;
    for (int64_t c = first; c < last; ++c) {
      sum_du_h[c] *= r;
      sum += sum_du[c] * gain[c];
      sum_h += sum_du_h[c] * gain[c];
    }
    // Of the group, one division each.
    const auto b_of = static_cast<T>(r * sum / count), c_of = static_cast<T>(r * r * sum_h / count);
    for (int64_t c = first; c < last; ++c) {
      args.dbias.as<T>()[example * channels + c] = static_cast<T>(sum_du[c]);
      args.dgain.as<T>()[example * channels + c] = static_cast<T>(sum_du_h[c]);
      a[c] = static_cast<T>(r * gain[c]);
      b[c] = b_of;
      c_part[c] = c_of;
    }
  }
  for (int i = 1; i < 4; ++i) factors.repeat(i);
  for_each_tile([&]<int Pixels>(Constant<Pixels>, int64_t e, int64_t n) {
    const T* in = x + e;
    T* out = dx + e;
    const int64_t part = n / Pixels;
    independent_loop(part, [&](int64_t i) {
#pragma GCC unroll 4
      for (int p = 0; p < Pixels; ++p) {
        T& o = out[p * part + i];
        // a du is rounded like b: where a group has one element they cancel.
        o = multiply_add(mean[i] - in[p * part + i], c_part[i], a[i] * o - b[i]);
      }
    });
  });
}

/// Calls example(index, doubles [scratch], factors) for every example.
template <class T, class F>
void for_each_example(const Array& x, int64_t scratch, int parts, F example) {
  const int64_t pixels = x.shape[1], channels = x.shape[2], size = max(1, pixels * channels);
  if (numel(x.shape) == 0) return;
  parallel_for(x.shape[0], max(max(1, x.shape[0] / 8), 8192 / size), [=](int64_t begin, int64_t end) {
    const Workspace memory(sizeof(double) * scratch);
    const Factors<T> factors(pixels, channels, parts);
    for (int64_t i = begin; i < end; ++i) example(i, static_cast<double*>(memory.data), factors);
  });
}

/// One example after the other, each shared out over the threads.
template <class T>
void forward_in_slices(const GroupNormArgs& args) {
  const Forward<T> norm(args);
  const int64_t pixels = args.x.shape[1], channels = args.x.shape[2], slice = norm.slice();
  const Workspace memory(sizeof(double) * norm.statistics_size());
  auto* const statistics = static_cast<double*>(memory.data);
  for (int64_t example = 0; example < args.x.shape[0]; ++example) {
    parallel_for(channels / slice, max(1, 16384 / (pixels * slice)), [=, &norm](int64_t begin, int64_t end) {
      norm.find_statistics(statistics, example, begin * slice, end * slice);
    });
    parallel_for(pixels, max(1, 16384 / channels), [=, &norm](int64_t begin, int64_t end) {
      norm.apply(statistics, Factors<T>(pixels, channels, 3), example, begin, end);
    });
  }
}

template <class T>
void forward(const GroupNormArgs& args) {
  constexpr int64_t kFewExamples = 4;
  if (args.x.shape[0] < kFewExamples && numel(args.x.shape) > 0) return forward_in_slices<T>(args);
  const Forward<T> norm(args);
  for_each_example<T>(args.x, norm.statistics_size(), 3,
                      [&norm, &args](int64_t example, double* statistics, const Factors<T>& factors) {
                        norm.find_statistics(statistics, example, 0, args.x.shape[2]);
                        norm.apply(statistics, factors, example, 0, args.x.shape[1]);
                      });
}

template <class T>
void backward(const GroupNormBackwardArgs& args) {
  for_each_example<T>(args.forward.x, 2 * args.forward.x.shape[2], 5,
                      [&args](int64_t i, double* sums, const Factors<T>& factors) {
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
