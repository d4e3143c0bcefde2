// Matrix products of bfloat16 on AMX tiles, with float sums.
//
// Everything lies in tiles of 16 rows of 64 bytes, one after the other in memory, since a tile whose rows lie far apart
// takes many pages and few sets of a cache. A tile of features or of gradients is 16 pixels x 32 channels. A tile that
// multiplies from the left is rows x depth; one that multiplies from the right interleaves pairs of depths: each 32-bit
// element holds two consecutive depths of one column. The unit of work is a block of 32 rows x 32 columns of sums, two
// tiles by two: it takes two tiles of each side for 32 of the depth.
//
// The instructions are written out, so that no compiler flag is needed; whether the processor has them is isa.h's to
// say.
#pragma once

#include "transpose.h"

#if defined(__AVX512F__)
#if defined(FUSED_OPS_EMULATE_AMX)
#include "amx_emulation.h"
#endif

namespace fused_ops {
inline namespace FUSED_OPS_ISA {

inline constexpr int64_t kTile = 512;          // bfloat16 elements of a tile
inline constexpr int64_t kTileRow = 32;        // of a row
inline constexpr int64_t kBlock = 32;          // rows and columns of a block of sums
inline constexpr int64_t kSums = 32 * 32;      // floats of a block of sums: four tiles of 16 x 16

// Tiles of 16 rows of 64 bytes for this thread, while the object lives.
class AmxTiles {
 public:
#if defined(FUSED_OPS_EMULATE_AMX)
  AmxTiles() {}
  ~AmxTiles() {}
#else
  AmxTiles() {
    struct alignas(64) {
      uint8_t palette = 1, start_row = 0, reserved[14] = {};
      uint16_t bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
      uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
    } config;
    __asm__ volatile("ldtilecfg %0" ::"m"(config));
  }
  ~AmxTiles() { __asm__ volatile("tilerelease"); }
#endif
  AmxTiles(const AmxTiles&) = delete;
  AmxTiles& operator=(const AmxTiles&) = delete;
};

// What one step of 32 depths takes lies `left_step` elements beyond what the step before took; the tile of the lower 16
// rows lies `left_half` beyond that of the upper ones. The right side's tiles lie one after the other.
struct TileTerm {
  const uint16_t* left;
  int64_t left_half, left_step;
  const uint16_t* right;
  int64_t steps;
};

#if !defined(FUSED_OPS_EMULATE_AMX)
#define FUSED_OPS_TILE_ZERO(tile) __asm__ volatile("tilezero %%tmm" #tile ::)
#define FUSED_OPS_TILE_LOAD(tile, base) \
  __asm__ volatile("tileloadd (%0,%1,1), %%tmm" #tile ::"r"((const void*)(base)), "r"(int64_t(64)))
#define FUSED_OPS_TILE_STORE(tile, base) \
  __asm__ volatile("tilestored %%tmm" #tile ", (%0,%1,1)" ::"r"((void*)(base)), "r"(int64_t(64)) : "memory")
#define FUSED_OPS_TILE_MULTIPLY(sum, left, right) \
  __asm__ volatile("tdpbf16ps %%tmm" #right ", %%tmm" #left ", %%tmm" #sum ::)
#endif

// Blocks of sums in the making. Tiles 0 to 3 hold the sums of one block. A block's steps can be taken a few at a time
// (`advance`) between the vector instructions that work on the block before: the two kinds of instructions have units
// of their own, and both would idle if one came after the other.
class BlockProducts {
 public:
  // sums (a block) = the sum of the terms, plus `sums` if `add`. At most kMost terms in all.
  FUSED_OPS_INLINE void start(const TileTerm* terms, int count, float* sums, bool add) {
    for (int t = 0; t < count; ++t) {
      parts_[count_++] = {terms[t], sums, t == 0, t + 1 == count, add};
      total_ += terms[t].steps;
    }
    // The compiler must have stored by now what the tiles' loads, of which it does not know, will read.
    __asm__ volatile("" ::: "memory");
  }
  // One of `parts` equal parts of the steps.
  FUSED_OPS_INLINE void advance(int64_t parts) {
    for (due_ += total_; due_ >= parts; due_ -= parts) {
      if (at_ < count_) step();
    }
  }
  FUSED_OPS_INLINE void finish() {
    while (at_ < count_) step();
    count_ = at_ = 0;
    total_ = due_ = 0;
  }

 private:
  static constexpr int kMost = 6;
  struct Part {
    TileTerm term;
    float* sums;
    bool first, last, add;
  };
  Part parts_[kMost];
  int count_ = 0, at_ = 0;
  int64_t step_ = 0, total_ = 0, due_ = 0;

  FUSED_OPS_INLINE void step() {
    const Part& part = parts_[at_];
    const TileTerm& term = part.term;
    if (step_ == 0 && part.first) begin(part.sums, part.add);
    const uint16_t *left = term.left + step_ * term.left_step, *right = term.right + step_ * 2 * kTile;
    FUSED_OPS_TILE_LOAD(4, left);
    FUSED_OPS_TILE_LOAD(6, right);
    FUSED_OPS_TILE_MULTIPLY(0, 4, 6);
    FUSED_OPS_TILE_LOAD(7, right + kTile);
    FUSED_OPS_TILE_MULTIPLY(1, 4, 7);
    FUSED_OPS_TILE_LOAD(5, left + term.left_half);
    FUSED_OPS_TILE_MULTIPLY(2, 5, 6);
    FUSED_OPS_TILE_MULTIPLY(3, 5, 7);
    if (++step_ < term.steps) return;
    step_ = 0, ++at_;
    if (part.last) end(part.sums);
  }
  static FUSED_OPS_INLINE void begin(const float* sums, bool add) {
    if (add) {
      FUSED_OPS_TILE_LOAD(0, sums);
      FUSED_OPS_TILE_LOAD(1, sums + 256);
      FUSED_OPS_TILE_LOAD(2, sums + 512);
      FUSED_OPS_TILE_LOAD(3, sums + 768);
    } else {
      FUSED_OPS_TILE_ZERO(0);
      FUSED_OPS_TILE_ZERO(1);
      FUSED_OPS_TILE_ZERO(2);
      FUSED_OPS_TILE_ZERO(3);
    }
  }
  static FUSED_OPS_INLINE void end(float* sums) {
    FUSED_OPS_TILE_STORE(0, sums);
    FUSED_OPS_TILE_STORE(1, sums + 256);
    FUSED_OPS_TILE_STORE(2, sums + 512);
    FUSED_OPS_TILE_STORE(3, sums + 768);
  }
};

#undef FUSED_OPS_TILE_ZERO
#undef FUSED_OPS_TILE_LOAD
#undef FUSED_OPS_TILE_STORE
#undef FUSED_OPS_TILE_MULTIPLY

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
#if defined(FUSED_OPS_EMULATE_AMX)
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
// The same for what is not read again soon, at a cache line's beginning: it need not be read before it is written.
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
    Shorts even, odd;
    const uint16_t* row = from + (i >> 3) * half + 2 * (i & 7) * ld;
    memcpy(&even, row, sizeof(even));
    memcpy(&odd, row + ld, sizeof(odd));
    const Shorts pairs[2] = {__builtin_shuffle(even, odd, first), __builtin_shuffle(even, odd, second)};
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
