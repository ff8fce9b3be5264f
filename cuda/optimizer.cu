// Updates of the parameters and of their averages. The control block (see OptimizerControlArgs) and the
// numbers that change from update to update lie on the device, so that no step waits for the host. An update
// is one pass: Adam reads the parameter, its gradient and two moments and writes three of them, 28 bytes per
// f32 parameter, 16 bytes per access. One launch serves many parameters (cuda/lists.h).
//
// What all elements share (step sizes with their bias corrections, which need powers in double) is computed
// by one thread of each block. Elements are computed in the precision of the parameter, by the same
// operations as on the CPU.
#include <cmath>
#include <type_traits>

#include "cuda/entries.h"
#include "cuda/lists.h"
#include "cuda/loops.h"
#include "tensor/formulas.h"

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

/// Calls f(Width constant, first) for the packs and then f(1 constant, i) for the elements behind the last of
/// a block's range of n.
template <int Width, class F>
__device__ void for_each_pack(uint32_t n, F&& f) {
  const uint32_t packs = n / Width;
  for (uint32_t i = threadIdx.x; i < packs; i += kThreads) f(std::integral_constant<int, Width>{}, i * Width);
  const uint32_t rest = packs * Width + threadIdx.x;
  if (rest < n) f(std::integral_constant<int, 1>{}, rest);
}
/// In packs of 16 bytes where every array of T allows such accesses.
template <class T, class F>
__device__ void for_each_pack(bool wide, uint32_t n, F&& f) {
  wide ? for_each_pack<16 / sizeof(T)>(n, f) : for_each_pack<1>(n, f);
}

template <int Width, class T>
__device__ Pack<T, Width> load_pack(const T* x) {
  return *reinterpret_cast<const Pack<T, Width>*>(x);
}
template <int Width, class T>
__device__ void store_pack(T* x, const Pack<T, Width>& pack) {
  *reinterpret_cast<Pack<T, Width>*>(x) = pack;
}

/// Launches an elementwise kernel over a list: kernel(part, args...).
template <int N, class Item, class ArraysOf, class Kernel, class... Args>
void launch_over_list(std::span<const Item> list, ArraysOf&& arrays_of, Kernel kernel, Args... args) {
  int64_t total = 0;
  for (const Item& item : list) total += numel(arrays_of(item)[0].shape);
  for_each_list_part<N>(
      list, piece_of_list(total), arrays_of,
      [&](const ListPart<N>& part, unsigned blocks, int64_t) { launch({blocks}, kernel, part, args...); });
}

// --- Adam --------------------------------------------------------------------------------------------------

/// AdamArgs without the arrays.
struct AdamNumbers {
  double beta1, beta2, eps, weight_decay, l2;
};

