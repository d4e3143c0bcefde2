// What kernels use of CUDA, so that the same sources also run on the host (cuda_emulation.h) where no nvcc compiles
// them: memory, barriers, shuffles, launches, and float16 and bfloat16 as storage. No torch, no CUDA headers.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#ifdef __CUDACC__
#include <stdexcept>
#include <string>
// `blocks`: as many at least are to fit on a processor at once, which bounds the registers.
#define FUSED_OPS_RESIDENT_KERNEL(most_threads, blocks) __global__ void __launch_bounds__(most_threads, blocks)
#define FUSED_OPS_DEVICE __device__ __forceinline__
#define FUSED_OPS_BOTH __host__ __device__ __forceinline__
#else
#include "common/cuda_emulation.h"
#define FUSED_OPS_RESIDENT_KERNEL(most_threads, blocks) void
#define FUSED_OPS_DEVICE inline
#define FUSED_OPS_BOTH inline
#endif

#define FUSED_OPS_KERNEL(most_threads) FUSED_OPS_RESIDENT_KERNEL(most_threads, 1)

namespace fused_ops {

inline constexpr int kWarp = 32;

// ---- float16 and bfloat16: how they are stored; arithmetic is in float ---------------------------------------------

struct Half {
  uint16_t bits;
};
struct BFloat16Bits {
  uint16_t bits;
};

FUSED_OPS_BOTH uint32_t bits_of(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof(bits));
  return bits;
}
FUSED_OPS_BOTH float of_bits(uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof(value));
  return value;
}

FUSED_OPS_DEVICE float to_float(float value) { return value; }
FUSED_OPS_DEVICE float to_float(BFloat16Bits value) { return of_bits(uint32_t(value.bits) << 16); }

#ifdef __CUDACC__
FUSED_OPS_DEVICE float to_float(Half value) {
  float wide;
  asm("cvt.f32.f16 %0, %1;" : "=f"(wide) : "h"(value.bits));
  return wide;
}
FUSED_OPS_DEVICE void round_to(float value, Half& to) { asm("cvt.rn.f16.f32 %0, %1;" : "=h"(to.bits) : "f"(value)); }
FUSED_OPS_DEVICE void round_to(float value, BFloat16Bits& to) {
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(to.bits) : "f"(value));
}
#else
inline float to_float(Half value) {
  const uint32_t sign = uint32_t(value.bits & 0x8000) << 16, exponent = value.bits >> 10 & 31;
  const uint32_t fraction = value.bits & 1023;
  if (exponent == 31) return of_bits(sign | 0x7f800000 | fraction << 13);
  if (exponent == 0) return std::copysign(std::ldexp(float(fraction), -24), of_bits(sign));
  return of_bits(sign | (exponent + 112) << 23 | fraction << 13);
}
inline void round_to(float value, Half& to) {
  const uint32_t sign = bits_of(value) >> 16 & 0x8000;
  const float size = std::fabs(value);
  uint32_t bits = 0x7e00;  // NaN
  if (size >= 65520) {
    bits = 0x7c00;
  } else if (size < 6.103515625e-05f) {  // subnormal: multiples of 2^-24
    bits = uint32_t(std::nearbyint(std::ldexp(size, 24)));
  } else if (size == size) {
    const uint32_t wide = bits_of(size) - (112u << 23);
    bits = (wide + 0xfff + (wide >> 13 & 1)) >> 13;
  }
  to.bits = uint16_t(sign | bits);
}
inline void round_to(float value, BFloat16Bits& to) {
  const uint32_t bits = bits_of(value);
  to.bits = value != value ? 0x7fff : uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
#endif
FUSED_OPS_DEVICE void round_to(float value, float& to) { to = value; }

// ---- global memory -------------------------------------------------------------------------------------------------

// Elements of a 16-byte access.
template <typename T>
inline constexpr int kVector = 16 / int(sizeof(T));

// The memory of one.
struct alignas(16) Quad {
  uint32_t words[4];
};

template <typename T>
FUSED_OPS_DEVICE void unpack(const Quad& quad, float (&to)[kVector<T>]) {
  if constexpr (std::is_same_v<T, BFloat16Bits>) {  // one instruction an element; nvcc makes two of the parts
#pragma unroll
    for (int i = 0; i < kVector<T>; ++i) {
      const uint32_t word = quad.words[i / 2];
      to[i] = of_bits(i % 2 == 0 ? word << 16 : word & 0xffff0000);
    }
  } else {
    T parts[kVector<T>];
    memcpy(parts, &quad, 16);
#pragma unroll
    for (int i = 0; i < kVector<T>; ++i) to[i] = to_float(parts[i]);
  }
}

template <typename T>
FUSED_OPS_DEVICE Quad pack(const float (&from)[kVector<T>]) {
  Quad quad;
#ifdef __CUDACC__
  if constexpr (sizeof(T) == 2) {  // a word, two elements, at a time
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if constexpr (std::is_same_v<T, Half>) {
        asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(quad.words[i]) : "f"(from[2 * i + 1]), "f"(from[2 * i]));
      } else {
        asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(quad.words[i]) : "f"(from[2 * i + 1]), "f"(from[2 * i]));
      }
    }
    return quad;
  }
