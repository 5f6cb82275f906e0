// CUDA's execution model on a CPU, for tests: the names of autograd/kernels/cuda/device.cuh, one fiber a CUDA thread.
//
// A block runs at a time. Its threads are switched only where they wait for each other (barriers and warp collectives),
// in an order that the schedule chooses. Found and reported: barriers that not all threads reach, collectives of part
// of a warp, threads that wait for ever, vectors that are not aligned, writes behind shared memory; under ThreadSanitizer
// every race, as only barriers (of the block, or of a warp for its lanes) order threads there; under AddressSanitizer
// every access outside an array. Shared memory starts as NaN. Not seen: bank conflicts, coalescing, weak memory, flushed denormals, the order of sums inside an mma.
#pragma once
#include <sys/mman.h>
#include <ucontext.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>

#define SWINPY_HOST
#define KERNEL static
#define ARCHITECTURE 900
#define DEVICE inline
#define UNROLL
#define NO_UNROLL
#define SHARED_MEMORY(name) unsigned char* name = sim::block->shared
#define __launch_bounds__(...)

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef unsigned long long u64;
typedef long long i64;

#if defined(__SANITIZE_THREAD__)
#define SIM_TSAN
#define SIM_UNSEEN __attribute__((no_sanitize("thread"), noinline))
extern "C" {
void* __tsan_create_fiber(unsigned);
void __tsan_switch_to_fiber(void*, unsigned);
void* __tsan_get_current_fiber();
void __tsan_acquire(void*);
void __tsan_release(void*);
}
#else
#define SIM_UNSEEN
#endif
#if defined(__SANITIZE_ADDRESS__)
#define SIM_ASAN
extern "C" {
void __sanitizer_start_switch_fiber(void**, const void*, size_t);
void __sanitizer_finish_switch_fiber(void*, const void**, size_t*);
void __asan_poison_memory_region(const volatile void*, size_t);
void __asan_unpoison_memory_region(const volatile void*, size_t);
}
#endif

