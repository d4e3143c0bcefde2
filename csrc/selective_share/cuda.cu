// selective_share on the GPU, 1x1 kernels: the library's matrix products, and between them the kernels of
// cuda_kernels.h. All tensors are channels_last, so that pixels are the rows of matrices.
//
//     forward    gather, [r z] = [x y] M^T, reset_forward, h = [r.source target] M^T, mix_forward
//     backward   gather, mix_backward, grad [r.source target] = a_h M, reset_backward, grad [x y] += [a_r a_z] M,
//                grad M = [a_r a_z]^T [x y] and a_h^T [r.source target], scatter
//
// M [gates, x y] holds all weights, W and U of a candidate side by side; each product takes the rows of its gates. r
// and z of both units are one product, the candidates two, which go in one launch where x and y have equally many
// channels. a stands for the gradients before the activations.
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

// A tensor within another one's memory.
template <size_t dims>
Tensor view(const Tensor& in, const int64_t (&sizes)[dims], const int64_t (&strides)[dims], int64_t first) {
  AtenTensorHandle handle;
  TORCH_ERROR_CODE_CHECK(aoti_torch__reinterpret_tensor(in.get(), dims, sizes, strides, first, &handle));
  return Tensor(handle);
}

// A matrix that products take where it lies.
struct Matrix {
  const Tensor& in;
  int64_t first, rows, cols, row_step, col_step = 1;

  Matrix transposed() const { return {in, first, cols, rows, col_step, row_step}; }
  Tensor tensor() const { return view(in, {rows, cols}, {row_step, col_step}, first); }
  // Two of one size.
  Tensor with(const Matrix& other) const {
    return view(in, {2, rows, cols}, {other.first - first, row_step, col_step}, first);
  }
};

// to = left x right, or to += left x right.
struct Product {
  Matrix to, left, right;

  void multiply() const {
    TORCH_ERROR_CODE_CHECK(
        FUSED_OPS_SHIM(mm_out)(to.tensor().get(), left.tensor().get(), right.tensor().get()));
  }
  void multiply_with(const Product& other) const {
    TORCH_ERROR_CODE_CHECK(FUSED_OPS_SHIM(bmm_out)(
        to.with(other.to).get(), left.with(other.left).get(), right.with(other.right).get()));
  }
  void add() const {
    const Tensor sum = to.tensor();
    TORCH_ERROR_CODE_CHECK(
        FUSED_OPS_SHIM(addmm_out)(sum.get(), sum.get(), left.tensor().get(), right.tensor().get(), 1.0, 1.0));
  }
};

bool is_channels_last(const Tensor& tensor) {
  const int64_t channels = tensor.size(1), width = tensor.size(3), height = tensor.size(2);
  const int64_t steps[] = {height * width * channels, 1, width * channels, channels};
  for (int d = 0; d < 4; ++d) {
    if (tensor.size(d) > 1 && tensor.stride(d) != steps[d]) return false;
  }
  return true;
}

// What forward and backward share.
template <typename T>
struct Prepared {
  DeviceCall call;
  const Tensor &x, &y;
  WeightTensors weights;
  Arguments<T> a{};
  Tensor chain, matrix;

  Prepared(const Tensor& x_given, const Tensor& y_given, const WeightTensors& given, bool keep)
      : call(x_given), x(x_given), y(y_given), weights(given) {
    a.channels[0] = int(x.size(1)), a.channels[1] = int(y.size(1));
    a.pair = weights[4].has_value();
    a.keep = keep;
    const int V = kVector<T>;
    a.wide = a.channels[0] % V == 0 && a.channels[1] % V == 0;
    a.columns_of_x = (a.channels[0] + V - 1) / V;
    a.columns = Divider(a.columns_of_x + (a.channels[1] + V - 1) / V);
    const int64_t pixels = x.numel() / x.size(1), threads = (pixels + a.all_gates()) * a.columns.by;
    STD_TORCH_CHECK(threads < (int64_t(1) << 31) - kThreads, "selective_share on the GPU counts in 31 bits");
    a.pixels = int(pixels);
    for (int w = 0; w < kWeights; ++w) {
      if (!weights[w]) continue;
      if (!weights[w]->is_contiguous()) weights[w] = torch::stable::contiguous(*weights[w]);
      weights[w] = aligned(*weights[w]);
      a.weights[w] = call.template input<T>(weights[w]);
    }
    chain = empty({a.pixels, a.chain_width()});
    matrix = empty({a.all_gates(), a.both_channels()});
    a.chain = call.template output<T>(chain), a.matrix = call.template output<T>(matrix);
    for (int f = 0; f < 2; ++f) {
      const Tensor& features = f == 0 ? x : y;
      if (is_channels_last(features) && is_aligned(features)) {
        a.features[f] = call.template input<T>(features);
      } else {
        copy_to_chain(features, a.in_chain(f));
      }
    }
    run(gather<T>, rows_of_all());
  }

