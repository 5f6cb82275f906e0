// Window attention forward for windows of up to 64 tokens and 32 channels a head, from the qkv map to the output map.
//
// One warp takes one head of one window and needs no shared memory and no barrier: it loads all keys and values into
// registers, as the tensor cores want them, then goes over the queries 16 at a time. Each row is read once.
//
// Compiled with T, TOKENS and COSINE. Source: Liu et al. 2021 (Swin), equation 4; Liu et al. 2022 (Swin V2), equation 2.
#include "tiles.cuh"
#include "small.cuh"

// Values of 16 keys: v[2 j], v[2 j + 1] are the right side of a product for tile j of output columns. Column g of tile j
// stands for value 4g + j, so that a lane loads the 8 bytes 4g to 4g + 3 of the keys 2t, 2t + 1, 2t + 8 and 2t + 9.
struct ValueTile {
  u32 v[8];

  DEVICE void set(Words2 a, Words2 b, Words2 c, Words2 d) {
    v[0] = permute_bytes(a.x, b.x, 0x5410), v[1] = permute_bytes(c.x, d.x, 0x5410);
    v[2] = permute_bytes(a.x, b.x, 0x7632), v[3] = permute_bytes(c.x, d.x, 0x7632);
    v[4] = permute_bytes(a.y, b.y, 0x5410), v[5] = permute_bytes(c.y, d.y, 0x5410);
    v[6] = permute_bytes(a.y, b.y, 0x7632), v[7] = permute_bytes(c.y, d.y, 0x7632);
  }
};
const int VALUE_TILES = (KEY_TILES + 1) / 2;

DEVICE void load_value_tiles(ValueTile* tiles, const T* values, const T* bias, const Window& window, int row, int column) {
  int g = lane_id() >> 2, t = lane_id() & 3;
  Words2 shift = {0, 0};
  if (bias) shift = load8(bias + column + 4 * g);
  UNROLL for (int k = 0; k < VALUE_TILES; k++) {
    Words2 r[4];
    UNROLL for (int i = 0; i < 4; i++) {
      i64 pixel = window.pixel(token_or_last(k * 16 + 2 * t + i % 2 + i / 2 * 8));
      r[i] = {0, 0};
      if (pixel >= 0) r[i] = load8(values + pixel * row + column + 4 * g);
      r[i] = {add_pairs<T>(r[i].x, shift.x), add_pairs<T>(r[i].y, shift.y)};
    }
    tiles[k].set(r[0], r[1], r[2], r[3]);
  }
}

// The lane's 8 values of row g or g + 8 of the output, 8t to 8t + 7: column 2t + e of tile j is value 4 (2t + e) + j.
DEVICE void store_output(T* out, const float (*o)[4], int half, float factor) {
  float v[8];
  UNROLL for (int i = 0; i < 8; i++) v[i] = o[i % 4][2 * half + i / 4] * factor;
  store16(out, pack(v));
}

#if COSINE
// Scores of key tile n times the rest of the keys' lengths. Lane (g, t) keeps those of key g of the tiles t and t + 4.
DEVICE void scale_columns(float* s, const float* rests, int n) {
  int t = lane_id() & 3;
  UNROLL for (int e = 0; e < 2; e++) {
    float rest = shuffle_from(rests[n / 4], 4 * (2 * t + e) + n % 4);
    s[e] *= rest, s[2 + e] *= rest;
  }
}
#endif

// Blocks on a multiprocessor: 4 leave 128 registers a thread, which sm_90 makes do with, but for the lengths of more than 49
// keys. Elsewhere a few would go to local memory.
const int BLOCKS = ARCHITECTURE == 900 && !(COSINE && TOKENS > 49) ? 4 : 3;

KERNEL void __launch_bounds__(128, BLOCKS) window_attention_small_fwd(
    const T* __restrict__ qkv, const T* __restrict__ qkv_bias, const float* __restrict__ bias,
    const T* __restrict__ logit_scale, T* __restrict__ out, const int* __restrict__ table, int pixels, int channels,
    int heads, int windows, int down, int across, float scale, float mask_value, u64 seam_rows, u64 seam_columns) {
  int pair = blockIdx.x * (blockDim.x / 32) + warp_id();
  if (pair >= windows * heads) return;  // the whole warp
  int index = pair / heads, head = pair - index * heads;
  Window window = window_at(index, table, pixels, down, across, TOKENS);
  int g = lane_id() >> 2, t = lane_id() & 3, row = 3 * channels, column = head * HEAD_DIM + 8 * t;

  u32 keys[KEY_TILES][4];
#if COSINE
  float rests[2] = {1, 1};
#endif
  Words4 key_bias = load_bias(qkv_bias, channels + column);
  UNROLL for (int n = 0; n < KEY_TILES; n++) {
    Words4 k = add_bias(load_values(qkv, window.pixel(token_or_last(n * 8 + g)), row, channels + column), key_bias);
#if COSINE
    float rest = normalize(k).rest;
    if (n % 4 == t) rests[n / 4] = rest;
#endif
    keys[n][0] = k.x, keys[n][1] = k.y, keys[n][2] = k.z, keys[n][3] = k.w;
  }
  ValueTile values[VALUE_TILES];
  load_value_tiles(values, qkv, qkv_bias, window, row, 2 * channels + head * HEAD_DIM);
#if COSINE
  scale = score_scale(logit_scale, head);
#endif
  scale *= LOG2E;

  NO_UNROLL for (int m = 0; m < QUERY_TILES; m++) {
    Words4 q[2];
    float factor[2] = {scale, scale};
    UNROLL for (int half = 0; half < 2; half++) {
      i64 pixel = window.pixel(token_or_last(m * 16 + g + 8 * half));
      q[half] = add_bias(load_values(qkv, pixel, row, column), load_bias(qkv_bias, column));
#if COSINE
      factor[half] *= normalize(q[half]).rest;
#endif
    }
    Rows16 queries;
    queries.set(q[0], q[1]);
    float s[2 * VALUE_TILES][4], sums[2], o[4][4];
    clear<2 * VALUE_TILES>(s);
    UNROLL for (int n = 0; n < KEY_TILES; n++) {
      multiply_8(s[n], queries, keys[n]);
#if COSINE
      scale_columns(s[n], rests, n);
#endif
    }
    scale_scores(s, factor, bias ? bias + ((head * QUERY_TILES + m) * 32 + lane_id()) * FRAGMENT : nullptr);
    mask_scores(s, m * 16, window, {seam_rows, seam_columns}, mask_value * LOG2E);
    exponentials(s, sums);
    clear<4>(o);
    UNROLL for (int k = 0; k < VALUE_TILES; k++) {
      u32 w[4];
      as_weights(w, s[2 * k], s[2 * k + 1]);
      UNROLL for (int j = 0; j < 4; j++) mma_16x8x16<T>(o[j], w[0], w[1], w[2], w[3], values[k].v[2 * j], values[k].v[2 * j + 1]);
    }
    UNROLL for (int half = 0; half < 2; half++) {
      int i = m * 16 + g + 8 * half;
      i64 pixel = i < TOKENS ? window.pixel(i) : -1;
      if (pixel >= 0) store_output(out + pixel * channels + column, o, half, 1 / sums[half]);
    }
  }
}
