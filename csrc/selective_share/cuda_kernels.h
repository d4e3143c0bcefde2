// The kernels of selective_share on the GPU: what goes on between the library's matrix products (cuda.cu). Each does
// both directions in one launch. Math and names: fused_ops/selective_share/README.md.
//
// Pixels are rows, channels columns (channels_last). "Unit" 0 updates x from y, unit 1 y from x; the features of index
// 0 are x, those of index 1 y, so that unit u has target u and source 1 - u. A thread works on kVector channels of one
// pixel.
#pragma once

#include "common/cuda_math.h"

namespace fused_ops::selective_share {

inline constexpr int kThreads = 256;
inline constexpr int kWeights = 8;  // W_r, W, U, W_z of unit 0, then of unit 1

template <typename T>
struct Arguments {
  int64_t pixels;
  int channels[2];
  bool pair;   // else there is only unit 0
  bool keep;   // the convention: x' = z x + (1 - z) h
  bool wide;   // all channels are multiples of kVector
  Divider columns;  // threads of a pixel
  int64_t pixel_blocks;

  Global<const T> features[2];
  Global<T> out[2];
  Global<T> both;        // [pixels, both channels]: x and y side by side
  Global<T> matrix;      // [gates, both channels]: the gates before the activation are `both` times its transpose
  Global<T> gates;       // [pixels, all gates], in GATE_ORDER of reference.py
  bool keeps_gates;      // all are wanted, not only what later kernels need
  Global<T> passed[2];   // of each unit [pixels, source channels]: r . source; in the backward first its gradient
  Global<const T> weights[kWeights];

  Global<const T> grad_out[2], grad_gates;
  Global<T> grad_before;  // [pixels, all gates]: gradients of what stands before the activations
  Global<T> grad_both;
  Global<const T> grad_matrix;
  Global<T> grad_features[2];
  Global<T> grad_weights[kWeights];

  FUSED_OPS_BOTH int both_channels() const { return channels[0] + channels[1]; }
  FUSED_OPS_BOTH int all_gates() const { return pair ? 3 * both_channels() : 2 * channels[0] + channels[1]; }
  // Where the gates of a unit begin.
  FUSED_OPS_BOTH int h(int unit) const { return unit == 0 ? 0 : 3 * channels[0] + 2 * channels[1]; }
  FUSED_OPS_BOTH int r(int unit) const { return unit == 0 ? channels[0] : 2 * channels[0] + channels[1]; }
  FUSED_OPS_BOTH int z(int unit) const { return unit == 0 ? both_channels() : 3 * channels[0] + channels[1]; }
  // All of them lie together.
  FUSED_OPS_BOTH int first_gate(int unit) const { return unit == 0 ? h(0) : r(1); }
  FUSED_OPS_BOTH int gates_of_unit(int unit) const { return both_channels() + channels[unit]; }
  FUSED_OPS_BOTH bool has_unit(int unit) const { return unit == 0 || pair; }
};

// The pixel, features and channels of this thread.
template <typename T>
struct Place {
  static constexpr int V = kVector<T>;
  int64_t pixel = 0;
  int index = 0;  // of the features
  int channel = 0;
  uint32_t mask = 0;  // 0: none
  bool wide;

  FUSED_OPS_DEVICE explicit Place(const Arguments<T>& a) : wide(a.wide) {
    const int64_t thread = int64_t(blockIdx.x) * kThreads + threadIdx.x;
    if (thread >= a.pixels * a.columns.by) return;
    pixel = a.columns.divide(int(thread));
    int column = int(thread - pixel * a.columns.by);
    const int of_x = (a.channels[0] + V - 1) / V;
    if (column >= of_x) {
      index = 1;
      column -= of_x;
    }
    channel = column * V;
    const int left = a.channels[index] - channel;
    mask = left < V ? (1u << left) - 1 : (1u << V) - 1;
  }
  FUSED_OPS_DEVICE explicit operator bool() const { return mask != 0; }

  // The thread's channels in a matrix of rows of `width`, where its features' first channel is column `first`.
  FUSED_OPS_DEVICE Chunk in(int width, int first = 0) const { return {pixel * width + first + channel, mask, wide}; }
};

// The weight that an element of the matrix is, or which < 0 where it is none.
struct WeightPlace {
  int which = -1;
  int64_t at = 0;

