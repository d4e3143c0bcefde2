// The kernels that merge what the parts of rows have left in `partial`: a warp for each row, or a block where there is
// much to merge, in a fixed order. Several loads are under way at once, since each takes some hundred cycles.
#pragma once

#include "norm_act/cuda_elements.h"

namespace fused_ops::norm_act {

inline constexpr int kFinishThreads = 256, kFinishAhead = 4;

// The row of this team, and where the partial results of one of its channels lie.
template <typename T>
struct FinishedRow {
  int team, lane;
  int64_t row;
  bool inside;
  int sample = 0, channel = 0, channels, entries;

  FUSED_OPS_DEVICE explicit FinishedRow(const Arguments<T>& a)
      : team(a.merging), lane(int(threadIdx.x) % team),
        row(int64_t(blockIdx.x) * (int(blockDim.x) / team) + int(threadIdx.x) / team) {
    inside = row < a.rows();
    if (!inside) row = 0;
    sample = a.batch ? 0 : int(row / a.rows_per_sample());
    channel = a.batch ? int(row) : int(row % a.rows_per_sample()) * a.span;
    channels = a.batch ? 1 : a.span;
    entries = (a.batch ? a.regions : 1) * a.parts;
  }
  FUSED_OPS_DEVICE int64_t at(const Arguments<T>& a, int further, int entry) const {
    const int region = sample + entry / a.parts;
    return region * a.region_step + (channel + further) * a.channel_step + entry % a.parts * a.part_step;
  }
};

template <typename T>
FUSED_OPS_KERNEL(kFinishThreads) finish_moments(Arguments<T> a) {
  const FinishedRow<T> mine(a);
  Moments moments;
  const int count = mine.channels * mine.entries;
  for (int first = mine.lane; first < count; first += kFinishAhead * mine.team) {
    Moments found[kFinishAhead];
#pragma unroll
    for (int ahead = 0; ahead < kFinishAhead; ++ahead) {
      const int i = first + ahead * mine.team;
      if (i >= count) continue;
      const int64_t at = mine.at(a, i / mine.entries, i % mine.entries);
      found[ahead] = {a.partial.get(at), a.partial.get(a.partials + at), a.partial.get(2 * a.partials + at)};
    }
#pragma unroll
    for (int ahead = 0; ahead < kFinishAhead; ++ahead) moments.merge(found[ahead]);
  }
  merge_over(moments, mine.team, shared_floats());
  if (mine.inside && mine.lane == 0) {
    a.mean.put(mine.row, a.origin(mine.sample, mine.channel) + moments.mean);
    a.var.put(mine.row, moments.m2 / moments.count);
  }
}

// Adds up what the warps of a team that is a whole block hold, lane by lane; the first warp gets the sums.
FUSED_OPS_DEVICE void add_over_warps(float (&sums)[2], int lane, int team, Shared shared) {
  if (team <= kWarp) return;
  sync_threads();  // what was here before has been read
  shared[2 * lane] = sums[0];
  shared[2 * lane + 1] = sums[1];
  sync_threads();
  for (int other = lane + kWarp; other < team; other += kWarp) {
    sums[0] += shared[2 * other];
    sums[1] += shared[2 * other + 1];
  }
}

// The sums of grad_z and grad_z * xhat of each channel: gradients of gamma and beta, and the row's means. Lanes share
// the channels, or, where these are few, the entries of each.
template <typename T>
FUSED_OPS_KERNEL(kFinishThreads) finish_sums(Arguments<T> a) {
  const FinishedRow<T> mine(a);
  int width = 1;
  while (width < mine.channels && width < kWarp) width *= 2;
  float row_sums[2] = {};
  for (int first = 0; first < mine.channels; first += width) {
    const int further = first + mine.lane % width;
    const bool exists = further < mine.channels;
    const int step = mine.team / width, end = exists ? mine.entries : 0;
    float sums[2] = {};
    for (int entry = mine.lane / width; entry < end; entry += kFinishAhead * step) {
      float found[kFinishAhead][2] = {};
#pragma unroll
      for (int ahead = 0; ahead < kFinishAhead; ++ahead) {
        if (entry + ahead * step >= end) continue;
        const int64_t at = mine.at(a, further, entry + ahead * step);
        found[ahead][0] = a.partial.get(at);
        found[ahead][1] = a.partial.get(a.partials + at);
      }
#pragma unroll
      for (int ahead = 0; ahead < kFinishAhead; ++ahead) {
        sums[0] += found[ahead][0];
        sums[1] += found[ahead][1];
      }
    }
    for (int mask = kWarp / 2; mask >= width; mask /= 2) {
      sums[0] += shuffle_xor(sums[0], mask);
      sums[1] += shuffle_xor(sums[1], mask);
    }
    add_over_warps(sums, mine.lane, mine.team, shared_floats());
    if (!mine.inside || !exists || mine.lane >= width) continue;
    const int channel = mine.channel + further;
    a.put_affine(mine.sample, channel, sums[1], sums[0]);
    const float gamma = a.gamma.get(a.affine_at(mine.sample, channel), 1);
    row_sums[0] += gamma * sums[0];
    row_sums[1] += gamma * sums[1];
  }
  if (!a.row_means) return;
  add_over(row_sums, kWarp, nullptr);
  if (mine.inside && mine.lane == 0) {
    a.row_means.put(mine.row, row_sums[0] / a.row_size());
    a.row_means.put(a.rows() + mine.row, row_sums[1] / a.row_size());
  }
}

}  // namespace fused_ops::norm_act
