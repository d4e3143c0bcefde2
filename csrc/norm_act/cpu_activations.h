// The activations and their derivatives on vectors: the rows of fused_ops/activations.py.
#pragma once

#include "common/activations.h"
#include "common/vec_math.h"

namespace fused_ops {
inline namespace FUSED_OPS_ISA {

template <Activation kind, typename S>
FUSED_OPS_INLINE Vec<S> activate(Vec<S> z, S slope) {
  if constexpr (kind == Activation::relu) return z < S(0) ? Vec<S>{} : z;
  if constexpr (kind == Activation::leaky_relu) return z > S(0) ? z : z * slope;
  if constexpr (kind == Activation::silu) return z * vsigmoid<S>(z);
  if constexpr (kind == Activation::gelu) return z * vnormal<S>(z).cdf;
  if constexpr (kind == Activation::tanh) return vtanh<S>(z);
  if constexpr (kind == Activation::sigmoid) return vsigmoid<S>(z);
  if constexpr (kind == Activation::elu) return z > S(0) ? z : vexpm1<S>(z);
  if constexpr (kind == Activation::hardswish) {
    return z * vmin<S>(vmax<S>(z + S(3), Vec<S>{}), broadcast<S>(6)) * S(1.0 / 6);
  }
  return z;
}

// f'(z) from y = f(z), for the activations that allow it.
template <Activation kind, typename S>
FUSED_OPS_INLINE Vec<S> derivative_from_output(Vec<S> y, S slope) {
  if constexpr (kind == Activation::relu) return y > S(0) ? broadcast<S>(1) : Vec<S>{};
  if constexpr (kind == Activation::leaky_relu) return y > S(0) ? broadcast<S>(1) : broadcast<S>(slope);
  if constexpr (kind == Activation::tanh) return S(1) - y * y;
  if constexpr (kind == Activation::sigmoid) return y * (S(1) - y);
  if constexpr (kind == Activation::elu) return y > S(0) ? broadcast<S>(1) : y + S(1);
  return broadcast<S>(1);
}

template <Activation kind, typename S>
FUSED_OPS_INLINE Vec<S> derivative(Vec<S> z, S slope) {
  if constexpr (kind == Activation::relu || kind == Activation::leaky_relu) {
    return derivative_from_output<kind, S>(z, slope);  // of the same sign as y
  } else if constexpr (kind == Activation::silu) {
    const Vec<S> s = vsigmoid<S>(z);
    return s * (S(1) + z * (S(1) - s));
  } else if constexpr (kind == Activation::gelu) {
    const Normal<S> normal = vnormal<S>(z);
    return normal.cdf + z * normal.density;
  } else if constexpr (kind == Activation::hardswish) {
    const Vec<S> inside = z < S(3) ? z * S(1.0 / 3) + S(0.5) : broadcast<S>(1);
    return z > S(-3) ? inside : Vec<S>{};
  } else {
    return derivative_from_output<kind, S>(activate<kind, S>(z, slope), slope);
  }
}

}  // namespace FUSED_OPS_ISA
}  // namespace fused_ops
