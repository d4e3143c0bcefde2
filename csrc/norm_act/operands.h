// What every native library of norm_act checks of a call, since not only the functional twins make them: kernels that
// trust a wrong size or dtype leave their memory.
#pragma once
#include <torch/csrc/stable/tensor.h>

#include <optional>

#include "common/activations.h"

namespace fused_ops::norm_act {

inline void check_how(int64_t activation, int64_t groups, int64_t channels) {
  STD_TORCH_CHECK(activation >= 0 && activation < kActivations, "norm_act: unknown activation");
  STD_TORCH_CHECK(groups == 0 || (groups > 0 && channels % groups == 0), "norm_act: groups must divide the channels");
}

inline void check_unpooling(const torch::stable::Tensor& grad, const std::optional<torch::stable::Tensor>& y,
                            const torch::stable::Tensor& winner, int64_t height, int64_t width, int64_t activation) {
  using torch::headeronly::ScalarType;
  check_how(activation, 0, 0);
  STD_TORCH_CHECK(grad.dim() == 4 && grad.size(2) == height / 2 && grad.size(3) == width / 2 &&
                      winner.numel() == grad.numel(),
                  "norm_act: grad and winner must be of half the height and width");
  STD_TORCH_CHECK(winner.scalar_type() == ScalarType::Byte, "norm_act: winner must be uint8");
  STD_TORCH_CHECK(activation == int(Activation::identity) ||
                      (y && y->scalar_type() == grad.scalar_type() && y->numel() == grad.numel()),
                  "norm_act: the activation's derivative is taken from y, of grad's dtype and shape");
}

}  // namespace fused_ops::norm_act
