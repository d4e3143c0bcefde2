// The gates' activations: sigmoid and tanh, exact or (`low`) as exact as results need that are rounded to bfloat16,
// whose rounding is 2e-3 relative.
#pragma once
#include "common/vec_math.h"

namespace fused_ops::selective_share {
inline namespace FUSED_OPS_ISA {

// Relative error 6e-5, or that of the division.
FUSED_OPS_INLINE Vec<float> low_reciprocal(Vec<float> d) {
#if defined(__AVX512F__)
  return (Vec<float>)_mm512_maskz_rcp14_ps(__mmask16(-1), (__m512)d);
#else
  return 1.0f / d;
#endif
}

// 2^t, relative error 8e-5: a cubic on [0, 1), least maximum relative error by reweighted least squares.
FUSED_OPS_INLINE Vec<float> low_exp2(Vec<float> t) {
#if defined(__AVX512DQ__)
  constexpr int to_floor = 1 | 8;  // no exceptions
  const Vec<float> f = (Vec<float>)_mm512_maskz_reduce_ps(__mmask16(-1), (__m512)t, to_floor);
#else
  t = vmin<float>(vmax<float>(t, broadcast<float>(-125)), broadcast<float>(125));
  Vec<int32_t> whole = __builtin_convertvector(t, Vec<int32_t>);  // towards zero
  Vec<float> f = t - __builtin_convertvector(whole, Vec<float>);
  whole += f < 0.0f;  // lanes of -1
  f = f < 0.0f ? f + 1.0f : f;
#endif
  const Vec<float> mantissa = 0.99992516f + f * (0.69583353f + f * (0.2260686f + f * 0.0780228f));
#if defined(__AVX512DQ__)
  // times 2 to the floor of t; also right where the result is no normal number
  return (Vec<float>)_mm512_maskz_scalef_ps(__mmask16(-1), (__m512)mantissa, (__m512)t);
#else
  return mantissa * power_of_two<float>(whole);
#endif
}

template <typename S, bool low>
FUSED_OPS_INLINE Vec<S> sigmoid(Vec<S> x) {
  if constexpr (low) {
    return low_reciprocal(1.0f + low_exp2(x * -1.44269504f));
  } else {
    return vsigmoid<S>(x);
  }
}

template <typename S, bool low>
FUSED_OPS_INLINE Vec<S> hyperbolic_tangent(Vec<S> x) {
  if constexpr (low) {
    // x P(x^2) / Q(x^2), relative error 5e-5 for |x| <= 5 (least maximum by reweighted least squares) and 9e-5 beyond.
    const Vec<float> a = vmax<float>(vmin<float>(x, broadcast<float>(5)), broadcast<float>(-5));
    const Vec<float> u = a * a;
    const Vec<float> over = a * (0.99994805f + u * (0.10241753f + u * 0.00067055989f));
    const Vec<float> under = 1.0f + u * (0.43543233f + u * 0.012819835f);
    return over * low_reciprocal(under);
  } else {
    return vtanh<S>(x);
  }
}

}  // namespace FUSED_OPS_ISA
}  // namespace fused_ops::selective_share
