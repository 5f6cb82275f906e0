// Window attention on CUDA cores, backward, for windows of several tiles: a kernel for the queries, which also finds
// maximum, sum and mean of each row of scores, then one for the keys. Macros: see general.cuh.
#include "general_bwd.cuh"

DEVICE void store_probabilities(float* tile, const Scores& scores, const float* top, const float* inverse) {
  UNROLL for (int i = 0; i < R; i++)
    UNROLL for (int j = 0; j < R; j++)
      own_score(tile, i, j) = exp2_approx((scores[i][j] - top[i]) * LOG2_E) * inverse[i];
}

// dq, and `softmax` (count, heads, tokens, 3) for the keys. Grid: (heads * TILES, slots).
KERNEL void __launch_bounds__(64)
window_attention_general_bwd_queries(const T* __restrict__ g, const T* __restrict__ qkv, const T* __restrict__ bias,
                                     const T* __restrict__ qkv_bias, const T* __restrict__ logit_scale,
                                     const int* __restrict__ pixels, const signed char* __restrict__ regions,
                                     T* __restrict__ gqkv, float* __restrict__ softmax,
                                     float* __restrict__ qkv_bias_parts, float* __restrict__ logit_parts, int count,
                                     int heads, int windows, int tokens, int image_pixels, float scale,
                                     float mask_value) {
  SHARED_MEMORY(memory);
  Tiles at(memory);
  int head = blockIdx.x / TILES, tile = blockIdx.x % TILES, query = tile * TILE, slot = blockIdx.y * TILES + tile;
  Maps maps = {qkv, g, qkv_bias, score_scale(logit_scale, scale, head)};
  Sums sums;

  NO_UNROLL for (int number = blockIdx.y; number < count; number += gridDim.y) {
    Window window = window_at(number, head, heads, windows, tokens, image_pixels, pixels, regions);
    float top[R], total[R] = {}, mean[R] = {};  // total becomes its inverse
    UNROLL for (int r = 0; r < R; r++) top[r] = LOWEST;
    Rows rows = {};
    maps.load_queries(at, query, window);
    // Over the keys twice: maximum, sum and mean first, then the gradient.
    NO_UNROLL for (int step = 0; step < 2 * TILES; step++) {
      int key = step % TILES * TILE;
      Scores p, d = {};
      load_bias(p, bias, query, key, window);
      maps.load_keys(at, key, window);
      barrier();
      add_row_products(p, at.q, at.k);
      add_mask(p, query, key, mask_value, window);
      if (step < TILES) {
        float shrink[R], sum[R];
        exponentials(p, top, shrink, sum);
        store_scores(at.scores, p);
        add_row_products(d, at.g, at.v);
        UNROLL for (int r = 0; r < R; r++) {
          total[r] = total[r] * shrink[r] + sum[r];
          mean[r] = mean[r] * shrink[r] + row_sum(at.scores, d, r);
        }
      } else {
        // The first time here: the sums are complete.
        if (key == 0) UNROLL for (int r = 0; r < R; r++) total[r] = 1 / total[r], mean[r] *= total[r];
        store_probabilities(at.scores, p, top, total);
        add_row_products(d, at.g, at.v);
        UNROLL for (int r = 0; r < R; r++) to_scores_gradient(d, at.scores, r, mean[r]);
        store_scores(at.scores, d);
        barrier();
        add_product(rows, at.scores, at.k);
      }
      barrier();  // k, v and the scores have been read
    }
    UNROLL for (int r = 0; r < R; r++) {
      int token = query + 8 * r + group();
      if (lane() || token >= tokens) continue;
      float* to = softmax + (((i64)number * heads + head) * tokens + token) * 3;
      to[0] = top[r], to[1] = total[r], to[2] = mean[r];
    }
    finish_queries(rows, at, maps.factor, query, gqkv, window, sums);
    barrier();
  }
  store_sum(at.q, sums.q, slot_of(qkv_bias_parts, slot, 0, head, heads));
  if (COSINE) store_logit(at.q, sums.logit, logit_scale, head, logit_parts + (i64)slot * heads + head);
}

// dk, dv and the gradient of the bias. Grid: (heads * TILES, slots).
KERNEL void __launch_bounds__(64)
window_attention_general_bwd_keys(const T* __restrict__ g, const T* __restrict__ qkv, const T* __restrict__ bias,
                                  const T* __restrict__ qkv_bias, const T* __restrict__ logit_scale,
                                  const int* __restrict__ pixels, const signed char* __restrict__ regions,
                                  T* __restrict__ gqkv, const float* __restrict__ softmax,
                                  float* __restrict__ bias_parts, float* __restrict__ qkv_bias_parts, int count,
                                  int heads, int windows, int tokens, int image_pixels, float scale, float mask_value) {
  SHARED_MEMORY(memory);
  Tiles at(memory);
  int head = blockIdx.x / TILES, tile = blockIdx.x % TILES, key = tile * TILE, slot = blockIdx.y * TILES + tile;
  Maps maps = {qkv, g, qkv_bias, score_scale(logit_scale, scale, head)};
  Sums sums;
  float* bias_part = bias_parts + ((i64)blockIdx.y * heads + head) * tokens * tokens;

  NO_UNROLL for (int number = blockIdx.y; number < count; number += gridDim.y) {
    Window window = window_at(number, head, heads, windows, tokens, image_pixels, pixels, regions);
    const float* rows_softmax = softmax + ((i64)number * heads + head) * tokens * 3;
    Rows keys = {}, values = {};
    maps.load_keys(at, key, window);
    NO_UNROLL for (int query = 0; query < TILES * TILE; query += TILE) {
      Scores p, d = {};
      load_bias(p, bias, query, key, window);
      maps.load_queries(at, query, window);
      barrier();
      add_row_products(p, at.q, at.k);
      add_mask(p, query, key, mask_value, window);
      float top[R], inverse[R], mean[R];
      UNROLL for (int r = 0; r < R; r++) {
        int token = query + 8 * r + group();
        bool inside = token < tokens;
        const float* of = rows_softmax + (inside ? token : 0) * 3;
        top[r] = inside ? of[0] : -LOWEST, inverse[r] = of[1], mean[r] = of[2];  // P of tile padding is 0
      }
      store_probabilities(at.scores, p, top, inverse);
      add_row_products(d, at.g, at.v);
      UNROLL for (int r = 0; r < R; r++) to_scores_gradient(d, at.scores, r, mean[r]);
      if (bias_parts) {
        UNROLL for (int i = 0; i < R; i++)
          UNROLL for (int j = 0; j < R; j++) {
            int row = query + 8 * i + group(), column = key + 8 * j + lane();
            if (row >= tokens || column >= tokens) continue;
            float* to = bias_part + (i64)row * tokens + column;
            *to = number == blockIdx.y ? d[i][j] : *to + d[i][j];
          }
      }
      barrier();
      add_transposed_product(values, at.scores, at.g);
      barrier();
      store_scores(at.scores, d);
      barrier();
      add_transposed_product(keys, at.scores, at.q);
      barrier();  // q, g and the scores have been read
    }
    finish_keys(keys, at, key, gqkv, window, sums);
    finish_values(values, key, gqkv, window, sums);
    barrier();
  }
  store_sum(at.q, sums.k, slot_of(qkv_bias_parts, slot, 1, head, heads));
  store_sum(at.q, sums.v, slot_of(qkv_bias_parts, slot, 2, head, heads));
}
