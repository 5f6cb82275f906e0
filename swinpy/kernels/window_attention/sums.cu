// The small kernels around window attention's large ones: the bias laid out for the tensor cores, the logit scale's gradient.
// Compiled with T.

// (heads, N, N) to what each lane needs, float32 in units of log2: (heads, query tiles, 32 lanes, key tiles, 4), zeros for
// tile padding.
KERNEL void __launch_bounds__(256) pack_bias(const T* __restrict__ bias, float* __restrict__ packed, int heads, int tokens) {
  int key_tiles = ceil_div(tokens, 8), query_tiles = ceil_div(tokens, 16);
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= heads * query_tiles * 32 * key_tiles * 4) return;
  int e = i % 4, n = i / 4 % key_tiles, lane = i / 4 / key_tiles % 32, tile = i / 4 / key_tiles / 32;
  int head = tile / query_tiles, query = tile % query_tiles * 16 + lane / 4 + e / 2 * 8, key = n * 8 + lane % 4 * 2 + e % 2;
  bool inside = query < tokens && key < tokens;
  packed[i] = inside ? widen(bias[((i64)head * tokens + query) * tokens + key]) * 1.4426950408889634f : 0.0f;
}

// d logit_scale = tau dtau, and 0 where the clamp at ln 100 holds; parts (count, heads) sum to dtau.
KERNEL void __launch_bounds__(128) logit_scale_bwd(const float* __restrict__ parts, const T* __restrict__ logit_scale,
                                                   T* __restrict__ grad, int count, int heads) {
  int head = blockIdx.x * blockDim.x + threadIdx.x;
  if (head >= heads) return;
  float x = widen(logit_scale[head]), sum = 0;
  for (int part = 0; part < count; part++) sum += parts[(i64)part * heads + head];
  grad[head] = narrow<T>(x > 4.605170185988092f ? 0.0f : sum * expf(x));
}
