// Selective sharing on the CPU, 1x1 kernels: the torch side of the kernels in cpu_kernels.cpp.
//
// Threads take runs of tiles. The weights are used where they lie (bfloat16 ones as float copies), or in copies and
// transposed copies, see Weights; bfloat16 where the processor multiplies it is cpu_bf16_call.h's. Math and names:
// fused_ops/selective_share/README.md.
#include <torch/csrc/stable/library.h>

#include <limits>

#include "selective_share/cpu_bf16_call.h"
#include "selective_share/cpu_call.h"
#include "selective_share/operands.h"
#include "selective_share/schemas.h"

namespace fused_ops::selective_share {

FUSED_OPS_DECLARE_PER_ISA(template <typename T> const Kernels<T>& kernels();)

namespace {

template <typename T>
const Kernels<T>& chosen_kernels() {
  FUSED_OPS_RETURN_FOR_ISA(kernels<T>());
}

// The weights as the products take them. Those that are read along their rows (the others element by element) get rows
// that do not compete for the cache's sets, see row_line.
template <typename T>
struct Weights {
  using S = Computed<T>;
  static constexpr bool copied = !std::is_same_v<T, S>;

  const Kernels<T>& run;
  const Shape& shape;
  CallMemory& memory;
  Matrix<S> natural[kWeights] = {};  // where they lie, or in float copies

  // Memory of a copy of all.
  static int64_t bytes(const Shape& shape) {
    int64_t size = 0;
    for (int w = 0; w < kWeights; ++w) {
      const int64_t rows = shape.rows(w), cols = shape.cols(w);
      size += bytes_of<S>(std::max(rows * line(shape, cols), cols * line(shape, rows)));
    }
    return size;
  }
  static int64_t line(const Shape& shape, int64_t length) { return shape.in_place ? row_line(length) : length; }

  Weights(const Kernels<T>& run, const Shape& shape, const WeightTensors& tensors, CallMemory& memory)
      : run(run), shape(shape), memory(memory) {
    for (int w = 0; w < kWeights; ++w) {
      if (!tensors[w]) continue;
      const T* from = data<const T>(*tensors[w]);
      const int64_t size = shape.rows(w) * shape.cols(w);
      if constexpr (!copied) {
        natural[w] = {from, shape.cols(w), 1};
      } else {
        S* to = memory.take<S>(size);
        natural[w] = {to, shape.cols(w), 1};
        torch::stable::parallel_for(0, size, kGrain, [&](int64_t begin, int64_t end) {
          run.convert(end - begin, from + begin, to + begin);
        });
      }
    }
  }

  void copy_lines(Matrix<S> (&copies)[kWeights]) const {
    lay_down(copies, false, [&](const Strip& strip) {
      const Matrix<S>& from = *strip.from;
      for (int64_t r = strip.row; r < strip.row + strip.rows; ++r) {
        std::copy_n(from.at + r * from.ld, strip.length, strip.to + r * strip.ld);
      }
    });
  }
  void transpose(Matrix<S> (&transposed)[kWeights]) const {
    lay_down(transposed, true, [&](const Strip& strip) {
      const Matrix<S>& from = *strip.from;
      run.transpose(strip.length, strip.rows, from.at + strip.row, from.ld, strip.to + strip.row * strip.ld, strip.ld);
    });
  }

 private:
  // Some rows of a copy: the first and how many, what they are made from, where the copy begins.
  struct Strip {
    const Matrix<S>* from;
    S* to;
    int64_t row, rows, length, ld;
  };

