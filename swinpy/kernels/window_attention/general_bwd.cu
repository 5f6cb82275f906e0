// Window attention on CUDA cores, backward, for windows of one tile (TILES is 1). Macros: see general.cuh.
#include "general_bwd.cuh"

// Grid: (heads, slots).
KERNEL void __launch_bounds__(64)
window_attention_general_bwd(const T* __restrict__ g, const T* __restrict__ qkv, const T* __restrict__ bias,
                             const T* __restrict__ qkv_bias, const T* __restrict__ logit_scale,
                             const int* __restrict__ pixels, const signed char* __restrict__ regions,
                             T* __restrict__ gqkv, float* __restrict__ bias_parts, float* __restrict__ qkv_bias_parts,
                             float* __restrict__ logit_parts, int count, int heads, int windows, int tokens,
                             int image_pixels, float scale, float mask_value) {
  SHARED_MEMORY(memory);
  Tiles at(memory);
  int head = blockIdx.x, slot = blockIdx.y;
  Maps maps = {qkv, g, qkv_bias, score_scale(logit_scale, scale, head)};
  Sums sums;
  Scores bias_sum = {};

  NO_UNROLL for (int number = slot; number < count; number += gridDim.y) {
    Window window = window_at(number, head, heads, windows, tokens, image_pixels, pixels, regions);
    Scores p;
    load_bias(p, bias, 0, 0, window);
    maps.load_queries(at, 0, window);
    maps.load_keys(at, 0, window);
    barrier();
    add_row_products(p, at.q, at.k);
    add_mask(p, 0, 0, mask_value, window);
    float top[R], shrink[R], total[R];
    UNROLL for (int r = 0; r < R; r++) top[r] = LOWEST;
    exponentials(p, top, shrink, total);
    UNROLL for (int i = 0; i < R; i++) {
      float inverse_total = 1 / total[i];
      UNROLL for (int j = 0; j < R; j++) own_score(at.scores, i, j) = p[i][j] * inverse_total;
    }
    Scores d = {};
    add_row_products(d, at.g, at.v);
    UNROLL for (int i = 0; i < R; i++) {
      to_scores_gradient(d, at.scores, i, row_sum(at.scores, d, i));
      UNROLL for (int j = 0; j < R; j++) bias_sum[i][j] += d[i][j];
    }
    barrier();

    Rows values = {};
    add_transposed_product(values, at.scores, at.g);
    finish_values(values, 0, gqkv, window, sums);
    barrier();
    store_scores(at.scores, d);
    barrier();
    Rows keys = {};
    add_transposed_product(keys, at.scores, at.q);
    finish_keys(keys, at, 0, gqkv, window, sums);
    Rows queries = {};
    add_product(queries, at.scores, at.k);
    finish_queries(queries, at, maps.factor, 0, gqkv, window, sums);
    barrier();
  }

  if (bias_parts) {
    UNROLL for (int i = 0; i < R; i++)
      UNROLL for (int j = 0; j < R; j++)
        if (int row = 8 * i + group(), column = 8 * j + lane(); row < tokens && column < tokens)
          bias_parts[(((i64)slot * heads + head) * tokens + row) * tokens + column] = bias_sum[i][j];
  }
  store_sum(at.q, sums.q, slot_of(qkv_bias_parts, slot, 0, head, heads));
  store_sum(at.q, sums.k, slot_of(qkv_bias_parts, slot, 1, head, heads));
  store_sum(at.q, sums.v, slot_of(qkv_bias_parts, slot, 2, head, heads));
  if (COSINE) store_logit(at.q, sums.logit, logit_scale, head, logit_parts + (i64)slot * heads + head);
}
