// The kernels for tensors whose planes are adjacent (contiguous ones): see PlaneShare in cuda_arguments.h.
//
// A plane is cut into chunks at 16-byte boundaries, so only its first and last chunk can be narrower than one access,
// whatever the plane's size.
#pragma once

#include "norm_act/cuda_elements.h"

namespace fused_ops::norm_act {

// A plane, and which of its elements a chunk holds.
template <typename T>
struct Plane {
  static constexpr int V = kVector<T>;
  int sample = 0, channel = 0;
  int64_t start = 0;  // first element
  int size = 0;       // 0: no plane

  FUSED_OPS_DEVICE Plane(const Arguments<T>& a, int sample, int channel, bool inside)
      : sample(sample), channel(channel), start((int64_t(sample) * a.channels + channel) * a.plane),
        size(inside ? a.plane : 0) {}

  FUSED_OPS_DEVICE Chunk chunk(int number) const {
    const int before = int(start % V);
    const int64_t skipped = int64_t(number) * V;
    const int64_t left = size == 0 ? 0 : before + size - skipped;
    if (left <= 0) return {};
    const uint32_t all = (1u << V) - 1;
    uint32_t mask = left < V ? (1u << left) - 1 : all;
    if (number == 0) mask &= all << before;
    return {start - before + skipped, mask, mask == all};
  }
  // x, with its noise.
  FUSED_OPS_DEVICE void load(const Arguments<T>& a, const Chunk& chunk, float (&x)[V]) const {
    chunk.load(a.x, x);
    if (!a.noise) return;
    const float scale = a.noise_scale.get(0);
#pragma unroll
    for (int i = 0; i < V; ++i) {
      if (chunk.has(i)) x[i] += scale * noise(a, chunk, i);
    }
  }
  FUSED_OPS_DEVICE float noise(const Arguments<T>& a, const Chunk& chunk, int i) const {
    return a.noise.get_float(int64_t(sample) * a.plane + (chunk.at + i - start));
  }
  FUSED_OPS_DEVICE float noise_product(const Arguments<T>& a, const Chunk& chunk, const float (&values)[V]) const {
    float sum = 0;
    if (!a.noise_sums) return sum;
#pragma unroll
    for (int i = 0; i < V; ++i) {
      if (chunk.has(i)) sum += values[i] * noise(a, chunk, i);
    }
    return sum;
  }
  FUSED_OPS_DEVICE Coefficients<Same> coefficients(const Arguments<T>& a, float mean, float rstd) const {
    const int64_t at = a.affine_at(sample, channel);
    return {{mean}, {a.gamma.get(at, 1) * rstd}, {a.beta.get(at, 0)}};
  }
};

// 1 / deviation
FUSED_OPS_DEVICE float inverse_deviation(float var, float eps) { return 1.0f / sqrtf(var + eps); }

// ---- rows that fit on chip -----------------------------------------------------------------------------------------

// The row of this thread and its place in it.
template <typename T>
struct PlaneRow {
  int lane, team, width;  // width: threads of a row
  int64_t row;
  bool inside;
  int sample = 0, channel = 0, planes;

  FUSED_OPS_DEVICE explicit PlaneRow(const Arguments<T>& a) {
    const PlaneShare& share = a.planes;
    const int thread = int(threadIdx.x);
    width = share.lanes * share.teams;
    lane = thread % share.lanes;
    team = thread % width / share.lanes;
    row = int64_t(blockIdx.x) * (int(blockDim.x) / width) + thread / width;
    inside = row < a.rows();
    planes = a.batch ? a.samples : a.span;
    if (!inside) return;
    sample = a.batch ? 0 : int(row / a.rows_per_sample());
    channel = a.batch ? int(row) : int(row % a.rows_per_sample()) * a.span;
  }
  FUSED_OPS_DEVICE bool first() const { return inside && lane == 0 && team == 0; }

