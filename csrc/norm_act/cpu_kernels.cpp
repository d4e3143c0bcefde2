// The kernels of kernels.h for one instruction set (FUSED_OPS_ISA).
#include "norm_act/kernels.h"

#include "norm_act/cpu_activations.h"

namespace fused_ops::norm_act {
namespace {

template <typename T>
struct Stored {
  using type = T;
};
template <>
struct Stored<uint16_t> {
  using type = BFloat16;
};

// How many elements of one lane are summed in single precision before the sum goes to a double: the rounding error
// then stays below that of the products themselves.
constexpr int64_t kRun = 16;

// `count` lanes from column `col` on of a row.
struct Whole {
  int64_t col;
  template <typename T>
  FUSED_OPS_INLINE auto get(const T* row) const {
    return load(reinterpret_cast<const typename Stored<T>::type*>(row + col));
  }
  template <typename T, typename V>
  FUSED_OPS_INLINE void put(T* row, V value) const {
    store(reinterpret_cast<typename Stored<T>::type*>(row + col), value);
  }
  template <typename V>
  FUSED_OPS_INLINE V keep(V value) const {
    return value;
  }
};
struct Partial {
  int64_t col;
  int count;
  template <typename T>
  FUSED_OPS_INLINE auto get(const T* row) const {
    return load(reinterpret_cast<const typename Stored<T>::type*>(row + col), count);
  }
  template <typename T, typename V>
  FUSED_OPS_INLINE void put(T* row, V value) const {
    store(reinterpret_cast<typename Stored<T>::type*>(row + col), value, count);
  }
  template <typename V>
  FUSED_OPS_INLINE V keep(V value) const {
    using S = decltype(value[0] + 0);
    return keep_first<S>(value, count);
  }
};

template <typename S, typename F>
FUSED_OPS_INLINE void each(int64_t begin, int64_t end, F&& body) {
  int64_t col = begin;
  for (; col + kLanes<S> <= end; col += kLanes<S>) body(Whole{col});
  if (col < end) body(Partial{col, int(end - col)});
}

FUSED_OPS_INLINE int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
FUSED_OPS_INLINE int64_t larger(int64_t a, int64_t b) { return a < b ? b : a; }

// The same, and end_of_run() after every kRun vectors and at the end.
template <typename S, typename F, typename G>
FUSED_OPS_INLINE void each_run(int64_t begin, int64_t end, F&& body, G&& end_of_run) {
  for (int64_t col = begin; col < end; col += kRun * kLanes<S>) {
    each<S>(col, smaller(col + kRun * kLanes<S>, end), body);
    end_of_run();
  }
}

// A coefficient that is constant along a row, or runs along it.
template <typename S>
struct Constant {
  Vec<S> value;
  template <typename At>
  FUSED_OPS_INLINE Vec<S> get(At) const {
    return value;
  }
};
template <typename T>
struct Running {
  const T* row;
  template <typename At>
  FUSED_OPS_INLINE auto get(At at) const {
    return at.get(row);
  }
};

// The two ways of kernels.h for coefficients to run over a block.
struct Planes {
  template <typename S>
  static FUSED_OPS_INLINE Constant<S> coefficient(const S* values, int64_t row, int64_t step) {
    return {broadcast<S>(values[row * step])};
  }
  template <typename T>
  static FUSED_OPS_INLINE Running<T> noise(const Block<T>& block, int64_t row) {
    return {block.noise + row * block.noise_ld};
  }
};
struct Channels {
  template <typename S>
  static FUSED_OPS_INLINE Running<S> coefficient(const S* values, int64_t, int64_t) {
    return {values};
  }
  template <typename T>
  static FUSED_OPS_INLINE Constant<Arithmetic<T>> noise(const Block<T>& block, int64_t row) {
    const auto* values = reinterpret_cast<const typename Stored<T>::type*>(block.noise);
    return {broadcast<Arithmetic<T>>(values ? to_scalar(values[row]) : 0)};
  }
};

// One row of a block: x' = x + noise_scale * noise.
template <typename T, typename Way>
struct Input {
  using V = Vec<Arithmetic<T>>;
  const T* x;
  bool noisy;
  V noise_scale;
  decltype(Way::noise(*(const Block<T>*)nullptr, 0)) noise;

