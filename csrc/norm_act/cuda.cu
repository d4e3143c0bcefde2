// norm_act on the GPU: the torch side. Kernels and their launches: cuda_launch.h. Math: fused_ops/norm_act/README.md.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <optional>
#include <tuple>
#include <vector>

#include "common/cuda_torch.h"
#include "norm_act/cuda_launch.h"
#include "norm_act/cuda_running.h"
#include "norm_act/format.h"
#include "norm_act/operands.h"
#include "norm_act/schemas.h"

namespace fused_ops::norm_act {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using OptionalTensor = std::optional<Tensor>;

struct Inputs {
  Tensor x;
  OptionalTensor gamma, beta, residual, noise, noise_scale;
  int64_t groups;
  bool given;
  double eps;
  int64_t activation;
  double slope;
};

// What forward and backward share: dense tensors, and the kernels' arguments as far as inputs make them.
template <typename T>
struct Prepared {
  DeviceCall call;
  Format format;
  Tensor x;
  OptionalTensor residual, noise, gamma, beta, noise_scale;
  Arguments<T> a{};

  explicit Prepared(const Inputs& in)
      : call(in.x), format(in.x), x(dense(in.x)), residual(dense(in.residual)), noise(in.noise) {
    const int64_t n = x.size(0), c = x.size(1), pixels = x.numel() / c;
    constexpr int64_t most = int64_t(1) << 30;
    STD_TORCH_CHECK(pixels < most && n * c < most, "norm_act on the GPU counts pixels and planes in 30 bits");
    STD_TORCH_CHECK(!residual || residual->numel() == x.numel(), "norm_act: residual must have x's shape");
    STD_TORCH_CHECK(!noise || noise->numel() == pixels, "norm_act: noise must be [N, 1, *spatial]");
    check_how(in.activation, in.given ? 0 : in.groups, c);
    a.samples = int(n), a.channels = int(c), a.plane = int(pixels / n);
    a.channels_last = format.channels_last || a.plane == 1;  // single pixels lie as in channels_last
    a.batch = in.given || in.groups == 0;
    a.span = a.batch ? 1 : int(c / in.groups);
    a.eps = float(in.eps), a.slope = float(in.slope), a.activation = int(in.activation);
    gamma = small(in.gamma), beta = small(in.beta), noise_scale = small(in.noise_scale);
    for (const OptionalTensor& parameter : {gamma, beta}) {
      if (!parameter) continue;
      a.affine_per_sample = parameter->dim() == 2;
      STD_TORCH_CHECK(parameter->numel() == (a.affine_per_sample ? n * c : c),
                      "norm_act on the GPU: gamma and beta must be [C], or [N, C]");
      STD_TORCH_CHECK(!(a.affine_per_sample && a.batch) && (!gamma || !beta || gamma->dim() == beta->dim()),
                      "norm_act on the GPU: gamma and beta per sample go together, and with statistics per sample");
    }
    if (noise) {
      STD_TORCH_CHECK(noise->scalar_type() == kDtypeOf<T>, "norm_act: noise must have x's dtype");
      if (!noise->is_contiguous()) noise = torch::stable::contiguous(*noise);
    }
    a.x = call.input<T>(x), a.residual = call.input<T>(residual), a.noise = call.input<T>(noise);
    a.gamma = reading(gamma), a.beta = reading(beta), a.noise_scale = reading(noise_scale);
  }

  Tensor dense(const Tensor& tensor) const {
    STD_TORCH_CHECK(tensor.scalar_type() == kDtypeOf<T>, "norm_act: x, residual, y and grad must have one dtype");
    return aligned(format.of(tensor));
  }
  OptionalTensor dense(const OptionalTensor& tensor) const {
    return tensor ? OptionalTensor(dense(*tensor)) : std::nullopt;
  }
  void check_size(const char* name, const OptionalTensor& tensor, int64_t elements) const {
    STD_TORCH_CHECK(!tensor || tensor->numel() == elements, "norm_act on the GPU: ", name, " must have ", elements,
                    " elements");
  }
  void check_statistics(const OptionalTensor& mean, const OptionalTensor& var) const {
    check_size("mean", mean, a.rows()), check_size("var", var, a.rows());
  }
  static OptionalTensor small(const OptionalTensor& tensor) {
    return tensor && !tensor->is_contiguous() ? torch::stable::contiguous(*tensor) : tensor;
  }

  Small<T> writing(const Tensor& tensor) const {
    if (tensor.numel() == 0) return {};
    const ScalarType dtype = tensor.scalar_type();
    STD_TORCH_CHECK(dtype == ScalarType::Float || dtype == kDtypeOf<T>,
                    "norm_act on the GPU: small tensors must be float32 or of x's dtype");
    Small<T> found;
    if (dtype == ScalarType::Float) {
      found.wide = call.output<float>(tensor);
    } else {
      found.narrow = call.output<T>(tensor);
    }
    return found;
  }
  Small<T> reading(const OptionalTensor& tensor) const { return tensor ? writing(*tensor) : Small<T>{}; }

