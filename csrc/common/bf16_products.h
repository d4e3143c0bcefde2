// Blocks of sums of bfloat16 products: on matrix tiles (AMX) or by dot products of pairs (AVX512-BF16).
//
// Both take a block's terms with start(terms, count, sums, add), which makes sums (a block) = the sum of the terms,
// plus `sums` if `add`; advance(parts) does one of `parts` equal parts of what was started, if that is of use between
// other instructions, and finish() the rest. An object of Registers lives as long as a thread makes products.
#pragma once

#include "bf16_blocks.h"

#if defined(__AVX512F__)

namespace fused_ops {
inline namespace FUSED_OPS_ISA {

// What one step of 32 depths takes lies `left_step` elements beyond what the step before took; the tile of the lower 16
// rows lies `left_half` beyond that of the upper ones. The right side's tiles lie one after the other.
struct TileTerm {
  const uint16_t* left;
  int64_t left_half, left_step;
  const uint16_t* right;
  int64_t steps;
};

#if !defined(FUSED_OPS_EMULATE_BF16)
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
class TileProducts {
 public:
  // Tiles of 16 rows of 64 bytes for this thread, while the object lives.
  class Registers {
   public:
#if defined(FUSED_OPS_EMULATE_BF16)
    Registers() {}
    ~Registers() {}
#else
    Registers() {
      struct alignas(64) {
        uint8_t palette = 1, start_row = 0, reserved[14] = {};
        uint16_t bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
        uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
      } config;
      __asm__ volatile("ldtilecfg %0" ::"m"(config));
    }
    ~Registers() { __asm__ volatile("tilerelease"); }
#endif
    Registers(const Registers&) = delete;
    Registers& operator=(const Registers&) = delete;
  };

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

// Each block in strips of 8 rows, whose sums stay in registers over all terms.
class DotProducts {
 public:
  struct Registers {};

  FUSED_OPS_INLINE void start(const TileTerm* terms, int count, float* sums, bool add) {
    Started& block = started_[count_++];
    for (int t = 0; t < count; ++t) block.terms[t] = terms[t];
    block.count = count, block.sums = sums, block.add = add;
  }
  // These have no unit of their own that could work besides.
  FUSED_OPS_INLINE void advance(int64_t) {}
  FUSED_OPS_INLINE void finish() {
    for (int i = 0; i < count_; ++i) {
      for (int64_t row = 0; row < kBlock; row += kStrip) multiply(started_[i], row);
    }
    count_ = 0;
  }

 private:
  static constexpr int kStrip = 8, kMostTerms = 5, kMostBlocks = 2;
  struct Started {
    TileTerm terms[kMostTerms];
    int count;
    float* sums;
    bool add;
  };
  Started started_[kMostBlocks];
  int count_ = 0;

  // sums + products of a pair of depths of one row with those of 16 columns
  static FUSED_OPS_INLINE Vec<float> add_pair(Vec<float> sums, Vec<uint32_t> row, Vec<uint32_t> columns) {
#if defined(FUSED_OPS_EMULATE_BF16)
    return emulated_dot(sums, row, columns);
#else
    __asm__("vdpbf16ps %2, %1, %0" : "+v"(sums) : "v"(row), "v"(columns));
    return sums;
#endif
  }

  static void multiply(const Started& block, int64_t row) {
    float* to = block.sums + sums_row(row);
    Vec<float> sums[kStrip][2];
#pragma GCC unroll 8
    for (int r = 0; r < kStrip; ++r) {
      for (int half = 0; half < 2; ++half) {
        sums[r][half] = block.add ? load(to + 16 * r + 256 * half) : Vec<float>{};
      }
    }
    for (int t = 0; t < block.count; ++t) {
      const TileTerm& term = block.terms[t];
      const uint16_t *left = term.left + (row >> 4) * term.left_half + (row & 15) * kTileRow, *right = term.right;
      for (int64_t step = 0; step < term.steps; ++step, left += term.left_step, right += 2 * kTile) {
#pragma GCC unroll 4
        for (int64_t pair = 0; pair < kTileRow; pair += 2) {
          Vec<uint32_t> columns[2];
          memcpy(&columns[0], right + pair * 16, kVectorBytes);
          memcpy(&columns[1], right + kTile + pair * 16, kVectorBytes);
#pragma GCC unroll 8
          for (int r = 0; r < kStrip; ++r) {
            uint32_t both;
            memcpy(&both, left + r * kTileRow + pair, sizeof(both));
            const Vec<uint32_t> row_pair = Vec<uint32_t>{} + both;
            sums[r][0] = add_pair(sums[r][0], row_pair, columns[0]);
            sums[r][1] = add_pair(sums[r][1], row_pair, columns[1]);
          }
        }
      }
    }
#pragma GCC unroll 8
    for (int r = 0; r < kStrip; ++r) {
      for (int half = 0; half < 2; ++half) store(to + 16 * r + 256 * half, sums[r][half]);
    }
  }
};

}  // namespace FUSED_OPS_ISA
}  // namespace fused_ops

#endif
