// Window attention on CUDA cores, backward. Probabilities are computed again; nothing was saved.
//
// With P = softmax(S), S = q k^T + bias + mask and dP = dO v^T: dV = P^T dO, dS = P (dP - rowsum(P dP)), dq = dS k,
// dk = dS^T q, and dS is the gradient of the bias. A window of one tile is done in one kernel. Larger ones take two: of
// queries (which finds maximum, sum and mean of each row, then dq), and of keys (dk, dv, bias).
//
// A block has one head and one tile and loops over windows, so that what windows share (gradients of the biases and the
// logit scale) is one partial sum a block; sum_parts adds them up in order. Macros: see the header.
#include "window_attention_general.cuh"

// Shared memory, in floats.
struct Tiles {
  float *q, *k, *v, *g, *scores, *inverse_q, *inverse_k;
  DEVICE Tiles(void* memory) {
    q = (float*)memory, k = q + TILE * ROW, v = k + TILE * ROW, g = v + TILE * ROW, scores = g + TILE * ROW;
    inverse_q = scores + TILE * SCORE_ROW, inverse_k = inverse_q + TILE;
  }
};

// Of a row of scores: what its probabilities are exp(score - top) * inverse by, and mean = sum of P dP.
struct Softmax { float top, inverse, mean; };

// rows += scores^T tile.
DEVICE void add_transposed_product(Rows& rows, const float* scores, const float* tile) {
  scores += group();
  NO_UNROLL for (int k = 0; k < TILE; k += 2) {
    UNROLL for (int e = 0; e < 2; e++) {
      RowPart y;
      y.load(tile + (k + e) * ROW);
      UNROLL for (int r = 0; r < R; r++) {
        float x = scores[(k + e) * SCORE_ROW + 8 * r];
        UNROLL for (int i = 0; i < MINE; i++) rows[r][i] += x * y.v[i];
      }
    }
  }
}

// From the gradient d of rows u = x / |x| to that of x: (d - u (u . d)) / |x|, and 0 for a row of zeros. The tile holds
// u times 1 / unscale.
DEVICE void through_norm(Rows& d, const float* tile, const float* inverse, float unscale) {
  UNROLL for (int r = 0; r < R; r++) {
    RowPart u;
    u.load(tile + (8 * r + group()) * ROW);
    float dot = 0;
    UNROLL for (int i = 0; i < MINE; i++) u.v[i] *= unscale, dot += d[r][i] * u.v[i];
    dot = sum_over_lanes<8>(dot);
    UNROLL for (int i = 0; i < MINE; i++) d[r][i] = (d[r][i] - u.v[i] * dot) * inverse[8 * r + group()];
  }
}

DEVICE void add_rows(float* sums, const Rows& rows) {
  UNROLL for (int r = 0; r < R; r++)
    UNROLL for (int i = 0; i < MINE; i++) sums[i] += rows[r][i];
}

// What a block has summed up for the biases and the logit scale of its head.
struct Sums {
  float q[MINE] = {}, k[MINE] = {}, v[MINE] = {}, logit = 0;
};

// Gradient `rows` of the queries, which were multiplied by `factor`: to the map and into the sums.
DEVICE void finish_queries(Rows& rows, const Tiles& at, float factor, int first, T* gqkv, const Window& window, Sums& sums) {
  if (COSINE) {
    UNROLL for (int r = 0; r < R; r++) {
      RowPart x;
      x.load(at.q + (8 * r + group()) * ROW);
      UNROLL for (int i = 0; i < MINE; i++) sums.logit += rows[r][i] * x.v[i];
    }
  }
  UNROLL for (int r = 0; r < R; r++)
    UNROLL for (int i = 0; i < MINE; i++) rows[r][i] *= factor;
  if (COSINE) through_norm(rows, at.q, at.inverse_q, factor > 0 ? 1 / factor : 0);
  add_rows(sums.q, rows);
  store_rows(gqkv, 3, 0, first, rows, window);
}

DEVICE void finish_keys(Rows& rows, const Tiles& at, int first, T* gqkv, const Window& window, Sums& sums) {
  if (COSINE) through_norm(rows, at.k, at.inverse_k, 1);
  add_rows(sums.k, rows);
  store_rows(gqkv, 3, 1, first, rows, window);
}

DEVICE void finish_values(const Rows& rows, int first, T* gqkv, const Window& window, Sums& sums) {
  add_rows(sums.v, rows);
  store_rows(gqkv, 3, 2, first, rows, window);
}

// The block's sum over its rows, to HEAD numbers of a partial gradient of the qkv bias (null: nobody wants it).
DEVICE void store_sum(float* scratch, const float* mine, float* to) {
  if (!to) return;
  barrier();
  UNROLL for (int i = 0; i < MINE; i++)
    if (int c = channel(i / 4) + i % 4; c < PADDED) scratch[group() * PADDED + c] = mine[i];
  barrier();
  for (int c = threadIdx.x; c < HEAD; c += THREADS) {
    float sum = 0;
    UNROLL for (int i = 0; i < GROUPS; i++) sum += scratch[i * PADDED + c];
    to[c] = sum;
  }
}

// Where a block puts its sums: slot `slot` of (slots, 3, heads, HEAD) and of (slots, heads).
DEVICE float* slot_of(float* parts, int slot, int part, int head, int heads) {
  return parts ? parts + (((i64)slot * 3 + part) * heads + head) * HEAD : parts;
}

