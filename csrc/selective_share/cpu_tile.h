// The blocks of one tile: where they lie in tensors or scratch memory, and the gates' arithmetic on them.
#pragma once
#include "common/transpose.h"
#include "selective_share/gate_functions.h"
#include "selective_share/kernels.h"

namespace fused_ops::selective_share {
inline namespace FUSED_OPS_ISA {

template <typename From, typename To>
FUSED_OPS_INLINE void copy_row(int64_t count, const From* from, To* to) {
  constexpr int lanes = kLanes<Computed<From>>;
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
  int64_t width;  // pixels of the blocks, of which the first `count` are the tensors'
  int64_t first, count;

  Place(const Shape& shape, int64_t tile, int64_t index) : shape(shape), width(tile), first(index * tile), count(tile) {
    const int64_t left = shape.images * shape.pixels - first;
    if (left < tile) count = left, width = shape.in_place ? left : last_width(tile, left);
  }

  // The features of the tile: in the tensor, or in the block, which is filled from it.
  template <typename T, typename S>
  const S* read(const T* tensor, int64_t channels, S* block) const {
    if constexpr (std::is_same_v<T, S>) {
      if (shape.in_place) return tensor + first * channels;
    }
    load(tensor, channels, shape.channels_last, block);
    return block;
  }
  // Where results of the tile are made: in the tensor, or in the block, from which `finish` saves them.
  template <typename T, typename S>
  S* output(T* tensor, int64_t channels, S* block) const {
    if constexpr (std::is_same_v<T, S>) {
      if (shape.in_place) return tensor + first * channels;
    }
    return block;
  }
  template <typename T, typename S>
  void finish(const S* results, int64_t channels, T* tensor) const {
    if (!shape.in_place) save(results, channels, shape.channels_last, tensor);
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

// The gates of a tile: in blocks of their own, laid as all blocks are, `block` elements a channel; or, where `row` is
// set, in rows of all gates, so many elements from one pixel to the next.
template <typename U>
struct GateRows {
  U* base = nullptr;  // null: there are none
  int64_t block = 0, row = 0;
  bool past_caches = false;  // whole lines that are not read again soon

  GateRows from(int64_t gate_row) const {
    return base ? GateRows{base + gate_row * block, block, row, past_caches} : *this;
  }
};

// --- the gates' arithmetic, over blocks of whole vectors -----------------------------------------------------------

// body(where in the blocks, in the gates, in what lies as some gates do) for a block of `channels` x `pixels`.
template <typename S, typename U, typename F>
FUSED_OPS_INLINE void each_vector(int64_t channels, int64_t pixels, const GateRows<U>& gates, const GateRows<U>& more,
                                  F&& body) {
  const int64_t all = channels * pixels, run = gates.row || more.row ? channels : all;
  for (int64_t i = 0, pixel = 0; i < all; ++pixel) {
    const int64_t g = gates.row ? pixel * gates.row : i, m = more.row ? pixel * more.row : i;
    for (int64_t c = 0; c < run; c += kLanes<S>, i += kLanes<S>) body(i, g + c, m + c);
  }
}

template <typename S>
FUSED_OPS_INLINE void keep(const GateRows<S>& gates, int64_t at, Vec<S> value) {
  if (gates.base == nullptr) return;
  if constexpr (std::is_same_v<S, float>) {
    if (gates.past_caches) return store_past_caches(gates.base + at, value);
  }
  store(gates.base + at, value);
}

// gate = sigmoid(sums), which is kept where it is wanted; passed = gate . source
template <typename S, bool low>
void reset(int64_t channels, int64_t pixels, const S* sums, const S* source, const GateRows<S>& gate, S* passed) {
  each_vector<S>(channels, pixels, gate, gate, [&](int64_t i, int64_t g, int64_t) {
    const Vec<S> r = sigmoid<S, low>(load(sums + i));
    keep(gate, g, r);
    store(passed + i, r * load(source + i));
  });
}

// h = tanh(sums), z = sigmoid(sums), which are kept where they are wanted; out = the mix of target and h
template <typename S, bool low>
void mix(int64_t channels, int64_t pixels, const S* h_sums, const S* z_sums, const S* target,
         const GateRows<S>& h_gate, const GateRows<S>& z_gate, S* out, bool z_keeps) {
  each_vector<S>(channels, pixels, h_gate, h_gate, [&](int64_t i, int64_t g, int64_t) {
    const Vec<S> h = hyperbolic_tangent<S, low>(load(h_sums + i)), z = sigmoid<S, low>(load(z_sums + i));
    const Vec<S> x = load(target + i);
    keep(h_gate, g, h);
    keep(z_gate, g, z);
    store(out + i, z_keeps ? h + z * (x - h) : x + z * (h - x));
  });
}

// From the gradient of the mix: those before h's tanh and z's sigmoid, and what reaches the target around the gates.
// grad_h and grad_z reach the gates from outside and may have no base.
template <typename S>
void unmix(int64_t channels, int64_t pixels, const S* grad, const S* target, const GateRows<const S>& h_gate,
           const GateRows<const S>& z_gate, const GateRows<const S>& grad_h, const GateRows<const S>& grad_z, S* pre_h,
           S* pre_z, S* grad_target, bool z_keeps) {
  each_vector<S>(channels, pixels, h_gate, grad_h, [&](int64_t i, int64_t at, int64_t outside) {
    const Vec<S> g = load(grad + i), h = load(h_gate.base + at), z = load(z_gate.base + at);
    const Vec<S> accepted = g * z, declined = g - accepted;
    const Vec<S> difference = load(target + i) - h;
    Vec<S> to_h = z_keeps ? declined : accepted;
    Vec<S> to_z = z_keeps ? g * difference : -(g * difference);
    if (grad_h.base) to_h += load(grad_h.base + outside);
    if (grad_z.base) to_z += load(grad_z.base + outside);
    store(pre_h + i, to_h * (S(1) - h * h));
    store(pre_z + i, to_z * z * (S(1) - z));
    store(grad_target + i, z_keeps ? accepted : declined);
  });
}

// From the gradient of the passed source (gate . source), which is overwritten by the passed source itself: the one
// before the gate's sigmoid; grad_source += what reaches the source through the gate. grad_gate may have no base.
template <typename S>
void unreset(int64_t channels, int64_t pixels, const GateRows<const S>& gate, const S* source,
             const GateRows<const S>& grad_gate, S* passed, S* pre_gate, S* grad_source) {
  each_vector<S>(channels, pixels, gate, grad_gate, [&](int64_t i, int64_t at, int64_t outside) {
    const Vec<S> g = load(passed + i), r = load(gate.base + at), y = load(source + i);
    Vec<S> to_r = g * y;
    if (grad_gate.base) to_r += load(grad_gate.base + outside);
    store(pre_gate + i, to_r * r * (S(1) - r));
    store(grad_source + i, load(grad_source + i) + g * r);
    store(passed + i, r * y);
  });
}

}  // namespace FUSED_OPS_ISA
}  // namespace fused_ops::selective_share
