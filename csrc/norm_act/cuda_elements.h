// What happens to one chunk of elements, the same for both ways of sharing out a tensor.
#pragma once

#include "common/activations.h"
#include "common/cuda_math.h"
#include "norm_act/cuda_arguments.h"

namespace fused_ops::norm_act {

inline constexpr int kSlots = 4;                            // chunks that a thread keeps or reads ahead
inline constexpr int kRowThreads = 512, kPartThreads = 256;  // the most of a block

// Calls work(Kind<...>) for an activation told at run time: one branch for a chunk, instead of a kernel for each.
template <Activation activation>
struct Kind {
  static constexpr Activation value = activation;
};
template <int first = 0, typename F>
FUSED_OPS_DEVICE void for_activation(int activation, F&& work) {
  if (activation == first) return work(Kind<Activation(first)>{});
  if constexpr (first + 1 < kActivations) for_activation<first + 1>(activation, work);
}

template <int n>
FUSED_OPS_DEVICE void activate_all(int activation, float slope, float (&z)[n]) {
  for_activation(activation, [&](auto kind) {
#pragma unroll
    for (int i = 0; i < n; ++i) z[i] = activate<decltype(kind)::value, FloatMath>(z[i], slope);
  });
}

// A coefficient of a chunk: one for all its elements, or one for each.
struct Same {
  float value = 0;
  FUSED_OPS_DEVICE float operator[](int) const { return value; }
};
template <int n>
struct Each {
  float values[n] = {};
  FUSED_OPS_DEVICE float operator[](int i) const { return values[i]; }
};

// z = (x' - mean) * scale + shift + residual
template <typename C>
struct Coefficients {
  C mean, scale, shift;
};
// grad_x = grad_z * scale + (x' - mean) * slope + offset
template <typename C>
struct GradientCoefficients : Coefficients<C> {
  C slope, offset;
};

template <typename T, typename C>
FUSED_OPS_DEVICE void centre(const Chunk& chunk, const C& mean, float (&x)[kVector<T>]) {
#pragma unroll
  for (int i = 0; i < kVector<T>; ++i) x[i] = chunk.has(i) ? x[i] - mean[i] : 0.0f;
}

// z from the centred x.
template <typename T, typename C>
FUSED_OPS_DEVICE void affine(const Arguments<T>& a, const Chunk& chunk, const Coefficients<C>& c,
                             const float (&centred)[kVector<T>], float (&z)[kVector<T>]) {
#pragma unroll
  for (int i = 0; i < kVector<T>; ++i) z[i] = centred[i] * c.scale[i] + c.shift[i];
  if (a.residual) {
    float residual[kVector<T>];
    chunk.load(a.residual, residual);
#pragma unroll
    for (int i = 0; i < kVector<T>; ++i) z[i] += residual[i];
  }
}

template <typename T, typename C>
FUSED_OPS_DEVICE void store_output(const Arguments<T>& a, const Chunk& chunk, const Coefficients<C>& c,
                                   const float (&centred)[kVector<T>]) {
  float z[kVector<T>];
  affine(a, chunk, c, centred, z);
  activate_all(a.activation, a.slope, z);
  chunk.store(a.y, z);
}

// grad * f'(z), 0 beyond the chunk, of the loaded gradient, and of the loaded x' its difference from the mean. Callers
// load those of all their chunks first, so that they are under way together.
template <typename T, typename C>
FUSED_OPS_DEVICE void gradient_of_z(const Arguments<T>& a, const Chunk& chunk, const Coefficients<C>& c,
                                    float (&centred)[kVector<T>], const Quad& loaded, float (&grad)[kVector<T>]) {
  unpack<T>(loaded, grad);
  if (a.evidence == Evidence::restored) {
    const float inverse_slope = 1.0f / a.slope;
#pragma unroll
    for (int i = 0; i < kVector<T>; ++i) {
      if (!(centred[i] > 0)) grad[i] *= a.slope, centred[i] *= inverse_slope;
      centred[i] = chunk.has(i) ? (centred[i] - c.shift[i]) * (1.0f / c.scale[i]) : 0.0f;
    }
    return;
  }
  centre<T>(chunk, c.mean, centred);
  if (a.evidence == Evidence::nothing) return;
  float evidence[kVector<T>];
  if (a.evidence == Evidence::output) {
    chunk.load(a.kept, evidence);
    for_activation(a.activation, [&](auto kind) {
#pragma unroll
      for (int i = 0; i < kVector<T>; ++i) {
        grad[i] *= derivative_from_output<decltype(kind)::value, FloatMath>(evidence[i], a.slope);
      }
    });
  } else {
    affine(a, chunk, c, centred, evidence);
    for_activation(a.activation, [&](auto kind) {
#pragma unroll
      for (int i = 0; i < kVector<T>; ++i) {
        grad[i] *= derivative<decltype(kind)::value, FloatMath>(evidence[i], a.slope);
      }
    });
  }
}

// Stores what is wanted of the gradients of x and the residual; `centred` becomes grad_x.
template <typename T, typename C>
FUSED_OPS_DEVICE void store_gradients(const Arguments<T>& a, const Chunk& chunk, const GradientCoefficients<C>& c,
                                      float (&centred)[kVector<T>], const float (&grad_z)[kVector<T>]) {
  if (a.grad_residual) chunk.store(a.grad_residual, grad_z);
#pragma unroll
  for (int i = 0; i < kVector<T>; ++i) {
    centred[i] = grad_z[i] * c.scale[i] + (centred[i] * c.slope[i] + c.offset[i]);
  }
  if (a.grad_x) chunk.store(a.grad_x, centred);
}

// ---- sums over threads: the same order in every call, so the same bits ----------------------------------------------

// Adds up over teams of `width` threads, a power of two; more than a warp must be the whole block. Every thread gets
// the sums; all threads of the block must call. `shared` holds n floats for each warp.
template <int n>
FUSED_OPS_DEVICE void add_over(float (&values)[n], int width, Shared shared) {
  for (int mask = (width < kWarp ? width : kWarp) / 2; mask > 0; mask /= 2) {
#pragma unroll
    for (int i = 0; i < n; ++i) values[i] += shuffle_xor(values[i], mask);
  }
  if (width <= kWarp) return;
  const int warps = int(blockDim.x) / kWarp;
  if (threadIdx.x % kWarp == 0) {
#pragma unroll
    for (int i = 0; i < n; ++i) shared[int(threadIdx.x) / kWarp * n + i] = values[i];
  }
  sync_threads();
#pragma unroll
  for (int i = 0; i < n; ++i) {
    values[i] = 0;
    for (int warp = 0; warp < warps; ++warp) values[i] += shared[warp * n + i];
  }
  sync_threads();
}

// The mean of `count` values and the sum of their squared deviations from it, merged by the rule of Chan, Golub and
// LeVeque (1979).
struct Moments {
  float count = 0, mean = 0, m2 = 0;

