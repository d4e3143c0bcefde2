// Transposition of blocks, a square of vectors at a time.
#pragma once

#include "vec.h"

namespace fused_ops {
inline namespace FUSED_OPS_ISA {

// Lane by lane that one of the lanes of a (from 0) and b (from kLanes) which the mask names.
template <typename S>
FUSED_OPS_INLINE Vec<S> pick(Vec<S> a, Vec<S> b, Vec<Integer<S>> mask) {
#if defined(__clang__)
  Vec<S> both[2] = {a, b}, result;
  for (int lane = 0; lane < kLanes<S>; ++lane) {
    result[lane] = both[mask[lane] / kLanes<S>][mask[lane] % kLanes<S>];
  }
  return result;
#else
  return __builtin_shuffle(a, b, mask);
#endif
}

// Interleaves blocks of `step` lanes of two vectors: [a0 b0 a2 b2 ...] or, for `high`, [a1 b1 a3 b3 ...].
template <typename S, int step, bool high>
FUSED_OPS_INLINE Vec<S> interleave(Vec<S> a, Vec<S> b) {
  Vec<Integer<S>> mask;
  for (int lane = 0; lane < kLanes<S>; ++lane) {
    const int block = lane / step, within = lane % step;
    const int source = (block & ~1) * step + (high ? step : 0) + within;
    mask[lane] = source + (block & 1 ? kLanes<S> : 0);
  }
  return pick<S>(a, b, mask);
}

template <typename S, int step>
FUSED_OPS_INLINE void transpose_steps(Vec<S> (&rows)[kLanes<S>]) {
  if constexpr (step < kLanes<S>) {
    transpose_steps<S, step * 2>(rows);
#pragma GCC unroll 16
    for (int i = 0; i < kLanes<S>; ++i) {
      if (i & step) continue;
      const Vec<S> a = rows[i], b = rows[i + step];
      rows[i] = interleave<S, step, false>(a, b);
      rows[i + step] = interleave<S, step, true>(a, b);
    }
  }
}

// Transposes the square whose rows are the vectors.
template <typename S>
FUSED_OPS_INLINE void transpose_square(Vec<S> (&rows)[kLanes<S>]) {
  transpose_steps<S, 1>(rows);
}

#if defined(__AVX512BW__)

using Shorts = typename VectorOf<uint16_t>::type;

// The same for 32 x 32 elements of 16 bits: rows are paired first, which costs no shuffle, then two squares of pairs,
// those of the even and those of the odd columns, are transposed.
FUSED_OPS_INLINE void transpose_square(Shorts (&rows)[32]) {
  Vec<float> even[16], odd[16];
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) {
    const Vec<uint32_t> a = (Vec<uint32_t>)rows[2 * i], b = (Vec<uint32_t>)rows[2 * i + 1];
    even[i] = (Vec<float>)((a & 0xffffu) | (b << 16));
    odd[i] = (Vec<float>)((a >> 16) | (b & 0xffff0000u));
  }
  transpose_square<float>(even);
  transpose_square<float>(odd);
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) rows[2 * i] = (Shorts)even[i], rows[2 * i + 1] = (Shorts)odd[i];
}

#endif

// to[c][r] = from[r][c] for r < rows, c < cols; elements are converted between the storage types.
template <typename From, typename To>
inline void transpose(int64_t rows, int64_t cols, const From* from, int64_t from_ld, To* to, int64_t to_ld) {
  using S = Computed<From>;
  constexpr int lanes = kLanes<S>;
  for (int64_t r = 0; r < rows; r += lanes) {
    const int some_rows = rows - r < lanes ? int(rows - r) : lanes;
    for (int64_t c = 0; c < cols; c += lanes) {
      const int some_cols = cols - c < lanes ? int(cols - c) : lanes;
      Vec<S> square[lanes];
      const From* source = from + r * from_ld + c;
      To* target = to + c * to_ld + r;
      if (some_rows == lanes && some_cols == lanes) {
#pragma GCC unroll 16
        for (int i = 0; i < lanes; ++i) square[i] = load(source + i * from_ld);
        transpose_square<S>(square);
#pragma GCC unroll 16
        for (int i = 0; i < lanes; ++i) store(target + i * to_ld, square[i]);
      } else {
        for (int i = 0; i < lanes; ++i) {
          square[i] = i < some_rows ? load(source + i * from_ld, some_cols) : Vec<S>{};
        }
        transpose_square<S>(square);
        for (int i = 0; i < some_cols; ++i) store(target + i * to_ld, square[i], some_rows);
      }
    }
  }
}

}  // namespace FUSED_OPS_ISA
}  // namespace fused_ops
