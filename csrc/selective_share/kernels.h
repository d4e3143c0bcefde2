// Selective sharing over tiles of pixels: what the torch glue (cpu.cpp) hands to the kernels of one instruction set.
//
// A tile is a run of pixels, counted over all images. Its blocks are either (Shape::in_place) pixels x channels, as
// tensors in channels_last have them, which are then read and written where they are and multiply the weights from the
// left; or channels x pixels in scratch memory, whatever the layout of the tensors, and the weights multiply them.
// bfloat16 travels as uint16_t and is computed in float.
#pragma once
#include <cstdint>
#include <type_traits>

#include "common/dtypes.h"

namespace fused_ops::selective_share {

// The weights of a pair in the order of the op's schema; a single unit has the first four.
enum Weight { W_r_x, W_x, U_x, W_z_x, W_r_y, W_y, U_y, W_z_y };
inline constexpr int kWeights = 8;

struct Shape {
  int64_t images, pixels;  // pixels of one image
  int64_t x, y;            // channels
  bool pair;
  bool channels_last;  // of all features
  bool gates_channels_last;
  bool z_keeps;        // the convention: x' = z x + (1 - z) h
  bool in_place;       // blocks are pixels x channels

  int64_t both() const { return x + y; }
  int64_t gates() const { return pair ? 3 * (x + y) : 2 * x + y; }
  int64_t rows(int weight) const { return weight == W_r_x || weight == W_y || weight == U_y || weight == W_z_y ? y : x; }
  int64_t cols(int weight) const {
    return weight == W_x || weight == U_y ? y : weight == U_x || weight == W_y ? x : x + y;
  }
  int operands() const { return pair ? 4 : 3; }
  // Where a weight begins when all lie one after the other.
  int64_t offset(int weight) const {
    int64_t size = 0;
    for (int w = 0; w < weight; ++w) size += rows(w) * cols(w);
    return size;
  }
  int64_t weight_size() const { return offset(pair ? 8 : 4); }
};

// A weight (rows x cols, or transposed) as products take it.
template <typename S>
struct Matrix {
  const S* at;
  int64_t ld;        // elements from one row to the next, of what lies there
  int64_t col_step;  // and from one of the weight's columns to the next

