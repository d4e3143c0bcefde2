// The kernels of kernels.h for one instruction set (FUSED_OPS_ISA).
#include "norm_act/kernels.h"

#include <limits>

#include "norm_act/cpu_pool_kernels.h"
#include "norm_act/cpu_rows.h"

namespace fused_ops::norm_act {
namespace {

// ---- statistics ----------------------------------------------------------------------------------------------------

// A mean of up to some hundred vectors spread over the block: a guess of the mean of all.
template <typename T>
Computed<T> guess_mean(const Block<T>& block) {
  using S = Computed<T>;
  constexpr int lanes = kLanes<S>;
  const int64_t row_step = larger(1, block.rows / 8), col_step = larger(1, block.cols / (4 * lanes)) * lanes;
  Vec<S> total{};
  int64_t count = 0;
  for (int64_t row = 0; row < block.rows; row += row_step) {
    const Input<T, Planes> input(block, row);
    for (int64_t col = 0; col < block.cols; col += col_step) {
      const int taken = int(smaller(lanes, block.cols - col));
      total += taken == lanes ? input.get(Whole{col}) : input.get(Partial{col, taken});
      count += taken;
    }
  }
  return sum<S>(total) / S(count);
}

// The moments of all elements from one pass: of the deviations from a guess, corrected by their mean.
template <typename T>
Moments moments_around(const Block<T>& block, Computed<T> guess, double count, double& correction) {
  using S = Computed<T>;
  DoubleSum<S> off, deviations;
  for (int64_t row = 0; row < block.rows; ++row) {
    const Input<T, Planes> input(block, row);
    Vec<S> total[kSums]{}, squares[kSums]{};
    each_run<S>(
        0, block.cols,
        [&](auto at, int k) {
          const Vec<S> deviation = at.keep(input.get(at) - guess);
          total[k] += deviation;
          squares[k] += deviation * deviation;
        },
        [&] {
          off.add(take_sum(total));
          deviations.add(take_sum(squares));
        });
  }
  correction = off.total() / count;
  return {count, guess + correction, deviations.total() - count * correction * correction};
}

// The correction takes away digits: where it is more than two standard deviations, the mean it gave is the guess of a
// second pass.
template <typename T>
Moments plane_moments(const Block<T>& block) {
  using S = Computed<T>;
  const double count = double(block.rows) * double(block.cols);
  double correction;
  Moments found = moments_around(block, guess_mean(block), count, correction);
  if (found.m2 < count * correction * correction / 4) found = moments_around(block, S(found.mean), count, correction);
  return found;
}

// Calls body with `number` rows from `row` on, four at a time where possible: so the running sums, which lie in
// memory, are loaded and stored a quarter as often.
template <int number>
struct Number {
  static constexpr int value = number;
};
template <typename F>
FUSED_OPS_INLINE void by_fours(int64_t begin, int64_t end, F&& body) {
  int64_t row = begin;
  for (; row + 4 <= end; row += 4) body(row, Number<4>{});
  for (; row < end; ++row) body(row, Number<1>{});
}

template <typename S>
FUSED_OPS_INLINE void clear(S* values, int64_t count) {
  for (int64_t i = 0; i < count; ++i) values[i] = 0;
}

// The mean of up to 15 rows spread over the block.
template <typename T>
void guess_means(const Block<T>& block, Computed<T>* guess) {
  using S = Computed<T>;
  const int64_t step = larger(1, block.rows / 8);
  clear(guess, block.cols);
  for (int64_t row = 0; row < block.rows; row += step) {
    const Input<T, Channels> input(block, row);
    each<S>(0, block.cols, [&](auto at) { at.put(guess, at.get(guess) + input.get(at)); });
  }
  const S count = S((block.rows + step - 1) / step);
  for (int64_t col = 0; col < block.cols; ++col) guess[col] /= count;
}

// As moments_around, per column. Whether no guess was too far off.
template <typename T>
bool channel_moments_around(const Block<T>& block, const Computed<T>* guess, double* mean, double* m2,
                            Computed<T>* scratch) {
  using S = Computed<T>;
  constexpr int64_t rows_at_once = 2 * kRun;
  const int64_t cols = block.cols;
  S *total = scratch, *squares = scratch + cols;
  clear(mean, cols);
  clear(m2, cols);
  for (int64_t begin = 0; begin < block.rows; begin += rows_at_once) {
    clear(scratch, 2 * cols);
    by_fours(begin, smaller(begin + rows_at_once, block.rows), [&](int64_t row, auto number) {
      each<S>(0, cols, [&](auto at) {
        const Vec<S> around = at.get(guess);
        Vec<S> sum = at.get(total), sum_squares = at.get(squares);
        for (int i = 0; i < number.value; ++i) {
          const Vec<S> deviation = Input<T, Channels>(block, row + i).get(at) - around;
          sum += deviation;
          sum_squares += deviation * deviation;
        }
        at.put(total, sum);
        at.put(squares, sum_squares);
      });
    });
    for (int64_t col = 0; col < cols; ++col) {
      mean[col] += total[col];
      m2[col] += squares[col];
    }
  }
  const double count = double(block.rows);
  int64_t far_off = 0;
  for (int64_t col = 0; col < cols; ++col) {
    const double correction = mean[col] / count, lost = count * correction * correction;
    mean[col] = guess[col] + correction;
    m2[col] -= lost;
    far_off += m2[col] < lost / 4;
  }
  return !far_off;
}

template <typename T>
void channel_moments(const Block<T>& block, double* mean, double* m2, Computed<T>* scratch) {
  using S = Computed<T>;
  S* guess = scratch + 2 * block.cols;
  guess_means(block, guess);
  if (channel_moments_around(block, guess, mean, m2, scratch)) return;
  for (int64_t col = 0; col < block.cols; ++col) guess[col] = S(mean[col]);
  channel_moments_around(block, guess, mean, m2, scratch);
}

// ---- forward and backward ------------------------------------------------------------------------------------------

template <Activation kind, typename T, typename Way>
void forward(const Block<T>& block, Computed<T> activation_slope, T* y) {
  using S = Computed<T>;
  for (int64_t i = 0; i < block.rows; ++i) {
    const Row<T, Way> row(block, i);
    T* to = y + i * block.ld;
    each<S>(0, block.cols, [&](auto at) {
      at.put(to, activate<kind, VectorMath<S>>(row.z(at, row.centred(at)), activation_slope));
    });
  }
}

template <Activation kind, typename T, bool restores>
void plane_sums(const Block<T>& block, Computed<T> activation_slope, const Gradient<T>& gradient, double* sum_out,
                double* sum_x_out, Computed<T>*) {
  using S = Computed<T>;
  for (int64_t i = 0; i < block.rows; ++i) {
    const GradientRow<kind, T, Planes, restores> row(block, i, gradient, activation_slope);
    DoubleSum<S> total, total_x;
    Vec<S> run[kSums]{}, run_x[kSums]{};
    each_run<S>(
        0, block.cols,
        [&](auto at, int k) {
          const Vec<S> centred = row.centred(at), grad_z = row.grad_z(at, centred);
          row.keep(at, grad_z);
          run[k] += grad_z;
          run_x[k] += grad_z * centred;
        },
        [&] {
          total.add(take_sum(run));
          total_x.add(take_sum(run_x));
        });
    sum_out[i * block.step] += total.total();
    sum_x_out[i * block.step] += total_x.total();
  }
}

template <Activation kind, typename T, bool restores>
void channel_sums(const Block<T>& block, Computed<T> activation_slope, const Gradient<T>& gradient,
                  double* sum_out, double* sum_x_out, Computed<T>* scratch) {
  using S = Computed<T>;
  const int64_t cols = block.cols;
  S *total = scratch, *total_x = scratch + cols;
  for (int64_t begin = 0; begin < block.rows; begin += kRun) {
    const int64_t end = smaller(begin + kRun, block.rows);
    clear(scratch, 2 * cols);
    by_fours(begin, end, [&](int64_t first, auto number) {
      each<S>(0, cols, [&](auto at) {
        Vec<S> part = at.get(total), part_x = at.get(total_x);
        for (int i = 0; i < number.value; ++i) {
          const GradientRow<kind, T, Channels, restores> row(block, first + i, gradient, activation_slope);
          const Vec<S> centred = row.centred(at), grad_z = row.grad_z(at, centred);
          row.keep(at, grad_z);
          part += grad_z;
          part_x += grad_z * centred;
        }
        at.put(total, part);
        at.put(total_x, part_x);
      });
    });
    for (int64_t col = 0; col < cols; ++col) {
      sum_out[col] += total[col];
      sum_x_out[col] += total_x[col];
    }
  }
}

template <Activation kind, typename T, typename Way, bool restores>
void backward(const Block<T>& block, Computed<T> activation_slope, const Gradient<T>& gradient) {
  using S = Computed<T>;
  DoubleSum<S> noise_sum;
  const bool given = gradient.given;
  for (int64_t i = 0; i < block.rows; ++i) {
    const GradientRow<kind, T, Way, restores> row(block, i, gradient, activation_slope);
    const auto slope = Way::coefficient(gradient.slope, i, block.step);
    const auto offset = Way::coefficient(gradient.offset, i, block.step);
    T* grad_x_to = gradient.grad_x ? gradient.grad_x + i * block.ld : nullptr;
    T* grad_residual_to = gradient.grad_residual ? gradient.grad_residual + i * block.ld : nullptr;
    Vec<S> with_noise{};
    const auto body = [&](auto at) {
      const Vec<S> centred = row.centred(at), grad_z = row.kept_grad_z(at, centred);
      if (grad_residual_to) at.put(grad_residual_to, grad_z);
      if (!grad_x_to) return;
      Vec<S> grad_x = grad_z * row.scale.get(at);
      if (!given) grad_x += centred * slope.get(at) + offset.get(at);
      at.put(grad_x_to, grad_x);
      if (gradient.noise_sum) with_noise += at.keep(grad_x * row.noise.get(at));
    };
    if (!gradient.noise_sum) {
      each<S>(0, block.cols, body);
      continue;
    }
    each_run<S>(0, block.cols, [&](auto at, int) { body(at); }, [&] {
      noise_sum.add(with_noise);
      with_noise = Vec<S>{};
    });
  }
  if (gradient.noise_sum) *gradient.noise_sum += noise_sum.total();
}

template <Activation kind, typename T, bool restores>
constexpr void fill_backward(Kernels<T>& table) {
  constexpr int index = int(kind);
  table.planes.sums[restores][index] = plane_sums<kind, T, restores>;
  table.planes.backward[restores][index] = backward<kind, T, Planes, restores>;
  table.channels.sums[restores][index] = channel_sums<kind, T, restores>;
  table.channels.backward[restores][index] = backward<kind, T, Channels, restores>;
}

template <Activation kind, typename T>
constexpr void fill(Kernels<T>& table) {
  constexpr int index = int(kind);
  table.planes.forward[index] = forward<kind, T, Planes>;
  table.planes.pool[index] = pool_planes<kind, T>;
  table.planes.unpool[index] = unpool_planes<kind, T>;
  table.channels.forward[index] = forward<kind, T, Channels>;
  table.channels.pool[index] = pool_channels<kind, T>;
  table.channels.unpool[index] = unpool_channels<kind, T>;
  fill_backward<kind, T, false>(table);
  if constexpr (can_restore(kind)) fill_backward<kind, T, true>(table);
  if constexpr (index + 1 < kActivations) fill<Activation(index + 1)>(table);
}

template <typename T>
constexpr Kernels<T> make_table() {
  Kernels<T> table{};
  // With the widest vectors an exponential is cheaper than memory: only while all stays in the second-level cache.
  // Narrower ones take twice as long for it (group norm and SiLU over 19 MB, AVX2: 10.8 ms, and 8.2 ms with grad_z
  // kept), and so do wide ones that are executed in halves.
#if defined(__AVX512F__)
  table.keeps_up_to = 512 * 1024;
#else
  table.keeps_up_to = std::numeric_limits<int64_t>::max();
#endif
  table.plane_moments = plane_moments<T>;
  table.channel_moments = channel_moments<T>;
  fill<Activation(0)>(table);
  return table;
}

template <typename T>
constexpr Kernels<T> kTable = make_table<T>();

}  // namespace

namespace FUSED_OPS_ISA {

template <typename T>
const Kernels<T>& kernels() {
  return kTable<T>;
}
template const Kernels<float>& kernels();
template const Kernels<double>& kernels();
template const Kernels<uint16_t>& kernels();

}  // namespace FUSED_OPS_ISA
}  // namespace fused_ops::norm_act
