// What every native library of selective sharing asks of a call's tensors. The functional twins have seen to it, but
// the registered ops can be called without them, and kernels that trust a wrong size or dtype leave their memory.
#pragma once
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <array>
#include <optional>

namespace fused_ops::selective_share {

using Sizes = std::array<int64_t, 4>;

class Operands {
 public:
  using Tensor = torch::stable::Tensor;
  using OptionalTensor = std::optional<Tensor>;

  // Checks the features and the weights, in the schema's order, of a pair, or of one unit, which has the first four.
  Operands(const Tensor& x, const Tensor& y, const std::array<OptionalTensor, 8>& weights)
      : dtype_(x.scalar_type()), pair_(weights[4].has_value()) {
    STD_TORCH_CHECK(x.dim() == 4 && y.dim() == 4, "selective_share: x and y must be [N, C, H, W]");
    STD_TORCH_CHECK(x.numel() > 0 && y.numel() > 0, "selective_share: x and y must not be empty");
    const auto x_sizes = x.sizes();
    x_ = {x_sizes[0], x_sizes[1], x_sizes[2], x_sizes[3]};
    y_ = with_channels(y.size(1));
    check("y", y, y_);
    constexpr const char* names[] = {"W_r_x", "W_x", "U_x", "W_z_x", "W_r_y", "W_y", "U_y", "W_z_y"};
    for (int unit = 0; unit < (pair_ ? 2 : 1); ++unit) {
      const int64_t t = unit ? y_[1] : x_[1], s = unit ? x_[1] : y_[1];
      const Sizes sizes[] = {{s, t + s, 1, 1}, {t, s, 1, 1}, {t, t, 1, 1}, {t, t + s, 1, 1}};
      for (int w = 0; w < 4; ++w) check(names[4 * unit + w], weights[4 * unit + w], sizes[w]);
    }
  }

  // The backward's other tensors; gates may be absent.
  void check_gradients(const Tensor& grad_x_out, const OptionalTensor& grad_y_out, const OptionalTensor& grad_gates,
                       const OptionalTensor& gates) const {
    check("grad_x_out", grad_x_out, x_);
    if (pair_) check("grad_y_out", grad_y_out, y_);
    const Sizes of_gates = with_channels(pair_ ? 3 * (x_[1] + y_[1]) : 2 * x_[1] + y_[1]);
    if (grad_gates) check("grad_gates", grad_gates, of_gates);
    if (gates) check("gates", gates, of_gates);
  }

 private:
  torch::headeronly::ScalarType dtype_;
  bool pair_;
  Sizes x_, y_;

  Sizes with_channels(int64_t channels) const { return {x_[0], channels, x_[2], x_[3]}; }

  void check(const char* name, const OptionalTensor& tensor, const Sizes& sizes) const {
    STD_TORCH_CHECK(tensor, "selective_share: ", name, " is missing");
    STD_TORCH_CHECK(tensor->scalar_type() == dtype_, "selective_share: ", name, " must have x's dtype");
    const auto found = tensor->sizes();
    const bool fits = found.size() == 4 && std::equal(sizes.begin(), sizes.end(), found.begin());
    STD_TORCH_CHECK(fits, "selective_share: ", name, " must have shape [", sizes[0], ", ", sizes[1], ", ", sizes[2],
                    ", ", sizes[3], "]");
  }
};

}  // namespace fused_ops::selective_share
