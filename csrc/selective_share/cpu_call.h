// What the calls of selective sharing on the CPU share: tensors, scratch memory, tiles.
#pragma once
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <memory>
#include <new>
#include <optional>
#include <vector>

#include "common/new_tensor.h"
#include "common/pages.h"
#include "selective_share/kernels.h"

namespace fused_ops::selective_share {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using OptionalTensor = std::optional<Tensor>;
using WeightTensors = std::array<OptionalTensor, kWeights>;

constexpr int64_t kCacheBytes = 1200 * 1024;  // what a tile's blocks may take of a core's second-level cache
constexpr int64_t kLargeWeights = 1 << 20;    // bytes from which on their gradients are not summed tile by tile
constexpr int64_t kKeptBytes = 24 << 20;      // what is kept for their products at a time: it fits the third level
constexpr int64_t kInPlaceChannels = 256;     // the most for which blocks are pixels x channels
constexpr int64_t kWorthTurning = 1024;       // pixels for which a forward call alone turns the weights
constexpr double kMostFilled = 1.8;           // products that bfloat16 may take for each that is asked for
constexpr int64_t kGrain = 1 << 14;           // elements worth a thread of their own

template <typename T>
T* data(const Tensor& tensor) {
  return static_cast<T*>(tensor.data_ptr());
}

// Memory that a thread keeps from call to call, since fresh pages cost as much as the work done on them. It grows to
// what the largest call took, but what would be larger than kKept is given back after the call.
// A call's own and that of its tiles are two, since a thread may hold both.
enum class Use { call, tiles };

constexpr int64_t kLine = 64;  // a vector that spans two cache lines is loaded at half the rate

// Bytes of `count` elements in whole lines.
template <typename S>
int64_t bytes_of(int64_t count) {
  return (count * int64_t(sizeof(S)) + kLine - 1) / kLine * kLine;
}

template <Use use>
class Workspace {
 public:
  explicit Workspace(int64_t bytes) {
    if (bytes > kKept) {
      own_ = fresh(bytes);
      free_ = own_.get();
      return;
    }
    thread_local Memory kept;
    thread_local int64_t size = 0;
    if (bytes > size) {
      kept.reset();
      size = 0;  // also where there is no memory
      kept = fresh(bytes);
      size = bytes;
    }
    free_ = kept.get();
  }
  template <typename S>
  S* take(int64_t count) {
    S* taken = reinterpret_cast<S*>(free_);
    free_ += bytes_of<S>(count);
    return taken;
  }

 private:
  static constexpr int64_t kKept = 64 << 20;
  struct Free {
    void operator()(char* memory) const { std::free(memory); }
  };
  using Memory = std::unique_ptr<char, Free>;
  Memory own_;
  char* free_ = nullptr;

  static Memory fresh(int64_t bytes) {
    const int64_t step = bytes < kLargePage ? kLine : kLargePage;
    bytes = (bytes + step - 1) / step * step;
    Memory memory(static_cast<char*>(std::aligned_alloc(step, bytes)));
    if (!memory) throw std::bad_alloc();
    prefer_large_pages(memory.get(), bytes);
    return memory;
  }
};

using CallMemory = Workspace<Use::call>;
using TileMemory = Workspace<Use::tiles>;

// `trains`: gates are kept or gradients made.
inline Shape shape_of(const Tensor& x, const Tensor& y, bool pair, bool z_keeps, bool trains) {
  const int64_t images = x.size(0), pixels = x.size(2) * x.size(3);
  // With one pixel an image both formats are the same memory.
  const bool channels_last = pixels == 1 || !x.is_contiguous();
  const bool narrow = x.scalar_type() == ScalarType::BFloat16;
  // Where gates are kept, the same rule as layout.py's gates_format.
  const auto fits = [](int64_t channels) { return channels % kLineElements == 0 && channels <= kInPlaceChannels; };
  const bool in_place = channels_last && !narrow && fits(x.size(1)) && fits(y.size(1)) &&
                        (trains || images * pixels >= kWorthTurning);
  const bool gates_channels_last = narrow || (in_place && !x.is_contiguous());
  return {images, pixels, x.size(1), y.size(1), pair, channels_last, gates_channels_last, z_keeps, in_place};
}

inline int64_t count_tiles(const Shape& shape, int64_t width) {
  return (shape.images * shape.pixels + width - 1) / width;
}

// An empty tensor of x's size with other channels.
inline Tensor empty_like(const Tensor& x, int64_t channels, bool channels_last) {
  const Tensor tensor = new_tensor(x, {x.size(0), channels, x.size(2), x.size(3)}, x.scalar_type(), channels_last);
  prefer_large_pages(tensor.data_ptr(), tensor.numel() * x.element_size());
  return tensor;
}
// The same in x's memory format.
inline Tensor like(const Tensor& x, int64_t channels) { return empty_like(x, channels, !x.is_contiguous()); }

struct Outputs {
  Tensor x, y, gates;

  Outputs(const Tensor& x_in, const Shape& shape, bool want_gates)
      : x(like(x_in, shape.x)),
        y(shape.pair ? like(x_in, shape.y) : new_vector(x_in, 0, x_in.scalar_type())),
        gates(want_gates ? empty_like(x_in, shape.gates(), shape.gates_channels_last)
                         : new_vector(x_in, 0, x_in.scalar_type())) {}
};

// The gradients of x, y and the weights; empty for weights that are absent.
inline std::vector<Tensor> empty_gradients(const Tensor& x, const Shape& shape, const WeightTensors& weights) {
  std::vector<Tensor> gradients{like(x, shape.x), like(x, shape.y)};
  for (int w = 0; w < kWeights; ++w) {
    const ScalarType dtype = x.scalar_type();
    gradients.push_back(weights[w] ? new_tensor(x, {shape.rows(w), shape.cols(w), 1, 1}, dtype)
                                   : new_vector(x, 0, dtype));
  }
  return gradients;
}

// Where the weights' gradients are written.
template <typename T>
std::array<T*, kWeights> weight_targets(const std::vector<Tensor>& gradients, const WeightTensors& weights) {
  std::array<T*, kWeights> to{};
  for (int w = 0; w < kWeights; ++w) to[w] = weights[w] ? data<T>(gradients[2 + w]) : nullptr;
  return to;
}

}  // namespace fused_ops::selective_share
