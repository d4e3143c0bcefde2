// The kernels of kernels.h for one instruction set (FUSED_OPS_ISA).
#include "common/vec_math.h"
#include "selective_share/kernels.h"

namespace fused_ops::selective_share {
namespace {

template <typename T>
struct Stored {
  using type = T;
};
template <>
struct Stored<uint16_t> {
  using type = BFloat16;
};

// T is float, double or uint16_t (bfloat16); values are computed as S.
template <typename T>
struct Ops {
  using Element = typename Stored<T>::type;
  using S = Compute<Element>;
  using V = Vec<S>;
  using In = Block<const T>;
  using Out = Block<T>;
  static constexpr int lanes = kLanes<S>;

  // One vector's place in the blocks: `count` lanes from column `col` on.
  struct Whole {
    int64_t row, col;
    FUSED_OPS_INLINE V get(In block) const {
      return load(reinterpret_cast<const Element*>(block.data + row * block.ld + col));
    }
    FUSED_OPS_INLINE void put(Out block, V value) const {
      store(reinterpret_cast<Element*>(block.data + row * block.ld + col), value);
    }
  };
  struct Partial {
    int64_t row, col;
    int count;
    FUSED_OPS_INLINE V get(In block) const {
      return load(reinterpret_cast<const Element*>(block.data + row * block.ld + col), count);
    }
    FUSED_OPS_INLINE void put(Out block, V value) const {
      store(reinterpret_cast<Element*>(block.data + row * block.ld + col), value, count);
    }
  };

  template <typename F>
  static FUSED_OPS_INLINE void each(int64_t rows, int64_t cols, F&& body) {
    for (int64_t row = 0; row < rows; ++row) {
      int64_t col = 0;
      for (; col + lanes <= cols; col += lanes) body(Whole{row, col});
      if (col < cols) body(Partial{row, col, int(cols - col)});
    }
  }

  static void copy(int64_t rows, int64_t cols, In from, Out to) {
    each(rows, cols, [&](auto at) { at.put(to, at.get(from)); });
  }

  static void reset(int64_t rows, int64_t cols, Out gate, In source, Out passed) {
    each(rows, cols, [&](auto at) {
      const V r = vsigmoid<S>(at.get(gate));
      at.put(gate, r);
      at.put(passed, r * at.get(source));
    });
  }

  static void pass(int64_t rows, int64_t cols, In gate, In source, Out passed) {
    each(rows, cols, [&](auto at) { at.put(passed, at.get(gate) * at.get(source)); });
  }

  template <bool z_keeps, bool keep_gates>
  static void mix_as(int64_t rows, int64_t cols, Out h_block, Out z_block, In target, Out out) {
    each(rows, cols, [&](auto at) {
      const V h = vtanh<S>(at.get(h_block));
      const V z = vsigmoid<S>(at.get(z_block));
      const V x = at.get(target);
      if constexpr (keep_gates) {
        at.put(h_block, h);
        at.put(z_block, z);
      }
      at.put(out, z_keeps ? h + z * (x - h) : x + z * (h - x));
    });
  }

  static void mix(int64_t rows, int64_t cols, Out h, Out z, In target, Out out, bool z_keeps, bool keep_gates) {
    const auto run = z_keeps ? (keep_gates ? mix_as<true, true> : mix_as<true, false>)
                             : (keep_gates ? mix_as<false, true> : mix_as<false, false>);
    run(rows, cols, h, z, target, out);
  }

  static void mix_backward(int64_t rows, int64_t cols, In grad, In target, In h_block, In z_block, In grad_h,
                           In grad_z, Out pre_h, Out pre_z, bool z_keeps) {
    each(rows, cols, [&](auto at) {
      const V g = at.get(grad), x = at.get(target), h = at.get(h_block), z = at.get(z_block);
      V to_h = g * (z_keeps ? S(1) - z : z);
      V to_z = g * (z_keeps ? x - h : h - x);
      if (grad_h.data) to_h += at.get(grad_h);
      if (grad_z.data) to_z += at.get(grad_z);
      at.put(pre_h, to_h * (S(1) - h * h));
      at.put(pre_z, to_z * z * (S(1) - z));
    });
  }

  static void target_backward(int64_t rows, int64_t cols, In grad, In z_block, Out grad_target, bool z_keeps) {
    each(rows, cols, [&](auto at) {
      const V z = at.get(z_block);
      at.put(grad_target, at.get(grad_target) + at.get(grad) * (z_keeps ? z : S(1) - z));
    });
  }

  static void reset_backward(int64_t rows, int64_t cols, In grad_passed, In gate, In source, In grad_gate,
                             Out pre_gate, Out grad_source) {
    each(rows, cols, [&](auto at) {
      const V g = at.get(grad_passed), r = at.get(gate);
      V to_r = g * at.get(source);
      if (grad_gate.data) to_r += at.get(grad_gate);
      at.put(pre_gate, to_r * r * (S(1) - r));
      at.put(grad_source, at.get(grad_source) + g * r);
    });
  }

  // Sum<T> is S: the type that values are computed in.
  static void accumulate(int64_t count, const T* part, S* sum) {
    const Block<const T> from{part, 0};
    each(1, count, [&](auto at) { put_sum(at, sum, get_sum(at, sum) + at.get(from)); });
  }

  static void total(int64_t count, const S* const* parts, int64_t number_of_parts, int64_t offset, T* to) {
    each(1, count, [&](auto at) {
      V value = get_sum(at, parts[0] + offset);
      for (int64_t part = 1; part < number_of_parts; ++part) value += get_sum(at, parts[part] + offset);
      at.put(Out{to, 0}, value);
    });
  }

  static FUSED_OPS_INLINE V get_sum(Whole at, const S* sums) { return load(sums + at.col); }
  static FUSED_OPS_INLINE V get_sum(Partial at, const S* sums) { return load(sums + at.col, at.count); }
  static FUSED_OPS_INLINE void put_sum(Whole at, S* sums, V value) { store(sums + at.col, value); }
  static FUSED_OPS_INLINE void put_sum(Partial at, S* sums, V value) { store(sums + at.col, value, at.count); }

  static constexpr Kernels<T> table = {copy,         reset,           pass,           mix,
                                       mix_backward, target_backward, reset_backward, accumulate,
                                       total};
};

}  // namespace

inline namespace FUSED_OPS_ISA {

template <typename T>
const Kernels<T>& kernels() {
  return Ops<T>::table;
}
template const Kernels<float>& kernels<float>();
template const Kernels<double>& kernels<double>();
template const Kernels<uint16_t>& kernels<uint16_t>();

}  // namespace FUSED_OPS_ISA
}  // namespace fused_ops::selective_share
