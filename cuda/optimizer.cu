// Updates of the parameters. The control block (see OptimizerControlArgs) lies on the device and is written
// and read there, so that no step waits for the host. An update is one pass: Adam reads the parameter, its
// gradient and two moments and writes three of them, 28 bytes per f32 parameter, 16 bytes per access.
//
// What all elements share (step sizes with their bias corrections, which need powers in double) is computed
// by one thread of each block. Elements are computed in the precision of the parameter, by the same
// operations as on the CPU.
#include <cmath>
#include <initializer_list>
#include <type_traits>

#include "cuda/entries.h"
#include "cuda/loops.h"

namespace halfstep::cuda {
namespace {

__global__ void update_control(double* control, const double* sum_squares, double max_norm, double clip_eps) {
  const double norm = ::sqrt(*sum_squares);
  const bool finite = norm - norm == 0;
  control[finite ? 0 : 1] += 1;
  const double limited = norm + clip_eps;
  control[2] = !finite ? 0 : (max_norm > 0 && limited > max_norm ? max_norm / limited : 1);
  control[3] = norm;
}

/// Whether the norm in the control block is finite.
__device__ bool is_applied(const double* control) { return control[3] - control[3] == 0; }

/// Calls f(Width constant, first) for the packs and then f(1 constant, i) for the elements behind the last.
template <int Width, class F>
__device__ void for_each_pack(int64_t n, F&& f) {
  const int64_t thread = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  const int64_t threads = int64_t{gridDim.x} * blockDim.x, packs = n / Width;
  for (int64_t i = thread; i < packs; i += threads) f(std::integral_constant<int, Width>{}, i * Width);
  const int64_t rest = packs * Width + thread;
  if (rest < n) f(std::integral_constant<int, 1>{}, rest);
}

template <int Width, class T>
__device__ Pack<T, Width> load_pack(const T* x) {
  return *reinterpret_cast<const Pack<T, Width>*>(x);
}
template <int Width, class T>
__device__ void store_pack(T* x, const Pack<T, Width>& pack) {
  *reinterpret_cast<Pack<T, Width>*>(x) = pack;
}

/// Elements of one parameter that fill 16 bytes, if every array allows such accesses.
template <class T>
int width_of(std::initializer_list<const void*> arrays) {
  for (const void* data : arrays) {
    if (!is_aligned(data, 16)) return 1;
  }
  return 16 / sizeof(T);
}

// --- Adam --------------------------------------------------------------------------------------------------

/// AdamArgs without the arrays.
struct AdamNumbers {
  double lr, beta1, beta2, eps, weight_decay, l2;
};

template <class T, bool Amsgrad, int Width>
__global__ void __launch_bounds__(kThreads) adam_step(T* param, const T* grad, T* m, T* v, T* v_max,
                                                      const double* control, int64_t n, AdamNumbers numbers) {
  if (!is_applied(control)) return;
  __shared__ T step_of_block, v_correction_of_block;
  if (threadIdx.x == 0) {
    const double applied = control[0];
    step_of_block = static_cast<T>(numbers.lr / (1 - ::pow(numbers.beta1, applied)));
    v_correction_of_block = static_cast<T>(1 / (1 - ::pow(numbers.beta2, applied)));
  }
  __syncthreads();
  const T step = step_of_block, v_correction = v_correction_of_block;
  const T scale = static_cast<T>(control[2]), l2 = static_cast<T>(numbers.l2);
  const T b1 = static_cast<T>(numbers.beta1), one_minus_b1 = static_cast<T>(1 - numbers.beta1);
  const T b2 = static_cast<T>(numbers.beta2), one_minus_b2 = static_cast<T>(1 - numbers.beta2);
  const T eps = static_cast<T>(numbers.eps), decay = static_cast<T>(numbers.lr * numbers.weight_decay);
  for_each_pack<Width>(n, [=](auto width, int64_t i) {
    constexpr int kWidth = decltype(width)::value;
    auto p = load_pack<kWidth>(param + i), ms = load_pack<kWidth>(m + i), vs = load_pack<kWidth>(v + i);
    const auto gradient = load_pack<kWidth>(grad + i);
    Pack<T, kWidth> used;
    if constexpr (Amsgrad) used = load_pack<kWidth>(v_max + i);
#pragma unroll
    for (int k = 0; k < kWidth; ++k) {
      const T g = scale * gradient.at[k] + l2 * p.at[k];
      const T m_new = b1 * ms.at[k] + one_minus_b1 * g, v_new = b2 * vs.at[k] + one_minus_b2 * g * g;
      ms.at[k] = m_new;
      vs.at[k] = v_new;
      T v_used = v_new;
      if constexpr (Amsgrad) {
        v_used = used.at[k] > v_new ? used.at[k] : v_new;
        used.at[k] = v_used;
      }
      p.at[k] = p.at[k] - (step * m_new / (sqrt(v_used * v_correction) + eps) + decay * p.at[k]);
    }
    store_pack(m + i, ms);
    store_pack(v + i, vs);
    if constexpr (Amsgrad) store_pack(v_max + i, used);
    store_pack(param + i, p);
  });
}

template <class T, bool Amsgrad>
void adam_of(const AdamArgs& args) {
  const int64_t n = numel(args.param.shape);
  const AdamNumbers numbers{args.lr, args.beta1, args.beta2, args.eps, args.weight_decay, args.l2};
  const auto run = [&](auto width) {
    constexpr int kWidth = decltype(width)::value;
    launch({grid_for(ceil_div(n, kWidth))}, adam_step<T, Amsgrad, kWidth>, args.param.as<T>(),
           args.grad.as<const T>(), args.m.as<T>(), args.v.as<T>(), args.v_max.as<T>(),
           args.control.as<const double>(), n, numbers);
  };
  const bool wide =
      width_of<T>({args.param.data, args.grad.data, args.m.data, args.v.data, args.v_max.data}) > 1;
  wide ? run(std::integral_constant<int, 16 / sizeof(T)>{}) : run(std::integral_constant<int, 1>{});
}

// --- gradient descent --------------------------------------------------------------------------------------

/// SgdArgs without the arrays.
struct SgdNumbers {
  double lr, momentum, dampening, l2;
  bool nesterov;
};

/// buffer: or null. Its contents are not read at the first update.
template <class T, int Width>
__global__ void __launch_bounds__(kThreads)
    sgd_step(T* param, const T* grad, T* buffer, const double* control, int64_t n, SgdNumbers numbers) {
  if (!is_applied(control)) return;
  const bool first = control[0] == 1, averages = buffer != nullptr;
  const T scale = static_cast<T>(control[2]), l2 = static_cast<T>(numbers.l2),
          lr = static_cast<T>(numbers.lr);
  const T keep = static_cast<T>(numbers.momentum), take = static_cast<T>(1 - numbers.dampening);
  for_each_pack<Width>(n, [=](auto width, int64_t i) {
    constexpr int kWidth = decltype(width)::value;
    auto p = load_pack<kWidth>(param + i);
    const auto gradient = load_pack<kWidth>(grad + i);
    Pack<T, kWidth> buffers;
    if (averages && !first) {
      buffers = load_pack<kWidth>(buffer + i);
    } else {
#pragma unroll
      for (int k = 0; k < kWidth; ++k) buffers.at[k] = T(0);
    }
#pragma unroll
    for (int k = 0; k < kWidth; ++k) {
      T g = scale * gradient.at[k] + l2 * p.at[k];
      if (averages) {
        const T average = first ? g : keep * buffers.at[k] + take * g;
        buffers.at[k] = average;
        g = numbers.nesterov ? g + keep * average : average;
      }
      p.at[k] = p.at[k] - lr * g;
    }
    if (averages) store_pack(buffer + i, buffers);
    store_pack(param + i, p);
  });
}

template <class T>
void sgd_of(const SgdArgs& args) {
  const int64_t n = numel(args.param.shape);
  const SgdNumbers numbers{args.lr, args.momentum, args.dampening, args.l2, args.nesterov};
  const auto run = [&](auto width) {
    constexpr int kWidth = decltype(width)::value;
    launch({grid_for(ceil_div(n, kWidth))}, sgd_step<T, kWidth>, args.param.as<T>(), args.grad.as<const T>(),
           args.buffer.as<T>(), args.control.as<const double>(), n, numbers);
  };
  const bool wide = width_of<T>({args.param.data, args.grad.data, args.buffer.data}) > 1;
  wide ? run(std::integral_constant<int, 16 / sizeof(T)>{}) : run(std::integral_constant<int, 1>{});
}

}  // namespace

void optimizer_control(OptimizerControlArgs args) {
  launch({1, 1}, update_control, args.control.as<double>(), args.sum_squares.as<const double>(),
         args.max_norm, args.clip_eps);
}

void adam(AdamArgs args) {
  if (numel(args.param.shape) == 0) return;
  with_float(args.param.dtype, [&](auto tag) {
    using T = decltype(tag);
    args.v_max.absent() ? adam_of<T, false>(args) : adam_of<T, true>(args);
  });
}

void sgd(SgdArgs args) {
  if (numel(args.param.shape) == 0) return;
  with_float(args.param.dtype, [&](auto tag) { sgd_of<decltype(tag)>(args); });
}

}  // namespace halfstep::cuda
