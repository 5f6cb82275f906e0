// Attention within windows on CUDA cores: what its forward and backward share. Any window, head size and storage type.
//
// A block of 64 threads works on tiles of TILE tokens, held in shared memory as floats, one row a token. The threads are
// 8 groups of 8 lanes. Of a TILE x TILE matrix of scores a thread holds the R x R elements
//     row 8 r + group, column 8 c + lane,                                                            0 <= r, c < R,
// so that a row lies in 8 neighbouring lanes, which exchange its maximum and its sum without a barrier. Of a matrix of
// tokens by channels it holds rows 8 r + group, channels 4 (8 c + lane) .. + 3, which are loaded and stored at once.
// Rows behind the window's last token are zeros in shared memory and have probability 0.
//
// Macros: T storage type; HEAD channels of a head; R as above; TILES tiles of a window; COSINE 1 for V2's attention.

const int THREADS = 64, GROUPS = 8;
const int TILE = 8 * R;
const int PADDED = (HEAD + 3) / 4 * 4;            // channels in shared memory: whole 16-byte vectors
const int CHUNKS = (PADDED + 31) / 32;            // vectors of a row that a thread holds
const int MINE = 4 * CHUNKS;
// Floats from row to row. 8 lanes that read 16 bytes each from 8 rows, or write single floats to 4 rows, then meet
// 32 different banks.
const int ROW = PADDED / 4 % 2 ? PADDED : PADDED + 4;
const int SCORE_ROW = R % 2 ? TILE : TILE + 8;
// Values that are read and written at once.
const int LOADED = HEAD % 8 == 0 && sizeof(T) == 2 ? 8 : HEAD % 4 == 0 ? 4 : 1;
const int STORED = HEAD % 4 == 0 ? 4 : 1;

const float LOG2_E = 1.44269504f, LN_100 = 4.60517019f, SHORTEST = 1e-12f;
const float LOWEST = -3e38f;  // below every score, and finite: less itself it is 0, and -inf less it is -inf

typedef float Scores[R][R];
typedef float Rows[R][MINE];

DEVICE int group() { return threadIdx.x / 8; }
DEVICE int lane() { return threadIdx.x % 8; }
DEVICE int channel(int chunk) { return 4 * (8 * chunk + lane()); }

// One head of one window: where its tokens are.
struct Window {
  const int* pixels;           // of each token in its image, -1 for a token that padding added
  const signed char* regions;  // of each token: it sees those of its own region; null where all see each other
  i64 image;                   // pixels before this image
  int tokens, head, heads;

  // Channels before this head's, of q, k, v (part 0, 1, 2).
  DEVICE int column(int part) const { return (part * heads + head) * HEAD; }
  DEVICE i64 row(int pixel, int parts) const { return (image + pixel) * parts * heads * HEAD; }
};

// Head `head` of window `number`, counted over the batch.
DEVICE Window window_at(int number, int head, int heads, int windows, int tokens, int image_pixels, const int* pixels,
                        const signed char* regions) {
  i64 first = (i64)(number % windows) * tokens;
  return {pixels + first, regions ? regions + first : regions, (i64)(number / windows) * image_pixels, tokens, head, heads};
}

// ---- between maps and shared memory

