// Types, what the sanitizers want to be told, and switching from one stack to another.
#pragma once
#include <sys/mman.h>
#include <ucontext.h>

#include <cstdint>
#include <cstdlib>

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

const size_t STACK = 96 * 1024;

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

}  // namespace sim
