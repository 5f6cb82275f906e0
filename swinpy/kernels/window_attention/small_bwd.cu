// Window attention backward for windows of up to 64 tokens and 32 channels a head.
//
// A block of 4 warps takes one head and goes over windows. It loads q, k, v and the gradient of the output into shared
// memory once. First warp w takes 16 queries against all keys: it computes the probabilities P again, then
//     dP = dO V^T,  dS = P (dP - sum_j P dP),  dQ = dS K,
// and leaves P and dS in shared memory. Then warp w takes 16 keys against all queries: dV = P^T dO, dK = dS^T Q. Neither
// the output nor a statistic of forward is needed. Gradients of the biases and of tau are summed over the windows of a
// block in registers; sum_parts adds the blocks, always in the same order.
//
// Compiled with T, TOKENS and COSINE. Source: Liu et al. 2021 (Swin), equation 4; Liu et al. 2022 (Swin V2), equation 2.
#include "tiles.cuh"
#include "small.cuh"

const int WARPS = 4;
const int BLOCKS = 3;  // on a multiprocessor, which leaves 168 registers a thread
const int ROWS = QUERY_TILES * 16;
const int SCORE_ROW = 72;  // values between rows of P and dS: 144 bytes, so that ldmatrix meets no bank twice
// Sums of a thread, 4 in a slot: its part of the gradient of the bias, then 8 columns each of those of q, k and v.
const int SLOTS = KEY_TILES + 6;
const int PAIRS = QUERY_TILES * 2;  // key tiles, padded to whole tiles of 16

// What the block holds of a window, and each thread's sums over windows.
struct Staged {
  unsigned char* memory;

  DEVICE T* rows(int part) const { return (T*)memory + part * ROWS * ROW; }  // q, k, v and dO, (ROWS, ROW)
  DEVICE T* p() const { return rows(4); }                                    // (ROWS, SCORE_ROW)
  DEVICE T* ds() const { return p() + ROWS * SCORE_ROW; }
  DEVICE float* sums(int slot) const { return (float*)(ds() + ROWS * SCORE_ROW) + (slot * 32 * WARPS + threadIdx.x) * 4; }
  DEVICE Length& length(int part, int row) const {  // of the rows of q, then of k
    return ((Length*)((float*)(ds() + ROWS * SCORE_ROW) + SLOTS * 32 * WARPS * 4))[part * ROWS + row];
  }
};

// Adds 4 values to the thread's own sums.
DEVICE void add_to_slot(const Staged& staged, int slot, const float* v) {
  Values<float, 4> sum;
  sum.load(staged.sums(slot));
  UNROLL for (int i = 0; i < 4; i++) sum.v[i] += v[i];
  sum.store(staged.sums(slot));
}

// Rows of q, k, v with the qkv bias, and of dO; zeros for tile padding. Four threads load one row of one part; each
// always the same columns, so that it needs 16 bytes of the bias only.
DEVICE void stage(const Staged& to, const T* qkv, const T* g, Words4 bias, const Window& window, int channels, int column) {
  int part = threadIdx.x / 4 % 4, quarter = threadIdx.x % 4;
  const T* map = part < 3 ? qkv + part * channels : g;
  for (int i = threadIdx.x / 16; i < ROWS; i += WARPS * 2) {
    Words4 v = {0, 0, 0, 0};
    if (i < TOKENS) v = load_values(map, window.pixel(i), part < 3 ? 3 * channels : channels, column + 8 * quarter);
    if (i < TOKENS && part < 3) v = add_bias(v, bias);
#if COSINE
    Words4 unit = v;
    Length length = normalize(unit);  // by all lanes, as lanes exchange their shares
    if (part < 2) {
      v = unit;
      if (quarter == 0) to.length(part, i) = length;
    }
#endif
    put_row(to.rows(part) + i * ROW, quarter, v);
  }
}

// P (unnormalised) and dP of 16 queries to P and dS.
DEVICE void score_gradients(float (*p)[4], float (*dp)[4], const float* sums, int first) {
  float inverse[2], mean[2] = {0, 0};
  UNROLL for (int n = 0; n < KEY_TILES; n++)
    UNROLL for (int e = 0; e < 4; e++) mean[e / 2] += p[n][e] * dp[n][e];
  UNROLL for (int half = 0; half < 2; half++) {
    bool real = first + (lane_id() >> 2) + 8 * half < TOKENS;
    inverse[half] = real ? 1 / sums[half] : 0;  // rows that only fill the tile vanish
    mean[half] = sum_over_lanes<4>(mean[half]) * inverse[half];
  }
  UNROLL for (int n = 0; n < KEY_TILES; n++)
    UNROLL for (int e = 0; e < 4; e++) {
      p[n][e] *= inverse[e / 2];
      dp[n][e] = p[n][e] * (dp[n][e] - mean[e / 2]);
    }
}

