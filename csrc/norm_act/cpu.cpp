// norm_act on the CPU: statistics, then normalization, affine map, residual and activation, and their gradients.
//
// This is the torch glue: it sees to memory formats, splits the work over threads (layout.h), merges what they
// measured and derives the coefficients; the rows are the kernels' (kernels.h). Math: fused_ops/norm_act/README.md.
#include <torch/csrc/stable/library.h>

#include <tuple>

#include "norm_act/cpu_normalization.h"
#include "norm_act/cpu_pool.h"
#include "norm_act/schemas.h"

namespace fused_ops::norm_act {
namespace {

// ---- forward -------------------------------------------------------------------------------------------------------

template <typename T>
std::tuple<Tensor, Tensor, Tensor> forward(const Arguments& a, const OptionalTensor& mean, const OptionalTensor& var) {
  Normalization<T> norm(a);
  const Tensor y = norm.format.empty_like(norm.x);
  T* to = data<T>(y);
  const Statistics found = normalize(norm, a.groups, mean, var, [&](const Part& part) {
    norm.way.forward[a.activation](norm.block(part), norm.slope, to + norm.layout.offset(part));
  });
  return {y, found.mean, found.var};
}

// ---- backward ------------------------------------------------------------------------------------------------------

// The sums that the gradients need: of grad_z and of grad_z * xhat, per channel and, where kept apart, sample.
template <typename T>
struct Sums {
  Normalization<T>& norm;
  const Layout& layout = norm.layout;
  const std::vector<Computed<T>> vars;
  const bool given;
  std::vector<double> parts, parts_x;  // channels: [slot, col]
  std::vector<double> sum, sum_x;      // [sample, channel]
  std::vector<Computed<T>> slope, offset;

  Sums(Normalization<T>& norm, std::vector<Computed<T>> vars, bool given)
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
    std::vector<Computed<T>> scratch(layout.channels ? 2 * layout.cols : 0);
    const int64_t at =
        layout.channels ? part.slot * layout.cols : layout.coefficient(part.unit, part.row);
    auto& to = layout.channels ? parts : sum;
    auto& to_x = layout.channels ? parts_x : sum_x;
    norm.way.sums[norm.restores()][activation](norm.block(part), norm.slope, gradient, &to[at], &to_x[at], scratch.data());
  }

