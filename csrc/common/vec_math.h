// Vector forms of exp, expm1, sigmoid, tanh and the normal distribution, for float and double.
//
// Errors in float, measured against the exact value: exp 1, expm1 1.7, tanh 2.1, sigmoid 2.3 units in the last place
// (torch's own: 0.6, 1.0, 0.6, 2.3); vnormal's cdf 1.5e-7 absolute and, in the lower tail, 5e-6 relative.
// Infinities and NaN give what libm gives, except where said.
#pragma once

#include "vec.h"

namespace fused_ops {
inline namespace FUSED_OPS_ISA {

// In instructions of their own, since the compiler makes a comparison and a selection of the conditions. NaN in the
// first argument stays.
#if defined(__AVX512F__)
#define FUSED_OPS_EXTREME(name, a, b)                                                                            \
  sizeof(S) == 4 ? (Vec<S>)_mm512_maskz_##name##_ps(__mmask16(-1), (__m512)(b), (__m512)(a))                     \
                 : (Vec<S>)_mm512_maskz_##name##_pd(__mmask8(-1), (__m512d)(b), (__m512d)(a))
#elif defined(__AVX2__)
#define FUSED_OPS_EXTREME(name, a, b)                                          \
  sizeof(S) == 4 ? (Vec<S>)_mm256_##name##_ps((__m256)(b), (__m256)(a))        \
                 : (Vec<S>)_mm256_##name##_pd((__m256d)(b), (__m256d)(a))
#endif

template <typename S>
FUSED_OPS_INLINE Vec<S> vmax(Vec<S> a, Vec<S> b) {
#if defined(FUSED_OPS_EXTREME)
  return FUSED_OPS_EXTREME(max, a, b);
#else
  return a < b ? b : a;
#endif
}
template <typename S>
FUSED_OPS_INLINE Vec<S> vmin(Vec<S> a, Vec<S> b) {
#if defined(FUSED_OPS_EXTREME)
  return FUSED_OPS_EXTREME(min, a, b);
#else
  return b < a ? b : a;
#endif
}
template <typename S>
FUSED_OPS_INLINE Vec<S> vabs(Vec<S> x) {
  const Vec<Integer<S>> sign_bit = (Vec<Integer<S>>)broadcast<S>(S(-0.0));
  return (Vec<S>)((Vec<Integer<S>>)x & ~sign_bit);
}

// The magnitude with the sign of `sign`; the magnitude must not be negative.
template <typename S>
FUSED_OPS_INLINE Vec<S> vcopysign(Vec<S> magnitude, Vec<S> sign) {
  const Vec<Integer<S>> sign_bit = (Vec<Integer<S>>)broadcast<S>(S(-0.0));
  return (Vec<S>)((Vec<Integer<S>>)magnitude | ((Vec<Integer<S>>)sign & sign_bit));
}

template <typename S>
struct ExpConstants;

template <>
struct ExpConstants<float> {
  static constexpr float kLowest = -104.0f, kHighestFinite = 88.0f;
  static constexpr float kRounder = 12582912.0f;  // 1.5 * 2^23: adding it leaves the nearest integer in the low bits
  static constexpr float kLn2High = 0.693359375f, kLn2Low = -2.12194440e-4f;
  static constexpr int kMantissaBits = 23, kBias = 127, kTerms = 7;
};

template <>
struct ExpConstants<double> {
  static constexpr double kLowest = -746.0, kHighestFinite = 709.0;
  static constexpr double kRounder = 6755399441055744.0;  // 1.5 * 2^52
  static constexpr double kLn2High = 6.93147180369123816490e-01, kLn2Low = 1.90821492927058770002e-10;
  static constexpr int kMantissaBits = 52, kBias = 1023, kTerms = 13;
};

// x = n ln 2 + r with |r| <= ln 2 / 2; `fraction` is exp(r) - 1.
template <typename S>
struct ExpParts {
  Vec<S> fraction;
  Vec<S> exponent;         // n
  Vec<Integer<S>> integer;  // n
};

template <typename S>
FUSED_OPS_INLINE ExpParts<S> split_exp(Vec<S> x) {
  using K = ExpConstants<S>;
  const Vec<S> shifted = x * S(1.4426950408889634) + K::kRounder;
  const Vec<S> n = shifted - K::kRounder;
  const Vec<S> r = (x - n * K::kLn2High) - n * K::kLn2Low;
  // r + r^2 (1/2! + r/3! + r^2/4! + ...): the r in front keeps small results accurate.
  S coefficient = 1;
  for (int k = 2; k <= K::kTerms; ++k) coefficient /= S(k);
  Vec<S> series = broadcast<S>(coefficient);
  for (int k = K::kTerms; k > 2; --k) {
    coefficient *= S(k);
    series = series * r + coefficient;
  }
  return {r + (r * r) * series, n,
          (Vec<Integer<S>>)shifted - (Vec<Integer<S>>)broadcast<S>(K::kRounder)};
}

// 2^n for n in the range of normal numbers.
template <typename S>
FUSED_OPS_INLINE Vec<S> power_of_two(Vec<Integer<S>> n) {
  using K = ExpConstants<S>;
  return (Vec<S>)((n + Integer<S>(K::kBias)) << Integer<S>(K::kMantissaBits));
}

// For x from kLowest, below which exp is 0, to kHighestFinite.
template <typename S>
FUSED_OPS_INLINE Vec<S> vexp_within(Vec<S> x) {
  const ExpParts<S> parts = split_exp<S>(x);
  const Vec<S> mantissa = parts.fraction + S(1);
#if defined(__AVX512F__)
  if constexpr (sizeof(S) == 4) {
    return (Vec<S>)_mm512_maskz_scalef_ps(__mmask16(-1), (__m512)mantissa, (__m512)parts.exponent);
  } else {
    return (Vec<S>)_mm512_maskz_scalef_pd(__mmask8(-1), (__m512d)mantissa, (__m512d)parts.exponent);
  }
#else
  // In two steps, since 2^n itself may overflow or be subnormal.
  const Vec<Integer<S>> half = parts.integer >> Integer<S>(1);
  return mantissa * power_of_two<S>(half) * power_of_two<S>(parts.integer - half);
#endif
}

// exp(x) - 1 where 2^n is a normal number.
template <typename S>
FUSED_OPS_INLINE Vec<S> vexpm1_within(Vec<S> x) {
  const ExpParts<S> parts = split_exp<S>(x);
  const Vec<S> scale = power_of_two<S>(parts.integer);
  return parts.fraction * scale + (scale - S(1));
}

// exp(x) - 1 for x <= 88 (double: 709); larger values give the result there.
template <typename S>
FUSED_OPS_INLINE Vec<S> vexpm1(Vec<S> x) {
  using K = ExpConstants<S>;
  const S lowest = -S(K::kMantissaBits + 3);  // exp(lowest) is below half a unit of 1
  return vexpm1_within<S>(vmin<S>(vmax<S>(x, broadcast<S>(lowest)), broadcast<S>(K::kHighestFinite)));
}

// 1 / d for 2^-126 < |d| < 2^126, within a unit in the last place: a division costs more than all the rest of a sigmoid.
template <typename S>
FUSED_OPS_INLINE Vec<S> vreciprocal(Vec<S> d) {
#if defined(__AVX512F__)
  if constexpr (sizeof(S) == 4) {
    const Vec<S> guess = (Vec<S>)_mm512_maskz_rcp14_ps(__mmask16(-1), (__m512)d);
    return guess + guess * (S(1) - d * guess);
  }
#endif
  return S(1) / d;
}

// Below this the result of vsigmoid is under the smallest normal number, and that of this.
template <typename S>
inline constexpr S kLowestSigmoid = sizeof(S) == 4 ? S(-87) : S(-708);

template <typename S>
FUSED_OPS_INLINE Vec<S> vsigmoid(Vec<S> x) {
  constexpr S lowest = kLowestSigmoid<S>, highest = -ExpConstants<S>::kLowest;
  return vreciprocal<S>(S(1) + vexp_within<S>(-vmin<S>(vmax<S>(x, broadcast<S>(lowest)), broadcast<S>(highest))));
}

// With `near_one` also the distance to 1 is accurate, for a derivative that is computed from the result: 1 - 2 / (t + 2)
// rounds once, where t / (t + 2) has the errors of two operations on numbers near 1.
template <typename S, bool near_one = false>
FUSED_OPS_INLINE Vec<S> vtanh(Vec<S> x) {
  const Vec<S> t = vexpm1_within<S>(vmin<S>(S(2) * vabs<S>(x), broadcast<S>(40)));
  const Vec<S> r = vreciprocal<S>(t + S(2));
  Vec<S> magnitude = t * r;
  if constexpr (near_one) magnitude = t > S(4) ? S(1) - S(2) * r : magnitude;
  return vcopysign<S>(magnitude, x);
}

// The standard normal distribution at x: its cumulative distribution function and its density.
template <typename S>
struct Normal {
  Vec<S> cdf;
  Vec<S> density;
};

template <typename S>
FUSED_OPS_INLINE Normal<S> vnormal(Vec<S> x) {
  const Vec<S> bell = vexp_within<S>(vmax<S>(S(-0.5) * x * x, broadcast<S>(ExpConstants<S>::kLowest)));
  const Vec<S> a = vmin<S>(vabs<S>(x) * S(0.70710678118654752), broadcast<S>(30));
  Vec<S> upper;  // the tail beyond |x|: erfc(a) / 2
  if constexpr (sizeof(S) == 4) {
    // erfc(a) exp(a^2) / 2 as a quotient of polynomials with positive coefficients, so that no rounding is magnified:
    // least maximum relative error (5e-9) on 0 <= a <= 9.6, where the bell ends; fitted by reweighted least squares.
    const Vec<S> numerator =
        (((0.0161732819f * a + 0.113535488f) * a + 0.36354634f) * a + 0.617048016f) * a + 0.500000003f;
    const Vec<S> denominator =
        ((((0.0573320152f * a + 0.402501412f) * a + 1.31694768f) * a + 2.3928525f) * a + 2.36247573f) * a + 1.0f;
    upper = numerator / denominator * bell;
  } else {
    for (int lane = 0; lane < kLanes<S>; ++lane) upper[lane] = S(0.5) * __builtin_erfc(a[lane]);
  }
  return {x < S(0) ? upper : S(1) - upper, bell * S(0.39894228040143268)};
}

}  // namespace FUSED_OPS_ISA
}  // namespace fused_ops
