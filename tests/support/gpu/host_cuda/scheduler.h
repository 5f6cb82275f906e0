// Running the threads of a block in the order of the schedule, and the blocks of a launch one after another.
#pragma once
#include "block.h"

namespace sim {

SIM_UNSEEN inline u64 draw() {
  block->random ^= block->random << 13, block->random ^= block->random >> 7, block->random ^= block->random << 17;
  return block->random;
}

struct Order { int at[THREADS]; };
SIM_UNSEEN inline void arrange(Order& order, int n, bool shuffled) {
  for (int i = 0; i < n; i++) order.at[i] = block->schedule == REVERSE ? n - 1 - i : i;
  for (int i = n - 1; shuffled && i > 0; i--) {
    int other = draw() % (i + 1), kept = order.at[i];
    order.at[i] = order.at[other], order.at[other] = kept;
  }
}

// Run each lane of a warp up to where it waits; release a collective that all 32 have come to. False: nothing could run.
SIM_UNSEEN inline bool step_warp(int warp) {
  Fiber* fibers = block->fibers + warp * LANES;
  int n = block->count - warp * LANES;
  if (n > LANES) n = LANES;
  bool ran = false;
  Order order;
  arrange(order, n, block->schedule == RANDOM);
  for (int i = 0; i < n && !block->failed; i++) {
    int lane = order.at[i];
    if (!fibers[lane].done && fibers[lane].wait == NONE) resume(warp * LANES + lane), ran = true;
  }
  if (block->failed) return false;
  int at_block = 0, at_warp = 0, alike = 0;  // every lane that lives waits now
  Wait which = NONE;
  for (int i = 0; i < n; i++) {
    if (fibers[i].done) continue;
    Wait wait = fibers[i].wait;
    if (which == NONE && wait != BLOCK) which = wait;
    at_block += wait == BLOCK, at_warp += wait != BLOCK, alike += wait == which;
  }
  if (!at_warp) return ran;
  if (alike == LANES) {
    for (int i = 0; i < n; i++) fibers[i].wait = NONE;
    return true;
  }
  block->current = warp * LANES;
  note(at_block          ? "some lanes of a warp wait at barrier(), others in a warp collective"
       : alike < at_warp ? "the lanes of a warp wait in different collectives"
                         : "a warp collective without all 32 lanes: some have returned");
  return false;
}

// All threads of the block to their end. False on a fault.
SIM_UNSEEN inline bool run_threads() {
  Order order;
  arrange(order, block->warps, true);
  for (;;) {
    bool ran = false;
    if (block->schedule != GREEDY) arrange(order, block->warps, block->schedule == RANDOM);
    for (int i = 0; i < block->warps; i++) {
      while (step_warp(order.at[i])) {
        ran = true;
        if (block->schedule != GREEDY) break;
      }
      if (block->failed) return false;
    }
    if (ran) continue;
    int live = 0;  // of these each waits at barrier(): what else a lane can wait for, step_warp has settled
    for (int i = 0; i < block->count; i++) live += !block->fibers[i].done;
    if (!live) return true;
    if (live != block->count) {
      note("barrier() without all threads: some have returned");
      return false;
    }
    for (int i = 0; i < block->count; i++) block->fibers[i].wait = NONE;
  }
}

SIM_UNSEEN inline char* fresh(size_t bytes) {
  return (char*)mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
}
SIM_UNSEEN inline void fill(volatile unsigned char* p, size_t n) {
  for (size_t i = 0; i < n; i++) p[i] = 0xff;
}

// `shared` bytes of NaN, and behind them as a guard more, which nothing may touch.
SIM_UNSEEN inline bool run_block(char* stacks, size_t shared) {
  size_t size = shared + GUARD;
  unsigned char* memory = (unsigned char*)fresh(size);
  fill(memory, size);
#ifdef SIM_ASAN
  __asan_poison_memory_region(memory + shared, GUARD);
#endif
  block->shared = memory;
  for (int i = 0; i < block->count; i++) {
    Fiber& f = block->fibers[i];
    block->turn[i] = 0;
    f.stack = stacks + (block->number % 2 * THREADS + i) * STACK, f.done = false, f.wait = NONE, f.asan = nullptr;
    prepare(f.context, f.stack, trampoline);
#ifdef SIM_TSAN
    void*& kept = tsan_fibers[block->number % 2][i];
    f.tsan = kept = kept ? kept : __tsan_create_fiber(0);
#endif
  }
#ifdef SIM_TSAN
  __tsan_release(&block->started);
#endif
  bool good = run_threads();
  block->number++;
#ifdef SIM_ASAN
  __asan_unpoison_memory_region(memory + shared, GUARD);
#endif
  for (size_t i = shared; good && i < size; i++)
    if (memory[i] != 0xff) block->current = -1, note("written behind the shared memory that was asked for"), good = false;
  munmap(memory, size);
  return good;
}

// One launch. 0, or 1 with `error` saying what is wrong.
SIM_UNSEEN inline int launch(const unsigned* grid, unsigned threads, size_t shared, int schedule, u64 seed,
                             const std::function<void()>& body) {
  if (!threads || threads > THREADS) return snprintf(error, sizeof error, "%u threads a block", threads), 1;
  block->grid = {grid[0], grid[1], grid[2]}, block->threads = {threads, 1, 1};
  block->count = threads, block->warps = (threads + LANES - 1) / LANES, block->failed = false;
  block->schedule = (Schedule)schedule, block->random = seed * 0x9E3779B97F4A7C15ull | 1, block->body = &body;
  static char* stacks = fresh(2 * THREADS * STACK);  // kept: only what is touched takes memory
#ifdef SIM_TSAN
  block->tsan = __tsan_get_current_fiber();
#endif
  bool good = true;
  for (unsigned z = 0; z < grid[2] && good; z++)
    for (unsigned y = 0; y < grid[1] && good; y++)
      for (unsigned x = 0; x < grid[0] && good; x++) {
        block->index = {x, y, z};
        good = run_block(stacks, shared);
      }
#ifdef SIM_TSAN
  __tsan_acquire(&ended);
#endif
  return good ? 0 : 1;
}

}  // namespace sim
