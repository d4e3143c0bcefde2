// Which kernels serve a call of norm_act on the GPU, in which launches.
//
//     rows fit on chip    rows_forward                                  rows_backward
//     else                parts_moments, finish_moments, parts_forward  parts_sums, finish_sums, parts_backward
//     given statistics    parts_forward                                 parts_sums and finish_sums (for gamma and beta),
//                                                                       parts_backward
//     pooling             parts_moments, finish_moments (unless given),  unpool, then the backward of the identity
//                         pool
//
// A row fits where the threads of one block can keep it in registers.
#pragma once

#include <algorithm>
#include <optional>

#include "norm_act/cuda_channels.h"
#include "norm_act/cuda_finish.h"
#include "norm_act/cuda_pool.h"

namespace fused_ops::norm_act {

inline int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }
inline int next_power(int64_t value) {
  int power = 1;
  while (power < value) power *= 2;
  return power;
}

struct Grid {
  int64_t blocks;
  int threads;
  int64_t shared = 0;  // floats
};

// Floats of shared memory for the sums over rows of a block (add_over_rows) of n values.
inline int64_t row_sums_floats(int columns, int vector, int threads, int n) {
  const int groups = columns <= kWarp ? threads / kWarp : threads / columns;
  return int64_t(1 + groups) * n * columns * vector;
}

template <typename T>
struct Plan {
  static constexpr int V = kVector<T>;
  Arguments<T>& a;
  const Device& device;

  // Whether rows fit on chip; then the shares are set and the grid returned.
  std::optional<Grid> rows() { return a.channels_last ? channel_rows() : plane_rows(); }
  // Shares for parts, of a size that keeps all processors busy.
  Grid parts() { return a.channels_last ? channel_parts() : plane_parts(); }

  int64_t most_chunks() const {
    return a.plane % V == 0 ? a.plane / V : (int64_t(a.plane) + 2 * V - 2) / V;
  }
  int64_t blocks_wanted() const { return 8 * int64_t(device.processors); }

  std::optional<Grid> plane_rows() {
    const int64_t chunks = most_chunks(), planes = a.batch ? a.samples : a.span;
    const int most = std::min(device.most_threads, kRowThreads);
    PlaneShare best;
    int64_t least = 0;
    for (int lanes = 1; lanes <= most; lanes *= 2) {
      const int64_t steps = divide_up(chunks, lanes);
      if (steps > kSlots) continue;
      int teams = 1;
      while (divide_up(planes, teams) * steps > kSlots && lanes * teams < most) teams *= 2;
      const int64_t visits = divide_up(planes, teams), slots = lanes * teams * visits * steps;
      if (visits * steps > kSlots || (lanes > kWarp && teams > 1)) continue;
      if (least != 0 && slots > least) continue;  // of equal ones the one with longer accesses
      least = slots;
      best = {int(chunks), lanes, int(steps), teams, 1, int(chunks)};
    }
    if (least == 0) return std::nullopt;
    a.planes = best;
    const int width = best.lanes * best.teams, threads = width > kWarp ? width : std::min(most, 128);
    return Grid{divide_up(a.rows(), threads / width), threads, 2 * threads / kWarp};
  }

  Grid plane_parts() {
    const int64_t chunks = most_chunks(), planes = int64_t(a.samples) * a.channels;
    const int most = std::min(device.most_threads, kPartThreads);
    int lanes = 1;
    while (lanes < most && lanes * 2 * kSlots <= chunks) lanes *= 2;
    const int threads = lanes > kWarp ? lanes : most;
    const int64_t together = threads / lanes;
    int64_t parts = 1;
    while (planes * parts < blocks_wanted() * together && chunks >= parts * 2 * lanes * kSlots) parts *= 2;
    const int64_t part_chunks = divide_up(chunks, parts);
    parts = divide_up(chunks, part_chunks);
    a.planes = {int(chunks), lanes, 1, 1, int(parts), int(part_chunks)};
    a.regions = a.samples, a.parts = int(parts);
    a.part_step = 1, a.channel_step = parts, a.region_step = parts * a.channels;
    a.partials = planes * parts;
    return {divide_up(planes * parts, together), threads, 3 * threads / kWarp};
  }

