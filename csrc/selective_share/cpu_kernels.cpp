// The kernels of kernels.h for one instruction set (FUSED_OPS_ISA). Math and names: fused_ops/selective_share/README.md.
#include "selective_share/cpu_amx_weights.h"
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

int64_t amx_forward_rows(const AmxForward& job) {
  return AmxTile<AmxForward>::rows(job.shape) + (job.shape.channels_last ? 0 : job.shape.both());
}
int64_t amx_backward_rows(const AmxBackward& job) { return AmxGradients::rows(job); }

void amx_forward(const AmxForward& job, int64_t first, int64_t last, uint16_t* scratch) {
  const AmxTiles registers;
  const Shape& shape = job.shape;
  for (int64_t index = first; index < last; ++index) {
    AmxTile<AmxForward> tile(job, index, scratch);
    if (job.gates) {
      tile.gates = rows_of_tensor(job.gates + tile.place.first * shape.gates(), shape.gates());
      tile.gates_for_later = reinterpret_cast<uintptr_t>(job.gates) % kVectorBytes == 0;
    }
    const Rows<uint16_t> x_out = tile.output(job.x_out, shape.x);
    const Rows<uint16_t> y_out = shape.pair ? tile.output(job.y_out, shape.y) : Rows<uint16_t>{};
    tile.compute(x_out, y_out);
    tile.finish(x_out, shape.x, job.x_out);
    if (shape.pair) tile.finish(y_out, shape.y, job.y_out);
  }
  finish_stores();
}

void amx_backward(const AmxBackward& job, int64_t first, int64_t last, uint16_t* scratch) {
  const AmxTiles registers;
  for (int64_t index = first; index < last; ++index) {
    AmxTile<AmxBackward> tile(job, index, scratch);
    AmxGradients(job, tile).run(index == first);
  }
}

constexpr AmxKernels amx_table = {amx_forward_rows,    amx_backward_rows, amx_forward, amx_backward,
                                  multiply_at_the_end, weight_across,     weight_down, total_of_blocks};

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
const AmxKernels& amx_kernels() { return amx_table; }
#endif

}  // namespace FUSED_OPS_ISA
}  // namespace fused_ops::selective_share
