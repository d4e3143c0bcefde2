// The weights of bfloat16 products: rearranged before, and their gradients added up after.
#pragma once
#include "selective_share/cpu_bf16_backward.h"

#if defined(__AVX512F__)

namespace fused_ops::selective_share {
inline namespace FUSED_OPS_ISA {

// A weight (rows x cols) as the right side of a product over its columns: a block is 32 rows, in steps of 32 columns.
inline void weight_across(int64_t, int64_t cols, const uint16_t* from, uint16_t* to, int64_t first, int64_t last) {
  for (int64_t block = first; block < last; ++block) {
    for (int64_t c = 0; c < cols; c += kStep) {
      pair_columns(from + block * kStep * cols + c, cols, to + (block * cols + c) * kStep);
    }
  }
}

// The same over its rows: a block is 32 columns, in steps of 32 rows.
inline void weight_down(int64_t rows, int64_t cols, const uint16_t* from, uint16_t* to, int64_t first, int64_t last) {
  for (int64_t block = first; block < last; ++block) {
    for (int64_t r = 0; r < rows; r += kStep) {
      pair_rows(from + r * cols + block * kStep, cols, 16 * cols, to + (block * rows + r) * kStep);
    }
  }
}

template <typename Products>
void multiply_at_the_end(const Bf16Backward& job, float* sums, int64_t first, int64_t last) {
  [[maybe_unused]] const typename Products::Registers registers;
  const Shape& shape = job.shape;
  int64_t passed = 0;  // rows of blocks of the products before
  each_product(shape, [&](int64_t block, int weight, int64_t gate, int64_t channel, int64_t channels, int64_t) {
    const int64_t rows = shape.rows(weight) / kStep, blocks = channels / kStep;
    const int64_t from = first > passed ? first - passed : 0, to = last - passed < rows ? last - passed : rows;
    passed += rows;
    // Long sums in parts whose share of the operand stays in the second-level cache while all rows pass.
    const int64_t steps = job.factors.steps, most = 24576 / channels > 8 ? 24576 / channels : 8;
    const int64_t parts = (steps + most - 1) / most;
    for (int64_t part = 0; part < parts; ++part) {
      const int64_t step = part * steps / parts, end = (part + 1) * steps / parts;
      for (int64_t row = from; row < to; ++row) {
        multiply_row<Products>(job.factors, gate + row * kStep, channel, channels, step, end,
                     sums + (block + row * blocks) * kSums, step > 0);
      }
    }
  });
}

inline void total_of_blocks(const Shape& shape, const float* const* parts, int64_t number_of_parts,
                            uint16_t* const* to, int64_t first, int64_t last) {
  int64_t passed = 0;
  each_product(shape, [&](int64_t block, int weight, int64_t, int64_t, int64_t channels, int64_t col) {
    const int64_t cols = shape.cols(weight), rows = shape.rows(weight) / kStep;
    const int64_t from = first > passed ? first - passed : 0, end = last - passed < rows ? last - passed : rows;
    passed += rows;
    block += from * (channels / kStep);
    for (int64_t row = from * kStep; row < end * kStep; row += kStep) {
      for (int64_t n = 0; n < channels; n += kStep, ++block) {
        for (int64_t r = 0; r < kStep; ++r) {
          const int64_t at = block * kSums + sums_row(r);
          Wide sum = load_wide(parts[0] + at, parts[0] + at + 256);
          for (int64_t part = 1; part < number_of_parts; ++part) {
            sum = sum + load_wide(parts[part] + at, parts[part] + at + 256);
          }
          store_wide(to[weight] + (row + r) * cols + col + n, sum);
        }
      }
    }
  });
}

}  // namespace FUSED_OPS_ISA
}  // namespace fused_ops::selective_share

#endif
