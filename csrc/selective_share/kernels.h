// The element-wise work of selective sharing between the matrix products: one table of kernels per instruction set.
//
// Every kernel works on a block of rows x columns whose rows lie `ld` elements apart: pixels x channels in
// channels_last, channels x pixels in contiguous tensors. Blocks of one call may have row distances of their own.
// bfloat16 travels as uint16_t.
#pragma once
#include <cstdint>

namespace fused_ops::selective_share {

template <typename T>
struct Block {
  T* data = nullptr;
  int64_t ld = 0;

  // Always inlined, so that no copy of it made for one instruction set is linked into another.
  __attribute__((always_inline)) operator Block<const T>() const { return {data, ld}; }
};

// The type in which weights' gradients are summed over tiles.
template <typename T>
struct SumOf {
  using type = T;
};
template <>
struct SumOf<uint16_t> {
  using type = float;
};
template <typename T>
using Sum = typename SumOf<T>::type;

template <typename T>
struct Kernels {
  using In = Block<const T>;
  using Out = Block<T>;

  // to = from
  void (*copy)(int64_t rows, int64_t cols, In from, Out to);
  // gate = sigmoid(gate); passed = gate . source
  void (*reset)(int64_t rows, int64_t cols, Out gate, In source, Out passed);
  // passed = gate . source
  void (*pass)(int64_t rows, int64_t cols, In gate, In source, Out passed);
  // h = tanh(h); z = sigmoid(z); out = mix of target and h; h and z are written back if `keep_gates`
  void (*mix)(int64_t rows, int64_t cols, Out h, Out z, In target, Out out, bool z_keeps, bool keep_gates);
  // The gradients before h's tanh and z's sigmoid from that of the output; grad_h and grad_z reach the gates from
  // outside and may be null.
  void (*mix_backward)(int64_t rows, int64_t cols, In grad, In target, In h, In z, In grad_h, In grad_z, Out pre_h,
                       Out pre_z, bool z_keeps);
  // grad_target += grad . (the target's share in the mix)
  void (*target_backward)(int64_t rows, int64_t cols, In grad, In z, Out grad_target, bool z_keeps);
  // The gradient before the reset gate's sigmoid from that of gate . source; grad_source += grad_passed . gate.
  // grad_gate reaches the gate from outside and may be null.
  void (*reset_backward)(int64_t rows, int64_t cols, In grad_passed, In gate, In source, In grad_gate, Out pre_gate,
                         Out grad_source);
  // sum += part
  void (*accumulate)(int64_t count, const T* part, Sum<T>* sum);
  // to = the sum of the parts, each read from `offset` on
  void (*total)(int64_t count, const Sum<T>* const* parts, int64_t number_of_parts, int64_t offset, T* to);
};

}  // namespace fused_ops::selective_share
