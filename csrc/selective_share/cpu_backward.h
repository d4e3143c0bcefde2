// The gradients of one tile of pixels, and the products that make those of large weights.
#pragma once
#include "selective_share/cpu_forward.h"

namespace fused_ops::selective_share {
inline namespace FUSED_OPS_ISA {

// The gradients of one tile.
template <typename T>
struct Gradients {
  using Own = Tile<T>;
  using S = typename Own::S;

  const Backward<T>& job;
  Own& tile;
  const Shape& shape;
  const Place& place;
  GateRows<const S> gates, outside;  // outside: gradients that reach the gates from elsewhere; no base: none
  S *grad_x, *grad_y;
  S* grad_out;
  S* pre_gates;

  Gradients(const Backward<T>& job, Own& tile)
      : job(job), tile(tile), shape(job.shape), place(tile.place), grad_out(nullptr) {
    if (job.gates) {
      gates = read_gates(job.gates, tile, tile.gates);
    } else {
      // The mixed outputs are of no interest here; they go where the gradients will be written.
      tile.compute(tile.gate_blocks(), tile.free, tile.free);
      gates = {tile.gates, place.width};
    }
    S *x_block = nullptr, *y_block = nullptr;
    if (!shape.in_place) {
      x_block = tile.take(shape.x), y_block = tile.take(shape.y);
      grad_out = tile.take(shape.x > shape.y ? shape.x : shape.y);
    }
    grad_x = place.output(job.grad_x, shape.x, x_block), grad_y = place.output(job.grad_y, shape.y, y_block);
    pre_gates = job.weight_sums ? tile.take(shape.gates())
                                : job.pre_gates + (place.first - job.first_pixel) * shape.gates();
    if (job.grad_gates) outside = read_gates(job.grad_gates, tile, shape.in_place ? nullptr : tile.take(shape.gates()));
  }

  static int64_t rows(const Backward<T>& job) {
    const Shape& s = job.shape;
    const int64_t most = s.x > s.y ? s.x : s.y, sums = job.weight_sums ? s.gates() : 0;
    if (s.in_place) return sums + (job.gates ? 0 : most);
    const int64_t lying = job.weight_sums ? 2 * (row_line(s.x) + row_line(s.y)) : 0;
    return s.both() + most + (job.grad_gates ? s.gates() : 0) + sums + lying;
  }

  S* pre(int64_t row) const { return pre_gates + tile.size(row); }
  Term<S> term(int weight, int64_t col, int64_t gate_row) const {
    const Matrix<S>& back = job.back[weight];
    return tile.term(back.from_column(col), back.ld, pre(gate_row), shape.rows(weight));
  }

  void unmix_unit(const T* tensor, int64_t channels, const S* target, int64_t h, int64_t z, S* grad_target) const {
    const S* grad = place.read(tensor, channels, grad_out);
    unmix(channels, place.width, grad, target, gates.from(h), gates.from(z), outside.from(h),
          outside.from(z), pre(h), pre(z), grad_target, shape.z_keeps);
  }
  // Back through the candidate's W and the reset gate.
  void unreset_unit(int weight, int64_t h, int64_t r, int64_t channels, const S* source, S* passed,
                    S* grad_source) const {
    const Term<S> back = term(weight, 0, h);
    tile.sum(channels, &back, 1, passed, false);
    unreset(channels, place.width, gates.from(r), source, outside.from(r), passed, pre(r), grad_source);
  }

  void run() const {
    const Shape& s = shape;
    unmix_unit(job.grad_x_out, s.x, tile.x, Gates::h_x(s), Gates::z_x(s), grad_x);
    if (s.pair) {
      unmix_unit(job.grad_y_out, s.y, tile.y, Gates::h_y(s), Gates::z_y(s), grad_y);
    } else {
      for (int64_t i = 0; i < tile.size(s.y); ++i) grad_y[i] = S(0);
    }
    unreset_unit(W_x, Gates::h_x(s), Gates::r_x(s), s.y, tile.y, tile.passed_y, grad_y);
    if (s.pair) unreset_unit(W_y, Gates::h_y(s), Gates::r_y(s), s.x, tile.x, tile.passed_x, grad_x);

    // x is the first part of what the unit of x reads, and the second of what the unit of y reads. The units' sums are
    // added one after the other: in one the rounding errors of both would run through all the steps.
    const Term<S> unit_x_to_x[] = {term(U_x, 0, Gates::h_x(s)), term(W_r_x, 0, Gates::r_x(s)),
                                   term(W_z_x, 0, Gates::z_x(s))};
    tile.sum(s.x, unit_x_to_x, 3, grad_x, true);
    const Term<S> unit_x_to_y[] = {term(W_r_x, s.x, Gates::r_x(s)), term(W_z_x, s.x, Gates::z_x(s))};
    tile.sum(s.y, unit_x_to_y, 2, grad_y, true);
    if (s.pair) {
      const Term<S> unit_y_to_x[] = {term(W_r_y, s.y, Gates::r_y(s)), term(W_z_y, s.y, Gates::z_y(s))};
      tile.sum(s.x, unit_y_to_x, 2, grad_x, true);
      const Term<S> unit_y_to_y[] = {term(W_r_y, 0, Gates::r_y(s)), term(W_z_y, 0, Gates::z_y(s)),
                                     term(U_y, 0, Gates::h_y(s))};
      tile.sum(s.y, unit_y_to_y, 3, grad_y, true);
    }

    place.finish(grad_x, s.x, job.grad_x);
    place.finish(grad_y, s.y, job.grad_y);
    if (job.weight_sums) {
      add_to_sums();
    } else {
      keep_for_products();
    }
  }

  // dW += pre x operand^T for every weight, with operands that are read along channels.
  void add_to_sums() const {
    if (shape.in_place) return add_products<true>({tile.x, tile.y, tile.passed_y, tile.passed_x});
    const S* operands[4];
    for (int o = 0; o < shape.operands(); ++o) {
      const int64_t channels = operand_channels(shape, o), line = row_line(channels);
      S* lying = tile.take(line);
      transpose(channels, place.count, tile.operand(o), place.width, lying, line);
      operands[o] = lying;
    }
    add_products<false>(operands);
  }
  // Sums run over few pixels before they are added: their rounding errors grow with their length.
  template <bool in_place>
  void add_products(const S* const (&operands)[4]) const {
    constexpr int64_t longest = 64;
    const int64_t count = place.count, parts = (count + longest - 1) / longest;
    for (int64_t part = 0; part < parts; ++part) {
      const int64_t pixel = part * count / parts, some = (part + 1) * count / parts - pixel;
      each_weight_gradient(shape, [&](int weight, int64_t gate_row, int o, int64_t col) {
        const int64_t rows = shape.rows(weight), channels = operand_channels(shape, o);
        const int64_t ld = in_place ? channels : row_line(channels);
        const Term<S> both{pre(gate_row) + pixel * (in_place ? rows : 1), in_place ? rows : place.width,
                           operands[o] + pixel * ld, ld, some};
        product<S, in_place>(rows, channels, &both, 1, job.weight_sums + shape.offset(weight) + col,
                             shape.cols(weight), true);
      });
    }
  }

  void keep_for_products() const {
    const int64_t width = place.width, first = place.first, count = place.count;
    S* panel = job.operands + (first - job.first_pixel) * kPanelLine;
    for (int o = 0; o < shape.operands(); ++o) {
      const int64_t channels = operand_channels(shape, o);
      const T* tensor = o == of_x ? job.x : o == of_y ? job.y : nullptr;
      for (int64_t c = 0; c < channels; c += kPanel, panel += kPanelLine * job.kept_pixels) {
        const int64_t some = channels - c < kPanel ? channels - c : kPanel;
        if (shape.in_place) {
          copy_pixels(some, tile.operand(o) + c, channels, panel);
        } else if (tensor != nullptr && shape.channels_last) {
          copy_pixels(some, stored(tensor) + first * channels + c, channels, panel);
        } else {
          transpose(some, count, tile.operand(o) + c * width, width, panel, kPanelLine);
        }
      }
    }
  }
  template <typename From>
  void copy_pixels(int64_t some, const From* from, int64_t channels, S* panel) const {
    for (int64_t p = 0; p < place.count; ++p) copy_row(some, from + p * channels, panel + p * kPanelLine);
  }
};

template <typename T>
void backward(const Backward<T>& job, int64_t first, int64_t last, Computed<T>* scratch) {
  for (int64_t index = first; index < last; ++index) {
    Tile<T> tile(job, index, scratch);
    Gradients<T>(job, tile).run();
  }
}

template <typename T>
void multiply(const Backward<T>& job, int64_t rows, int64_t cols, int64_t gate_row, int64_t panel,
              Computed<T>* to, int64_t to_ld) {
  const bool in_place = job.shape.in_place;
  const int64_t width = job.tile, tiles = job.kept_pixels / width, gates = job.shape.gates();
  const int64_t pixels = job.shape.images * job.shape.pixels - job.first_pixel;
  const Computed<T>* right = job.operands + panel * kPanelLine * job.kept_pixels;
  // Some tiles at a time, whose share of the panel stays in the second-level cache while all rows pass.
  constexpr int64_t most = 8;
  const int64_t fit = 1024 / width < 1 ? 1 : 1024 / width < most ? 1024 / width : most;
  for (int64_t first = 0; first < tiles; first += fit) {
    const int64_t some = tiles - first < fit ? tiles - first : fit;
    Term<Computed<T>> terms[most];
    for (int64_t i = 0; i < some; ++i) {
      const int64_t pixel = (first + i) * width, count = pixels - pixel < width ? pixels - pixel : width;
      const int64_t block = in_place ? count : last_width(width, count);
      terms[i] = {job.pre_gates + pixel * gates + gate_row * block, in_place ? rows : block,
                  right + pixel * kPanelLine, kPanelLine, count};
    }
    const bool add = first > 0 || job.first_pixel > 0;
    if (in_place) {
      product<Computed<T>, true>(rows, cols, terms, int(some), to, to_ld, add);
    } else {
      product(rows, cols, terms, int(some), to, to_ld, add);
    }
  }
}

}  // namespace FUSED_OPS_ISA
}  // namespace fused_ops::selective_share
