// The kernels of kernels.h for one instruction set (FUSED_OPS_ISA). Math and names: fused_ops/selective_share/README.md.
#include "common/product.h"
#include "selective_share/cpu_amx_weights.h"
#include "selective_share/cpu_tile.h"

namespace fused_ops::selective_share {
inline namespace FUSED_OPS_ISA {
namespace {

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

template <typename T>
void convert(int64_t count, const T* from, Computed<T>* to) {
  copy_row(count, stored(from), to);
}

template <typename S>
void transpose_block(int64_t rows, int64_t cols, const S* from, int64_t from_ld, S* to, int64_t to_ld) {
  transpose(rows, cols, from, from_ld, to, to_ld);
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

template <typename T>
int64_t forward_rows(const Forward<T>& job) {
  return Tile<T>::rows(job.shape);
}

template <typename T>
int64_t backward_rows(const Backward<T>& job) {
  return Tile<T>::rows(job.shape) + Gradients<T>::rows(job);
}

template <typename T>
constexpr Kernels<T> table = {kVectors * kLanes<Computed<T>>, forward_rows<T>, backward_rows<T>,
                              forward<T>, backward<T>, multiply<T>, convert<T>,
                              transpose_block<Computed<T>>, total<T>};

#if defined(__AVX512F__)

int64_t amx_forward_rows(const AmxForward& job) {
  return AmxTile<AmxForward>::rows(job.shape) + (job.shape.channels_last ? 0 : job.shape.both());
}
int64_t amx_backward_rows(const AmxBackward& job) { return AmxGradients::rows(job); }

void amx_forward(const AmxForward& job, int64_t first, int64_t last, uint16_t* scratch) {
  const AmxTiles registers;
  const Shape& shape = job.shape;
  for (int64_t index = first; index < last; ++index) {
    AmxTile<AmxForward> tile(job, index, scratch);
    if (job.gates) {
      tile.gates = rows_of_tensor(job.gates + tile.place.first * shape.gates(), shape.gates());
      tile.gates_for_later = reinterpret_cast<uintptr_t>(job.gates) % kVectorBytes == 0;
    }
    const Rows<uint16_t> x_out = tile.output(job.x_out, shape.x);
    const Rows<uint16_t> y_out = shape.pair ? tile.output(job.y_out, shape.y) : Rows<uint16_t>{};
    tile.compute(x_out, y_out);
    tile.finish(x_out, shape.x, job.x_out);
    if (shape.pair) tile.finish(y_out, shape.y, job.y_out);
  }
  finish_stores();
}

void amx_backward(const AmxBackward& job, int64_t first, int64_t last, uint16_t* scratch) {
  const AmxTiles registers;
  for (int64_t index = first; index < last; ++index) {
    AmxTile<AmxBackward> tile(job, index, scratch);
    AmxGradients(job, tile).run(index == first);
  }
}

constexpr AmxKernels amx_table = {amx_forward_rows,    amx_backward_rows, amx_forward, amx_backward,
                                  multiply_at_the_end, weight_across,     weight_down, total_of_blocks};

#endif

}  // namespace

template <typename T>
const Kernels<T>& kernels() {
  return table<T>;
}
template const Kernels<float>& kernels<float>();
template const Kernels<double>& kernels<double>();
template const Kernels<uint16_t>& kernels<uint16_t>();
#if defined(__AVX512F__)
const AmxKernels& amx_kernels() { return amx_table; }
#endif

}  // namespace FUSED_OPS_ISA
}  // namespace fused_ops::selective_share
