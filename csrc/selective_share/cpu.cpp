// Selective sharing on the CPU, 1x1 kernels: forward and backward, tile by tile.
//
// A tile of pixels is small enough that what its matrix products write is still in cache when the gates are computed
// from it. Threads take whole tiles. Math and names: fused_ops/selective_share/README.md.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <optional>

#include "common/isa.h"
#include "selective_share/layout.h"

namespace fused_ops::selective_share {

FUSED_OPS_DECLARE_PER_ISA(template <typename T> const Kernels<T>& kernels();)

namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using OptionalTensor = std::optional<Tensor>;

template <typename T>
const Kernels<T>& chosen_kernels() {
  FUSED_OPS_RETURN_FOR_ISA(kernels<T>());
}

template <typename T>
T* data(const Tensor& tensor) {
  return static_cast<T*>(tensor.data_ptr());
}

constexpr int64_t kTileBytes = 1 << 20;  // what a tile's matrices may take: about half of a core's second-level cache
constexpr int64_t kGrain = 1 << 14;      // elements worth a thread of their own
constexpr int64_t kFewestPixels = 64;    // below this the matrix products lose more than the cache gains

int64_t tile_limit(const Channels& c, int64_t matrices, int64_t element_size) {
  return std::max(kFewestPixels, kTileBytes / (matrices * (c.x + c.y) * element_size));
}

// What forward and backward share: shapes, packed weights, and the gates of one tile.
template <typename T>
struct Share {
  Channels c;
  Layout layout;
  Packed<T> weights;
  bool z_keeps;
  const T *x, *y;
  const Kernels<T>& run = chosen_kernels<T>();

  Share(const Tensor& x_tensor, const Tensor& y_tensor, const Weights<const T>& from, bool pair, bool z_keeps)
      : c{x_tensor.size(1), y_tensor.size(1), pair},
        weights(c),
        z_keeps(z_keeps),
        x(data<const T>(x_tensor)),
        y(data<const T>(y_tensor)) {
    const int64_t images = x_tensor.size(0), pixels = x_tensor.size(2) * x_tensor.size(3);
    // One pixel an image: both layouts are the same memory, and rows of pixels make the larger matrices.
    const bool rows_are_pixels = pixels == 1 || !x_tensor.is_contiguous();
    layout = rows_are_pixels ? Layout{1, images * pixels, true} : Layout{images, pixels, false};
    weights.each_part([&](int weight, int64_t col, int64_t to_row, int64_t to_col, int64_t rows, int64_t cols) {
      const int64_t ld = weights.weight_columns(weight), to_ld = weights.inputs();
      T* to = weights.memory.get() + to_row * to_ld + to_col;
      torch::stable::parallel_for(0, rows, std::max<int64_t>(1, kGrain / cols), [&](int64_t begin, int64_t end) {
        run.copy(end - begin, cols, {from[weight] + col + begin * ld, ld}, {to + begin * to_ld, to_ld});
      });
    });
  }

  int64_t rows(int64_t channels, const Tile& at) const { return layout.rows(channels, at); }
  int64_t cols(int64_t channels, const Tile& at) const { return layout.cols(channels, at); }

  // Fill the middle of the features' tile: [y x].
  void load_sources(const Tile& at, Block<T> features) const {
    run.copy(rows(c.y, at), cols(c.y, at), layout.tile(y, c.y, at), layout.from_channel(features, c.source_y()));
    run.copy(rows(c.x, at), cols(c.x, at), layout.tile(x, c.x, at), layout.from_channel(features, c.source_x()));
  }

  // The gates of a tile: r and the passed features are final, h and z still before their activations.
  void gates_before_mix(const Tile& at, Block<T> features, Block<T> gates) {
    load_sources(at, features);
    const auto columns = [&](Block<T> block, int64_t channel, int64_t count) {
      return layout.matrix(block, channel, count, at);
    };
    multiply(columns(gates, c.r_x(), c.middle()), columns(features, c.source_y(), c.x + c.y),
             weights.middle().transposed());
    run.reset(rows(c.y, at), cols(c.y, at), layout.from_channel(gates, c.r_x()),
              layout.from_channel(features, c.source_y()), layout.from_channel(features, c.passed_y()));
    multiply(columns(gates, c.h_x(), c.x), columns(features, c.source_x(), c.x + c.y), weights.h_x().transposed());
    if (!c.pair) return;
    run.reset(rows(c.x, at), cols(c.x, at), layout.from_channel(gates, c.r_y()),
              layout.from_channel(features, c.source_x()), layout.from_channel(features, c.passed_x()));
    multiply(columns(gates, c.h_y(), c.y), columns(features, c.passed_x(), c.x + c.y), weights.h_y().transposed());
  }

