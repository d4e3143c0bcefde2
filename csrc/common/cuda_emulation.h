// A CUDA device as far as our kernels need one, on the host: so their sources run in tests where there is no card.
//
// Blocks run one after the other, the threads of a block as fibers of one system thread, which are switched where they
// wait for each other: at barriers and shuffles. So a value that is read without a barrier before it is not there yet
// (in one of the two orders in which fibers can be run), and shared memory holds NaN until it is written. Every access
// to memory is checked: it must lie within one of the tensors of the call (allow()) and be aligned, or within the
// block's shared memory, and be in order with what other threads do there (cuda_races.h); threads that wait at
// different barriers, or for threads that have left, are found, and so is a launch that no card makes. The first such
// finding is kept in `error` and ends the launch.
#pragma once

#include <ucontext.h>

#include <csetjmp>
#include <cstdint>
#include <cstring>
#include <functional>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "common/cuda_races.h"

struct EmulatedIndex {
  unsigned x = 0;
};
inline EmulatedIndex threadIdx, blockIdx, blockDim;

namespace fused_ops::emulation {

class Machine {
 public:
  // Set by tests: the order of fibers, and a device smaller than a real one, on which small tensors are large.
  bool reversed = false;
  int processors = 4, most_threads = 64;
  std::string error;
  int64_t launches = 0, moved = 0;  // kernels, and bytes of global memory that they accessed

  static Machine& get() {
    static Machine machine;
    return machine;
  }

  // What kernels may touch, until forget().
  void allow(const void* begin, int64_t bytes, bool writable) {
    const auto* first = static_cast<const char*>(begin);
    ranges_.push_back({first, first + bytes, writable, {}});
    if (writable) ranges_.back().traces.resize(size_t(bytes));
  }
  void forget() { ranges_.clear(); }

  // Whether an access is right; if not, it is noted and must not be made.
  bool check(const void* at, int64_t bytes, bool write) {
    const auto* first = static_cast<const char*>(at);
    if (reinterpret_cast<uintptr_t>(at) % bytes != 0) {
      fail(std::to_string(bytes) + " bytes are accessed at an address that is not aligned to them");
      return false;
    }
    bool inside = false;
    for (Range& range : ranges_) {
      if (first < range.begin || first + bytes > range.end) continue;
      inside |= range.writable || !write;
      if (!range.writable) continue;
      for (const char* byte = first; byte < first + bytes; ++byte) {
        if (!in_order(range.traces[size_t(byte - range.begin)], write)) return false;
      }
      break;
    }
    if (!inside) {
      fail(std::string(write ? "a write" : "a read") + " of " + std::to_string(bytes) + " bytes outside of all tensors");
      return false;
    }
    moved += bytes;
    return true;
  }
  // The same for one of the floats of shared memory.
  bool check_shared(int64_t number, bool write) {
    if (number < 0 || size_t(number) >= shared_traces_.size()) {
      fail(std::string(write ? "a write" : "a read") + " outside of shared memory");
      return false;
    }
    return in_order(shared_traces_[size_t(number)], write);
  }

  void run(int64_t blocks, int threads, int64_t shared_bytes, const std::function<void()>& body) {
    ++launches;
    ++launch_;
    if (!error.empty()) return;
    if (threads % 32 != 0 || threads > 1024) return fail("a block has " + std::to_string(threads) + " threads");
    if (blocks < 1 || blocks > kMostBlocks) return fail("a grid has " + std::to_string(blocks) + " blocks");
    if (shared_bytes > kMostShared) {
      return fail("a block has " + std::to_string(shared_bytes) + " bytes of shared memory");
    }
    while (int(fibers_.size()) < threads) add_fiber();
    body_ = &body;
    count_ = threads;
    blockDim.x = unsigned(threads);
    for (int64_t block = 0; block < blocks && error.empty(); ++block) run_block(unsigned(block), shared_bytes);
  }

  float* shared() { return shared_.data(); }

  void wait_for_block(int line) { wait(block_, count_, line); }

  // The value that lane ^ mask of the same warp brings.
  float shuffle_xor(float value, int mask, int line) {
    const int thread = current_, lane = thread % 32;
    Warp& warp = warps_[size_t(thread) / 32];
    float* slots = warp.slots[warp.barrier.generation & 1];
    slots[lane] = value;
    wait(warp.barrier, 32, line);
    return slots[lane ^ mask];
  }

  void fail(const std::string& what) {
    if (!error.empty()) return;
    error = "block " + std::to_string(blockIdx.x) + ", thread " + std::to_string(threadIdx.x) + ": " + what;
  }