  Tensor new_small(int64_t size) const { return new_vector(x, size, ScalarType::Float); }
  auto memory() {
    return [this](int64_t count) { return call.memory(count); };
  }
};

std::tuple<Tensor, Tensor, Tensor> norm_act(Tensor x, OptionalTensor gamma, OptionalTensor beta,
                                            OptionalTensor residual, OptionalTensor noise,
                                            OptionalTensor noise_scale, OptionalTensor mean, OptionalTensor var,
                                            int64_t groups, double eps, int64_t activation, double slope) {
  const bool given = mean && var;
  const Inputs in{x, gamma, beta, residual, noise, noise_scale, groups, given, eps, activation, slope};
  return for_device_dtype(x.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    Prepared<T> p(in);
    const Tensor y = p.format.empty_like(p.x);
    const int64_t statistics = given ? 0 : p.a.rows();
    const Tensor mean_used = p.new_small(statistics), var_used = p.new_small(statistics);
    if (given) p.check_statistics(mean, var);
    const OptionalTensor means = given ? p.small(mean) : mean_used, vars = given ? p.small(var) : var_used;
    p.a.mean = p.reading(means), p.a.var = p.reading(vars);
    p.a.y = p.call.template output<T>(y);
    forward(p.a, p.call.device(), given, p.memory());
    p.call.finish();
    return std::tuple{y, mean_used, var_used};
  });
}

std::tuple<Tensor, Tensor, Tensor, Tensor> norm_act_pool(Tensor x, OptionalTensor gamma, OptionalTensor beta,
                                                         OptionalTensor residual, OptionalTensor mean,
                                                         OptionalTensor var, int64_t groups, double eps,
                                                         int64_t activation, double slope, bool need_winner) {
  const bool given = mean && var;
  const Inputs in{x, gamma, beta, residual, {}, {}, groups, given, eps, activation, slope};
  STD_TORCH_CHECK(x.dim() == 4 && x.size(2) > 1 && x.size(3) > 1, "norm_act: pooling takes at least 2 x 2 pixels");
  return for_device_dtype(x.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    Prepared<T> p(in);
    const std::vector<int64_t> pooled{x.size(0), x.size(1), x.size(2) / 2, x.size(3) / 2};
    const Tensor y = p.format.empty(x, pooled, kDtypeOf<T>);
    const Tensor winner = need_winner ? p.format.empty(x, pooled, ScalarType::Byte)
                                      : new_vector(x, 0, ScalarType::Byte);
    const int64_t statistics = given ? 0 : p.a.rows();
    const Tensor mean_used = p.new_small(statistics), var_used = p.new_small(statistics);
    if (given) p.check_statistics(mean, var);
    const OptionalTensor means = given ? p.small(mean) : mean_used, vars = given ? p.small(var) : var_used;
    p.a.mean = p.reading(means), p.a.var = p.reading(vars);
    p.a.y = p.call.template output<T>(y);
    if (need_winner) p.a.winner_to = p.call.template output<uint8_t>(winner);
    p.a.height = int(x.size(2)), p.a.width = int(x.size(3));
    pool(p.a, p.call.device(), given, p.memory());
    p.call.finish();
    return std::tuple{y, mean_used, var_used, winner};
  });
}

Tensor norm_act_pool_backward(Tensor grad, OptionalTensor y, Tensor winner, int64_t height, int64_t width,
                       int64_t activation, double slope) {
  check_unpooling(grad, y, winner, height, width, activation);
  return for_device_dtype(grad.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    const Format format(winner);
    DeviceCall call(grad);
    const Tensor dense_grad = aligned(format.of(grad)), dense_winner = format.of(winner);
    const OptionalTensor dense_y = y ? OptionalTensor(aligned(format.of(*y))) : std::nullopt;
    const std::vector<int64_t> shape{grad.size(0), grad.size(1), height, width};
    const Tensor grad_z = format.empty(grad, shape, kDtypeOf<T>);
    if (height % 2 || width % 2) torch::stable::fill_(grad_z, 0);
    Arguments<T> a{};
    a.samples = int(shape[0]), a.channels = int(shape[1]), a.height = int(height), a.width = int(width);
    a.channels_last = format.channels_last, a.activation = int(activation), a.slope = float(slope);
    a.grad = call.template input<T>(dense_grad), a.kept = call.template input<T>(dense_y);
    a.winner = call.template input<uint8_t>(dense_winner), a.grad_x = call.template output<T>(grad_z);
    unpool(a, call.device());
    call.finish();
    return grad_z;
  });
}

using Six = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