#endif
  T parts[kVector<T>];
#pragma unroll
  for (int i = 0; i < kVector<T>; ++i) round_to(from[i], parts[i]);
  memcpy(&quad, parts, 16);
  return quad;
}

// A pointer into a tensor; null where the tensor is absent.
template <typename T>
struct Global {
  using Element = std::remove_const_t<T>;
  T* at = nullptr;

  FUSED_OPS_BOTH explicit operator bool() const { return at != nullptr; }

  FUSED_OPS_DEVICE Element get(int64_t index) const {
#ifndef __CUDACC__
    if (!emulation::Machine::get().check(at + index, sizeof(T), false)) return Element{};
#endif
    return at[index];
  }
  FUSED_OPS_DEVICE void put(int64_t index, Element value) const {
#ifndef __CUDACC__
    if (!emulation::Machine::get().check(at + index, sizeof(T), true)) return;
#endif
    at[index] = value;
  }
  FUSED_OPS_DEVICE float get_float(int64_t index) const { return to_float(get(index)); }
  FUSED_OPS_DEVICE void put_float(int64_t index, float value) const {
    Element rounded;
    round_to(value, rounded);
    put(index, rounded);
  }

  // kVector elements in one access; `index` must be a multiple of kVector.
  FUSED_OPS_DEVICE Quad get_vector(int64_t index) const {
    Quad quad{};
#ifdef __CUDACC__
    const uint4 loaded = *reinterpret_cast<const uint4*>(at + index);
    memcpy(&quad, &loaded, 16);
#else
    if (emulation::Machine::get().check(at + index, 16, false)) memcpy(&quad, at + index, 16);
#endif
    return quad;
  }
  FUSED_OPS_DEVICE void put_vector(int64_t index, const Quad& quad) const {
#ifdef __CUDACC__
    uint4 stored;
    memcpy(&stored, &quad, 16);
    *reinterpret_cast<uint4*>(at + index) = stored;
#else
    if (emulation::Machine::get().check(at + index, 16, true)) memcpy(at + index, &quad, 16);
#endif
  }
};

// kVector adjacent elements from `at` on, of which those of the mask belong to the work; `wide` if all do and the
// address allows one access for all.
struct Chunk {
  int64_t at = 0;
  uint32_t mask = 0;
  bool wide = false;

  FUSED_OPS_DEVICE bool has(int i) const { return mask >> i & 1; }

  // 0 for elements outside of the mask.
  template <typename T>
  FUSED_OPS_DEVICE Quad load(Global<const T> from) const {
    if (wide) return from.get_vector(at);
    T parts[kVector<T>];
#pragma unroll
    for (int i = 0; i < kVector<T>; ++i) parts[i] = has(i) ? from.get(at + i) : T{};
    Quad quad;
    memcpy(&quad, parts, 16);
    return quad;
  }
  template <typename T>
  FUSED_OPS_DEVICE void load(Global<const T> from, float (&to)[kVector<T>]) const {
    unpack<T>(load(from), to);
  }
  template <typename T>
  FUSED_OPS_DEVICE void store(Global<T> to, const float (&from)[kVector<T>]) const {
    store(to, pack<T>(from));
  }
  // What load() gave, unchanged.
  template <typename T>
  FUSED_OPS_DEVICE void store(Global<T> to, const Quad& from) const {
    if (wide) return to.put_vector(at, from);
    T parts[kVector<T>];
    memcpy(parts, &from, 16);
#pragma unroll
    for (int i = 0; i < kVector<T>; ++i) {
      if (has(i)) to.put(at + i, parts[i]);
    }
  }
};