 private:
  static constexpr int64_t kStack = 128 << 10;
  static constexpr int64_t kMostBlocks = (int64_t(1) << 31) - 1, kMostShared = 48 << 10;  // of any card, unless asked
  struct Range {
    const char *begin, *end;
    bool writable;
    std::vector<Trace> traces;  // of each byte, where the kernels may write
  };
  struct Barrier {
    int waiting = 0, line = 0;
    uint64_t generation = 0;
  };
  struct Warp {
    Barrier barrier;
    float slots[2][32];
  };
  struct Fiber {
    ucontext_t context;
    jmp_buf resume;
    std::unique_ptr<char[]> stack;
    bool started = false, finished = false;
  };

  std::vector<Range> ranges_;
  std::vector<std::unique_ptr<Fiber>> fibers_;
  std::vector<Warp> warps_;
  std::vector<float> shared_;
  std::vector<Trace> shared_traces_;  // of each float
  Barrier block_;
  jmp_buf scheduler_;
  const std::function<void()>* body_ = nullptr;
  int count_ = 0, current_ = 0;
  uint64_t progress_ = 0;
  uint32_t launch_ = 0;

  bool in_order(Trace& trace, bool write) {
    const Moment now{launch_, blockIdx.x, uint32_t(block_.generation), threadIdx.x};
    const Moment* other = trace.race(now, write);
    if (other == nullptr) return true;
    fail(std::string(write ? "a write" : "a read") + " that races with thread " + std::to_string(other->thread) +
         " of block " + std::to_string(other->block));
    return false;
  }

  void add_fiber() {
    auto fiber = std::make_unique<Fiber>();
    fiber->stack = std::make_unique<char[]>(kStack);
    getcontext(&fiber->context);
    fiber->context.uc_stack.ss_sp = fiber->stack.get();
    fiber->context.uc_stack.ss_size = kStack;
    makecontext(&fiber->context, [] { get().live(); }, 0);
    fibers_.push_back(std::move(fiber));
  }

  // A fiber's whole life: one block after the other. (The first entry is by its context, which costs a system call,
  // all later ones by a jump.)
  void live() {
    for (;;) {
      (*body_)();
      fibers_[size_t(current_)]->finished = true;
      ++progress_;
      yield();
    }
  }

  void yield() {
    if (_setjmp(fibers_[size_t(current_)]->resume) == 0) _longjmp(scheduler_, 1);
  }

  void resume(int thread) {
    current_ = thread;
    threadIdx.x = unsigned(thread);
    Fiber& fiber = *fibers_[size_t(thread)];
    if (_setjmp(scheduler_) != 0) return;
    if (fiber.started) _longjmp(fiber.resume, 1);
    fiber.started = true;
    setcontext(&fiber.context);
  }

  void wait(Barrier& barrier, int all, int line) {
    if (!error.empty()) return;
    if (barrier.waiting > 0 && barrier.line != line) {
      return fail("waits at line " + std::to_string(line) + ", others at line " + std::to_string(barrier.line));
    }
    barrier.line = line;
    ++progress_;
    if (++barrier.waiting == all) {
      barrier.waiting = 0;
      ++barrier.generation;
      return;
    }
    const uint64_t generation = barrier.generation;
    while (barrier.generation == generation && error.empty()) yield();
  }

  void run_block(unsigned block, int64_t shared_bytes) {
    blockIdx.x = block;
    const size_t floats = size_t(shared_bytes) / sizeof(float);
    shared_.assign(floats, std::numeric_limits<float>::quiet_NaN());
    shared_traces_.assign(floats, Trace{});
    block_ = {};
    warps_.assign(size_t(count_) / 32, Warp{});
    for (int thread = 0; thread < count_; ++thread) fibers_[size_t(thread)]->finished = false;
    for (bool alive = true; alive;) {
      const uint64_t before = progress_;
      alive = false;
      for (int i = 0; i < count_; ++i) {
        const int thread = reversed ? count_ - 1 - i : i;
        if (fibers_[size_t(thread)]->finished) continue;
        resume(thread);
        alive |= !fibers_[size_t(thread)]->finished;
      }
      if (alive && progress_ == before) fail("threads wait at a barrier that others never reach");
    }
  }
};

// A pointer into shared memory, whose accesses are checked.
class SharedFloats {
 public:
  class Place {
   public:
    Place(float* at) : at_(at) {}
    Place(const Place&) = default;
    operator float() const { return checked(false) ? *at_ : 0; }
    Place& operator=(float value) {
      if (checked(true)) *at_ = value;
      return *this;
    }
    Place& operator=(const Place& other) { return *this = float(other); }

   private:
    float* at_;
    bool checked(bool write) const {
      Machine& machine = Machine::get();
      return machine.check_shared(at_ - machine.shared(), write);
    }
  };

  SharedFloats(float* at) : at_(at) {}
  Place operator[](int64_t i) const { return {at_ + i}; }
  SharedFloats operator+(int64_t i) const { return {at_ + i}; }

 private:
  float* at_;
};

}  // namespace fused_ops::emulation
