// norm_act on the GPU with 2 x 2 max-pooling of z before the activation, and the pooling's way back.
//
// A thread takes kVector adjacent elements of x (or of the gradient of z) at each of the places of its squares: the
// same channels of four pixels where channels are adjacent, else kVector / 2 squares of two lines of a plane. An odd
// last row or column belongs to no square.
#pragma once

#include "norm_act/cuda_elements.h"

namespace fused_ops::norm_act {

inline constexpr int kPoolThreads = 256;

// What one thread works on: the chunks of its squares, and where their pooled elements lie.
template <typename T>
struct Squares {
  static constexpr int V = kVector<T>;
  static constexpr int kPlanePooled = V / 2;
  int sample = 0, channel = 0;  // planes: the channel of all; else the first
  int pooled_count = 0;         // elements of y
  int64_t pooled = 0;           // the first of them
  Chunk chunks[4];              // channels: a square's places; planes: the two lines

  // Threads that the work of all squares takes.
  static FUSED_OPS_BOTH int64_t threads(const Arguments<T>& a) {
    const int64_t high = a.height / 2, wide = a.width / 2;
    if (a.channels_last) return int64_t(a.samples) * high * wide * ((a.channels + V - 1) / V);
    return int64_t(a.samples) * a.channels * high * ((wide + kPlanePooled - 1) / kPlanePooled);
  }

