// One tile of pixels in bfloat16 where the processor multiplies it: its features, their gates and what is mixed with
// them. Names and math are those of cpu_forward.h and fused_ops/selective_share/README.md.
//
// Here pixels are rows and channels columns, as in channels_last, so that features multiply from the left as they are
// and only the weights are rearranged, once per call (cpu_bf16_weights.h). A block of 32 pixels x 32 channels of sums
// becomes gates while it is in the first-level cache.
#pragma once
#include "common/bf16_products.h"
#include "selective_share/cpu_tile.h"

#if defined(__AVX512F__)

namespace fused_ops::selective_share {
inline namespace FUSED_OPS_ISA {

// Where 32 channels of a pixel lie: in a tensor in channels_last, or in scratch memory in tiles.
template <typename U>
struct Rows {
  U* base;
  int64_t group, row, column;  // elements from 16 pixels, one pixel, 32 channels to the next ones

  U* at(int64_t pixel, int64_t column_index) const {
    return base + (pixel >> 4) * group + (pixel & 15) * row + column_index * column;
  }
  operator Rows<const U>() const { return {base, group, row, column}; }
  // From the channel `channel` on, a multiple of 32.
  Rows from(int64_t channel) const { return {base + channel / kBlock * column, group, row, column}; }
};

template <typename U>
Rows<U> rows_of_tensor(U* first_pixel, int64_t channels) {
  return {first_pixel, 16 * channels, channels, kTileRow};
}
template <typename U>
Rows<U> rows_of_tiles(U* tiles, int64_t channels) {
  return {tiles, 16 * channels, kTileRow, kTile};
}

// Which channels of a block of 32 are a tensor's.
struct Lanes {
  int64_t blocks;
  __mmask32 last;

  explicit Lanes(int64_t channels)
      : blocks(in_steps(channels) / kBlock), last(__mmask32(-1) >> (blocks * kBlock - channels)) {}
  __mmask32 of(int64_t block) const { return block + 1 < blocks ? __mmask32(-1) : last; }
};

// The pixels of one tile, in blocks of 32.
struct TiledPlace : Place {
  TiledPlace(const Shape& shape, int64_t tile, int64_t index) : Place(shape, tile, index) { width = blocks() * kBlock; }

  int64_t blocks() const { return (count + kBlock - 1) / kBlock; }
  int64_t rows(int64_t block) const { return count - block * kBlock < kBlock ? count - block * kBlock : kBlock; }

  // For every block of pixels and channels: start(products, block of pixels, block of channels, odd or even) starts
  // what makes its sums, and take(pixel, its block, block of channels, row of the sums, odd or even) works on a pixel of
  // them, while the next block's are made.
  template <typename Products, typename Start, typename Take>
  FUSED_OPS_INLINE void each_product_block(int64_t channels, Start&& start, Take&& take) const {
    Products products;
    const int64_t all = channels / kBlock * blocks();
    start(products, int64_t(0), int64_t(0), 0);
    products.finish();
    int64_t b = 0, n = 0;
    for (int64_t i = 0; i < all; ++i) {
      const int64_t next_b = b + 1 < blocks() ? b + 1 : 0, next_n = next_b ? n : n + 1;
      if (i + 1 < all) start(products, next_b, next_n, int((i + 1) & 1));
      const int64_t first_pixel = b * kBlock, some = rows(b);
      for (int64_t p = 0; p < some; ++p) {
        take(first_pixel + p, b, n, p, int(i & 1));
        products.advance(kBlock);
      }
      products.finish();
      b = next_b, n = next_n;
    }
  }

  // Pixels from `count` to the end of the block, which multiply pixels in the weights' gradients.
  void clear_rest(int64_t channels, const Rows<uint16_t>& rows) const {
    for (int64_t p = count; p < blocks() * kBlock; ++p) {
      for (int64_t n = 0; n < channels / kBlock; ++n) memset(rows.at(p, n), 0, 2 * kTileRow);
    }
  }
  // Channels of this tile's pixels, `ld` elements from one pixel to the next, into tiles and back. What fills up the
  // last tile becomes zero, or is left out.
  void load_rows(const uint16_t* from, int64_t channels, int64_t ld, const Rows<uint16_t>& to) const {
    const Lanes lanes(channels);
    for (int64_t p = 0; p < count; ++p, from += ld) {
      for (int64_t n = 0; n < lanes.blocks; ++n) {
        const __m512i row = _mm512_maskz_loadu_epi16(lanes.of(n), from + n * kTileRow);
        memcpy(to.at(p, n), &row, sizeof(row));
      }
    }
  }
  void save_rows(const Rows<uint16_t>& from, int64_t channels, int64_t ld, uint16_t* to) const {
    const Lanes lanes(channels);
    for (int64_t p = 0; p < count; ++p, to += ld) {
      for (int64_t n = 0; n < lanes.blocks; ++n) {
        __m512i row;
        memcpy(&row, from.at(p, n), sizeof(row));
        _mm512_mask_storeu_epi16(to + n * kTileRow, lanes.of(n), row);
      }
    }
  }
  // All gates' channels, from a tensor in channels_last into tiles.
  void load_gates(const uint16_t* tensor, const Shape& tensors, const Rows<uint16_t>& to) const {
    const int64_t all = tensors.gates();
    each_gate(shape, tensors, [&](int64_t row, int64_t tensor_row, int64_t channels) {
      load_rows(tensor + first * all + tensor_row, channels, all, to.from(row));
    });
  }
  void save_gates(const Rows<uint16_t>& from, const Shape& tensors, uint16_t* tensor) const {
    const int64_t all = tensors.gates();
    each_gate(shape, tensors, [&](int64_t row, int64_t tensor_row, int64_t channels) {
      save_rows(from.from(row), channels, all, tensor + first * all + tensor_row);
    });
  }
  // Features into tiles; pixels beyond the last become zero.
  void load_tiles(const uint16_t* tensor, int64_t channels, uint16_t* tiles) const {
    const Rows<uint16_t> to = rows_of_tiles(tiles, in_steps(channels));
    if (shape.channels_last) {
      load_rows(tensor + first * channels, channels, channels, to);
    } else {
      each_square(channels, [&]<bool whole>(const PlaneRuns& runs, int64_t pixel, int64_t n, int64_t some) {
        Shorts square[kBlock];
        runs.load<whole>(tensor + n * kBlock * shape.pixels, shape.pixels, some, square);
        transpose_square(square);
#pragma GCC unroll 32
        for (int i = 0; i < kBlock; ++i) memcpy(to.at(pixel + i, n), &square[i], sizeof(square[i]));
      });
    }
    clear_rest(in_steps(channels), to);
  }
  // Back from tiles into the tensor.
  void save_tiles(const Rows<uint16_t>& from, int64_t channels, uint16_t* tensor) const {
    if (shape.channels_last) return save_rows(from, channels, channels, tensor + first * channels);
    each_square(channels, [&]<bool whole>(const PlaneRuns& runs, int64_t pixel, int64_t n, int64_t some) {
      Shorts square[kBlock];
#pragma GCC unroll 32
      for (int i = 0; i < kBlock; ++i) memcpy(&square[i], from.at(pixel + i, n), sizeof(square[i]));
      transpose_square(square);
      runs.store<whole>(square, tensor + n * kBlock * shape.pixels, shape.pixels, some);
    });
  }

 private:
  // Where a block of 32 pixels lies in planes: runs of pixels of one image, each the lanes of a vector that it fills
  // and where the vector's first lane would lie, in the plane of channel 0.
  struct PlaneRuns {
    int64_t offset[kBlock];
    __mmask32 lanes[kBlock];
    int count = 0;

    PlaneRuns(const TiledPlace& place, int64_t channels, int64_t pixel) {
      const int64_t pixels = place.shape.pixels, some = place.rows(pixel / kBlock);
      int64_t image = (place.first + pixel) / pixels, in_image = (place.first + pixel) % pixels;
      for (int64_t lane = 0, run; lane < some; lane += run) {
        run = pixels - in_image < some - lane ? pixels - in_image : some - lane;
        offset[count] = image * channels * pixels + in_image - lane;
        lanes[count++] = __mmask32(((uint64_t(1) << run) - 1) << lane);
        ++image, in_image = 0;
      }
    }
    // Vectors of 32 channels, `plane` elements apart; if not `whole`, only `some` of them are there, the rest is zero.
    template <bool whole>
    FUSED_OPS_INLINE void load(const uint16_t* planes, int64_t plane, int64_t some, Shorts (&square)[kBlock]) const {
      const auto there = [&](int i, int c) { return whole || c < some ? lanes[i] : __mmask32(0); };
#pragma GCC unroll 32
      for (int c = 0; c < kBlock; ++c) {
        square[c] = (Shorts)_mm512_maskz_loadu_epi16(there(0, c), planes + offset[0] + c * plane);
      }
      for (int i = 1; i < count; ++i) {
#pragma GCC unroll 32
        for (int c = 0; c < kBlock; ++c) {
          const uint16_t* from = planes + offset[i] + c * plane;
          square[c] = (Shorts)_mm512_mask_loadu_epi16((__m512i)square[c], there(i, c), from);
        }
      }
    }
    template <bool whole>
    FUSED_OPS_INLINE void store(const Shorts (&square)[kBlock], uint16_t* planes, int64_t plane, int64_t some) const {
      for (int i = 0; i < count; ++i) {
#pragma GCC unroll 32
        for (int c = 0; c < kBlock; ++c) {
          const __mmask32 there = whole || c < some ? lanes[i] : __mmask32(0);
          _mm512_mask_storeu_epi16(planes + offset[i] + c * plane, there, (__m512i)square[c]);
        }
      }
    }
  };

  // move<whole>(runs, first pixel, block of channels, how many it has) for the squares of 32 pixels x 32 channels
  template <typename F>
  FUSED_OPS_INLINE void each_square(int64_t channels, F&& move) const {
    const int64_t whole = channels / kBlock, rest = channels % kBlock;
    for (int64_t pixel = 0; pixel < count; pixel += kBlock) {
      const PlaneRuns runs(*this, channels, pixel);
      for (int64_t n = 0; n < whole; ++n) move.template operator()<true>(runs, pixel, n, kBlock);
      if (rest > 0) move.template operator()<false>(runs, pixel, whole, rest);
    }
  }
};

template <typename Job, typename Products>
struct Bf16Tile {
  using Out = Rows<uint16_t>;

  const Job& job;
  const Shape &shape, &tensors;
  TiledPlace place;
  uint16_t* free;
  uint16_t *x, *y, *passed_y, *passed_x;  // in tiles
  Out gates;                              // no base: not wanted
  bool gates_for_later = false;           // they are not read again soon, and begin at a cache line

  // Elements of scratch memory for every pixel.
  static int64_t rows(const Shape& shape) { return 2 * shape.both(); }

  Bf16Tile(const Job& job, int64_t index, uint16_t* scratch)
      : job(job), shape(job.shape), tensors(job.tensors), place(shape, job.tile, index), free(scratch), gates{} {
    x = take(shape.x), y = take(shape.y), passed_y = take(shape.y), passed_x = take(shape.x);
    place.load_tiles(job.x, tensors.x, x);
    place.load_tiles(job.y, tensors.y, y);
  }

  uint16_t* take(int64_t channels) {
    uint16_t* taken = free;
    free += channels * place.width;
    return taken;
  }
  // Where a result for this tile's pixels is written: at once where the tensor's rows are pixels in whole blocks, else
  // to scratch memory, for `finish` to bring there.
  Out output(uint16_t* tensor, int64_t channels) {
    if (has_rows(tensors)) return rows_of_tensor(tensor + place.first * channels, channels);
    return scratch(in_steps(channels));
  }
  void finish(const Out& rows, int64_t channels, uint16_t* tensor) const {
    if (!has_rows(tensors)) place.save_tiles(rows, channels, tensor);
  }
  Out scratch(int64_t channels) { return rows_of_tiles(take(channels), channels); }

  // Features of a block of pixels times the weights of a block of gates, from depth `col` of the weight on.
  static TileTerm term(const uint16_t* features, int64_t channels, int64_t block, const uint16_t* right) {
    return {features + block * kBlock * channels, 16 * channels, kTile, right, channels / kBlock};
  }
  const uint16_t* weight(int which, int64_t block, int64_t col) const {
    return job.across[which] + (block * shape.cols(which) + col) * kBlock;
  }

  // One unit, whose weights begin with `first`: its gates, where they are wanted, and its mix.
  void unit(int first, const uint16_t* target, int64_t t, const uint16_t* source, int64_t s, const Lanes& source_lanes,
            int64_t h_row, int64_t r_row, int64_t z_row, uint16_t* passed, const Out& out) const {
    alignas(64) float sums[2][kSums], h_sums[2][kSums];
    const bool keep = gates.base != nullptr, for_later = gates_for_later, z_keeps = shape.z_keeps;
    const auto keep_gate = [&](uint16_t* to, const Wide& gate) {
      for_later ? store_wide_past_caches(to, gate) : store_wide(to, gate);
    };
    const Rows<const uint16_t> source_rows = rows_of_tiles(source, s), target_rows = rows_of_tiles(target, t);
    const Out passed_rows = rows_of_tiles(passed, s);
    const Out r_rows = gates.from(r_row), h_rows = gates.from(h_row), z_rows = gates.from(z_row);
    const auto of_both = [&](Products& products, int which, int64_t b, int64_t n, int odd) {
      const TileTerm terms[] = {term(target, t, b, weight(which, n, 0)), term(source, s, b, weight(which, n, t))};
      products.start(terms, 2, sums[odd], false);
    };
    place.template each_product_block<Products>(
        s, [&](Products& products, int64_t b, int64_t n, int odd) { of_both(products, first + W_r_x, b, n, odd); },
        [&](int64_t pixel, int64_t, int64_t n, int64_t p, int odd) {
          const float* sum = sums[odd] + sums_row(p);
          const Wide from = load_wide(source_rows.at(pixel, n));
          Wide r, through;
#pragma GCC unroll 2
          for (int i = 0; i < 2; ++i) {
            r.half[i] = sigmoid<float, true>(load(sum + 256 * i));
            through.half[i] = r.half[i] * from.half[i];
          }
          store_lanes(passed_rows.at(pixel, n), through, source_lanes.of(n));
          if (keep) keep_gate(r_rows.at(pixel, n), r);
        });
    place.template each_product_block<Products>(
        t,
        [&](Products& products, int64_t b, int64_t n, int odd) {
          of_both(products, first + W_z_x, b, n, odd);
          const TileTerm terms[] = {term(target, t, b, weight(first + U_x, n, 0)),
                                    term(passed, s, b, weight(first + W_x, n, 0))};
          products.start(terms, 2, h_sums[odd], false);
        },
        [&](int64_t pixel, int64_t, int64_t n, int64_t p, int odd) {
          const int64_t at = sums_row(p);
          const Wide x = load_wide(target_rows.at(pixel, n));
          Wide h, z, mixed;
#pragma GCC unroll 2
          for (int i = 0; i < 2; ++i) {
            h.half[i] = hyperbolic_tangent<float, true>(load(h_sums[odd] + at + 256 * i));
            z.half[i] = sigmoid<float, true>(load(sums[odd] + at + 256 * i));
            const Vec<float> difference = h.half[i] - x.half[i];
            mixed.half[i] = z_keeps ? h.half[i] - z.half[i] * difference : x.half[i] + z.half[i] * difference;
          }
          store_wide(out.at(pixel, n), mixed);
          if (!keep) return;
          keep_gate(h_rows.at(pixel, n), h);
          keep_gate(z_rows.at(pixel, n), z);
        });
  }

  void compute(const Out& x_out, const Out& y_out) const {
    const Lanes of_x(tensors.x), of_y(tensors.y);
    unit(W_r_x, x, shape.x, y, shape.y, of_y, Gates::h_x(shape), Gates::r_x(shape), Gates::z_x(shape), passed_y, x_out);
    if (!shape.pair) return;
    unit(W_r_y, y, shape.y, x, shape.x, of_x, Gates::h_y(shape), Gates::r_y(shape), Gates::z_y(shape), passed_x, y_out);
  }
};

}  // namespace FUSED_OPS_ISA
}  // namespace fused_ops::selective_share

#endif
