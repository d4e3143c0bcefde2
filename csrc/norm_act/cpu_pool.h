// norm_act with 2 x 2 max-pooling before the activation, and the pooling's way back. Included by cpu.cpp only.
#pragma once

#include <tuple>

#include "norm_act/cpu_normalization.h"

namespace fused_ops::norm_act {
namespace {

// y, mean, var and the winners (uint8, empty where not needed).
template <typename T>
std::tuple<Tensor, Tensor, Tensor, Tensor> pool(const Arguments& a, const OptionalTensor& mean,
                                                const OptionalTensor& var, bool need_winner) {
  Normalization<T> norm(a, /*one_pixel_rows=*/true);
  const Layout& layout = norm.layout;
  const int64_t height = norm.x.size(2), width = norm.x.size(3), high = height / 2, wide = width / 2;
  STD_TORCH_CHECK(high > 0 && wide > 0, "norm_act: pooling takes at least 2 x 2 pixels");
  const std::vector<int64_t> pooled{norm.n, norm.c, high, wide};
  const Tensor y = norm.format.empty(norm.x, pooled, kDtype<T>);
  const Tensor winner = need_winner ? norm.format.empty(norm.x, pooled, ScalarType::Byte)
                                    : new_vector(norm.x, 0, ScalarType::Byte);
  T* y_to = data<T>(y);
  uint8_t* winner_to = need_winner ? data<uint8_t>(winner) : nullptr;
  const int64_t lines = (layout.groups ? 1 : norm.n) * high;  // channels: of a unit

  const Statistics found = normalize(norm, a.groups, mean, var, [&](const Part& part) {
    Pooling<T> to{height, width};
    int64_t offset;
    Part rows = part;
    if (layout.channels) {  // a part's share of the lines, which are not its share of the rows
      const int64_t piece = part.slot % layout.pieces;
      rows.row = 0, rows.rows = layout.rows;
      to.first = piece * lines / layout.pieces;
      to.lines = (piece + 1) * lines / layout.pieces - to.first;
      offset = part.unit * lines * wide * norm.c;
    } else {
      to.ld = layout.ld() / layout.s * high * wide;
      offset = layout.offset(part) / layout.s * high * wide;
    }
    to.y = y_to + offset;
    to.winner = need_winner ? winner_to + offset : nullptr;
    norm.way.pool[a.activation](norm.block(rows), norm.slope, to);
  });
  return {y, found.mean, found.var, winner};
}

// The gradient of z from that of the pooled y.
template <typename T>
Tensor unpool(const Tensor& grad_of_y, const OptionalTensor& y_of_any_format, const Tensor& winner_of_any_format,
              int64_t height, int64_t width, int64_t activation, double slope) {
  check_unpooling(grad_of_y, y_of_any_format, winner_of_any_format, height, width, activation);
  const Format format(winner_of_any_format);
  const Tensor grad = format.of(grad_of_y), winner = format.of(winner_of_any_format);
  const OptionalTensor y = y_of_any_format ? OptionalTensor(format.of(*y_of_any_format)) : std::nullopt;
  const int64_t n = grad.size(0), c = grad.size(1), high = height / 2;
  const std::vector<int64_t> shape{n, c, height, width};
  const Tensor grad_z = format.empty(grad, shape, kDtype<T>);
  if (height % 2 || width % 2) torch::stable::fill_(grad_z, 0);
  const int64_t pixel = format.channels_last ? c : 1, lines = (format.channels_last ? n : n * c) * high;
  const Unpooling<T> from{pixel, height, width, data<const T>(grad), y ? data<const T>(*y) : nullptr,
                          data<const uint8_t>(winner), data<T>(grad_z)};
  const Kernels<T>& run = chosen_kernels<T>();
  const auto& way = format.channels_last ? run.channels : run.planes;
  torch::stable::parallel_for(0, lines, std::max<int64_t>(1, kGrain / (2 * width * pixel)),
                              [&](int64_t begin, int64_t end) {
                                way.unpool[activation](from, Computed<T>(slope), begin, end - begin);
                              });
  return grad_z;
}

}  // namespace
}  // namespace fused_ops::norm_act