  std::optional<Grid> channel_rows() {
    const int most = std::min(device.most_threads, kRowThreads);
    const int64_t pixels = a.batch ? int64_t(a.samples) * a.plane : a.plane;
    // Rows of a tile of 64 adjacent bytes or, where pixels are many, 32: what memory moves at once.
    for (const int least : {64 / int(sizeof(T)), 32 / int(sizeof(T))}) {
      int64_t width = a.batch ? least : divide_up(least, a.span) * a.span;
      for (int more = 0; !a.batch && more < V && width % V != 0; ++more) width += a.span;
      width = std::min<int64_t>(width, a.channels);
      const int columns = next_power(divide_up(width, V));
      if (columns * V > 512 || columns > most) continue;  // what shared memory holds
      const int height = std::max(std::max(1, kWarp / columns), next_power(divide_up(pixels, kSlots)));
      if (int64_t(height) * columns > most) continue;
      const int64_t tiles = divide_up(a.channels, width), regions = a.batch ? 1 : a.samples;
      a.last = {columns, int(width), int(tiles), pixels, pixels, 1};
      const int threads = columns * height;
      return Grid{regions * tiles, threads, kKept * columns * V + row_sums_floats(columns, V, threads, 2)};
    }
    return std::nullopt;
  }

  Grid channel_parts() {
    const int threads = std::min(device.most_threads, kPartThreads);
    const int64_t regions = a.batch ? 1 : a.samples, pixels = a.batch ? int64_t(a.samples) * a.plane : a.plane;
    const int columns = std::min(kWarp, next_power(divide_up(a.channels, V)));
    const int width = columns * V, height = threads / columns;
    const int64_t tiles = divide_up(a.channels, width);
    int64_t parts = std::clamp<int64_t>(blocks_wanted() / (regions * tiles), 1, divide_up(pixels, height * kSlots));
    const int64_t part_pixels = divide_up(divide_up(pixels, parts), height) * height;
    parts = divide_up(pixels, part_pixels);
    a.last = {columns, width, int(tiles), pixels, part_pixels, int(parts)};
    a.regions = int(regions), a.parts = int(parts);
    a.channel_step = 1, a.part_step = a.channels, a.region_step = parts * a.channels;
    a.partials = regions * parts * a.channels;
    const int64_t sums = row_sums_floats(columns, V, threads, 2), moments = int64_t(threads) / kWarp * 3 * width;
    return {regions * tiles * parts, threads, kKept * width + std::max(sums, moments)};
  }
};

template <typename T>
void start(const Device& device, void (*kernel)(Arguments<T>), const Grid& grid, const Arguments<T>& a) {
  launch(device, kernel, grid.blocks, grid.threads, grid.shared, a);
}

// Starts a kernel that merges partial results.
template <typename T>
void finish(const Device& device, void (*kernel)(Arguments<T>), Arguments<T> a) {
  const int64_t results = int64_t(a.batch ? a.regions : a.span) * a.parts;  // of a row
  a.merging = results > kFinishAhead * kWarp ? kFinishThreads : kWarp;
  start(device, kernel, {divide_up(a.rows() * a.merging, kFinishThreads), kFinishThreads, 2 * kFinishThreads}, a);
}

// `memory(n)` gives n floats of device memory that last until the kernels started here have ended.
// Mean and variance from the parts of rows that a grid of Plan::parts() sees.
template <typename T, typename Memory>
void measure(Arguments<T>& a, const Device& device, const Grid& grid, Memory&& memory) {
  a.partial = memory(3 * a.partials);
  start(device, a.channels_last ? channel_parts_moments<T> : plane_parts_moments<T>, grid, a);
  finish(device, finish_moments<T>, a);
}

