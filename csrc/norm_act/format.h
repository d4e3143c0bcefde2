// The memory format that a call works in and returns: as fused_ops/norm_act/layout.py says.
#pragma once
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include "common/new_tensor.h"

namespace fused_ops::norm_act {

inline bool is_channels_last(const torch::stable::Tensor& x) {
  if (x.dim() != 4 && x.dim() != 5) return false;
  int64_t expected = 1;
  for (int64_t i = 0; i < x.dim(); ++i) {
    const int64_t dim = i == 0 ? 1 : i < x.dim() - 1 ? x.dim() - i : 0;  // channels, then space backwards, then samples
    if (x.size(dim) != 1 && x.stride(dim) != expected) return false;
    expected *= x.size(dim);
  }
  return true;
}

struct Format {
  bool channels_last;
  torch::headeronly::MemoryFormat format;

  explicit Format(const torch::stable::Tensor& x) {
    channels_last = !x.is_contiguous() && (x.dim() == 4 || x.dim() == 5) &&
                    (is_channels_last(x) || (x.stride(1) == 1 && x.size(1) > 1));
    using torch::headeronly::MemoryFormat;
    format = !channels_last   ? MemoryFormat::Contiguous
             : x.dim() == 4 ? MemoryFormat::ChannelsLast
                            : MemoryFormat::ChannelsLast3d;
  }
  torch::stable::Tensor of(const torch::stable::Tensor& x) const {
    const bool fits = channels_last ? is_channels_last(x) : x.is_contiguous();
    return fits ? x : torch::stable::contiguous(x, format);
  }
  torch::stable::Tensor empty(const torch::stable::Tensor& like, torch::headeronly::IntHeaderOnlyArrayRef shape,
                              torch::headeronly::ScalarType dtype) const {
    return new_tensor(like, shape, dtype, channels_last);
  }
  torch::stable::Tensor empty_like(const torch::stable::Tensor& x) const {
    return empty(x, x.sizes(), x.scalar_type());
  }
};

}  // namespace fused_ops::norm_act