  // The passed features r_x.y and r_y.x of a tile whose gates are known.
  void pass_sources(const Tile& at, Block<T> gates, Block<T> features) const {
    run.pass(rows(c.y, at), cols(c.y, at), layout.from_channel(gates, c.r_x()),
             layout.from_channel(features, c.source_y()), layout.from_channel(features, c.passed_y()));
    if (!c.pair) return;
    run.pass(rows(c.x, at), cols(c.x, at), layout.from_channel(gates, c.r_y()),
             layout.from_channel(features, c.source_x()), layout.from_channel(features, c.passed_x()));
  }

  // h and z of a tile from what gates_before_mix left, and the mixed outputs.
  void mix(const Tile& at, Block<T> gates, Block<T> x_out, Block<T> y_out, bool keep_gates) const {
    run.mix(rows(c.x, at), cols(c.x, at), layout.from_channel(gates, c.h_x()), layout.from_channel(gates, c.z_x()),
            layout.tile(x, c.x, at), x_out, z_keeps, keep_gates);
    if (!c.pair) return;
    run.mix(rows(c.y, at), cols(c.y, at), layout.from_channel(gates, c.h_y()), layout.from_channel(gates, c.z_y()),
            layout.tile(y, c.y, at), y_out, z_keeps, keep_gates);
  }
};

// An empty tensor of x's memory format.
Tensor like(const Tensor& x, int64_t channels) {
  const std::vector<int64_t> shape{x.size(0), channels, x.size(2), x.size(3)};
  const auto format = x.is_contiguous() ? torch::headeronly::MemoryFormat::Contiguous
                                        : torch::headeronly::MemoryFormat::ChannelsLast;
  return torch::stable::empty(shape, x.scalar_type(), std::nullopt, std::nullopt, std::nullopt, format);
}

template <typename T>
std::tuple<Tensor, Tensor, Tensor> forward(const Tensor& x, const Tensor& y, const Weights<const T>& from, bool pair,
                                           bool z_keeps, bool want_gates) {
  Share<T> share(x, y, from, pair, z_keeps);
  const Channels& c = share.c;
  const Layout& layout = share.layout;
  const Tensor nothing = torch::stable::new_empty(x, {0});
  const Tensor x_out = like(x, c.x), y_out = pair ? like(x, c.y) : nothing;
  const Tensor gates = want_gates ? like(x, c.gates()) : nothing;
  T *x_to = data<T>(x_out), *y_to = data<T>(y_out), *gates_to = data<T>(gates);

  const std::vector<Tile> tiles = layout.tiles(tile_limit(c, 5, sizeof(T)), torch::stable::get_num_threads());
  torch::stable::parallel_for(0, int64_t(tiles.size()), 1, [&](int64_t begin, int64_t end) {
    const int64_t pixels = tiles.front().pixels;
    const auto scratch = product_memory<T>(pixels * (c.features() + (want_gates ? 0 : c.gates())));
    for (int64_t i = begin; i < end; ++i) {
      const Tile& at = tiles[i];
      const Block<T> features = layout.scratch(scratch.get(), c.features(), at);
      const Block<T> gate_tile = want_gates
                                     ? layout.tile(gates_to, c.gates(), at)
                                     : layout.scratch(scratch.get() + pixels * c.features(), c.gates(), at);
      share.gates_before_mix(at, features, gate_tile);
      share.mix(at, gate_tile, layout.tile(x_to, c.x, at), layout.tile(y_to, c.y, at), want_gates);
    }
  });
  return {x_out, y_out, gates};
}


// The weights' gradients of one thread: sums in float for bfloat16, so that many tiles lose no more than one.
template <typename T>
struct WeightGradients {
  Packed<Sum<T>> sums;
  std::unique_ptr<T[]> part;  // one product, before it is added

  explicit WeightGradients(const Channels& c) : sums(c) {
    std::fill_n(sums.memory.get(), Packed<Sum<T>>::size(c), Sum<T>(0));
    if constexpr (!std::is_same_v<T, Sum<T>>) part = product_memory<T>(Packed<T>::size(c));
  }

