// The torch side of bfloat16 where the processor multiplies it: what cpu.cpp does with the other kernels.
#pragma once
#include "common/isa.h"
#include "selective_share/cpu_call.h"

namespace fused_ops::selective_share {

FUSED_OPS_IF_AVX512(namespace avx512 { const Bf16Kernels& bf16_kernels(bool matrix_tiles); })

// Whether bfloat16 products pay although channels are filled up: else they are made in float, which takes twice as long
// (AVX512-BF16) or more.
inline bool bf16_serves(const Tensor& x, const Tensor& y) {
  FUSED_OPS_IF_AVX512({
    if (x.scalar_type() != ScalarType::BFloat16 || isa() < Isa::avx512_bf16) return false;
    const Shape tensors = shape_of(x, y, true, true, true);
    return double(filled_up(tensors).weight_size()) <= kMostFilled * double(tensors.weight_size());
  })
  return false;
}

inline const Bf16Kernels& chosen_bf16_kernels() {
  FUSED_OPS_IF_AVX512(return avx512::bf16_kernels(isa() >= Isa::amx);)
  STD_TORCH_CHECK(false, "bfloat16 products were not built");
}

// Pixels of a tile whose blocks take `rows` elements for every pixel: what fits into the cache, but enough that weights
// which do not fit are used often; spread evenly, so that no thread is left with a tile more than the others.
inline int64_t bf16_tile(const Shape& shape, int64_t rows) {
  const int64_t pixels = shape.images * shape.pixels, threads = torch::stable::get_num_threads();
  const int64_t fit = std::clamp<int64_t>(kCacheBytes / (rows * int64_t(sizeof(uint16_t))), 6 * kStep, 9 * kStep);
  const int64_t rounds = (pixels + fit * threads - 1) / (fit * threads), tiles = rounds * threads;
  return ((pixels + tiles - 1) / tiles + kStep - 1) / kStep * kStep;
}

using WeightPointers = std::array<uint16_t*, kWeights>;
using ConstWeightPointers = std::array<const uint16_t*, kWeights>;

// What `from` and `to` both have of each weight: of their columns those that multiply x and those that multiply y.
inline void copy_weights(const Shape& from_shape, const ConstWeightPointers& from, const Shape& to_shape,
                         const WeightPointers& to) {
  struct Part {
    int64_t col, channels;
  };
  std::vector<Part> parts;
  each_weight_gradient(from_shape, [&](int, int64_t, int operand, int64_t col) {
    parts.push_back({col, operand_channels(from_shape, operand)});
  });
  auto part = parts.begin();
  each_weight_gradient(to_shape, [&](int w, int64_t, int operand, int64_t col) {
    const Part source = *part++;
    const int64_t channels = std::min(source.channels, operand_channels(to_shape, operand));
    const int64_t rows = std::min(from_shape.rows(w), to_shape.rows(w));
    torch::stable::parallel_for(0, rows, std::max<int64_t>(1, kGrain / channels), [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) {
        std::copy_n(from[w] + r * from_shape.cols(w) + source.col, channels, to[w] + r * to_shape.cols(w) + col);
      }
    });
  });
}

inline WeightPointers one_after_the_other(const Shape& shape, uint16_t* memory) {
  WeightPointers all{};
  for (int w = 0; w < (shape.pair ? kWeights : kWeights / 2); ++w) all[w] = memory + shape.offset(w);
  return all;
}
inline ConstWeightPointers to_read(const WeightPointers& pointers) {
  ConstWeightPointers all;
  std::copy(pointers.begin(), pointers.end(), all.begin());
  return all;
}

// The weights with channels filled up; where there is nothing to fill, the tensors' own.
inline ConstWeightPointers fill_up_weights(const Shape& tensors, const Shape& shape, const WeightTensors& weights,
                                           CallMemory& memory) {
  ConstWeightPointers own{};
  for (int w = 0; w < kWeights; ++w) own[w] = weights[w] ? data<const uint16_t>(*weights[w]) : nullptr;
  if (!is_filled(tensors)) return own;
  uint16_t* filled = memory.take<uint16_t>(shape.weight_size());
  std::fill_n(filled, shape.weight_size(), uint16_t(0));
  const WeightPointers to = one_after_the_other(shape, filled);
  copy_weights(tensors, own, shape, to);
  return to_read(to);
}

// The weights as the right sides of products, each rearranged by `pack` in blocks of its rows or (`by_cols`) columns.
inline void pack_weights(const Shape& shape, const ConstWeightPointers& weights, bool by_cols,
                         decltype(Bf16Kernels::across) pack, uint16_t* memory, const uint16_t* (&packed)[kWeights]) {
  for (int w = 0; w < kWeights; ++w) {
    if (!weights[w]) continue;
    const int64_t rows = shape.rows(w), cols = shape.cols(w), size = by_cols ? rows : cols;
    uint16_t* to = memory + shape.offset(w);
    torch::stable::parallel_for(0, (by_cols ? cols : rows) / kStep, std::max<int64_t>(1, kGrain / (kStep * size)),
                                [&](int64_t begin, int64_t end) {
                                  pack(rows, cols, weights[w], to, begin, end);
                                });
    packed[w] = to;
  }
}