  // Calls work(slot, plane) for all slots, and end_of_plane(plane) after the last one of a plane.
  template <typename F, typename G>
  FUSED_OPS_DEVICE void each_slot(const Arguments<T>& a, F&& work, G&& end_of_plane) const {
    int number = team, step = 0;
#pragma unroll
    for (int slot = 0; slot < kSlots; ++slot) {
      const bool exists = inside && number < planes;
      const int further = exists ? number : 0;
      const Plane<T> plane(a, a.batch ? further : sample, a.batch ? channel : channel + further, exists);
      work(slot, plane, plane.chunk(lane + step * a.planes.lanes));
      if (++step == a.planes.steps) {
        end_of_plane(plane);
        step = 0;
        number += a.planes.teams;
      }
    }
  }
  template <typename F>
  FUSED_OPS_DEVICE void each_slot(const Arguments<T>& a, F&& work) const {
    each_slot(a, work, [](const Plane<T>&) {});
  }
};

template <typename T>
FUSED_OPS_KERNEL(kRowThreads) plane_rows_forward(Arguments<T> a) {
  constexpr int V = kVector<T>;
  const PlaneRow<T> row(a);
  Shared shared = shared_floats();
  float x[kSlots][V], total[1] = {}, sums[2] = {};
  row.each_slot(a, [&](int slot, const Plane<T>& plane, const Chunk& chunk) {
    plane.load(a, chunk, x[slot]);
#pragma unroll
    for (int i = 0; i < V; ++i) total[0] += x[slot][i];
  });
  add_over(total, row.width, shared);
  const float share = 1.0f / a.row_size(), guess = total[0] * share;
  row.each_slot(a, [&](int slot, const Plane<T>&, const Chunk& chunk) {
    centre<T>(chunk, Same{guess}, x[slot]);
#pragma unroll
    for (int i = 0; i < V; ++i) {
      sums[0] += x[slot][i];
      sums[1] += x[slot][i] * x[slot][i];
    }
  });
  add_over(sums, row.width, shared);
  // The deviations' own mean corrects the rounding of the first one.
  const float off = sums[0] * share, var = FloatMath::max(sums[1] * share - off * off, 0.0f);
  if (row.first()) {
    a.mean.put(row.row, guess + off);
    a.var.put(row.row, var);
  }
  const float rstd = inverse_deviation(var, a.eps);
  row.each_slot(a, [&](int slot, const Plane<T>& plane, const Chunk& chunk) {
    if (chunk.mask == 0) return;
    centre<T>(chunk, Same{off}, x[slot]);
    store_output(a, chunk, plane.coefficients(a, 0, rstd), x[slot]);
  });
}

template <typename T>
FUSED_OPS_KERNEL(kRowThreads) plane_rows_backward(Arguments<T> a) {
  constexpr int V = kVector<T>;
  const PlaneRow<T> row(a);
  Shared shared = shared_floats();
  const bool apart = !a.batch && a.span > 1;  // the planes of a row are different channels
  const float mean = row.inside ? a.mean.get(row.row) : 0;
  const float rstd = row.inside ? inverse_deviation(a.var.get(row.row), a.eps) : 0;
  Quad loaded[kSlots];
  float centred[kSlots][V], grad[kSlots][V];
  float plane_sums[2] = {}, row_sums[2] = {};  // of grad_z and grad_z * (x' - mean); of a row, times gamma / deviation
  row.each_slot(a, [&](int slot, const Plane<T>& plane, const Chunk& chunk) {
    plane.load(a, chunk, centred[slot]);
    loaded[slot] = chunk.load(a.grad);
  });
  row.each_slot(
      a,
      [&](int slot, const Plane<T>& plane, const Chunk& chunk) {
        unpack<T>(loaded[slot], grad[slot]);
        if (chunk.mask == 0) return;
        gradient_of_z(a, chunk, plane.coefficients(a, mean, rstd), centred[slot], loaded[slot], grad[slot]);
#pragma unroll
        for (int i = 0; i < V; ++i) {
          plane_sums[0] += grad[slot][i];
          plane_sums[1] += grad[slot][i] * centred[slot][i];
        }
      },
      [&](const Plane<T>& plane) {
        if (!apart) return;
        add_over(plane_sums, a.planes.lanes, shared);
        if (row.lane == 0 && plane.size > 0) {
          const float scale = plane.coefficients(a, mean, rstd).scale.value;
          a.put_affine(plane.sample, plane.channel, plane_sums[1] * rstd, plane_sums[0]);
          row_sums[0] += plane_sums[0] * scale;
          row_sums[1] += plane_sums[1] * scale;
        }
        plane_sums[0] = plane_sums[1] = 0;
      });
  if (!apart) {
    add_over(plane_sums, row.width, shared);
    const float scale = row.inside ? a.gamma.get(a.affine_at(row.sample, row.channel), 1) * rstd : 0;
    if (row.first()) a.put_affine(row.sample, row.channel, plane_sums[1] * rstd, plane_sums[0]);
    row_sums[0] = plane_sums[0] * scale;
    row_sums[1] = plane_sums[1] * scale;
  } else {
    add_over(row_sums, row.width, shared);
  }
  const float share = 1.0f / a.row_size();
  const float slope = -row_sums[1] * rstd * rstd * share, offset = -row_sums[0] * share;
  float noise_sum = 0;
  row.each_slot(a, [&](int slot, const Plane<T>& plane, const Chunk& chunk) {
    if (chunk.mask == 0) return;
    const GradientCoefficients<Same> c{plane.coefficients(a, mean, rstd), {slope}, {offset}};
    store_gradients(a, chunk, c, centred[slot], grad[slot]);
    noise_sum += plane.noise_product(a, chunk, centred[slot]);
  });
  put_noise_sum(a, noise_sum, shared);
}

// ---- parts of planes -----------------------------------------------------------------------------------------------

// The part of a plane that a team of `lanes` threads works on.
template <typename T>
struct PlanePart {
  int lane, part;
  int64_t number;  // of the part, counted over all planes
  bool inside;
  Plane<T> plane;

