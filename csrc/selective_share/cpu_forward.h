// One tile of pixels: its features, their gates and what is mixed with them. Names and math:
// fused_ops/selective_share/README.md.
#pragma once
#include "common/product.h"
#include "selective_share/cpu_tile.h"

namespace fused_ops::selective_share {
inline namespace FUSED_OPS_ISA {

// One tile's features and its gates; the scratch memory is handed out block by block.
template <typename T>
struct Tile {
  using S = Computed<T>;
  static constexpr bool low = sizeof(T) == 2;  // results are rounded to bfloat16

  const Shape& shape;
  const Matrix<S>* weights;
  Place place;
  S* free;
  S *x_block, *y_block;  // null in place
  const S *x, *y;
  S *passed_y, *passed_x;  // r_x . y and r_y . x
  S* gates;                // their sums, and what becomes of them where there is no other place

  template <typename Job>
  Tile(const Job& job, int64_t index, S* scratch)
      : shape(job.shape), weights(job.weights), place(shape, job.tile, index), free(scratch) {
    x_block = shape.in_place ? nullptr : take(shape.x), y_block = shape.in_place ? nullptr : take(shape.y);
    passed_y = take(shape.y), passed_x = take(shape.x);
    gates = take(shape.gates());
    x = place.read(job.x, shape.x, x_block), y = place.read(job.y, shape.y, y_block);
  }

  static int64_t rows(const Shape& shape) { return (shape.in_place ? 1 : 2) * shape.both() + shape.gates(); }

  int64_t size(int64_t channels) const { return channels * place.width; }
  S* take(int64_t channels) {
    S* taken = free;
    free += size(channels);
    return taken;
  }
  S* sums(int64_t row) const { return gates + size(row); }
  GateRows<S> gate_blocks() const { return {gates, place.width}; }
  // All gates of the tile in a tensor whose rows are pixels.
  template <typename U>
  GateRows<U> gates_of(U* tensor) const {
    const bool lines = reinterpret_cast<uintptr_t>(tensor) % kVectorBytes == 0;
    return {tensor + place.first * shape.gates(), 1, shape.gates(), lines};
  }
  const S* operand(int which) const {
    const S* blocks[] = {x, y, passed_y, passed_x};
    return blocks[which];
  }

  // A weight, from where it is read on, times a block of `depth` channels.
  Term<S> term(const S* weight, int64_t ld, const S* block, int64_t depth) const {
    if (shape.in_place) return {block, depth, weight, ld, depth};
    return {weight, ld, block, place.width, depth};
  }
  Term<S> term(int weight, int64_t col, const S* features, int64_t depth) const {
    return term(weights[weight].from_column(col), weights[weight].ld, features, depth);
  }
  void sum(int64_t channels, const Term<S>* terms, int count, S* out, bool add) const {
    if (shape.in_place) {
      product(place.count, channels, terms, count, out, channels, add, place.count);
    } else {
      product(channels, place.width, terms, count, out, place.width, add);
    }
  }

  // One unit up to the mix: the gate r, the sums of h and z, and what passes through r.
  void unit(int first, const S* target, int64_t t, const S* source, int64_t s, int64_t h, int64_t r, int64_t z,
            const GateRows<S>& to, S* passed) const {
    const Term<S> of_r[] = {term(first + W_r_x, 0, target, t), term(first + W_r_x, t, source, s)};
    sum(s, of_r, 2, sums(r), false);
    const Term<S> of_z[] = {term(first + W_z_x, 0, target, t), term(first + W_z_x, t, source, s)};
    sum(t, of_z, 2, sums(z), false);
    reset<S, low>(s, place.width, sums(r), source, to.from(r), passed);
    const Term<S> of_h[] = {term(first + U_x, 0, target, t), term(first + W_x, 0, passed, s)};
    sum(t, of_h, 2, sums(h), false);
  }

  // The gates, kept in `to` if it has a base, and the mixed outputs, which may lie where x and y do.
  void compute(const GateRows<S>& to, S* x_out, S* y_out) const {
    using G = Gates;
    unit(W_r_x, x, shape.x, y, shape.y, G::h_x(shape), G::r_x(shape), G::z_x(shape), to, passed_y);
    if (shape.pair) {
      unit(W_r_y, y, shape.y, x, shape.x, G::h_y(shape), G::r_y(shape), G::z_y(shape), to, passed_x);
    }
    mix_unit(shape.x, G::h_x(shape), G::z_x(shape), x, to, x_out);
    if (shape.pair) mix_unit(shape.y, G::h_y(shape), G::z_y(shape), y, to, y_out);
  }
  void mix_unit(int64_t channels, int64_t h, int64_t z, const S* target, const GateRows<S>& to, S* out) const {
    mix<S, low>(channels, place.width, sums(h), sums(z), target, to.from(h), to.from(z), out, shape.z_keeps);
  }
};

// The gates of a tile that were kept: in rows of all of them where blocks are read in place, else in the tile's blocks.
template <typename T, typename Own>
GateRows<const Computed<T>> read_gates(const T* tensor, const Own& tile, Computed<T>* blocks) {
  if constexpr (std::is_same_v<T, Computed<T>>) {
    if (tile.shape.in_place) return tile.gates_of(tensor);
  }
  tile.place.load(tensor, tile.shape.gates(), tile.shape.gates_channels_last, blocks);
  return {blocks, tile.place.width};
}

template <typename T>
void forward(const Forward<T>& job, int64_t first, int64_t last, Computed<T>* scratch) {
  using S = Computed<T>;
  const Shape& shape = job.shape;
  for (int64_t index = first; index < last; ++index) {
    const Tile<T> tile(job, index, scratch);
    const Place& place = tile.place;
    GateRows<S> to = job.gates ? tile.gate_blocks() : GateRows<S>{};
    if constexpr (std::is_same_v<T, S>) {
      if (job.gates && shape.in_place) to = tile.gates_of(job.gates);
    }
    S* x_out = place.output(job.x_out, shape.x, tile.x_block);
    S* y_out = shape.pair ? place.output(job.y_out, shape.y, tile.y_block) : nullptr;
    tile.compute(to, x_out, y_out);
    place.finish(x_out, shape.x, job.x_out);
    if (shape.pair) place.finish(y_out, shape.y, job.y_out);
    if (job.gates && !shape.in_place) {
      place.save(tile.gates, shape.gates(), shape.gates_channels_last, job.gates, true);
    }
  }
  finish_stores();
}

}  // namespace FUSED_OPS_ISA
}  // namespace fused_ops::selective_share