namespace sim {

enum Schedule { FORWARD, REVERSE, RANDOM, GREEDY };  // GREEDY: one warp runs as far as it can, then the next
enum Wait { NONE, BLOCK, WARP, SHUFFLE, MMA, MATRICES };  // for what a thread waits; from WARP on, for its whole warp
const size_t STACK = 96 * 1024, GUARD = 4096;
const int LANES = 32, THREADS = 1024, SLOTS = 12;

struct Index { unsigned x, y, z; };

// ---- switching stacks

#ifdef __x86_64__
struct Context { void* stack_pointer; };
extern "C" void swinpy_switch(void** from, void* to);  // swapcontext without its two system calls
asm(R"(
.text
.local swinpy_switch
.type swinpy_switch, @function
swinpy_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
)");
SIM_UNSEEN inline void switch_stack(Context& from, Context& to) {
  swinpy_switch(&from.stack_pointer, to.stack_pointer);
}
SIM_UNSEEN inline void prepare(Context& context, char* stack, void (*start)()) {
  void** top = (void**)(stack + STACK) - 2;  // as after a call: 16-byte aligned but for the return address
  *top = (void*)start;
  for (int i = 0; i < 6; i++) *--top = nullptr;
  context.stack_pointer = top;
}
#else
struct Context { ucontext_t of; };
inline void switch_stack(Context& from, Context& to) { swapcontext(&from.of, &to.of); }
inline void prepare(Context& context, char* stack, void (*start)()) {
  getcontext(&context.of);
  context.of.uc_stack.ss_sp = stack;
  context.of.uc_stack.ss_size = STACK;
  context.of.uc_link = nullptr;
  makecontext(&context.of, start, 0);
}
#endif

// ---- a block and its threads

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

// ---- the scheduler

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

#define threadIdx (sim::thread_index())
#define blockIdx (sim::block_index())
#define blockDim (sim::block_size())
#define gridDim (sim::grid_size())

// ---- device.cuh's names

struct f16 { u16 bits; };
struct bf16 { u16 bits; };

inline u32 bits_of(float x) { u32 y; memcpy(&y, &x, 4); return y; }
inline float float_of(u32 x) { float y; memcpy(&y, &x, 4); return y; }

inline float widen(float x) { return x; }
inline float widen(f16 x) { _Float16 y; memcpy(&y, &x, 2); return (float)y; }
inline float widen(bf16 x) { return float_of((u32)x.bits << 16); }

template <class T> inline T narrow(float x);
template <> inline float narrow<float>(float x) { return x; }
template <> inline f16 narrow<f16>(float x) { _Float16 y = (_Float16)x; f16 z; memcpy(&z, &y, 2); return z; }
template <> inline bf16 narrow<bf16>(float x) {
  u32 b = bits_of(x);
  if ((b & 0x7fffffff) > 0x7f800000) return {0x7fff};
  return {(u16)((b + 0x7fff + ((b >> 16) & 1)) >> 16)};
}
template <class T> inline u32 pack2(float low, float high) {
  return (u32)narrow<T>(low).bits | ((u32)narrow<T>(high).bits << 16);
}

template <class T> inline u32 add_pairs(u32 a, u32 b) {
  return pack2<T>(widen(T{(u16)a}) + widen(T{(u16)b}), widen(T{(u16)(a >> 16)}) + widen(T{(u16)(b >> 16)}));
}

inline u32 multiply_high(u32 a, u32 b) { return (u32)(((u64)a * b) >> 32); }
inline float exp2_approx(float x) { return exp2f(x); }
inline float rsqrtf(float x) { return 1 / sqrtf(x); }
inline u32 permute_bytes(u32 a, u32 b, u32 selector) {
  u64 both = a | (u64)b << 32;
  u32 y = 0;
  for (int i = 0; i < 4; i++) y |= (u32)(both >> 8 * (selector >> 4 * i & 7) & 0xff) << 8 * i;
  return y;
}

inline void barrier() { sim::wait_for(sim::BLOCK, &sim::block->synchronised); }
inline void warp_barrier() { sim::wait_for(sim::WARP, &sim::block->warp_synchronised[sim::block->current / sim::LANES]); }
inline u32 shuffle_xor(u32 x, int mask) {
  sim::put(0, x);
  sim::exchange(sim::SHUFFLE);
  return sim::take(0, sim::lane() ^ mask);
}
inline float shuffle_xor(float x, int mask) { return float_of(shuffle_xor(bits_of(x), mask)); }
inline float shuffle_from(float x, int lane) {
  sim::put(0, bits_of(x));
  sim::exchange(sim::SHUFFLE);
  return float_of(sim::take(0, lane % sim::LANES));
}

struct Words2 { u32 x, y; };
struct Words4 { u32 x, y, z, w; };
inline Words2 load8(const void* p) { sim::check_aligned(p, 8); return *(const Words2*)p; }
inline Words4 load16(const void* p) { sim::check_aligned(p, 16); return *(const Words4*)p; }
inline void store8(void* p, Words2 v) { sim::check_aligned(p, 8); *(Words2*)p = v; }
inline void store16(void* p, Words4 v) { sim::check_aligned(p, 16); *(Words4*)p = v; }

template <class T> inline void mma_16x8x16(float* c, u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) {
  const u32 mine[6] = {a0, a1, a2, a3, b0, b1};
  for (int i = 0; i < 12; i++) sim::put(i, bits_of(widen(T{(u16)(mine[i / 2] >> i % 2 * 16)})));
  sim::exchange(sim::MMA);
  int group = sim::lane() / 4, pair = sim::lane() % 4;
  for (int i = 0; i < 4; i++) {
    int lower = i / 2, column = 2 * pair + i % 2;  // in rows `group` or `group + 8`
    float sum = 0;
    for (int k = 0; k < 16; k++) {
      int from = k % 8 / 2;
      u32 a = sim::take(2 * (lower + 2 * (k / 8)) + k % 2, group * 4 + from);
      u32 b = sim::take(2 * (4 + k / 8) + k % 2, column * 4 + from);
      sum += float_of(a) * float_of(b);
    }
    c[i] += sum;
  }
}

inline void load_matrices(u32* r, const void* row, bool transposed = false) {
  sim::check_aligned(row, 16);
  sim::put(0, (u32)(u64)row);
  sim::put(1, (u32)((u64)row >> 32));
  sim::exchange(sim::MATRICES);
  int group = sim::lane() / 4, pair = sim::lane() % 4;
  for (int m = 0; m < 4; m++) {
    auto at = [&](int i) { return (const u16*)((u64)sim::take(1, m * 8 + i) << 32 | sim::take(0, m * 8 + i)); };
    r[m] = transposed ? at(2 * pair)[group] | (u32)at(2 * pair + 1)[group] << 16
                      : at(group)[2 * pair] | (u32)at(group)[2 * pair + 1] << 16;
  }
}
inline void load_matrices_transposed(u32* r, const void* row) { load_matrices(r, row, true); }