  const S* from_column(int64_t col) const { return at + col * col_step; }
};

template <typename T>
struct Forward {
  Shape shape;
  int64_t tile;  // pixels of a tile
  const T *x, *y;
  Matrix<Computed<T>> weights[kWeights];  // in place transposed: the side of a product that is read along its rows
  T *x_out, *y_out;
  T* gates;  // null: not wanted
};

template <typename T>
struct Backward {
  Shape shape;
  int64_t tile;
  const T *grad_x_out, *grad_y_out;
  const T* grad_gates;  // null: none
  const T *x, *y;
  const T* gates;  // null: compute them again
  Matrix<Computed<T>> weights[kWeights];  // as forward; only to compute the gates again
  Matrix<Computed<T>> back[kWeights];     // the other way round
  T *grad_x, *grad_y;
  // Either the sums of one thread, the weights' gradients one after the other ...
  Computed<T>* weight_sums;
  // ... or, where weights are large, all that their products need of some tiles, which are multiplied together: the
  // gradients before the gates' activations, gates() rows for every tile, and the operands lying, in panels of
  // kept_pixels x kPanel, whose rows are kPanelLine apart.
  Computed<T>* pre_gates;
  Computed<T>* operands;
  int64_t first_pixel, kept_pixels;  // of these tiles
};

// Elements in whole cache lines (of float).
inline constexpr int64_t kLineElements = 16;
constexpr int64_t in_lines(int64_t elements) { return (elements + kLineElements - 1) / kLineElements * kLineElements; }
// Elements from one row to the next of a matrix that products run down, a register block of columns at a time: an odd
// number of lines. A power of two of them would let few of the first-level cache's sets hold all rows.
constexpr int64_t row_line(int64_t columns) { return (in_lines(columns) / kLineElements | 1) * kLineElements; }
// Columns of the blocks of the last tile, which may have fewer pixels.
constexpr int64_t last_width(int64_t tile, int64_t pixels) { return in_lines(pixels) < tile ? in_lines(pixels) : tile; }

inline constexpr int64_t kPanel = 64, kPanelLine = row_line(kPanel);

// The four operands of the weights' gradients, each with channels of its own.
enum Operand { of_x, of_y, of_passed_y, of_passed_x };  // x, y, r_x . y, r_y . x

inline int64_t operand_channels(const Shape& s, int operand) {
  return operand == of_x || operand == of_passed_x ? s.x : s.y;
}
// The first channel of an operand where they lie side by side; of the one after the last: their number.
inline int64_t first_channel(const Shape& s, int operand) {
  int64_t count = 0;
  for (int o = 0; o < operand; ++o) count += operand_channels(s, o);
  return count;
}
inline int64_t panels(int64_t channels) { return (channels + kPanel - 1) / kPanel; }
// The first panel of an operand; of the one after the last: their number.
inline int64_t first_panel(const Shape& s, int operand) {
  int64_t count = 0;
  for (int o = 0; o < operand; ++o) count += panels(operand_channels(s, o));
  return count;
}

// Rows of the gates, GATE_ORDER of reference.py.
struct Gates {
  static int64_t h_x(const Shape&) { return 0; }
  static int64_t r_x(const Shape& s) { return s.x; }
  static int64_t z_x(const Shape& s) { return s.x + s.y; }
  static int64_t r_y(const Shape& s) { return 2 * s.x + s.y; }
  static int64_t z_y(const Shape& s) { return 3 * s.x + s.y; }
  static int64_t h_y(const Shape& s) { return 3 * s.x + 2 * s.y; }
};

// visit(row of the gate, in the other shape as well, the gate's channels in that one) for all gates
template <typename F>
void each_gate(const Shape& s, const Shape& other, F&& visit) {
  const auto gate = [&](auto row, int64_t channels) { visit(row(s), row(other), channels); };
  gate(Gates::h_x, other.x), gate(Gates::r_x, other.y), gate(Gates::z_x, other.x);
  if (s.pair) gate(Gates::r_y, other.x), gate(Gates::z_y, other.y), gate(Gates::h_y, other.y);
}

// The products that make the weights' gradients, dW = (gradient before a gate's activation) x operand^T:
// visit(weight, row of the gate, operand, first column of the weight).
template <typename F>
void each_weight_gradient(const Shape& s, F&& visit) {
  const auto reading_both = [&](int weight, int64_t gate, Operand target, Operand source, int64_t target_channels) {
    visit(weight, gate, target, int64_t(0));
    visit(weight, gate, source, target_channels);
  };
  reading_both(W_r_x, Gates::r_x(s), of_x, of_y, s.x);
  visit(W_x, Gates::h_x(s), of_passed_y, int64_t(0));
  visit(U_x, Gates::h_x(s), of_x, int64_t(0));
  reading_both(W_z_x, Gates::z_x(s), of_x, of_y, s.x);
  if (!s.pair) return;
  reading_both(W_r_y, Gates::r_y(s), of_y, of_x, s.y);
  visit(W_y, Gates::h_y(s), of_passed_x, int64_t(0));
  visit(U_y, Gates::h_y(s), of_y, int64_t(0));
  reading_both(W_z_y, Gates::z_y(s), of_y, of_x, s.y);
}

template <typename T>
struct Kernels {
  using S = Computed<T>;
  int64_t columns;  // of a register block of the products
  // Scratch memory: rows of one tile's pixels.
  int64_t (*forward_rows)(const Forward<T>&);
  int64_t (*backward_rows)(const Backward<T>&);
  // Tiles first <= i < last.
  void (*forward)(const Forward<T>&, int64_t first, int64_t last, S* scratch);
  void (*backward)(const Backward<T>&, int64_t first, int64_t last, S* scratch);
  // `cols` columns of a weight's gradient from what the tiles kept: gate rows x one panel.
  void (*multiply)(const Backward<T>&, int64_t rows, int64_t cols, int64_t gate_row, int64_t panel, S* to,
                   int64_t to_ld);
  // to = from
  void (*convert)(int64_t count, const T* from, S* to);
  // to[c][r] = from[r][c]
  void (*transpose)(int64_t rows, int64_t cols, const S* from, int64_t from_ld, S* to, int64_t to_ld);
  // to = the sum of the parts, each read from `offset` on
  void (*total)(int64_t count, const S* const* parts, int64_t number_of_parts, int64_t offset, T* to);
};

// --- bfloat16 where the processor multiplies it (common/bf16_products.h) ----------------------------------------------
//
// `shape` is that of the computation, whose channels are multiples of 32, `tensors` that of the tensors outside of the
// kernels. The channels that fill up the last 32 are zero in all that multiplies.

inline constexpr int64_t kStep = 32;  // pixels or channels that one step of a product takes

constexpr int64_t in_steps(int64_t channels) { return (channels + kStep - 1) / kStep * kStep; }

// The same with channels filled up.
inline Shape filled_up(Shape shape) {
  shape.x = in_steps(shape.x), shape.y = in_steps(shape.y);
  return shape;
}
inline bool is_filled(const Shape& tensors) { return tensors.x % kStep != 0 || tensors.y % kStep != 0; }
// Whether kernels read and write the features' rows in the tensors.
inline bool has_rows(const Shape& tensors) { return tensors.channels_last && !is_filled(tensors); }

// What the weights' gradients are made of, for a run of pixels in steps: the gradients before the gates' activations,
// turned, and the operands, in pairs of pixels. The steps of 32 channels lie together.
struct Factors {
  uint16_t *turned, *paired;
  int64_t steps;

