// Updates of the parameters and of their averages. The control block says how: see OptimizerControlArgs.
#include "tensor/cpu/kernels.h"
#include "tensor/cpu/lists.h"
#include "tensor/cpu/simd.h"
#include "tensor/formulas.h"

namespace halfstep::cpu::inline HALFSTEP_ISA {
namespace {

/// Whether the norm in the control block is finite.
bool is_applied(const double* control) { return control[3] - control[3] == 0; }

template <class T, bool Amsgrad>
void adam_of(const AdamArgs& args) {
  const double* control = args.control.as<const double>();
  if (!is_applied(control)) return;
  const double applied = control[0], lr = *args.learning_rate.as<const double>();
  const T scale = static_cast<T>(control[2]), l2 = static_cast<T>(args.l2);
  const T b1 = static_cast<T>(args.beta1), b2 = static_cast<T>(args.beta2);
  const T one_minus_b1 = static_cast<T>(1 - args.beta1), one_minus_b2 = static_cast<T>(1 - args.beta2);
  const T step = static_cast<T>(lr / (1 - ::pow(args.beta1, applied)));
  const T v_correction = static_cast<T>(1 / (1 - ::pow(args.beta2, applied)));
  const T eps = static_cast<T>(args.eps), decay = static_cast<T>(lr * args.weight_decay);
  const ListBlocks blocks(args.list.data(), static_cast<int64_t>(args.list.size()),
                          [](const AdamParameter& item) { return numel(item.param.shape); });
  blocks.for_each([=](int64_t, const AdamParameter& item, int64_t begin, int64_t end) {
    T* const param = item.param.as<T>() + begin;
    T* const m = item.m.as<T>() + begin;
    T* const v = item.v.as<T>() + begin;
    T* const v_max = Amsgrad ? item.v_max.as<T>() + begin : nullptr;
    const T* const grad = item.grad.as<const T>() + begin;
    independent_loop(end - begin, [=](int64_t i) {
      const T p = param[i], g = scale * grad[i] + l2 * p;
      const T m_new = b1 * m[i] + one_minus_b1 * g, v_new = b2 * v[i] + one_minus_b2 * g * g;
      m[i] = m_new;
      v[i] = v_new;
      T v_used = v_new;
      if constexpr (Amsgrad) {
        const T largest = v_max[i];
        v_used = largest > v_new ? largest : v_new;
        v_max[i] = v_used;
      }
      param[i] = p - (step * m_new / (formulas::sqrt(v_used * v_correction) + eps) + decay * p);
    });
  });
}

template <class T>
void sgd_of(const SgdArgs& args) {
  const double* control = args.control.as<const double>();
  if (!is_applied(control)) return;
  const T scale = static_cast<T>(control[2]), l2 = static_cast<T>(args.l2);
  const T lr = static_cast<T>(*args.learning_rate.as<const double>());
  // The first update is buffer = g, and Nesterov's a sum where the plain one takes the buffer: both are
  // factors, chosen once.
  const bool first = control[0] == 1;
  const T keep = static_cast<T>(first ? 0 : args.momentum),
          take = static_cast<T>(first ? 1 : 1 - args.dampening);
  const T of_gradient = static_cast<T>(args.nesterov ? 1 : 0),
          of_buffer = static_cast<T>(args.nesterov ? args.momentum : 1);
  const ListBlocks blocks(args.list.data(), static_cast<int64_t>(args.list.size()),
                          [](const SgdParameter& item) { return numel(item.param.shape); });
  blocks.for_each([=](int64_t, const SgdParameter& item, int64_t begin, int64_t end) {
    T* const param = item.param.as<T>() + begin;
    const T* const grad = item.grad.as<const T>() + begin;
    if (item.buffer.absent()) {
      return independent_loop(end - begin, [=](int64_t i) {
        const T p = param[i];
        param[i] = p - lr * (scale * grad[i] + l2 * p);
      });
    }
    T* const buffer = item.buffer.as<T>() + begin;
    independent_loop(end - begin, [=](int64_t i) {
      const T p = param[i], g = scale * grad[i] + l2 * p;
      const T average = keep * buffer[i] + take * g;
      buffer[i] = average;
      param[i] = p - lr * (of_gradient * g + of_buffer * average);
    });
  });
}

template <class T>
void moving_average_of(const MovingAverageArgs& args) {
  const T weight = static_cast<T>(*args.weight.as<const double>());
  const ListBlocks blocks(args.list.data(), static_cast<int64_t>(args.list.size()),
                          [](const AveragedArray& item) { return numel(item.average.shape); });
  blocks.for_each([=](int64_t, const AveragedArray& item, int64_t begin, int64_t end) {
    T* const average = item.average.as<T>() + begin;
    const T* const source = item.source.as<const T>() + begin;
    if (weight == T(1)) {
      return independent_loop(end - begin, [=](int64_t i) { average[i] = source[i]; });
    }
    independent_loop(end - begin,
                     [=](int64_t i) { average[i] = formulas::Lerp{}(average[i], source[i], weight); });
  });
}

}  // namespace

void adam(AdamArgs args) {
  if (args.list.empty()) return;
  const AdamParameter& any = args.list.front();
  const bool single = any.param.dtype == DType::f32;
  if (any.v_max.absent()) return single ? adam_of<float, false>(args) : adam_of<double, false>(args);
  single ? adam_of<float, true>(args) : adam_of<double, true>(args);
}

void sgd(SgdArgs args) {
  if (args.list.empty()) return;
  args.list.front().param.dtype == DType::f32 ? sgd_of<float>(args) : sgd_of<double>(args);
}

void moving_average(MovingAverageArgs args) {
  if (args.list.empty()) return;
  args.list.front().average.dtype == DType::f32 ? moving_average_of<float>(args)
                                                : moving_average_of<double>(args);
}

}  // namespace halfstep::cpu::inline HALFSTEP_ISA