  void add_product(const Kernels<T>& run, const Matrix<Sum<T>>& to, const Matrix<T>& a, const Matrix<T>& b) {
    if constexpr (std::is_same_v<T, Sum<T>>) {
      multiply_add(to, a, b);
    } else {
      multiply({part.get(), to.rows, to.cols, to.cols, 1}, a, b);
      run.accumulate(to.rows * to.cols, part.get(), to.data);
    }
  }
};

// The backward of one tile; the scratch tiles hold what their names say, columns as in Channels.
template <typename T>
struct BackwardTile {
  const Share<T>& share;
  const Tile& at;
  Block<T> features, gates;
  Block<T> pre_gates;      // gradients before the gates' activations
  Block<T> grad_features;  // gradients of the features: what arrives at y and x, and at r_y.x and r_x.y
  Block<const T> grad_gates;

  Block<T> of(Block<T> block, int64_t channel) const { return share.layout.from_channel(block, channel); }
  Block<const T> from_outside(int64_t channel) const {
    return grad_gates.data ? share.layout.from_channel(grad_gates, channel) : grad_gates;
  }
  Matrix<T> columns(Block<T> block, int64_t channel, int64_t count) const {
    return share.layout.matrix(block, channel, count, at);
  }

  // From the output's gradient to that before h and z.
  void unmix(int64_t channels, Block<const T> grad, Block<const T> target, int64_t h, int64_t z) const {
    share.run.mix_backward(share.rows(channels, at), share.cols(channels, at), grad, target, of(gates, h),
                           of(gates, z), from_outside(h), from_outside(z), of(pre_gates, h), of(pre_gates, z),
                           share.z_keeps);
  }
  // What reaches the target around the gates, and the source and the reset gate through the passed features.
  void add_direct(int64_t target_channels, Block<const T> grad, int64_t z, int64_t target, int64_t source_channels,
                  int64_t source, int64_t passed, int64_t r) const {
    share.run.target_backward(share.rows(target_channels, at), share.cols(target_channels, at), grad, of(gates, z),
                              of(grad_features, target), share.z_keeps);
    share.run.reset_backward(share.rows(source_channels, at), share.cols(source_channels, at),
                             of(grad_features, passed), of(gates, r), of(features, source), from_outside(r),
                             of(pre_gates, r), of(grad_features, source));
  }

  void run(Block<const T> grad_x_out, Block<const T> grad_y_out, WeightGradients<T>& sums) const {
    const Channels& c = share.c;
    auto& weights = const_cast<Packed<T>&>(share.weights);
    const int64_t inputs = c.x + c.y;

    unmix(c.x, grad_x_out, share.layout.tile(share.x, c.x, at), c.h_x(), c.z_x());
    multiply(columns(grad_features, c.source_x(), inputs), columns(pre_gates, c.h_x(), c.x), weights.h_x());
    if (c.pair) {
      unmix(c.y, grad_y_out, share.layout.tile(share.y, c.y, at), c.h_y(), c.z_y());
      multiply(columns(grad_features, c.passed_x(), inputs), columns(pre_gates, c.h_y(), c.y), weights.h_y());
    } else {
      zero(of(grad_features, c.source_y()), c.y);
    }
    add_direct(c.x, grad_x_out, c.z_x(), c.source_x(), c.y, c.source_y(), c.passed_y(), c.r_x());
    if (c.pair) add_direct(c.y, grad_y_out, c.z_y(), c.source_y(), c.x, c.source_x(), c.passed_x(), c.r_y());
    multiply_add(columns(grad_features, c.source_y(), inputs), columns(pre_gates, c.r_x(), c.middle()),
                 weights.middle());

    const auto add = [&](const auto& to, int64_t gate, int64_t count, int64_t feature) {
      sums.add_product(share.run, to, columns(pre_gates, gate, count).transposed(),
                       columns(features, feature, inputs));
    };
    add(sums.sums.middle(), c.r_x(), c.middle(), c.source_y());
    add(sums.sums.h_x(), c.h_x(), c.x, c.source_x());
    if (c.pair) add(sums.sums.h_y(), c.h_y(), c.y, c.passed_x());
  }

