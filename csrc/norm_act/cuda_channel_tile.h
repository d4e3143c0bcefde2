// What the kernels for channels_last tensors (cuda_channels.h) share: the channels of a thread, their coefficients, and
// sums over the rows of a block.
#pragma once

#include "norm_act/cuda_planes.h"

namespace fused_ops::norm_act {

// The channels of this thread, and the region, tile and part that its block works on.
template <typename T>
struct ChannelTile {
  static constexpr int V = kVector<T>;
  int column, row, height;  // of the block's threads
  int region, part;
  int first_channel;  // of the tile
  int channel;        // of the thread
  uint32_t mask;      // of its channels
  bool wide;

  FUSED_OPS_DEVICE explicit ChannelTile(const Arguments<T>& a) {
    const ChannelShare& share = a.last;
    column = int(threadIdx.x) % share.columns;
    row = int(threadIdx.x) / share.columns;
    height = int(blockDim.x) / share.columns;
    const int rest = int(blockIdx.x) / share.tiles;
    region = rest / share.parts;
    part = rest % share.parts;
    first_channel = int(blockIdx.x) % share.tiles * share.width;
    channel = first_channel + column * V;
    const int beyond = first_channel + share.width, end = beyond < a.channels ? beyond : a.channels;
    const int count = end - channel;
    const uint32_t all = (1u << V) - 1;
    mask = count <= 0 ? 0 : count < V ? (1u << count) - 1 : all;
    wide = mask == all && a.channels % V == 0 && channel % V == 0;
  }
  FUSED_OPS_DEVICE bool has(int i) const { return mask >> i & 1; }

  FUSED_OPS_DEVICE Chunk chunk(const Arguments<T>& a, int64_t pixel, bool inside) const {
    return {(region * a.last.pixels + pixel) * a.channels + channel, inside ? mask : 0, inside && wide};
  }
  FUSED_OPS_DEVICE float noise(const Arguments<T>& a, int64_t pixel) const {
    return a.noise.get_float(region * a.last.pixels + pixel);
  }
  FUSED_OPS_DEVICE void load(const Arguments<T>& a, int64_t pixel, const Chunk& chunk, float (&x)[V]) const {
    chunk.load(a.x, x);
    if (!a.noise || chunk.mask == 0) return;
    const float more = a.noise_scale.get(0) * noise(a, pixel);
#pragma unroll
    for (int i = 0; i < V; ++i) x[i] += chunk.has(i) ? more : 0.0f;
  }
  FUSED_OPS_DEVICE float noise_product(const Arguments<T>& a, int64_t pixel, const Chunk& chunk,
                                       const float (&values)[V]) const {
    if (!a.noise_sums || chunk.mask == 0) return 0;
    float sum = 0;
#pragma unroll
    for (int i = 0; i < V; ++i) sum += chunk.has(i) ? values[i] : 0.0f;
    return sum * noise(a, pixel);
  }
  // Calls work(slot, pixel, chunk) for all slots of a region that fits on chip.
  template <typename F>
  FUSED_OPS_DEVICE void each_slot(const Arguments<T>& a, F&& work) const {
#pragma unroll
    for (int slot = 0; slot < kSlots; ++slot) {
      const int64_t pixel = row + slot * height;
      work(slot, pixel, chunk(a, pixel, pixel < a.last.pixels));
    }
  }
  // Calls work(pixels, chunks) for `slots` pixels of the part at once; `from_end` as in PlanePart.
  template <int slots, bool from_end = false, typename F>
  FUSED_OPS_DEVICE void each(const Arguments<T>& a, F&& work) const {
    const int64_t begin = part * a.last.part_pixels, beyond = begin + a.last.part_pixels;
    const int64_t end = beyond < a.last.pixels ? beyond : a.last.pixels;
    for (int64_t first = begin + row; first < end; first += slots * height) {
      int64_t pixels[slots];
      Chunk chunks[slots];
#pragma unroll
      for (int slot = 0; slot < slots; ++slot) {
        const int64_t pixel = first + slot * height;
        pixels[slot] = from_end ? begin + end - 1 - pixel : pixel;
        chunks[slot] = chunk(a, pixels[slot], pixel < end);
      }
      work(pixels, chunks);
    }
  }
};

// ---- coefficients, in shared memory: as many registers would be too many ------------------------------------------

// A coefficient of a thread's channels.
struct Kept {
  Shared first;
  int step;
  FUSED_OPS_DEVICE float operator[](int i) const { return first[i * step]; }
  FUSED_OPS_DEVICE void put(int i, float value) const { first[i * step] = value; }
};

inline constexpr int kKept = 6;  // coefficients of a channel

// The coefficients of a tile's channels. They lie so that threads side by side read side by side.
template <typename T>
struct KeptCoefficients : GradientCoefficients<Kept> {
  static constexpr int V = kVector<T>;
  Kept rstd;

  FUSED_OPS_DEVICE KeptCoefficients(const Arguments<T>& a, const ChannelTile<T>& tile, Shared shared)
      : GradientCoefficients<Kept>{{at(a, tile, shared, 0), at(a, tile, shared, 1), at(a, tile, shared, 2)},
                                   at(a, tile, shared, 3), at(a, tile, shared, 4)},
        rstd(at(a, tile, shared, 5)) {}