  template <typename Lay>
  void lay_down(Matrix<S> (&copies)[kWeights], bool turn, Lay&& lay) const {
    constexpr int64_t most = 64;
    std::vector<Strip> strips;
    int64_t longest = 1;
    for (int w = 0; w < kWeights; ++w) {
      if (!natural[w].at) continue;
      const int64_t rows = turn ? shape.cols(w) : shape.rows(w), length = turn ? shape.rows(w) : shape.cols(w);
      const int64_t ld = line(shape, length);
      S* to = memory.take<S>(rows * ld);
      copies[w] = {to, ld, turn ? ld : 1};
      for (int64_t row = 0; row < rows; row += most) {
        strips.push_back({&natural[w], to, row, std::min(most, rows - row), length, ld});
      }
      longest = std::max(longest, length);
    }
    const int64_t grain = std::max<int64_t>(1, kGrain / (most * longest));
    torch::stable::parallel_for(0, int64_t(strips.size()), grain, [&](int64_t begin, int64_t end) {
      std::for_each(strips.begin() + begin, strips.begin() + end, lay);
    });
  }
};

// Pixels of a tile, whose blocks have `rows` rows in all: what fits into the cache, or enough that weights which do not
// are used often; spread evenly over the threads. Rather an odd number of the products' register blocks, see row_line,
// if they run along pixels.
int64_t tile_width(const Shape& shape, int64_t rows, int64_t element_size, int64_t columns) {
  constexpr int64_t enough = 144, most = 256;
  constexpr int64_t fixed = 2;  // a tile costs as much as so many pixels more
  constexpr int64_t in_place_step = 12;  // rows of register blocks
  const int64_t pixels = shape.images * shape.pixels, threads = torch::stable::get_num_threads();
  const int64_t step = shape.in_place ? in_place_step : kLineElements;
  // What a pixel costs: rows of an even number of lines compete for the first level's sets, and narrow register blocks
  // load more for each product.
  const auto pixel_cost = [&](int64_t width) {
    if (shape.in_place || (width % columns == 0 && width / columns % 2)) return 10;
    if (width == kLineElements && width < columns) return 15;
    return width % columns == 0 || width / kLineElements % 2 ? 11 : 12;
  };
  const int64_t fit = kCacheBytes / (rows * element_size);
  const int64_t least = std::min<int64_t>(48, in_lines((pixels + threads - 1) / threads));
  const int64_t block = shape.in_place ? step : std::max(columns, step);
  const int64_t limit = fit < least + 2 * block ? enough : std::min(fit, most);
  int64_t best = step, best_cost = std::numeric_limits<int64_t>::max();
  for (int64_t blocks = 1; blocks * step <= limit; ++blocks) {
    const int64_t width = blocks * step, rounds = (count_tiles(shape, width) + threads - 1) / threads;
    const int64_t cost = (std::min(rounds * width, pixels) + rounds * fixed) * pixel_cost(width);
    if (width >= least && cost <= best_cost) best = width, best_cost = cost;
  }
  return shape.in_place ? std::min(best, pixels) : last_width(best, pixels);
}

template <typename T>
Outputs forward(const Tensor& x, const Tensor& y, const WeightTensors& tensors, bool z_keeps, bool want_gates) {
  using S = Computed<T>;
  const Kernels<T>& run = chosen_kernels<T>();
  Forward<T> job{shape_of(x, y, tensors[W_r_y].has_value(), z_keeps, want_gates)};
  const Shape& shape = job.shape;
  using Own = Weights<T>;
  CallMemory memory((Own::copied + shape.in_place) * Own::bytes(shape));
  const Own weights(run, shape, tensors, memory);
  const Outputs out(x, shape, want_gates);
  if (shape.in_place) {
    weights.transpose(job.weights);
  } else {
    std::copy_n(weights.natural, kWeights, job.weights);
  }
  job.x = data<const T>(x), job.y = data<const T>(y);
  job.x_out = data<T>(out.x), job.y_out = data<T>(out.y);
  job.gates = want_gates ? data<T>(out.gates) : nullptr;
  const int64_t rows = run.forward_rows(job);
  job.tile = tile_width(shape, rows, sizeof(S), run.columns);

  torch::stable::parallel_for(0, count_tiles(shape, job.tile), 1, [&](int64_t begin, int64_t end) {
    TileMemory scratch(bytes_of<S>(rows * job.tile));
    run.forward(job, begin, end, scratch.take<S>(rows * job.tile));
  });
  return out;
}

template <typename T>
using Targets = std::array<T*, kWeights>;

// The weights' gradients from the sums of the threads, or, converted, from a single one.
template <typename T>
void total_of_threads(const Kernels<T>& run, const Shape& shape,
                      const std::vector<const Computed<T>*>& parts, const Targets<T>& to) {
  for (int w = 0; w < kWeights; ++w) {
    if (to[w]) run.total(shape.rows(w) * shape.cols(w), parts.data(), parts.size(), shape.offset(w), to[w]);
  }
}

// Large weights: the products of what some tiles have kept, a panel of columns at a time.
template <typename T>
void multiply(const Kernels<T>& run, const Backward<T>& job, const Targets<Computed<T>>& to) {
  const Shape& shape = job.shape;
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
      run.multiply(job, shape.rows(task.weight), task.cols, task.gate, task.panel, to[task.weight] + task.col,
                   shape.cols(task.weight));
    }
  });
}