  static int64_t elements(const Shape& shape, int64_t steps) {
    return (shape.gates() + first_channel(shape, shape.operands())) * steps * kStep;
  }
  static Factors in(uint16_t* memory, const Shape& shape, int64_t steps) {
    return {memory, memory + shape.gates() * steps * kStep, steps};
  }
  uint16_t* of_gate(int64_t row, int64_t step) const { return turned + (row * steps + step * kStep) * kStep; }
  uint16_t* of_operand(int64_t channel, int64_t step) const {
    return paired + (channel * steps + step * kStep) * kStep;
  }
};

struct Bf16Forward {
  Shape shape, tensors;
  int64_t tile;  // pixels of a tile, a multiple of 32
  const uint16_t *x, *y;
  const uint16_t* across[kWeights];  // weights for products over their columns
  uint16_t *x_out, *y_out;
  uint16_t* gates;  // in channels_last; null: not wanted
};

struct Bf16Backward {
  Shape shape, tensors;
  int64_t tile;
  const uint16_t *grad_x_out, *grad_y_out;
  const uint16_t* grad_gates;  // null: none
  const uint16_t *x, *y;
  const uint16_t* gates;  // null: compute them again, with the weights `across`
  const uint16_t* across[kWeights];
  const uint16_t* down[kWeights];  // weights for products over their rows
  uint16_t *grad_x, *grad_y;
  float* sums;      // one thread's, of the weights' gradients in blocks of 32 x 32; or null ...
  Factors factors;  // ... where weights are large: all pixels', to be multiplied at the end
};

struct Bf16Kernels {
  // Elements of scratch memory for every pixel of a tile.
  int64_t (*forward_rows)(const Bf16Forward&);
  int64_t (*backward_rows)(const Bf16Backward&);
  // Tiles first <= i < last.
  void (*forward)(const Bf16Forward&, int64_t first, int64_t last, uint16_t* scratch);
  void (*backward)(const Bf16Backward&, int64_t first, int64_t last, uint16_t* scratch);
  // Rows of blocks of sums, counted over all weights.
  void (*multiply)(const Bf16Backward&, float* sums, int64_t first, int64_t last);
  // Blocks first <= i < last of a weight, rearranged.
  void (*across)(int64_t rows, int64_t cols, const uint16_t* from, uint16_t* to, int64_t first, int64_t last);
  void (*down)(int64_t rows, int64_t cols, const uint16_t* from, uint16_t* to, int64_t first, int64_t last);
  // The weights' gradients: the sum of the parts, each in blocks; for rows of blocks as before.
  void (*total)(const Shape&, const float* const* parts, int64_t number_of_parts, uint16_t* const* to, int64_t first,
                int64_t last);
};

}  // namespace fused_ops::selective_share
