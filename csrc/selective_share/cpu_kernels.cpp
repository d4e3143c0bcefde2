// The kernels of kernels.h for one instruction set (FUSED_OPS_ISA). Math and names: fused_ops/selective_share/README.md.
#include "common/amx.h"
#include "common/product.h"
#include "selective_share/cpu_tile.h"

namespace fused_ops::selective_share {
inline namespace FUSED_OPS_ISA {
namespace {

// How a tile's products are made: what their right sides look like (`lay` for weights x features, `lay_down` for the
// weights' gradients, where features are transposed), and what the left side of the latter is.
template <typename T, bool in_tiles>
struct Products {
  using S = Computed<T>;
  using Left = S;
  using Right = S;
  using Factors = Term<S>;
  static constexpr int per_element = 1;  // elements of a block per element of scratch memory

  static const S* lay(int64_t, int64_t, const S* block, S*) { return block; }
  static int64_t rows_to_lay(int64_t) { return 0; }
  static const S* left(int64_t, int64_t, const S* block, S*) { return block; }
  static void lay_down(int64_t rows, int64_t width, const S* block, S* to, int64_t to_ld) {
    transpose(rows, width, block, width, to, to_ld);
  }
};

#if defined(__AVX512F__)
template <>
struct Products<uint16_t, true> {
  using S = float;
  using Left = uint16_t;
  using Right = uint32_t;
  using Factors = PairedTerm;
  static constexpr int per_element = 2;

  static const Right* lay(int64_t rows, int64_t width, const S* block, S* room) {
    pair_rows(rows, width, block, reinterpret_cast<Right*>(room));
    return reinterpret_cast<const Right*>(room);
  }
  static int64_t rows_to_lay(int64_t channels) { return channels / 2; }
  static const Left* left(int64_t rows, int64_t width, const S* block, S* room) {
    copy_row(rows * width, block, reinterpret_cast<BFloat16*>(room));
    return reinterpret_cast<const Left*>(room);
  }
  static void lay_down(int64_t rows, int64_t width, const S* block, Right* to, int64_t to_ld) {
    pair_columns(rows, width, block, to, to_ld);
  }
};
#endif

// The thread's tile registers, where they are used.
template <bool in_tiles>
struct Registers {
  Registers() {}
};
#if defined(__AVX512F__)
template <>
struct Registers<true> {
  AmxTiles tiles;
};
#endif

// One tile's blocks of x and y and its gates; the scratch memory is handed out block by block.
template <typename T, bool in_tiles>
struct Tile {
  using S = Computed<T>;
  using P = Products<T, in_tiles>;
  using Right = typename P::Right;
  using Factors = typename P::Factors;
  using Left = typename P::Left;
  static constexpr bool low = sizeof(T) == 2;  // results are rounded to bfloat16

  const Shape& shape;
  const Left* const* weights;
  Place place;
  S* free;
  S *x, *y;  // one after the other
  S *passed_y, *passed_x;  // r_x . y and r_y . x
  S* gates;
  const Right *right_x, *right_y;

  template <typename Job>
  Tile(const Job& job, int64_t index, S* scratch)
      : shape(job.shape), weights(job.weights), place(shape, job.tile, index), free(scratch) {
    x = take(shape.x), y = take(shape.y);
    passed_y = take(shape.y), passed_x = take(shape.x);
    gates = take(shape.gates());
    place.load(job.x, shape.x, shape.channels_last, x);
    place.load(job.y, shape.y, shape.channels_last, y);
  }

  static int64_t rows(const Shape& shape) { return 2 * shape.both() + shape.gates() + 2 * P::rows_to_lay(shape.both()); }

  int64_t size(int64_t channels) const { return channels * place.width; }
  S* take(int64_t channels) {
    S* taken = free;
    free += size(channels);
    return taken;
  }
  // A block in the form of a right side.
  const Right* lay(int64_t channels, const S* block) {
    return P::lay(channels, place.width, block, take(P::rows_to_lay(channels)));
  }
  S* gate(int64_t row) const { return gates + size(row); }
  const S* operand(int which) const {
    const S* blocks[] = {x, y, passed_y, passed_x};
    return blocks[which];
  }

  Factors factors(int weight, int64_t col, const Right* features, int64_t depth) const {
    return {weights[weight] + col, shape.cols(weight), features, place.width, depth};
  }
  void sum(int64_t channels, const Factors (&terms)[2], S* out) const {
    product(channels, place.width, terms, 2, out, place.width, false);
  }

  // One unit's gates before the mix: r final, h and z before their activations.
  void unit(int first, const Right* target, int64_t t, const Right* source, const S* source_block, int64_t s, int64_t h,
            int64_t r, int64_t z, S* passed) {
    sum(s, {factors(first + W_r_x, 0, target, t), factors(first + W_r_x, t, source, s)}, gate(r));
    sum(t, {factors(first + W_z_x, 0, target, t), factors(first + W_z_x, t, source, s)}, gate(z));
    reset<S, low>(size(s), gate(r), source_block, passed);
    const Right* right = lay(s, passed);
    sum(t, {factors(first + U_x, 0, target, t), factors(first + W_x, 0, right, s)}, gate(h));
  }

  void compute_gates() {
    right_x = lay(shape.x, x), right_y = lay(shape.y, y);
    unit(W_r_x, right_x, shape.x, right_y, y, shape.y, Gates::h_x(shape), Gates::r_x(shape), Gates::z_x(shape),
         passed_y);
    if (!shape.pair) return;
    unit(W_r_y, right_y, shape.y, right_x, x, shape.x, Gates::h_y(shape), Gates::r_y(shape), Gates::z_y(shape),
         passed_x);
  }
  // h and z after their activations; x_target and y_target become the mixed outputs.
  void mix_into(S* x_target, S* y_target) const {
    mix<S, low>(size(shape.x), gate(Gates::h_x(shape)), gate(Gates::z_x(shape)), x_target, shape.z_keeps);
    if (!shape.pair) return;
    mix<S, low>(size(shape.y), gate(Gates::h_y(shape)), gate(Gates::z_y(shape)), y_target, shape.z_keeps);
  }
};

template <typename T, bool in_tiles>
void forward(const Forward<T, in_tiles>& job, int64_t first, int64_t last, Computed<T>* scratch) {
  const Registers<in_tiles> registers;
  const Shape& shape = job.shape;
  for (int64_t index = first; index < last; ++index) {
    Tile<T, in_tiles> tile(job, index, scratch);
    tile.compute_gates();
    tile.mix_into(tile.x, tile.y);
    tile.place.save(tile.x, shape.x, shape.channels_last, job.x_out);
    if (shape.pair) tile.place.save(tile.y, shape.y, shape.channels_last, job.y_out);
    if (job.gates) tile.place.save(tile.gates, shape.gates(), false, job.gates);
  }
}

// The gradients of one tile.
template <typename T, bool in_tiles>
struct Gradients {
  using Own = Tile<T, in_tiles>;
  using S = typename Own::S;
  using P = typename Own::P;
  using Right = typename Own::Right;
  using Factors = typename Own::Factors;

  const Backward<T, in_tiles>& job;
  Own& tile;
  const Shape& shape;
  S *grad_x, *grad_y;
  S* grad_out;
  S* grad_gates;
  S* pre_gates;
  S* right_room;

  Gradients(const Backward<T, in_tiles>& job, Own& tile)
      : job(job), tile(tile), shape(job.shape), grad_gates(nullptr) {
    grad_x = tile.take(shape.x), grad_y = tile.take(shape.y);
    grad_out = tile.take(shape.x > shape.y ? shape.x : shape.y);
    pre_gates = tile.take(shape.gates());
    right_room = tile.take(P::rows_to_lay(shape.gates()));
    if (job.grad_gates) {
      grad_gates = tile.take(shape.gates());
      tile.place.load(job.grad_gates, shape.gates(), false, grad_gates);
    }
  }

  static int64_t rows(const Backward<T, in_tiles>& job) {
    const Shape& s = job.shape;
    const int64_t lying = job.weight_sums ? 2 * s.both() / P::per_element : 0;
    const int64_t left = P::rows_to_lay(s.gates());
    return s.both() + (s.x > s.y ? s.x : s.y) + s.gates() * (job.grad_gates ? 2 : 1) + P::rows_to_lay(s.gates()) +
           left + lying;
  }

  S* pre(int64_t row) const { return pre_gates + tile.size(row); }
  const S* outside(int64_t row) const { return grad_gates ? grad_gates + tile.size(row) : nullptr; }
  S* room(int64_t row) const { return right_room + tile.size(row) / P::per_element; }
  void lay(int64_t row, int64_t channels) const { P::lay(channels, tile.place.width, pre(row), room(row)); }
  // What `lay` made of a gate's rows.
  const Right* right(int64_t row) const {
    if constexpr (in_tiles) {
      return reinterpret_cast<const Right*>(room(row));
    } else {
      return pre(row);
    }
  }
  Factors factors(int weight, int64_t row, int64_t gate_row) const {
    const int64_t depth = shape.rows(weight);
    return {job.transposed[weight] + row * depth, depth, right(gate_row), tile.place.width, depth};
  }

  void unmix_unit(const T* grad, int64_t channels, const S* target, int64_t h, int64_t z, S* grad_target) const {
    tile.place.load(grad, channels, shape.channels_last, grad_out);
    unmix(tile.size(channels), grad_out, target, tile.gate(h), tile.gate(z), outside(h), outside(z), pre(h), pre(z),
          grad_target, shape.z_keeps);
    lay(h, channels), lay(z, channels);
  }
  // Back through the candidate's W and the reset gate.
  void unreset_unit(int weight, int64_t h, int64_t r, int64_t channels, const S* source, S* passed,
                    S* grad_source) const {
    const Factors back = factors(weight, 0, h);
    product(channels, tile.place.width, &back, 1, passed, tile.place.width, false);
    unreset(tile.size(channels), tile.gate(r), source, outside(r), passed, pre(r), grad_source);
    lay(r, channels);
  }

  void run() const {
    const Shape& s = shape;
    const int64_t width = tile.place.width;
    unmix_unit(job.grad_x_out, s.x, tile.x, Gates::h_x(s), Gates::z_x(s), grad_x);
    if (s.pair) {
      unmix_unit(job.grad_y_out, s.y, tile.y, Gates::h_y(s), Gates::z_y(s), grad_y);
    } else {
      for (int64_t i = 0; i < tile.size(s.y); ++i) grad_y[i] = S(0);
    }
    unreset_unit(W_x, Gates::h_x(s), Gates::r_x(s), s.y, tile.y, tile.passed_y, grad_y);
    if (s.pair) unreset_unit(W_y, Gates::h_y(s), Gates::r_y(s), s.x, tile.x, tile.passed_x, grad_x);

    // x is the first part of what the unit of x reads, and the second of what the unit of y reads.
    const Factors to_x[] = {factors(U_x, 0, Gates::h_x(s)), factors(W_r_x, 0, Gates::r_x(s)),
                            factors(W_z_x, 0, Gates::z_x(s)), factors(W_r_y, s.y, Gates::r_y(s)),
                            factors(W_z_y, s.y, Gates::z_y(s))};
    product(s.x, width, to_x, s.pair ? 5 : 3, grad_x, width, true);
    const Factors to_y[] = {factors(W_r_x, s.x, Gates::r_x(s)), factors(W_z_x, s.x, Gates::z_x(s)),
                            factors(W_r_y, 0, Gates::r_y(s)), factors(W_z_y, 0, Gates::z_y(s)),
                            factors(U_y, 0, Gates::h_y(s))};
    product(s.y, width, to_y, s.pair ? 5 : 2, grad_y, width, true);

    tile.place.save(grad_x, s.x, s.channels_last, job.grad_x);
    tile.place.save(grad_y, s.y, s.channels_last, job.grad_y);
    if (job.weight_sums) {
      add_to_sums();
    } else {
      keep_for_the_end();
    }
  }

  // dW += pre x operand^T for every weight. The operands are laid down once, so that they are read along channels.
  void add_to_sums() const {
    const int64_t width = tile.place.width;
    const auto* left = P::left(shape.gates(), width, pre_gates, tile.take(P::rows_to_lay(shape.gates())));
    Right* lying[4];
    for (int o = 0; o < shape.operands(); ++o) {
      const int64_t channels = operand_channels(shape, o);
      lying[o] = reinterpret_cast<Right*>(tile.free);
      tile.free += tile.size(channels) / P::per_element;
      P::lay_down(channels, width, tile.operand(o), lying[o], channels);
    }
    each_weight_gradient(shape, [&](int weight, int64_t gate_row, int o, int64_t col) {
      const int64_t channels = operand_channels(shape, o);
      const Factors both{left + gate_row * width, width, lying[o], channels, width};
      product(shape.rows(weight), channels, &both, 1, job.weight_sums + shape.offset(weight) + col,
              shape.cols(weight), true);
    });
  }

  void keep_for_the_end() const {
    using StoredLeft = Stored<typename P::Left>;
    const int64_t width = tile.place.width, first = tile.place.first;
    StoredLeft* kept = reinterpret_cast<StoredLeft*>(job.pre_gates);
    for (int64_t row = 0; row < shape.gates(); ++row) copy_row(width, pre(row), kept + row * job.all_pixels + first);
    Right* panel = reinterpret_cast<Right*>(job.operands) + first * kPanel / P::per_element;
    for (int o = 0; o < shape.operands(); ++o) {
      for (int64_t c = 0; c < operand_channels(shape, o); c += kPanel) {
        const int64_t left = operand_channels(shape, o) - c;
        P::lay_down(left < kPanel ? left : kPanel, width, tile.operand(o) + c * width, panel, kPanel);
        panel += kPanel * job.all_pixels / P::per_element;
      }
    }
  }
};

template <typename T, bool in_tiles>
void backward(const Backward<T, in_tiles>& job, int64_t first, int64_t last, Computed<T>* scratch) {
  const Registers<in_tiles> registers;
  const Shape& shape = job.shape;
  for (int64_t index = first; index < last; ++index) {
    Tile<T, in_tiles> tile(job, index, scratch);
    if (job.gates) {
      tile.place.load(job.gates, shape.gates(), false, tile.gates);
    } else {
      tile.compute_gates();
      // The mixed outputs are of no interest here, but h and z are; they go where the gradients will be written.
      tile.mix_into(tile.free, tile.free);
    }
    Gradients<T, in_tiles>(job, tile).run();
  }
}

template <typename T, bool in_tiles>
void multiply(const Backward<T, in_tiles>& job, int64_t rows, int64_t cols, int64_t gate_row, int64_t panel,
              Computed<T>* to, int64_t to_ld) {
  using P = Products<T, in_tiles>;
  const Registers<in_tiles> registers;
  const int64_t pixels = job.all_pixels;
  const auto* left = reinterpret_cast<const typename P::Left*>(job.pre_gates) + gate_row * pixels;
  const auto* right = reinterpret_cast<const typename P::Right*>(job.operands) + panel * kPanel * pixels / P::per_element;
  // Long sums in parts whose share of the panel stays in the second-level cache while all rows pass.
  constexpr int64_t some = 1024;
  for (int64_t k = 0; k < pixels; k += some) {
    const typename P::Factors both{left + k, pixels, right + k * kPanel / P::per_element, kPanel,
                                   pixels - k < some ? pixels - k : some};
    product(rows, cols, &both, 1, to, to_ld, k > 0);
  }
}

template <typename T, bool in_tiles>
void convert(int64_t count, const T* from, LeftOf<T, in_tiles>* to) {
  copy_row(count, stored(from), stored(to));
}

template <typename L>
void transpose_block(int64_t rows, int64_t cols, const L* from, int64_t from_ld, L* to, int64_t to_ld) {
  transpose(rows, cols, stored(from), from_ld, stored(to), to_ld);
}

template <typename T>
void total(int64_t count, const Computed<T>* const* parts, int64_t number_of_parts, int64_t offset, T* to) {
  using S = Computed<T>;
  constexpr int lanes = kLanes<S>;
  for (int64_t i = 0; i < count; i += lanes) {
    const int some = count - i < lanes ? int(count - i) : lanes;
    Vec<S> sum = load(parts[0] + offset + i, some);
    for (int64_t part = 1; part < number_of_parts; ++part) sum += load(parts[part] + offset + i, some);
    store(stored(to) + i, sum, some);
  }
}

template <typename T, bool in_tiles>
int64_t forward_rows(const Forward<T, in_tiles>& job) {
  return Tile<T, in_tiles>::rows(job.shape);
}

template <typename T, bool in_tiles>
int64_t backward_rows(const Backward<T, in_tiles>& job) {
  return Tile<T, in_tiles>::rows(job.shape) + Gradients<T, in_tiles>::rows(job);
}

template <typename T, bool in_tiles>
constexpr Kernels<T, in_tiles> table = {
    forward_rows<T, in_tiles>, backward_rows<T, in_tiles>, forward<T, in_tiles>, backward<T, in_tiles>,
    multiply<T, in_tiles>,     convert<T, in_tiles>,       transpose_block<LeftOf<T, in_tiles>>, total<T>};

}  // namespace

template <typename T, bool in_tiles>
const Kernels<T, in_tiles>& kernels() {
  return table<T, in_tiles>;
}
template const Kernels<float, false>& kernels<float, false>();
template const Kernels<double, false>& kernels<double, false>();
template const Kernels<uint16_t, false>& kernels<uint16_t, false>();
#if defined(__AVX512F__)
template const Kernels<uint16_t, true>& kernels<uint16_t, true>();
#endif

}  // namespace FUSED_OPS_ISA
}  // namespace fused_ops::selective_share
