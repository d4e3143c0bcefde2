// The row work of norm_act: what the glue (cpu.cpp) asks of the kernels (cpu_kernels.cpp, one table per instruction
// set). bfloat16 travels as uint16_t; coefficients are in the dtype of the arithmetic, sums in double.
//
// A block is `rows` rows of `cols` elements. There are two ways for the coefficients to run over it:
//   planes    a row is (part of) one channel's plane: coefficients are constant along a row (contiguous tensors);
//   channels  a row is one pixel or several: coefficients change along a row and repeat for each (channels_last).
#pragma once
#include <cstdint>

#include "common/activations.h"
#include "common/dtypes.h"

namespace fused_ops::norm_act {

// Activations whose derivative takes an exponential: worth keeping while it is in cache (Gradient::grad_z).
constexpr bool is_costly(Activation kind) { return kind == Activation::silu || kind == Activation::gelu; }

struct Moments {
  double count = 0, mean = 0, m2 = 0;  // m2: the sum of squared deviations from the mean
};

// What gives z = (x + noise_scale * noise - mean) * scale + shift + residual.
template <typename T>
struct Block {
  using S = Computed<T>;
  int64_t rows, cols;
  int64_t ld;               // from row to row of x, residual, y and their gradients
  const T* x;
  const T* residual;        // or null
  const T* noise;           // or null; planes: [row * noise_ld + col], channels: [row]
  int64_t noise_ld;
  S noise_scale;
  const S *mean, *scale, *shift;  // planes: [row * step], channels: [col]
  // Where x holds y: 1 / scale and 1 / the activation's slope, from which x is computed.
  const S* inverse_scale;
  S inverse_slope;
  int64_t step;
};

template <typename T>
struct Gradient {
  using S = Computed<T>;
  const T* grad;   // of y
  const T* y;      // or null: then the activation's derivative is taken from z
  // grad_x = grad_z * scale + (x' - mean) * slope + offset; indexed as the block's mean. Where the statistics are
  // `given` nothing comes through them, not even 0 times an infinite x.
  const S *slope, *offset;
  bool given;
  T* grad_x;         // or null
  T* grad_z;         // or null: where the sums leave grad_z for the backward; may be grad_x
  T* grad_residual;  // or null
  double* noise_sum; // or null: receives the sum of grad_x * noise
};

// The pooled planes of a block: the largest z of each square of 2 x 2 pixels, and which of them it was (0 to 3, row by
// row; the first of equal ones). An odd last row or column is left out, as torch's max_pool2d does.
template <typename T>
struct Pooling {
  int64_t height, width;  // of x
  int64_t first, lines;   // channels: which lines of the pooled pixels, counted over the block's samples
  int64_t ld;             // planes: from row to row of y and winner
  T* y;                   // of the block's first row
  uint8_t* winner;        // likewise, or null
};

// The way back: grad_z is the gradient of y times the activation's derivative where z was the largest, elsewhere zero.
// The lines are those of all pooled planes (of whole samples in channels_last).
template <typename T>
struct Unpooling {
  int64_t channels;       // of a pixel; planes: 1
  int64_t height, width;  // of grad_z
  const T* grad;          // of y
  const T* y;             // or null where the derivative is 1
  const uint8_t* winner;
  T* grad_z;
};

template <typename T>
struct Kernels {
  using S = Computed<T>;

  // One row: all of the block's elements as one sample.
  Moments (*plane_moments)(const Block<T>&);
  // Per column, into mean and m2. `scratch` holds 3 * cols.
  void (*channel_moments)(const Block<T>&, double* mean, double* m2, S* scratch);

  struct Layout {
    void (*forward[kActivations])(const Block<T>&, S slope, T* y);
    // Adds the sums of grad_z and of grad_z * (x' - mean): planes per row [row * step], channels per column [col].
    // `scratch` holds 2 * cols (channels only).
    // Both of the backward: [1] where x holds y, for activations that can_restore().
    void (*sums[2][kActivations])(const Block<T>&, S slope, const Gradient<T>&, double* sum, double* sum_x, S* scratch);
    void (*backward[2][kActivations])(const Block<T>&, S slope, const Gradient<T>&);
    // For activations that do not decrease.
    void (*pool[kActivations])(const Block<T>&, S slope, const Pooling<T>&);
    void (*unpool[kActivations])(const Unpooling<T>&, S slope, int64_t first, int64_t lines);
  };
  Layout planes, channels;

  // Up to how many bytes of a unit of x it is worth keeping grad_z (Gradient::grad_z) between the passes.
  int64_t keeps_up_to;
};

}  // namespace fused_ops::norm_act
