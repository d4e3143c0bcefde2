// Rows of a block (kernels.h) as vectors, on their way to z and back. Included by kernels of one instruction set.
#pragma once

#include "norm_act/kernels.h"

#include "norm_act/cpu_activations.h"

namespace fused_ops::norm_act {
namespace {

// How many elements of one lane are summed in single precision before the sum goes to a double: the rounding error
// then stays below that of the products themselves.
constexpr int64_t kRun = 16;

// `count` lanes from column `col` on of a row.
struct Whole {
  int64_t col;
  template <typename T>
  FUSED_OPS_INLINE auto get(const T* row) const {
    return load(stored(row + col));
  }
  template <typename T, typename V>
  FUSED_OPS_INLINE void put(T* row, V value) const {
    store(stored(row + col), value);
  }
  template <typename V>
  FUSED_OPS_INLINE V keep(V value) const {
    return value;
  }
};
struct Partial {
  int64_t col;
  int count;
  template <typename T>
  FUSED_OPS_INLINE auto get(const T* row) const {
    return load(stored(row + col), count);
  }
  template <typename T, typename V>
  FUSED_OPS_INLINE void put(T* row, V value) const {
    store(stored(row + col), value, count);
  }
  template <typename V>
  FUSED_OPS_INLINE V keep(V value) const {
    using S = decltype(value[0] + 0);
    return keep_first<S>(value, count);
  }
};

template <typename S, typename F>
FUSED_OPS_INLINE void each(int64_t begin, int64_t end, F&& body) {
  int64_t col = begin;
  for (; col + kLanes<S> <= end; col += kLanes<S>) body(Whole{col});
  if (col < end) body(Partial{col, int(end - col)});
}

FUSED_OPS_INLINE int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
FUSED_OPS_INLINE int64_t larger(int64_t a, int64_t b) { return a < b ? b : a; }

// The same with body(at, k), where k is the place among four vectors in a row: four sums side by side do not wait for one
// another.
constexpr int kSums = 4;
template <typename S, typename F>
FUSED_OPS_INLINE void each_in_turn(int64_t begin, int64_t end, F&& body) {
  int64_t col = begin;
  for (; col + kSums * kLanes<S> <= end; col += kSums * kLanes<S>) {
    for (int k = 0; k < kSums; ++k) body(Whole{col + k * kLanes<S>}, k);
  }
  each<S>(col, end, [&](auto at) { body(at, 0); });
}
template <typename V>
FUSED_OPS_INLINE V take_sum(V (&sums)[kSums]) {
  const V total = (sums[0] + sums[1]) + (sums[2] + sums[3]);
  for (V& sum : sums) sum = V{};
  return total;
}

// The same, and end_of_run() after every kRun vectors and at the end.
template <typename S, typename F, typename G>
FUSED_OPS_INLINE void each_run(int64_t begin, int64_t end, F&& body, G&& end_of_run) {
  for (int64_t col = begin; col < end; col += kRun * kLanes<S>) {
    each_in_turn<S>(col, smaller(col + kRun * kLanes<S>, end), body);
    end_of_run();
  }
}

// A coefficient that is constant along a row, or runs along it.
template <typename S>
struct Constant {
  Vec<S> value;
  template <typename At>
  FUSED_OPS_INLINE Vec<S> get(At) const {
    return value;
  }
};
template <typename T>
struct Running {
  const T* row;
  template <typename At>
  FUSED_OPS_INLINE auto get(At at) const {
    return at.get(row);
  }
};

// The two ways of kernels.h for coefficients to run over a block.
struct Planes {
  template <typename S>
  static FUSED_OPS_INLINE Constant<S> coefficient(const S* values, int64_t row, int64_t step) {
    return {broadcast<S>(values[row * step])};
  }
  template <typename T>
  static FUSED_OPS_INLINE Running<T> noise(const Block<T>& block, int64_t row) {
    return {block.noise + row * block.noise_ld};
  }
};
struct Channels {
  template <typename S>
  static FUSED_OPS_INLINE Running<S> coefficient(const S* values, int64_t, int64_t) {
    return {values};
  }
  template <typename T>
  static FUSED_OPS_INLINE Constant<Computed<T>> noise(const Block<T>& block, int64_t row) {
    const auto* values = stored(block.noise);
    return {broadcast<Computed<T>>(values ? to_scalar(values[row]) : 0)};
  }
};

// One row of a block: x' = x + noise_scale * noise.
template <typename T, typename Way>
struct Input {
  using V = Vec<Computed<T>>;
  const T* x;
  bool noisy;
  V noise_scale;
  decltype(Way::noise(*(const Block<T>*)nullptr, 0)) noise;

