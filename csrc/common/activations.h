// The activations by kernel index: the same rows as fused_ops/activations.py (tests/fused_ops/test_activations.py
// compares the two). The formulas are shared by the CPU's kernels, where a value is a vector, and the GPU's.
#pragma once

#ifdef __CUDACC__
#define FUSED_OPS_FORMULA __device__ __forceinline__
#else
#define FUSED_OPS_FORMULA inline __attribute__((always_inline))
#endif

namespace fused_ops {

enum class Activation : int {
  identity = 0,
  relu = 1,
  leaky_relu = 2,
  silu = 3,
  gelu = 4,
  tanh = 5,
  sigmoid = 6,
  elu = 7,
  hardswish = 8,
};

inline constexpr int kActivations = 9;

// Those whose input the kernels compute from their output, where it was kept in the input's place.
constexpr bool can_restore(Activation kind) { return kind == Activation::identity || kind == Activation::leaky_relu; }

// `Math` names the types Value and Scalar, and what is computed with them: broadcast, min, max, sigmoid, tanh, expm1
// (of numbers up to 0) and normal, which gives cdf and density of the standard normal distribution.
template <Activation kind, typename Math>
FUSED_OPS_FORMULA typename Math::Value activate(typename Math::Value z, typename Math::Scalar slope) {
  using Value = typename Math::Value;
  using S = typename Math::Scalar;
  if constexpr (kind == Activation::relu) return z < S(0) ? Value{} : z;
  if constexpr (kind == Activation::leaky_relu) return z > S(0) ? z : z * slope;
  if constexpr (kind == Activation::silu) return z * Math::sigmoid(z);
  if constexpr (kind == Activation::gelu) return z * Math::normal(z).cdf;
  if constexpr (kind == Activation::tanh) return Math::tanh(z);
  if constexpr (kind == Activation::sigmoid) return Math::sigmoid(z);
  if constexpr (kind == Activation::elu) return z > S(0) ? z : Math::expm1(z);
  if constexpr (kind == Activation::hardswish) {
    return z * Math::min(Math::max(z + S(3), Value{}), Math::broadcast(6)) * S(1.0 / 6);
  }
  return z;
}

// f'(z) from y = f(z), for the activations that allow it.
template <Activation kind, typename Math>
FUSED_OPS_FORMULA typename Math::Value derivative_from_output(typename Math::Value y, typename Math::Scalar slope) {
  using Value = typename Math::Value;
  using S = typename Math::Scalar;
  if constexpr (kind == Activation::relu) return y > S(0) ? Math::broadcast(1) : Value{};
  if constexpr (kind == Activation::leaky_relu) return y > S(0) ? Math::broadcast(1) : Math::broadcast(slope);
  if constexpr (kind == Activation::tanh) return S(1) - y * y;
  if constexpr (kind == Activation::sigmoid) return y * (S(1) - y);
  if constexpr (kind == Activation::elu) return y > S(0) ? Math::broadcast(1) : y + S(1);
  return Math::broadcast(1);
}

template <Activation kind, typename Math>
FUSED_OPS_FORMULA typename Math::Value derivative(typename Math::Value z, typename Math::Scalar slope) {
  using Value = typename Math::Value;
  using S = typename Math::Scalar;
  if constexpr (kind == Activation::relu || kind == Activation::leaky_relu) {
    return derivative_from_output<kind, Math>(z, slope);  // of the same sign as y
  } else if constexpr (kind == Activation::silu) {
    const Value s = Math::sigmoid(z);
    return s * (S(1) + z * (S(1) - s));
  } else if constexpr (kind == Activation::gelu) {
    const auto normal = Math::normal(z);
    return normal.cdf + z * normal.density;
  } else if constexpr (kind == Activation::hardswish) {
    const Value inside = z < S(3) ? z * S(1.0 / 3) + S(0.5) : Math::broadcast(1);
    return z > S(-3) ? inside : Value{};
  } else {
    return derivative_from_output<kind, Math>(activate<kind, Math>(z, slope), slope);
  }
}

}  // namespace fused_ops
