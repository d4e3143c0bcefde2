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
inline constexpr int kResident = 4;  // blocks that are to fit on a processor: 64 registers a thread, and none spills
inline constexpr int kWeights = 8;  // W_r, W, U, W_z of unit 0, then of unit 1

template <typename T>
struct Arguments {
  int pixels;
  int channels[2];
  bool pair;   // else there is only unit 0
  bool keep;   // the convention: x' = z x + (1 - z) h
  bool wide;   // all channels are multiples of kVector
  Divider columns;   // threads of a row, and how many of them have x
  int columns_of_x;

  Global<const T> features[2];  // null where they are in the chain already
  Global<const T> weights[kWeights];
  Global<T> out[2];
  // [pixels, chain]: r . y of unit 0, x, y, r . x of unit 1, side by side. Neighbours are what products multiply: x and
  // y for r and z of both units, the first two for the candidate of unit 0, the last two for that of unit 1.
  Global<T> chain;
  Global<T> matrix;    // [gates, both channels]: the weights that make a gate of two neighbours, in their order
  Global<T> gates;     // [pixels, all gates], in GATE_ORDER of reference.py
  bool keeps_gates;    // in the forward: they are wanted after it
  bool raw_gates;      // in the backward: they stand before their activation, and r . source in the chain

  Global<const T> grad_out[2], grad_gates;
  Global<T> grad_before;  // [pixels, all gates]: gradients of what stands before the activations
  Global<T> grad_chain, grad_matrix;
  Global<T> grad_features[2];
  Global<T> grad_weights[kWeights];

  FUSED_OPS_BOTH int both_channels() const { return channels[0] + channels[1]; }
  FUSED_OPS_BOTH int all_gates() const { return pair ? 3 * both_channels() : 2 * channels[0] + channels[1]; }
  // Where the gates of a unit begin; r and z of both lie together.
  FUSED_OPS_BOTH int h(int unit) const { return unit == 0 ? 0 : 3 * channels[0] + 2 * channels[1]; }
  FUSED_OPS_BOTH int r(int unit) const { return unit == 0 ? channels[0] : 2 * channels[0] + channels[1]; }
  FUSED_OPS_BOTH int z(int unit) const { return unit == 0 ? both_channels() : 3 * channels[0] + channels[1]; }
  FUSED_OPS_BOTH bool has_unit(int unit) const { return unit == 0 || pair; }

  // Where features, what they pass on to a unit, and the factor of a unit's candidate (the two beside each other) begin
  // in the chain.
  FUSED_OPS_BOTH int chain_width() const { return pair ? 2 * both_channels() : both_channels() + channels[1]; }
  FUSED_OPS_BOTH int in_chain(int index) const { return channels[1] + (index == 0 ? 0 : channels[0]); }
  FUSED_OPS_BOTH int passed(int unit) const { return unit == 0 ? 0 : both_channels() + channels[1]; }
  FUSED_OPS_BOTH int factor(int unit) const { return unit == 0 ? 0 : both_channels(); }
};

// The row (a pixel, or of the matrix), features and channels of a thread.
template <typename T>
struct Place {
  int row = 0;
  int index = 0;  // of the features
  int channel = 0;
  uint32_t mask = 0;
  bool wide = false;

  // The thread's channels in a matrix of rows of `width`, where its features' first channel is column `first`.
  FUSED_OPS_DEVICE Chunk in(int width, int first = 0) const {
    return {int64_t(row) * width + (first + channel), mask, wide};
  }
};

// Calls work(place), where the thread has any. The compiler makes work twice, so that it knows in each whether accesses
// are wide, and orders them freely.
template <typename T, typename F>
FUSED_OPS_DEVICE void at_place(const Arguments<T>& a, int rows, F&& work) {
  constexpr int V = kVector<T>, all = (1 << V) - 1;
  const int thread = int(blockIdx.x) * kThreads + int(threadIdx.x);
  if (thread >= rows * int(a.columns.by)) return;
  const int row = a.columns.divide(thread), column = thread - row * int(a.columns.by);
  const int index = column < a.columns_of_x ? 0 : 1, channel = (column - index * a.columns_of_x) * V;
  if (a.wide) return work(Place<T>{row, index, channel, all, true});
  const int left = a.channels[index] - channel;
  work(Place<T>{row, index, channel, left < V ? (1u << left) - 1 : all, false});
}

