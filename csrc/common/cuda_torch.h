// The torch side of a call on the GPU: its device and stream, and tensors as the kernels see them.
//
// Compiled without nvcc (by the tests) it is the emulated device's, and the ops take tensors on the CPU.
#pragma once

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <atomic>
#include <optional>
#include <vector>

#include "common/cuda.h"
#include "common/new_tensor.h"

#ifdef __CUDACC__
#define FUSED_OPS_DISPATCH_KEY CUDA
#define FUSED_OPS_CUDA_OPS fused_ops_cuda
#else
#define FUSED_OPS_DISPATCH_KEY CPU
#define FUSED_OPS_CUDA_OPS fused_ops_emulated  // a process may load both
#endif

namespace fused_ops {

// A call's device is current while this lives, and its memory is kept: the caching allocator hands memory that is
// given back only to later work on the same stream, so it may go before the kernels have ended.
class DeviceCall {
 public:
  explicit DeviceCall(const torch::stable::Tensor& x) : like_(x) {
#ifdef __CUDACC__
    const int index = x.get_device_index();
    guard_.emplace(index);
    // This library's own CUDA runtime follows; torch's is the guard's.
    check(cudaSetDevice(index));
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(index, &device_.stream));
    device_.processors = processors_of(index);
#else
    auto& machine = emulation::Machine::get();
    device_.processors = machine.processors;
    device_.most_threads = machine.most_threads;
    machine.forget();
    machine.error.clear();
#endif
  }

  const Device& device() const { return device_; }

  // For kernels to read, or to write.
  template <typename T>
  Global<const T> input(const torch::stable::Tensor& tensor) const {
    return {static_cast<const T*>(reachable(tensor, false))};
  }
  template <typename T>
  Global<const T> input(const std::optional<torch::stable::Tensor>& tensor) const {
    return tensor ? input<T>(*tensor) : Global<const T>{};
  }
  template <typename T>
  Global<T> output(const torch::stable::Tensor& tensor) const {
    return {static_cast<T*>(reachable(tensor, true))};
  }

  // `count` floats of device memory.
  Global<float> memory(int64_t count) {
    memory_.push_back(new_vector(like_, count, torch::headeronly::ScalarType::Float));
    return output<float>(memory_.back());
  }
  const torch::stable::Tensor& last_memory() const { return memory_.back(); }

  // After the last launch: raises what an emulated kernel did wrong.
  void finish() const {
#ifndef __CUDACC__
    const auto& machine = emulation::Machine::get();
    STD_TORCH_CHECK(machine.error.empty(), "emulated kernel: ", machine.error);
#endif
  }

 private:
  torch::stable::Tensor like_;
  Device device_;
  std::vector<torch::stable::Tensor> memory_;

  void* reachable(const torch::stable::Tensor& tensor, bool writable) const {
#ifndef __CUDACC__
    emulation::Machine::get().allow(tensor.data_ptr(), tensor.numel() * int64_t(tensor.element_size()), writable);
#endif
    (void)writable;
    return tensor.data_ptr();
  }

#ifdef __CUDACC__
  std::optional<torch::stable::accelerator::DeviceGuard> guard_;

  static void check(cudaError_t error) {
    STD_TORCH_CHECK(error == cudaSuccess, "fused_ops: ", cudaGetErrorString(error));
  }
  static int processors_of(int index) {
    constexpr int kKept = 64;
    static std::atomic<int> kept[kKept];
    int count = index < kKept ? kept[index].load() : 0;
    if (count == 0) {
      check(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, index));
      if (index < kKept) kept[index] = count;
    }
    return count;
  }
#endif
};

// The dtype that a C++ type stands for.
template <typename T>
constexpr torch::headeronly::ScalarType kDtypeOf = torch::headeronly::ScalarType::Float;
template <>
inline constexpr torch::headeronly::ScalarType kDtypeOf<Half> = torch::headeronly::ScalarType::Half;
template <>
inline constexpr torch::headeronly::ScalarType kDtypeOf<BFloat16Bits> = torch::headeronly::ScalarType::BFloat16;

// Calls work(T{}) with the type that stands for the dtype.
template <typename F>
auto for_device_dtype(torch::headeronly::ScalarType dtype, F&& work) {
  switch (dtype) {
    case torch::headeronly::ScalarType::Float: return work(float{});
    case torch::headeronly::ScalarType::Half: return work(Half{});
    case torch::headeronly::ScalarType::BFloat16: return work(BFloat16Bits{});
    default: STD_TORCH_CHECK(false, "fused_ops on the GPU computes float32, float16 and bfloat16");
  }
}

// Whether it begins on a 16-byte boundary.
inline bool is_aligned(const torch::stable::Tensor& tensor) {
  return reinterpret_cast<uintptr_t>(tensor.data_ptr()) % 16 == 0;
}
// The tensor, or a copy of it that does.
inline torch::stable::Tensor aligned(const torch::stable::Tensor& tensor) {
  return is_aligned(tensor) ? tensor : torch::stable::clone(tensor);
}

}  // namespace fused_ops
