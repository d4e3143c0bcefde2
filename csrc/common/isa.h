// Which instruction set's kernels run: the best that was built and that this processor has.
//
// For the torch glue (cpu.cpp), which is compiled for the plainest set. FUSED_OPS_CPU_ISA=baseline|avx2|avx512 in the
// environment caps the choice, so that every set can be tested on one machine; it is read once.
#pragma once
#include <torch/headeronly/util/Exception.h>

#include <cstdlib>
#include <string_view>

namespace fused_ops {

enum class Isa { baseline, avx2, avx512 };

inline Isa detect_isa() {
  Isa best = Isa::baseline;
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c")) {
    best = Isa::avx2;
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
      best = Isa::avx512;
    }
  }
#endif
  if (const char* cap = std::getenv("FUSED_OPS_CPU_ISA"); cap != nullptr && *cap != '\0') {
    const std::string_view name(cap);
    STD_TORCH_CHECK(name == "baseline" || name == "avx2" || name == "avx512",
                    "FUSED_OPS_CPU_ISA is '", cap, "'; allowed are baseline, avx2, avx512");
    const Isa limit = name == "baseline" ? Isa::baseline : name == "avx2" ? Isa::avx2 : Isa::avx512;
    if (limit < best) best = limit;
  }
  return best;
}

inline Isa isa() {
  static const Isa chosen = detect_isa();
  return chosen;
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

// Returns what `call`, declared that way, gives for the chosen instruction set.
#define FUSED_OPS_RETURN_FOR_ISA(call)                                          \
  FUSED_OPS_IF_AVX512(if (isa() >= Isa::avx512) { return avx512::call; })       \
  FUSED_OPS_IF_AVX2(if (isa() >= Isa::avx2) { return avx2::call; })             \
  return baseline::call
