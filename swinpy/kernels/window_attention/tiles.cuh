// What the tensor-core kernels of window attention share: which pixel a token is, loading rows of q, k and v, unit
// vectors of cosine attention, and products of tiles.
//
// Rows are `HEAD_DIM` = 32 values of T wide. A warp's lane is 4 g + t. Everywhere lane t of a row's four owns the values
// 8t to 8t + 7, 16 bytes: it loads them at once, and it stores them at once. The tensor cores ask for other columns: of
// each tile of 8 columns the lane holds columns 2t, 2t + 1. So column 2t + e of tile j stands for value 8t + 2j + e,
// in registers and in shared memory alike. A product sums over values, in whatever order, as long as both sides agree.
const int HEAD_DIM = 32;
const int ROW = 40;  // values between rows in shared memory: 80 bytes, so that ldmatrix meets no bank twice
constexpr float LOG2E = 1.4426950408889634f;
constexpr float LOWEST = -3e38f;  // below every score, and finite: a first maximum
constexpr float MAX_LOGIT_SCALE = 4.605170185988092f;  // ln 100
constexpr float COSINE_EPS = 1e-12f;

DEVICE float minus_infinity() { return float_of(0xff800000u); }

// ---- windows of the map

// The pixels of one window. Shift, padding of the map and partition are all in the table.
struct Window {
  const int* table;  // pixel within the image of each token, -1 for one that padding added to the map
  i64 image;         // first pixel of the image
  bool last_row, last_column;

  DEVICE i64 pixel(int token) const { return table[token] < 0 ? -1 : image + table[token]; }
};

// Window number `index` of a batch of maps of `pixels` pixels, cut into down x across windows.
DEVICE Window window_at(int index, const int* table, int pixels, int down, int across, int tokens) {
  int image = index / (down * across), place = index - image * (down * across);
  return {table + (i64)place * tokens, (i64)image * pixels, place / across == down - 1, place % across == across - 1};
}

// ---- rows: 8 values a lane

// 8 values of a pixel's row; zeros for a token that padding added.
DEVICE Words4 load_values(const T* map, i64 pixel, int row, int column) {
  if (pixel < 0) return {0, 0, 0, 0};
  return load16(map + pixel * row + column);
}

// The qkv bias in those 8 columns; zeros if there is none.
DEVICE Words4 load_bias(const T* bias, int column) {
  if (!bias) return {0, 0, 0, 0};
  return load16(bias + column);
}

DEVICE Words4 add_bias(Words4 v, Words4 bias) {
  return {add_pairs<T>(v.x, bias.x), add_pairs<T>(v.y, bias.y), add_pairs<T>(v.z, bias.z), add_pairs<T>(v.w, bias.w)};
}

DEVICE void unpack(Words4 words, float* v) {
  unpack_word<T>(words.x, v), unpack_word<T>(words.y, v + 2), unpack_word<T>(words.z, v + 4), unpack_word<T>(words.w, v + 6);
}
DEVICE Words4 pack(const float* v) {
  return {pack_word<T>(v), pack_word<T>(v + 2), pack_word<T>(v + 4), pack_word<T>(v + 6)};
}

// Rows in shared memory: the lane's word j lies at column 2t of tile j.
DEVICE void put_row(T* row, int t, Words4 v) {
  *(u32*)(row + 2 * t) = v.x, *(u32*)(row + 8 + 2 * t) = v.y;
  *(u32*)(row + 16 + 2 * t) = v.z, *(u32*)(row + 24 + 2 * t) = v.w;
}
DEVICE Words4 get_row(const T* row, int t) {
  return {*(const u32*)(row + 2 * t), *(const u32*)(row + 8 + 2 * t), *(const u32*)(row + 16 + 2 * t),
          *(const u32*)(row + 24 + 2 * t)};
}

// ---- cosine attention

// How long a row of q or k is. The row itself is brought to a length in [1, 2) by a power of two, which rounds nothing
// and keeps what is multiplied by it within 16 bits; its unit vector is `rest` times that. 1 / |row| is `inverse`, 0 for
// a row without direction, which gets no gradient.
struct Length {
  float rest, inverse;
};

// By the four lanes that own a row together.
DEVICE Length normalize(Words4& row) {
  float v[8], squares = 0;
  unpack(row, v);
  UNROLL for (int i = 0; i < 8; i++) squares += v[i] * v[i];
  float norm = sqrtf(sum_over_lanes<4>(squares));
  float length = fminf(fmaxf(norm, COSINE_EPS), 1e38f);
  float power = float_of((254u << 23) - (bits_of(length) & 0x7f800000u));  // 2^-e for 2^e <= length < 2^(e + 1)
  UNROLL for (int i = 0; i < 8; i++) v[i] *= power;
  row = pack(v);
  return {1 / (length * power), norm > COSINE_EPS ? 1 / length : 0};
}

