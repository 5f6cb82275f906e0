// Window attention forward for windows of more than 64 tokens and 32 channels a head, from the qkv map to the output map.
//
// A block of 4 warps takes one head of one window, with its keys and values in shared memory. A warp takes 16 queries at
// a time and goes over the keys in chunks; the softmax is carried along: where a chunk raises a row's largest score, the
// sums so far shrink (Milakov and Gimelshein 2018).
//
// Compiled with T, CHUNK, EVEN and COSINE. Source: Liu et al. 2021 (Swin), equation 4; Liu et al. 2022 (V2), equation 2.
#include "tiles.cuh"
#include "large.cuh"

KERNEL void __launch_bounds__(128, 4) window_attention_large_fwd(
    const T* __restrict__ qkv, const T* __restrict__ qkv_bias, const T* __restrict__ bias,
    const T* __restrict__ logit_scale, T* __restrict__ out, const int* __restrict__ table,
    const u8* __restrict__ regions, int pixels, int channels, int heads, int down, int across, int tokens, float scale,
    float mask_value) {
  SHARED_MEMORY(memory);
  Staged staged = {memory, ceil_div(tokens, CHUNK) * CHUNK};
  int index = blockIdx.x / heads, head = blockIdx.x - index * heads;
  Window window = window_at(index, table, pixels, down, across, tokens);
  int row = 3 * channels, column = head * HEAD_DIM + 8 * (threadIdx.x % 4);
  bool masked = regions && (window.last_row || window.last_column);

  stage_rows<COSINE>(staged, 0, qkv, row, channels + column, load_bias(qkv_bias, channels + column), window, tokens);
  stage_rows<false>(staged, 1, qkv, row, 2 * channels + column, load_bias(qkv_bias, 2 * channels + column), window, tokens);
  if (masked) stage_regions(staged, regions + (window.table - table), tokens);
  barrier();

  Scoring how = {bias ? bias + (i64)head * tokens * tokens : nullptr, mask_value * LOG2E, masked, tokens};
#if COSINE
  scale = score_scale(logit_scale, head);
#endif
  NO_UNROLL for (int first = warp_id() * 16; first < tokens; first += WARPS * 16) {
    Tile16 queries;
    queries.load(qkv, row, column, load_bias(qkv_bias, column), window, first, tokens);
    float factor[2] = {scale * LOG2E, scale * LOG2E};
#if COSINE
    queries.to_unit();
    UNROLL for (int half = 0; half < 2; half++) factor[half] *= queries.length[half].rest;
#endif
    float o[4][4], top[2] = {LOWEST, LOWEST}, sums[2] = {0, 0}, shrink[2];
    clear<4>(o);
    NO_UNROLL for (int key = 0; key < staged.padded; key += CHUNK) {
      float s[TILES][4];
      chunk_scores(s, queries, factor, staged, key, how);
      raise_top(top, shrink, s);
      UNROLL for (int half = 0; half < 2; half++) sums[half] *= shrink[half];
      UNROLL for (int j = 0; j < 4; j++)
        UNROLL for (int e = 0; e < 4; e++) o[j][e] *= shrink[e / 2];
      UNROLL for (int n = 0; n < TILES; n++)
        UNROLL for (int e = 0; e < 4; e++) s[n][e] = exp2_approx(s[n][e] - top[e / 2]), sums[e / 2] += s[n][e];
      UNROLL for (int k = 0; k < TILES / 2; k++) {
        u32 w[4];
        as_weights(w, s[2 * k], s[2 * k + 1]);
        add_weighted_rows(o, w, staged.rows(1), key + k * 16);
      }
    }
    UNROLL for (int half = 0; half < 2; half++) {
      float v[8];
      take_row(v, o, half, 1 / sum_over_lanes<4>(sums[half]));
      i64 pixel = queries.token[half] < tokens ? window.pixel(queries.token[half]) : -1;
      if (pixel >= 0) store16(out + pixel * channels + column, pack(v));
    }
  }
}