  FUSED_OPS_DEVICE explicit PlanePart(const Arguments<T>& a)
      : lane(int(threadIdx.x) % a.planes.lanes),
        number(int64_t(blockIdx.x) * (int(blockDim.x) / a.planes.lanes) + int(threadIdx.x) / a.planes.lanes),
        inside(number < int64_t(a.samples) * a.channels * a.planes.parts),
        plane(a, 0, 0, false) {
    if (!inside) number = 0;
    const int64_t planes = number / a.planes.parts;
    part = int(number % a.planes.parts);
    plane = Plane<T>(a, int(planes / a.channels), int(planes % a.channels), inside);
  }
  FUSED_OPS_DEVICE int64_t row(const Arguments<T>& a) const { return a.row_of(plane.sample, plane.channel); }

  // Calls work(chunks) for `slots` of this thread's chunks at once. All parts are gone through side by side, so a kernel
  // that reads what the one before has read begins at their ends, `from_end`: these may still be in the L2 cache.
  template <int slots, bool from_end = false, typename F>
  FUSED_OPS_DEVICE void each(const Arguments<T>& a, F&& work) const {
    const int begin = part * a.planes.part_chunks, end = inside ? begin + a.planes.part_chunks : 0;
    for (int first = begin + lane; first < end; first += slots * a.planes.lanes) {
      Chunk chunks[slots];
#pragma unroll
      for (int slot = 0; slot < slots; ++slot) {
        const int number = first + slot * a.planes.lanes;
        if (number < end) chunks[slot] = plane.chunk(from_end ? begin + end - 1 - number : number);
      }
      work(chunks);
    }
  }
};

template <typename T>
FUSED_OPS_RESIDENT_KERNEL(kPartThreads, 3) plane_parts_moments(Arguments<T> a) {
  constexpr int V = kVector<T>;
  const PlanePart<T> mine(a);
  const Same origin{a.origin(mine.plane.sample, mine.plane.channel)};
  Moments moments;
  mine.template each<kSlots>(a, [&](const Chunk(&chunks)[kSlots]) {
    float x[kSlots][V], count = 0, sum = 0, m2 = 0;
#pragma unroll
    for (int slot = 0; slot < kSlots; ++slot) {
      mine.plane.load(a, chunks[slot], x[slot]);
      centre<T>(chunks[slot], origin, x[slot]);
    }
#pragma unroll
    for (int slot = 0; slot < kSlots; ++slot) {
#pragma unroll
      for (int i = 0; i < V; ++i) {
        sum += x[slot][i];
        count += chunks[slot].has(i) ? 1.0f : 0.0f;
      }
    }
    const float mean = count > 0 ? sum / count : 0;
#pragma unroll
    for (int slot = 0; slot < kSlots; ++slot) {
      centre<T>(chunks[slot], Same{mean}, x[slot]);
#pragma unroll
      for (int i = 0; i < V; ++i) m2 += x[slot][i] * x[slot][i];
    }
    moments.merge({count, mean, m2});
  });
  merge_over(moments, a.planes.lanes, shared_floats());
  if (mine.inside && mine.lane == 0) {
    a.partial.put(mine.number, moments.count);
    a.partial.put(a.partials + mine.number, moments.mean);
    a.partial.put(2 * a.partials + mine.number, moments.m2);
  }
}

template <typename T>
FUSED_OPS_RESIDENT_KERNEL(kPartThreads, 2) plane_parts_forward(Arguments<T> a) {
  constexpr int V = kVector<T>;
  const PlanePart<T> mine(a);
  if (!mine.inside) return;
  const int64_t row = mine.row(a);
  const Coefficients<Same> c =
      mine.plane.coefficients(a, a.mean.get(row), inverse_deviation(a.var.get(row), a.eps));
  mine.template each<2, true>(a, [&](const Chunk(&chunks)[2]) {
    float x[2][V];
#pragma unroll
    for (int slot = 0; slot < 2; ++slot) mine.plane.load(a, chunks[slot], x[slot]);
#pragma unroll
    for (int slot = 0; slot < 2; ++slot) {
      centre<T>(chunks[slot], c.mean, x[slot]);
      if (chunks[slot].mask != 0) store_output(a, chunks[slot], c, x[slot]);
    }
  });
}

template <typename T>
FUSED_OPS_RESIDENT_KERNEL(kPartThreads, 2) plane_parts_sums(Arguments<T> a) {
  constexpr int V = kVector<T>;
  const PlanePart<T> mine(a);
  const int64_t row = mine.row(a);
  const float rstd = inverse_deviation(a.var.get(row), a.eps);
  const Coefficients<Same> c = mine.plane.coefficients(a, a.mean.get(row), rstd);
  float sums[2] = {};
  mine.template each<2>(a, [&](const Chunk(&chunks)[2]) {
    Quad loaded[2];
    float centred[2][V];
#pragma unroll
    for (int slot = 0; slot < 2; ++slot) {
      mine.plane.load(a, chunks[slot], centred[slot]);
      loaded[slot] = chunks[slot].load(a.grad);
    }
#pragma unroll
    for (int slot = 0; slot < 2; ++slot) {
      float grad[V];
      gradient_of_z(a, chunks[slot], c, centred[slot], loaded[slot], grad);
#pragma unroll
      for (int i = 0; i < V; ++i) {
        sums[0] += grad[i];
        sums[1] += grad[i] * centred[slot][i];
      }
    }
  });
  add_over(sums, a.planes.lanes, shared_floats());
  if (mine.inside && mine.lane == 0) {
    a.partial.put(mine.number, sums[0]);
    a.partial.put(a.partials + mine.number, sums[1] * rstd);
  }
}

template <typename T>
FUSED_OPS_RESIDENT_KERNEL(kPartThreads, 2) plane_parts_backward(Arguments<T> a) {
  constexpr int V = kVector<T>;
  const PlanePart<T> mine(a);
  const int64_t row = mine.row(a);
  const float rstd = inverse_deviation(a.var.get(row), a.eps);
  GradientCoefficients<Same> c{mine.plane.coefficients(a, a.mean.get(row), rstd), {0}, {0}};
  if (a.row_means) {
    c.offset.value = -rstd * a.row_means.get(row);
    c.slope.value = -rstd * rstd * a.row_means.get(a.rows() + row);
  }
  float noise_sum = 0;
  mine.template each<2, true>(a, [&](const Chunk(&chunks)[2]) {
    Quad loaded[2];
    float centred[2][V];
#pragma unroll
    for (int slot = 0; slot < 2; ++slot) {
      mine.plane.load(a, chunks[slot], centred[slot]);
      loaded[slot] = chunks[slot].load(a.grad);
    }
#pragma unroll
    for (int slot = 0; slot < 2; ++slot) {
      if (chunks[slot].mask == 0) continue;
      float grad[V];
      gradient_of_z(a, chunks[slot], c, centred[slot], loaded[slot], grad);
      store_gradients(a, chunks[slot], c, centred[slot], grad);
      noise_sum += mine.plane.noise_product(a, chunks[slot], centred[slot]);
    }
  });
  put_noise_sum(a, noise_sum, shared_floats());
}

}  // namespace fused_ops::norm_act
