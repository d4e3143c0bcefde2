// The kernels that merge what the parts of rows have left in `partial`: a warp for each row, in a fixed order.
#pragma once

#include "norm_act/cuda_elements.h"

namespace fused_ops::norm_act {

inline constexpr int kFinishThreads = 128;

// The row of this warp, and where the partial results of one of its channels lie.
template <typename T>
struct FinishedRow {
  int lane = int(threadIdx.x) % kWarp;
  int64_t row = int64_t(blockIdx.x) * (int(blockDim.x) / kWarp) + int(threadIdx.x) / kWarp;
  bool inside;
  int sample = 0, channel = 0, channels, entries;

  FUSED_OPS_DEVICE explicit FinishedRow(const Arguments<T>& a) {
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
  for (int i = mine.lane; i < count; i += kWarp) {
    const int64_t at = mine.at(a, i / mine.entries, i % mine.entries);
    moments.merge({a.partial.get(at), a.partial.get(a.partials + at), a.partial.get(2 * a.partials + at)});
  }
  moments.merge_over_lanes(kWarp);
  if (mine.inside && mine.lane == 0) {
    a.mean.put(mine.row, a.origin(mine.sample, mine.channel) + moments.mean);
    a.var.put(mine.row, moments.m2 / moments.count);
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
    float sums[2] = {};
    for (int entry = mine.lane / width; exists && entry < mine.entries; entry += kWarp / width) {
      const int64_t at = mine.at(a, further, entry);
      sums[0] += a.partial.get(at);
      sums[1] += a.partial.get(a.partials + at);
    }
    for (int mask = kWarp / 2; mask >= width; mask /= 2) {
      sums[0] += shuffle_xor(sums[0], mask);
      sums[1] += shuffle_xor(sums[1], mask);
    }
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
