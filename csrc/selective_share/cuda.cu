// selective_share on the GPU, 1x1 kernels: the library's matrix products, and between them the kernels of
// cuda_kernels.h. All tensors are channels_last, so that pixels are the rows of matrices.
//
//     forward    gather, gates = [x y] M^T, reset_forward, h += (r . source) W^T for each unit, mix_forward
//     backward   gather, mix_backward, grad of r . source = a_h W for each unit, reset_backward,
//                grad [x y] += a M for each unit, grad M = a^T [x y], grad W = a_h^T (r . source) for each unit, scatter
//
// M [gates, x y] holds U, W_r and W_z of both units, so one product makes all gates before their activation (and the
// h as far as they come from the target). a stands for the gradients there.
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <array>
#include <optional>
#include <tuple>

#include "common/cuda_torch.h"
#include "selective_share/cuda_kernels.h"
#include "selective_share/operands.h"
#include "selective_share/schemas.h"

// The products by the C shim: the stable ABI's dispatcher takes no scalars.
#ifdef __CUDACC__
#include <torch/csrc/inductor/aoti_torch/generated/c_shim_cuda.h>
#define FUSED_OPS_SHIM(function) aoti_torch_cuda_##function
#else
#include <torch/csrc/inductor/aoti_torch/generated/c_shim_cpu.h>
#define FUSED_OPS_SHIM(function) aoti_torch_cpu_##function
#endif

namespace fused_ops::selective_share {
namespace {

using torch::headeronly::MemoryFormat;
using torch::stable::Tensor;
using OptionalTensor = std::optional<Tensor>;
using WeightTensors = std::array<OptionalTensor, kWeights>;

enum { W_r, W, U, W_z };

// A matrix within a tensor's memory.
Tensor matrix_view(const Tensor& tensor, int64_t rows, int64_t cols, int64_t step, int64_t first = 0) {
  const int64_t sizes[2] = {rows, cols}, strides[2] = {step, 1};
  AtenTensorHandle handle;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch__reinterpret_tensor(tensor.get(), 2, sizes, strides, first, &handle));
  return Tensor(handle);
}

Tensor transposed(const Tensor& matrix) { return torch::stable::transpose(matrix, 0, 1); }

// to = left x right, or to += left x right.
void multiply(const Tensor& to, const Tensor& left, const Tensor& right) {
  STABLE_TORCH_ERROR_CODE_CHECK(FUSED_OPS_SHIM(mm_out)(to.get(), left.get(), right.get()));
}
void add_product(const Tensor& to, const Tensor& left, const Tensor& right) {
  STABLE_TORCH_ERROR_CODE_CHECK(FUSED_OPS_SHIM(addmm_out)(to.get(), to.get(), left.get(), right.get(), 1.0, 1.0));
}

// What forward and backward share.
template <typename T>
struct Prepared {
  DeviceCall call;
  Tensor features[2];
  WeightTensors weights;
  Arguments<T> a{};
  Tensor both, matrix;

  Prepared(const Tensor& x, const Tensor& y, const WeightTensors& given, bool keep)
      : call(x), features{dense(x), dense(y)}, weights(given) {
    a.channels[0] = int(x.size(1)), a.channels[1] = int(y.size(1));
    a.pixels = x.numel() / x.size(1);
    a.pair = weights[4].has_value();
    a.keep = keep;
    const int V = kVector<T>;
    a.wide = a.channels[0] % V == 0 && a.channels[1] % V == 0;
    const int64_t columns = (a.channels[0] + V - 1) / V + (a.channels[1] + V - 1) / V;
    STD_TORCH_CHECK(a.pixels * columns < (int64_t(1) << 31) - kThreads, "selective_share on the GPU counts in 31 bits");
    a.columns = Divider(columns);
    a.pixel_blocks = (a.pixels * columns + kThreads - 1) / kThreads;
    for (int f = 0; f < 2; ++f) a.features[f] = call.template input<T>(features[f]);
    for (int w = 0; w < kWeights; ++w) {
      if (!weights[w]) continue;
      STD_TORCH_CHECK(weights[w]->scalar_type() == kDtypeOf<T>, "selective_share: weights must have x's dtype");
      if (!weights[w]->is_contiguous()) weights[w] = torch::stable::contiguous(*weights[w]);
      a.weights[w] = call.template input<T>(weights[w]);
    }
    both = empty({a.pixels, a.both_channels()});
    matrix = empty({a.all_gates(), a.both_channels()});
    a.both = call.template output<T>(both), a.matrix = call.template output<T>(matrix);
    with_matrix(gather<T>);
  }

