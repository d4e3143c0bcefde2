// What the forward and the backward of norm_act share on the CPU: arguments, the work's layout, coefficients and
// statistics. Included by cpu.cpp only.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cmath>
#include <limits>
#include <optional>
#include <vector>

#include "common/isa.h"
#include "norm_act/format.h"
#include "norm_act/kernels.h"
#include "norm_act/layout.h"
#include "norm_act/operands.h"

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
std::vector<S> to_vector(const char* name, const Tensor& tensor) {
  const Tensor dense = tensor.is_contiguous() ? tensor : torch::stable::contiguous(tensor);
  const int64_t count = dense.numel();
  std::vector<S> values(count);
  if (dense.scalar_type() == kDtype<S>) {
    std::copy_n(data<const S>(dense), count, values.begin());
  } else {
    STD_TORCH_CHECK(dense.scalar_type() == ScalarType::BFloat16, "norm_act on the CPU: ", name,
                    " must be of x's dtype or of its statistics'");
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
  using S = Computed<T>;
  Format format;
  Tensor x;
  OptionalTensor residual, noise;
  int64_t n, c;
  Layout layout;
  double eps;
  S noise_scale = 0, slope;
  bool leaky;
  std::vector<S> gamma, beta, mean, scale, shift, inverse_scale;
  const Kernels<T>& run = chosen_kernels<T>();
  const typename Kernels<T>::Layout& way;

  // Where rows of the way `channels` must be single pixels, `one_pixel_rows` says so.
  explicit Normalization(const Arguments& a, bool one_pixel_rows = false)
      : format(a.x),
        x(dense("x", a.x)),
        residual(dense("residual", a.residual)),
        noise(dense("noise", a.noise)),
        n(x.size(0)),
        c(x.size(1)),
        // One spatial element: both formats are the same memory, and rows of channels fill vectors.
        layout(n, c, n * c > 0 ? x.numel() / (n * c) : 0, a.groups, format.channels_last || x.numel() == n * c,
               one_pixel_rows || a.noise.has_value()),
        eps(a.eps),
        slope(S(a.slope)),
        leaky(Activation(a.activation) == Activation::leaky_relu),
        way(layout.channels ? run.channels : run.planes) {
    if (a.gamma) gamma = to_vector<S>("gamma", *a.gamma);
    if (a.beta) beta = to_vector<S>("beta", *a.beta);
    if (a.noise_scale) noise_scale = to_vector<S>("noise_scale", *a.noise_scale).at(0);
    for (const auto* values : {&gamma, &beta}) {
      const int64_t size = values->size(), samples = layout.per_sample();
      STD_TORCH_CHECK(values->empty() || size == c || (size == n * c && samples == n),
                      "norm_act on the CPU: gamma and beta must be [C], or [N, C] with statistics per sample");
    }
    check_like_x("residual", residual);
    STD_TORCH_CHECK(!noise || noise->numel() * c == x.numel(), "norm_act: noise must be [N, 1, *spatial]");
    check_how(a.activation, a.groups, c);
    mean.resize(layout.coefficients());
    scale.resize(layout.coefficients());
    shift.resize(layout.coefficients());
  }

  Tensor dense(const char* name, const Tensor& tensor) const {
    STD_TORCH_CHECK(tensor.scalar_type() == kDtype<T>, "norm_act on the CPU: ", name, " must have x's dtype");
    return format.of(tensor);
  }
  OptionalTensor dense(const char* name, const OptionalTensor& tensor) const {
    return tensor ? OptionalTensor(dense(name, *tensor)) : std::nullopt;
  }
  void check_like_x(const char* name, const OptionalTensor& tensor) const {
    STD_TORCH_CHECK(!tensor || tensor->numel() == x.numel(), "norm_act on the CPU: ", name, " must have x's shape");
  }
  // Given or kept statistics, of all units.
  std::vector<S> statistics(const char* name, const Tensor& tensor) const {
    const int64_t size = layout.units * layout.statistics_per_unit();
    STD_TORCH_CHECK(tensor.numel() == size, "norm_act on the CPU: ", name, " must have ", size, " elements, got ",
                    tensor.numel());
    return to_vector<S>(name, tensor);
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

  bool restores() const { return !inverse_scale.empty(); }
  // x holds y, and the blocks are to compute x from it from here on. Refused where that would be wrong: the
  // output is rounded, which leaves the input no digits where gamma is small against beta.
  void restore_input() {
    constexpr double rounding = std::is_same_v<T, uint16_t> ? 1.0 / 128 : std::numeric_limits<S>::epsilon();
    for (size_t i = 0; i < gamma.size(); ++i) {
      const double least = beta.empty() ? 0 : 8 * rounding * std::abs(double(beta[i]));
      STD_TORCH_CHECK(std::abs(double(gamma[i])) > least,
                      "norm_act: with inplace=True the input is recovered from the output, for which a weight is too "
                      "small against its bias; use inplace=False (channel ", i % size_t(c), ")");
    }
    inverse_scale.resize(scale.size());
    for (size_t i = 0; i < scale.size(); ++i) inverse_scale[i] = 1 / scale[i];
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
    block.inverse_scale = inverse_scale.empty() ? nullptr : inverse_scale.data() + first;
    block.inverse_slope = leaky ? 1 / slope : S(1);
    return block;
  }
};

// ---- statistics ----------------------------------------------------------------------------------------------------

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
    std::vector<Computed<T>> scratch(3 * layout.cols);
    const int64_t at = part.slot * layout.cols;
    norm.run.channel_moments(block, &means[at], &m2s[at], scratch.data());
  }

  // Writes the statistics of a unit: the mean of its parts' means, and of the squared deviations those of the parts
  // and between them.
  void settle(int64_t unit, Computed<T>* mean, Computed<T>* var) const {
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
      mean[unit] = Computed<T>(middle);
      var[unit] = Computed<T>(m2 / count);
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
      mean[first + i] = Computed<T>(middle[i]);
      var[first + i] = Computed<T>(m2[i] * share);
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

// Mean and variance as they are returned: empty where they were given.
struct Statistics {
  Tensor mean, var;
};

// Finds the statistics, or takes the given ones, derives the coefficients, and calls apply(part) for all parts.
template <typename T, typename Apply>
Statistics normalize(Normalization<T>& norm, int64_t groups, const OptionalTensor& given_mean,
                     const OptionalTensor& given_var, Apply&& apply) {
  using S = Computed<T>;
  const Layout& layout = norm.layout;
  const bool given = given_mean.has_value();
  STD_TORCH_CHECK(given == given_var.has_value(), "norm_act: mean and var must both be given, or neither");
  const int64_t statistics = given ? 0 : groups ? norm.n * groups : norm.c;
  const Statistics found{new_vector(norm.x, statistics, kDtype<S>), new_vector(norm.x, statistics, kDtype<S>)};
  if (norm.x.numel() == 0) {
    if (statistics) {
      torch::stable::fill_(found.mean, std::numeric_limits<double>::quiet_NaN());
      torch::stable::fill_(found.var, std::numeric_limits<double>::quiet_NaN());
    }
    return found;
  }
  if (given) {
    const std::vector<S> means = norm.statistics("mean", *given_mean), vars = norm.statistics("var", *given_var);
    for (int64_t unit = 0; unit < layout.units; ++unit) norm.set_coefficients(unit, means.data(), vars.data());
    layout.each_part(apply);
    return found;
  }
  S *mean_to = data<S>(found.mean), *var_to = data<S>(found.var);
  Measured<T> measured(norm);
  layout.run([&](const Part& part) { measured.measure(part); },
             [&](int64_t unit) {
               measured.settle(unit, mean_to, var_to);
               norm.set_coefficients(unit, mean_to, var_to);
             },
             apply);
  return found;
}

}  // namespace
}  // namespace fused_ops::norm_act
