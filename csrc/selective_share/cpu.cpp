// Selective sharing on the CPU, 1x1 kernels: the torch side of the kernels in cpu_kernels.cpp.
//
// Threads take runs of tiles. The weights are used where they lie (bfloat16 ones as float copies, and for the backward
// transposed copies). Math and names: fused_ops/selective_share/README.md.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <array>
#include <memory>
#include <optional>
#include <vector>

#include "common/isa.h"
#include "selective_share/kernels.h"
#include "selective_share/schemas.h"

namespace fused_ops::selective_share {

FUSED_OPS_DECLARE_PER_ISA(template <typename T, bool in_tiles> const Kernels<T, in_tiles>& kernels();)

namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using OptionalTensor = std::optional<Tensor>;
using WeightTensors = std::array<OptionalTensor, kWeights>;

constexpr int64_t kCacheBytes = 1200 * 1024;  // what a tile's blocks may take of a core's second-level cache
constexpr int64_t kLargeWeights = 1 << 20;    // bytes from which on their gradients are not summed tile by tile
constexpr int64_t kGrain = 1 << 14;           // elements worth a thread of their own

template <typename T, bool in_tiles>
const Kernels<T, in_tiles>& chosen_kernels() {
  if constexpr (in_tiles) {
    FUSED_OPS_IF_AVX512(return avx512::kernels<T, true>();)
    STD_TORCH_CHECK(false, "kernels on matrix tiles were not built");
  } else {
    FUSED_OPS_RETURN_FOR_ISA(kernels<T, false>());
  }
}

bool use_tiles(const Shape& shape) {
  FUSED_OPS_IF_AVX512(return isa() >= Isa::amx && shape.x % 32 == 0 && shape.y % 32 == 0;)
  return false;
}

template <typename T>
T* data(const Tensor& tensor) {
  return static_cast<T*>(tensor.data_ptr());
}

// Memory that a thread keeps from call to call, since fresh pages cost as much as the work done on them. It grows to
// what the largest call took, but what would be larger than kKept is given back after the call.
// A call's own and that of its tiles are two, since a thread may hold both.
enum class Use { call, tiles };

template <typename S, Use use>
class Workspace {
 public:
  explicit Workspace(int64_t count) {
    count += kLine / int64_t(sizeof(S));
    if (count * int64_t(sizeof(S)) > kKept) {
      own_ = std::make_unique_for_overwrite<S[]>(count);
      free_ = aligned(own_.get());
      return;
    }
    thread_local std::unique_ptr<S[]> kept;
    thread_local int64_t size = 0;
    if (count > size) {
      kept.reset();
      kept = std::make_unique_for_overwrite<S[]>(count);
      size = count;
    }
    free_ = aligned(kept.get());
  }
  S* take(int64_t count) {
    S* taken = free_;
    free_ += count;
    return taken;
  }

 private:
  static constexpr int64_t kKept = 64 << 20;
  static constexpr int64_t kLine = 64;  // a vector that spans two cache lines is loaded at half the rate

  static S* aligned(S* memory) {
    return reinterpret_cast<S*>((reinterpret_cast<uintptr_t>(memory) + kLine - 1) / kLine * kLine);
  }
  std::unique_ptr<S[]> own_;
  S* free_;
};

template <typename T>
using CallMemory = Workspace<Computed<T>, Use::call>;
template <typename T>
using TileMemory = Workspace<Computed<T>, Use::tiles>;

Shape shape_of(const Tensor& x, const Tensor& y, bool pair, bool z_keeps) {
  const int64_t pixels = x.size(2) * x.size(3);
  // With one pixel an image both formats are the same memory.
  const bool channels_last = pixels == 1 || !x.is_contiguous();
  return {x.size(0), pixels, x.size(1), y.size(1), pair, channels_last, z_keeps};
}

// Pixels of a tile, whose blocks have `rows` rows in all.
int64_t tile_width(const Shape& shape, int64_t rows, int64_t element_size) {
  const int64_t pixels = shape.images * shape.pixels, step = 64;
  const int64_t fit = kCacheBytes / (rows * element_size) / step * step;
  const int64_t width = std::clamp<int64_t>(fit, step, 4 * step);
  return std::min(width, (pixels + 31) / 32 * 32);
}

int64_t count_tiles(const Shape& shape, int64_t width) { return (shape.images * shape.pixels + width - 1) / width; }

// The weights as the products take them, and transposed on demand.
template <typename T, bool in_tiles>
struct Weights {
  using Left = LeftOf<T, in_tiles>;
  static constexpr bool copied = !std::is_same_v<T, Left>;
  const Left* plain[kWeights] = {};
  const Left* transposed[kWeights] = {};