  static Tensor dense(const Tensor& tensor) {
    STD_TORCH_CHECK(tensor.scalar_type() == kDtypeOf<T>, "selective_share: all tensors must have x's dtype");
    return aligned(torch::stable::contiguous(tensor, MemoryFormat::ChannelsLast));
  }
  static OptionalTensor dense(const OptionalTensor& tensor) {
    return tensor ? OptionalTensor(dense(*tensor)) : std::nullopt;
  }
  Tensor empty(std::initializer_list<int64_t> sizes) const {
    return torch::stable::new_empty(features[0], torch::headeronly::IntHeaderOnlyArrayRef(sizes));
  }
  // [N, channels, H, W] in channels_last.
  Tensor empty_features(int64_t channels) const {
    const Tensor& x = features[0];
    const std::array<int64_t, 4> sizes{x.size(0), channels, x.size(2), x.size(3)};
    return torch::stable::empty(sizes, x.scalar_type(), std::nullopt, x.device(), std::nullopt,
                                MemoryFormat::ChannelsLast);
  }
  int units() const { return a.pair ? 2 : 1; }
  int source_channels(int unit) const { return a.channels[1 - unit]; }

  // Over all pixels, and with those of the matrix.
  void run(void (*kernel)(Arguments<T>)) { launch(call.device(), kernel, a.pixel_blocks, kThreads, 0, a); }
  void with_matrix(void (*kernel)(Arguments<T>)) {
    const int64_t blocks = (int64_t(a.all_gates()) * a.both_channels() + kThreads - 1) / kThreads;
    launch(call.device(), kernel, a.pixel_blocks + blocks, kThreads, 0, a);
  }

  // The columns of a unit's h in a matrix of all gates.
  Tensor candidate(const Tensor& gates, int unit) const {
    return matrix_view(gates, a.pixels, a.channels[unit], a.all_gates(), a.h(unit));
  }
  // The columns of all of a unit's gates, and the rows of M that make them.
  Tensor gates_of_unit(const Tensor& gates, int unit) const {
    return matrix_view(gates, a.pixels, a.gates_of_unit(unit), a.all_gates(), a.first_gate(unit));
  }
  Tensor rows_of_unit(int unit) const {
    const int64_t cols = a.both_channels();
    return matrix_view(matrix, a.gates_of_unit(unit), cols, cols, a.first_gate(unit) * cols);
  }
  Tensor all(const Tensor& gates) const { return matrix_view(gates, a.pixels, a.all_gates(), a.all_gates()); }
  Tensor weight(int unit, int which) const {
    const Tensor& tensor = *weights[4 * unit + which];
    return matrix_view(tensor, tensor.size(0), tensor.size(1), tensor.size(1));
  }

  // The gates, all activated if `keeps`, and, where `outs` is given, the updated features.
  Tensor forward(bool keeps, Tensor* outs) {
    const Tensor gates = empty_features(a.all_gates());
    a.gates = call.template output<T>(gates);
    a.keeps_gates = keeps;
    multiply(all(gates), both, transposed(matrix));
    Tensor passed[2];
    for (int u = 0; u < units(); ++u) {
      passed[u] = empty({a.pixels, source_channels(u)});
      a.passed[u] = call.template output<T>(passed[u]);
      a.out[u] = call.template output<T>(outs[u]);
    }
    run(reset_forward<T>);
    for (int u = 0; u < units(); ++u) add_product(candidate(gates, u), passed[u], transposed(weight(u, W)));
    run(mix_forward<T>);
    return gates;
  }
};

std::tuple<Tensor, Tensor, Tensor> selective_share(Tensor x, Tensor y, Tensor W_r_x, Tensor W_x, Tensor U_x,
                                                   Tensor W_z_x, OptionalTensor W_r_y, OptionalTensor W_y,
                                                   OptionalTensor U_y, OptionalTensor W_z_y, bool z_keeps,
                                                   bool want_gates) {
  const WeightTensors weights{W_r_x, W_x, U_x, W_z_x, W_r_y, W_y, U_y, W_z_y};
  Operands(x, y, weights);
  return for_device_dtype(x.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    Prepared<T> p(x, y, weights, z_keeps);
    Tensor outs[2] = {p.empty_features(x.size(1)), p.a.pair ? p.empty_features(y.size(1)) : p.empty({0})};
    const Tensor gates = p.forward(want_gates, outs);
    p.call.finish();
    return std::tuple{outs[0], outs[1], want_gates ? gates : p.empty({0})};
  });
}

