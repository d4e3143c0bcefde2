// Matrix products of small blocks that are in cache, without packing: out = sum over terms of left x right.
//
// The left matrix is read element by element (each broadcast to a vector), the right one in vectors along its rows, so
// that both are used where they lie; the left one may lie turned. A block of kRows x kVectors vectors of `out` stays in
// registers while all terms are summed.
#pragma once

#include "vec.h"

namespace fused_ops {
inline namespace FUSED_OPS_ISA {

// left is rows x depth or (`turned`) depth x rows, right is depth x cols; consecutive rows lie `..._ld` elements apart.
template <typename S>
struct Term {
  const S* left;
  int64_t left_ld;
  const S* right;
  int64_t right_ld;
  int64_t depth;
};

// The register block: what fits beside one row of vectors of the right matrix and one broadcast value.
#if defined(__AVX512F__) || defined(__aarch64__)
inline constexpr int kRows = 6, kVectors = 4;
#else
inline constexpr int kRows = 6, kVectors = 2;
#endif

template <typename S, bool turned, int rows, int vectors, bool whole>
FUSED_OPS_INLINE void product_block(const Term<S>* terms, int count, int64_t row, int64_t col, S* out, int64_t out_ld,
                                    bool add, int last) {
  constexpr int lanes = kLanes<S>;
  // The last vector of a block at the right edge has `last` lanes.
  const auto get = [&](const S* p, int j) { return whole || j + 1 < vectors ? load(p) : load(p, last); };
  Vec<S> sum[rows][vectors];
#pragma GCC unroll 16
  for (int i = 0; i < rows; ++i) {
#pragma GCC unroll 4
    for (int j = 0; j < vectors; ++j) sum[i][j] = Vec<S>{};
  }
  for (int t = 0; t < count; ++t) {
    const Term<S>& term = terms[t];
    const S* left = term.left + row * (turned ? 1 : term.left_ld);
    const S* right = term.right + col;
    const int64_t left_ld = term.left_ld, right_ld = term.right_ld;
#pragma GCC unroll 4
    for (int64_t k = 0; k < term.depth; ++k) {
      Vec<S> line[vectors];
#pragma GCC unroll 4
      for (int j = 0; j < vectors; ++j) line[j] = get(right + k * right_ld + j * lanes, j);
#pragma GCC unroll 16
      for (int i = 0; i < rows; ++i) {
        const Vec<S> value = broadcast<S>(turned ? left[k * left_ld + i] : left[i * left_ld + k]);
#pragma GCC unroll 4
        for (int j = 0; j < vectors; ++j) sum[i][j] += value * line[j];
      }
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < rows; ++i) {
#pragma GCC unroll 4
    for (int j = 0; j < vectors; ++j) {
      S* to = out + (row + i) * out_ld + col + j * lanes;
      // Added at the end: on top of a large value every step would lose more.
      if (add) sum[i][j] += get(to, j);
      if (whole || j + 1 < vectors) {
        store(to, sum[i][j]);
      } else {
        store(to, sum[i][j], last);
      }
    }
  }
}

template <typename S, bool turned, int vectors, bool whole>
void product_columns(int64_t rows, int64_t from_row, const Term<S>* terms, int count, int64_t col, S* out,
                     int64_t out_ld, bool add, int last) {
  // One vector of six rows would not hide what an addition takes.
  constexpr int tall = vectors == 1 ? 2 * kRows : kRows;
  int64_t row = from_row;
  for (; row + tall <= rows; row += tall) {
    product_block<S, turned, tall, vectors, whole>(terms, count, row, col, out, out_ld, add, last);
  }
  for (; row + kRows <= rows; row += kRows) {
    product_block<S, turned, kRows, vectors, whole>(terms, count, row, col, out, out_ld, add, last);
  }
  if (row + 4 <= rows) {
    product_block<S, turned, 4, vectors, whole>(terms, count, row, col, out, out_ld, add, last);
    row += 4;
  }
  if (row + 2 <= rows) {
    product_block<S, turned, 2, vectors, whole>(terms, count, row, col, out, out_ld, add, last);
    row += 2;
  }
  if (row < rows) product_block<S, turned, 1, vectors, whole>(terms, count, row, col, out, out_ld, add, last);
}

// The longest sum in registers. What lies beyond is added in memory: a sum in parts loses less than one long one.
inline constexpr int64_t kDepth = 128;

// Some terms, their depth cut to about kDepth in all; `done` is what of the first one was used before.
template <typename S, bool turned>
FUSED_OPS_INLINE int next_terms(const Term<S>* terms, int count, int& first, int64_t& done, Term<S>* some) {
  int found = 0;
  for (int64_t room = kDepth; first < count && room > 0;) {
    const Term<S>& term = terms[first];
    const int64_t left = term.depth - done, depth = left <= room + kDepth / 2 ? left : room;
    const S* left_from = term.left + done * (turned ? term.left_ld : 1);
    some[found++] = {left_from, term.left_ld, term.right + done * term.right_ld, term.right_ld, depth};
    room -= depth;
    done = depth == left ? 0 : done + depth;
    if (done == 0) ++first;
  }
  return found;
}

// Rows of `out` that are made together: their sums stay in the first-level cache while the parts are added, and what
// they take of a left matrix that comes from far away is used for all columns before it leaves the second. Where it is
// the right one that does, all rows are better.
inline constexpr int64_t kSomeRows = 8 * kRows;

// out (rows x cols) = the sum of at most eight terms, plus `out` if `add`.
template <typename S, bool turned = false>
void product(int64_t rows, int64_t cols, const Term<S>* terms, int count, S* out, int64_t out_ld, bool add,
             int64_t some_rows = kSomeRows) {
  constexpr int lanes = kLanes<S>;
  for (int64_t row = 0; row < rows; row += some_rows) {
    const int64_t end = row + some_rows < rows ? row + some_rows : rows;
    Term<S> some[8];
    int first = 0;
    bool add_to = add;
    for (int64_t done = 0; first < count; add_to = true) {
      const int some_count = next_terms<S, turned>(terms, count, first, done, some);
      int64_t col = 0;
      const auto go = [&]<int vectors>(int last) {
        constexpr bool whole = vectors > 1;
        product_columns<S, turned, vectors, whole>(end, row, some, some_count, col, out, out_ld, add_to, last);
        col += vectors * lanes;
      };
      // Four at a time leave one of five vectors, which takes nearly as long as two: three and two are better.
      for (int64_t left = cols / lanes; left > 0; left = (cols - col) / lanes) {
        if (left >= kVectors && left != kVectors + 1) {
          go.template operator()<kVectors>(lanes);
        } else if (kVectors > 2 && left >= 3) {
          go.template operator()<3>(lanes);
        } else if (left >= 2) {
          go.template operator()<2>(lanes);
        } else {
          go.template operator()<1>(lanes);
        }
      }
      if (col < cols) go.template operator()<1>(int(cols - col));
    }
  }
}

}  // namespace FUSED_OPS_ISA
}  // namespace fused_ops
