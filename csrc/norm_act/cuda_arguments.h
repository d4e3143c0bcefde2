// What the kernels of norm_act on the GPU are told. Math: fused_ops/norm_act/README.md.
//
// x is [samples, channels, plane], each plane adjacent ("planes": contiguous tensors), or [samples, plane, channels]
// ("channels": channels_last, and tensors of one pixel). All large tensors lie alike, densely, on 16-byte boundaries.
// A row is what one mean and variance is over: a channel of all samples (`batch`), else `span` channels of one sample.
#pragma once

#include "common/cuda.h"

namespace fused_ops::norm_act {

// From what the activation's derivative is told: nothing (identity), y as it was kept, z computed again, or y in the
// place of x, which follows from it (restored: for identity, whose slope is then 1, and leaky_relu).
enum class Evidence : int { nothing, output, input, restored };

// How the kernels for whole rows and for planes share out threads over contiguous tensors. A thread keeps up to kSlots
// chunks of a row. `lanes` threads take the chunks of a plane, in `steps` steps; `teams` such teams take the planes of
// a row, in turns. Powers of two; more than a warp is the whole block.
struct PlaneShare {
  int chunks = 1;  // of a plane, at most
  int lanes = 1, steps = 1, teams = 1;
  int parts = 1, part_chunks = 1;  // of a plane, where rows are split
};

// Channels last: `columns` threads of a block, a power of two, take kVector channels each of a tile's `width`; the
// others take further pixels. A region is what a channel's values are summed over: all samples, or one.
struct ChannelShare {
  int columns = 1, width = 1, tiles = 1;
  int64_t pixels = 1;  // of a region
  int64_t part_pixels = 1;
  int parts = 1;
};

template <typename T>
struct Arguments {
  int samples, channels, plane, span;
  bool batch, channels_last;
  bool affine_per_sample;  // gamma and beta are [N, C]
  float eps, slope;
  int activation;
  Evidence evidence;

  Global<const T> x, residual, noise, grad, kept;  // kept: y
  Global<T> y, grad_x, grad_residual;
  Small<T> gamma, beta, noise_scale, mean, var;
  Small<T> grad_gamma, grad_beta;  // [C] if batch, else [N, C]
  Global<float> noise_sums;        // one for each block

  // Split rows: the partial results, and the row's means of grad_z * gamma and of grad_z * gamma * xhat, both absent
  // where the statistics are constants.
  Global<float> partial;
  int64_t partials = 0;  // of one kind
  int regions = 1, parts = 1;
  int64_t region_step = 0, channel_step = 0, part_step = 0;
  int merging = kWarp;  // threads that merge the partial results of a row: a warp, or all of a block
  Global<float> row_means;

  // Pooling: the plane's sides, and which place of each square was the largest.
  int height = 0, width = 0;
  Global<const uint8_t> winner;
  Global<uint8_t> winner_to;

  PlaneShare planes;
  ChannelShare last;

  FUSED_OPS_BOTH int rows_per_sample() const { return channels / span; }
  FUSED_OPS_BOTH int64_t rows() const { return batch ? channels : int64_t(samples) * rows_per_sample(); }
  FUSED_OPS_BOTH float row_size() const { return float(batch ? samples : span) * float(plane); }
  FUSED_OPS_DEVICE int64_t row_of(int sample, int channel) const {
    return batch ? channel : int64_t(sample) * rows_per_sample() + channel / span;
  }
  // The first element of the row that a channel belongs to, from which means of parts are counted: where the mean is
  // large against the deviation, differences from it lose less.
  FUSED_OPS_DEVICE float origin(int sample, int channel) const {
    const int64_t first = channel - channel % span, region = batch ? 0 : sample;
    return x.get_float(region * channels * plane + first * (channels_last ? 1 : plane));
  }
  FUSED_OPS_DEVICE int64_t affine_at(int sample, int channel) const {
    return (affine_per_sample ? int64_t(sample) * channels : 0) + channel;
  }
  FUSED_OPS_DEVICE void put_affine(int sample, int channel, float with_xhat, float plain) const {
    const int64_t at = (batch ? 0 : int64_t(sample) * channels) + channel;
    grad_gamma.put(at, with_xhat);
    grad_beta.put(at, plain);
  }
};

}  // namespace fused_ops::norm_act