template <typename T, typename Memory>
void forward(Arguments<T> a, const Device& device, bool given, Memory&& memory) {
  Plan<T> plan{a, device};
  if (!given) {
    if (const auto grid = plan.rows()) {
      return start(device, a.channels_last ? channel_rows_forward<T> : plane_rows_forward<T>, *grid, a);
    }
  }
  const Grid grid = plan.parts();
  if (!given) measure(a, device, grid, memory);
  start(device, a.channels_last ? channel_parts_forward<T> : plane_parts_forward<T>, grid, a);
}

template <typename T>
Grid pool_grid(const Arguments<T>& a, const Device& device) {
  const int threads = std::min(device.most_threads, kPoolThreads);
  return {divide_up(Squares<T>::threads(a), threads), threads};
}

template <typename T, typename Memory>
void pool(Arguments<T> a, const Device& device, bool given, Memory&& memory) {
  if (!given) {
    Plan<T> plan{a, device};
    const Grid grid = plan.parts();
    measure(a, device, grid, memory);
  }
  start(device, a.channels_last ? channel_pool<T> : plane_pool<T>, pool_grid(a, device), a);
}

template <typename T>
void unpool(const Arguments<T>& a, const Device& device) {
  start(device, a.channels_last ? channel_unpool<T> : plane_unpool<T>, pool_grid(a, device), a);
}

// Which gradients are wanted, besides those whose pointers are set.
struct Wanted {
  bool x, gamma_beta, noise_scale;
};

// `noise_memory` as `memory`, for the sums, one of each block, that make the gradient of noise_scale.
template <typename T, typename Memory, typename NoiseMemory>
void backward(Arguments<T> a, const Device& device, bool given, const Wanted& wanted,
              Memory&& memory, NoiseMemory&& noise_memory) {
  Plan<T> plan{a, device};
  const Small<T> grad_gamma = a.grad_gamma, grad_beta = a.grad_beta;
  // Where rows lie within samples but gamma and beta are shared by all, their gradients are added up at the end.
  const bool adds_samples = wanted.gamma_beta && !a.batch && !a.affine_per_sample;
  Global<float> of_samples;
  const int64_t affine = int64_t(a.samples) * a.channels;
  if (adds_samples) {
    of_samples = memory(2 * affine);
    a.grad_beta = {{}, of_samples};
    a.grad_gamma = {{}, {of_samples.at + affine}};
  }
  const auto row_grid = given ? std::nullopt : plan.rows();
  const auto gradients = [&](void (*kernel)(Arguments<T>), const Grid& grid) {
    if (wanted.noise_scale) a.noise_sums = noise_memory(grid.blocks);
    start(device, kernel, grid, a);
  };
  if (row_grid) {
    gradients(a.channels_last ? channel_rows_backward<T> : plane_rows_backward<T>, *row_grid);
  } else {
    const Grid grid = plan.parts();
    const bool needs_means = !given && (wanted.x || wanted.noise_scale);
    if (needs_means || wanted.gamma_beta) {
      a.partial = memory(2 * a.partials);
      if (needs_means) a.row_means = memory(2 * a.rows());
      start(device, a.channels_last ? channel_parts_sums<T> : plane_parts_sums<T>, grid, a);
      finish(device, finish_sums<T>, a);
    }
    if (a.grad_x || a.grad_residual || wanted.noise_scale) {
      gradients(a.channels_last ? channel_parts_backward<T> : plane_parts_backward<T>, grid);
    }
  }
  if (adds_samples) {
    Arguments<T> sum = a;
    sum.batch = true, sum.span = 1, sum.row_means = {};
    sum.regions = 1, sum.parts = a.samples, sum.part_step = a.channels, sum.channel_step = 1, sum.region_step = 0;
    sum.partial = of_samples, sum.partials = affine;
    sum.grad_gamma = grad_gamma, sum.grad_beta = grad_beta;
    finish(device, finish_sums<T>, sum);
  }
}

}  // namespace fused_ops::norm_act
