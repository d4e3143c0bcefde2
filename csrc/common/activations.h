// The activations by kernel index: the same rows as fused_ops/activations.py (tests/fused_ops/test_activations.py
// compares the two).
#pragma once

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

}  // namespace fused_ops
