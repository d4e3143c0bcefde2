// Loaded before everything else (LD_PRELOAD), it puts what torch allocates for tensors and what the CPU kernels take to
// work in against a page that nobody may touch: behind it, or before it with FENCE=before. An access beyond it ends the
// process. Up to the next cache line, which torch's alignment leaves free behind, a write is found when the memory is
// given back. New memory holds NaN, and freed memory may not be touched any more.
#include <dlfcn.h>
#include <sys/mman.h>

#include <atomic>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace {

constexpr size_t kLine = 64, kPage = 4096, kRoom = size_t(1) << 40;
constexpr unsigned char kFill = 0xff;

struct Block {
  size_t bytes, pages;  // asked for; of it, without its own page and the last one
};

char* room() {  // addresses for all blocks, each used once
  static char* const start = [] {
    void* got = mmap(nullptr, kRoom, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (got == MAP_FAILED) std::abort();
    return static_cast<char*>(got);
  }();
  return start;
}

bool before() {
  static const bool asked = std::getenv("FENCE") && std::strcmp(std::getenv("FENCE"), "before") == 0;
  return asked;
}

size_t round_up(size_t bytes, size_t step) { return (bytes + step - 1) / step * step; }

// The block's own page, its pages, and one that stays closed; its own is closed as soon as it is written.
void* take(size_t bytes) {
  static std::atomic<size_t> taken{0};
  const size_t filled = round_up(bytes > 0 ? bytes : 1, kLine), pages = round_up(filled, kPage);
  const size_t offset = taken.fetch_add(pages + 2 * kPage);
  if (offset + pages + 2 * kPage > kRoom) return nullptr;
  char* const own = room() + offset;
  char* const first = own + kPage;
  if (mprotect(own, pages + kPage, PROT_READ | PROT_WRITE) != 0) return nullptr;
  *reinterpret_cast<Block*>(own) = {bytes, pages};
  std::memset(first, kFill, pages);
  mprotect(own, kPage, PROT_NONE);
  return before() ? first : first + pages - filled;
}

void give_back(void* memory) {
  char* const start = static_cast<char*>(memory);
  char* const first = room() + (start - room()) / kPage * kPage;
  char* const own = first - kPage;
  mprotect(own, kPage, PROT_READ);
  const Block block = *reinterpret_cast<Block*>(own);
  const auto see_unwritten = [&](const char* byte, const char* end) {
    for (; byte < end; ++byte) {
      if (static_cast<unsigned char>(*byte) == kFill) continue;
      std::fprintf(stderr, "fence: byte %td of a block of %zu was written\n", byte - start, block.bytes);
      std::abort();
    }
  };
  see_unwritten(first, start);
  see_unwritten(start + block.bytes, first + block.pages);
  madvise(own, block.pages + kPage, MADV_DONTNEED);
  mprotect(own, block.pages + kPage, PROT_NONE);
}

template <typename Function>
Function* real(const char* name) {
  return reinterpret_cast<Function*>(dlsym(RTLD_NEXT, name));
}

}  // namespace

extern "C" {

int posix_memalign(void** memory, size_t alignment, size_t bytes) noexcept {
  static auto* const otherwise = real<int(void**, size_t, size_t)>("posix_memalign");
  if (alignment != kLine) return otherwise(memory, alignment, bytes);
  *memory = take(bytes);
  return *memory ? 0 : ENOMEM;
}

void* aligned_alloc(size_t alignment, size_t bytes) noexcept {
  static auto* const otherwise = real<void*(size_t, size_t)>("aligned_alloc");
  return alignment == kLine ? take(bytes) : otherwise(alignment, bytes);
}

void free(void* memory) noexcept {
  static auto* const otherwise = real<void(void*)>("free");
  char* const start = static_cast<char*>(memory);
  if (start >= room() && start < room() + kRoom) {
    give_back(memory);
  } else {
    otherwise(memory);
  }
}
}
