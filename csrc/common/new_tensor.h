// New tensors by the C shim: the way by which those of torch::stable reach the dispatcher costs a small call more than
// its work does.
#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/inductor/aoti_torch/generated/c_shim_aten.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <vector>

namespace fused_ops {

// Uninitialised and dense, on the device of `like`; channels, the second dimension, may be the innermost.
inline torch::stable::Tensor new_tensor(const torch::stable::Tensor& like,
                                        torch::headeronly::IntHeaderOnlyArrayRef sizes,
                                        torch::headeronly::ScalarType dtype, bool channels_last = false) {
  const size_t dims = sizes.size();
  std::vector<int64_t> strides(dims);
  int64_t step = 1;
  const auto place = [&](size_t dim) {
    strides[dim] = step;
    step *= std::max<int64_t>(sizes[dim], 1);
  };
  if (channels_last) place(1);
  for (size_t dim = dims; dim-- > (channels_last ? 2 : 0);) place(dim);
  if (channels_last) place(0);
  int32_t device, index;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(like.get(), &device));
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_index(like.get(), &index));
  int32_t code = torch::stable::detail::to<int32_t>(torch::stable::detail::from(dtype));
  AtenTensorHandle handle;
  if (device != aoti_torch_device_type_cpu()) {
    TORCH_ERROR_CODE_CHECK(
        aoti_torch_empty_strided(int64_t(dims), sizes.data(), strides.data(), code, device, index, &handle));
    return torch::stable::Tensor(handle);
  }
  // On a CPU that one never fills, as deterministic mode has new memory filled: tests see so what nobody wrote.
  TORCH_ERROR_CODE_CHECK(aoti_torch_aten_new_empty(like.get(), sizes.data(), int64_t(dims), &code, nullptr, nullptr, 0,
                                                   nullptr, &handle));
  const torch::stable::Tensor tensor(handle);
  if (!channels_last) return tensor;
  TORCH_ERROR_CODE_CHECK(
      aoti_torch__reinterpret_tensor(tensor.get(), int64_t(dims), sizes.data(), strides.data(), 0, &handle));
  return torch::stable::Tensor(handle);
}

inline torch::stable::Tensor new_vector(const torch::stable::Tensor& like, int64_t size,
                                        torch::headeronly::ScalarType dtype) {
  return new_tensor(like, {size}, dtype);
}

}  // namespace fused_ops
