// The gradients of one tile of pixels in bfloat16 where the processor multiplies it, and the products that make those
// of the weights.
#pragma once
#include "selective_share/cpu_bf16.h"

#if defined(__AVX512F__)

namespace fused_ops::selective_share {
inline namespace FUSED_OPS_ISA {

// visit(first block of sums, weight, row of the gate, operand's first channel, its channels, first column of the
// weight). The blocks of sums lie one after the other, by rows of each product.
template <typename F>
void each_product(const Shape& shape, F&& visit) {
  int64_t block = 0;
  each_weight_gradient(shape, [&](int weight, int64_t gate, int operand, int64_t col) {
    const int64_t channels = operand_channels(shape, operand);
    visit(block, weight, gate, first_channel(shape, operand), channels, col);
    block += shape.rows(weight) / kBlock * (channels / kBlock);
  });
}

// One row of blocks of sums: 32 rows of a gate times all channels of an operand, over steps first <= i < last.
template <typename Products>
void multiply_row(const Factors& factors, int64_t gate, int64_t channel, int64_t channels, int64_t first, int64_t last,
                  float* sums, bool add) {
  Products products;
  for (int64_t n = 0; n < channels; n += kBlock, sums += kSums) {
    const TileTerm both{factors.of_gate(gate, first), kTile, 2 * kTile, factors.of_operand(channel + n, first),
                        last - first};
    products.start(&both, 1, sums, add);
    products.finish();
  }
}

template <typename Products>
struct Bf16Gradients {
  using Own = Bf16Tile<Bf16Backward, Products>;
  using Out = Rows<uint16_t>;
  using In = Rows<const uint16_t>;

  const Bf16Backward& job;
  Own& tile;
  const Shape& shape;
  const TiledPlace& place;
  const int64_t all;  // channels of all gates
  In gates, outside;  // outside: gradients that reach the gates from elsewhere; no base: none
  Out pre_gates;      // gradients before the gates' activations
  float *sum_x, *sum_y;  // what reaches x and y through the reset gates, in blocks

  // Elements of scratch memory for every pixel.
  static int64_t rows(const Bf16Backward& job) {
    const Shape& s = job.shape;
    const bool direct = has_rows(job.tensors);
    const int64_t recomputed = job.gates ? 0 : s.gates() + s.both(), features = direct ? 0 : 2 * s.both();
    const int64_t from_tensors = is_filled(job.tensors) ? ((job.gates != nullptr) + (job.grad_gates != nullptr)) : 0;
    const int64_t factors = job.sums ? Factors::elements(s, 1) / kBlock : 0;
    return Own::rows(s) + recomputed + features + (from_tensors + 1) * s.gates() + 2 * s.both() + factors;
  }

  Bf16Gradients(const Bf16Backward& job, Own& tile)
      : job(job), tile(tile), shape(job.shape), place(tile.place), all(job.shape.gates()), outside{} {
    if (job.gates) {
      gates = of_gates(job.gates);
    } else {
      tile.gates = tile.scratch(all);
      const Out unused_x = tile.scratch(shape.x), unused_y = tile.scratch(shape.y);
      tile.compute(unused_x, unused_y);
      gates = tile.gates;
    }
    if (job.grad_gates) outside = of_gates(job.grad_gates);
    pre_gates = tile.scratch(all);
    sum_x = reinterpret_cast<float*>(tile.take(2 * shape.x));
    sum_y = reinterpret_cast<float*>(tile.take(2 * shape.y));
    place.clear_rest(all, pre_gates);
    place.clear_rest(shape.y, rows_of_tiles(tile.passed_y, shape.y));
    place.clear_rest(shape.x, rows_of_tiles(tile.passed_x, shape.x));
  }

  // The gradient of an output.
  In incoming(const uint16_t* tensor, int64_t channels) const {
    if (has_rows(job.tensors)) return rows_of_tensor(tensor + place.first * channels, channels);
    const Out tiles = tile.scratch(in_steps(channels));
    place.load_tiles(tensor, channels, tiles.base);
    return tiles;
  }
  // All gates, or their gradients.
  In of_gates(const uint16_t* tensor) const {
    if (!is_filled(job.tensors)) return rows_of_tensor(tensor + place.first * all, all);
    const Out tiles = tile.scratch(all);
    place.load_gates(tensor, job.tensors, tiles);
    return tiles;
  }
  float* sums_at(float* sums, int64_t b, int64_t n) const { return sums + (n * (place.width / kBlock) + b) * kSums; }
  // Gradients before a gate's activation times the transposed weight's 32 columns from `col` on.
  TileTerm term(int64_t gate_row, int64_t block, int weight, int64_t col) const {
    const int64_t depth = shape.rows(weight);
    return {pre_gates.from(gate_row).base + block * kBlock * all, 16 * all, kTile, job.down[weight] + col * depth,
            depth / kBlock};
  }

  // Through the mix of a unit: the gradients before h's tanh and z's sigmoid.
  void unmix(const In& grad, const uint16_t* target, const Lanes& lanes, int64_t h_row, int64_t z_row) const {
    const int64_t channels = lanes.blocks * kBlock;
    const In h_rows = gates.from(h_row), z_rows = gates.from(z_row), targets = rows_of_tiles(target, channels);
    const In to_h = outside.from(h_row), to_z = outside.from(z_row);
    const Out pre_h = pre_gates.from(h_row), pre_z = pre_gates.from(z_row);
    const bool z_keeps = shape.z_keeps, more = outside.base != nullptr;
    for (int64_t pixel = 0; pixel < place.count; ++pixel) {
      for (int64_t n = 0; n < channels / kBlock; ++n) {
        const Wide g = load_wide(grad.at(pixel, n)), h = load_wide(h_rows.at(pixel, n));
        const Wide z = load_wide(z_rows.at(pixel, n)), x = load_wide(targets.at(pixel, n));
        Wide of_h, of_z;
#pragma GCC unroll 2
        for (int i = 0; i < 2; ++i) {
          const Vec<float> accepted = g.half[i] * z.half[i], difference = g.half[i] * (x.half[i] - h.half[i]);
          of_h.half[i] = z_keeps ? g.half[i] - accepted : accepted;
          of_z.half[i] = z_keeps ? difference : -difference;
        }
        if (more) of_h = of_h + load_wide(to_h.at(pixel, n)), of_z = of_z + load_wide(to_z.at(pixel, n));
#pragma GCC unroll 2
        for (int i = 0; i < 2; ++i) {
          of_h.half[i] *= 1.0f - h.half[i] * h.half[i];
          of_z.half[i] *= z.half[i] - z.half[i] * z.half[i];
        }
        store_lanes(pre_h.at(pixel, n), of_h, lanes.of(n));
        store_lanes(pre_z.at(pixel, n), of_z, lanes.of(n));
      }
    }
  }

  // Through the candidate's W and the reset gate: the gradient before its sigmoid, the passed source itself, and what
  // reaches the source.
  void unreset(int weight, int64_t h_row, int64_t r_row, const uint16_t* source, const Lanes& lanes, uint16_t* passed,
               float* source_sums) const {
    const int64_t channels = lanes.blocks * kBlock;
    const In r_rows = gates.from(r_row), to_r = outside.from(r_row), sources = rows_of_tiles(source, channels);
    const Out pre_r = pre_gates.from(r_row), passed_rows = rows_of_tiles(passed, channels);
    const bool more = outside.base != nullptr;
    const auto start = [&](Products& products, int64_t b, int64_t n, int) {
      const TileTerm back = term(h_row, b, weight, n * kBlock);
      products.start(&back, 1, sums_at(source_sums, b, n), false);
    };
    place.template each_product_block<Products>(channels, start, [&](int64_t pixel, int64_t b, int64_t n, int64_t p, int) {
      float* sum = sums_at(source_sums, b, n) + sums_row(p);
      const Wide r = load_wide(r_rows.at(pixel, n)), y = load_wide(sources.at(pixel, n));
      Wide of_r, through;
#pragma GCC unroll 2
      for (int i = 0; i < 2; ++i) {
        const Vec<float> g = load(sum + 256 * i);
        of_r.half[i] = g * y.half[i];
        through.half[i] = r.half[i] * y.half[i];
        store(sum + 256 * i, g * r.half[i]);
      }
      if (more) of_r = of_r + load_wide(to_r.at(pixel, n));
#pragma GCC unroll 2
      for (int i = 0; i < 2; ++i) of_r.half[i] *= r.half[i] - r.half[i] * r.half[i];
      store_lanes(passed_rows.at(pixel, n), through, lanes.of(n));
      store_lanes(pre_r.at(pixel, n), of_r, lanes.of(n));
    });
  }

  // The gradient of x or y: the sums, the products, and (`grad`, if it has a base) what passes around the gates.
  template <typename Terms>
  void collect(const In& grad, int64_t z_row, int64_t channels, float* sums_before, bool any_before, Terms&& terms_of,
               const Out& to) const {
    alignas(64) float fresh[2][kSums];
    const In z_rows = gates.from(z_row);
    const bool z_keeps = shape.z_keeps, around = grad.base != nullptr;
    const auto sums = [&](int64_t b, int64_t n, int odd) {
      return any_before ? sums_at(sums_before, b, n) : fresh[odd];
    };
    const auto start = [&](Products& products, int64_t b, int64_t n, int odd) {
      TileTerm terms[5];
      const int count = terms_of(b, n * kBlock, terms);
      products.start(terms, count, sums(b, n, odd), any_before);
    };
    place.template each_product_block<Products>(channels, start, [&](int64_t pixel, int64_t b, int64_t n, int64_t p, int odd) {
      const float* sum = sums(b, n, odd) + sums_row(p);
      Wide total = load_wide(sum, sum + 256);
      if (around) {
        const Wide g = load_wide(grad.at(pixel, n)), z = load_wide(z_rows.at(pixel, n));
#pragma GCC unroll 2
        for (int i = 0; i < 2; ++i) {
          const Vec<float> passes = g.half[i] * z.half[i];
          total.half[i] += z_keeps ? passes : g.half[i] - passes;
        }
      }
      store_wide(to.at(pixel, n), total);
    });
  }

  void run(bool first) const {
    const Shape& s = shape;
    const int64_t h_x = Gates::h_x(s), r_x = Gates::r_x(s), z_x = Gates::z_x(s);
    const int64_t h_y = Gates::h_y(s), r_y = Gates::r_y(s), z_y = Gates::z_y(s);
    const int64_t x_channels = job.tensors.x, y_channels = job.tensors.y;
    const Lanes of_x(x_channels), of_y(y_channels);
    const In of_x_out = incoming(job.grad_x_out, x_channels);
    const In of_y_out = s.pair ? incoming(job.grad_y_out, y_channels) : In{};
    unmix(of_x_out, tile.x, of_x, h_x, z_x);
    if (s.pair) unmix(of_y_out, tile.y, of_y, h_y, z_y);
    unreset(W_x, h_x, r_x, tile.y, of_y, tile.passed_y, sum_y);
    if (s.pair) unreset(W_y, h_y, r_y, tile.x, of_x, tile.passed_x, sum_x);

    // x is the first part of what the unit of x reads, and the second of what the unit of y reads.
    const Out to_x = tile.output(job.grad_x, x_channels), to_y = tile.output(job.grad_y, y_channels);
    collect(of_x_out, z_x, s.x, sum_x, s.pair,
            [&](int64_t b, int64_t col, TileTerm* terms) {
              terms[0] = term(h_x, b, U_x, col), terms[1] = term(r_x, b, W_r_x, col);
              terms[2] = term(z_x, b, W_z_x, col);
              if (!s.pair) return 3;
              terms[3] = term(r_y, b, W_r_y, s.y + col), terms[4] = term(z_y, b, W_z_y, s.y + col);
              return 5;
            },
            to_x);
    collect(of_y_out, s.pair ? z_y : 0, s.y, sum_y, true,
            [&](int64_t b, int64_t col, TileTerm* terms) {
              terms[0] = term(r_x, b, W_r_x, s.x + col), terms[1] = term(z_x, b, W_z_x, s.x + col);
              if (!s.pair) return 2;
              terms[2] = term(r_y, b, W_r_y, col), terms[3] = term(z_y, b, W_z_y, col);
              terms[4] = term(h_y, b, U_y, col);
              return 5;
            },
            to_y);
    tile.finish(to_x, x_channels, job.grad_x), tile.finish(to_y, y_channels, job.grad_y);
    add_to_weights(first);
  }

  // Into the sums, or kept for the end.
  void add_to_weights(bool first) const {
    const int64_t steps = place.blocks(), at = job.sums ? 0 : place.first / kBlock;
    const Factors factors = job.sums ? Factors::in(tile.take(Factors::elements(shape, 1) / kBlock), shape,
                                                   place.width / kBlock)
                                     : job.factors;
    for (int64_t b = 0; b < steps; ++b) {
      for (int64_t row = 0; row < all; row += kBlock) {
        turn_rows(pre_gates.from(row).at(b * kBlock, 0), 16 * all, factors.of_gate(row, at + b));
      }
      for (int o = 0; o < shape.operands(); ++o) {
        const uint16_t* const operands[] = {tile.x, tile.y, tile.passed_y, tile.passed_x};
        const int64_t channels = operand_channels(shape, o);
        for (int64_t c = 0; c < channels; c += kBlock) {
          pair_rows(rows_of_tiles(operands[o], channels).from(c).at(b * kBlock, 0), kTileRow, 16 * channels,
                    factors.of_operand(first_channel(shape, o) + c, at + b));
        }
      }
    }
    if (!job.sums) return;
    each_product(shape, [&](int64_t block, int weight, int64_t gate, int64_t channel, int64_t channels, int64_t) {
      for (int64_t row = 0; row < shape.rows(weight); row += kBlock, block += channels / kBlock) {
        multiply_row<Products>(factors, gate + row, channel, channels, 0, steps, job.sums + block * kSums, !first);
      }
    });
  }
};

}  // namespace FUSED_OPS_ISA
}  // namespace fused_ops::selective_share

#endif