  template <typename T>
  FUSED_OPS_DEVICE WeightPlace(const Arguments<T>& a, int row, int column) {
    const int x = a.channels[0], y = a.channels[1];
    const int unit = row < 2 * x + y ? 0 : 1, target = a.channels[unit];
    // The unit's own order of columns: its target first.
    const int own = unit == 0 ? column : column < x ? y + column : column - x;
    if (row >= a.h(unit) && row < a.h(unit) + target) {
      if (own < target) which = 4 * unit + 2, at = int64_t(row - a.h(unit)) * target + own;
    } else {
      const bool reset = row >= a.r(unit) && row < a.r(unit) + a.channels[1 - unit];
      which = 4 * unit + (reset ? 0 : 3);
      at = int64_t(row - (reset ? a.r(unit) : a.z(unit))) * (x + y) + own;
    }
  }
};

// Calls work(element) for this thread's element of the matrix, in the blocks after those of the pixels.
template <typename T, typename F>
FUSED_OPS_DEVICE void for_matrix(const Arguments<T>& a, F&& work) {
  const int64_t element = (int64_t(blockIdx.x) - a.pixel_blocks) * kThreads + threadIdx.x;
  const int width = a.both_channels();
  if (element >= int64_t(a.all_gates()) * width) return;
  work(element, WeightPlace(a, int(element / width), int(element % width)));
}

// Fills `both` and `matrix`.
template <typename T>
FUSED_OPS_KERNEL(kThreads) gather(Arguments<T> a) {
  if (int64_t(blockIdx.x) >= a.pixel_blocks) {
    return for_matrix(a, [&](int64_t element, const WeightPlace& place) {
      a.matrix.put(element, place.which < 0 ? T{} : a.weights[place.which].get(place.at));
    });
  }
  const Place<T> place(a);
  if (!place) return;
  float values[kVector<T>];
  place.in(a.channels[place.index]).load(a.features[place.index], values);
  place.in(a.both_channels(), place.index == 0 ? 0 : a.channels[0]).store(a.both, values);
}

// The other way round, for the gradients.
template <typename T>
FUSED_OPS_KERNEL(kThreads) scatter(Arguments<T> a) {
  if (int64_t(blockIdx.x) >= a.pixel_blocks) {
    return for_matrix(a, [&](int64_t element, const WeightPlace& place) {
      if (place.which >= 0) a.grad_weights[place.which].put(place.at, a.grad_matrix.get(element));
    });
  }
  const Place<T> place(a);
  if (!place) return;
  float values[kVector<T>];
  place.in(a.both_channels(), place.index == 0 ? 0 : a.channels[0]).load(Global<const T>{a.grad_both.at}, values);
  place.in(a.channels[place.index]).store(a.grad_features[place.index], values);
}

template <typename T>
FUSED_OPS_DEVICE void load_gate(const Arguments<T>& a, const Place<T>& place, Global<T> from, int first,
                                float (&values)[kVector<T>]) {
  place.in(a.all_gates(), first).load(Global<const T>{from.at}, values);
}
// A gradient that reaches a gate from outside, added to its own.
template <typename T>
FUSED_OPS_DEVICE void add_outside(const Arguments<T>& a, const Place<T>& place, int first,
                                  float (&values)[kVector<T>]) {
  if (!a.grad_gates) return;
  float outside[kVector<T>];
  place.in(a.all_gates(), first).load(a.grad_gates, outside);
#pragma unroll
  for (int i = 0; i < kVector<T>; ++i) values[i] += outside[i];
}

// r = sigmoid(.) in place, and r . source.
template <typename T>
FUSED_OPS_KERNEL(kThreads) reset_forward(Arguments<T> a) {
  const Place<T> place(a);
  const int unit = 1 - place.index;  // whose source these features are
  if (!place || !a.has_unit(unit)) return;
  float r[kVector<T>], source[kVector<T>];
  load_gate(a, place, a.gates, a.r(unit), r);
  const Chunk chunk = place.in(a.channels[place.index]);
  chunk.load(a.features[place.index], source);
#pragma unroll
  for (int i = 0; i < kVector<T>; ++i) {
    r[i] = FloatMath::sigmoid(r[i]);
    source[i] *= r[i];
  }
  if (a.keeps_gates) place.in(a.all_gates(), a.r(unit)).store(a.gates, r);
  chunk.store(a.passed[unit], source);
}

// h = tanh(.) and z = sigmoid(.) in place, and the updated target.
template <typename T>
FUSED_OPS_KERNEL(kThreads) mix_forward(Arguments<T> a) {
  const Place<T> place(a);
  const int unit = place.index;
  if (!place || !a.has_unit(unit)) return;
  float h[kVector<T>], z[kVector<T>], target[kVector<T>];
  load_gate(a, place, a.gates, a.h(unit), h);
  load_gate(a, place, a.gates, a.z(unit), z);
  const Chunk chunk = place.in(a.channels[unit]);
  chunk.load(a.features[unit], target);
#pragma unroll
  for (int i = 0; i < kVector<T>; ++i) {
    h[i] = FloatMath::tanh(h[i]);
    z[i] = FloatMath::sigmoid(z[i]);
    target[i] = a.keep ? h[i] + z[i] * (target[i] - h[i]) : target[i] + z[i] * (h[i] - target[i]);
  }
  chunk.store(a.out[unit], target);
  if (!a.keeps_gates) return;
  place.in(a.all_gates(), a.h(unit)).store(a.gates, h);
  place.in(a.all_gates(), a.z(unit)).store(a.gates, z);
}

// The gradients before tanh and before the update gate's sigmoid.
template <typename T>
FUSED_OPS_KERNEL(kThreads) mix_backward(Arguments<T> a) {
  const Place<T> place(a);
  const int unit = place.index;
  if (!place || !a.has_unit(unit)) return;
  float h[kVector<T>], z[kVector<T>], target[kVector<T>], grad_h[kVector<T>], grad_z[kVector<T>];
  load_gate(a, place, a.gates, a.h(unit), h);
  load_gate(a, place, a.gates, a.z(unit), z);
  const Chunk chunk = place.in(a.channels[unit]);
  chunk.load(a.features[unit], target);
  chunk.load(a.grad_out[unit], grad_h);
#pragma unroll
  for (int i = 0; i < kVector<T>; ++i) {
    const float off = h[i] - target[i];
    grad_z[i] = grad_h[i] * (a.keep ? -off : off);
    grad_h[i] *= a.keep ? 1 - z[i] : z[i];
  }
  add_outside(a, place, a.h(unit), grad_h);
  add_outside(a, place, a.z(unit), grad_z);
#pragma unroll
  for (int i = 0; i < kVector<T>; ++i) {
    grad_h[i] *= 1 - h[i] * h[i];
    grad_z[i] *= z[i] * (1 - z[i]);
  }
  place.in(a.all_gates(), a.h(unit)).store(a.grad_before, grad_h);
  place.in(a.all_gates(), a.z(unit)).store(a.grad_before, grad_z);
}

// The gradient before the reset gate's sigmoid; r . source in the place of its gradient; and what reaches the features
// past the gates: as a target, and as a source through r . source.
template <typename T>
FUSED_OPS_KERNEL(kThreads) reset_backward(Arguments<T> a) {
  const Place<T> place(a);
  if (!place) return;
  const int own = place.index, unit = 1 - own;
  const Chunk chunk = place.in(a.channels[own]);
  float direct[kVector<T>] = {};
  if (a.has_unit(own)) {
    float z[kVector<T>];
    load_gate(a, place, a.gates, a.z(own), z);
    chunk.load(a.grad_out[own], direct);
#pragma unroll
    for (int i = 0; i < kVector<T>; ++i) direct[i] *= a.keep ? z[i] : 1 - z[i];
  }
  if (a.has_unit(unit)) {
    float r[kVector<T>], source[kVector<T>], grad[kVector<T>], grad_r[kVector<T>];
    load_gate(a, place, a.gates, a.r(unit), r);
    chunk.load(a.features[own], source);
    chunk.load(Global<const T>{a.passed[unit].at}, grad);
#pragma unroll
    for (int i = 0; i < kVector<T>; ++i) {
      grad_r[i] = grad[i] * source[i];
      direct[i] += grad[i] * r[i];
    }
    add_outside(a, place, a.r(unit), grad_r);
#pragma unroll
    for (int i = 0; i < kVector<T>; ++i) {
      grad_r[i] *= r[i] * (1 - r[i]);
      source[i] *= r[i];
    }
    place.in(a.all_gates(), a.r(unit)).store(a.grad_before, grad_r);
    chunk.store(a.passed[unit], source);
  }
  place.in(a.both_channels(), own == 0 ? 0 : a.channels[0]).store(a.grad_both, direct);
}

}  // namespace fused_ops::selective_share