// The gradient of the logit scale, 0 where it is clamped. `sum` = sum of dq^ . tau q^ = tau dtau.
DEVICE void store_logit(float* scratch, float sum, const T* logit_scale, int head, float* to) {
  sum = sum_over_lanes<32>(sum);
  barrier();
  if (lane_id() == 0) scratch[warp_id()] = sum;
  barrier();
  bool free = widen(logit_scale[head]) <= widen(narrow<T>(LN_100));
  if (threadIdx.x == 0) *to = free ? scratch[0] + scratch[1] : 0;
}

// dS from the probabilities and dP, in place of the latter.
DEVICE void scores_gradient(Scores& d, const Scores& p, const float* mean) {
  UNROLL for (int i = 0; i < R; i++)
    UNROLL for (int j = 0; j < R; j++) d[i][j] = p[i][j] * (d[i][j] - mean[i]);
}

// sum of p d over each row.
DEVICE void row_sums(float* sums, const Scores& p, const Scores& d) {
  UNROLL for (int i = 0; i < R; i++) {
    float sum = 0;
    UNROLL for (int j = 0; j < R; j++) sum += p[i][j] * d[i][j];
    sums[i] = sum_over_lanes<8>(sum);
  }
}

// What all three kernels read, and how they bring it into shared memory.
struct Maps {
  const T *qkv, *g, *qkv_bias;
  float factor;  // of q

  DEVICE void load_queries(const Tiles& at, int first, const Window& window) const {
    load_rows(at.q, qkv, qkv_bias, 3, 0, first, COSINE ? 1 : factor, window);
    load_rows(at.g, g, nullptr, 1, 0, first, 1, window);
    if (COSINE) {
      barrier();
      normalize_rows(at.q, at.inverse_q, factor);
    }
  }
  DEVICE void load_keys(const Tiles& at, int first, const Window& window) const {
    load_rows(at.k, qkv, qkv_bias, 3, 1, first, 1, window);
    load_rows(at.v, qkv, qkv_bias, 3, 2, first, 1, window);
    if (COSINE) {
      barrier();
      normalize_rows(at.k, at.inverse_k, 1);
    }
  }
};

// Parameters of all three: g (B, H, W, heads HEAD), gqkv like qkv, `count` = B * windows, the rest as in forward.
// Parts have a slot for each y of the grid (and, those of the qkv bias and the logit scale, for each tile):
// bias_parts (slots, heads, tokens, tokens), qkv_bias_parts (slots, 3, heads, HEAD), logit_parts (slots, heads);
// null where there is no such argument.

// Windows of one tile. Grid: (heads, slots).
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
    Scores p, d = {};
    load_bias(p, bias, 0, 0, window);
    maps.load_queries(at, 0, window);
    maps.load_keys(at, 0, window);
    barrier();
    add_row_products(p, at.q, at.k);
    add_mask(p, 0, 0, mask_value, window);
    float top[R], shrink[R], total[R], mean[R];
    UNROLL for (int r = 0; r < R; r++) top[r] = LOWEST;
    exponentials(p, top, shrink, total);
    UNROLL for (int i = 0; i < R; i++) {
      float inverse_total = 1 / total[i];
      UNROLL for (int j = 0; j < R; j++) p[i][j] *= inverse_total;
    }
    store_scores(at.scores, p);
    add_row_products(d, at.g, at.v);
    row_sums(mean, p, d);
    scores_gradient(d, p, mean);
    UNROLL for (int i = 0; i < R; i++)
      UNROLL for (int j = 0; j < R; j++) bias_sum[i][j] += d[i][j];
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

// Queries of larger windows: dq, and `softmax` (count, heads, tokens, 3) for the keys. Grid: (heads * TILES, slots).
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
    float top[R], inverse[R], total[R] = {}, mean[R] = {};
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
      add_row_products(d, at.g, at.v);
      if (step < TILES) {
        float shrink[R], sum[R], part[R];
        exponentials(p, top, shrink, sum);
        row_sums(part, p, d);
        UNROLL for (int r = 0; r < R; r++) {
          total[r] = total[r] * shrink[r] + sum[r], mean[r] = mean[r] * shrink[r] + part[r];
          if (step == TILES - 1) inverse[r] = 1 / total[r], mean[r] *= inverse[r];
        }
      } else {
        UNROLL for (int i = 0; i < R; i++)
          UNROLL for (int j = 0; j < R; j++) p[i][j] = exp2_approx((p[i][j] - top[i]) * LOG2_E) * inverse[i];
        scores_gradient(d, p, mean);
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
      to[0] = top[r], to[1] = inverse[r], to[2] = mean[r];
    }
    finish_queries(rows, at, maps.factor, query, gqkv, window, sums);
    barrier();
  }
  store_sum(at.q, sums.q, slot_of(qkv_bias_parts, slot, 0, head, heads));
  if (COSINE) store_logit(at.q, sums.logit, logit_scale, head, logit_parts + (i64)slot * heads + head);
}

// Keys of larger windows: dk, dv and the gradient of the bias. Grid: (heads * TILES, slots).
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
      float mean[R];
      UNROLL for (int i = 0; i < R; i++) {
        int token = query + 8 * i + group();
        const float* of = rows_softmax + (token < tokens ? token : tokens - 1) * 3;
        UNROLL for (int j = 0; j < R; j++) p[i][j] = exp2_approx((p[i][j] - of[0]) * LOG2_E) * of[1];
        mean[i] = of[2];
      }
      store_scores(at.scores, p);
      add_row_products(d, at.g, at.v);
      scores_gradient(d, p, mean);
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
