// Window attention on CUDA cores, forward: softmax(q k^T + bias + mask) v within each window, from map to map.
//
// A block takes one tile of queries of one (window, head) and goes over the tiles of keys, keeping maximum and sum of
// each row (Milakov & Gimelshein 2018): windows up to 8 x 8 are one tile and one step. Macros: see the header.
#include "general.cuh"

// Shared memory, in floats: q, k, the scores, v. The scores of a single tile take the place of q and k.
const int SCORES_AT = TILES == 1 ? 0 : 2 * TILE * ROW;
const int BEFORE_V = SCORES_AT + TILE * SCORE_ROW;
const int V_AT = BEFORE_V > 2 * TILE * ROW ? BEFORE_V : 2 * TILE * ROW;

// Grid: (B * windows * heads * TILES). qkv (B, H, W, 3 heads HEAD); bias (heads, tokens, tokens); qkv_bias
// (3 heads HEAD); pixels and regions (windows, tokens); out (B, H, W, heads HEAD). All but qkv, pixels, out may be null.
KERNEL void __launch_bounds__(64)
window_attention_general_fwd(const T* __restrict__ qkv, const T* __restrict__ bias, const T* __restrict__ qkv_bias,
                             const T* __restrict__ logit_scale, const int* __restrict__ pixels,
                             const signed char* __restrict__ regions, T* __restrict__ out, int heads, int windows,
                             int tokens, int image_pixels, float scale, float mask_value) {
  SHARED_MEMORY(memory);
  float *q = (float*)memory, *k = q + TILE * ROW, *p = q + SCORES_AT, *v = q + V_AT;
  float* inverse = v + TILE * ROW;
  int pair = blockIdx.x / TILES, query = blockIdx.x % TILES * TILE;
  Window window = window_at(pair / heads, pair % heads, heads, windows, tokens, image_pixels, pixels, regions);
  float factor = score_scale(logit_scale, scale, window.head);

  load_rows(q, qkv, qkv_bias, 3, 0, query, COSINE ? 1 : factor, window);
  if (COSINE) {
    barrier();
    normalize_rows(q, inverse, factor);
  }
  Rows rows = {};
  float top[R], total[R] = {};
  UNROLL for (int r = 0; r < R; r++) top[r] = LOWEST;

  NO_UNROLL for (int key = 0; key < TILES * TILE; key += TILE) {
    Scores scores;
    load_bias(scores, bias, query, key, window);
    load_rows(k, qkv, qkv_bias, 3, 1, key, 1, window);
    load_rows(v, qkv, qkv_bias, 3, 2, key, 1, window);
    barrier();
    if (COSINE) {
      normalize_rows(k, inverse, 1);
      barrier();
    }
    add_row_products(scores, q, k);
    add_mask(scores, query, key, mask_value, window);
    float shrink[R], sum[R];
    exponentials(scores, top, shrink, sum);
    if (TILES == 1) barrier();  // q and k have been read
    store_scores(p, scores);
    UNROLL for (int r = 0; r < R; r++) {
      total[r] = total[r] * shrink[r] + sum[r];
      UNROLL for (int i = 0; i < MINE; i++) rows[r][i] *= shrink[r];
    }
    barrier();
    add_product(rows, p, v);
    if (TILES > 1) barrier();  // k, v and the scores have been read
  }
  UNROLL for (int r = 0; r < R; r++) {
    float inverse_total = 1 / total[r];
    UNROLL for (int i = 0; i < MINE; i++) rows[r][i] *= inverse_total;
  }
  store_rows(out, 1, 0, query, rows, window);
}
