// The C++ types that stand for dtypes between the torch side and the kernels of the CPU: bfloat16 travels as uint16_t.
#pragma once

namespace fused_ops {

// The type in which a dtype is computed: double for double, float for everything else.
template <typename T>
struct ComputedAs {
  using type = float;
};
template <>
struct ComputedAs<double> {
  using type = double;
};
template <typename T>
using Computed = typename ComputedAs<T>::type;

}  // namespace fused_ops