  static Tensor dense(const Tensor& tensor) {
    if (is_channels_last(tensor)) return aligned(tensor);
    return torch::stable::contiguous(tensor, MemoryFormat::ChannelsLast);
  }
  static OptionalTensor dense(const OptionalTensor& tensor) {
    return tensor ? OptionalTensor(dense(*tensor)) : std::nullopt;
  }
  void copy_to_chain(const Tensor& features, int64_t first) const {
    const int64_t height = x.size(2), width = x.size(3), step = a.chain_width();
    Tensor place = view(chain, {x.size(0), features.size(1), height, width},
                        {height * width * step, 1, width * step, step}, first);
    torch::stable::copy_(place, features);
  }
  Tensor empty(std::initializer_list<int64_t> sizes) const {
    return new_tensor(x, sizes, x.scalar_type());
  }
  // [N, channels, H, W] in channels_last.
  Tensor empty_features(int64_t channels) const {
    return new_tensor(x, {x.size(0), channels, x.size(2), x.size(3)}, x.scalar_type(), /*channels_last=*/true);
  }

  void run(void (*kernel)(Arguments<T>), int64_t rows) {
    launch(call.device(), kernel, (rows * a.columns.by + kThreads - 1) / kThreads, kThreads, 0, a);
  }
  void run(void (*kernel)(Arguments<T>)) { run(kernel, a.pixels); }
  int64_t rows_of_all() const { return int64_t(a.pixels) + a.all_gates(); }

  int units() const { return a.pair ? 2 : 1; }
  // [x y] in the chain or its gradient; r and z in the gates, of both units or of one, and their rows of M.
  Matrix features(const Tensor& in) const {
    return {in, a.in_chain(0), a.pixels, a.both_channels(), a.chain_width()};
  }
  int resets_and_updates() const { return units() * a.both_channels(); }
  Matrix columns(const Tensor& gates, int64_t first, int64_t count) const {
    return {gates, first, a.pixels, count, a.all_gates()};
  }
  Matrix rows(const Tensor& of_matrix, int64_t first, int64_t count) const {
    const int64_t both = a.both_channels();
    return {of_matrix, first * both, count, both, both};
  }
  // The same for a unit's candidate.
  Matrix factor(const Tensor& in, int unit) const {
    return {in, a.factor(unit), a.pixels, a.both_channels(), a.chain_width()};
  }
  Matrix candidate_columns(const Tensor& gates, int unit) const {
    return columns(gates, a.h(unit), a.channels[unit]);
  }
  Matrix candidate_rows(const Tensor& of_matrix, int unit) const {
    return rows(of_matrix, a.h(unit), a.channels[unit]);
  }
  // A product of each unit; in one launch where both are of one size. Not for sums over all pixels: the library cuts
  // single products into parts that fill the card.
  template <typename F>
  void multiply_units(F&& product) const {
    if (a.pair && a.channels[0] == a.channels[1]) return product(0).multiply_with(product(1));
    for (int u = 0; u < units(); ++u) product(u).multiply();
  }