Six norm_act_backward(Tensor grad, Tensor x, OptionalTensor y, OptionalTensor gamma, OptionalTensor beta,
                      OptionalTensor residual, OptionalTensor noise, OptionalTensor noise_scale, Tensor mean,
                      Tensor var, bool given, int64_t groups, double eps, int64_t activation, double slope, bool restore,
                      bool need_x, bool need_affine, bool need_residual, bool need_noise, bool need_noise_scale) {
  STD_TORCH_CHECK(!restore || can_restore(Activation(activation)),
                  "norm_act on the GPU restores the input of identity and leaky_relu only");
  STD_TORCH_CHECK(!need_noise, "norm_act on the GPU leaves the gradient of the noise to its caller");
  const Inputs in{x, gamma, beta, residual, noise, noise_scale, groups, given, eps, activation, slope};
  return for_device_dtype(x.scalar_type(), [&](auto zero) -> Six {
    using T = decltype(zero);
    Prepared<T> p(in);
    const Wanted wanted{need_x, need_affine && (gamma || beta), noise && noise_scale && need_noise_scale};
    const auto like_x = [&](bool needed) { return needed ? p.format.empty_like(p.x) : p.new_small(0); };
    const auto like = [&](const OptionalTensor& parameter, bool needed) {
      return parameter && needed ? new_tensor(*parameter, parameter->sizes(), parameter->scalar_type()) : p.new_small(0);
    };
    const Tensor grad_x = like_x(need_x), grad_residual = like_x(need_residual);
    const Tensor grad_gamma = like(gamma, need_affine), grad_beta = like(beta, need_affine);
    const Tensor dense_grad = p.dense(grad);
    const OptionalTensor kept = p.dense(y);
    p.check_size("grad", grad, x.numel()), p.check_size("y", y, x.numel());
    p.check_statistics(mean, var);
    const bool identity = Activation(activation) == Activation::identity;
    p.a.evidence = restore    ? Evidence::restored
                   : identity ? Evidence::nothing
                   : kept     ? Evidence::output
                              : Evidence::input;
    if (restore && identity) p.a.slope = 1;
    p.a.grad = p.call.template input<T>(dense_grad), p.a.kept = p.call.template input<T>(kept);
    if (need_x) p.a.grad_x = p.call.template output<T>(grad_x);
    if (need_residual) p.a.grad_residual = p.call.template output<T>(grad_residual);
    p.a.grad_gamma = p.writing(grad_gamma), p.a.grad_beta = p.writing(grad_beta);
    const OptionalTensor means = p.small(mean), vars = p.small(var);
    p.a.mean = p.reading(means), p.a.var = p.reading(vars);
    OptionalTensor noise_sums;
    backward(p.a, p.call.device(), given, wanted, p.memory(), [&](int64_t count) {
      const Global<float> memory = p.call.memory(count);
      noise_sums = p.call.last_memory();
      return memory;
    });
    p.call.finish();
    Tensor grad_scale = p.new_small(0);
    if (noise_sums) {
      const Tensor total = torch::stable::to(torch::stable::sum(*noise_sums), noise_scale->scalar_type());
      grad_scale = torch::stable::view(total, noise_scale->sizes());
    }
    return {grad_x, grad_gamma, grad_beta, grad_residual, p.new_small(0), grad_scale};
  });
}

// Running statistics, in place, by `momentum` towards those of a batch, whose variance is to be times `unbias`.
void norm_act_move(Tensor running_mean, Tensor running_var, Tensor mean, Tensor var, double momentum, double unbias) {
  const auto check = [&](const Tensor& tensor, ScalarType dtype) {
    STD_TORCH_CHECK(tensor.scalar_type() == dtype && tensor.is_contiguous() && tensor.numel() == mean.numel(),
                    "norm_act: running statistics must be contiguous, of one dtype, and as many as the batch's");
  };
  check(running_mean, running_mean.scalar_type()), check(running_var, running_mean.scalar_type());
  check(mean, ScalarType::Float), check(var, ScalarType::Float);
  for_device_dtype(running_mean.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    DeviceCall call(running_mean);
    const Moving<T> a{call.output<T>(running_mean), call.output<T>(running_var), call.input<float>(mean),
                      call.input<float>(var), float(momentum), float(unbias), mean.numel()};
    launch(call.device(), move_running<T>, divide_up(a.count, kRunningThreads), kRunningThreads, 0, a);
    call.finish();
  });
}

}  // namespace
}  // namespace fused_ops::norm_act

STABLE_TORCH_LIBRARY_FRAGMENT(FUSED_OPS_CUDA_OPS, m) {
  m.def(FUSED_OPS_NORM_ACT_SCHEMA);
  m.def(FUSED_OPS_NORM_ACT_BACKWARD_SCHEMA);
  m.def(FUSED_OPS_NORM_ACT_POOL_SCHEMA);
  m.def(FUSED_OPS_NORM_ACT_POOL_BACKWARD_SCHEMA);
  m.def(FUSED_OPS_NORM_ACT_MOVE_SCHEMA);
}

STABLE_TORCH_LIBRARY_IMPL(FUSED_OPS_CUDA_OPS, FUSED_OPS_DISPATCH_KEY, m) {
  m.impl("norm_act", TORCH_BOX(&fused_ops::norm_act::norm_act));
  m.impl("norm_act_backward", TORCH_BOX(&fused_ops::norm_act::norm_act_backward));
  m.impl("norm_act_pool", TORCH_BOX(&fused_ops::norm_act::norm_act_pool));
  m.impl("norm_act_pool_backward", TORCH_BOX(&fused_ops::norm_act::norm_act_pool_backward));
  m.impl("norm_act_move", TORCH_BOX(&fused_ops::norm_act::norm_act_move));
}