// Where a thread's numbers lie in tensors of the call, features or weights, and where in the chain or the matrix.
struct Move {
  int weight = -1;  // none: features
  Chunk outside, inside;

  template <typename T>
  FUSED_OPS_DEVICE Move(const Arguments<T>& a, Place<T> place) {
    const int index = place.index, both = a.both_channels();
    if (place.row < a.pixels) {
      outside = place.in(a.channels[index]);
      inside = place.in(a.chain_width(), a.in_chain(index));
      return;
    }
    place.row -= a.pixels;
    const int row = place.row, unit = row < a.r(1) ? 0 : 1;
    const bool candidate = row >= a.h(unit) && row < a.h(unit) + a.channels[unit];
    const bool reset = row >= a.r(unit) && row < a.r(unit) + a.channels[1 - unit];
    // As in the chain: x comes first, but y in the factors of both candidates.
    inside = place.in(both, index == int(candidate) ? 0 : a.channels[1 - index]);
    place.row -= candidate ? a.h(unit) : reset ? a.r(unit) : a.z(unit);
    if (candidate) {
      weight = 4 * unit + (index == unit ? 2 : 1);
      outside = place.in(a.channels[index]);
    } else {
      weight = 4 * unit + (reset ? 0 : 3);
      outside = place.in(both, index == unit ? 0 : a.channels[unit]);
    }
  }
};

template <typename T>
FUSED_OPS_DEVICE Global<const T> readable(Global<T> tensor) {
  return {tensor.at};
}

// Fills chain and matrix.
template <typename T>
FUSED_OPS_KERNEL(kThreads) gather(Arguments<T> a) {
  at_place(a, a.pixels + a.all_gates(), [&](const Place<T>& place) {
    const Move move(a, place);
    if (move.weight >= 0) {
      move.inside.store(a.matrix, move.outside.load(a.weights[move.weight]));
    } else if (const Global<const T> from = a.features[place.index]) {
      move.inside.store(a.chain, move.outside.load(from));
    }
  });
}

// The other way round, for the gradients.
template <typename T>
FUSED_OPS_KERNEL(kThreads) scatter(Arguments<T> a) {
  at_place(a, a.pixels + a.all_gates(), [&](const Place<T>& place) {
    const Move move(a, place);
    if (move.weight >= 0) {
      move.outside.store(a.grad_weights[move.weight], move.inside.load(readable(a.grad_matrix)));
    } else {
      move.outside.store(a.grad_features[place.index], move.inside.load(readable(a.grad_chain)));
    }
  });
}

// Loads stand together before their first use, packed, so that all are under way at once.
template <typename T>
FUSED_OPS_DEVICE Quad load_gate(const Arguments<T>& a, const Place<T>& place, int first) {
  return place.in(a.all_gates(), first).load(readable(a.gates));
}
template <typename T>
FUSED_OPS_DEVICE Quad load_features(const Arguments<T>& a, const Place<T>& place) {
  return place.in(a.chain_width(), a.in_chain(place.index)).load(readable(a.chain));
}
template <typename T, int n, typename... Values>
FUSED_OPS_DEVICE void unpack_all(const Quad (&loaded)[n], Values&... values) {
  static_assert(sizeof...(values) == n);
  int i = 0;
  (unpack<T>(loaded[i++], values), ...);
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
  at_place(a, a.pixels, [&](const Place<T>& place) {
    const int unit = 1 - place.index;  // whose source these features are
    if (!a.has_unit(unit)) return;
    const Quad loaded[] = {load_gate(a, place, a.r(unit)), load_features(a, place)};
    float r[kVector<T>], source[kVector<T>];
    unpack_all<T>(loaded, r, source);
#pragma unroll
    for (int i = 0; i < kVector<T>; ++i) {
      r[i] = FloatMath::sigmoid(r[i]);
      source[i] *= r[i];
    }
    if (a.keeps_gates) place.in(a.all_gates(), a.r(unit)).store(a.gates, r);
    place.in(a.chain_width(), a.passed(unit)).store(a.chain, source);
  });
}

