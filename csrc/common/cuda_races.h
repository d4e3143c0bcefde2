// How the emulated device (cuda_emulation.h) sees a race: two threads that use the same memory, one of them to write,
// while nothing says who comes first. What comes of it on a card is anybody's guess; here, where threads run one after
// the other, it may well be right.
#pragma once

#include <cstdint>
#include <initializer_list>

namespace fused_ops::emulation {

// When a thread runs. A barrier of its block ends an interval; shuffles order no memory.
struct Moment {
  uint32_t launch = 0, block = 0, interval = 0, thread = 0;
};

// The last accesses to a place in memory.
class Trace {
 public:
  // The earlier access that this one races with, or null.
  const Moment* race(const Moment& now, bool write) {
    for (const Moment* past : {&written_, &read_, &read_before_}) {
      if ((write || past == &written_) && unordered(*past, now)) return past;
    }
    if (write) {
      written_ = now;
      return nullptr;
    }
    // Of several readers two suffice: whoever writes is none or one of them. One of another block is never in order.
    const bool other = read_.block != now.block || read_.thread != now.thread;
    const bool of_other_block = read_before_.launch == now.launch && read_before_.block != now.block;
    if (other && !of_other_block) read_before_ = read_;
    read_ = now;
    return nullptr;
  }

 private:
  Moment written_, read_, read_before_;

  static bool unordered(const Moment& past, const Moment& now) {
    if (past.launch != now.launch) return false;
    return past.block != now.block || (past.interval == now.interval && past.thread != now.thread);
  }
};

}  // namespace fused_ops::emulation
