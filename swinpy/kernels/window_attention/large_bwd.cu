// Window attention backward for windows of more than 64 tokens and 32 channels a head, in two kernels.
//
// The first has keys and values in shared memory and goes over queries. From a first pass over the keys it knows each
// row's softmax, as lse = log2 sum 2^score, and mean = sum_j P dP; from a second
//     dP = dO V^T,  dS = P (dP - mean),  dQ = dS K,
// and the gradients of bias and tau. The second kernel has queries and dO in shared memory and goes over keys:
// dV = P^T dO, dK = dS^T Q. So every row is summed by one warp in a fixed order, and no score ever leaves the registers.
//
// Compiled with T, CHUNK, EVEN and COSINE. Source: Liu et al. 2021 (Swin), equation 4; Liu et al. 2022 (V2), equation 2.
#include "tiles.cuh"
#include "large.cuh"

// The rows of a chunk's dP = dO V^T (or, rows and columns exchanged, V dO^T).
DEVICE void chunk_products(float (*dp)[4], const Rows16& rows, const T* others, int first) {
  clear<TILES>(dp);
  UNROLL for (int n = 0; n < TILES; n++) multiply_rows(dp[n], rows, others, first + n * 8);
}

// Adds two neighbouring values to the block's gradient of the bias; the block's first window writes them.
DEVICE void add_to_bias_gradient(float* at, const float* ds, int key, int tokens, bool begins) {
  if (EVEN) {
    if (key >= tokens) return;
    Values<float, 2> sum;
    sum.v[0] = sum.v[1] = 0;
    if (!begins) sum.load(at);
    sum.v[0] += ds[0], sum.v[1] += ds[1];
    sum.store(at);
  } else {
    UNROLL for (int e = 0; e < 2; e++)
      if (key + e < tokens) at[e] = begins ? ds[e] : at[e] + ds[e];
  }
}

// First pass: lse and mean of the 16 rows.
DEVICE void row_statistics(float* lse, float* mean, const Tile16& queries, const Tile16& grads, const float* factor,
                           const Staged& staged, const Scoring& how) {
  float top[2] = {LOWEST, LOWEST}, sums[2] = {0, 0}, shrink[2];
  mean[0] = mean[1] = 0;
  NO_UNROLL for (int key = 0; key < staged.padded; key += CHUNK) {
    float s[TILES][4], dp[TILES][4];
    chunk_scores(s, queries, factor, staged, key, how);
    chunk_products(dp, grads.rows, staged.rows(1), key);
    raise_top(top, shrink, s);
    UNROLL for (int half = 0; half < 2; half++) sums[half] *= shrink[half], mean[half] *= shrink[half];
    UNROLL for (int n = 0; n < TILES; n++)
      UNROLL for (int e = 0; e < 4; e++) {
        float p = exp2_approx(s[n][e] - top[e / 2]);
        sums[e / 2] += p, mean[e / 2] += p * dp[n][e];
      }
  }
  UNROLL for (int half = 0; half < 2; half++) {
    float sum = sum_over_lanes<4>(sums[half]);
    lse[half] = top[half] + log2f(sum);
    mean[half] = sum_over_lanes<4>(mean[half]) / sum;
  }
}

// Second pass: dQ of the 16 rows, and their dS added to the block's gradient of the bias (N, N), if there is one.
DEVICE void query_gradients(float (*dq)[4], float* bias_part, bool begins, const float* lse, const float* mean,
                            const Tile16& queries, const Tile16& grads, const float* factor, const Staged& staged,
                            const Scoring& how) {
  int t = lane_id() & 3;
  clear<4>(dq);
  NO_UNROLL for (int key = 0; key < staged.padded; key += CHUNK) {
    float s[TILES][4], ds[TILES][4];
    chunk_scores(s, queries, factor, staged, key, how);
    chunk_products(ds, grads.rows, staged.rows(1), key);
    UNROLL for (int n = 0; n < TILES; n++) {
      UNROLL for (int e = 0; e < 4; e++) ds[n][e] = exp2_approx(s[n][e] - lse[e / 2]) * (ds[n][e] - mean[e / 2]);
      int column = key + n * 8 + 2 * t;
      UNROLL for (int half = 0; half < 2; half++)
        if (bias_part && queries.token[half] < how.tokens)
          add_to_bias_gradient(bias_part + (i64)queries.token[half] * how.tokens + column, ds[n] + 2 * half, column,
                               how.tokens, begins);
#if COSINE
      UNROLL for (int e = 0; e < 4; e++) ds[n][e] *= staged.numbers(0)[column + e % 2];
#endif
    }
    UNROLL for (int k = 0; k < TILES / 2; k++) {
      u32 w[4];
      as_weights(w, ds[2 * k], ds[2 * k + 1]);
      add_weighted_rows(dq, w, staged.rows(0), key + k * 16);
    }
  }
}