// h = tanh(.) and z = sigmoid(.) in place, and the updated target.
template <typename T>
FUSED_OPS_RESIDENT_KERNEL(kThreads, kResident) mix_forward(Arguments<T> a) {
  at_place(a, a.pixels, [&](const Place<T>& place) {
    const int unit = place.index;
    if (!a.has_unit(unit)) return;
    const Quad loaded[] = {load_gate(a, place, a.h(unit)), load_gate(a, place, a.z(unit)), load_features(a, place)};
    float h[kVector<T>], z[kVector<T>], target[kVector<T>];
    unpack_all<T>(loaded, h, z, target);
#pragma unroll
    for (int i = 0; i < kVector<T>; ++i) {
      h[i] = FloatMath::tanh(h[i]);
      z[i] = FloatMath::sigmoid(z[i]);
      target[i] = a.keep ? h[i] + z[i] * (target[i] - h[i]) : target[i] + z[i] * (h[i] - target[i]);
    }
    place.in(a.channels[unit]).store(a.out[unit], target);
    if (!a.keeps_gates) return;
    place.in(a.all_gates(), a.h(unit)).store(a.gates, h);
    place.in(a.all_gates(), a.z(unit)).store(a.gates, z);
  });
}

// The gradients before tanh and before the update gate's sigmoid.
template <typename T>
FUSED_OPS_RESIDENT_KERNEL(kThreads, kResident) mix_backward(Arguments<T> a) {
  at_place(a, a.pixels, [&](const Place<T>& place) {
    const int unit = place.index;
    if (!a.has_unit(unit)) return;
    const Quad loaded[] = {load_gate(a, place, a.h(unit)), load_gate(a, place, a.z(unit)), load_features(a, place),
                           place.in(a.channels[unit]).load(a.grad_out[unit])};
    float h[kVector<T>], z[kVector<T>], target[kVector<T>], grad_h[kVector<T>], grad_z[kVector<T>];
    unpack_all<T>(loaded, h, z, target, grad_h);
    if (a.raw_gates) {
#pragma unroll
      for (int i = 0; i < kVector<T>; ++i) {
        h[i] = FloatMath::tanh(h[i]);
        z[i] = FloatMath::sigmoid(z[i]);
      }
    }
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
  });
}

// The gradient before the reset gate's sigmoid, r . source, and the gradient of the features but for what comes through
// r and z: as a target, where the chain's has that through U already, and as a source through r . source.
template <typename T>
FUSED_OPS_RESIDENT_KERNEL(kThreads, kResident) reset_backward(Arguments<T> a) {
  at_place(a, a.pixels, [&](const Place<T>& place) {
    const int own = place.index, unit = 1 - own;
    const Chunk features = place.in(a.chain_width(), a.in_chain(own));
    const Chunk passed = place.in(a.chain_width(), a.passed(unit));
    const Chunk r_gate = place.in(a.all_gates(), a.r(unit));
    Quad loaded[6] = {};
    if (a.has_unit(own)) {
      loaded[0] = features.load(readable(a.grad_chain));
      loaded[1] = load_gate(a, place, a.z(own));
      loaded[2] = place.in(a.channels[own]).load(a.grad_out[own]);
    }
    if (a.has_unit(unit)) {
      loaded[3] = r_gate.load(readable(a.gates));
      loaded[4] = load_features(a, place);
      loaded[5] = passed.load(readable(a.grad_chain));
    }
    float direct[kVector<T>], z[kVector<T>], grad_out[kVector<T>];
    float r[kVector<T>], source[kVector<T>], grad_r[kVector<T>];
    unpack_all<T>(loaded, direct, z, grad_out, r, source, grad_r);
    if (a.raw_gates) {
#pragma unroll
      for (int i = 0; i < kVector<T>; ++i) {
        z[i] = FloatMath::sigmoid(z[i]);
        r[i] = FloatMath::sigmoid(r[i]);
      }
    }
#pragma unroll
    for (int i = 0; i < kVector<T>; ++i) {
      direct[i] += grad_out[i] * (a.keep ? z[i] : 1 - z[i]) + grad_r[i] * r[i];
      grad_r[i] *= source[i];
    }
    features.store(a.grad_chain, direct);
    if (!a.has_unit(unit)) return;
    add_outside(a, place, a.r(unit), grad_r);
#pragma unroll
    for (int i = 0; i < kVector<T>; ++i) {
      grad_r[i] *= r[i] * (1 - r[i]);
      source[i] *= r[i];
    }
    r_gate.store(a.grad_before, grad_r);
    if (!a.raw_gates) passed.store(a.chain, source);
  });
}

}  // namespace fused_ops::selective_share