  FUSED_OPS_DEVICE explicit Squares(const Arguments<T>& a) {
    const int64_t thread = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
    if (thread >= threads(a)) return;
    const int high = a.height / 2, wide = a.width / 2;
    const int per_line = a.channels_last ? (a.channels + V - 1) / V : (wide + kPlanePooled - 1) / kPlanePooled;
    const int part = int(thread % per_line);
    const int64_t rest = thread / per_line;
    if (a.channels_last) {
      const int64_t line = rest / wide;
      const int column = int(rest % wide), row = int(line % high);
      sample = int(line / high), channel = part * V;
      pooled_count = a.channels - channel < V ? a.channels - channel : V;
      pooled = rest * a.channels + channel;
      const int64_t first = (int64_t(sample) * a.height + 2 * row) * a.width + 2 * column;
      const bool all_wide = a.channels % V == 0;
#pragma unroll
      for (int place = 0; place < 4; ++place) {
        const int64_t pixel = first + place / 2 * a.width + place % 2;
        chunks[place] = {pixel * a.channels + channel, (1u << pooled_count) - 1, all_wide};
      }
    } else {
      const int64_t plane = rest / high;
      const int row = int(rest % high), column = part * kPlanePooled;
      sample = int(plane / a.channels), channel = int(plane % a.channels);
      pooled_count = wide - column < kPlanePooled ? wide - column : kPlanePooled;
      pooled = rest * wide + column;
#pragma unroll
      for (int below = 0; below < 2; ++below) {
        const int64_t at = (plane * a.height + 2 * row + below) * a.width + 2 * column;
        chunks[below] = {at, (1u << 2 * pooled_count) - 1, pooled_count == kPlanePooled && a.width % V == 0};
      }
    }
  }
};

// The largest z of each pooled element and its place; NaN is larger than all, of equal ones the first is taken.
struct Largest {
  float value;
  int place = 0;
  FUSED_OPS_DEVICE void consider(float other, int at) {
    if (other > value || other != other) value = other, place = at;
  }
};

template <typename T, bool channels_last>
FUSED_OPS_DEVICE void pool_squares(const Arguments<T>& a) {
  constexpr int V = kVector<T>, count = channels_last ? V : V / 2, chunks = channels_last ? 4 : 2;
  const Squares<T> squares(a);
  if (squares.pooled_count == 0) return;
  Coefficients<Each<V>> c;
#pragma unroll
  for (int i = 0; i < V; ++i) {
    const int channel = channels_last ? squares.channel + i : squares.channel;
    if (!squares.chunks[0].has(i)) continue;
    const int64_t row = a.row_of(squares.sample, channel), affine = a.affine_at(squares.sample, channel);
    c.mean.values[i] = a.mean.get(row);
    c.scale.values[i] = a.gamma.get(affine, 1.0f) / sqrtf(a.var.get(row) + a.eps);
    c.shift.values[i] = a.beta.get(affine, 0.0f);
  }
  float z[chunks][V];
#pragma unroll
  for (int i = 0; i < chunks; ++i) {
    float x[V];
    squares.chunks[i].load(a.x, x);
    centre<T>(squares.chunks[i], c.mean, x);
    affine(a, squares.chunks[i], c, x, z[i]);
  }
  float y[count];
  uint8_t places[count];
#pragma unroll
  for (int i = 0; i < count; ++i) {
    Largest largest{channels_last ? z[0][i] : z[0][2 * i]};
#pragma unroll
    for (int place = 1; place < 4; ++place) {
      largest.consider(channels_last ? z[place % chunks][i] : z[place / 2][2 * i + place % 2], place);
    }
    y[i] = largest.value;
    places[i] = uint8_t(largest.place);
  }
  activate_all(a.activation, a.slope, y);
#pragma unroll
  for (int i = 0; i < count; ++i) {
    if (i < squares.pooled_count && a.winner_to) a.winner_to.put(squares.pooled + i, places[i]);
  }
  if constexpr (channels_last) {
    const Chunk to{squares.pooled, squares.chunks[0].mask, squares.chunks[0].wide};
    to.store(a.y, y);
  } else {
#pragma unroll
    for (int i = 0; i < count; ++i) {
      if (i < squares.pooled_count) a.y.put_float(squares.pooled + i, y[i]);
    }
  }
}

// grad_x receives the gradient of z; `kept` is y.
template <typename T, bool channels_last>
FUSED_OPS_DEVICE void unpool_squares(const Arguments<T>& a) {
  constexpr int V = kVector<T>, count = channels_last ? V : V / 2, chunks = channels_last ? 4 : 2;
  const Squares<T> squares(a);
  if (squares.pooled_count == 0) return;
  float grad[count], y[count];
  int winner[count];
  if constexpr (channels_last) {
    const Chunk from{squares.pooled, squares.chunks[0].mask, squares.chunks[0].wide};
    from.load(a.grad, grad);
    if (a.kept) from.load(a.kept, y);
  }
#pragma unroll
  for (int i = 0; i < count; ++i) {
    const bool inside = i < squares.pooled_count;
    winner[i] = inside ? a.winner.get(squares.pooled + i) : 0;
    if constexpr (!channels_last) {
      grad[i] = inside ? a.grad.get_float(squares.pooled + i) : 0.0f;
      y[i] = inside && a.kept ? a.kept.get_float(squares.pooled + i) : 0.0f;
    }
  }
  if (a.kept) {
    for_activation(a.activation, [&](auto kind) {
#pragma unroll
      for (int i = 0; i < count; ++i) {
        grad[i] *= derivative_from_output<decltype(kind)::value, FloatMath>(y[i], a.slope);
      }
    });
  }
#pragma unroll
  for (int chunk = 0; chunk < chunks; ++chunk) {
    float z[V];
#pragma unroll
    for (int i = 0; i < V; ++i) {
      const int place = channels_last ? chunk : 2 * chunk + i % 2, from = channels_last ? i : i / 2;
      z[i] = winner[from] == place ? grad[from] : 0.0f;
    }
    squares.chunks[chunk].store(a.grad_x, z);
  }
}

template <typename T>
FUSED_OPS_KERNEL(kPoolThreads) plane_pool(Arguments<T> a) { pool_squares<T, false>(a); }
template <typename T>
FUSED_OPS_KERNEL(kPoolThreads) channel_pool(Arguments<T> a) { pool_squares<T, true>(a); }
template <typename T>
FUSED_OPS_KERNEL(kPoolThreads) plane_unpool(Arguments<T> a) { unpool_squares<T, false>(a); }
template <typename T>
FUSED_OPS_KERNEL(kPoolThreads) channel_unpool(Arguments<T> a) { unpool_squares<T, true>(a); }

}  // namespace fused_ops::norm_act
