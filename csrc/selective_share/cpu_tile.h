// The blocks of one tile: moving them between tensors and scratch memory, and the gates' arithmetic on them.
#pragma once
#include "common/transpose.h"
#include "selective_share/gate_functions.h"
#include "selective_share/kernels.h"

namespace fused_ops::selective_share {
inline namespace FUSED_OPS_ISA {

template <typename T>
struct StoredAs {
  using type = T;
};
template <>
struct StoredAs<uint16_t> {
  using type = BFloat16;
};
template <typename T>
using Stored = typename StoredAs<T>::type;

template <typename T>
const Stored<T>* stored(const T* p) {
  return reinterpret_cast<const Stored<T>*>(p);
}
template <typename T>
Stored<T>* stored(T* p) {
  return reinterpret_cast<Stored<T>*>(p);
}

template <typename From, typename To>
FUSED_OPS_INLINE void copy_row(int64_t count, const From* from, To* to) {
  constexpr int lanes = kLanes<Compute<From>>;
  int64_t i = 0;
  for (; i + lanes <= count; i += lanes) store(to + i, load(from + i));
  if (i < count) store(to + i, load(from + i, int(count - i)), int(count - i));
}

// The same past the caches, for what is not read again soon; only in whole cache lines, since parts of one cost more.
template <typename From, typename To>
FUSED_OPS_INLINE void copy_row_past_caches(int64_t count, const From* from, To* to) {
  if constexpr (std::is_same_v<To, float>) {
    constexpr int64_t line = 64;
    if (reinterpret_cast<uintptr_t>(to) % line == 0 && count * int64_t(sizeof(To)) % line == 0) {
      for (int64_t i = 0; i < count; i += kLanes<To>) store_past_caches(to + i, load(from + i));
      return;
    }
  }
  copy_row(count, from, to);
}

// The pixels of one tile.
struct Place {
  const Shape& shape;
  int64_t width;  // columns of the blocks, of which the first `count` are pixels
  int64_t first, count;

  Place(const Shape& shape, int64_t tile, int64_t index) : shape(shape), width(tile), first(index * tile), count(tile) {
    const int64_t left = shape.images * shape.pixels - first;
    if (left < tile) count = left, width = last_width(tile, left);
  }

  // move(image, its pixel, column, pixels) for each image that has pixels in the tile
  template <typename F>
  FUSED_OPS_INLINE void each_image(F&& move) const {
    for (int64_t done = 0; done < count;) {
      const int64_t image = (first + done) / shape.pixels, pixel = (first + done) % shape.pixels;
      int64_t run = shape.pixels - pixel;
      if (run > count - done) run = count - done;
      move(image, pixel, done, run);
      done += run;
    }
  }

  // Fill a block (channels x width) from a tensor; columns beyond the last pixel become zero.
  template <typename T, typename S>
  void load(const T* tensor, int64_t channels, bool channels_last, S* block) const {
    if (channels_last) {
      transpose(count, channels, stored(tensor) + first * channels, channels, block, width);
    } else {
      each_image([&](int64_t image, int64_t pixel, int64_t column, int64_t run) {
        const auto* from = stored(tensor) + image * channels * shape.pixels + pixel;
        for (int64_t c = 0; c < channels; ++c) copy_row(run, from + c * shape.pixels, block + c * width + column);
      });
    }
    if (count == width) return;
    for (int64_t c = 0; c < channels; ++c) {
      for (int64_t column = count; column < width; ++column) block[c * width + column] = S(0);
    }
  }

  // `for_later`: the tensor is not read again soon.
  template <typename T, typename S>
  void save(const S* block, int64_t channels, bool channels_last, T* tensor, bool for_later = false) const {
    if (channels_last) {
      transpose(channels, count, block, width, stored(tensor) + first * channels, channels);
    } else {
      each_image([&](int64_t image, int64_t pixel, int64_t column, int64_t run) {
        auto* to = stored(tensor) + image * channels * shape.pixels + pixel;
        for (int64_t c = 0; c < channels; ++c) {
          const S* row = block + c * width + column;
          for_later ? copy_row_past_caches(run, row, to + c * shape.pixels) : copy_row(run, row, to + c * shape.pixels);
        }
      });
    }
  }
};

// --- the gates' arithmetic, over contiguous blocks of whole vectors ------------------------------------------------

template <typename S, typename F>
FUSED_OPS_INLINE void each_vector(int64_t count, F&& body) {
  for (int64_t i = 0; i < count; i += kLanes<S>) body(i);
}

// gate = sigmoid(gate); passed = gate . source
template <typename S, bool low>
void reset(int64_t count, S* gate, const S* source, S* passed) {
  each_vector<S>(count, [&](int64_t i) {
    const Vec<S> r = sigmoid<S, low>(load(gate + i));
    store(gate + i, r);
    store(passed + i, r * load(source + i));
  });
}

// h = tanh(h); z = sigmoid(z); target = the mix of target and h
template <typename S, bool low>
void mix(int64_t count, S* h_block, S* z_block, S* target, bool z_keeps) {
  each_vector<S>(count, [&](int64_t i) {
    const Vec<S> h = hyperbolic_tangent<S, low>(load(h_block + i)), z = sigmoid<S, low>(load(z_block + i));
    const Vec<S> x = load(target + i);
    store(h_block + i, h);
    store(z_block + i, z);
    store(target + i, z_keeps ? h + z * (x - h) : x + z * (h - x));
  });
}

// From the gradient of the mix: those before h's tanh and z's sigmoid, and what reaches the target around the gates.
// grad_h and grad_z reach the gates from outside and may be null.
template <typename S>
void unmix(int64_t count, const S* grad, const S* target, const S* h_block, const S* z_block, const S* grad_h,
           const S* grad_z, S* pre_h, S* pre_z, S* grad_target, bool z_keeps) {
  each_vector<S>(count, [&](int64_t i) {
    const Vec<S> g = load(grad + i), h = load(h_block + i), z = load(z_block + i);
    const Vec<S> accepted = g * z, declined = g - accepted;
    const Vec<S> difference = load(target + i) - h;
    Vec<S> to_h = z_keeps ? declined : accepted;
    Vec<S> to_z = z_keeps ? g * difference : -(g * difference);
    if (grad_h) to_h += load(grad_h + i);
    if (grad_z) to_z += load(grad_z + i);
    store(pre_h + i, to_h * (S(1) - h * h));
    store(pre_z + i, to_z * z * (S(1) - z));
    store(grad_target + i, z_keeps ? accepted : declined);
  });
}

// From the gradient of the passed source (gate . source), which is overwritten by the passed source itself: the one
// before the gate's sigmoid; grad_source += what reaches the source through the gate. grad_gate may be null.
template <typename S>
void unreset(int64_t count, const S* gate, const S* source, const S* grad_gate, S* passed, S* pre_gate,
             S* grad_source) {
  each_vector<S>(count, [&](int64_t i) {
    const Vec<S> g = load(passed + i), r = load(gate + i), y = load(source + i);
    Vec<S> to_r = g * y;
    if (grad_gate) to_r += load(grad_gate + i);
    store(pre_gate + i, to_r * r * (S(1) - r));
    store(grad_source + i, load(grad_source + i) + g * r);
    store(passed + i, r * y);
  });
}

}  // namespace FUSED_OPS_ISA
}  // namespace fused_ops::selective_share