  void zero(Block<T> block, int64_t channels) const {
    const int64_t cols = share.cols(channels, at);
    for (int64_t row = 0; row < share.rows(channels, at); ++row) std::fill_n(block.data + row * block.ld, cols, T(0));
  }
};

// The weights' gradients, from where the tiles gathered them to where the weights lie.
template <typename T>
void unpack(Share<T>& share, std::vector<std::optional<WeightGradients<T>>>& sums, const Weights<T>& to) {
  std::vector<const Sum<T>*> parts;
  for (auto& thread_sums : sums) parts.push_back(thread_sums->sums.memory.get());
  const int64_t inputs = share.weights.inputs();
  share.weights.each_part([&](int weight, int64_t col, int64_t row, int64_t packed_col, int64_t rows, int64_t cols) {
    const int64_t ld = share.weights.weight_columns(weight);
    torch::stable::parallel_for(0, rows, std::max<int64_t>(1, kGrain / cols), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        share.run.total(cols, parts.data(), parts.size(), (row + i) * inputs + packed_col, to[weight] + i * ld + col);
      }
    });
  });
}

template <typename T>
std::vector<Tensor> backward(const Tensor& grad_x_out, const OptionalTensor& grad_y_out,
                             const OptionalTensor& grad_gates, const Tensor& x, const Tensor& y,
                             const OptionalTensor& gates, const Weights<const T>& from,
                             const std::array<OptionalTensor, 8>& weights, bool pair, bool z_keeps) {
  Share<T> share(x, y, from, pair, z_keeps);
  const Channels& c = share.c;
  const Layout& layout = share.layout;
  const Tensor grad_x = like(x, c.x), grad_y = like(x, c.y);
  T *grad_x_to = data<T>(grad_x), *grad_y_to = data<T>(grad_y);
  const T* grad_x_from = data<const T>(grad_x_out);
  const T* grad_y_from = pair ? data<const T>(*grad_y_out) : nullptr;
  const T* grad_gates_from = grad_gates ? data<const T>(*grad_gates) : nullptr;
  T* known_gates = gates ? data<T>(*gates) : nullptr;

  const int64_t threads = torch::stable::get_num_threads();
  const std::vector<Tile> tiles = layout.tiles(tile_limit(c, 10, sizeof(T)), threads);
  const int64_t chunks = std::min<int64_t>(threads, tiles.size());
  std::vector<std::optional<WeightGradients<T>>> sums(chunks);
  torch::stable::parallel_for(0, chunks, 1, [&](int64_t first_chunk, int64_t last_chunk) {
    const int64_t pixels = tiles.front().pixels;
    const int64_t own_gates = known_gates ? 0 : c.gates();
    const auto scratch = product_memory<T>(pixels * (2 * c.features() + c.gates() + own_gates));
    for (int64_t chunk = first_chunk; chunk < last_chunk; ++chunk) {
      WeightGradients<T>& mine = sums[chunk].emplace(c);
      const int64_t begin = chunk * tiles.size() / chunks, end = (chunk + 1) * tiles.size() / chunks;
      for (int64_t i = begin; i < end; ++i) {
        const Tile& at = tiles[i];
        T* free = scratch.get();
        const auto take = [&](int64_t channels) {
          T* taken = free;
          free += pixels * channels;
          return layout.scratch(taken, channels, at);
        };
        BackwardTile<T> tile{share, at, take(c.features()), {}, take(c.gates()), take(c.features()), {}};
        if (grad_gates_from) tile.grad_gates = layout.tile(grad_gates_from, c.gates(), at);
        if (known_gates) {
          tile.gates = layout.tile(known_gates, c.gates(), at);
          share.load_sources(at, tile.features);
          share.pass_sources(at, tile.gates, tile.features);
        } else {
          tile.gates = take(c.gates());
          share.gates_before_mix(at, tile.features, tile.gates);
          share.mix(at, tile.gates, tile.of(tile.grad_features, c.source_x()),
                    tile.of(tile.grad_features, c.source_y()), true);
        }
        const Block<const T> grad_y_tile =
            pair ? layout.tile(grad_y_from, c.y, at) : Block<const T>{};
        tile.run(layout.tile(grad_x_from, c.x, at), grad_y_tile, mine);
        share.run.copy(share.rows(c.x, at), share.cols(c.x, at), tile.of(tile.grad_features, c.source_x()),
                       layout.tile(grad_x_to, c.x, at));
        share.run.copy(share.rows(c.y, at), share.cols(c.y, at), tile.of(tile.grad_features, c.source_y()),
                       layout.tile(grad_y_to, c.y, at));
      }
    }
  });

  std::vector<Tensor> results{grad_x, grad_y};
  Weights<T> to{};
  for (int i = 0; i < 8; ++i) {
    if (weights[i]) {
      const auto shape = weights[i]->sizes();
      results.push_back(torch::stable::new_empty(*weights[i], std::vector<int64_t>(shape.begin(), shape.end())));
      to[i] = data<T>(results.back());
    } else {
      results.push_back(torch::stable::new_empty(x, {0}));
    }
  }
  unpack(share, sums, to);
  return results;
}