// Tokens `first` and on to `tile`, times `factor`. A map has `parts` times heads * HEAD channels a pixel (3 for q, k and
// v; 1 for the output's gradient); a token without a pixel is `bias` alone (may be null: zeros).
DEVICE void load_rows(float* tile, const T* __restrict__ map, const T* __restrict__ bias, int parts, int part, int first,
                      float factor, const Window& window) {
  const int PIECES = PADDED / LOADED;
  UNROLL for (int i = threadIdx.x; i < TILE * PIECES; i += THREADS) {
    int row = i / PIECES, start = i % PIECES * LOADED, token = first + row;
    Values<T, LOADED> x, shift;
    UNROLL for (int e = 0; e < LOADED; e++) x.v[e] = 0;
    if (token < window.tokens && start < HEAD) {
      int pixel = window.pixels[token];
      if (pixel >= 0) x.load(map + window.row(pixel, parts) + window.column(part) + start);
      if (bias) {
        shift.load(bias + window.column(part) + start);
        UNROLL for (int e = 0; e < LOADED; e++) x.v[e] += shift.v[e];
      }
    }
    float* to = tile + row * ROW + start;
    UNROLL for (int e = 0; e < LOADED; e++) x.v[e] *= factor;
    if constexpr (LOADED == 1) {
      *to = x.v[0];
    } else {
      UNROLL for (int e = 0; e < LOADED; e += 4)
        store16(to + e, {bits_of(x.v[e]), bits_of(x.v[e + 1]), bits_of(x.v[e + 2]), bits_of(x.v[e + 3])});
    }
  }
}

// A thread's rows of tokens `first` and on to the map; what padding added has no place there.
DEVICE void store_rows(T* __restrict__ map, int parts, int part, int first, const Rows& rows, const Window& window) {
  UNROLL for (int r = 0; r < R; r++) {
    int token = first + 8 * r + group();
    int pixel = token < window.tokens ? window.pixels[token] : -1;
    if (pixel < 0) continue;
    T* to = map + window.row(pixel, parts) + window.column(part);
    UNROLL for (int i = 0; i < MINE; i += STORED) {
      int start = channel(i / 4) + i % 4;
      if (start >= HEAD) continue;
      Values<T, STORED> x;
      UNROLL for (int e = 0; e < STORED; e++) x.v[e] = rows[r][i + e];
      x.store(to + start);
    }
  }
}

// Rows of a tile to unit length, times `factor`; a row of zeros stays one. inverse[row] = 1 / length, 0 for such a row,
// which has no direction. A thread a row.
DEVICE void normalize_rows(float* tile, float* inverse, float factor) {
  if (threadIdx.x >= TILE) return;
  float* row = tile + threadIdx.x * ROW;
  float squares = 0;
  Values<float, 4> x;
  for (int c = 0; c < PADDED; c += 4) {
    x.load(row + c);
    UNROLL for (int e = 0; e < 4; e++) squares += x.v[e] * x.v[e];
  }
  float length = sqrtf(squares), scale = 1 / fmaxf(length, SHORTEST);
  inverse[threadIdx.x] = length > SHORTEST ? scale : 0;
  for (int c = 0; c < PADDED; c += 4) {
    x.load(row + c);
    UNROLL for (int e = 0; e < 4; e++) x.v[e] = x.v[e] * scale * factor;
    x.store(row + c);
  }
}

// What q is multiplied by: V1's scale, or V2's exp(logit_scale) of this head.
DEVICE float score_scale(const T* logit_scale, float scale, int head) {
  if (!COSINE) return scale;
  const float logit = widen(logit_scale[head]);
  return expf(logit > LN_100 ? LN_100 : logit);  // NaN stays NaN
}

// ---- products: every sum over tokens or channels in order

// scores += a b^T.
DEVICE void add_row_products(Scores& scores, const float* a, const float* b) {
  a += group() * ROW, b += lane() * ROW;
  NO_UNROLL for (int c = 0; c < PADDED; c += 4) {
    Values<float, 4> x[R], y;
    UNROLL for (int i = 0; i < R; i++) x[i].load(a + 8 * i * ROW + c);
    UNROLL for (int j = 0; j < R; j++) {
      y.load(b + 8 * j * ROW + c);
      UNROLL for (int e = 0; e < 4; e++)
        UNROLL for (int i = 0; i < R; i++) scores[i][j] += x[i].v[e] * y.v[e];
    }
  }
}

