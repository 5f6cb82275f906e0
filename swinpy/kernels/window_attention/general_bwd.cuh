// Window attention on CUDA cores, backward: what its kernels share. Probabilities are computed again; nothing was saved.
//
// With P = softmax(S), S = q k^T + bias + mask and dP = g v^T: dv = P^T g, dS = P (dP - rowsum(P dP)), dq = dS k,
// dk = dS^T q, and dS is the gradient of the bias.
//
// A block has one head and one tile and loops over windows, so that what windows share (gradients of the biases and the
// logit scale) is one partial sum a block; sum_parts.cu adds them up in order.
#include "general.cuh"

// Shared memory, in floats.
struct Tiles {
  float *q, *k, *v, *g, *scores, *inverse_q, *inverse_k;
  DEVICE Tiles(void* memory) {
    q = (float*)memory, k = q + TILE * ROW, v = k + TILE * ROW, g = v + TILE * ROW, scores = g + TILE * ROW;
    inverse_q = scores + TILE * SCORE_ROW, inverse_k = inverse_q + TILE;
  }
};

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
  bool free = !(widen(logit_scale[head]) > widen(narrow<T>(LN_100)));  // NaN is
  if (threadIdx.x == 0) *to = free ? scratch[0] + scratch[1] : 0;
}

// Sum of P dP over row i, this thread's `d` being dP; P, which would fill the registers, is read again from where this
// thread has put it.
DEVICE float row_sum(float* scores, const Scores& d, int i) {
  float sum = 0;
  UNROLL for (int j = 0; j < R; j++) sum += own_score(scores, i, j) * d[i][j];
  return sum_over_lanes<8>(sum);
}

// Row i of dP to dS, in place.
DEVICE void to_scores_gradient(Scores& d, float* scores, int i, float mean) {
  UNROLL for (int j = 0; j < R; j++) d[i][j] = own_score(scores, i, j) * (d[i][j] - mean);
}

// What all kernels read, and how they bring it into shared memory.
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

// Parameters of all kernels: g (B, H, W, heads HEAD), gqkv like qkv, `count` = B * windows, the rest as in forward.
// Parts have a slot for each y of the grid (and, those of the qkv bias and the logit scale, for each tile):
// bias_parts (slots, heads, tokens, tokens), qkv_bias_parts (slots, 3, heads, HEAD), logit_parts (slots, heads);
// null where there is no such argument.
