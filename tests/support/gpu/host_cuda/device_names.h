// What a kernel sees: CUDA's keywords and indices, and the names of device.cuh.
#pragma once
#include <cmath>
#include <cstring>

#include "block.h"

#define SWINPY_HOST
#define KERNEL static
#define ARCHITECTURE 900
#define DEVICE inline
#define UNROLL
#define NO_UNROLL
#define SHARED_MEMORY(name) unsigned char* name = sim::block->shared
#define __launch_bounds__(...)

#define threadIdx (sim::thread_index())
#define blockIdx (sim::block_index())
#define blockDim (sim::block_size())
#define gridDim (sim::grid_size())

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
