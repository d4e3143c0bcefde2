// Running statistics on the GPU: moved towards a batch's in one launch.
#pragma once

#include "common/cuda.h"

namespace fused_ops::norm_act {

inline constexpr int kRunningThreads = 256;

template <typename T>
struct Moving {
  Global<T> running_mean, running_var;
  Global<const float> mean, var;
  float momentum, unbias;
  int64_t count;
};

// From a to b, as torch.lerp, which gives b itself for the whole way.
FUSED_OPS_DEVICE float on_the_way(float a, float b, float part) {
  return part < 0.5f ? a + part * (b - a) : b - (b - a) * (1 - part);
}

template <typename T>
FUSED_OPS_KERNEL(kRunningThreads) move_running(Moving<T> a) {
  const int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= a.count) return;
  a.running_mean.put_float(i, on_the_way(a.running_mean.get_float(i), a.mean.get(i), a.momentum));
  a.running_var.put_float(i, on_the_way(a.running_var.get_float(i), a.unbias * a.var.get(i), a.momentum));
}

}  // namespace fused_ops::norm_act