// Each block (split, head) takes the windows split, split + splits, ... It writes lse and mean of each row to statistics
// (windows, heads, N, 2), and parts of its sums: bias_parts (splits, heads, N, N), qkv_bias_parts (splits, 3C), tau_parts
// (splits, heads); each may be null but the last with COSINE.
KERNEL void __launch_bounds__(128) window_attention_large_bwd_queries(
    const T* __restrict__ g_out, const T* __restrict__ qkv, const T* __restrict__ qkv_bias, const T* __restrict__ bias,
    const T* __restrict__ logit_scale, T* __restrict__ g_qkv, float* __restrict__ statistics, float* bias_parts,
    float* __restrict__ qkv_bias_parts, float* __restrict__ tau_parts, const int* __restrict__ table,
    const u8* __restrict__ regions, int pixels, int channels, int heads, int windows, int down, int across, int tokens,
    float scale, float mask_value) {
  SHARED_MEMORY(memory);
  Staged staged = {memory, ceil_div(tokens, CHUNK) * CHUNK};
  int head = blockIdx.y, row = 3 * channels, column = head * HEAD_DIM + 8 * (threadIdx.x % 4);
  i64 split = blockIdx.x;
  float* bias_part = bias_parts ? bias_parts + (split * heads + head) * tokens * tokens : nullptr;
#if COSINE
  scale = score_scale(logit_scale, head);
#endif
  float sums[8] = {0, 0, 0, 0, 0, 0, 0, 0}, dtau = 0;

  NO_UNROLL for (int index = blockIdx.x; index < windows; index += gridDim.x) {
    Window window = window_at(index, table, pixels, down, across, tokens);
    bool masked = regions && (window.last_row || window.last_column);
    stage_rows<COSINE>(staged, 0, qkv, row, channels + column, load_bias(qkv_bias, channels + column), window, tokens);
    stage_rows<false>(staged, 1, qkv, row, 2 * channels + column, load_bias(qkv_bias, 2 * channels + column), window, tokens);
    if (masked) stage_regions(staged, regions + (window.table - table), tokens);
    barrier();
    Scoring how = {bias ? bias + (i64)head * tokens * tokens : nullptr, mask_value * LOG2E, masked, tokens};
    NO_UNROLL for (int first = warp_id() * 16; first < tokens; first += WARPS * 16) {
      Tile16 queries, grads;
      queries.load(qkv, row, column, load_bias(qkv_bias, column), window, first, tokens);
      grads.load(g_out, channels, column, {0, 0, 0, 0}, window, first, tokens);
      float factor[2] = {scale * LOG2E, scale * LOG2E}, lse[2], mean[2], dq[4][4];
#if COSINE
      queries.to_unit();
      UNROLL for (int half = 0; half < 2; half++) factor[half] *= queries.length[half].rest;
#endif
      row_statistics(lse, mean, queries, grads, factor, staged, how);
      UNROLL for (int half = 0; half < 2; half++)
        if (queries.token[half] < tokens && lane_id() % 4 == 0)
          store8(statistics + (((i64)index * heads + head) * tokens + queries.token[half]) * 2,
                 {bits_of(lse[half]), bits_of(mean[half])});
      query_gradients(dq, bias_part, index == blockIdx.x, lse, mean, queries, grads, factor, staged, how);
      dtau += finish_rows<COSINE>(g_qkv, sums, dq, queries, scale, window, row, column, tokens);
    }
    barrier();  // the next window's rows go where these are being read
  }

  float* scratch = (float*)memory;
  if (qkv_bias_parts) reduce_columns(scratch, sums, qkv_bias_parts + split * row + head * HEAD_DIM);
#if COSINE
  dtau = sum_over_lanes<32>(dtau);
  if (lane_id() == 0) scratch[warp_id()] = dtau;
  barrier();
  if (threadIdx.x == 0) tau_parts[split * heads + head] = scratch[0] + scratch[1] + scratch[2] + scratch[3];
#endif
}

// Scores of 16 keys (rows) and a chunk of queries, and their gradients: s to P^T, dp to dS^T.
DEVICE void transposed_chunk(float (*s)[4], float (*dp)[4], const Tile16& keys, const Tile16& values, const float* factor,
                             const Staged& staged, int first, const Scoring& how) {
  int t = lane_id() & 3;
  chunk_products(s, keys.rows, staged.rows(0), first);
  chunk_products(dp, values.rows, staged.rows(1), first);
  UNROLL for (int n = 0; n < TILES; n++)
    UNROLL for (int e = 0; e < 4; e++) {
      int query = first + n * 8 + 2 * t + e % 2, key = keys.token[e / 2];
      bool inside = query < how.tokens && key < how.tokens;
      float x = s[n][e] * factor[e / 2];
#if COSINE
      x *= staged.numbers(0)[query];
#endif
      if (how.bias && inside) x += widen(how.bias[(i64)query * how.tokens + key]) * LOG2E;
      if (how.masked && inside && staged.regions()[query] != staged.regions()[key]) x += how.mask;
      float p = inside ? exp2_approx(x - staged.numbers(1)[query]) : 0;
      s[n][e] = p, dp[n][e] = p * (dp[n][e] - staged.numbers(2)[query]);
    }
}

