// How selective sharing sees its tensors: tiles of pixels, blocks of channels, packed weights.
#pragma once
#include <algorithm>
#include <array>
#include <memory>
#include <vector>

#include "common/matmul.h"
#include "selective_share/kernels.h"

namespace fused_ops::selective_share {

// Channels of x and y, and the column where each part begins in the three kinds of tile.
//   gates     h_x | r_x z_x r_y z_y | h_y      (GATE_ORDER of reference.py; a single unit ends after z_x)
//   features  r_y.x | y | x | r_x.y            (a single unit has no r_y.x)
// So [y x] feeds one product for all four gates in the middle, [x r_x.y] one for h_x and [r_y.x y] one for h_y.
struct Channels {
  int64_t x, y;
  bool pair;

  int64_t h_x() const { return 0; }
  int64_t r_x() const { return x; }
  int64_t z_x() const { return x + y; }
  int64_t r_y() const { return 2 * x + y; }
  int64_t z_y() const { return 3 * x + y; }
  int64_t h_y() const { return 3 * x + 2 * y; }
  int64_t gates() const { return pair ? 3 * (x + y) : 2 * x + y; }
  int64_t middle() const { return pair ? 2 * (x + y) : x + y; }  // columns of the gates in the middle

  int64_t passed_x() const { return 0; }
  int64_t source_y() const { return pair ? x : 0; }
  int64_t source_x() const { return source_y() + y; }
  int64_t passed_y() const { return source_x() + x; }
  int64_t features() const { return passed_y() + y; }
};

// A run of pixels: of one image in contiguous tensors, of all images in channels_last.
struct Tile {
  int64_t image, first, pixels;
};

// Where pixels and channels lie. channels_last: rows are pixels. contiguous: rows are channels.
struct Layout {
  int64_t images, pixels;  // pixels of one image; channels_last counts all images as one
  bool rows_are_pixels;

  template <typename T>
  Block<T> tile(T* data, int64_t channels, const Tile& at) const {
    if (rows_are_pixels) return {data + at.first * channels, channels};
    return {data + at.image * channels * pixels + at.first, pixels};
  }
  // A tile of its own in scratch memory.
  template <typename T>
  Block<T> scratch(T* data, int64_t channels, const Tile& at) const {
    return {data, rows_are_pixels ? channels : at.pixels};
  }
  template <typename T>
  Block<T> from_channel(Block<T> block, int64_t channel) const {
    return {block.data + channel * (rows_are_pixels ? 1 : block.ld), block.ld};
  }
  // The block as a matrix of pixels x channels, whatever its layout.
  template <typename T>
  Matrix<T> matrix(Block<T> block, int64_t channel, int64_t channels, const Tile& at) const {
    Matrix<T> m{from_channel(block, channel).data, at.pixels, channels, block.ld, 1};
    if (!rows_are_pixels) std::swap(m.row_stride, m.col_stride);
    return m;
  }
  int64_t rows(int64_t channels, const Tile& at) const { return rows_are_pixels ? at.pixels : channels; }
  int64_t cols(int64_t channels, const Tile& at) const { return rows_are_pixels ? channels : at.pixels; }

  // Tiles of about equal size, at most `limit` pixels each, as many as keep `threads` equally busy.
  std::vector<Tile> tiles(int64_t limit, int64_t threads) const {
    int64_t per_image = (pixels + limit - 1) / limit;
    if (images == 1) per_image = std::min(pixels, (per_image + threads - 1) / threads * threads);
    const int64_t step = (pixels + per_image - 1) / per_image;
    std::vector<Tile> result;
    for (int64_t image = 0; image < images; ++image) {
      for (int64_t first = 0; first < pixels; first += step) {
        result.push_back({image, first, std::min(step, pixels - first)});
      }
    }
    return result;
  }
};

// The eight weights in the order of the op's schema: W_r, W, U, W_z of the unit that updates x, then of the other.
template <typename T>
using Weights = std::array<T*, 8>;

// The weights side by side, as the products use them; rows are outputs, columns are inputs.
//   middle  [r_x z_x r_y z_y] from [y x]
//   h_x     from [x r_x.y]:  U_x | W_x
//   h_y     from [r_y.x y]:  W_y | U_y
// Also the shape of the weights' gradients, which are gathered in the same places and unpacked at the end.
template <typename T>
struct Packed {
  Channels c;
  std::unique_ptr<T[]> memory;

  explicit Packed(const Channels& channels)
      : c(channels), memory(product_memory<T>(size(channels))) {}

  static int64_t size(const Channels& c) {
    const int64_t inputs = c.x + c.y;
    return inputs * (c.middle() + c.x + (c.pair ? c.y : 0));
  }
  int64_t inputs() const { return c.x + c.y; }
  Matrix<T> middle() { return {memory.get(), c.middle(), inputs(), inputs(), 1}; }
  Matrix<T> h_x() { return {middle().data + c.middle() * inputs(), c.x, inputs(), inputs(), 1}; }
  Matrix<T> h_y() { return {h_x().data + c.x * inputs(), c.y, inputs(), inputs(), 1}; }

  // Calls visit(weight index, its column, packed row, packed column, rows, columns) for every run of columns that
  // keeps its neighbours: the target and the source part of W_r and W_z change places for the unit of x.
  template <typename F>
  void each_part(F&& visit) {
    const int64_t x = c.x, y = c.y;
    const int64_t h_x_row = c.middle(), h_y_row = h_x_row + x;
    const auto from_y_x = [&](int weight, int64_t row, int64_t rows, bool target_is_x) {
      visit(weight, target_is_x ? x : 0, row, int64_t(0), rows, y);
      visit(weight, target_is_x ? 0 : y, row, y, rows, x);
    };
    from_y_x(0, 0, y, true);
    from_y_x(3, y, x, true);
    visit(2, 0, h_x_row, int64_t(0), x, x);
    visit(1, 0, h_x_row, x, x, y);
    if (!c.pair) return;
    from_y_x(4, x + y, x, false);
    from_y_x(7, 2 * x + y, y, false);
    visit(5, 0, h_y_row, int64_t(0), y, x);
    visit(6, 0, h_y_row, x, y, y);
  }

  int64_t weight_columns(int weight) const {
    const int64_t square[] = {inputs(), c.y, c.x, inputs(), inputs(), c.x, c.y, inputs()};
    return square[weight];
  }
};

}  // namespace fused_ops::selective_share