  // Elements of the call's memory that all weights take.
  static int64_t room(const Shape& shape) {
    return (shape.weight_size() * int64_t(sizeof(Left)) + int64_t(sizeof(Computed<T>)) - 1) /
           int64_t(sizeof(Computed<T>));
  }
  static Left* take(const Shape& shape, CallMemory<T>& memory) {
    return reinterpret_cast<Left*>(memory.take(room(shape)));
  }

  Weights(const Kernels<T, in_tiles>& run, const Shape& shape, const WeightTensors& tensors, CallMemory<T>& memory) {
    Left* copies = copied ? take(shape, memory) : nullptr;
    for (int w = 0; w < kWeights; ++w) {
      if (!tensors[w]) continue;
      const T* from = data<const T>(*tensors[w]);
      if constexpr (!copied) {
        plain[w] = from;
      } else {
        Left* to = copies + shape.offset(w);
        plain[w] = to;
        torch::stable::parallel_for(0, shape.rows(w) * shape.cols(w), kGrain, [&](int64_t begin, int64_t end) {
          run.convert(end - begin, from + begin, to + begin);
        });
      }
    }
  }

  void transpose(const Kernels<T, in_tiles>& run, const Shape& shape, CallMemory<T>& memory) {
    Left* turned = take(shape, memory);
    for (int w = 0; w < kWeights; ++w) {
      if (!plain[w]) continue;
      const int64_t rows = shape.rows(w), cols = shape.cols(w);
      Left* to = turned + shape.offset(w);
      transposed[w] = to;
      // Strips of 64 columns: the rows that are written lie together.
      torch::stable::parallel_for(0, (cols + 63) / 64, std::max<int64_t>(1, kGrain / (64 * rows)),
                                  [&](int64_t begin, int64_t end) {
                                    const int64_t first = begin * 64, last = std::min(end * 64, cols);
                                    run.transpose(rows, last - first, plain[w] + first, cols, to + first * rows, rows);
                                  });
    }
  }
};

// An empty tensor of x's size and memory format, or contiguous, with other channels.
Tensor like(const Tensor& x, int64_t channels, bool contiguous = false) {
  const std::vector<int64_t> shape{x.size(0), channels, x.size(2), x.size(3)};
  const auto format = contiguous || x.is_contiguous() ? torch::headeronly::MemoryFormat::Contiguous
                                                      : torch::headeronly::MemoryFormat::ChannelsLast;
  return torch::stable::empty(shape, x.scalar_type(), std::nullopt, std::nullopt, std::nullopt, format);
}

template <typename T, bool in_tiles>
std::tuple<Tensor, Tensor, Tensor> forward(const Tensor& x, const Tensor& y, const WeightTensors& tensors,
                                           bool z_keeps, bool want_gates) {
  using S = Computed<T>;
  const Kernels<T, in_tiles>& run = chosen_kernels<T, in_tiles>();
  Forward<T, in_tiles> job{shape_of(x, y, tensors[W_r_y].has_value(), z_keeps)};
  const Shape& shape = job.shape;
  using Own = Weights<T, in_tiles>;
  CallMemory<T> memory(Own::copied ? Own::room(shape) : 0);
  const Own weights(run, shape, tensors, memory);
  const Tensor nothing = torch::stable::new_empty(x, {0});
  const Tensor x_out = like(x, shape.x), y_out = shape.pair ? like(x, shape.y) : nothing;
  const Tensor gates = want_gates ? like(x, shape.gates(), true) : nothing;
  std::copy_n(weights.plain, kWeights, job.weights);
  job.x = data<const T>(x), job.y = data<const T>(y);
  job.x_out = data<T>(x_out), job.y_out = data<T>(y_out);
  job.gates = want_gates ? data<T>(gates) : nullptr;
  const int64_t rows = run.forward_rows(job);
  job.tile = tile_width(shape, rows, sizeof(S));

  torch::stable::parallel_for(0, count_tiles(shape, job.tile), 1, [&](int64_t begin, int64_t end) {
    TileMemory<T> scratch(rows * job.tile);
    run.forward(job, begin, end, scratch.take(rows * job.tile));
  });
  return {x_out, y_out, gates};
}

// Where the weights' gradients are written.
template <typename T>
using Targets = std::array<T*, kWeights>;

// Small weights: every thread has summed its tiles.
template <typename T, bool in_tiles>
void total_of_threads(const Kernels<T, in_tiles>& run, const Shape& shape,
                      const std::vector<const Computed<T>*>& parts, const Targets<T>& to) {
  for (int w = 0; w < kWeights; ++w) {
    if (to[w]) run.total(shape.rows(w) * shape.cols(w), parts.data(), parts.size(), shape.offset(w), to[w]);
  }
}

// Large weights: the products of what the tiles have kept, a panel of columns at a time.
template <typename T, bool in_tiles>
void multiply_at_the_end(const Kernels<T, in_tiles>& run, const Backward<T, in_tiles>& job, const Targets<T>& to,
                         CallMemory<T>& memory) {
  using S = Computed<T>;
  const Shape& shape = job.shape;
  const S* sums = nullptr;
  S* targets[kWeights] = {};
  if constexpr (!std::is_same_v<T, S>) {
    S* all = memory.take(shape.weight_size());
    for (int w = 0; w < kWeights; ++w) targets[w] = all + shape.offset(w);
    sums = all;
  } else {
    std::copy(to.begin(), to.end(), targets);
  }
  struct Task {
    int weight;
    int64_t gate, panel, col, cols;
  };
  std::vector<Task> tasks;
  each_weight_gradient(shape, [&](int weight, int64_t gate, int operand, int64_t col) {
    const int64_t channels = operand_channels(shape, operand);
    for (int64_t p = 0; p < panels(channels); ++p) {
      const int64_t cols = std::min(kPanel, channels - p * kPanel);
      tasks.push_back({weight, gate, first_panel(shape, operand) + p, col + p * kPanel, cols});
    }
  });
  torch::stable::parallel_for(0, int64_t(tasks.size()), 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const Task& task = tasks[i];
      run.multiply(job, shape.rows(task.weight), task.cols, task.gate, task.panel, targets[task.weight] + task.col,
                   shape.cols(task.weight));
    }
  });
  if (sums != nullptr) total_of_threads(run, shape, {sums}, to);
}

