// A block and its threads: how one waits for others and what lanes of a warp exchange.
#pragma once
#include <cstdio>
#include <functional>

#include "stacks.h"

namespace sim {

enum Schedule { FORWARD, REVERSE, RANDOM, GREEDY };  // GREEDY: one warp runs as far as it can, then the next
enum Wait { NONE, BLOCK, WARP, SHUFFLE, MMA, MATRICES };  // for what a thread waits; from WARP on, for its whole warp
const size_t GUARD = 4096;  // bytes behind shared memory
const int LANES = 32, THREADS = 1024, SLOTS = 12;

struct Index { unsigned x, y, z; };

struct Fiber {
  Context context;
  char* stack;
  void *tsan, *asan;
  bool done;
  Wait wait;
};

struct Block {
  Index index, threads, grid;
  Schedule schedule;
  const std::function<void()>* body;
  unsigned char* shared;
  int count, warps;  // threads, and the warps that they make
  Fiber fibers[THREADS];
  // What lanes exchange. Two sets in turn: a lane may be one collective ahead of the slowest, never two.
  u32 slots[2][THREADS][SLOTS];
  u8 turn[THREADS];
  Context scheduler;
  void* tsan;
  const void* stack;  // the scheduler's, for AddressSanitizer
  size_t stack_bytes;
  int current;
  u64 random, number;  // number: blocks run so far
  bool failed;
  char started, synchronised, warp_synchronised[THREADS / LANES];  // addresses for ThreadSanitizer to order threads by
};

inline Block the_block;
inline Block* const block = &the_block;
inline char error[512];
inline char ended;
#ifdef SIM_TSAN
// Slow to make, so that each (with a stack of its own) serves every second block: threads of neighbouring blocks are
// never ordered.
inline void* tsan_fibers[2][THREADS];
#endif

SIM_UNSEEN inline Fiber& self() { return block->fibers[block->current]; }
SIM_UNSEEN inline int lane() { return block->current % LANES; }

SIM_UNSEEN inline void to_scheduler() {
  Fiber& fiber = self();
#ifdef SIM_ASAN
  __sanitizer_start_switch_fiber(fiber.done ? nullptr : &fiber.asan, block->stack, block->stack_bytes);
#endif
#ifdef SIM_TSAN
  __tsan_switch_to_fiber(block->tsan, 1);
#endif
  switch_stack(fiber.context, block->scheduler);
#ifdef SIM_ASAN
  __sanitizer_finish_switch_fiber(fiber.asan, &block->stack, &block->stack_bytes);
#endif
}

SIM_UNSEEN inline void note(const char* what) {
  const Index& i = block->index;
  snprintf(error, sizeof error, "%s; block (%u, %u, %u), thread %d", what, i.x, i.y, i.z, block->current);
  block->failed = true;
}
// Of a thread: gives up the whole launch.
SIM_UNSEEN inline void fail(const char* what) {
  note(what);
  to_scheduler();
  abort();  // never resumed
}

// `meeting`: for the threads that come to it, what was done before is seen after; null if only registers are exchanged.
SIM_UNSEEN inline void wait_for(Wait what, char* meeting) {
#ifdef SIM_TSAN
  if (meeting) __tsan_release(meeting);
#endif
  self().wait = what;
  to_scheduler();
#ifdef SIM_TSAN
  if (meeting) __tsan_acquire(meeting);
#endif
}

SIM_UNSEEN inline void trampoline() {
#ifdef SIM_ASAN
  __sanitizer_finish_switch_fiber(nullptr, &block->stack, &block->stack_bytes);
#endif
#ifdef SIM_TSAN
  __tsan_acquire(&block->started);
#endif
  (*block->body)();
#ifdef SIM_TSAN
  __tsan_release(&ended);
#endif
  self().done = true;
  to_scheduler();
  abort();
}

SIM_UNSEEN inline void resume(int thread) {
  block->current = thread;
  Fiber& fiber = self();
#ifdef SIM_ASAN
  void* fake;
  __sanitizer_start_switch_fiber(&fake, fiber.stack, STACK);
#endif
#ifdef SIM_TSAN
  __tsan_switch_to_fiber(fiber.tsan, 1);
#endif
  switch_stack(block->scheduler, fiber.context);
#ifdef SIM_ASAN
  __sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
#endif
}

// ---- what lanes exchange: put, wait for the warp, take

SIM_UNSEEN inline void put(int slot, u32 value) {
  block->slots[block->turn[block->current]][block->current][slot] = value;
}
SIM_UNSEEN inline u32 take(int slot, int lane) {
  return block->slots[block->turn[block->current] ^ 1][block->current / LANES * LANES + lane][slot];
}
SIM_UNSEEN inline void exchange(Wait collective) {
  block->turn[block->current] ^= 1;  // what is put next goes into the other set, what was put is taken from this one
  wait_for(collective, nullptr);
}
SIM_UNSEEN inline void check_aligned(const void* p, size_t to) {
  if ((size_t)p % to) fail("a vector that is not aligned to its size");
}

SIM_UNSEEN inline Index thread_index() { return {(unsigned)block->current, 0, 0}; }
SIM_UNSEEN inline Index block_index() { return block->index; }
SIM_UNSEEN inline Index block_size() { return block->threads; }
SIM_UNSEEN inline Index grid_size() { return block->grid; }

}  // namespace sim
