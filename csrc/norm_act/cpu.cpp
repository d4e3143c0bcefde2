// norm_act on the CPU: statistics, then normalization, affine map, residual and activation, and their gradients.
//
// This is the torch glue: it sees to memory formats, splits the work over threads (layout.h), merges what they
// measured and derives the coefficients; the rows are the kernels' (kernels.h). Math: fused_ops/norm_act/README.md.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cmath>
#include <limits>
#include <optional>
#include <tuple>
#include <vector>

#include "common/isa.h"
#include "norm_act/format.h"
#include "norm_act/kernels.h"
#include "norm_act/layout.h"
#include "norm_act/schemas.h"

namespace fused_ops::norm_act {

FUSED_OPS_DECLARE_PER_ISA(template <typename T> const Kernels<T>& kernels();)

namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using OptionalTensor = std::optional<Tensor>;

template <typename T>
const Kernels<T>& chosen_kernels() {
  FUSED_OPS_RETURN_FOR_ISA(kernels<T>());
}

constexpr int64_t kCached = 512 * 1024;  // bytes of a unit of x that, with its gradients, stay in the second-level cache

template <typename T>
constexpr ScalarType kDtype = ScalarType::Float;
template <>
constexpr ScalarType kDtype<double> = ScalarType::Double;
template <>
constexpr ScalarType kDtype<uint16_t> = ScalarType::BFloat16;

// ---- arguments -----------------------------------------------------------------------------------------------------

template <typename T>
T* data(const Tensor& tensor) {
  return static_cast<T*>(tensor.data_ptr());
}

template <typename S>
std::vector<S> to_vector(const Tensor& tensor) {
  const Tensor dense = tensor.is_contiguous() ? tensor : torch::stable::contiguous(tensor);
  const int64_t count = dense.numel();
  std::vector<S> values(count);
  if (dense.scalar_type() == kDtype<S>) {
    std::copy_n(data<const S>(dense), count, values.begin());
  } else {
    STD_TORCH_CHECK(dense.scalar_type() == ScalarType::BFloat16, "norm_act: a coefficient's dtype does not fit x's");
    const uint16_t* bits = data<const uint16_t>(dense);
    for (int64_t i = 0; i < count; ++i) {
      const uint32_t wide = uint32_t(bits[i]) << 16;
      float value;
      memcpy(&value, &wide, sizeof(value));
      values[i] = S(value);
    }
  }
  return values;
}

template <typename T>
T round_to(double value) {
  return T(value);
}
template <>
uint16_t round_to<uint16_t>(double value) {
  const float single = float(value);
  uint32_t bits;
  memcpy(&bits, &single, sizeof(bits));
  if (single != single) return uint16_t(bits >> 16 | 0x40);
  return uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

void write(const Tensor& to, const std::vector<double>& values) {
  const auto put = [&](auto* out) {
    using T = std::remove_pointer_t<decltype(out)>;
    for (size_t i = 0; i < values.size(); ++i) out[i] = round_to<T>(values[i]);
  };
  switch (to.scalar_type()) {
    case ScalarType::Float: return put(data<float>(to));
    case ScalarType::Double: return put(data<double>(to));
    default: return put(data<uint16_t>(to));
  }
}

// A new vector on the CPU, by the C shim: for the small results the dispatcher would cost more than the work.
Tensor new_vector(int64_t size, ScalarType dtype) {
  const int64_t stride = 1;
  const int32_t code = dtype == ScalarType::Double     ? aoti_torch_dtype_float64()
                       : dtype == ScalarType::BFloat16 ? aoti_torch_dtype_bfloat16()
                                                       : aoti_torch_dtype_float32();
  AtenTensorHandle handle;
  STABLE_TORCH_ERROR_CODE_CHECK(
      aoti_torch_empty_strided(1, &size, &stride, code, aoti_torch_device_type_cpu(), 0, &handle));
  return Tensor(handle);
}

struct Arguments {
  Tensor x;
  OptionalTensor gamma, beta, residual, noise, noise_scale;
  int64_t groups;
  double eps;
  int64_t activation;
  double slope;
};

// 1 / sqrt(variance + eps) of one statistic after the other.
template <typename S>
class Reciprocal {
 public:
  Reciprocal(const S* vars, double eps) : vars_(vars), eps_(eps) {}
  double at(int64_t statistic) {
    if (statistic != last_) {
      last_ = statistic;
      value_ = 1 / std::sqrt(double(vars_[statistic]) + eps_);
    }
    return value_;
  }

 private:
  const S* vars_;
  double eps_, value_ = 0;
  int64_t last_ = -1;
};

// What forward and backward share: dense arguments, the work's layout, and the coefficients of z.
template <typename T>
struct Normalization {
  using S = Arithmetic<T>;
  Format format;
  Tensor x;
  OptionalTensor residual, noise;
  int64_t n, c;
  Layout layout;
  double eps;
  S noise_scale = 0, slope;
  std::vector<S> gamma, beta, mean, scale, shift;
  const Kernels<T>& run = chosen_kernels<T>();
  const typename Kernels<T>::Layout& way;

  explicit Normalization(const Arguments& a)
      : format(a.x),
        x(dense(a.x)),
        residual(dense(a.residual)),
        noise(dense(a.noise)),
        n(x.size(0)),
        c(x.size(1)),
        // One spatial element: both formats are the same memory, and rows of channels fill vectors.
        layout(n, c, n * c > 0 ? x.numel() / (n * c) : 0, a.groups, format.channels_last || x.numel() == n * c,
               a.noise.has_value()),
        eps(a.eps),
        slope(S(a.slope)),
        way(layout.channels ? run.channels : run.planes) {
    if (a.gamma) gamma = to_vector<S>(*a.gamma);
    if (a.beta) beta = to_vector<S>(*a.beta);
    if (a.noise_scale) noise_scale = to_vector<S>(*a.noise_scale).at(0);
    for (const auto* values : {&gamma, &beta}) {
      const int64_t size = values->size(), samples = layout.per_sample();
      STD_TORCH_CHECK(values->empty() || size == c || (size == n * c && samples == n),
                      "norm_act on the CPU: gamma and beta must be [C], or [N, C] with statistics per sample");
    }
    STD_TORCH_CHECK(!residual || residual->numel() == x.numel(), "norm_act: residual must have x's shape");
    STD_TORCH_CHECK(!noise || noise->numel() * c == x.numel(), "norm_act: noise must be [N, 1, *spatial]");
    STD_TORCH_CHECK(a.activation >= 0 && a.activation < kActivations, "norm_act: unknown activation");
    mean.resize(layout.coefficients());
    scale.resize(layout.coefficients());
    shift.resize(layout.coefficients());
  }

  Tensor dense(const Tensor& tensor) const {
    STD_TORCH_CHECK(tensor.scalar_type() == kDtype<T>, "norm_act: x, residual, noise and grad must have one dtype");
    return format.of(tensor);
  }
  OptionalTensor dense(const OptionalTensor& tensor) const {
    return tensor ? OptionalTensor(dense(*tensor)) : std::nullopt;
  }

  // gamma or beta of a unit, indexed by channel, or null.
  const S* of_unit(const std::vector<S>& values, int64_t unit) const {
    if (values.empty()) return nullptr;
    return values.data() + (int64_t(values.size()) == c ? 0 : layout.sample(unit) * c);
  }

  // The coefficients of a unit from its statistics. The variance is taken as stored, so that the backward finds the
  // very same coefficients.
  void set_coefficients(int64_t unit, const S* means, const S* vars) {
    const S *gammas = of_unit(gamma, unit), *betas = of_unit(beta, unit);
    Reciprocal<S> rstd(vars, eps);
    layout.each_coefficient(unit, [&](int64_t i, int64_t channel, int64_t statistic) {
      const double factor = rstd.at(statistic);
      mean[i] = means[statistic];
      scale[i] = S(gammas ? gammas[channel] * factor : factor);
      shift[i] = betas ? betas[channel] : S(0);
    });
  }

  Block<T> block(const Part& part) const {
    const int64_t offset = layout.offset(part);
    const int64_t first = layout.channels ? part.unit * layout.cols : layout.coefficient(part.unit, part.row);
    Block<T> block{part.rows, layout.cols, layout.ld(), data<const T>(x) + offset, nullptr, nullptr, 0, noise_scale};
    if (residual) block.residual = data<const T>(*residual) + offset;
    if (noise) {
      const T* values = data<const T>(*noise);
      const bool moves = !layout.channels && !layout.groups;  // rows are samples
      const int64_t sample = layout.groups && !layout.channels ? part.unit / layout.groups : part.row;
      block.noise = values + (layout.channels ? part.unit * layout.rows + part.row : sample * layout.s);
      block.noise_ld = moves ? layout.s : 0;
    }
    block.mean = mean.data() + first;
    block.scale = scale.data() + first;
    block.shift = shift.data() + first;
    block.step = layout.coefficient_step();
    return block;
  }
};

// ---- forward -------------------------------------------------------------------------------------------------------

// What a unit's parts measured, until it is merged into the unit's statistics.
template <typename T>
struct Measured {
  const Normalization<T>& norm;
  const Layout& layout = norm.layout;
  std::vector<Moments> planes;           // [slot]
  std::vector<double> means, m2s;        // channels: [slot, col]

  explicit Measured(const Normalization<T>& norm) : norm(norm) {
    const int64_t slots = layout.units * layout.pieces;
    if (!layout.channels) {
      planes.resize(slots);
    } else {
      means.resize(slots * layout.cols);
      m2s.resize(slots * layout.cols);
    }
  }

  void measure(const Part& part) {
    const Block<T> block = norm.block(part);
    if (!layout.channels) {
      planes[part.slot] = norm.run.plane_moments(block);
      return;
    }
    std::vector<Arithmetic<T>> scratch(3 * layout.cols);
    const int64_t at = part.slot * layout.cols;
    norm.run.channel_moments(block, 0, &means[at], &m2s[at], scratch.data());
  }

  // Writes the statistics of a unit: the mean of its parts' means, and of the squared deviations those of the parts
  // and between them.
  void settle(int64_t unit, Arithmetic<T>* mean, Arithmetic<T>* var) const {
    if (!layout.channels) {
      const Moments* parts = &planes[unit * layout.pieces];
      double total = 0, count = 0, m2 = 0;
      for (int64_t piece = 0; piece < layout.pieces; ++piece) {
        count += parts[piece].count;
        total += parts[piece].count * parts[piece].mean;
      }
      const double middle = layout.pieces == 1 ? parts->mean : total / count;
      for (int64_t piece = 0; piece < layout.pieces; ++piece) {
        const double off = parts[piece].mean - middle;
        m2 += parts[piece].m2 + parts[piece].count * off * off;
      }
      mean[unit] = Arithmetic<T>(middle);
      var[unit] = Arithmetic<T>(m2 / count);
      return;
    }
    const int64_t first = layout.first_statistic(unit), statistics = layout.statistics_per_unit();
    const double share = 1 / layout.count();
    std::vector<double> middle(statistics), m2(statistics);
    each_column(unit, [&](int64_t at, int64_t statistic, double rows) {
      middle[statistic - first] += rows * means[at];
    });
    for (int64_t i = 0; i < statistics; ++i) middle[i] *= share;
    each_column(unit, [&](int64_t at, int64_t statistic, double rows) {
      const double off = means[at] - middle[statistic - first];
      m2[statistic - first] += m2s[at] + rows * off * off;
    });
    for (int64_t i = 0; i < statistics; ++i) {
      mean[first + i] = Arithmetic<T>(middle[i]);
      var[first + i] = Arithmetic<T>(m2[i] * share);
    }
  }

 private:
  // work(index into means, statistic, rows measured) for each column of each piece.
  template <typename F>
  void each_column(int64_t unit, F&& work) const {
    for (int64_t piece = 0; piece < layout.pieces; ++piece) {
      const double rows = double((piece + 1) * layout.rows / layout.pieces - piece * layout.rows / layout.pieces);
      const int64_t first = (unit * layout.pieces + piece) * layout.cols;
      for (int64_t col = 0; col < layout.cols; col += layout.c) {
        layout.each_channel(unit, first + col,
                            [&](int64_t at, int64_t, int64_t statistic) { work(at, statistic, rows); });
      }
    }
  }
};

template <typename T>
std::tuple<Tensor, Tensor, Tensor> forward(const Arguments& a, const OptionalTensor& given_mean,
                                           const OptionalTensor& given_var) {
  using S = Arithmetic<T>;
  Normalization<T> norm(a);
  const Layout& layout = norm.layout;
  const bool given = given_mean.has_value();
  const int64_t statistics = given ? 0 : a.groups ? norm.n * a.groups : norm.c;
  const Tensor y = norm.format.empty_like(norm.x);
  const Tensor mean = new_vector(statistics, kDtype<S>);
  const Tensor var = new_vector(statistics, kDtype<S>);
  if (norm.x.numel() == 0) {
    if (statistics) {
      torch::stable::fill_(mean, std::numeric_limits<double>::quiet_NaN());
      torch::stable::fill_(var, std::numeric_limits<double>::quiet_NaN());
    }
    return {y, mean, var};
  }
  T* y_to = data<T>(y);
  const auto apply = [&](const Part& part) {
    norm.way.forward[a.activation](norm.block(part), norm.slope, y_to + layout.offset(part));
  };
  if (given) {
    const std::vector<S> means = to_vector<S>(*given_mean), vars = to_vector<S>(*given_var);
    for (int64_t unit = 0; unit < layout.units; ++unit) norm.set_coefficients(unit, means.data(), vars.data());
    layout.each_part(apply);
    return {y, mean, var};
  }
  S *mean_to = data<S>(mean), *var_to = data<S>(var);
  Measured<T> measured(norm);
  layout.run([&](const Part& part) { measured.measure(part); },
             [&](int64_t unit) {
               measured.settle(unit, mean_to, var_to);
               norm.set_coefficients(unit, mean_to, var_to);
             },
             apply);
  return {y, mean, var};
}

// ---- backward ------------------------------------------------------------------------------------------------------

// The sums that the gradients need: of grad_z and of grad_z * xhat, per channel and, where kept apart, sample.
template <typename T>
struct Sums {
  Normalization<T>& norm;
  const Layout& layout = norm.layout;
  const std::vector<Arithmetic<T>> vars;
  const bool given;
  std::vector<double> parts, parts_x;  // channels: [slot, col]
  std::vector<double> sum, sum_x;      // [sample, channel]
  std::vector<Arithmetic<T>> slope, offset;

  Sums(Normalization<T>& norm, std::vector<Arithmetic<T>> vars, bool given)
      : norm(norm), vars(std::move(vars)), given(given) {
    const int64_t size = layout.channels ? layout.units * layout.pieces * layout.cols : 0;
    parts.resize(size);
    parts_x.resize(size);
    sum.resize(layout.per_sample() * layout.c);
    sum_x.resize(layout.per_sample() * layout.c);
    slope.resize(layout.coefficients());
    offset.resize(layout.coefficients());
  }

  void measure(const Part& part, int64_t activation, const Gradient<T>& gradient) {
    std::vector<Arithmetic<T>> scratch(layout.channels ? 2 * layout.cols : 0);
    const int64_t at =
        layout.channels ? part.slot * layout.cols : layout.coefficient(part.unit, part.row);
    auto& to = layout.channels ? parts : sum;
    auto& to_x = layout.channels ? parts_x : sum_x;
    norm.way.sums[activation](norm.block(part), norm.slope, gradient, &to[at], &to_x[at], scratch.data());
  }

  // Completes a unit's sums, and from them the coefficients of
  // grad_x = rstd * (gamma * grad_z - mean(gamma * grad_z) - xhat * mean(gamma * grad_z * xhat)).
  void settle(int64_t unit) {
    if (layout.channels) gather(unit);
    Reciprocal<Arithmetic<T>> rstd(vars.data(), norm.eps);
    layout.each_sum(unit, [&](int64_t at, int64_t, int64_t statistic) { sum_x[at] *= rstd.at(statistic); });
    if (given) return;
    if (layout.channels) {
      std::vector<double> means(2 * layout.statistics_per_unit());
      set_slopes(unit, means.data(), means.data() + layout.statistics_per_unit());
    } else {
      double means[2] = {};
      set_slopes(unit, means, means + 1);
    }
  }

 private:
  // mean and mean_x, of the unit's statistics, start at 0.
  void set_slopes(int64_t unit, double* mean, double* mean_x) {
    const Arithmetic<T>* gammas = norm.of_unit(norm.gamma, unit);
    const double share = 1 / layout.count();
    const int64_t first = layout.first_statistic(unit);
    layout.each_sum(unit, [&](int64_t at, int64_t channel, int64_t statistic) {
      const double weight = gammas ? gammas[channel] * share : share;
      mean[statistic - first] += weight * sum[at];
      mean_x[statistic - first] += weight * sum_x[at];
    });
    Reciprocal<Arithmetic<T>> rstd(vars.data(), norm.eps);
    layout.each_coefficient(unit, [&](int64_t i, int64_t, int64_t statistic) {
      const double scale = rstd.at(statistic);
      slope[i] = Arithmetic<T>(-scale * scale * mean_x[statistic - first]);
      offset[i] = Arithmetic<T>(-scale * mean[statistic - first]);
    });
  }

  void gather(int64_t unit) {
    const int64_t rows = layout.pieces * layout.cols;
    for (int64_t i = unit * rows; i < (unit + 1) * rows; i += layout.c) {
      for (int64_t channel = 0; channel < layout.c; ++channel) {
        sum[unit * layout.c + channel] += parts[i + channel];
        sum_x[unit * layout.c + channel] += parts_x[i + channel];
      }
    }
  }
};

// A parameter's gradient, shaped like it, from sums per sample and channel.
Tensor parameter_gradient(const Tensor& parameter, std::vector<double> sums, int64_t c) {
  if (parameter.numel() == c) {
    for (size_t i = c; i < sums.size(); ++i) sums[i % c] += sums[i];
    sums.resize(c);
  }
  const auto shape = parameter.sizes();
  const Tensor grad = shape.size() == 1
                          ? new_vector(shape[0], parameter.scalar_type())
                          : torch::stable::empty(shape, parameter.scalar_type());
  write(grad, sums);
  return grad;
}

struct Needs {
  bool x, affine, residual, noise_scale;
};

using Six = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

template <typename T>
Six backward(const Arguments& a, const Tensor& grad_of_y, const OptionalTensor& y, const Tensor& mean,
             const Tensor& var, bool given, const Needs& need) {
  using S = Arithmetic<T>;
  Normalization<T> norm(a);
  const Layout& layout = norm.layout;
  const bool want_x = need.x || need.noise_scale;
  const auto none = [] { return new_vector(0, kDtype<T>); };
  const Tensor grad_x = want_x ? norm.format.empty_like(norm.x) : none();
  const Tensor grad_residual = need.residual ? norm.format.empty_like(norm.x) : none();
  const Tensor grad = norm.dense(grad_of_y);
  const OptionalTensor y_dense = norm.dense(y);
  Sums<T> sums(norm, to_vector<S>(var), given);
  std::vector<double> noise_sums(layout.units * layout.pieces);

  if (norm.x.numel() > 0) {
    const std::vector<S> means = to_vector<S>(mean);
    for (int64_t unit = 0; unit < layout.units; ++unit) {
      norm.set_coefficients(unit, means.data(), sums.vars.data());
    }
    const bool measures = need.affine || (want_x && !given);
    const bool applies = want_x || need.residual;
    // In low precision grad_z would be rounded.
    const bool keeps = measures && want_x && std::is_same_v<T, S> && is_costly(Activation(a.activation)) && layout.pieces == 1 &&
                       layout.rows * layout.cols * int64_t(sizeof(T)) <= kCached;
    const auto gradient_of = [&](const Part& part) {
      const int64_t at = layout.offset(part);
      const int64_t first = layout.channels ? part.unit * layout.cols : layout.coefficient(part.unit, part.row);
      return Gradient<T>{data<const T>(grad) + at,
                         y_dense ? data<const T>(*y_dense) + at : nullptr,
                         sums.slope.data() + first,
                         sums.offset.data() + first,
                         want_x ? data<T>(grad_x) + at : nullptr,
                         keeps ? data<T>(grad_x) + at : nullptr,
                         need.residual ? data<T>(grad_residual) + at : nullptr,
                         need.noise_scale ? &noise_sums[part.slot] : nullptr};
    };
    layout.run(
        [&](const Part& part) {
          if (measures) sums.measure(part, a.activation, gradient_of(part));
        },
        [&](int64_t unit) {
          if (measures) sums.settle(unit);
        },
        [&](const Part& part) {
          if (applies) norm.way.backward[a.activation](norm.block(part), norm.slope, gradient_of(part));
        });
  }
  const auto of_parameter = [&](bool needed, const OptionalTensor& parameter, const std::vector<double>& values) {
    return needed && parameter ? parameter_gradient(*parameter, values, norm.c) : none();
  };
  double noise_sum = 0;
  for (const double part : noise_sums) noise_sum += part;
  return {need.x ? grad_x : none(),
          of_parameter(need.affine, a.gamma, sums.sum_x),
          of_parameter(need.affine, a.beta, sums.sum),
          grad_residual,
          none(),
          of_parameter(need.noise_scale, a.noise_scale, {noise_sum})};
}

// ---- the torch side ------------------------------------------------------------------------------------------------

// Calls work(T) with the type that stands for the dtype.
template <typename F>
auto for_dtype(ScalarType dtype, F&& work) {
  switch (dtype) {
    case ScalarType::Float: return work(float{});
    case ScalarType::Double: return work(double{});
    case ScalarType::BFloat16: return work(uint16_t{});
    default: STD_TORCH_CHECK(false, "norm_act on the CPU computes float32, float64 and bfloat16");
  }
}

std::tuple<Tensor, Tensor, Tensor> norm_act(Tensor x, OptionalTensor gamma, OptionalTensor beta,
                                            OptionalTensor residual, OptionalTensor noise,
                                            OptionalTensor noise_scale, OptionalTensor mean, OptionalTensor var,
                                            int64_t groups, double eps, int64_t activation, double slope) {
  const Arguments a{x, gamma, beta, residual, noise, noise_scale, mean ? 0 : groups, eps, activation, slope};
  return for_dtype(x.scalar_type(), [&](auto zero) { return forward<decltype(zero)>(a, mean, var); });
}

Six norm_act_backward(Tensor grad, Tensor x, OptionalTensor y, OptionalTensor gamma, OptionalTensor beta,
                      OptionalTensor residual, OptionalTensor noise, OptionalTensor noise_scale, Tensor mean,
                      Tensor var, bool given, int64_t groups, double eps, int64_t activation, double slope,
                      bool need_x, bool need_affine, bool need_residual, bool need_noise, bool need_noise_scale) {
  const Arguments a{x, gamma, beta, residual, noise, noise_scale, given ? 0 : groups, eps, activation, slope};
  STD_TORCH_CHECK(!need_noise, "norm_act on the CPU leaves the gradient of the noise to its caller");
  const Needs need{need_x, need_affine, need_residual, noise.has_value() && need_noise_scale};
  return for_dtype(x.scalar_type(),
                   [&](auto zero) { return backward<decltype(zero)>(a, grad, y, mean, var, given, need); });
}

}  // namespace
}  // namespace fused_ops::norm_act

STABLE_TORCH_LIBRARY_FRAGMENT(fused_ops_cpu, m) {
  m.def(FUSED_OPS_NORM_ACT_SCHEMA);
  m.def(FUSED_OPS_NORM_ACT_BACKWARD_SCHEMA);
}

STABLE_TORCH_LIBRARY_IMPL(fused_ops_cpu, CPU, m) {
  m.impl("norm_act", TORCH_BOX(&fused_ops::norm_act::norm_act));
  m.impl("norm_act_backward", TORCH_BOX(&fused_ops::norm_act::norm_act_backward));
}
