// The instructions of bf16_blocks.h and bf16_products.h in plain C++, far slower: CXXFLAGS=-DFUSED_OPS_EMULATE_BF16
// builds a library whose kernels on them run, and can be tested, on any processor with AVX-512.
#pragma once
#include "vec.h"

namespace fused_ops {
inline namespace FUSED_OPS_ISA {

// One thread's eight tiles of 16 rows of 64 bytes.
inline thread_local uint32_t emulated_tiles[8][16][16];

inline float low_half(uint32_t pair) { return to_scalar(BFloat16{uint16_t(pair)}); }
inline float high_half(uint32_t pair) { return to_scalar(BFloat16{uint16_t(pair >> 16)}); }

// sums (float) += left x right, pairs of bfloat16: left is rows x pairs, right is pairs x columns.
inline void emulated_multiply(int sums, int left, int right) {
  for (int row = 0; row < 16; ++row) {
    for (int column = 0; column < 16; ++column) {
      float sum;
      memcpy(&sum, &emulated_tiles[sums][row][column], sizeof(sum));
      for (int pair = 0; pair < 16; ++pair) {
        const uint32_t a = emulated_tiles[left][row][pair], b = emulated_tiles[right][pair][column];
        sum += low_half(a) * low_half(b) + high_half(a) * high_half(b);
      }
      memcpy(&emulated_tiles[sums][row][column], &sum, sizeof(sum));
    }
  }
}

// What vdpbf16ps adds to the sums.
inline Vec<float> emulated_dot(Vec<float> sums, Vec<uint32_t> a, Vec<uint32_t> b) {
  const auto upper = [](Vec<uint32_t> pairs) { return (Vec<float>)(pairs >> 16 << 16); };
  const auto lower = [](Vec<uint32_t> pairs) { return (Vec<float>)(pairs << 16); };
  return sums + upper(a) * upper(b) + lower(a) * lower(b);
}

}  // namespace FUSED_OPS_ISA
}  // namespace fused_ops

#define FUSED_OPS_TILE_ZERO(tile) memset(emulated_tiles[tile], 0, sizeof(emulated_tiles[tile]))
#define FUSED_OPS_TILE_LOAD(tile, base) memcpy(emulated_tiles[tile], base, sizeof(emulated_tiles[tile]))
#define FUSED_OPS_TILE_STORE(tile, base) memcpy(base, emulated_tiles[tile], sizeof(emulated_tiles[tile]))
#define FUSED_OPS_TILE_MULTIPLY(sum, left, right) emulated_multiply(sum, left, right)