inline Outputs bf16_forward(const Tensor& x, const Tensor& y, const WeightTensors& weights, bool z_keeps,
                           bool want_gates) {
  const Bf16Kernels& run = chosen_bf16_kernels();
  const Shape tensors = shape_of(x, y, weights[W_r_y].has_value(), z_keeps, want_gates);
  Bf16Forward job{filled_up(tensors), tensors};
  const Shape& shape = job.shape;
  const Outputs out(x, tensors, want_gates);
  CallMemory memory((1 + is_filled(tensors)) * bytes_of<uint16_t>(shape.weight_size()));
  const ConstWeightPointers filled = fill_up_weights(tensors, shape, weights, memory);
  pack_weights(shape, filled, false, run.across, memory.take<uint16_t>(shape.weight_size()), job.across);
  job.x = data<const uint16_t>(x), job.y = data<const uint16_t>(y);
  job.x_out = data<uint16_t>(out.x), job.y_out = data<uint16_t>(out.y);
  job.gates = want_gates ? data<uint16_t>(out.gates) : nullptr;
  const int64_t rows = run.forward_rows(job);
  job.tile = bf16_tile(shape, rows);
  torch::stable::parallel_for(0, count_tiles(shape, job.tile), 1, [&](int64_t begin, int64_t end) {
    TileMemory scratch(bytes_of<uint16_t>(rows * job.tile));
    run.forward(job, begin, end, scratch.take<uint16_t>(rows * job.tile));
  });
  return out;
}

inline std::vector<Tensor> bf16_backward(const Tensor& grad_x_out, const OptionalTensor& grad_y_out,
                                        const OptionalTensor& grad_gates, const Tensor& x, const Tensor& y,
                                        const OptionalTensor& gates, const WeightTensors& weights, bool z_keeps) {
  const Bf16Kernels& run = chosen_bf16_kernels();
  const Shape tensors = shape_of(x, y, weights[W_r_y].has_value(), z_keeps, true);
  Bf16Backward job{filled_up(tensors), tensors};
  const Shape& shape = job.shape;
  std::vector<Tensor> results = empty_gradients(x, tensors, weights);
  job.grad_x_out = data<const uint16_t>(grad_x_out);
  job.grad_y_out = shape.pair ? data<const uint16_t>(*grad_y_out) : nullptr;
  job.grad_gates = grad_gates ? data<const uint16_t>(*grad_gates) : nullptr;
  job.x = data<const uint16_t>(x), job.y = data<const uint16_t>(y);
  job.gates = gates ? data<const uint16_t>(*gates) : nullptr;
  job.grad_x = data<uint16_t>(results[0]), job.grad_y = data<uint16_t>(results[1]);

  const int64_t size = shape.weight_size();
  const bool large = size * int64_t(sizeof(float)) > kLargeWeights;
  // The scratch memory's rows depend on where the sums go; any pointer says that there are some.
  float placeholder = 0;
  job.sums = large ? nullptr : &placeholder;
  const int64_t rows = run.backward_rows(job);
  job.tile = bf16_tile(shape, rows);
  const int64_t tiles = count_tiles(shape, job.tile);
  const int64_t chunks = std::min<int64_t>(torch::stable::get_num_threads(), tiles), parts = large ? 1 : chunks;
  const int64_t steps = (shape.images * shape.pixels + kStep - 1) / kStep;
  const int64_t kept = large ? Factors::elements(shape, steps) : 0;

  const bool fill = is_filled(tensors);
  CallMemory memory((1 + !gates + 2 * fill) * bytes_of<uint16_t>(size) + bytes_of<uint16_t>(kept) +
                    bytes_of<float>(parts * size));
  const ConstWeightPointers filled = fill_up_weights(tensors, shape, weights, memory);
  pack_weights(shape, filled, true, run.down, memory.take<uint16_t>(size), job.down);
  if (!gates) pack_weights(shape, filled, false, run.across, memory.take<uint16_t>(size), job.across);
  if (large) job.factors = Factors::in(memory.take<uint16_t>(kept), shape, steps);
  float* sums = memory.take<float>(parts * size);
  // A chunk for each thread, the same tiles whichever thread takes it: the sums do not depend on chance.
  torch::stable::parallel_for(0, chunks, 1, [&](int64_t begin, int64_t end) {
    TileMemory scratch_memory(bytes_of<uint16_t>(rows * job.tile));
    uint16_t* scratch = scratch_memory.take<uint16_t>(rows * job.tile);
    for (int64_t chunk = begin; chunk < end; ++chunk) {
      Bf16Backward mine = job;
      mine.sums = large ? nullptr : sums + chunk * size;
      run.backward(mine, chunk * tiles / chunks, (chunk + 1) * tiles / chunks, scratch);
    }
  });
  std::vector<const float*> all;
  for (int64_t part = 0; part < parts; ++part) all.push_back(sums + part * size);
  const WeightPointers own = weight_targets<uint16_t>(results, weights);
  const WeightPointers to = fill ? one_after_the_other(shape, memory.take<uint16_t>(size)) : own;
  int64_t block_rows = 0;
  each_weight_gradient(shape, [&](int weight, int64_t, int, int64_t) { block_rows += shape.rows(weight) / kStep; });
  const int64_t grain = large ? 1 : std::max<int64_t>(1, block_rows * kGrain / size);
  torch::stable::parallel_for(0, block_rows, grain, [&](int64_t begin, int64_t end) {
    if (large) run.multiply(job, sums, begin, end);
    run.total(shape, all.data(), parts, to.data(), begin, end);
  });
  if (fill) copy_weights(shape, to_read(to), tensors, own);
  return results;
}

}  // namespace fused_ops::selective_share
