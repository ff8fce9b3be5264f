// The one-dimensional transforms of Winograd's convolution F(4, 3): four outputs of a three-tap filter from
// six inputs with six multiplications instead of twelve (Lavin & Gray, "Fast Algorithms for Convolutional
// Neural Networks", 2015). In two dimensions they run over rows and columns: F(4x4, 3x3), 36 products where
// the direct sum takes 144. For kernel sources only.
//
// Input and filter are taken as polynomials, evaluated at six points, multiplied there, and the product is
// interpolated. The points are 0, +-5/8, +-3/2 and infinity: with the usual 0, +-1, +-2 the rounding error
// is 2.4 times larger (bench/winograd_points.py).
#pragma once

#include "tensor/backend.h"
#include "tensor/cpu/simd.h"

namespace halfstep::cpu::inline HALFSTEP_ISA {

/// Outputs and inputs of a tile along one axis, and the products of a tile.
inline constexpr int kWinogradOut = 4, kWinogradIn = 6, kFrequencies = kWinogradIn * kWinogradIn;

namespace winograd {

// The points' magnitudes, and their squares.
inline constexpr float p = 0.625f, q = 1.5f, pp = p * p, qq = q * q;
// The derivative of the common polynomial x (x^2 - pp) (x^2 - qq) at 0, +-p and +-q, inverted.
inline constexpr float at_zero = static_cast<float>(1 / (double{pp} * qq)),
                       at_p = static_cast<float>(1 / (2.0 * pp * (pp - qq))),
                       at_q = static_cast<float>(1 / (2.0 * qq * (qq - pp)));

/// v = B^T d.
template <class V>
[[gnu::always_inline]] inline void input(const V (&d)[kWinogradIn], V (&v)[kWinogradIn]) {
  const V p_even = d[4] - qq * d[2], p_odd = p * (d[3] - qq * d[1]);
  const V q_even = d[4] - pp * d[2], q_odd = q * (d[3] - pp * d[1]);
  v[0] = pp * qq * d[0] - (pp + qq) * d[2] + d[4];
  v[1] = p_even + p_odd;
  v[2] = p_even - p_odd;
  v[3] = q_even + q_odd;
  v[4] = q_even - q_odd;
  v[5] = pp * qq * d[1] - (pp + qq) * d[3] + d[5];
}

/// u = G g: the filter at the points, over the derivative of their common polynomial.
template <class V>
[[gnu::always_inline]] inline void filter(const V (&g)[3], V (&u)[kWinogradIn]) {
  u[0] = at_zero * g[0];
  const V p_even = at_p * g[0] + at_p * pp * g[2], p_odd = at_p * p * g[1];
  u[1] = p_even + p_odd;
  u[2] = p_even - p_odd;
  const V q_even = at_q * g[0] + at_q * qq * g[2], q_odd = at_q * q * g[1];
  u[3] = q_even + q_odd;
  u[4] = q_even - q_odd;
  u[5] = g[2];
}

/// y = A^T m.
template <class V>
[[gnu::always_inline]] inline void output(const V (&m)[kWinogradIn], V (&y)[kWinogradOut]) {
  const V p_even = m[1] + m[2], p_odd = m[1] - m[2], q_even = m[3] + m[4], q_odd = m[3] - m[4];
  y[0] = m[0] + p_even + q_even;
  y[1] = p * p_odd + q * q_odd;
  y[2] = pp * p_even + qq * q_even;
  y[3] = p * pp * p_odd + q * qq * q_odd + m[5];
}

/// m = A y: the adjoint of output.
template <class V>
[[gnu::always_inline]] inline void output_adjoint(const V (&y)[kWinogradOut], V (&m)[kWinogradIn]) {
  const V p_even = y[0] + pp * y[2], p_odd = p * y[1] + p * pp * y[3];
  const V q_even = y[0] + qq * y[2], q_odd = q * y[1] + q * qq * y[3];
  m[0] = y[0];
  m[1] = p_even + p_odd;
  m[2] = p_even - p_odd;
  m[3] = q_even + q_odd;
  m[4] = q_even - q_odd;
  m[5] = y[3];
}

/// g = G^T u: the adjoint of filter.
template <class V>
[[gnu::always_inline]] inline void filter_adjoint(const V (&u)[kWinogradIn], V (&g)[3]) {
  const V p_even = at_p * (u[1] + u[2]), p_odd = at_p * p * (u[1] - u[2]);
  const V q_even = at_q * (u[3] + u[4]), q_odd = at_q * q * (u[3] - u[4]);
  g[0] = at_zero * u[0] + p_even + q_even;
  g[1] = p_odd + q_odd;
  g[2] = pp * p_even + qq * q_even + u[5];
}

}  // namespace winograd

/// Whether args is a convolution that Winograd's algorithm can compute, and args.method asks for it or leaves
/// the choice and it is worth while.
bool winograd_applies(const Conv2dArgs& args);
void winograd_forward(const Conv2dArgs& args);
void winograd_backward_data(const Conv2dArgs& args);
void winograd_backward_kernel(const Conv2dArgs& args);

}  // namespace halfstep::cpu::inline HALFSTEP_ISA
