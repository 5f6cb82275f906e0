// Dropout and DropPath without a mask in memory: whether an element is kept is a function of (seed, offset, its index),
// with the same bits as autograd/random.py. T is the storage type, N the values that a thread of drop_together takes.
//
// A word of the generator keeps its element if its upper 24 bits are at least `threshold`; what is kept is multiplied by
// `scale`. Source: Salmon et al. 2011 (Philox4x32-10); Srivastava et al. 2014; Huang et al. 2016.

const int ROUNDS = 10;

// The four words of counter `counter` of stream 0.
DEVICE void philox(u64 seed, u64 counter, u32* c) {
  u32 key0 = (u32)seed, key1 = (u32)(seed >> 32);
  c[0] = (u32)counter, c[1] = (u32)(counter >> 32), c[2] = 0, c[3] = 0;
  UNROLL for (int round = 0; round < ROUNDS; round++) {
    u32 high0 = multiply_high(0xD2511F53u, c[0]), low0 = 0xD2511F53u * c[0];
    u32 high1 = multiply_high(0xCD9E8D57u, c[2]), low1 = 0xCD9E8D57u * c[2];
    c[0] = high1 ^ c[1] ^ key0, c[1] = low1;
    c[2] = high0 ^ c[3] ^ key1, c[3] = low0;
    key0 += 0x9E3779B9u, key1 += 0xBB67AE85u;
  }
}

// The scale of element `index` alone.
DEVICE float scale_of(u64 seed, u64 offset, u64 index, u32 threshold, float scale) {
  u32 words[4];
  philox(seed, offset + index / 4, words);
  u32 word = index % 4 < 2 ? (index % 2 ? words[1] : words[0]) : (index % 2 ? words[3] : words[2]);
  return (word >> 8) >= threshold ? scale : 0.0f;
}

// Each element for itself.
KERNEL void __launch_bounds__(256) dropout(const T* __restrict__ x, T* __restrict__ y, i64 size, u64 seed, u64 offset, u32 threshold, float scale) {
  const int WIDE = 16 / sizeof(T);  // a multiple of the generator's four words
  i64 first = ((i64)blockIdx.x * blockDim.x + threadIdx.x) * WIDE;
  if (first + WIDE <= size) {
    Values<T, WIDE> v;
    v.load(x + first);
    UNROLL for (int i = 0; i < WIDE; i += 4) {
      u32 words[4];
      philox(seed, offset + (first + i) / 4, words);
      UNROLL for (int j = 0; j < 4; j++) v.v[i + j] *= (words[j] >> 8) >= threshold ? scale : 0.0f;
    }
    v.store(y + first);
  } else {
    for (i64 i = first; i < size; i++) y[i] = narrow<T>(widen(x[i]) * scale_of(seed, offset, i, threshold, scale));
  }
}

// `together` neighbours share a fate; N divides it, or is 1.
KERNEL void __launch_bounds__(256) drop_together(const T* __restrict__ x, T* __restrict__ y, i64 size, i64 together, u64 seed, u64 offset,
                          u32 threshold, float scale) {
  i64 first = ((i64)blockIdx.x * blockDim.x + threadIdx.x) * N;
  if (first >= size) return;
  float kept = scale_of(seed, offset, first / together, threshold, scale);
  Values<T, N> v;
  v.load(x + first);
  UNROLL for (int i = 0; i < N; i++) v.v[i] *= kept;
  v.store(y + first);
}

// The scales themselves.
KERNEL void __launch_bounds__(256) keep_scale(T* __restrict__ y, int count, u64 seed, u64 offset, u32 threshold, float scale) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < count) y[i] = narrow<T>(scale_of(seed, offset, i, threshold, scale));
}
