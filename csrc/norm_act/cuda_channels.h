// The kernels for tensors whose channels are adjacent (channels_last): see ChannelShare in cuda_arguments.h.
//
// A thread has the same kVector channels all the time, and goes from pixel to pixel.
#pragma once

#include "norm_act/cuda_channel_tile.h"

namespace fused_ops::norm_act {

// ---- rows that fit on chip -----------------------------------------------------------------------------------------

template <typename T>
FUSED_OPS_KERNEL(kRowThreads) channel_rows_forward(Arguments<T> a) {
  constexpr int V = kVector<T>;
  const ChannelTile<T> tile(a);
  const KeptCoefficients<T> kept(a, tile, shared_floats());
  Shared scratch = scratch_of(a, shared_floats());
  float x[kSlots][V], total[1][V] = {}, sums[2][V] = {};
  tile.each_slot(a, [&](int slot, int64_t pixel, const Chunk& chunk) {
    tile.load(a, pixel, chunk, x[slot]);
#pragma unroll
    for (int i = 0; i < V; ++i) total[0][i] += x[slot][i];
  });
  add_over_rows(tile, a.last.columns, total, scratch);
  add_over_groups(a, tile, total, scratch);
  const float share = 1.0f / a.row_size();
  Each<V> guess;
#pragma unroll
  for (int i = 0; i < V; ++i) guess.values[i] = total[0][i] * share;
  tile.each_slot(a, [&](int slot, int64_t, const Chunk& chunk) {
    centre<T>(chunk, guess, x[slot]);
#pragma unroll
    for (int i = 0; i < V; ++i) {
      sums[0][i] += x[slot][i];
      sums[1][i] += x[slot][i] * x[slot][i];
    }
  });
  add_over_rows(tile, a.last.columns, sums, scratch);
  add_over_groups(a, tile, sums, scratch);
  if (tile.row == 0) {
#pragma unroll
    for (int i = 0; i < V; ++i) {
      if (!tile.has(i)) continue;
      // The deviations' own mean corrects the rounding of the first one.
      const float off = sums[0][i] * share, var = FloatMath::max(sums[1][i] * share - off * off, 0.0f);
      kept.set(a, tile, i, off, inverse_deviation(var, a.eps));
      const int channel = tile.channel + i;
      if (!a.batch && channel % a.span != 0) continue;
      const int64_t at = a.row_of(tile.region, channel);
      a.mean.put(at, guess[i] + off);
      a.var.put(at, var);
    }
  }
  sync_threads();
  tile.each_slot(a, [&](int slot, int64_t, const Chunk& chunk) {
    if (chunk.mask == 0) return;
    centre<T>(chunk, kept.mean, x[slot]);
    store_output<T, Kept>(a, chunk, kept, x[slot]);
  });
}

template <typename T>
FUSED_OPS_KERNEL(kRowThreads) channel_rows_backward(Arguments<T> a) {
  constexpr int V = kVector<T>;
  const ChannelTile<T> tile(a);
  const KeptCoefficients<T> kept(a, tile, shared_floats());
  Shared scratch = scratch_of(a, shared_floats());
  kept.load(a, tile);
  Quad loaded[kSlots];
  float centred[kSlots][V], grad[kSlots][V], sums[2][V] = {};
  tile.each_slot(a, [&](int slot, int64_t pixel, const Chunk& chunk) {
    tile.load(a, pixel, chunk, centred[slot]);
    loaded[slot] = chunk.load(a.grad);
  });
  tile.each_slot(a, [&](int slot, int64_t, const Chunk& chunk) {
    gradient_of_z<T, Kept>(a, chunk, kept, centred[slot], loaded[slot], grad[slot]);
#pragma unroll
    for (int i = 0; i < V; ++i) {
      sums[0][i] += grad[slot][i];
      sums[1][i] += grad[slot][i] * centred[slot][i];
    }
  });
  add_over_rows(tile, a.last.columns, sums, scratch);
  const int all = a.last.columns * V;
  sync_threads();
#pragma unroll
  for (int i = 0; i < V; ++i) {
    if (!tile.has(i)) continue;
    const float scale = kept.scale[i];
    if (tile.row == 0) {
      a.put_affine(tile.region, tile.channel + i, sums[1][i] * kept.rstd[i], sums[0][i]);
      scratch[tile.column * V + i] = sums[0][i] * scale;
      scratch[all + tile.column * V + i] = sums[1][i] * scale;
    }
    sums[0][i] *= scale;
    sums[1][i] *= scale;
  }
  add_over_groups(a, tile, sums, scratch);
  if (tile.row == 0) {
    const float share = 1.0f / a.row_size();
#pragma unroll
    for (int i = 0; i < V; ++i) {
      if (!tile.has(i)) continue;
      kept.offset.put(i, -sums[0][i] * share);
      kept.slope.put(i, -sums[1][i] * kept.rstd[i] * kept.rstd[i] * share);
    }
  }
  sync_threads();
  float noise_sum = 0;
  tile.each_slot(a, [&](int slot, int64_t pixel, const Chunk& chunk) {
    if (chunk.mask == 0) return;
    store_gradients<T, Kept>(a, chunk, kept, centred[slot], grad[slot]);
    noise_sum += tile.noise_product(a, pixel, chunk, centred[slot]);
  });
  put_noise_sum(a, noise_sum, scratch);
}

// ---- parts of regions ----------------------------------------------------------------------------------------------

// Where a part's partial result of a channel lies.
template <typename T>
FUSED_OPS_DEVICE int64_t partial_at(const Arguments<T>& a, const ChannelTile<T>& tile, int channel) {
  return tile.region * a.region_step + tile.part * a.part_step + channel * a.channel_step;
}

template <typename T>
FUSED_OPS_RESIDENT_KERNEL(kPartThreads, 2) channel_parts_moments(Arguments<T> a) {
  constexpr int V = kVector<T>;
  const ChannelTile<T> tile(a);
  Shared scratch = scratch_of(a, shared_floats());
  Moments moments[V];
  Each<V> origin;
#pragma unroll
  for (int i = 0; i < V; ++i) origin.values[i] = tile.has(i) ? a.origin(tile.region, tile.channel + i) : 0.0f;
  tile.template each<kSlots>(a, [&](const int64_t(&pixels)[kSlots], const Chunk(&chunks)[kSlots]) {
    float x[kSlots][V], count = 0;
#pragma unroll
    for (int slot = 0; slot < kSlots; ++slot) {
      tile.load(a, pixels[slot], chunks[slot], x[slot]);
      centre<T>(chunks[slot], origin, x[slot]);
      count += chunks[slot].mask != 0 ? 1.0f : 0.0f;
    }
    const float share = count > 0 ? 1.0f / count : 0;
#pragma unroll
    for (int i = 0; i < V; ++i) {
      float sum = 0, m2 = 0;
#pragma unroll
      for (int slot = 0; slot < kSlots; ++slot) sum += x[slot][i];
      const float mean = sum * share;
#pragma unroll
      for (int slot = 0; slot < kSlots; ++slot) {
        const float off = chunks[slot].has(i) ? x[slot][i] - mean : 0.0f;
        m2 += off * off;
      }
      moments[i].merge({count, mean, m2});
    }
  });
#pragma unroll
  for (int i = 0; i < V; ++i) {
    for (int mask = kWarp / 2; mask >= a.last.columns; mask /= 2) moments[i].merge(moments[i].from_lane(mask));
  }
  const int all = a.last.columns * V, warps = int(blockDim.x) / kWarp, warp = int(threadIdx.x) / kWarp;
  if (int(threadIdx.x) % kWarp < a.last.columns) {
#pragma unroll
    for (int i = 0; i < V; ++i) {
      Shared to = scratch + warp * 3 * all + tile.column * V + i;
      to[0] = moments[i].count;
      to[all] = moments[i].mean;
      to[2 * all] = moments[i].m2;
    }
  }
  sync_threads();
  for (int at = int(threadIdx.x); at < a.last.width; at += int(blockDim.x)) {
    if (tile.first_channel + at >= a.channels) break;
    Moments merged;
    for (int i = 0; i < warps; ++i) {
      const Shared from = scratch + i * 3 * all + at;
      merged.merge({from[0], from[all], from[2 * all]});
    }
    const int64_t to = partial_at(a, tile, tile.first_channel + at);
    a.partial.put(to, merged.count);
    a.partial.put(a.partials + to, merged.mean);
    a.partial.put(2 * a.partials + to, merged.m2);
  }
}

template <typename T>
FUSED_OPS_RESIDENT_KERNEL(kPartThreads, 2) channel_parts_forward(Arguments<T> a) {
  constexpr int V = kVector<T>;
  const ChannelTile<T> tile(a);
  const KeptCoefficients<T> kept(a, tile, shared_floats());
  kept.load(a, tile);
  tile.template each<2, true>(a, [&](const int64_t(&pixels)[2], const Chunk(&chunks)[2]) {
    float x[2][V];
#pragma unroll
    for (int slot = 0; slot < 2; ++slot) tile.load(a, pixels[slot], chunks[slot], x[slot]);
#pragma unroll
    for (int slot = 0; slot < 2; ++slot) {
      if (chunks[slot].mask == 0) continue;
      centre<T>(chunks[slot], kept.mean, x[slot]);
      store_output<T, Kept>(a, chunks[slot], kept, x[slot]);
    }
  });
}

template <typename T>
FUSED_OPS_RESIDENT_KERNEL(kPartThreads, 2) channel_parts_sums(Arguments<T> a) {
  constexpr int V = kVector<T>;
  const ChannelTile<T> tile(a);
  const KeptCoefficients<T> kept(a, tile, shared_floats());
  kept.load(a, tile);
  float sums[2][V] = {};
  tile.template each<2>(a, [&](const int64_t(&pixels)[2], const Chunk(&chunks)[2]) {
    Quad loaded[2];
    float centred[2][V];
#pragma unroll
    for (int slot = 0; slot < 2; ++slot) {
      tile.load(a, pixels[slot], chunks[slot], centred[slot]);
      loaded[slot] = chunks[slot].load(a.grad);
    }
#pragma unroll
    for (int slot = 0; slot < 2; ++slot) {
      float grad[V];
      gradient_of_z<T, Kept>(a, chunks[slot], kept, centred[slot], loaded[slot], grad);
#pragma unroll
      for (int i = 0; i < V; ++i) {
        sums[0][i] += grad[i];
        sums[1][i] += grad[i] * centred[slot][i];
      }
    }
  });
  add_over_rows(tile, a.last.columns, sums, scratch_of(a, shared_floats()));
  if (tile.row != 0) return;
#pragma unroll
  for (int i = 0; i < V; ++i) {
    if (!tile.has(i)) continue;
    const int64_t to = partial_at(a, tile, tile.channel + i);
    a.partial.put(to, sums[0][i]);
    a.partial.put(a.partials + to, sums[1][i] * kept.rstd[i]);
  }
}

template <typename T>
FUSED_OPS_RESIDENT_KERNEL(kPartThreads, 2) channel_parts_backward(Arguments<T> a) {
  constexpr int V = kVector<T>;
  const ChannelTile<T> tile(a);
  const KeptCoefficients<T> kept(a, tile, shared_floats());
  kept.load(a, tile);
  float noise_sum = 0;
  tile.template each<2, true>(a, [&](const int64_t(&pixels)[2], const Chunk(&chunks)[2]) {
    Quad loaded[2];
    float centred[2][V];
#pragma unroll
    for (int slot = 0; slot < 2; ++slot) {
      tile.load(a, pixels[slot], chunks[slot], centred[slot]);
      loaded[slot] = chunks[slot].load(a.grad);
    }
#pragma unroll
    for (int slot = 0; slot < 2; ++slot) {
      if (chunks[slot].mask == 0) continue;
      float grad[V];
      gradient_of_z<T, Kept>(a, chunks[slot], kept, centred[slot], loaded[slot], grad);
      store_gradients<T, Kept>(a, chunks[slot], kept, centred[slot], grad);
      noise_sum += tile.noise_product(a, pixels[slot], chunks[slot], centred[slot]);
    }
  });
  put_noise_sum(a, noise_sum, scratch_of(a, shared_floats()));
}

}  // namespace fused_ops::norm_act
