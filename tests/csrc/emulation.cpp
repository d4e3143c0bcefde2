// How tests set the emulated device and hear of it.
#include "common/cuda_emulation.h"

#define FUSED_OPS_EXPORT extern "C" __attribute__((visibility("default")))

using fused_ops::emulation::Machine;

FUSED_OPS_EXPORT void emulation_set(int processors, int most_threads, int reversed) {
  Machine& machine = Machine::get();
  machine.processors = processors;
  machine.most_threads = most_threads;
  machine.reversed = reversed != 0;
  machine.launches = machine.moved = 0;
}
FUSED_OPS_EXPORT int emulation_launches() { return int(Machine::get().launches); }
FUSED_OPS_EXPORT int emulation_moved() { return int(Machine::get().moved); }