// Rows of 16 queries into shared memory, each times its factor; zeros for keys that only fill a tile of 16.
DEVICE void put_scores(T* to, const float (*s)[4], int first, float factor0, float factor1) {
  int g = lane_id() >> 2, t = lane_id() & 3;
  T *row0 = to + (first + g) * SCORE_ROW + 2 * t, *row1 = row0 + 8 * SCORE_ROW;
  UNROLL for (int n = 0; n < PAIRS; n++) {
    bool real = n < KEY_TILES;
    *(u32*)(row0 + n * 8) = real ? pack2<T>(s[real ? n : 0][0] * factor0, s[real ? n : 0][1] * factor0) : 0;
    *(u32*)(row1 + n * 8) = real ? pack2<T>(s[real ? n : 0][2] * factor1, s[real ? n : 0][3] * factor1) : 0;
  }
}

// dQ = dS K of 16 queries.
DEVICE void query_gradients(float (*dq)[4], const float (*ds)[4], const Staged& staged) {
  clear<4>(dq);
  UNROLL for (int k = 0; k < QUERY_TILES; k++) {
    float pair[2][4];
    UNROLL for (int side = 0; side < 2; side++)
      UNROLL for (int e = 0; e < 4; e++) {
        int n = 2 * k + side;
        pair[side][e] = n < KEY_TILES ? ds[n < KEY_TILES ? n : 0][e] : 0;
#if COSINE
        pair[side][e] *= staged.length(1, n * 8 + 2 * (lane_id() & 3) + e % 2).rest;
#endif
      }
    u32 w[4];
    as_weights(w, pair[0], pair[1]);
    add_weighted_rows(dq, w, staged.rows(1), k * 16);
  }
}

// dV = P^T dO or dK = dS^T Q of 16 keys.
DEVICE void key_gradients(float (*d)[4], const T* scores, const T* rows, int first) {
  clear<4>(d);
  int row = (lane_id() & 7) + (lane_id() >> 4) * 8, column = first + (lane_id() >> 3 & 1) * 8;
  UNROLL for (int k = 0; k < QUERY_TILES; k++) {
    u32 w[4];
    load_matrices_transposed(w, scores + (k * 16 + row) * SCORE_ROW + column);
    add_weighted_rows(d, w, rows, k * 16);
  }
}

// Writes 16 rows of the gradient of q, k or v (part 0, 1, 2) and adds them to the lane's share of the qkv bias's.
// Returns the lane's share of dtau, of which rows of q bring one value each.
DEVICE float finish_rows(T* to, const float (*d)[4], int part, int first, float scale, const Staged& staged,
                         const Window& window, int channels, int column) {
  int g = lane_id() >> 2, t = lane_id() & 3;
  float dtau = 0, sums[8] = {0, 0, 0, 0, 0, 0, 0, 0};
  UNROLL for (int half = 0; half < 2; half++) {
    int i = first + g + 8 * half;
    float v[8];
#if COSINE
    take_row(v, d, half, 1);
    if (part < 2) {
      Words4 row = get_row(staged.rows(part) + i * ROW, t);
      dtau += turn_gradient(v, row, staged.length(part, i), scale);
    }
#else
    take_row(v, d, half, part < 2 ? scale : 1);
#endif
    i64 pixel = i < TOKENS ? window.pixel(i) : -1;
    if (pixel >= 0) store16(to + pixel * 3 * channels + part * channels + column + 8 * t, pack(v));
    UNROLL for (int c = 0; c < 8; c++) sums[c] += v[c];  // tokens that padding added to the map, too
  }
  add_to_slot(staged, KEY_TILES + 2 * part, sums), add_to_slot(staged, KEY_TILES + 2 * part + 1, sums + 4);
  return part == 0 && t == 0 ? dtau : 0;
}

// The block's gradient of the bias, (N, N), rows of 16 queries.
DEVICE void store_bias_gradient(float* to, const Staged& staged, int first) {
  int g = lane_id() >> 2, t = lane_id() & 3;
  UNROLL for (int n = 0; n < KEY_TILES; n++)
    UNROLL for (int e = 0; e < 4; e++) {
      int query = first + g + e / 2 * 8, key = n * 8 + 2 * t + e % 2;
      if (query < TOKENS && key < TOKENS) to[query * TOKENS + key] = staged.sums(n)[e];
    }
}

// The block's sum of column c of a part: column 8t + 4h + e is element e of slot 2 part + h of all lanes (g, t).
DEVICE float column_sum(const Staged& staged, int part, int c) {
  const float* from = staged.sums(KEY_TILES + 2 * part + c / 4 % 2) - threadIdx.x * 4 + c % 4;
  float sum = 0;
  for (int i = 0; i < 8 * WARPS; i++) sum += from[(4 * i + c / 8) * 4];
  return sum;
}

