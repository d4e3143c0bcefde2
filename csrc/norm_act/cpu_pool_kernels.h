// 2 x 2 max-pooling of z, then the activation, and the way back: see Pooling and Unpooling in kernels.h.
#pragma once

#include "common/transpose.h"
#include "norm_act/cpu_rows.h"

namespace fused_ops::norm_act {
namespace {

template <typename S>
using Places = Vec<Integer<S>>;  // which of the four pixels, lane by lane
template <typename S>
using Bytes = typename VectorOf<uint8_t, kLanes<S>>::type;

template <typename S>
FUSED_OPS_INLINE void store_places(uint8_t* to, Places<S> places, int count) {
  const Bytes<S> bytes = __builtin_convertvector(places, Bytes<S>);
  memcpy(to, &bytes, count);
}
template <typename S>
FUSED_OPS_INLINE Places<S> load_places(const uint8_t* from, int count) {
  Bytes<S> bytes{};
  memcpy(&bytes, from, count);
  return __builtin_convertvector(bytes, Places<S>);
}

// The largest so far; NaN is larger than all.
template <typename S>
struct Largest {
  Vec<S> value;
  Places<S> place{};

  FUSED_OPS_INLINE explicit Largest(Vec<S> first) : value(first) {}
  FUSED_OPS_INLINE void consider(Vec<S> other, int at) {
    const auto larger = (other > value) | (other != other);
    value = larger ? other : value;
    place = larger ? Places<S>{} + Integer<S>(at) : place;
  }
};

FUSED_OPS_INLINE int lanes_of(Whole, int all) { return all; }
FUSED_OPS_INLINE int lanes_of(Partial at, int) { return at.count; }

// ---- channels: a row is a pixel -------------------------------------------------------------------------------------

// Calls work(pooled pixel, its four pixels' first) for some pooled lines, counted over all samples.
template <typename F>
FUSED_OPS_INLINE void each_pooled_pixel(int64_t height, int64_t width, int64_t first, int64_t lines, F&& work) {
  const int64_t high = height / 2, wide = width / 2;
  for (int64_t line = first; line < first + lines; ++line) {
    const int64_t from = (line / high * height + line % high * 2) * width;
    for (int64_t col = 0; col < wide; ++col) work(line * wide + col, from + 2 * col);
  }
}

template <Activation kind, typename T>
void pool_channels(const Block<T>& block, Computed<T> slope, const Pooling<T>& to) {
  using S = Computed<T>;
  each_pooled_pixel(to.height, to.width, to.first, to.lines, [&](int64_t pooled, int64_t pixel) {
    const Row<T, Channels> rows[4] = {{block, pixel}, {block, pixel + 1}, {block, pixel + to.width},
                                      {block, pixel + to.width + 1}};
    T* y = to.y + pooled * block.cols;
    uint8_t* winner = to.winner ? to.winner + pooled * block.cols : nullptr;
    each<S>(0, block.cols, [&](auto at) {
      Largest<S> largest(rows[0].z(at, rows[0].centred(at)));
#pragma GCC unroll 3
      for (int i = 1; i < 4; ++i) largest.consider(rows[i].z(at, rows[i].centred(at)), i);
      at.put(y, activate<kind, VectorMath<S>>(largest.value, slope));
      if (winner) store_places<S>(winner + at.col, largest.place, lanes_of(at, kLanes<S>));
    });
  });
}

template <Activation kind, typename T, typename At>
FUSED_OPS_INLINE auto gradient_of_largest(const Unpooling<T>& from, int64_t offset, At at, Computed<T> slope) {
  using S = Computed<T>;
  const Vec<S> grad = at.get(from.grad + offset);
  if constexpr (kind == Activation::identity) return grad;
  return grad * derivative_from_output<kind, VectorMath<S>>(at.get(from.y + offset), slope);
}

template <Activation kind, typename T>
void unpool_channels(const Unpooling<T>& from, Computed<T> slope, int64_t first, int64_t lines) {
  using S = Computed<T>;
  const int64_t c = from.channels, width = from.width;
  const int64_t places[4] = {0, c, width * c, (width + 1) * c};
  each_pooled_pixel(from.height, width, first, lines, [&](int64_t pooled, int64_t pixel) {
    T* to = from.grad_z + pixel * c;
    each<S>(0, c, [&](auto at) {
      const Vec<S> grad = gradient_of_largest<kind>(from, pooled * c, at, slope);
      const Places<S> winner = load_places<S>(from.winner + pooled * c + at.col, lanes_of(at, kLanes<S>));
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) at.put(to + places[i], winner == Integer<S>(i) ? grad : Vec<S>{});
    });
  });
}

// ---- planes: a row is a plane ---------------------------------------------------------------------------------------

// The even (or odd) lanes of two vectors that lie side by side.
template <typename S, bool odd>
FUSED_OPS_INLINE Vec<S> every_second(Vec<S> low, Vec<S> high) {
  Places<S> mask;
  for (int lane = 0; lane < kLanes<S>; ++lane) mask[lane] = 2 * lane + odd;
  return pick<S>(low, high, mask);
}

// The lower (or upper) half of what every_second() took apart.
template <typename S, bool upper>
FUSED_OPS_INLINE Vec<S> side_by_side(Vec<S> even, Vec<S> odd) {
  Places<S> mask;
  for (int lane = 0; lane < kLanes<S>; ++lane) {
    mask[lane] = lane / 2 + (upper ? kLanes<S> / 2 : 0) + (lane % 2 ? kLanes<S> : 0);
  }
  return pick<S>(even, odd, mask);
}

template <bool upper>
struct Half {
  static constexpr bool value = upper;
};

// Twice as many lanes from column `col` on as `count` pooled ones take, as two vectors: work(low), work(high).
template <typename S, typename F>
FUSED_OPS_INLINE void each_half(int64_t col, int count, F&& work) {
  if (count == kLanes<S>) {
    work(Whole{col}, Half<false>{});
    work(Whole{col + kLanes<S>}, Half<true>{});
    return;
  }
  const int low = int(smaller(2 * count, kLanes<S>));
  work(Partial{col, low}, Half<false>{});
  if (2 * count > low) work(Partial{col + kLanes<S>, 2 * count - low}, Half<true>{});
}

template <Activation kind, typename T>
void pool_planes(const Block<T>& block, Computed<T> slope, const Pooling<T>& to) {
  using S = Computed<T>;
  const int64_t high = to.height / 2, wide = to.width / 2;
  for (int64_t i = 0; i < block.rows; ++i) {
    const Row<T, Planes> row(block, i);
    for (int64_t line = 0; line < high; ++line) {
      T* y = to.y + i * to.ld + line * wide;
      uint8_t* winner = to.winner ? to.winner + i * to.ld + line * wide : nullptr;
      each<S>(0, wide, [&](auto at) {
        const int count = lanes_of(at, kLanes<S>);
        Vec<S> z[2][2] = {};
#pragma GCC unroll 2
        for (int below = 0; below < 2; ++below) {
          each_half<S>((2 * line + below) * to.width + 2 * at.col, count, [&](auto half, auto upper) {
            z[below][upper.value] = row.z(half, row.centred(half));
          });
        }
        Largest<S> largest(every_second<S, false>(z[0][0], z[0][1]));
        largest.consider(every_second<S, true>(z[0][0], z[0][1]), 1);
        largest.consider(every_second<S, false>(z[1][0], z[1][1]), 2);
        largest.consider(every_second<S, true>(z[1][0], z[1][1]), 3);
        at.put(y, activate<kind, VectorMath<S>>(largest.value, slope));
        if (winner) store_places<S>(winner + at.col, largest.place, count);
      });
    }
  }
}

template <Activation kind, typename T>
void unpool_planes(const Unpooling<T>& from, Computed<T> slope, int64_t first, int64_t lines) {
  using S = Computed<T>;
  const int64_t high = from.height / 2, wide = from.width / 2;
  for (int64_t line = first; line < first + lines; ++line) {
    T* to = from.grad_z + (line / high * from.height + line % high * 2) * from.width;
    each<S>(0, wide, [&](auto at) {
      const int count = lanes_of(at, kLanes<S>);
      const Vec<S> grad = gradient_of_largest<kind>(from, line * wide, at, slope), none{};
      const Places<S> winner = load_places<S>(from.winner + line * wide + at.col, count);
#pragma GCC unroll 2
      for (int below = 0; below < 2; ++below) {
        const Vec<S> even = winner == Integer<S>(2 * below) ? grad : none;
        const Vec<S> odd = winner == Integer<S>(2 * below + 1) ? grad : none;
        each_half<S>(below * from.width + 2 * at.col, count, [&](auto half, auto upper) {
          half.put(to, side_by_side<S, upper.value>(even, odd));
        });
      }
    });
  }
}

}  // namespace
}  // namespace fused_ops::norm_act
