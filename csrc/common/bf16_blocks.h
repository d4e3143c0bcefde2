// How bfloat16 lies for matrix products with float sums, and a pixel's channels in float.
//
// Everything lies in tiles of 16 rows of 64 bytes, one after the other in memory, since a tile whose rows lie far apart
// takes many pages and few sets of a cache. A tile of features or of gradients is 16 pixels x 32 channels. A tile that
// multiplies from the left is rows x depth; one that multiplies from the right interleaves pairs of depths: each 32-bit
// element holds two consecutive depths of one column. The unit of work is a block of 32 rows x 32 columns of sums
// (bf16_products.h).
//
// The instructions beyond AVX-512 are written out, so that no compiler flag is needed; whether the processor has them
// is isa.h's to say.
#pragma once

#include "transpose.h"

#if defined(__AVX512F__)
#if defined(FUSED_OPS_EMULATE_BF16)
#include "bf16_emulation.h"
#endif

namespace fused_ops {
inline namespace FUSED_OPS_ISA {

inline constexpr int64_t kTile = 512;          // bfloat16 elements of a tile
inline constexpr int64_t kTileRow = 32;        // of a row
inline constexpr int64_t kBlock = 32;          // rows and columns of a block of sums
inline constexpr int64_t kSums = 32 * 32;      // floats of a block of sums: four tiles of 16 x 16

// Where row `row` (0 to 31) of a block of sums begins: its first 16 columns; the others lie 256 floats further on.
FUSED_OPS_INLINE int64_t sums_row(int64_t row) { return (row >> 4) * 512 + (row & 15) * 16; }

// --- 32 channels of a pixel: a tile's row, in float ------------------------------------------------------------------

struct Wide {
  Vec<float> half[2];
};

FUSED_OPS_INLINE Wide load_wide(const uint16_t* p) {
  Wide wide;
  for (int i = 0; i < 2; ++i) {
    const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + 16 * i));
    wide.half[i] = (Vec<float>)((Vec<uint32_t>)_mm512_maskz_cvtepu16_epi32(__mmask16(-1), half) << 16);
  }
  return wide;
}
FUSED_OPS_INLINE Wide load_wide(const float* low, const float* high) { return {{load(low), load(high)}}; }

FUSED_OPS_INLINE Wide operator+(const Wide& a, const Wide& b) {
  return {{a.half[0] + b.half[0], a.half[1] + b.half[1]}};
}

// Rounded to the nearest, ties to even, in one instruction (AVX512-BF16); subnormal numbers become zero.
FUSED_OPS_INLINE Shorts narrow(const Wide& v) {
  Shorts both;
#if defined(FUSED_OPS_EMULATE_BF16)
  const HalfWidthShorts halves[2] = {narrow(v.half[0]), narrow(v.half[1])};
  memcpy(&both, halves, sizeof(both));
#else
  __asm__("vcvtne2ps2bf16 %1, %2, %0" : "=v"(both) : "v"(v.half[0]), "v"(v.half[1]));
#endif
  return both;
}
FUSED_OPS_INLINE void store_wide(uint16_t* p, const Wide& v) {
  const Shorts both = narrow(v);
  memcpy(p, &both, sizeof(both));
}
// The same with zero in all other lanes.
FUSED_OPS_INLINE void store_lanes(uint16_t* p, const Wide& v, __mmask32 lanes) {
  const __m512i both = _mm512_maskz_mov_epi16(lanes, (__m512i)narrow(v));
  memcpy(p, &both, sizeof(both));
}
// All lanes of what is not read again soon, at a cache line's beginning: it need not be read before it is written.
FUSED_OPS_INLINE void store_wide_past_caches(uint16_t* p, const Wide& v) {
  _mm512_stream_si512(reinterpret_cast<__m512i*>(p), (__m512i)narrow(v));
}

// --- rearranging -----------------------------------------------------------------------------------------------------

// 32 rows of 32 elements, rows `ld` apart and the lower 16 `half` beyond the upper ones, as the two tiles that multiply
// from the right: rows are depths.
FUSED_OPS_INLINE void pair_rows(const uint16_t* from, int64_t ld, int64_t half, uint16_t* to) {
  Shorts first, second;
  for (int i = 0; i < 32; ++i) {
    first[i] = uint16_t(i / 2 + (i & 1) * 32);
    second[i] = uint16_t(16 + i / 2 + (i & 1) * 32);
  }
  for (int i = 0; i < 16; ++i) {
    __m512i even, odd;
    const uint16_t* row = from + (i >> 3) * half + 2 * (i & 7) * ld;
    memcpy(&even, row, sizeof(even));
    memcpy(&odd, row + ld, sizeof(odd));
    const __m512i pairs[2] = {_mm512_permutex2var_epi16(even, (__m512i)first, odd),
                              _mm512_permutex2var_epi16(even, (__m512i)second, odd)};
    memcpy(to + i * kTileRow, &pairs[0], sizeof(even));
    memcpy(to + kTile + i * kTileRow, &pairs[1], sizeof(even));
  }
}

// 32 rows of 32 elements as the two tiles that multiply from the right: columns are depths.
FUSED_OPS_INLINE void pair_columns(const uint16_t* from, int64_t ld, uint16_t* to) {
  for (int half = 0; half < 2; ++half, from += 16 * ld, to += kTile) {
    Vec<float> square[16];
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) memcpy(&square[i], from + i * ld, sizeof(square[i]));
    transpose_square<float>(square);
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) memcpy(to + i * kTileRow, &square[i], sizeof(square[i]));
  }
}

// 32 rows of 32 elements in two tiles, the lower one `half` beyond the upper, transposed: two tiles that multiply from
// the left, whose depths are the former rows.
FUSED_OPS_INLINE void turn_rows(const uint16_t* from, int64_t half, uint16_t* to) {
  Shorts rows[32];
#pragma GCC unroll 32
  for (int i = 0; i < 32; ++i) memcpy(&rows[i], from + (i >> 4) * half + (i & 15) * kTileRow, sizeof(rows[i]));
  transpose_square(rows);
#pragma GCC unroll 32
  for (int i = 0; i < 32; ++i) memcpy(to + i * kTileRow, &rows[i], sizeof(rows[i]));
}

}  // namespace FUSED_OPS_ISA
}  // namespace fused_ops

#endif
