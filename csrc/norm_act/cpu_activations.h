// What the formulas of common/activations.h take for arithmetic on the CPU: vectors.
#pragma once

#include "common/activations.h"
#include "common/vec_math.h"

namespace fused_ops {
inline namespace FUSED_OPS_ISA {

template <typename S>
struct VectorMath {
  using Scalar = S;
  using Value = Vec<S>;
  static FUSED_OPS_INLINE Value broadcast(S value) { return fused_ops::broadcast<S>(value); }
  static FUSED_OPS_INLINE Value min(Value a, Value b) { return vmin<S>(a, b); }
  static FUSED_OPS_INLINE Value max(Value a, Value b) { return vmax<S>(a, b); }
  // Zero where vsigmoid stops to fall: times a large -z, as silu takes it, that would be a number.
  static FUSED_OPS_INLINE Value sigmoid(Value z) { return z < kLowestSigmoid<S> ? Value{} : vsigmoid<S>(z); }
  static FUSED_OPS_INLINE Value tanh(Value z) { return vtanh<S, true>(z); }
  static FUSED_OPS_INLINE Value expm1(Value z) { return vexpm1<S>(z); }
  static FUSED_OPS_INLINE Normal<S> normal(Value z) { return vnormal<S>(z); }
};

}  // namespace FUSED_OPS_ISA
}  // namespace fused_ops