// One row of a tile of tokens by channels: this thread's channels.
struct RowPart {
  float v[MINE];
  DEVICE void load(const float* row) {
    UNROLL for (int c = 0; c < CHUNKS; c++) {
      Values<float, 4> x;
      bool inside = 32 * CHUNKS == PADDED || channel(c) < PADDED;
      if (inside) x.load(row + channel(c));
      UNROLL for (int e = 0; e < 4; e++) v[4 * c + e] = inside ? x.v[e] : 0;
    }
  }
};

// rows += scores tile, scores in shared memory.
DEVICE void add_product(Rows& rows, const float* scores, const float* tile) {
  scores += group() * SCORE_ROW;
  NO_UNROLL for (int k = 0; k < TILE; k += 4) {
    Values<float, 4> x[R];
    UNROLL for (int r = 0; r < R; r++) x[r].load(scores + 8 * r * SCORE_ROW + k);
    UNROLL for (int e = 0; e < 4; e++) {
      RowPart y;
      y.load(tile + (k + e) * ROW);
      UNROLL for (int r = 0; r < R; r++)
        UNROLL for (int i = 0; i < MINE; i++) rows[r][i] += x[r].v[e] * y.v[i];
    }
  }
}

// ---- scores

// The bias of queries `query` and on and keys `key` and on, zeros where there is none: what a sum of products begins with.
DEVICE void load_bias(Scores& scores, const T* __restrict__ bias, int query, int key, const Window& window) {
  int n = window.tokens;
  UNROLL for (int i = 0; i < R; i++) {
    int token = query + 8 * i + group();
    const T* row = bias + ((i64)window.head * n + token) * n;
    UNROLL for (int j = 0; j < R; j++) {
      int other = key + 8 * j + lane();
      scores[i][j] = bias && token < n && other < n ? widen(row[other]) : 0;
    }
  }
}

// Add `mask_value` across the borders of regions; -inf where there is no key.
DEVICE void add_mask(Scores& scores, int query, int key, float mask_value, const Window& window) {
  if (window.regions) {
    int last = window.tokens - 1, mine[R];
    UNROLL for (int i = 0; i < R; i++) {
      int token = query + 8 * i + group();
      mine[i] = window.regions[token < last ? token : last];
    }
    UNROLL for (int j = 0; j < R; j++) {
      int token = key + 8 * j + lane();
      int other = window.regions[token < last ? token : last];
      UNROLL for (int i = 0; i < R; i++) scores[i][j] += other == mine[i] ? 0.0f : mask_value;
    }
  }
  UNROLL for (int j = 0; j < R; j++)
    if (key + 8 * j + lane() >= window.tokens)
      UNROLL for (int i = 0; i < R; i++) scores[i][j] = float_of(0xff800000u);  // -inf
}

// exp(scores - top) in place, where `top` becomes the largest score of each row so far. `shrink` is what earlier
// exponentials of the row have to be multiplied by, `total` the sum of these ones.
DEVICE void exponentials(Scores& scores, float* top, float* shrink, float* total) {
  UNROLL for (int i = 0; i < R; i++) {
    float largest = top[i], sum = 0;
    UNROLL for (int j = 0; j < R; j++) largest = fmaxf(largest, scores[i][j]);
    largest = max_over_lanes<8>(largest);
    UNROLL for (int j = 0; j < R; j++) {
      scores[i][j] = exp2_approx((scores[i][j] - largest) * LOG2_E);
      sum += scores[i][j];
    }
    shrink[i] = exp2_approx((top[i] - largest) * LOG2_E);
    total[i] = sum_over_lanes<8>(sum);
    top[i] = largest;
  }
}

// Where in shared memory a thread's own element of a tile of scores stands.
DEVICE float& own_score(float* tile, int i, int j) { return tile[(8 * i + group()) * SCORE_ROW + 8 * j + lane()]; }

DEVICE void store_scores(float* tile, const Scores& scores) {
  UNROLL for (int i = 0; i < R; i++)
    UNROLL for (int j = 0; j < R; j++) own_score(tile, i, j) = scores[i][j];
}