template <typename T>
std::vector<Tensor> backward(const Tensor& grad_x_out, const OptionalTensor& grad_y_out,
                             const OptionalTensor& grad_gates, const Tensor& x, const Tensor& y,
                             const OptionalTensor& gates, const WeightTensors& tensors, bool z_keeps) {
  using S = Computed<T>;
  using Own = Weights<T>;
  const Kernels<T>& run = chosen_kernels<T>();
  Backward<T> job{shape_of(x, y, tensors[W_r_y].has_value(), z_keeps, true)};
  const Shape& shape = job.shape;
  std::vector<Tensor> results = empty_gradients(x, shape, tensors);
  const Targets<T> to = weight_targets<T>(results, tensors);
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
  job.tile = tile_width(shape, rows, sizeof(S), run.columns);
  const int64_t tiles = count_tiles(shape, job.tile), threads = torch::stable::get_num_threads();

  // Large: so many tiles at a time that what is kept of them stays in the third-level cache.
  const int64_t kept_rows = shape.gates() + first_panel(shape, shape.operands()) * kPanelLine;
  const int64_t kept_bytes = kept_rows * tiles * job.tile * int64_t(sizeof(S));
  const int64_t passes = large ? std::min(tiles, (kept_bytes + kKeptBytes - 1) / kKeptBytes) : 1;
  const int64_t together = ((tiles + passes - 1) / passes + threads - 1) / threads * threads;
  const int64_t kept = large ? std::min(together, tiles) * job.tile : 0;
  const int64_t pre_size = shape.gates() * kept, operand_size = kept_rows * kept - pre_size;
  // Sums that are not made in the results: of every thread, or what becomes bfloat16 at the end.
  const int64_t sum_count = !large ? std::min(threads, tiles) : Own::copied ? 1 : 0;

  const int copies = Own::copied + 1 + (shape.in_place && !gates);
  CallMemory memory(copies * Own::bytes(shape) + bytes_of<S>(sum_count * sum_size) + bytes_of<S>(pre_size) +
                    bytes_of<S>(operand_size));
  const Own weights(run, shape, tensors, memory);
  if (shape.in_place) {
    weights.copy_lines(job.back);
    if (!gates) weights.transpose(job.weights);
  } else {
    std::copy_n(weights.natural, kWeights, job.weights);
    weights.transpose(job.back);
  }
  S* sums = memory.take<S>(sum_count * sum_size);
  job.pre_gates = memory.take<S>(pre_size), job.operands = memory.take<S>(operand_size);
  Targets<S> products{};
  for (int w = 0; w < kWeights; ++w) {
    if constexpr (Own::copied) {
      products[w] = sums + shape.offset(w);
    } else {
      products[w] = to[w];
    }
  }
  for (int64_t done = 0; done < tiles; done += together) {
    const int64_t some = std::min(together, tiles - done), parts = std::min(threads, some);
    job.first_pixel = done * job.tile, job.kept_pixels = some * job.tile;
    // A part for each thread, the same tiles whichever thread takes it: the sums do not depend on chance.
    torch::stable::parallel_for(0, parts, 1, [&](int64_t begin, int64_t end) {
      TileMemory scratch_memory(bytes_of<S>(rows * job.tile));
      S* scratch = scratch_memory.take<S>(rows * job.tile);
      for (int64_t part = begin; part < end; ++part) {
        Backward<T> mine = job;
        if (!large) {
          mine.weight_sums = sums + part * sum_size;
          std::fill_n(mine.weight_sums, sum_size, S(0));
        }
        run.backward(mine, done + part * some / parts, done + (part + 1) * some / parts, scratch);
      }
    });
    if (large) multiply(run, job, products);
  }
  if (sum_count > 0) {
    std::vector<const S*> parts;
    for (int64_t part = 0; part < sum_count; ++part) parts.push_back(sums + part * sum_size);
    total_of_threads(run, shape, parts, to);
  }
  return results;
}

// --- the torch side ----------------------------------------------------------------------------------------------

// Calls work with the type that stands for x's dtype.
template <typename F>
auto for_dtype(const Tensor& x, F&& work) {
  switch (x.scalar_type()) {
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
  Operands(x, y, weights);
  const Outputs out = bf16_serves(x, y) ? bf16_forward(x, y, weights, z_keeps, want_gates)
                                        : for_dtype(x, [&](auto zero) {
                                            return forward<decltype(zero)>(x, y, weights, z_keeps, want_gates);
                                          });
  return {out.x, out.y, out.gates};
}

using Ten = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

Ten selective_share_backward(Tensor grad_x_out, OptionalTensor grad_y_out, OptionalTensor grad_gates, Tensor x,
                             Tensor y, OptionalTensor gates, Tensor W_r_x, Tensor W_x, Tensor U_x, Tensor W_z_x,
                             OptionalTensor W_r_y, OptionalTensor W_y, OptionalTensor U_y, OptionalTensor W_z_y,
                             bool z_keeps) {
  const WeightTensors weights = contiguous({W_r_x, W_x, U_x, W_z_x, W_r_y, W_y, U_y, W_z_y});
  Operands(x, y, weights).check_gradients(grad_x_out, grad_y_out, grad_gates, gates);
  const auto run = [&](auto&& with) {
    return with(grad_x_out, grad_y_out, grad_gates, x, y, gates, weights, z_keeps);
  };
  const std::vector<Tensor> r = bf16_serves(x, y) ? run(bf16_backward) : for_dtype(x, [&](auto zero) {
    return run(backward<decltype(zero)>);
  });
  return {r[0], r[1], r[2], r[3], r[4], r[5], r[6], r[7], r[8], r[9]};
}

}  // namespace
}  // namespace fused_ops::selective_share

// Features in one memory format (contiguous or channels_last) for all tensors; gates in channels_last in bfloat16, else
// contiguous.
STABLE_TORCH_LIBRARY_FRAGMENT(fused_ops_cpu, m) {
  m.def(FUSED_OPS_SELECTIVE_SHARE_SCHEMA);
  m.def(FUSED_OPS_SELECTIVE_SHARE_BACKWARD_SCHEMA);
}

STABLE_TORCH_LIBRARY_IMPL(fused_ops_cpu, CPU, m) {
  m.impl("selective_share", TORCH_BOX(&fused_ops::selective_share::selective_share));
  m.impl("selective_share_backward", TORCH_BOX(&fused_ops::selective_share::selective_share_backward));
}