  FUSED_OPS_DEVICE void merge(const Moments& other) {
    const float total = count + other.count;
    if (total == 0) return;
    const float delta = other.mean - mean, share = other.count / total;
    m2 += other.m2 + delta * delta * (count * share);
    mean += delta * share;
    count = total;
  }
  FUSED_OPS_DEVICE Moments from_lane(int mask) const {
    return {shuffle_xor(count, mask), shuffle_xor(mean, mask), shuffle_xor(m2, mask)};
  }
  FUSED_OPS_DEVICE void merge_over_lanes(int width) {
    for (int mask = (width < kWarp ? width : kWarp) / 2; mask > 0; mask /= 2) merge(from_lane(mask));
  }
};

// Moments of a team as add_over; only the team's first thread gets them.
FUSED_OPS_DEVICE void merge_over(Moments& moments, int width, Shared shared) {
  moments.merge_over_lanes(width);
  if (width <= kWarp) return;
  const int warp = int(threadIdx.x) / kWarp;
  if (threadIdx.x % kWarp == 0) {
    shared[3 * warp] = moments.count;
    shared[3 * warp + 1] = moments.mean;
    shared[3 * warp + 2] = moments.m2;
  }
  sync_threads();
  if (threadIdx.x == 0) {
    for (int i = 1; i < int(blockDim.x) / kWarp; ++i) {
      moments.merge({shared[3 * i], shared[3 * i + 1], shared[3 * i + 2]});
    }
  }
}

// The sum of grad_x * noise over the block, for the gradient of noise_scale.
template <typename T>
FUSED_OPS_DEVICE void put_noise_sum(const Arguments<T>& a, float sum, Shared shared) {
  if (!a.noise_sums) return;
  float total[1] = {sum};
  add_over(total, int(blockDim.x), shared);
  if (threadIdx.x == 0) a.noise_sums.put(blockIdx.x, total[0]);
}

}  // namespace fused_ops::norm_act