using Ten = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

Ten selective_share_backward(Tensor grad_x_out, OptionalTensor grad_y_out, OptionalTensor grad_gates, Tensor x,
                             Tensor y, OptionalTensor given_gates, Tensor W_r_x, Tensor W_x, Tensor U_x, Tensor W_z_x,
                             OptionalTensor W_r_y, OptionalTensor W_y, OptionalTensor U_y, OptionalTensor W_z_y,
                             bool z_keeps) {
  const WeightTensors weights{W_r_x, W_x, U_x, W_z_x, W_r_y, W_y, U_y, W_z_y};
  Operands(x, y, weights).check_gradients(grad_x_out, grad_y_out, grad_gates, given_gates);
  return for_device_dtype(x.scalar_type(), [&](auto zero) -> Ten {
    using T = decltype(zero);
    Prepared<T> p(x, y, weights, z_keeps);
    Arguments<T>& a = p.a;
    Tensor gates;
    if (given_gates) {
      gates = p.dense(*given_gates);
    } else {
      Tensor outs[2] = {p.empty_features(x.size(1)), p.empty_features(y.size(1))};  // made and dropped
      gates = p.forward(true, outs);
    }
    a.gates = p.call.template output<T>(gates);
    const OptionalTensor grad_outs[2] = {p.dense(grad_x_out), p.dense(grad_y_out)};
    const OptionalTensor from_outside = p.dense(grad_gates);
    a.grad_gates = p.call.template input<T>(from_outside);
    for (int u = 0; u < p.units(); ++u) a.grad_out[u] = p.call.template input<T>(grad_outs[u]);

    const Tensor before = p.empty({a.pixels, a.all_gates()});
    a.grad_before = p.call.template output<T>(before);
    p.run(mix_backward<T>);
    Tensor passed[2];
    for (int u = 0; u < p.units(); ++u) {
      passed[u] = p.empty({a.pixels, p.source_channels(u)});
      a.passed[u] = p.call.template output<T>(passed[u]);
      multiply(passed[u], p.candidate(before, u), p.weight(u, W));
    }
    const Tensor grad_both = p.empty({a.pixels, a.both_channels()});
    a.grad_both = p.call.template output<T>(grad_both);
    p.run(reset_backward<T>);

    // A unit at a time: one sum over all gates is so long that in float32 it loses more than it may.
    for (int u = 0; u < p.units(); ++u) add_product(grad_both, p.gates_of_unit(before, u), p.rows_of_unit(u));
    const Tensor grad_matrix = p.empty({a.all_gates(), a.both_channels()});
    a.grad_matrix = p.call.template input<T>(grad_matrix);
    multiply(grad_matrix, transposed(before), p.both);
    std::array<Tensor, kWeights> grads;
    for (int w = 0; w < kWeights; ++w) {
      if (!weights[w]) {
        grads[w] = p.empty({0});
        continue;
      }
      const int64_t rows = weights[w]->size(0), cols = weights[w]->size(1);
      grads[w] = p.empty({rows, cols, 1, 1});
      if (w % 4 == W) {
        multiply(matrix_view(grads[w], rows, cols, cols), transposed(p.candidate(before, w / 4)), passed[w / 4]);
      } else {
        a.grad_weights[w] = p.call.template output<T>(grads[w]);
      }
    }
    const Tensor grad_x = p.empty_features(x.size(1)), grad_y = p.empty_features(y.size(1));
    a.grad_features[0] = p.call.template output<T>(grad_x), a.grad_features[1] = p.call.template output<T>(grad_y);
    p.with_matrix(scatter<T>);
    p.call.finish();
    return {grad_x, grad_y, grads[0], grads[1], grads[2], grads[3], grads[4], grads[5], grads[6], grads[7]};
  });
}

}  // namespace
}  // namespace fused_ops::selective_share

// Features and gates come in any layout and are returned in channels_last.
STABLE_TORCH_LIBRARY_FRAGMENT(fused_ops_cuda, m) {
  m.def(FUSED_OPS_SELECTIVE_SHARE_SCHEMA);
  m.def(FUSED_OPS_SELECTIVE_SHARE_BACKWARD_SCHEMA);
}

STABLE_TORCH_LIBRARY_IMPL(fused_ops_cuda, FUSED_OPS_DISPATCH_KEY, m) {
  m.impl("selective_share", TORCH_BOX(&fused_ops::selective_share::selective_share));
  m.impl("selective_share_backward", TORCH_BOX(&fused_ops::selective_share::selective_share_backward));
}
