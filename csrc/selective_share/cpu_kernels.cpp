// The kernels of kernels.h for one instruction set (FUSED_OPS_ISA). Math and names: fused_ops/selective_share/README.md.
#include "common/product.h"
#include "selective_share/cpu_amx_weights.h"
#include "selective_share/cpu_tile.h"

namespace fused_ops::selective_share {
inline namespace FUSED_OPS_ISA {
namespace {

// One tile's blocks of x and y and its gates; the scratch memory is handed out block by block.
template <typename T>
struct Tile {
  using S = Computed<T>;
  static constexpr bool low = sizeof(T) == 2;  // results are rounded to bfloat16

  const Shape& shape;
  const S* const* weights;
  Place place;
  S* free;
  S *x, *y;  // one after the other
  S *passed_y, *passed_x;  // r_x . y and r_y . x
  S* gates;

  template <typename Job>
  Tile(const Job& job, int64_t index, S* scratch)
      : shape(job.shape), weights(job.weights), place(shape, job.tile, index), free(scratch) {
    x = take(shape.x), y = take(shape.y);
    passed_y = take(shape.y), passed_x = take(shape.x);
    gates = take(shape.gates());
    place.load(job.x, shape.x, shape.channels_last, x);
    place.load(job.y, shape.y, shape.channels_last, y);
  }

  static int64_t rows(const Shape& shape) { return 2 * shape.both() + shape.gates(); }

  int64_t size(int64_t channels) const { return channels * place.width; }
  S* take(int64_t channels) {
    S* taken = free;
    free += size(channels);
    return taken;
  }
  S* gate(int64_t row) const { return gates + size(row); }
  const S* operand(int which) const {
    const S* blocks[] = {x, y, passed_y, passed_x};
    return blocks[which];
  }

  Term<S> term(int weight, int64_t col, const S* features, int64_t depth) const {
    return {weights[weight] + col, shape.cols(weight), features, place.width, depth};
  }
  void sum(int64_t channels, const Term<S> (&terms)[2], S* out) const {
    product(channels, place.width, terms, 2, out, place.width, false);
  }

  // One unit's gates before the mix: r final, h and z before their activations.
  void unit(int first, const S* target, int64_t t, const S* source, int64_t s, int64_t h, int64_t r, int64_t z,
            S* passed) const {
    sum(s, {term(first + W_r_x, 0, target, t), term(first + W_r_x, t, source, s)}, gate(r));
    sum(t, {term(first + W_z_x, 0, target, t), term(first + W_z_x, t, source, s)}, gate(z));
    reset<S, low>(size(s), gate(r), source, passed);
    sum(t, {term(first + U_x, 0, target, t), term(first + W_x, 0, passed, s)}, gate(h));
  }

  void compute_gates() const {
    unit(W_r_x, x, shape.x, y, shape.y, Gates::h_x(shape), Gates::r_x(shape), Gates::z_x(shape), passed_y);
    if (!shape.pair) return;
    unit(W_r_y, y, shape.y, x, shape.x, Gates::h_y(shape), Gates::r_y(shape), Gates::z_y(shape), passed_x);
  }
  // h and z after their activations; x_target and y_target become the mixed outputs.
  void mix_into(S* x_target, S* y_target) const {
    mix<S, low>(size(shape.x), gate(Gates::h_x(shape)), gate(Gates::z_x(shape)), x_target, shape.z_keeps);
    if (!shape.pair) return;
    mix<S, low>(size(shape.y), gate(Gates::h_y(shape)), gate(Gates::z_y(shape)), y_target, shape.z_keeps);
  }
};

template <typename T>
void forward(const Forward<T>& job, int64_t first, int64_t last, Computed<T>* scratch) {
  const Shape& shape = job.shape;
  for (int64_t index = first; index < last; ++index) {
    Tile<T> tile(job, index, scratch);
    tile.compute_gates();
    tile.mix_into(tile.x, tile.y);
    tile.place.save(tile.x, shape.x, shape.channels_last, job.x_out);
    if (shape.pair) tile.place.save(tile.y, shape.y, shape.channels_last, job.y_out);
    if (job.gates) tile.place.save(tile.gates, shape.gates(), shape.gates_channels_last, job.gates, true);
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
  S *grad_x, *grad_y;
  S* grad_out;
  S* grad_gates;
  S* pre_gates;

  Gradients(const Backward<T>& job, Own& tile)
      : job(job), tile(tile), shape(job.shape), grad_gates(nullptr) {
    grad_x = tile.take(shape.x), grad_y = tile.take(shape.y);
    grad_out = tile.take(shape.x > shape.y ? shape.x : shape.y);
    pre_gates = job.weight_sums ? tile.take(shape.gates())
                                : job.pre_gates + (tile.place.first - job.first_pixel) * shape.gates();
    if (job.grad_gates) {
      grad_gates = tile.take(shape.gates());
      tile.place.load(job.grad_gates, shape.gates(), shape.gates_channels_last, grad_gates);
    }
  }

  static int64_t rows(const Backward<T>& job) {
    const Shape& s = job.shape;
    const int64_t summed = job.weight_sums ? 2 * (row_line(s.x) + row_line(s.y)) + s.gates() : 0;
    return s.both() + (s.x > s.y ? s.x : s.y) + (job.grad_gates ? s.gates() : 0) + summed;
  }

  S* pre(int64_t row) const { return pre_gates + tile.size(row); }
  const S* outside(int64_t row) const { return grad_gates ? grad_gates + tile.size(row) : nullptr; }
  Term<S> term(int weight, int64_t row, int64_t gate_row) const {
    const int64_t depth = shape.rows(weight);
    return {job.transposed[weight] + row * depth, depth, pre(gate_row), tile.place.width, depth};
  }

  void unmix_unit(const T* grad, int64_t channels, const S* target, int64_t h, int64_t z, S* grad_target) const {
    tile.place.load(grad, channels, shape.channels_last, grad_out);
    unmix(tile.size(channels), grad_out, target, tile.gate(h), tile.gate(z), outside(h), outside(z), pre(h), pre(z),
          grad_target, shape.z_keeps);
  }
  // Back through the candidate's W and the reset gate.
  void unreset_unit(int weight, int64_t h, int64_t r, int64_t channels, const S* source, S* passed,
                    S* grad_source) const {
    const Term<S> back = term(weight, 0, h);
    product(channels, tile.place.width, &back, 1, passed, tile.place.width, false);
    unreset(tile.size(channels), tile.gate(r), source, outside(r), passed, pre(r), grad_source);
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

    // x is the first part of what the unit of x reads, and the second of what the unit of y reads. The units' sums are
    // added one after the other: in one the rounding errors of both would run through all the steps.
    const Term<S> unit_x_to_x[] = {term(U_x, 0, Gates::h_x(s)), term(W_r_x, 0, Gates::r_x(s)),
                                   term(W_z_x, 0, Gates::z_x(s))};
    product(s.x, width, unit_x_to_x, 3, grad_x, width, true);
    const Term<S> unit_x_to_y[] = {term(W_r_x, s.x, Gates::r_x(s)), term(W_z_x, s.x, Gates::z_x(s))};
    product(s.y, width, unit_x_to_y, 2, grad_y, width, true);
    if (s.pair) {
      const Term<S> unit_y_to_x[] = {term(W_r_y, s.y, Gates::r_y(s)), term(W_z_y, s.y, Gates::z_y(s))};
      product(s.x, width, unit_y_to_x, 2, grad_x, width, true);
      const Term<S> unit_y_to_y[] = {term(W_r_y, 0, Gates::r_y(s)), term(W_z_y, 0, Gates::z_y(s)),
                                     term(U_y, 0, Gates::h_y(s))};
      product(s.y, width, unit_y_to_y, 3, grad_y, width, true);
    }

    tile.place.save(grad_x, s.x, s.channels_last, job.grad_x);
    tile.place.save(grad_y, s.y, s.channels_last, job.grad_y);
    if (job.weight_sums) {
      add_to_sums();
    } else {
      keep_for_products();
    }
  }

  // dW += pre x operand^T for every weight. The operands are laid down once, so that they are read along channels. Sums
  // run over few pixels before they are added: their rounding errors grow with their length.
  void add_to_sums() const {
    constexpr int64_t longest = 64;
    const int64_t width = tile.place.width, count = tile.place.count, parts = (count + longest - 1) / longest;
    S* lying[4];
    for (int o = 0; o < shape.operands(); ++o) {
      const int64_t channels = operand_channels(shape, o), line = row_line(channels);
      lying[o] = tile.take(line);
      transpose(channels, count, tile.operand(o), width, lying[o], line);
    }
    for (int64_t part = 0; part < parts; ++part) {
      const int64_t pixel = part * count / parts, some = (part + 1) * count / parts - pixel;
      each_weight_gradient(shape, [&](int weight, int64_t gate_row, int o, int64_t col) {
        const int64_t channels = operand_channels(shape, o), line = row_line(channels);
        const Term<S> both{pre(gate_row) + pixel, width, lying[o] + pixel * line, line, some};
        product(shape.rows(weight), channels, &both, 1, job.weight_sums + shape.offset(weight) + col,
                shape.cols(weight), true);
      });
    }
  }

  void keep_for_products() const {
    const int64_t width = tile.place.width, first = tile.place.first, count = tile.place.count;
    S* panel = job.operands + (first - job.first_pixel) * kPanelLine;
    for (int o = 0; o < shape.operands(); ++o) {
      const int64_t channels = operand_channels(shape, o);
      const T* tensor = o == of_x ? job.x : o == of_y ? job.y : nullptr;
      for (int64_t c = 0; c < channels; c += kPanel, panel += kPanelLine * job.kept_pixels) {
        const int64_t some = channels - c < kPanel ? channels - c : kPanel;
        if (tensor == nullptr || !shape.channels_last) {
          transpose(some, count, tile.operand(o) + c * width, width, panel, kPanelLine);
          continue;
        }
        // They lie so in the tensor.
        for (int64_t p = 0; p < count; ++p) {
          copy_row(some, stored(tensor) + (first + p) * channels + c, panel + p * kPanelLine);
        }
      }
    }
  }
};

template <typename T>
void backward(const Backward<T>& job, int64_t first, int64_t last, Computed<T>* scratch) {
  const Shape& shape = job.shape;
  for (int64_t index = first; index < last; ++index) {
    Tile<T> tile(job, index, scratch);
    if (job.gates) {
      tile.place.load(job.gates, shape.gates(), shape.gates_channels_last, tile.gates);
    } else {
      tile.compute_gates();
      // The mixed outputs are of no interest here, but h and z are; they go where the gradients will be written.
      tile.mix_into(tile.free, tile.free);
    }
    Gradients<T>(job, tile).run();
  }
}

template <typename T>
void multiply(const Backward<T>& job, int64_t rows, int64_t cols, int64_t gate_row, int64_t panel,
              Computed<T>* to, int64_t to_ld) {
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
      const int64_t pixel = (first + i) * width;
      const int64_t count = pixels - pixel < width ? pixels - pixel : width, ld = last_width(width, count);
      terms[i] = {job.pre_gates + pixel * gates + gate_row * ld, ld, right + pixel * kPanelLine, kPanelLine, count};
    }
    product(rows, cols, terms, int(some), to, to_ld, first > 0 || job.first_pixel > 0);
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
