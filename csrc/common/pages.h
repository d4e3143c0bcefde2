// Large memory in large pages: a fresh small page costs about as much as computing what is written on it, and rows that
// lie far apart need more small pages than the processor keeps track of.
#pragma once
#include <cstdint>
#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace fused_ops {

inline constexpr int64_t kLargePage = 2 << 20;

// Asks for large pages where the memory spans whole ones. Only a wish: the system may do without.
inline void prefer_large_pages(void* memory, int64_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  const uintptr_t first = (reinterpret_cast<uintptr_t>(memory) + kLargePage - 1) / kLargePage * kLargePage;
  const uintptr_t end = (reinterpret_cast<uintptr_t>(memory) + uintptr_t(bytes)) / kLargePage * kLargePage;
  if (end > first) madvise(reinterpret_cast<void*>(first), end - first, MADV_HUGEPAGE);
#else
  (void)memory, (void)bytes;
#endif
}

}  // namespace fused_ops
