// How a tensor [n, c, *spatial] is cut into units of work, in either memory format. Included by cpu.cpp only.
//
// A unit holds whole statistics, so that it can be measured and then normalized while it is in cache:
//
//   way       statistics over  unit                    row                    statistics per unit
//   planes    the batch        one channel             one sample's plane     1
//   planes    a group          one sample's group      one channel's plane    1
//   channels  the batch        everything              pixels of all samples  c
//   channels  a group          one sample              pixels of the sample   groups
//
// Where there are too few units for the threads, the rows of each are shared out, with a barrier between the passes.
#pragma once
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cstdint>

namespace fused_ops::norm_act {

constexpr int64_t kGrain = 1 << 14;  // elements worth a thread of their own

struct Part {
  int64_t unit, row, rows;  // rows [row, row + rows) of a unit
  int64_t slot;             // where its partial results go
};

struct Layout {
  int64_t n, c, s;      // samples, channels, spatial elements of a sample
  int64_t groups;       // 0: statistics over the batch, or given ones
  bool channels;        // which way
  int64_t repeat = 1;   // channels: pixels per row
  int64_t units, rows, cols;
  int64_t pieces = 1;   // parts per unit

  Layout(int64_t n, int64_t c, int64_t s, int64_t groups, bool channels, bool one_pixel_rows)
      : n(n), c(c), s(s), groups(groups), channels(channels) {
    if (channels) {
      const int64_t pixels = groups ? s : n * s;
      // Few channels: several pixels make a row that fills vectors.
      while (!one_pixel_rows && repeat < 16 && c * repeat < 64 && pixels % (2 * repeat) == 0) repeat *= 2;
      units = groups ? n : 1;
      rows = pixels / repeat;
      cols = c * repeat;
    } else {
      units = groups ? n * groups : c;
      rows = groups ? c / groups : n;
      cols = s;
    }
    const int64_t threads = units * rows * cols < 2 * kGrain ? 1 : torch::stable::get_num_threads();
    const bool even = units % threads == 0 || units >= 4 * threads;
    if (!even) pieces = std::min(threads, rows);
  }

  int64_t per_sample() const { return channels ? (groups ? n : 1) : n; }   // samples that sums are kept for
  int64_t statistics_per_unit() const { return channels ? (groups ? groups : c) : 1; }
  int64_t first_statistic(int64_t unit) const { return !channels ? unit : groups ? unit * groups : 0; }
  // The sample of a unit that lies within one.
  int64_t sample(int64_t unit) const { return !groups ? 0 : channels ? unit : unit / groups; }
  // Values that one statistic is over.
  double count() const { return double(groups ? c / groups : n) * double(s); }

  // The small arrays: one coefficient per plane, or per unit and column.
  int64_t coefficients() const { return channels ? units * cols : n * c; }
  int64_t coefficient(int64_t unit, int64_t index) const {
    return channels ? unit * cols + index : groups ? unit * rows + index : index * c + unit;
  }
  int64_t coefficient_step() const { return channels || groups ? 1 : c; }

  // work(coefficient, channel, statistic) for all of a unit; statistics in ascending order, `channels` of a repeated row
  // again and again. No division within: it would cost more than the work.
  template <typename F>
  void each_coefficient(int64_t unit, F&& work) const {
    if (channels) {
      for (int64_t i = unit * cols, end = i + cols; i < end; i += c) each_channel(unit, i, work);
    } else if (groups) {
      const int64_t first = unit % groups * rows;
      for (int64_t r = 0; r < rows; ++r) work(unit * rows + r, first + r, unit);
    } else {
      for (int64_t r = 0; r < rows; ++r) work(r * c + unit, unit, unit);
    }
  }
  // The same for what is kept per sample and channel, [per_sample(), c].
  template <typename F>
  void each_sum(int64_t unit, F&& work) const {
    if (channels) {
      each_channel(unit, unit * c, work);
    } else {
      each_coefficient(unit, work);
    }
  }

  // From row to row of a unit, and a part's first element.
  int64_t ld() const { return channels || groups ? cols : c * s; }
  int64_t offset(const Part& part) const {
    return channels || groups ? (part.unit * rows + part.row) * cols : (part.row * c + part.unit) * s;
  }

  // work(index, channel, statistic) for the channels of a unit of the way `channels`, from `index` on.
  template <typename F>
  void each_channel(int64_t unit, int64_t index, F&& work) const {
    const int64_t together = groups ? c / groups : 1;
    for (int64_t channel = 0, statistic = first_statistic(unit); channel < c; ++statistic) {
      for (const int64_t end = channel + together; channel < end; ++channel, ++index) work(index, channel, statistic);
    }
  }

  template <typename F>
  void each_part(F&& work) const {
    const int64_t grain = std::max<int64_t>(1, kGrain * pieces / std::max<int64_t>(1, rows * cols));
    torch::stable::parallel_for(0, units * pieces, grain, [&](int64_t begin, int64_t end) {
      for (int64_t slot = begin; slot < end; ++slot) {
        const int64_t piece = slot % pieces, row = piece * rows / pieces;
        work(Part{slot / pieces, row, (piece + 1) * rows / pieces - row, slot});
      }
    });
  }

  // measure(part), then settle(unit), then apply(part): everything in one pass over the units where each thread has
  // whole ones.
  template <typename Measure, typename Settle, typename Apply>
  void run(Measure&& measure, Settle&& settle, Apply&& apply) const {
    if (pieces == 1) {
      each_part([&](const Part& part) {
        measure(part);
        settle(part.unit);
        apply(part);
      });
    } else {
      each_part(measure);
      for (int64_t unit = 0; unit < units; ++unit) settle(unit);
      each_part(apply);
    }
  }
};

}  // namespace fused_ops::norm_act