  // Completes a unit's sums, and from them the coefficients of
  // grad_x = rstd * (gamma * grad_z - mean(gamma * grad_z) - xhat * mean(gamma * grad_z * xhat)).
  void settle(int64_t unit) {
    if (layout.channels) gather(unit);
    Reciprocal<Computed<T>> rstd(vars.data(), norm.eps);
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
    const Computed<T>* gammas = norm.of_unit(norm.gamma, unit);
    const double share = 1 / layout.count();
    const int64_t first = layout.first_statistic(unit);
    layout.each_sum(unit, [&](int64_t at, int64_t channel, int64_t statistic) {
      const double weight = gammas ? gammas[channel] * share : share;
      mean[statistic - first] += weight * sum[at];
      mean_x[statistic - first] += weight * sum_x[at];
    });
    Reciprocal<Computed<T>> rstd(vars.data(), norm.eps);
    layout.each_coefficient(unit, [&](int64_t i, int64_t, int64_t statistic) {
      const double scale = rstd.at(statistic);
      slope[i] = Computed<T>(-scale * scale * mean_x[statistic - first]);
      offset[i] = Computed<T>(-scale * mean[statistic - first]);
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
  const Tensor grad = new_tensor(parameter, parameter.sizes(), parameter.scalar_type());
  write(grad, sums);
  return grad;
}

struct Needs {
  bool x, affine, residual, noise_scale;
};

using Six = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

template <typename T>
Six backward(const Arguments& a, const Tensor& grad_of_y, const OptionalTensor& y, const Tensor& mean,
             const Tensor& var, bool given, bool restore, const Needs& need) {
  using S = Computed<T>;
  Normalization<T> norm(a);
  const Layout& layout = norm.layout;
  const bool want_x = need.x || need.noise_scale;
  const auto none = [&] { return new_vector(norm.x, 0, kDtype<T>); };
  const Tensor grad_x = want_x ? norm.format.empty_like(norm.x) : none();
  const Tensor grad_residual = need.residual ? norm.format.empty_like(norm.x) : none();
  const Tensor grad = norm.dense("grad", grad_of_y);
  const OptionalTensor y_dense = restore ? OptionalTensor(norm.x) : norm.dense("y", y);
  norm.check_like_x("grad", grad), norm.check_like_x("y", y_dense);
  Sums<T> sums(norm, norm.statistics("var", var), given);
  std::vector<double> noise_sums(layout.units * layout.pieces);

  if (norm.x.numel() > 0) {
    const std::vector<S> means = norm.statistics("mean", mean);
    for (int64_t unit = 0; unit < layout.units; ++unit) {
      norm.set_coefficients(unit, means.data(), sums.vars.data());
    }
    if (restore) norm.restore_input();
    const bool measures = need.affine || (want_x && !given);
    const bool applies = want_x || need.residual;
    // In low precision grad_z would be rounded.
    const bool keeps = measures && want_x && std::is_same_v<T, S> && is_costly(Activation(a.activation)) &&
                       (wide_vectors_in_halves() ||
                        layout.rows * layout.cols * int64_t(sizeof(T)) <= norm.run.keeps_up_to);
    const auto gradient_of = [&](const Part& part) {
      const int64_t at = layout.offset(part);
      const int64_t first = layout.channels ? part.unit * layout.cols : layout.coefficient(part.unit, part.row);
      return Gradient<T>{data<const T>(grad) + at,
                         y_dense ? data<const T>(*y_dense) + at : nullptr,
                         sums.slope.data() + first,
                         sums.offset.data() + first,
                         given,
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
          if (applies) norm.way.backward[restore][a.activation](norm.block(part), norm.slope, gradient_of(part));
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

std::tuple<Tensor, Tensor, Tensor, Tensor> norm_act_pool(Tensor x, OptionalTensor gamma, OptionalTensor beta,
                                                         OptionalTensor residual, OptionalTensor mean,
                                                         OptionalTensor var, int64_t groups, double eps,
                                                         int64_t activation, double slope, bool need_winner) {
  const Arguments a{x, gamma, beta, residual, {}, {}, mean ? 0 : groups, eps, activation, slope};
  return for_dtype(x.scalar_type(), [&](auto zero) { return pool<decltype(zero)>(a, mean, var, need_winner); });
}

Tensor norm_act_pool_backward(Tensor grad, OptionalTensor y, Tensor winner, int64_t height, int64_t width,
                       int64_t activation, double slope) {
  return for_dtype(grad.scalar_type(), [&](auto zero) {
    return unpool<decltype(zero)>(grad, y, winner, height, width, activation, slope);
  });
}

Six norm_act_backward(Tensor grad, Tensor x, OptionalTensor y, OptionalTensor gamma, OptionalTensor beta,
                      OptionalTensor residual, OptionalTensor noise, OptionalTensor noise_scale, Tensor mean,
                      Tensor var, bool given, int64_t groups, double eps, int64_t activation, double slope,
                      bool restore, bool need_x, bool need_affine, bool need_residual, bool need_noise,
                      bool need_noise_scale) {
  STD_TORCH_CHECK(!restore || can_restore(Activation(activation)),
                  "norm_act on the CPU restores the input of identity and leaky_relu only");
  const Arguments a{x, gamma, beta, residual, noise, noise_scale, given ? 0 : groups, eps, activation, slope};
  STD_TORCH_CHECK(!need_noise, "norm_act on the CPU leaves the gradient of the noise to its caller");
  const Needs need{need_x, need_affine, need_residual, noise.has_value() && need_noise_scale};
  return for_dtype(x.scalar_type(),
                   [&](auto zero) { return backward<decltype(zero)>(a, grad, y, mean, var, given, restore, need); });
}

}  // namespace
}  // namespace fused_ops::norm_act

STABLE_TORCH_LIBRARY_FRAGMENT(fused_ops_cpu, m) {
  m.def(FUSED_OPS_NORM_ACT_SCHEMA);
  m.def(FUSED_OPS_NORM_ACT_BACKWARD_SCHEMA);
  m.def(FUSED_OPS_NORM_ACT_POOL_SCHEMA);
  m.def(FUSED_OPS_NORM_ACT_POOL_BACKWARD_SCHEMA);
}

STABLE_TORCH_LIBRARY_IMPL(fused_ops_cpu, CPU, m) {
  m.impl("norm_act", TORCH_BOX(&fused_ops::norm_act::norm_act));
  m.impl("norm_act_backward", TORCH_BOX(&fused_ops::norm_act::norm_act_backward));
  m.impl("norm_act_pool", TORCH_BOX(&fused_ops::norm_act::norm_act_pool));
  m.impl("norm_act_pool_backward", TORCH_BOX(&fused_ops::norm_act::norm_act_pool_backward));
}