// lse and mean of the window's rows into shared memory, zeros for tile padding.
DEVICE void stage_statistics(const Staged& to, const float* statistics, int tokens) {
  for (int i = threadIdx.x; i < to.padded; i += WARPS * 32) {
    Words2 pair = {0, 0};
    if (i < tokens) pair = load8(statistics + 2 * i);
    to.numbers(1)[i] = float_of(pair.x), to.numbers(2)[i] = float_of(pair.y);
  }
}

// Arguments as of window_attention_large_bwd_queries, which has to run before.
KERNEL void __launch_bounds__(128) window_attention_large_bwd_keys(
    const T* __restrict__ g_out, const T* __restrict__ qkv, const T* __restrict__ qkv_bias, const T* __restrict__ bias,
    const T* __restrict__ logit_scale, const float* __restrict__ statistics, T* __restrict__ g_qkv,
    float* __restrict__ qkv_bias_parts, const int* __restrict__ table, const u8* __restrict__ regions, int pixels,
    int channels, int heads, int windows, int down, int across, int tokens, float scale, float mask_value) {
  SHARED_MEMORY(memory);
  Staged staged = {memory, ceil_div(tokens, CHUNK) * CHUNK};
  int head = blockIdx.y, row = 3 * channels, column = head * HEAD_DIM + 8 * (threadIdx.x % 4);
#if COSINE
  scale = score_scale(logit_scale, head);
#endif
  float key_sums[8] = {0, 0, 0, 0, 0, 0, 0, 0}, value_sums[8] = {0, 0, 0, 0, 0, 0, 0, 0};

  NO_UNROLL for (int index = blockIdx.x; index < windows; index += gridDim.x) {
    Window window = window_at(index, table, pixels, down, across, tokens);
    bool masked = regions && (window.last_row || window.last_column);
    stage_rows<COSINE>(staged, 0, qkv, row, column, load_bias(qkv_bias, column), window, tokens);
    stage_rows<false>(staged, 1, g_out, channels, column, {0, 0, 0, 0}, window, tokens);
    stage_statistics(staged, statistics + ((i64)index * heads + head) * tokens * 2, tokens);
    if (masked) stage_regions(staged, regions + (window.table - table), tokens);
    barrier();
    Scoring how = {bias ? bias + (i64)head * tokens * tokens : nullptr, mask_value * LOG2E, masked, tokens};
    NO_UNROLL for (int first = warp_id() * 16; first < tokens; first += WARPS * 16) {
      Tile16 keys, values;
      keys.load(qkv, row, channels + column, load_bias(qkv_bias, channels + column), window, first, tokens);
      values.load(qkv, row, 2 * channels + column, load_bias(qkv_bias, 2 * channels + column), window, first, tokens);
      float factor[2] = {scale * LOG2E, scale * LOG2E}, dk[4][4], dv[4][4];
#if COSINE
      keys.to_unit();
      UNROLL for (int half = 0; half < 2; half++) factor[half] *= keys.length[half].rest;
#endif
      clear<4>(dk), clear<4>(dv);
      NO_UNROLL for (int query = 0; query < staged.padded; query += CHUNK) {
        float p[TILES][4], ds[TILES][4];
        transposed_chunk(p, ds, keys, values, factor, staged, query, how);
#if COSINE
        UNROLL for (int n = 0; n < TILES; n++)
          UNROLL for (int e = 0; e < 4; e++) ds[n][e] *= staged.numbers(0)[query + n * 8 + 2 * (lane_id() & 3) + e % 2];
#endif
        UNROLL for (int k = 0; k < TILES / 2; k++) {
          u32 w[4];
          as_weights(w, p[2 * k], p[2 * k + 1]);
          add_weighted_rows(dv, w, staged.rows(1), query + k * 16);
          as_weights(w, ds[2 * k], ds[2 * k + 1]);
          add_weighted_rows(dk, w, staged.rows(0), query + k * 16);
        }
      }
      finish_rows<COSINE>(g_qkv, key_sums, dk, keys, scale, window, row, channels + column, tokens);
      finish_rows<false>(g_qkv, value_sums, dv, values, 1, window, row, 2 * channels + column, tokens);
    }
    barrier();  // the next window's rows go where these are being read
  }

  if (!qkv_bias_parts) return;
  float* part = qkv_bias_parts + (i64)blockIdx.x * row + head * HEAD_DIM;
  reduce_columns((float*)memory, key_sums, part + channels);
  reduce_columns((float*)memory, value_sums, part + 2 * channels);
}
