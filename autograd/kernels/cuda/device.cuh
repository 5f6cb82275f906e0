// What kernels may use of CUDA: every line of PTX and every intrinsic stands here and nowhere else.
//
// tests/support/gpu/host_cuda/simt.h gives the same names on a CPU, so that the very same kernels run there thread by
// thread. A wrapper that is added here has to be added there. No CUDA header is needed: NVRTC has none to offer.
#pragma once
#ifndef SWINPY_HOST

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long i64;

#define KERNEL extern "C" __global__
#define ARCHITECTURE __CUDA_ARCH__  // 900 for sm_90
#define DEVICE __device__ __forceinline__
#define UNROLL _Pragma("unroll")
#define NO_UNROLL _Pragma("unroll 1")
// The block's dynamic shared memory, as bytes.
#define SHARED_MEMORY(name) extern __shared__ __align__(16) unsigned char name[]

// Storage types of 16 bits: they are read and written, never computed in.
struct f16 { u16 bits; };
struct bf16 { u16 bits; };

// ---- conversions, to nearest even

DEVICE float widen(float x) { return x; }
DEVICE float widen(f16 x) { float y; asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x.bits)); return y; }
DEVICE float widen(bf16 x) { return __uint_as_float((u32)x.bits << 16); }

template <class T> DEVICE T narrow(float x);
template <> DEVICE float narrow<float>(float x) { return x; }
template <> DEVICE f16 narrow<f16>(float x) { f16 y; asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y.bits) : "f"(x)); return y; }

// Two values in one register, `low` in bits 0 to 15.
template <class T> DEVICE u32 pack2(float low, float high);

#if __CUDA_ARCH__ >= 800
template <> DEVICE bf16 narrow<bf16>(float x) { bf16 y; asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y.bits) : "f"(x)); return y; }
template <> DEVICE u32 pack2<f16>(float low, float high) {
  u32 y; asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(high), "f"(low)); return y;
}
template <> DEVICE u32 pack2<bf16>(float low, float high) {
  u32 y; asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(high), "f"(low)); return y;
}
#else
template <> DEVICE u32 pack2<f16>(float low, float high) {
  return (u32)narrow<f16>(low).bits | ((u32)narrow<f16>(high).bits << 16);
}
#endif

// ---- arithmetic

// Sums of the two values of 16 bits that a register holds, each rounded once, to nearest even.
template <class T> DEVICE u32 add_pairs(u32 a, u32 b);
template <> DEVICE u32 add_pairs<f16>(u32 a, u32 b) { u32 y; asm("add.rn.f16x2 %0, %1, %2;" : "=r"(y) : "r"(a), "r"(b)); return y; }
#if __CUDA_ARCH__ >= 800
template <> DEVICE u32 add_pairs<bf16>(u32 a, u32 b) {  // a * 1 + b: sm_80 has no addition
  u32 y; asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(y) : "r"(a), "r"(0x3f803f80u), "r"(b)); return y;
}
#endif

DEVICE u32 bits_of(float x) { return __float_as_uint(x); }
DEVICE float float_of(u32 x) { return __uint_as_float(x); }
DEVICE u32 multiply_high(u32 a, u32 b) { return __umulhi(a, b); }
DEVICE float exp2_approx(float x) { float y; asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x)); return y; }
// Bytes of a (0 to 3) and b (4 to 7), chosen by the four hexadecimal digits of `selector`, lowest first.
DEVICE u32 permute_bytes(u32 a, u32 b, u32 selector) { return __byte_perm(a, b, selector); }

// ---- threads together: all threads of the block, or all 32 of the warp, must take part

DEVICE void barrier() { __syncthreads(); }
DEVICE void warp_barrier() { __syncwarp(); }
DEVICE float shuffle_xor(float x, int mask) { return __shfl_xor_sync(0xffffffffu, x, mask); }
DEVICE u32 shuffle_xor(u32 x, int mask) { return __shfl_xor_sync(0xffffffffu, x, mask); }
DEVICE float shuffle_from(float x, int lane) { return __shfl_sync(0xffffffffu, x, lane); }

// ---- memory: vectors of 8 and 16 bytes, aligned to their size

struct Words2 { u32 x, y; };
struct Words4 { u32 x, y, z, w; };
DEVICE Words2 load8(const void* p) { uint2 v = *(const uint2*)p; return {v.x, v.y}; }
DEVICE Words4 load16(const void* p) { uint4 v = *(const uint4*)p; return {v.x, v.y, v.z, v.w}; }
DEVICE void store8(void* p, Words2 v) { *(uint2*)p = make_uint2(v.x, v.y); }
DEVICE void store16(void* p, Words4 v) { *(uint4*)p = make_uint4(v.x, v.y, v.z, v.w); }

// ---- tensor cores (sm_80 and up)

// c += a b for a (16, 16), b (16, 8), c (16, 8) spread over the warp as PTX says of mma.m16n8k16: with lane = 4 g + t,
// c[0], c[1] are row g, columns 2t, 2t + 1, c[2], c[3] row g + 8; a0..a3 hold (row, column pair) (g, 2t), (g + 8, 2t),
// (g, 2t + 8), (g + 8, 2t + 8); b0, b1 hold rows 2t, 2t + 1 and 2t + 8, 2t + 9 of column g.
template <class T> DEVICE void mma_16x8x16(float* c, u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1);
#if __CUDA_ARCH__ >= 800
#define SWINPY_MMA(TYPE, NAME)                                                                                       \
  template <> DEVICE void mma_16x8x16<TYPE>(float* c, u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) {                \
    asm("mma.sync.aligned.m16n8k16.row.col.f32." NAME "." NAME                                                       \
        ".f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"                                                  \
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])                                                              \
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));                                                     \
  }
SWINPY_MMA(f16, "f16")
SWINPY_MMA(bf16, "bf16")
#undef SWINPY_MMA

// Four 8 x 8 matrices of 16-bit values from shared memory; lane l names row l % 8 of matrix l / 8, 16 bytes, aligned.
// Lane 4 g + t gets columns 2t, 2t + 1 of row g of each; transposed: rows 2t, 2t + 1 of column g.
DEVICE void load_matrices(u32* r, const void* row) {
  u32 address = (u32)__cvta_generic_to_shared(row);
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(address) : "memory");
}
DEVICE void load_matrices_transposed(u32* r, const void* row) {
  u32 address = (u32)__cvta_generic_to_shared(row);
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(address) : "memory");
}
#endif

#endif  // SWINPY_HOST