// A small tensor whose dtype, float or the features', is told at run time.
template <typename T>
struct Small {
  Global<T> narrow;
  Global<float> wide;

  FUSED_OPS_BOTH explicit operator bool() const { return narrow || wide; }
  FUSED_OPS_DEVICE float get(int64_t index) const { return wide ? wide.get(index) : narrow.get_float(index); }
  FUSED_OPS_DEVICE float get(int64_t index, float otherwise) const { return *this ? get(index) : otherwise; }
  FUSED_OPS_DEVICE void put(int64_t index, float value) const {
    if (wide) {
      wide.put(index, value);
    } else if (narrow) {
      narrow.put_float(index, value);
    }
  }
};

// ---- threads -------------------------------------------------------------------------------------------------------

#ifdef __CUDACC__
FUSED_OPS_DEVICE void sync_threads() { __syncthreads(); }
FUSED_OPS_DEVICE float shuffle_xor(float value, int mask) { return __shfl_xor_sync(0xffffffffu, value, mask); }
using Shared = float*;
FUSED_OPS_DEVICE Shared shared_floats() {
  extern __shared__ float4 fused_ops_shared[];
  return reinterpret_cast<float*>(fused_ops_shared);
}
#else
// __builtin_LINE: the caller's line, by which barriers are told apart.
inline void sync_threads(int line = __builtin_LINE()) { emulation::Machine::get().wait_for_block(line); }
inline float shuffle_xor(float value, int mask, int line = __builtin_LINE()) {
  return emulation::Machine::get().shuffle_xor(value, mask, line);
}
using Shared = emulation::SharedFloats;
inline Shared shared_floats() { return emulation::Machine::get().shared(); }
#endif

// Division of 0 <= n < 2^31 by a number that is the same for the whole launch: a multiplication and a shift (Granlund
// and Montgomery, "Division by invariant integers using multiplication", 1994).
struct Divider {
  uint32_t by = 1, factor = 0, shift = 0;

  Divider() = default;
  explicit Divider(int64_t divisor) : by(uint32_t(divisor)) {
    while ((int64_t(1) << shift) < divisor) ++shift;
    factor = uint32_t(((uint64_t(1) << 32) * ((uint64_t(1) << shift) - by)) / by + 1);
  }
  FUSED_OPS_DEVICE int divide(int n) const {
#ifdef __CUDACC__
    const uint32_t high = __umulhi(uint32_t(n), factor);
#else
    const uint32_t high = uint32_t(uint64_t(uint32_t(n)) * factor >> 32);
#endif
    return int((high + uint32_t(n)) >> shift);
  }
};

// ---- launches ------------------------------------------------------------------------------------------------------

// The device that a call runs on. `stream` is a cudaStream_t.
struct Device {
  void* stream = nullptr;
  int processors = 1;
  int most_threads = 512;  // of a block; kernels are compiled for no more
};

// Starts a kernel; `shared` is the number of floats of shared memory.
template <typename Arguments>
void launch(const Device& device, void (*kernel)(Arguments), int64_t blocks, int threads, int64_t shared,
            const Arguments& arguments) {
#ifdef __CUDACC__
  kernel<<<dim3(unsigned(blocks)), threads, shared * sizeof(float), static_cast<cudaStream_t>(device.stream)>>>(
      arguments);
  if (const cudaError_t error = cudaGetLastError(); error != cudaSuccess) {
    throw std::runtime_error(std::string("fused_ops: a kernel did not start: ") + cudaGetErrorString(error));
  }
#else
  (void)device;
  emulation::Machine::get().run(blocks, threads, shared * int64_t(sizeof(float)), [&] { kernel(arguments); });
#endif
}

}  // namespace fused_ops