  FUSED_OPS_INLINE Input(const Block<T>& block, int64_t row)
      : x(block.x + row * block.ld),
        noisy(block.noise != nullptr),
        noise_scale(broadcast(block.noise_scale)),
        noise(Way::noise(block, row)) {}

  template <typename At>
  FUSED_OPS_INLINE V get(At at) const {
    V value = at.get(x);
    if (noisy) value += noise_scale * noise.get(at);
    return value;
  }
};

// One row of a block, on its way to z.
template <typename T, typename Way>
struct Row : Input<T, Way> {
  using S = Computed<T>;
  using V = Vec<S>;
  using Coefficient = decltype(Way::coefficient((const S*)nullptr, 0, 0));
  Coefficient mean, scale, shift;
  const T* residual;

  FUSED_OPS_INLINE Row(const Block<T>& block, int64_t row)
      : Input<T, Way>(block, row),
        mean(Way::coefficient(block.mean, row, block.step)),
        scale(Way::coefficient(block.scale, row, block.step)),
        shift(Way::coefficient(block.shift, row, block.step)),
        residual(block.residual ? block.residual + row * block.ld : nullptr) {}

  template <typename At>
  FUSED_OPS_INLINE V centred(At at) const {
    return this->get(at) - mean.get(at);
  }
  template <typename At>
  FUSED_OPS_INLINE V z(At at, V centred) const {
    V z = centred * scale.get(at) + shift.get(at);
    if (residual) z += at.get(residual);
    return z;
  }
};

// One row of a block, on the way back to the gradient of z. Where it `restores`, x holds y.
template <Activation kind, typename T, typename Way, bool restores>
struct GradientRow : Row<T, Way> {
  using S = Computed<T>;
  using V = Vec<S>;
  const T *grad, *y;
  T* kept;
  S activation_slope, inverse_slope;
  typename Row<T, Way>::Coefficient inverse_scale;

  FUSED_OPS_INLINE GradientRow(const Block<T>& block, int64_t row, const Gradient<T>& gradient, S activation_slope)
      : Row<T, Way>(block, row),
        grad(gradient.grad + row * block.ld),
        y(gradient.y ? gradient.y + row * block.ld : nullptr),
        kept(is_costly(kind) && gradient.grad_z ? gradient.grad_z + row * block.ld : nullptr),
        activation_slope(activation_slope),
        inverse_slope(block.inverse_slope),
        inverse_scale(Way::coefficient(restores ? block.inverse_scale : block.scale, row, block.step)) {}

  template <typename At>
  FUSED_OPS_INLINE V centred(At at) const {
    if constexpr (!restores) return Row<T, Way>::centred(at);
    V z = this->get(at);
    if constexpr (kind == Activation::leaky_relu) z = z > S(0) ? z : z * inverse_slope;
    return (z - this->shift.get(at)) * inverse_scale.get(at);
  }

  template <typename At>
  FUSED_OPS_INLINE V grad_z(At at, V centred) const {
    const V g = at.get(grad);
    if constexpr (kind == Activation::identity) return g;
    if (y) return g * derivative_from_output<kind, VectorMath<S>>(at.get(y), activation_slope);
    return g * derivative<kind, VectorMath<S>>(this->z(at, centred), activation_slope);
  }
  template <typename At>
  FUSED_OPS_INLINE void keep(At at, V grad_z) const {
    if constexpr (is_costly(kind)) {
      if (kept) at.put(kept, grad_z);
    }
  }
  template <typename At>
  FUSED_OPS_INLINE V kept_grad_z(At at, V centred) const {
    if constexpr (is_costly(kind)) {
      if (kept) return at.get(kept);
    }
    return grad_z(at, centred);
  }
};

}  // namespace
}  // namespace fused_ops::norm_act