// --- the torch side ----------------------------------------------------------------------------------------------

// Calls work(T) with the type that stands for the dtype.
template <typename F>
auto for_dtype(ScalarType dtype, F&& work) {
  switch (dtype) {
    case ScalarType::Float:
      return work(float{});
    case ScalarType::Double:
      return work(double{});
    case ScalarType::BFloat16:
      return work(uint16_t{});
    default:
      STD_TORCH_CHECK(false, "selective_share on the CPU computes float32, float64 and bfloat16");
  }
}

std::array<OptionalTensor, 8> contiguous(std::array<OptionalTensor, 8> weights) {
  for (OptionalTensor& weight : weights) {
    if (weight && !weight->is_contiguous()) weight = torch::stable::contiguous(*weight);
  }
  return weights;
}

template <typename T>
Weights<const T> pointers(const std::array<OptionalTensor, 8>& weights) {
  Weights<const T> result{};
  for (int i = 0; i < 8; ++i) result[i] = weights[i] ? data<const T>(*weights[i]) : nullptr;
  return result;
}

std::tuple<Tensor, Tensor, Tensor> selective_share(Tensor x, Tensor y, Tensor W_r_x, Tensor W_x, Tensor U_x,
                                                   Tensor W_z_x, OptionalTensor W_r_y, OptionalTensor W_y,
                                                   OptionalTensor U_y, OptionalTensor W_z_y, bool z_keeps,
                                                   bool want_gates) {
  const auto weights = contiguous({W_r_x, W_x, U_x, W_z_x, W_r_y, W_y, U_y, W_z_y});
  return for_dtype(x.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    return forward<T>(x, y, pointers<T>(weights), W_r_y.has_value(), z_keeps, want_gates);
  });
}

using Ten = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

Ten selective_share_backward(Tensor grad_x_out, OptionalTensor grad_y_out, OptionalTensor grad_gates, Tensor x,
                             Tensor y, OptionalTensor gates, Tensor W_r_x, Tensor W_x, Tensor U_x, Tensor W_z_x,
                             OptionalTensor W_r_y, OptionalTensor W_y, OptionalTensor U_y, OptionalTensor W_z_y,
                             bool z_keeps) {
  const auto weights = contiguous({W_r_x, W_x, U_x, W_z_x, W_r_y, W_y, U_y, W_z_y});
  const auto r = for_dtype(x.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    return backward<T>(grad_x_out, grad_y_out, grad_gates, x, y, gates, pointers<T>(weights), weights,
                       W_r_y.has_value(), z_keeps);
  });
  return {r[0], r[1], r[2], r[3], r[4], r[5], r[6], r[7], r[8], r[9]};
}

}  // namespace
}  // namespace fused_ops::selective_share

#define FUSED_OPS_WEIGHTS                                                                      \
  "Tensor W_r_x, Tensor W_x, Tensor U_x, Tensor W_z_x, Tensor? W_r_y, Tensor? W_y, Tensor? U_y, " \
  "Tensor? W_z_y, bool z_keeps"

STABLE_TORCH_LIBRARY_FRAGMENT(fused_ops_cpu, m) {
  m.def("selective_share(Tensor x, Tensor y, " FUSED_OPS_WEIGHTS ", bool want_gates) -> (Tensor, Tensor, Tensor)");
  m.def(
      "selective_share_backward(Tensor grad_x_out, Tensor? grad_y_out, Tensor? grad_gates, Tensor x, Tensor y, "
      "Tensor? gates, " FUSED_OPS_WEIGHTS
      ") -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(fused_ops_cpu, CPU, m) {
  m.impl("selective_share", TORCH_BOX(&fused_ops::selective_share::selective_share));
  m.impl("selective_share_backward", TORCH_BOX(&fused_ops::selective_share::selective_share_backward));
}
