// Matrix products of bfloat16 blocks on AMX tiles, with float sums: product.h's counterpart.
//
// The left matrix is read where it lies, row by row; of the right one, pairs of rows are interleaved, so that each
// 32-bit element holds two consecutive depths of one column (pair_rows, pair_columns). Depths are multiples of 32,
// rows and columns of 16. The instructions are written out, so that no compiler flag is needed; whether the processor
// has them is isa.h's to say.
#pragma once

#include "transpose.h"

#if defined(__AVX512F__)

namespace fused_ops {
inline namespace FUSED_OPS_ISA {

// left is rows x depth (bfloat16), right is depth / 2 x cols (pairs).
struct PairedTerm {
  const uint16_t* left;
  int64_t left_ld;
  const uint32_t* right;
  int64_t right_ld;
  int64_t depth;
};

// Tiles of 16 rows of 64 bytes for this thread, while the object lives.
class AmxTiles {
 public:
  AmxTiles() {
    struct alignas(64) {
      uint8_t palette = 1, start_row = 0, reserved[14] = {};
      uint16_t bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
      uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
    } config;
    __asm__ volatile("ldtilecfg %0" ::"m"(config));
  }
  ~AmxTiles() { __asm__ volatile("tilerelease"); }
  AmxTiles(const AmxTiles&) = delete;
  AmxTiles& operator=(const AmxTiles&) = delete;
};

#define FUSED_OPS_TILE_ZERO(tile) __asm__ volatile("tilezero %%tmm" #tile ::)
#define FUSED_OPS_TILE_LOAD(tile, base, bytes) \
  __asm__ volatile("tileloadd (%0,%1,1), %%tmm" #tile ::"r"((const void*)(base)), "r"((int64_t)(bytes)) : "memory")
#define FUSED_OPS_TILE_STORE(tile, base, bytes) \
  __asm__ volatile("tilestored %%tmm" #tile ", (%0,%1,1)" ::"r"((void*)(base)), "r"((int64_t)(bytes)) : "memory")
#define FUSED_OPS_TILE_MULTIPLY(sum, left, right) \
  __asm__ volatile("tdpbf16ps %%tmm" #right ", %%tmm" #left ", %%tmm" #sum ::)

// 32 or 16 rows x 32 or 16 columns: tiles 0 to 3 hold the sums, 4 and 5 the left matrix, 6 and 7 the right one.
template <bool two_rows, bool two_cols>
FUSED_OPS_INLINE void paired_block(const PairedTerm* terms, int count, int64_t row, int64_t col, float* out,
                                   int64_t out_ld, bool add) {
  float* to = out + row * out_ld + col;
  const int64_t out_bytes = out_ld * 4;
  if (add) {
    FUSED_OPS_TILE_LOAD(0, to, out_bytes);
    if (two_cols) FUSED_OPS_TILE_LOAD(1, to + 16, out_bytes);
    if (two_rows) FUSED_OPS_TILE_LOAD(2, to + 16 * out_ld, out_bytes);
    if (two_rows && two_cols) FUSED_OPS_TILE_LOAD(3, to + 16 * out_ld + 16, out_bytes);
  } else {
    FUSED_OPS_TILE_ZERO(0);
    if (two_cols) FUSED_OPS_TILE_ZERO(1);
    if (two_rows) FUSED_OPS_TILE_ZERO(2);
    if (two_rows && two_cols) FUSED_OPS_TILE_ZERO(3);
  }
  for (int t = 0; t < count; ++t) {
    const PairedTerm& term = terms[t];
    const uint16_t* left = term.left + row * term.left_ld;
    const uint32_t* right = term.right + col;
    const int64_t left_bytes = term.left_ld * 2, right_bytes = term.right_ld * 4;
    for (int64_t k = 0; k < term.depth; k += 32, left += 32, right += 16 * term.right_ld) {
      FUSED_OPS_TILE_LOAD(4, left, left_bytes);
      FUSED_OPS_TILE_LOAD(6, right, right_bytes);
      FUSED_OPS_TILE_MULTIPLY(0, 4, 6);
      if (two_cols) {
        FUSED_OPS_TILE_LOAD(7, right + 16, right_bytes);
        FUSED_OPS_TILE_MULTIPLY(1, 4, 7);
      }
      if (two_rows) {
        FUSED_OPS_TILE_LOAD(5, left + 16 * term.left_ld, left_bytes);
        FUSED_OPS_TILE_MULTIPLY(2, 5, 6);
        if (two_cols) FUSED_OPS_TILE_MULTIPLY(3, 5, 7);
      }
    }
  }
  FUSED_OPS_TILE_STORE(0, to, out_bytes);
  if (two_cols) FUSED_OPS_TILE_STORE(1, to + 16, out_bytes);
  if (two_rows) FUSED_OPS_TILE_STORE(2, to + 16 * out_ld, out_bytes);
  if (two_rows && two_cols) FUSED_OPS_TILE_STORE(3, to + 16 * out_ld + 16, out_bytes);
}

#undef FUSED_OPS_TILE_ZERO
#undef FUSED_OPS_TILE_LOAD
#undef FUSED_OPS_TILE_STORE
#undef FUSED_OPS_TILE_MULTIPLY

// out (rows x cols) = the sum of the terms, plus `out` if `add`.
inline void product(int64_t rows, int64_t cols, const PairedTerm* terms, int count, float* out, int64_t out_ld,
                    bool add) {
  const auto columns = [&](int64_t row, auto block, auto narrow) {
    int64_t col = 0;
    for (; col + 32 <= cols; col += 32) block(row, col);
    if (col < cols) narrow(row, col);
  };
  int64_t row = 0;
  for (; row + 32 <= rows; row += 32) {
    columns(
        row, [&](int64_t r, int64_t c) { paired_block<true, true>(terms, count, r, c, out, out_ld, add); },
        [&](int64_t r, int64_t c) { paired_block<true, false>(terms, count, r, c, out, out_ld, add); });
  }
  if (row < rows) {
    columns(
        row, [&](int64_t r, int64_t c) { paired_block<false, true>(terms, count, r, c, out, out_ld, add); },
        [&](int64_t r, int64_t c) { paired_block<false, false>(terms, count, r, c, out, out_ld, add); });
  }
}

// The bits of 16 floats rounded to bfloat16, in the low half of each lane.
FUSED_OPS_INLINE Vec<uint32_t> rounded_bits(Vec<float> value) {
  const HalfWidthShorts shorts = narrow(value);
  return __builtin_convertvector(shorts, Vec<uint32_t>);
}

// Rows 2 i and 2 i + 1 of a block (rows x cols floats, rows `cols` apart) become row i of pairs.
inline void pair_rows(int64_t rows, int64_t cols, const float* from, uint32_t* to) {
  for (int64_t row = 0; row < rows; row += 2, from += 2 * cols, to += cols) {
    for (int64_t c = 0; c < cols; c += kLanes<float>) {
      const Vec<uint32_t> low = rounded_bits(load(from + c)), high = rounded_bits(load(from + cols + c));
      const Vec<uint32_t> pairs = low | (high << 16);
      memcpy(to + c, &pairs, sizeof(pairs));
    }
  }
}

// The transposed block in pairs: columns 2 j and 2 j + 1 of `from` (rows x cols floats, rows `cols` apart) become row j,
// rows `to_ld` apart. Rows and columns are multiples of 16 and 32.
inline void pair_columns(int64_t rows, int64_t cols, const float* from, uint32_t* to, int64_t to_ld) {
  constexpr int lanes = kLanes<float>;
  for (int64_t r = 0; r < rows; r += lanes) {
    for (int64_t c = 0; c < cols; c += 2 * lanes) {
      Vec<float> square[lanes];
#pragma GCC unroll 16
      for (int i = 0; i < lanes; ++i) {
        // Two vectors of a row are, rounded, one of pairs.
        const float* row = from + (r + i) * cols + c;
        const HalfWidthShorts halves[2] = {narrow(load(row)), narrow(load(row + lanes))};
        memcpy(&square[i], halves, sizeof(halves));
      }
      transpose_square<float>(square);
#pragma GCC unroll 16
      for (int i = 0; i < lanes; ++i) memcpy(to + (c / 2 + i) * to_ld + r, &square[i], sizeof(square[i]));
    }
  }
}

}  // namespace FUSED_OPS_ISA
}  // namespace fused_ops

#endif
