// Matrix products of the library (torch's mm on whatever BLAS it was built with) on plain pointers.
//
// They may be called from within a parallel region, where they run on the calling thread alone.
#pragma once
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/inductor/aoti_torch/generated/c_shim_cpu.h>
#include <torch/csrc/stable/macros.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <memory>
#include <type_traits>

namespace fused_ops {

template <typename T>
int32_t dtype_of();
template <>
inline int32_t dtype_of<float>() {
  return aoti_torch_dtype_float32();
}
template <>
inline int32_t dtype_of<double>() {
  return aoti_torch_dtype_float64();
}
template <>
inline int32_t dtype_of<uint16_t>() {
  return aoti_torch_dtype_bfloat16();
}

// A view of memory: element (i, j) lies at data[i * row_stride + j * col_stride].
template <typename T>
struct Matrix {
  T* data;
  int64_t rows, cols, row_stride, col_stride;

  Matrix transposed() const { return {data, cols, rows, col_stride, row_stride}; }
};

// The tensor that views a matrix, for the duration of a call.
class MatrixTensor {
 public:
  template <typename T>
  explicit MatrixTensor(const Matrix<T>& m) {
    const std::array<int64_t, 2> sizes{m.rows, m.cols}, strides{m.row_stride, m.col_stride};
    STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_create_tensor_from_blob(
        m.data, 2, sizes.data(), strides.data(), 0, dtype_of<T>(), aoti_torch_device_type_cpu(), 0, &handle_));
  }
  ~MatrixTensor() { aoti_torch_delete_tensor_object(handle_); }
  MatrixTensor(const MatrixTensor&) = delete;
  MatrixTensor& operator=(const MatrixTensor&) = delete;

  AtenTensorHandle get() const { return handle_; }

 private:
  AtenTensorHandle handle_;
};

// Memory for operands of products. The library's bfloat16 products (oneDNN with AMX, seen in torch 2.13) read rows of
// the left operand a little beyond their end and multiply what they find by zero, so that a NaN there spoils the
// result: this memory starts as zeros and has some to spare. Other types get it as it comes.
template <typename T>
std::unique_ptr<T[]> product_memory(int64_t count) {
  constexpr int64_t spare = 64;
  auto memory = std::make_unique_for_overwrite<T[]>(count + spare);
  if constexpr (std::is_same_v<T, uint16_t>) std::fill_n(memory.get(), count + spare, T(0));
  return memory;
}

// out = a b
template <typename T>
void multiply(const Matrix<T>& out, const Matrix<T>& a, const Matrix<T>& b) {
  const MatrixTensor to(out), left(a), right(b);
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_cpu_mm_out(to.get(), left.get(), right.get()));
}

// out += a b
template <typename T>
void multiply_add(const Matrix<T>& out, const Matrix<T>& a, const Matrix<T>& b) {
  const MatrixTensor to(out), left(a), right(b);
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_cpu_addmm_out(to.get(), to.get(), left.get(), right.get(), 1.0, 1.0));
}

}  // namespace fused_ops