  // The gates before mix_forward: h and z still without their activation, and r, too, unless `keeps`.
  Tensor make_gates(bool keeps) {
    const Tensor gates = empty_features(a.all_gates());
    a.gates = call.template output<T>(gates);
    a.keeps_gates = keeps;
    const int first = a.r(0), count = resets_and_updates();
    Product{columns(gates, first, count), features(chain), rows(matrix, first, count).transposed()}.multiply();
    run(reset_forward<T>);
    multiply_units([&](int u) {
      return Product{candidate_columns(gates, u), factor(chain, u), candidate_rows(matrix, u).transposed()};
    });
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
    const Tensor outs[2] = {p.empty_features(x.size(1)), p.a.pair ? p.empty_features(y.size(1)) : p.empty({0})};
    for (int u = 0; u < 2; ++u) p.a.out[u] = p.call.template output<T>(outs[u]);
    const Tensor gates = p.make_gates(want_gates);
    p.run(mix_forward<T>);
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
    a.raw_gates = !given_gates;
    const Tensor gates = given_gates ? p.dense(*given_gates) : p.make_gates(false);
    a.gates = p.call.template output<T>(gates);
    const OptionalTensor grad_outs[2] = {p.dense(grad_x_out), p.dense(grad_y_out)};
    const OptionalTensor from_outside = p.dense(grad_gates);
    a.grad_gates = p.call.template input<T>(from_outside);
    for (int u = 0; u < p.units(); ++u) a.grad_out[u] = p.call.template input<T>(grad_outs[u]);

    const Tensor before = p.empty({a.pixels, a.all_gates()});
    a.grad_before = p.call.template output<T>(before);
    p.run(mix_backward<T>);
    const Tensor grad_chain = p.empty({a.pixels, a.chain_width()});
    a.grad_chain = p.call.template output<T>(grad_chain);
    p.multiply_units([&](int u) {
      return Product{p.factor(grad_chain, u), p.candidate_columns(before, u), p.candidate_rows(p.matrix, u)};
    });
    p.run(reset_backward<T>);

    // In float32 a unit at a time: a sum over both units' gates is so long that it loses more than it may.
    const int parts = sizeof(T) == sizeof(float) ? p.units() : 1, count = p.resets_and_updates() / parts;
    for (int part = 0; part < parts; ++part) {
      const int first = a.r(part);
      Product{p.features(grad_chain), p.columns(before, first, count), p.rows(p.matrix, first, count)}.add();
    }
    const Tensor grad_matrix = p.empty({a.all_gates(), a.both_channels()});
    a.grad_matrix = p.call.template output<T>(grad_matrix);
    const int first = a.r(0), all = p.resets_and_updates();
    const Matrix before_gates = p.columns(before, first, all);
    Product{p.rows(grad_matrix, first, all), before_gates.transposed(), p.features(p.chain)}.multiply();
    for (int u = 0; u < p.units(); ++u) {
      const Matrix before_candidate = p.candidate_columns(before, u);
      Product{p.candidate_rows(grad_matrix, u), before_candidate.transposed(), p.factor(p.chain, u)}.multiply();
    }
    std::array<Tensor, kWeights> grads;
    for (int w = 0; w < kWeights; ++w) {
      grads[w] = weights[w] ? p.empty({weights[w]->size(0), weights[w]->size(1), 1, 1}) : p.empty({0});
      a.grad_weights[w] = p.call.template output<T>(grads[w]);
    }
    const Tensor grad_x = p.empty_features(x.size(1)), grad_y = p.empty_features(y.size(1));
    a.grad_features[0] = p.call.template output<T>(grad_x), a.grad_features[1] = p.call.template output<T>(grad_y);
    p.run(scatter<T>, p.rows_of_all());
    p.call.finish();
    return {grad_x, grad_y, grads[0], grads[1], grads[2], grads[3], grads[4], grads[5], grads[6], grads[7]};
  });
}

}  // namespace
}  // namespace fused_ops::selective_share

// Features and gates come in any layout and are returned in channels_last.
STABLE_TORCH_LIBRARY_FRAGMENT(FUSED_OPS_CUDA_OPS, m) {
  m.def(FUSED_OPS_SELECTIVE_SHARE_SCHEMA);
  m.def(FUSED_OPS_SELECTIVE_SHARE_BACKWARD_SCHEMA);
}

STABLE_TORCH_LIBRARY_IMPL(FUSED_OPS_CUDA_OPS, FUSED_OPS_DISPATCH_KEY, m) {
  m.impl("selective_share", TORCH_BOX(&fused_ops::selective_share::selective_share));
  m.impl("selective_share_backward", TORCH_BOX(&fused_ops::selective_share::selective_share_backward));
}