/// Arrays of an item: param, grad, m, v and with Amsgrad v_max.
template <class T, bool Amsgrad>
__global__ void __launch_bounds__(kThreads)
    adam_step(const __grid_constant__ ListPart<Amsgrad ? 5 : 4> list, const double* control,
              const double* learning_rate, AdamNumbers numbers) {
  if (!is_applied(control)) return;
  __shared__ T step_of_block, v_correction_of_block;
  const double lr = *learning_rate;
  if (threadIdx.x == 0) {
    const double applied = control[0];
    step_of_block = static_cast<T>(lr / (1 - ::pow(numbers.beta1, applied)));
    v_correction_of_block = static_cast<T>(1 / (1 - ::pow(numbers.beta2, applied)));
  }
  __syncthreads();
  const T step = step_of_block, v_correction = v_correction_of_block;
  const T scale = static_cast<T>(control[2]), l2 = static_cast<T>(numbers.l2);
  const T b1 = static_cast<T>(numbers.beta1), one_minus_b1 = static_cast<T>(1 - numbers.beta1);
  const T b2 = static_cast<T>(numbers.beta2), one_minus_b2 = static_cast<T>(1 - numbers.beta2);
  const T eps = static_cast<T>(numbers.eps), decay = static_cast<T>(lr * numbers.weight_decay);
  const auto range = list.range_of_block();
  T* const param = list.template array<T>(range, 0);
  const T* const grad = list.template array<const T>(range, 1);
  T* const m = list.template array<T>(range, 2);
  T* const v = list.template array<T>(range, 3);
  T* v_max = nullptr;
  if constexpr (Amsgrad) v_max = list.template array<T>(range, 4);
  for_each_pack<T>(list.is_wide(range), range.count, [=](auto width, uint32_t i) {
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
  const auto arrays_of = [](const AdamParameter& item) {
    if constexpr (Amsgrad) {
      return std::array{item.param, item.grad, item.m, item.v, item.v_max};
    } else {
      return std::array{item.param, item.grad, item.m, item.v};
    }
  };
  launch_over_list<Amsgrad ? 5 : 4>(
      args.list, arrays_of, adam_step<T, Amsgrad>, args.control.as<const double>(),
      args.learning_rate.as<const double>(),
      AdamNumbers{args.beta1, args.beta2, args.eps, args.weight_decay, args.l2});
}

// --- gradient descent --------------------------------------------------------------------------------------

/// SgdArgs without the arrays.
struct SgdNumbers {
  double momentum, dampening, l2;
  bool nesterov;
};

/// Arrays of an item: param, grad and with Averages the buffer, whose contents are not read at the first
/// update.
template <class T, bool Averages>
__global__ void __launch_bounds__(kThreads)
    sgd_step(const __grid_constant__ ListPart<Averages ? 3 : 2> list, const double* control,
             const double* learning_rate, SgdNumbers numbers) {
  if (!is_applied(control)) return;
  const bool first = control[0] == 1;
  const T scale = static_cast<T>(control[2]), l2 = static_cast<T>(numbers.l2),
          lr = static_cast<T>(*learning_rate);
  const T keep = static_cast<T>(numbers.momentum), take = static_cast<T>(1 - numbers.dampening);
  const auto range = list.range_of_block();
  T* const param = list.template array<T>(range, 0);
  const T* const grad = list.template array<const T>(range, 1);
  T* buffer = nullptr;
  if constexpr (Averages) buffer = list.template array<T>(range, 2);
  for_each_pack<T>(list.is_wide(range), range.count, [=](auto width, uint32_t i) {
    constexpr int kWidth = decltype(width)::value;
    auto p = load_pack<kWidth>(param + i);
    const auto gradient = load_pack<kWidth>(grad + i);
    Pack<T, kWidth> buffers{};
    if (Averages && !first) buffers = load_pack<kWidth>(buffer + i);
#pragma unroll
    for (int k = 0; k < kWidth; ++k) {
      T g = scale * gradient.at[k] + l2 * p.at[k];
      if constexpr (Averages) {
        const T average = first ? g : keep * buffers.at[k] + take * g;
        buffers.at[k] = average;
        g = numbers.nesterov ? g + keep * average : average;
      }
      p.at[k] = p.at[k] - lr * g;
    }
    if constexpr (Averages) store_pack(buffer + i, buffers);
    store_pack(param + i, p);
  });
}

template <class T, bool Averages>
void sgd_of(const SgdArgs& args) {
  const auto arrays_of = [](const SgdParameter& item) {
    if constexpr (Averages) {
      return std::array{item.param, item.grad, item.buffer};
    } else {
      return std::array{item.param, item.grad};
    }
  };
  launch_over_list<Averages ? 3 : 2>(args.list, arrays_of, sgd_step<T, Averages>,
                                     args.control.as<const double>(), args.learning_rate.as<const double>(),
                                     SgdNumbers{args.momentum, args.dampening, args.l2, args.nesterov});
}

// --- averages ----------------------------------------------------------------------------------------------

/// Arrays of an item: average and source.
template <class T>
__global__ void __launch_bounds__(kThreads)
    average_step(const __grid_constant__ ListPart<2> list, const double* weight_of_source) {
  const T weight = static_cast<T>(*weight_of_source);
  const auto range = list.range_of_block();
  T* const average = list.template array<T>(range, 0);
  const T* const source = list.template array<const T>(range, 1);
  for_each_pack<T>(list.is_wide(range), range.count, [=](auto width, uint32_t i) {
    constexpr int kWidth = decltype(width)::value;
    auto averages = load_pack<kWidth>(average + i);
    const auto sources = load_pack<kWidth>(source + i);
#pragma unroll
    for (int k = 0; k < kWidth; ++k) {
      averages.at[k] =
          weight == T(1) ? sources.at[k] : formulas::Lerp{}(averages.at[k], sources.at[k], weight);
    }
    store_pack(average + i, averages);
  });
}

}  // namespace

void optimizer_control(OptimizerControlArgs args) {
  launch({1, 1}, update_control, args.control.as<double>(), args.sum_squares.as<const double>(),
         args.max_norm, args.clip_eps);
}

void adam(AdamArgs args) {
  if (args.list.empty()) return;
  const AdamParameter& any = args.list.front();
  with_float(any.param.dtype, [&](auto tag) {
    using T = decltype(tag);
    any.v_max.absent() ? adam_of<T, false>(args) : adam_of<T, true>(args);
  });
}

void sgd(SgdArgs args) {
  if (args.list.empty()) return;
  const SgdParameter& any = args.list.front();
  with_float(any.param.dtype, [&](auto tag) {
    using T = decltype(tag);
    any.buffer.absent() ? sgd_of<T, false>(args) : sgd_of<T, true>(args);
  });
}

void moving_average(MovingAverageArgs args) {
  if (args.list.empty()) return;
  with_float(args.list.front().average.dtype, [&](auto tag) {
    launch_over_list<2>(
        args.list,
        [](const AveragedArray& item) {
          return std::array{item.average, item.source};
        },
        average_step<decltype(tag)>, args.weight.as<const double>());
  });
}

}  // namespace halfstep::cuda
