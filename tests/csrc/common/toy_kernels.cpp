// Kernels that are right, and ones with each mistake that the emulated device must find.
#include "common/cuda.h"

using namespace fused_ops;

namespace {

struct Arguments {
  Global<const float> from;
  Global<float> to;
  int count;
};

FUSED_OPS_KERNEL(256) add_up(Arguments a) {  // of each block's numbers, by shuffles and shared memory
  Shared shared = shared_floats();
  const int thread = int(threadIdx.x), at = int(blockIdx.x * blockDim.x) + thread;
  float sum = at < a.count ? a.from.get(at) : 0;
  for (int mask = kWarp / 2; mask > 0; mask /= 2) sum += shuffle_xor(sum, mask);
  if (thread % kWarp == 0) shared[thread / kWarp] = sum;
  sync_threads();
  if (thread != 0) return;
  for (int warp = 1; warp < int(blockDim.x) / kWarp; ++warp) sum += shared[warp];
  a.to.put(blockIdx.x, sum);
}
FUSED_OPS_KERNEL(256) reads_too_early(Arguments a) {
  Shared shared = shared_floats();
  const int thread = int(threadIdx.x);
  shared[thread] = a.from.get(thread);
  a.to.put(thread, shared[thread ^ 1]);
}
// Warps seldom get so far apart that the second one reads what the first has written over.
FUSED_OPS_KERNEL(256) writes_too_early(Arguments a) {
  Shared shared = shared_floats();
  const int thread = int(threadIdx.x);
  shared[thread] = a.from.get(thread);
  sync_threads();
  const float other = shared[thread ^ kWarp];
  shared[thread] = other + shuffle_xor(other, 1);
}
FUSED_OPS_KERNEL(256) shuffles_for_a_barrier(Arguments a) {
  Shared shared = shared_floats();
  const int thread = int(threadIdx.x);
  shared[thread] = a.from.get(thread);
  const float other = shuffle_xor(0, 1);
  a.to.put(thread, shared[thread ^ 1] + other);
}
FUSED_OPS_KERNEL(256) writes_together(Arguments a) { a.to.put(threadIdx.x / 2, 0); }
FUSED_OPS_KERNEL(256) reads_of_another_block(Arguments a) {
  Global<const float>{a.to.at}.get(0);
  if (blockIdx.x == 1 && threadIdx.x == 0) a.to.put(0, 1);
}
FUSED_OPS_KERNEL(256) in_turns(Arguments a) {  // at one place, with barriers
  Shared shared = shared_floats();
  for (int turn = 0; turn < int(blockDim.x); ++turn) {
    if (turn == int(threadIdx.x)) {
      shared[1] = a.from.get(turn);
      shared[0] = shared[1];
    }
    sync_threads();
    if (turn + 1 == int(blockDim.x) - int(threadIdx.x)) a.to.put(0, shared[0]);
    sync_threads();
  }
}
FUSED_OPS_KERNEL(256) reads_beyond(Arguments a) { a.to.put(threadIdx.x, a.from.get(threadIdx.x + 1)); }
FUSED_OPS_KERNEL(256) writes_beyond(Arguments a) { a.to.put(threadIdx.x + 1, 0); }
FUSED_OPS_KERNEL(256) writes_its_input(Arguments a) {
  Global<float>{const_cast<float*>(a.from.at)}.put(threadIdx.x, 0);
}
FUSED_OPS_KERNEL(256) misaligned(Arguments a) { a.from.get_vector(1); }
FUSED_OPS_KERNEL(256) some_wait(Arguments) {
  if (threadIdx.x > 3) sync_threads();
}
FUSED_OPS_KERNEL(256) wait_apart(Arguments) {
  if (threadIdx.x < 32) {
    sync_threads();
  } else {
    sync_threads();
  }
}
FUSED_OPS_KERNEL(256) beyond_shared(Arguments) { shared_floats()[blockDim.x + threadIdx.x] = 1; }
FUSED_OPS_KERNEL(256) before_shared(Arguments a) { a.to.put(threadIdx.x, shared_floats()[int(threadIdx.x) - 1]); }

constexpr struct {
  const char* name;
  void (*kernel)(Arguments);
} kKernels[] = {{"add_up", add_up},
                {"reads_too_early", reads_too_early},
                {"writes_too_early", writes_too_early},
                {"shuffles_for_a_barrier", shuffles_for_a_barrier},
                {"writes_together", writes_together},
                {"reads_of_another_block", reads_of_another_block},
                {"in_turns", in_turns},
                {"reads_beyond", reads_beyond},
                {"writes_beyond", writes_beyond},
                {"writes_its_input", writes_its_input},
                {"misaligned", misaligned},
                {"some_wait", some_wait},
                {"wait_apart", wait_apart},
                {"beyond_shared", beyond_shared},
                {"before_shared", before_shared}};
constexpr struct {
  const char* name;
  int64_t blocks;
  int threads;
  int64_t shared;  // floats
} kLaunches[] = {{"no_block", 0, 64, 0}, {"many_blocks", int64_t(1) << 31, 64, 0}, {"uneven_block", 1, 48, 0},
                 {"large_block", 1, 2048, 0}, {"much_shared", 1, 64, 12 * 1024 + 1}};

template <typename T>
void round_all(const float* from, uint16_t* bits, float* back, int count) {
  for (int i = 0; i < count; ++i) {
    T rounded;
    round_to(from[i], rounded);
    bits[i] = rounded.bits;
    back[i] = to_float(rounded);
  }
}

}  // namespace

#define EXPORT extern "C" __attribute__((visibility("default")))

// Runs a kernel on count floats; returns what went wrong, "" if nothing did.
EXPORT const char* run_toy(const char* name, const float* from, float* to, int count, int results, int threads,
                           int reversed) {
  auto& machine = emulation::Machine::get();
  machine.error.clear();
  machine.forget();
  machine.allow(from, count * 4, false);
  machine.allow(to, results * 4, true);
  machine.reversed = reversed != 0;
  for (const auto& [own, kernel] : kKernels) {
    if (std::string(own) == name) {
      launch(Device{}, kernel, (count + threads - 1) / threads, threads, threads, Arguments{{from}, {to}, count});
    }
  }
  for (const auto& [own, blocks, block, shared] : kLaunches) {
    if (std::string(own) == name) launch(Device{}, add_up, blocks, block, shared, Arguments{{from}, {to}, count});
  }
  return machine.error.c_str();
}
EXPORT void round_half(const float* from, uint16_t* bits, float* back, int count) {
  round_all<Half>(from, bits, back, count);
}
EXPORT void round_bfloat16(const float* from, uint16_t* bits, float* back, int count) {
  round_all<BFloat16Bits>(from, bits, back, count);
}
// 1 where n / by is what the Divider says for all n given.
EXPORT int divides(const int* numbers, int count, int by) {
  const Divider divider(by);
  for (int i = 0; i < count; ++i) {
    if (divider.divide(numbers[i]) != numbers[i] / by) return 0;
  }
  return 1;
}