  FUSED_OPS_INLINE Input(const Block<T>& block, int64_t row)
      : x(block.x + row * block.ld),
        noisy(block.noise != nullptr),
        noise_scale(broadcast(block.noise_scale)),
        noise(Way::noise(block, row)) {}

  template <typename At>
  FUSED_OPS_INLINE V get(At at) const {
    V value = at.get(x);
    if (noisy) value += noise_scale * noise.get(at);
    return value;
  }
};

// One row of a block, on its way to z.
template <typename T, typename Way>
struct Row : Input<T, Way> {
  using S = Arithmetic<T>;
  using V = Vec<S>;
  using Coefficient = decltype(Way::coefficient((const S*)nullptr, 0, 0));
  Coefficient mean, scale, shift;
  const T* residual;

  FUSED_OPS_INLINE Row(const Block<T>& block, int64_t row)
      : Input<T, Way>(block, row),
        mean(Way::coefficient(block.mean, row, block.step)),
        scale(Way::coefficient(block.scale, row, block.step)),
        shift(Way::coefficient(block.shift, row, block.step)),
        residual(block.residual ? block.residual + row * block.ld : nullptr) {}

  template <typename At>
  FUSED_OPS_INLINE V centred(At at) const {
    return this->get(at) - mean.get(at);
  }
  template <typename At>
  FUSED_OPS_INLINE V z(At at, V centred) const {
    V z = centred * scale.get(at) + shift.get(at);
    if (residual) z += at.get(residual);
    return z;
  }
};

// One row of a block, on the way back to the gradient of z.
template <Activation kind, typename T, typename Way>
struct GradientRow : Row<T, Way> {
  using S = Arithmetic<T>;
  using V = Vec<S>;
  const T *grad, *y;
  T* kept;
  S activation_slope;

  FUSED_OPS_INLINE GradientRow(const Block<T>& block, int64_t row, const Gradient<T>& gradient, S activation_slope)
      : Row<T, Way>(block, row),
        grad(gradient.grad + row * block.ld),
        y(gradient.y ? gradient.y + row * block.ld : nullptr),
        kept(is_costly(kind) && gradient.grad_z ? gradient.grad_z + row * block.ld : nullptr),
        activation_slope(activation_slope) {}

