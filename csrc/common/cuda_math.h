// Elementary functions of single numbers on the GPU.
#pragma once

#include "common/cuda.h"

namespace fused_ops {

// The arithmetic of common/activations.h on single numbers.
struct FloatMath {
  using Value = float;
  using Scalar = float;
  struct Normal {
    float cdf, density;
  };
  static FUSED_OPS_DEVICE float broadcast(float value) { return value; }
  // NaN in the first argument stays, unlike in fminf and fmaxf.
  static FUSED_OPS_DEVICE float min(float a, float b) { return b < a ? b : a; }
  static FUSED_OPS_DEVICE float max(float a, float b) { return a < b ? b : a; }
  static FUSED_OPS_DEVICE float reciprocal(float value) {
#ifdef __CUDACC__
    return __fdividef(1.0f, value);
#else
    return 1.0f / value;
#endif
  }
  static FUSED_OPS_DEVICE float sigmoid(float z) { return reciprocal(1.0f + expf(-z)); }
  static FUSED_OPS_DEVICE float tanh(float z) { return tanhf(z); }
  static FUSED_OPS_DEVICE float expm1(float z) { return expm1f(z); }
  static FUSED_OPS_DEVICE Normal normal(float z) {
    return {0.5f + 0.5f * erff(z * 0.70710678f), 0.39894228f * expf(-0.5f * z * z)};
  }
};

}  // namespace fused_ops
