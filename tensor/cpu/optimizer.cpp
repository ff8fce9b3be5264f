// Updates of the parameters. The control block says how: see OptimizerControlArgs.
#include "tensor/cpu/kernels.h"
#include "tensor/cpu/simd.h"
#include "tensor/cpu/thread_pool.h"
#include "tensor/formulas.h"

namespace halfstep::cpu::inline HALFSTEP_ISA {
namespace {

// Elements per task: some microseconds of work.
constexpr int64_t kGrain = 16384;

/// Whether the norm in the control block is finite.
bool is_applied(const double* control) { return control[3] - control[3] == 0; }

template <class T, bool Amsgrad>
void adam_of(const AdamArgs& args) {
  const double* control = args.control.as<const double>();
  if (!is_applied(control)) return;
  const double applied = control[0];
  const T scale = static_cast<T>(control[2]), l2 = static_cast<T>(args.l2);
  const T b1 = static_cast<T>(args.beta1), b2 = static_cast<T>(args.beta2);
  const T one_minus_b1 = static_cast<T>(1 - args.beta1), one_minus_b2 = static_cast<T>(1 - args.beta2);
  const T step = static_cast<T>(args.lr / (1 - ::pow(args.beta1, applied)));
  const T v_correction = static_cast<T>(1 / (1 - ::pow(args.beta2, applied)));
  const T eps = static_cast<T>(args.eps), decay = static_cast<T>(args.lr * args.weight_decay);
  T* const param = args.param.as<T>();
  T* const m = args.m.as<T>();
  T* const v = args.v.as<T>();
  T* const v_max = args.v_max.as<T>();
  const T* const grad = args.grad.as<const T>();
  parallel_for(numel(args.param.shape), kGrain, [=](int64_t begin, int64_t end) {
    independent_loop(end - begin, [=](int64_t offset) {
      const int64_t i = begin + offset;
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
  const T scale = static_cast<T>(control[2]), l2 = static_cast<T>(args.l2), lr = static_cast<T>(args.lr);
  T* const param = args.param.as<T>();
  T* const buffer = args.buffer.as<T>();
  const T* const grad = args.grad.as<const T>();
  if (args.buffer.absent()) {
    parallel_for(numel(args.param.shape), kGrain, [=](int64_t begin, int64_t end) {
      independent_loop(end - begin, [=](int64_t offset) {
        const int64_t i = begin + offset;
        const T p = param[i];
        param[i] = p - lr * (scale * grad[i] + l2 * p);
      });
    });
    return;
  }
  // The first update is buffer = g, and Nesterov's a sum where the plain one takes the buffer: both are
  // factors, chosen once.
  const bool first = control[0] == 1;
  const T keep = static_cast<T>(first ? 0 : args.momentum),
          take = static_cast<T>(first ? 1 : 1 - args.dampening);
  const T of_gradient = static_cast<T>(args.nesterov ? 1 : 0),
          of_buffer = static_cast<T>(args.nesterov ? args.momentum : 1);
  parallel_for(numel(args.param.shape), kGrain, [=](int64_t begin, int64_t end) {
    independent_loop(end - begin, [=](int64_t offset) {
      const int64_t i = begin + offset;
      const T p = param[i], g = scale * grad[i] + l2 * p;
      const T average = keep * buffer[i] + take * g;
      buffer[i] = average;
      param[i] = p - lr * (of_gradient * g + of_buffer * average);
    });
  });
}

}  // namespace

void adam(AdamArgs args) {
  const bool single = args.param.dtype == DType::f32;
  if (args.v_max.absent()) return single ? adam_of<float, false>(args) : adam_of<double, false>(args);
  single ? adam_of<float, true>(args) : adam_of<double, true>(args);
}

void sgd(SgdArgs args) { args.param.dtype == DType::f32 ? sgd_of<float>(args) : sgd_of<double>(args); }

}  // namespace halfstep::cpu::inline HALFSTEP_ISA
