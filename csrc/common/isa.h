// Which instruction set's kernels run: the best that was built and that this processor has.
//
// For the torch glue (cpu.cpp), which is compiled for the plainest set. FUSED_OPS_CPU_ISA in the environment (one of
// kIsaNames) caps the choice, so that every set can be tested on one machine; it is read once. avx512_bf16 and amx are
// avx512 whose kernels may also use bfloat16 dot products, or matrix tiles.
#pragma once
#include <torch/headeronly/util/Exception.h>

#include <array>
#include <cstdlib>
#include <string_view>
#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(__linux__) && defined(__x86_64__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace fused_ops {

enum class Isa { baseline, avx2, avx512, avx512_bf16, amx };

inline constexpr std::array<std::string_view, 5> kIsaNames{"baseline", "avx2", "avx512", "avx512_bf16", "amx"};

// What a processor with AVX-512 can do with bfloat16: nothing more, add products of pairs and round vectors
// (AVX512-BF16), or also multiply tiles, where the system lets this process use them.
inline Isa with_bfloat16() {
#if defined(FUSED_OPS_EMULATE_BF16)
  return Isa::amx;
#elif defined(__linux__) && defined(__x86_64__)
  constexpr unsigned pairs = 1u << 5, bfloat16_tiles = 1u << 22, tiles = 1u << 24;
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (!__get_cpuid_count(7, 1, &a, &b, &c, &d) || (a & pairs) == 0) return Isa::avx512;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || (d & bfloat16_tiles) == 0 || (d & tiles) == 0) {
    return Isa::avx512_bf16;
  }
  constexpr long request = 0x1023, tile_data = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  return syscall(SYS_arch_prctl, request, tile_data) == 0 ? Isa::amx : Isa::avx512_bf16;
#else
  return Isa::avx512;
#endif
}

#if defined(__x86_64__)
// Conversions of float16; not every clang knows them by name in __builtin_cpu_supports.
inline bool has_f16c() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C) != 0;
}
#endif

inline Isa detect_isa() {
  Isa best = Isa::baseline;
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c()) {
    best = Isa::avx2;
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
      best = with_bfloat16();
    }
  }
#endif
  if (const char* cap = std::getenv("FUSED_OPS_CPU_ISA"); cap != nullptr && *cap != '\0') {
    std::size_t limit = 0;
    while (limit < kIsaNames.size() && kIsaNames[limit] != cap) ++limit;
    STD_TORCH_CHECK(limit < kIsaNames.size(), "FUSED_OPS_CPU_ISA is '", cap,
                    "'; allowed are baseline, avx2, avx512, avx512_bf16, amx");
    if (static_cast<Isa>(limit) < best) best = static_cast<Isa>(limit);
  }
  return best;
}

inline Isa isa() {
  static const Isa chosen = detect_isa();
  return chosen;
}

// Whether a vector of 512 bits takes as long as two of 256, as on a Zen 4 (of AMD's later ones it is not known).
inline bool wide_vectors_in_halves() {
#if defined(__x86_64__)
  static const bool found = (__builtin_cpu_init(), __builtin_cpu_is("amd") != 0);
  return found;
#else
  return false;
#endif
}

}  // namespace fused_ops

#ifdef FUSED_OPS_ISAS_avx2
#define FUSED_OPS_IF_AVX2(...) __VA_ARGS__
#else
#define FUSED_OPS_IF_AVX2(...)
#endif
#ifdef FUSED_OPS_ISAS_avx512
#define FUSED_OPS_IF_AVX512(...) __VA_ARGS__
#else
#define FUSED_OPS_IF_AVX512(...)
#endif

// Repeats a declaration in the namespace of every instruction set that was built.
#define FUSED_OPS_DECLARE_PER_ISA(...)                 \
  namespace baseline { __VA_ARGS__ }                   \
  FUSED_OPS_IF_AVX2(namespace avx2 { __VA_ARGS__ })    \
  FUSED_OPS_IF_AVX512(namespace avx512 { __VA_ARGS__ })

// Returns what a call, declared that way, gives for the chosen instruction set.
#define FUSED_OPS_RETURN_FOR_ISA(...)                                                  \
  FUSED_OPS_IF_AVX512(if (isa() >= Isa::avx512) { return avx512::__VA_ARGS__; })       \
  FUSED_OPS_IF_AVX2(if (isa() >= Isa::avx2) { return avx2::__VA_ARGS__; })             \
  return baseline::__VA_ARGS__