template <typename T, bool in_tiles>
std::vector<Tensor> backward(const Tensor& grad_x_out, const OptionalTensor& grad_y_out,
                             const OptionalTensor& grad_gates, const Tensor& x, const Tensor& y,
                             const OptionalTensor& gates, const WeightTensors& tensors, bool z_keeps) {
  using S = Computed<T>;
  using Own = Weights<T, in_tiles>;
  const Kernels<T, in_tiles>& run = chosen_kernels<T, in_tiles>();
  Backward<T, in_tiles> job{shape_of(x, y, tensors[W_r_y].has_value(), z_keeps)};
  const Shape& shape = job.shape;
  std::vector<Tensor> results{like(x, shape.x), like(x, shape.y)};
  Targets<T> to{};
  for (int w = 0; w < kWeights; ++w) {
    const bool present = tensors[w].has_value();
    const std::vector<int64_t> size = present ? std::vector<int64_t>{shape.rows(w), shape.cols(w), 1, 1}
                                              : std::vector<int64_t>{0};
    results.push_back(torch::stable::new_empty(x, size));
    to[w] = present ? data<T>(results.back()) : nullptr;
  }

  job.grad_x_out = data<const T>(grad_x_out);
  job.grad_y_out = shape.pair ? data<const T>(*grad_y_out) : nullptr;
  job.grad_gates = grad_gates ? data<const T>(*grad_gates) : nullptr;
  job.x = data<const T>(x), job.y = data<const T>(y);
  job.gates = gates ? data<const T>(*gates) : nullptr;
  job.grad_x = data<T>(results[0]), job.grad_y = data<T>(results[1]);

  const int64_t sum_size = shape.weight_size();
  const bool large = sum_size * int64_t(sizeof(S)) > kLargeWeights;
  // The scratch memory's rows depend on where the sums go; any pointer says that there are some.
  S placeholder{};
  job.weight_sums = large ? nullptr : &placeholder;
  const int64_t rows = run.backward_rows(job);
  job.tile = tile_width(shape, rows, sizeof(S));
  const int64_t tiles = count_tiles(shape, job.tile);
  const int64_t threads = torch::stable::get_num_threads(), chunks = std::min(threads, tiles);

  job.all_pixels = tiles * job.tile;

  const int64_t pre_size = shape.gates() * job.all_pixels;
  const int64_t operand_size = first_panel(shape, shape.operands()) * kPanel * job.all_pixels;
  const int64_t sums_at_the_end = large && !std::is_same_v<T, S> ? sum_size : 0;
  CallMemory<T> memory((Own::copied ? 2 : 1) * Own::room(shape) + sums_at_the_end +
                       (large ? pre_size + operand_size : chunks * sum_size));
  Own weights(run, shape, tensors, memory);
  weights.transpose(run, shape, memory);
  std::copy_n(weights.plain, kWeights, job.weights);
  std::copy_n(weights.transposed, kWeights, job.transposed);
  S* sums = nullptr;
  if (large) {
    job.pre_gates = memory.take(pre_size), job.operands = memory.take(operand_size);
  } else {
    sums = memory.take(chunks * sum_size);
  }
  // A chunk for each thread, the same tiles whichever thread takes it: the sums do not depend on chance.
  torch::stable::parallel_for(0, chunks, 1, [&](int64_t begin, int64_t end) {
    TileMemory<T> scratch_memory(rows * job.tile);
    S* scratch = scratch_memory.take(rows * job.tile);
    for (int64_t chunk = begin; chunk < end; ++chunk) {
      Backward<T, in_tiles> mine = job;
      if (!large) {
        mine.weight_sums = sums + chunk * sum_size;
        std::fill_n(mine.weight_sums, sum_size, S(0));
      }
      run.backward(mine, chunk * tiles / chunks, (chunk + 1) * tiles / chunks, scratch);
    }
  });
  if (large) {
    multiply_at_the_end(run, job, to, memory);
  } else {
    std::vector<const S*> parts;
    for (int64_t chunk = 0; chunk < chunks; ++chunk) parts.push_back(sums + chunk * sum_size);
    total_of_threads(run, shape, parts, to);
  }
  return results;
}

