// The kernels of kernels.h for one instruction set (FUSED_OPS_ISA). Math and names: fused_ops/selective_share/README.md.
#include "selective_share/cpu_bf16_weights.h"
#include "selective_share/cpu_backward.h"

namespace fused_ops::selective_share {
inline namespace FUSED_OPS_ISA {
namespace {

template <typename T>
void convert(int64_t count, const T* from, Computed<T>* to) {
  copy_row(count, stored(from), to);
}

template <typename S>
void transpose_block(int64_t rows, int64_t cols, const S* from, int64_t from_ld, S* to, int64_t to_ld) {
  transpose(rows, cols, from, from_ld, to, to_ld);
}

template <typename T>
void total(int64_t count, const Computed<T>* const* parts, int64_t number_of_parts, int64_t offset, T* to) {
  using S = Computed<T>;
  constexpr int lanes = kLanes<S>;
  for (int64_t i = 0; i < count; i += lanes) {
    const int some = count - i < lanes ? int(count - i) : lanes;
    Vec<S> sum = load(parts[0] + offset + i, some);
    for (int64_t part = 1; part < number_of_parts; ++part) sum += load(parts[part] + offset + i, some);
    store(stored(to) + i, sum, some);
  }
}

template <typename T>
int64_t forward_rows(const Forward<T>& job) {
  return Tile<T>::rows(job.shape);
}

template <typename T>
int64_t backward_rows(const Backward<T>& job) {
  return Tile<T>::rows(job.shape) + Gradients<T>::rows(job);
}

template <typename T>
constexpr Kernels<T> table = {kVectors * kLanes<Computed<T>>, forward_rows<T>, backward_rows<T>,
                              forward<T>, backward<T>, multiply<T>, convert<T>,
                              transpose_block<Computed<T>>, total<T>};

#if defined(__AVX512F__)

template <typename Products>
int64_t bf16_forward_rows(const Bf16Forward& job) {
  const Shape& s = job.shape;
  const int64_t gates = job.gates && is_filled(job.tensors) ? s.gates() : 0;
  return Bf16Tile<Bf16Forward, Products>::rows(s) + (has_rows(job.tensors) ? 0 : s.both()) + gates;
}
template <typename Products>
int64_t bf16_backward_rows(const Bf16Backward& job) {
  return Bf16Gradients<Products>::rows(job);
}

template <typename Products>
void bf16_forward(const Bf16Forward& job, int64_t first, int64_t last, uint16_t* scratch) {
  [[maybe_unused]] const typename Products::Registers registers;
  const Shape &shape = job.shape, &tensors = job.tensors;
  for (int64_t index = first; index < last; ++index) {
    Bf16Tile<Bf16Forward, Products> tile(job, index, scratch);
    const bool through_scratch = job.gates && is_filled(tensors);
    if (through_scratch) {
      tile.gates = tile.scratch(shape.gates());
    } else if (job.gates) {
      tile.gates = rows_of_tensor(job.gates + tile.place.first * shape.gates(), shape.gates());
      tile.gates_for_later = reinterpret_cast<uintptr_t>(job.gates) % kVectorBytes == 0;
    }
    const Rows<uint16_t> x_out = tile.output(job.x_out, tensors.x);
    const Rows<uint16_t> y_out = shape.pair ? tile.output(job.y_out, tensors.y) : Rows<uint16_t>{};
    tile.compute(x_out, y_out);
    tile.finish(x_out, tensors.x, job.x_out);
    if (shape.pair) tile.finish(y_out, tensors.y, job.y_out);
    if (through_scratch) tile.place.save_gates(tile.gates, tensors, job.gates);
  }
  finish_stores();
}

template <typename Products>
void bf16_backward(const Bf16Backward& job, int64_t first, int64_t last, uint16_t* scratch) {
  [[maybe_unused]] const typename Products::Registers registers;
  for (int64_t index = first; index < last; ++index) {
    Bf16Tile<Bf16Backward, Products> tile(job, index, scratch);
    Bf16Gradients<Products>(job, tile).run(index == first);
  }
}

template <typename Products>
constexpr Bf16Kernels bf16_table = {
    bf16_forward_rows<Products>,   bf16_backward_rows<Products>,
    bf16_forward<Products>,        bf16_backward<Products>,
    multiply_at_the_end<Products>, weight_across,
    weight_down,                   total_of_blocks,
};

#endif

}  // namespace

template <typename T>
const Kernels<T>& kernels() {
  return table<T>;
}
template const Kernels<float>& kernels<float>();
template const Kernels<double>& kernels<double>();
template const Kernels<uint16_t>& kernels<uint16_t>();
#if defined(__AVX512F__)
const Bf16Kernels& bf16_kernels(bool matrix_tiles) {
  return matrix_tiles ? bf16_table<TileProducts> : bf16_table<DotProducts>;
}
#endif

}  // namespace FUSED_OPS_ISA
}  // namespace fused_ops::selective_share