// tau = exp(min(logit_scale, ln 100)).
DEVICE float score_scale(const T* logit_scale, int head) {
  float x = widen(logit_scale[head]);
  return expf(x > MAX_LOGIT_SCALE ? MAX_LOGIT_SCALE : x);
}

// The gradient of a row of q or k from that of tau times its unit vector u: (d - u (u . d)) / |row|, times tau.
// Returns u . d, which summed over queries is the gradient of tau.
DEVICE float turn_gradient(float* d, Words4 row, Length length, float tau) {
  float u[8], along = 0;
  unpack(row, u);
  UNROLL for (int i = 0; i < 8; i++) u[i] *= length.rest, along += u[i] * d[i];
  along = sum_over_lanes<4>(along);
  UNROLL for (int i = 0; i < 8; i++) d[i] = (d[i] - u[i] * along) * (tau * length.inverse);
  return along;
}

// ---- products of tiles: c[j] is tile j, rows g (elements 0, 1) and g + 8 (2, 3), columns 2t, 2t + 1

template <int TILES> DEVICE void clear(float (*c)[4]) {
  UNROLL for (int j = 0; j < TILES; j++) c[j][0] = c[j][1] = c[j][2] = c[j][3] = 0;
}

// The 16 rows of which the lane loaded (part of) rows g and g + 8, as the left side of a product.
struct Rows16 {
  u32 low[4], high[4];  // columns 0 to 15 and 16 to 31

  DEVICE void set(Words4 a, Words4 b) {
    low[0] = a.x, low[1] = b.x, low[2] = a.y, low[3] = b.y;
    high[0] = a.z, high[1] = b.z, high[2] = a.w, high[3] = b.w;
  }
  DEVICE Words4 row(int half) const { return {low[half], low[2 + half], high[half], high[2 + half]}; }
  // From shared memory.
  DEVICE void load(const T* tile, int first) {
    const T* p = tile + (first + (lane_id() & 15)) * ROW + (lane_id() >> 4) * 8;
    load_matrices(low, p);
    load_matrices(high, p + 16);
  }
};

// c (16 x 8) += a b^T for the 8 rows b whose word pairs are k[0], k[1] (columns 0 to 15) and k[2], k[3].
DEVICE void multiply_8(float* c, const Rows16& a, const u32* k) {
  mma_16x8x16<T>(c, a.low[0], a.low[1], a.low[2], a.low[3], k[0], k[1]);
  mma_16x8x16<T>(c, a.high[0], a.high[1], a.high[2], a.high[3], k[2], k[3]);
}

// The same for 8 rows in shared memory.
DEVICE void multiply_rows(float* c, const Rows16& a, const T* tile, int first) {
  u32 k[4];
  load_matrices(k, tile + (first + (lane_id() & 7)) * ROW + (lane_id() >> 3) * 8);
  multiply_8(c, a, k);
}

// c (16 x 32) += w (16 x 16) r for 16 rows r in shared memory.
DEVICE void add_weighted_rows(float (*c)[4], const u32* w, const T* tile, int first) {
  UNROLL for (int half = 0; half < 2; half++) {
    u32 r[4];
    load_matrices_transposed(r, tile + (first + (lane_id() & 15)) * ROW + half * 16 + (lane_id() >> 4) * 8);
    mma_16x8x16<T>(c[2 * half], w[0], w[1], w[2], w[3], r[0], r[1]);
    mma_16x8x16<T>(c[2 * half + 1], w[0], w[1], w[2], w[3], r[2], r[3]);
  }
}

// Two neighbouring tiles of 8 columns as 16 columns of the left side of the next product.
DEVICE void as_weights(u32* w, const float* a, const float* b) {
  w[0] = pack2<T>(a[0], a[1]), w[1] = pack2<T>(a[2], a[3]);
  w[2] = pack2<T>(b[0], b[1]), w[3] = pack2<T>(b[2], b[3]);
}

// The lane's 8 values of row g (half 0) or g + 8 (half 1), times a factor.
DEVICE void take_row(float* v, const float (*c)[4], int half, float factor) {
  UNROLL for (int j = 0; j < 4; j++) v[2 * j] = c[j][2 * half] * factor, v[2 * j + 1] = c[j][2 * half + 1] * factor;
}