// --- the torch side ----------------------------------------------------------------------------------------------

// Calls work with the type that stands for x's dtype, and whether its products are made on matrix tiles.
template <typename F>
auto for_dtype(const Tensor& x, const Tensor& y, F&& work) {
  switch (x.scalar_type()) {
    case ScalarType::Float:
      return work(float{}, std::false_type{});
    case ScalarType::Double:
      return work(double{}, std::false_type{});
    case ScalarType::BFloat16:
      if (use_tiles(shape_of(x, y, true, false))) return work(uint16_t{}, std::true_type{});
      return work(uint16_t{}, std::false_type{});
    default:
      STD_TORCH_CHECK(false, "selective_share on the CPU computes float32, float64 and bfloat16");
  }
}

WeightTensors contiguous(WeightTensors weights) {
  for (OptionalTensor& weight : weights) {
    if (weight && !weight->is_contiguous()) weight = torch::stable::contiguous(*weight);
  }
  return weights;
}

std::tuple<Tensor, Tensor, Tensor> selective_share(Tensor x, Tensor y, Tensor W_r_x, Tensor W_x, Tensor U_x,
                                                   Tensor W_z_x, OptionalTensor W_r_y, OptionalTensor W_y,
                                                   OptionalTensor U_y, OptionalTensor W_z_y, bool z_keeps,
                                                   bool want_gates) {
  const WeightTensors weights = contiguous({W_r_x, W_x, U_x, W_z_x, W_r_y, W_y, U_y, W_z_y});
  return for_dtype(x, y, [&](auto zero, auto in_tiles) {
    return forward<decltype(zero), in_tiles.value>(x, y, weights, z_keeps, want_gates);
  });
}

using Ten = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

Ten selective_share_backward(Tensor grad_x_out, OptionalTensor grad_y_out, OptionalTensor grad_gates, Tensor x,
                             Tensor y, OptionalTensor gates, Tensor W_r_x, Tensor W_x, Tensor U_x, Tensor W_z_x,
                             OptionalTensor W_r_y, OptionalTensor W_y, OptionalTensor U_y, OptionalTensor W_z_y,
                             bool z_keeps) {
  const WeightTensors weights = contiguous({W_r_x, W_x, U_x, W_z_x, W_r_y, W_y, U_y, W_z_y});
  const auto r = for_dtype(x, y, [&](auto zero, auto in_tiles) {
    return backward<decltype(zero), in_tiles.value>(grad_x_out, grad_y_out, grad_gates, x, y, gates, weights, z_keeps);
  });
  return {r[0], r[1], r[2], r[3], r[4], r[5], r[6], r[7], r[8], r[9]};
}

}  // namespace
}  // namespace fused_ops::selective_share

// Features in one memory format (contiguous or channels_last) for all tensors, gates contiguous.
STABLE_TORCH_LIBRARY_FRAGMENT(fused_ops_cpu, m) {
  m.def(FUSED_OPS_SELECTIVE_SHARE_SCHEMA);
  m.def(FUSED_OPS_SELECTIVE_SHARE_BACKWARD_SCHEMA);
}

STABLE_TORCH_LIBRARY_IMPL(fused_ops_cpu, CPU, m) {
  m.impl("selective_share", TORCH_BOX(&fused_ops::selective_share::selective_share));
  m.impl("selective_share_backward", TORCH_BOX(&fused_ops::selective_share::selective_share_backward));
}
