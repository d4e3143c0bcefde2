// SIMD vectors whose width is that of the instruction set this file is compiled for.
//
// Kernels are compiled once per instruction set (-DFUSED_OPS_ISA=baseline|avx2|avx512 and the matching -m flags) and
// linked into one library. Everything here lies in a namespace named after the instruction set, so that the linker
// never merges an AVX-512 copy of an inline function with the baseline's. For the same reason kernels use no templates
// of the C++ standard library.
//
// Arithmetic is done in Computed<T>; load() and store() convert.
// Vectors are GCC/Clang vector extensions: a + b, a < b (lanes of 0 or -1) and mask ? a : b work lane by lane.
#pragma once

#include <cstdint>
#include <cstring>

#include "common/dtypes.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#ifndef FUSED_OPS_ISA
#error "compile with -DFUSED_OPS_ISA=baseline, avx2 or avx512"
#endif

#define FUSED_OPS_INLINE inline __attribute__((always_inline))

namespace fused_ops {
inline namespace FUSED_OPS_ISA {

#if defined(__AVX512F__)
inline constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
inline constexpr int kVectorBytes = 32;
#else
inline constexpr int kVectorBytes = 16;
#endif

struct BFloat16 {
  uint16_t bits;
};

// What lies in memory where a pointer travels as T*.
template <typename T>
struct StoredAs {
  using type = T;
};
template <>
struct StoredAs<uint16_t> {
  using type = BFloat16;
};
template <typename T>
using Stored = typename StoredAs<T>::type;

template <typename T>
FUSED_OPS_INLINE const Stored<T>* stored(const T* p) {
  return reinterpret_cast<const Stored<T>*>(p);
}
template <typename T>
FUSED_OPS_INLINE Stored<T>* stored(T* p) {
  return reinterpret_cast<Stored<T>*>(p);
}

template <typename S, int bytes = kVectorBytes>
struct VectorOf {
  typedef S type __attribute__((vector_size(bytes)));
};
// None: it is widened. (Older clangs form a template's return type before they look at its constraint.)
template <int bytes>
struct VectorOf<BFloat16, bytes> {};

template <typename S>
using Vec = typename VectorOf<S>::type;

// Lanes of a vector of the scalar S.
template <typename S>
inline constexpr int kLanes = kVectorBytes / int(sizeof(S));

// The integer of a scalar's size.
template <typename S>
struct IntegerOf {
  using type = int32_t;
};
template <>
struct IntegerOf<double> {
  using type = int64_t;
};
template <typename S>
using Integer = typename IntegerOf<S>::type;

template <typename S>
FUSED_OPS_INLINE Vec<S> broadcast(S value) {
  return value - Vec<S>{};
}

// 0, 1, 2, ...
template <typename S>
FUSED_OPS_INLINE Vec<Integer<S>> lane_numbers() {
  Vec<Integer<S>> lane;
  for (int i = 0; i < kLanes<S>; ++i) lane[i] = i;
  return lane;
}

// The sum of all lanes, by halves.
template <typename S>
FUSED_OPS_INLINE S sum(Vec<S> v) {
  S lanes[kLanes<S>];
  memcpy(lanes, &v, sizeof(v));
  for (int half = kLanes<S> / 2; half; half /= 2) {
    for (int lane = 0; lane < half; ++lane) lanes[lane] += lanes[lane + half];
  }
  return lanes[0];
}

// A running sum in double of vectors of any arithmetic type.
template <typename S>
struct DoubleSum {
  Vec<double> parts[sizeof(double) / sizeof(S)] = {};

  FUSED_OPS_INLINE void add(Vec<S> v) {
    typename VectorOf<S, kVectorBytes * int(sizeof(S)) / 8>::type piece;
    for (unsigned i = 0; i < sizeof(double) / sizeof(S); ++i) {
      memcpy(&piece, (const char*)&v + i * sizeof(piece), sizeof(piece));
      parts[i] += __builtin_convertvector(piece, Vec<double>);
    }
  }
  FUSED_OPS_INLINE double total() const {
    double total = 0;
    for (const Vec<double>& part : parts) total += sum<double>(part);
    return total;
  }
};

template <typename S>
FUSED_OPS_INLINE S to_scalar(S value) {
  return value;
}
FUSED_OPS_INLINE float to_scalar(BFloat16 value) {
  const uint32_t bits = uint32_t(value.bits) << 16;
  float result;
  memcpy(&result, &bits, sizeof(result));
  return result;
}

// ---- whole vectors -------------------------------------------------------------------------------------------------

using HalfWidthShorts = typename VectorOf<uint16_t, kVectorBytes / 2>::type;

FUSED_OPS_INLINE Vec<float> widen(HalfWidthShorts shorts) {
  return (Vec<float>)(__builtin_convertvector(shorts, Vec<uint32_t>) << 16);
}

// Round to nearest even; NaN stays NaN.
FUSED_OPS_INLINE HalfWidthShorts narrow(Vec<float> value) {
  const Vec<uint32_t> bits = (Vec<uint32_t>)value;
  const Vec<uint32_t> rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const Vec<uint32_t> nan = (bits >> 16) | 0x40u;
  return __builtin_convertvector(value == value ? rounded : nan, HalfWidthShorts);
}

template <typename S>
  requires(sizeof(S) >= 4)
FUSED_OPS_INLINE Vec<S> load(const S* p) {
  Vec<S> v;
  memcpy(&v, p, sizeof(v));
  return v;
}
FUSED_OPS_INLINE Vec<float> load(const BFloat16* p) {
  HalfWidthShorts shorts;
  memcpy(&shorts, p, sizeof(shorts));
  return widen(shorts);
}

template <typename S>
  requires(sizeof(S) >= 4)
FUSED_OPS_INLINE void store(S* p, Vec<S> v) {
  memcpy(p, &v, sizeof(v));
}
FUSED_OPS_INLINE void store(BFloat16* p, Vec<float> v) {
  const HalfWidthShorts shorts = narrow(v);
  memcpy(p, &shorts, sizeof(shorts));
}

// The same past the caches, so that memory need not be read before it is written; p is aligned to a vector.
FUSED_OPS_INLINE void store_past_caches(float* p, Vec<float> v) {
#if defined(__AVX512F__)
  _mm512_stream_ps(p, (__m512)v);
#elif defined(__AVX2__)
  _mm256_stream_ps(p, (__m256)v);
#else
  store(p, v);
#endif
}

// After stores past the caches, before another thread may read what they wrote.
FUSED_OPS_INLINE void finish_stores() {
#if defined(__AVX2__)
  _mm_sfence();
#endif
}

// ---- the first `count` lanes (0 <= count <= lanes); the other lanes load as zero and are not stored ----------------

#if defined(__AVX512F__)

FUSED_OPS_INLINE uint32_t first_lanes(int count) { return (uint32_t(1) << count) - 1; }

FUSED_OPS_INLINE Vec<float> load(const float* p, int count) {
  return (Vec<float>)_mm512_maskz_loadu_ps(__mmask16(first_lanes(count)), p);
}
FUSED_OPS_INLINE Vec<double> load(const double* p, int count) {
  return (Vec<double>)_mm512_maskz_loadu_pd(__mmask8(first_lanes(count)), p);
}
FUSED_OPS_INLINE Vec<float> load(const BFloat16* p, int count) {
  return widen((HalfWidthShorts)_mm256_maskz_loadu_epi16(__mmask16(first_lanes(count)), p));
}
FUSED_OPS_INLINE void store(float* p, Vec<float> v, int count) {
  _mm512_mask_storeu_ps(p, __mmask16(first_lanes(count)), (__m512)v);
}
FUSED_OPS_INLINE void store(double* p, Vec<double> v, int count) {
  _mm512_mask_storeu_pd(p, __mmask8(first_lanes(count)), (__m512d)v);
}
FUSED_OPS_INLINE void store(BFloat16* p, Vec<float> v, int count) {
  _mm256_mask_storeu_epi16(p, __mmask16(first_lanes(count)), (__m256i)narrow(v));
}

#else

template <typename T>
FUSED_OPS_INLINE Vec<Computed<T>> load(const T* p, int count) {
  T lanes[kLanes<Computed<T>>] = {};
  for (int lane = 0; lane < count; ++lane) lanes[lane] = p[lane];
  return load(lanes);
}
template <typename T>
FUSED_OPS_INLINE void store(T* p, Vec<Computed<T>> v, int count) {
  T lanes[kLanes<Computed<T>>];
  store(lanes, v);
  for (int lane = 0; lane < count; ++lane) p[lane] = lanes[lane];
}

#if defined(__AVX2__)

// Rows of channels end in some lanes again and again: without waiting for lanes that were just written one by one.
template <typename S>
FUSED_OPS_INLINE __m256i first_lanes(int count) {
  return (__m256i)(Vec<Integer<S>>)(lane_numbers<S>() < Integer<S>(count));
}
FUSED_OPS_INLINE Vec<float> load(const float* p, int count) {
  return (Vec<float>)_mm256_maskload_ps(p, first_lanes<float>(count));
}
FUSED_OPS_INLINE Vec<double> load(const double* p, int count) {
  return (Vec<double>)_mm256_maskload_pd(p, first_lanes<double>(count));
}
FUSED_OPS_INLINE void store(float* p, Vec<float> v, int count) {
  _mm256_maskstore_ps(p, first_lanes<float>(count), (__m256)v);
}
FUSED_OPS_INLINE void store(double* p, Vec<double> v, int count) {
  _mm256_maskstore_pd(p, first_lanes<double>(count), (__m256d)v);
}

template <typename U>
FUSED_OPS_INLINE U bits_at(const BFloat16* p) {
  U bits;
  memcpy(&bits, p, sizeof(bits));
  return bits;
}
// Four lanes from the front and four that end at the last one; of fewer, two or one.
FUSED_OPS_INLINE Vec<float> load(const BFloat16* p, int count) {
  uint64_t halves[2] = {};
  if (count >= 8) return load(p);
  if (count >= 4) {
    halves[0] = bits_at<uint64_t>(p);
    if (count > 4) halves[1] = bits_at<uint64_t>(p + count - 4) >> 16 * (8 - count);
  } else if (count >= 2) {
    halves[0] = bits_at<uint32_t>(p);
    if (count == 3) halves[0] |= uint64_t(p[2].bits) << 32;
  } else if (count == 1) {
    halves[0] = p[0].bits;
  }
  return widen((HalfWidthShorts)_mm_set_epi64x(int64_t(halves[1]), int64_t(halves[0])));
}
FUSED_OPS_INLINE void store(BFloat16* p, Vec<float> v, int count) {
  const __m128i shorts = (__m128i)narrow(v);
  if (count >= 8) {
    memcpy(p, &shorts, sizeof(shorts));
    return;
  }
  const uint64_t low = uint64_t(_mm_cvtsi128_si64(shorts)), high = uint64_t(_mm_extract_epi64(shorts, 1));
  if (count >= 4) {
    memcpy(p, &low, 8);
    const int more = count - 4;
    if (more == 0) return;
    const uint64_t last = high << 16 * (4 - more) | low >> 16 * more;
    memcpy(p + more, &last, 8);
  } else if (count >= 2) {
    memcpy(p, &low, 4);
    if (count == 3) p[2].bits = uint16_t(low >> 32);
  } else if (count == 1) {
    p[0].bits = uint16_t(low);
  }
}

#endif

#endif

// Zero the lanes from `count` on.
template <typename S>
FUSED_OPS_INLINE Vec<S> keep_first(Vec<S> v, int count) {
  return lane_numbers<S>() < Integer<S>(count) ? v : Vec<S>{};
}

}  // namespace FUSED_OPS_ISA
}  // namespace fused_ops