// Each block (split, head) takes the windows split, split + splits, ...; parts of its sums: bias_parts (splits, heads, N,
// N), qkv_bias_parts (splits, 3C), tau_parts (splits, heads); each may be null but the last with COSINE.
KERNEL void __launch_bounds__(128, BLOCKS) window_attention_small_bwd(
    const T* __restrict__ g_out, const T* __restrict__ qkv, const T* __restrict__ qkv_bias,
    const float* __restrict__ bias, const T* __restrict__ logit_scale, T* __restrict__ g_qkv,
    float* __restrict__ bias_parts, float* __restrict__ qkv_bias_parts, float* __restrict__ tau_parts,
    const int* __restrict__ table, int pixels, int channels, int heads, int windows, int down, int across, float scale,
    float mask_value, u64 seam_rows, u64 seam_columns) {
  SHARED_MEMORY(memory);
  Staged staged = {memory};
  int head = blockIdx.y, column = head * HEAD_DIM, first = warp_id() * 16, part = threadIdx.x / 4 % 4;
  bool working = warp_id() < QUERY_TILES;
  Words4 row_bias = load_bias(part < 3 ? qkv_bias : nullptr, part * channels + column + threadIdx.x % 4 * 8);
  const float* lane_bias = bias ? bias + ((head * QUERY_TILES + warp_id()) * 32 + lane_id()) * FRAGMENT : nullptr;
#if COSINE
  scale = score_scale(logit_scale, head);
#endif
  float dtau = 0;
  for (int slot = 0; slot < SLOTS; slot++) store16(staged.sums(slot), {0, 0, 0, 0});

  NO_UNROLL for (int index = blockIdx.x; index < windows; index += gridDim.x) {
    Window window = window_at(index, table, pixels, down, across, TOKENS);
    stage(staged, qkv, g_out, row_bias, window, channels, column);
    barrier();
    if (working) {
      float p[KEY_TILES][4], ds[KEY_TILES][4], row_sums[2], dq[4][4];
      float factor[2] = {scale * LOG2E, scale * LOG2E}, rest[2] = {1, 1};
      clear<KEY_TILES>(p), clear<KEY_TILES>(ds);
      Rows16 queries, grads;
      queries.load(staged.rows(0), first), grads.load(staged.rows(3), first);
      UNROLL for (int n = 0; n < KEY_TILES; n++) {
        multiply_rows(p[n], queries, staged.rows(1), n * 8);
        multiply_rows(ds[n], grads, staged.rows(2), n * 8);
#if COSINE
        UNROLL for (int e = 0; e < 4; e++) p[n][e] *= staged.length(1, n * 8 + 2 * (lane_id() & 3) + e % 2).rest;
#endif
      }
#if COSINE
      UNROLL for (int half = 0; half < 2; half++) {
        rest[half] = staged.length(0, first + (lane_id() >> 2) + 8 * half).rest;
        factor[half] *= rest[half];
      }
#endif
      scale_scores(p, factor, lane_bias);
      mask_scores(p, first, window, {seam_rows, seam_columns}, mask_value * LOG2E);
      exponentials(p, row_sums);
      score_gradients(p, ds, row_sums, first);
      put_scores(staged.p(), p, first, 1, 1);
      put_scores(staged.ds(), ds, first, rest[0], rest[1]);
      UNROLL for (int n = 0; n < KEY_TILES; n++) add_to_slot(staged, n, ds[n]);
      query_gradients(dq, ds, staged);
      dtau += finish_rows(g_qkv, dq, 0, first, scale, staged, window, channels, column);
    }
    barrier();
    if (working) {
      float d[4][4];
      key_gradients(d, staged.ds(), staged.rows(0), first);
      finish_rows(g_qkv, d, 1, first, scale, staged, window, channels, column);
      key_gradients(d, staged.p(), staged.rows(3), first);
      finish_rows(g_qkv, d, 2, first, scale, staged, window, channels, column);
    }
    barrier();  // the next window's rows go where these are being read
  }

  i64 split = blockIdx.x;
  if (bias_parts && working) store_bias_gradient(bias_parts + (split * heads + head) * TOKENS * TOKENS, staged, first);
  int c = threadIdx.x % HEAD_DIM;
  if (qkv_bias_parts && warp_id() < 3)
    qkv_bias_parts[(split * 3 + warp_id()) * channels + column + c] = column_sum(staged, warp_id(), c);
#if COSINE
  float* shares = (float*)memory;
  dtau = sum_over_lanes<32>(dtau);
  if (lane_id() == 0) shares[warp_id()] = dtau;
  barrier();
  if (threadIdx.x == 0) tau_parts[split * heads + head] = shares[0] + shares[1] + shares[2] + shares[3];
#endif
}