  template <typename At>
  FUSED_OPS_INLINE V grad_z(At at, V centred) const {
    const V g = at.get(grad);
    if constexpr (kind == Activation::identity) return g;
    if (y) return g * derivative_from_output<kind, VectorMath<S>>(at.get(y), activation_slope);
    return g * derivative<kind, VectorMath<S>>(this->z(at, centred), activation_slope);
  }
  template <typename At>
  FUSED_OPS_INLINE void keep(At at, V grad_z) const {
    if constexpr (is_costly(kind)) {
      if (kept) at.put(kept, grad_z);
    }
  }
  template <typename At>
  FUSED_OPS_INLINE V kept_grad_z(At at, V centred) const {
    if constexpr (is_costly(kind)) {
      if (kept) return at.get(kept);
    }
    return grad_z(at, centred);
  }
};

// ---- statistics ----------------------------------------------------------------------------------------------------
// Blocks that fit the first-level cache are read twice: for a mean, then for the deviations from it, whose own sum
// corrects the first mean's rounding. Blocks are merged in double by the rule of Chan, Golub and LeVeque (1979).

FUSED_OPS_INLINE void merge(Moments& into, double count, double mean, double m2) {
  if (into.count == 0) {
    into = {count, mean, m2};
    return;
  }
  const double total = into.count + count, delta = mean - into.mean;
  into.m2 += m2 + delta * delta * (into.count * count / total);
  into.mean += delta * (count / total);
  into.count = total;
}

template <typename T>
Moments plane_moments(const Block<T>& block) {
  using S = Arithmetic<T>;
  constexpr int64_t vectors = 128;  // of a block
  const int64_t rows_at_once = larger(1, vectors / ((block.cols + kLanes<S> - 1) / kLanes<S>));
  Moments result;
  for (int64_t row = 0; row < block.rows; row += rows_at_once) {
    const int64_t row_end = smaller(row + rows_at_once, block.rows);
    for (int64_t col = 0; col < block.cols; col += vectors * kLanes<S>) {
      const int64_t col_end = smaller(col + vectors * kLanes<S>, block.cols);
      const double count = double(row_end - row) * double(col_end - col);
      Vec<S> total{}, squares{};
      for (int64_t i = row; i < row_end; ++i) {
        const Input<T, Planes> input(block, i);
        each<S>(col, col_end, [&](auto at) { total += input.get(at); });
      }
      const S guess = S(sum<S>(total) / count);
      DoubleSum<S> off, deviations;
      for (int64_t i = row; i < row_end; ++i) {
        const Input<T, Planes> input(block, i);
        total = squares = Vec<S>{};
        each_run<S>(
            col, col_end,
            [&](auto at) {
              const Vec<S> deviation = at.keep(input.get(at) - guess);
              total += deviation;
              squares += deviation * deviation;
            },
            [&] {
              off.add(total);
              deviations.add(squares);
              total = squares = Vec<S>{};
            });
      }
      const double correction = off.total() / count;
      merge(result, count, guess + correction, deviations.total() - count * correction * correction);
    }
  }
  return result;
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

template <typename T>
void channel_moments(const Block<T>& block, double count, double* mean, double* m2, Arithmetic<T>* scratch) {
  using S = Arithmetic<T>;
  const int64_t cols = block.cols;
  const int64_t rows_at_once = smaller(64, larger(16, 16384 / cols));
  S *guess = scratch, *total = scratch + cols, *squares = scratch + 2 * cols;
  for (int64_t begin = 0; begin < block.rows; begin += rows_at_once) {
    const int64_t end = smaller(begin + rows_at_once, block.rows);
    clear(guess, 3 * cols);
    by_fours(begin, end, [&](int64_t row, auto number) {
      each<S>(0, cols, [&](auto at) {
        Vec<S> sum = at.get(guess);
        for (int i = 0; i < number.value; ++i) sum += Input<T, Channels>(block, row + i).get(at);
        at.put(guess, sum);
      });
    });
    const S rows = S(end - begin);
    for (int64_t col = 0; col < cols; ++col) guess[col] /= rows;
    by_fours(begin, end, [&](int64_t row, auto number) {
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
    const double n = double(end - begin), all = count + n, share = n / all, weight = count * share;
    for (int64_t col = 0; col < cols; ++col) {
      const double off = total[col] / n, delta = guess[col] + off - mean[col];
      m2[col] += squares[col] - n * off * off + delta * delta * weight;
      mean[col] += delta * share;
    }
    count = all;
  }
}

// ---- forward and backward ------------------------------------------------------------------------------------------

template <Activation kind, typename T, typename Way>
void forward(const Block<T>& block, Arithmetic<T> activation_slope, T* y) {
  using S = Arithmetic<T>;
  for (int64_t i = 0; i < block.rows; ++i) {
    const Row<T, Way> row(block, i);
    T* to = y + i * block.ld;
    each<S>(0, block.cols, [&](auto at) {
      at.put(to, activate<kind, VectorMath<S>>(row.z(at, row.centred(at)), activation_slope));
    });
  }
}

template <Activation kind, typename T>
void plane_sums(const Block<T>& block, Arithmetic<T> activation_slope, const Gradient<T>& gradient, double* sum_out,
                double* sum_x_out, Arithmetic<T>*) {
  using S = Arithmetic<T>;
  for (int64_t i = 0; i < block.rows; ++i) {
    const GradientRow<kind, T, Planes> row(block, i, gradient, activation_slope);
    DoubleSum<S> total, total_x;
    Vec<S> run{}, run_x{};
    each_run<S>(
        0, block.cols,
        [&](auto at) {
          const Vec<S> centred = row.centred(at), grad_z = row.grad_z(at, centred);
          row.keep(at, grad_z);
          run += grad_z;
          run_x += grad_z * centred;
        },
        [&] {
          total.add(run);
          total_x.add(run_x);
          run = run_x = Vec<S>{};
        });
    sum_out[i * block.step] += total.total();
    sum_x_out[i * block.step] += total_x.total();
  }
}

template <Activation kind, typename T>
void channel_sums(const Block<T>& block, Arithmetic<T> activation_slope, const Gradient<T>& gradient,
                  double* sum_out, double* sum_x_out, Arithmetic<T>* scratch) {
  using S = Arithmetic<T>;
  const int64_t cols = block.cols;
  S *total = scratch, *total_x = scratch + cols;
  for (int64_t begin = 0; begin < block.rows; begin += kRun) {
    const int64_t end = smaller(begin + kRun, block.rows);
    clear(scratch, 2 * cols);
    by_fours(begin, end, [&](int64_t first, auto number) {
      each<S>(0, cols, [&](auto at) {
        Vec<S> part = at.get(total), part_x = at.get(total_x);
        for (int i = 0; i < number.value; ++i) {
          const GradientRow<kind, T, Channels> row(block, first + i, gradient, activation_slope);
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

template <Activation kind, typename T, typename Way>
void backward(const Block<T>& block, Arithmetic<T> activation_slope, const Gradient<T>& gradient) {
  using S = Arithmetic<T>;
  DoubleSum<S> noise_sum;
  for (int64_t i = 0; i < block.rows; ++i) {
    const GradientRow<kind, T, Way> row(block, i, gradient, activation_slope);
    const auto slope = Way::coefficient(gradient.slope, i, block.step);
    const auto offset = Way::coefficient(gradient.offset, i, block.step);
    T* grad_x_to = gradient.grad_x ? gradient.grad_x + i * block.ld : nullptr;
    T* grad_residual_to = gradient.grad_residual ? gradient.grad_residual + i * block.ld : nullptr;
    Vec<S> with_noise{};
    const auto body = [&](auto at) {
      const Vec<S> centred = row.centred(at), grad_z = row.kept_grad_z(at, centred);
      if (grad_residual_to) at.put(grad_residual_to, grad_z);
      if (!grad_x_to) return;
      const Vec<S> grad_x = grad_z * row.scale.get(at) + (centred * slope.get(at) + offset.get(at));
      at.put(grad_x_to, grad_x);
      if (gradient.noise_sum) with_noise += at.keep(grad_x * row.noise.get(at));
    };
    if (!gradient.noise_sum) {
      each<S>(0, block.cols, body);
      continue;
    }
    each_run<S>(0, block.cols, body, [&] {
      noise_sum.add(with_noise);
      with_noise = Vec<S>{};
    });
  }
  if (gradient.noise_sum) *gradient.noise_sum += noise_sum.total();
}

template <Activation kind, typename T>
constexpr void fill(Kernels<T>& table) {
  constexpr int index = int(kind);
  table.planes.forward[index] = forward<kind, T, Planes>;
  table.planes.sums[index] = plane_sums<kind, T>;
  table.planes.backward[index] = backward<kind, T, Planes>;
  table.channels.forward[index] = forward<kind, T, Channels>;
  table.channels.sums[index] = channel_sums<kind, T>;
  table.channels.backward[index] = backward<kind, T, Channels>;
  if constexpr (index + 1 < kActivations) fill<Activation(index + 1)>(table);
}

template <typename T>
constexpr Kernels<T> make_table() {
  Kernels<T> table{};
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