  static FUSED_OPS_DEVICE Kept at(const Arguments<T>& a, const ChannelTile<T>& tile, Shared shared, int number) {
    return {shared + number * a.last.columns * V + tile.column, a.last.columns};
  }

  // Sets the coefficients of z of one of the thread's channels.
  FUSED_OPS_DEVICE void set(const Arguments<T>& a, const ChannelTile<T>& tile, int i, float mean_value,
                            float rstd_value) const {
    const int64_t at = a.affine_at(tile.region, tile.channel + i);
    mean.put(i, mean_value);
    rstd.put(i, rstd_value);
    scale.put(i, a.gamma.get(at, 1) * rstd_value);
    shift.put(i, a.beta.get(at, 0));
  }
  // Sets all of them from the stored statistics and, where they are there, the means of the rows' gradients; for all
  // threads to call.
  FUSED_OPS_DEVICE void load(const Arguments<T>& a, const ChannelTile<T>& tile) const {
    // The thread rows take turns at the channels.
    for (int i = tile.row; i < V; i += tile.height) {
      if (!tile.has(i)) continue;
      const int64_t row = a.row_of(tile.region, tile.channel + i);
      const float inverse = inverse_deviation(a.var.get(row), a.eps);
      set(a, tile, i, a.mean.get(row), inverse);
      offset.put(i, a.row_means ? -inverse * a.row_means.get(row) : 0.0f);
      slope.put(i, a.row_means ? -inverse * inverse * a.row_means.get(a.rows() + row) : 0.0f);
    }
    sync_threads();
  }
};

// Where sums are made, behind the coefficients.
template <typename T>
FUSED_OPS_DEVICE Shared scratch_of(const Arguments<T>& a, Shared shared) {
  return shared + kKept * a.last.columns * kVector<T>;
}

// ---- sums over the rows of a block ---------------------------------------------------------------------------------

// Adds up n values of each channel over all threads that have it; every thread gets its channels' sums. `shared` then
// begins with n rows of all channels' sums, and holds space for as many more for each warp, or row of threads where
// such a row is longer than a warp.
template <int n, typename T>
FUSED_OPS_DEVICE void add_over_rows(const ChannelTile<T>& tile, int columns, float (&values)[n][kVector<T>],
                                    Shared shared) {
  constexpr int V = kVector<T>;
  for (int mask = kWarp / 2; mask >= columns; mask /= 2) {
#pragma unroll
    for (int q = 0; q < n; ++q) {
#pragma unroll
      for (int i = 0; i < V; ++i) values[q][i] += shuffle_xor(values[q][i], mask);
    }
  }
  const bool short_rows = columns <= kWarp;
  const int all = columns * V, groups = short_rows ? int(blockDim.x) / kWarp : tile.height;
  if (!short_rows || int(threadIdx.x) % kWarp < columns) {
    Shared to = shared + (1 + (short_rows ? int(threadIdx.x) / kWarp : tile.row)) * n * all + tile.column * V;
#pragma unroll
    for (int q = 0; q < n; ++q) {
#pragma unroll
      for (int i = 0; i < V; ++i) to[q * all + i] = values[q][i];
    }
  }
  sync_threads();
  for (int at = int(threadIdx.x); at < n * all; at += int(blockDim.x)) {
    float sum = 0;
    for (int group = 0; group < groups; ++group) sum += shared[(1 + group) * n * all + at];
    shared[at] = sum;
  }
  sync_threads();
#pragma unroll
  for (int q = 0; q < n; ++q) {
#pragma unroll
    for (int i = 0; i < V; ++i) values[q][i] = shared[q * all + tile.column * V + i];
  }
}

// From sums of channels, as add_over_rows has left them in `shared`, to the sums of the groups they belong to. The
// tile holds whole groups.
template <int n, typename T>
FUSED_OPS_DEVICE void add_over_groups(const Arguments<T>& a, const ChannelTile<T>& tile, float (&values)[n][kVector<T>],
                                      Shared shared) {
  if (a.batch || a.span == 1) return;
  constexpr int V = kVector<T>;
  const int all = a.last.columns * V, warps = int(blockDim.x) / kWarp;
  const int warp = int(threadIdx.x) / kWarp, lane = int(threadIdx.x) % kWarp;
  const int left = a.channels - tile.first_channel;
  const int groups = (a.last.width < left ? a.last.width : left) / a.span;
  Shared totals = shared + n * all;  // of the warps, no longer needed
  sync_threads();
  for (int group = warp; group < groups; group += warps) {
    float sums[n] = {};
    for (int i = lane; i < a.span; i += kWarp) {
#pragma unroll
      for (int q = 0; q < n; ++q) sums[q] += shared[q * all + group * a.span + i];
    }
    add_over(sums, kWarp, nullptr);
    if (lane == 0) {
#pragma unroll
      for (int q = 0; q < n; ++q) totals[q * all + group] = sums[q];
    }
  }
  sync_threads();
#pragma unroll
  for (int i = 0; i < V; ++i) {
    if (!tile.has(i)) continue;
    const int group = (tile.column * V + i) / a.span;
#pragma unroll
    for (int q = 0; q < n; ++q) values[q][i] = totals[q * all + group];
  }
  sync_threads();
}

}  // namespace fused_ops::norm_act
