// Windows of more than 64 tokens: rows of one side of the scores in shared memory, CHUNK of them at a time in registers.
//
// Compiled with EVEN: whether the number of tokens is even, so that scores of two neighbouring keys are one load. Rows in
// shared memory are padded with zeros to whole chunks: this tile padding has nothing to do with tokens that padding added
// to the map, which are keys like any other.
const int WARPS = 4;
const int TILES = CHUNK / 8;

// ---- what a block holds of a window

struct Staged {
  unsigned char* memory;
  int padded;  // rows

  DEVICE T* rows(int part) const { return (T*)memory + part * padded * ROW; }  // two parts
  DEVICE float* numbers(int which) const { return (float*)rows(2) + which * padded; }  // three a row
  DEVICE unsigned char* regions() const { return (unsigned char*)numbers(3); }
};

// Rows of one part of a map; with UNIT as unit vectors (see normalize), what is left of their lengths in numbers(0).
// Four threads load a row; each always the same columns, `column` on, and the same 16 bytes of the bias.
template <bool UNIT>
DEVICE void stage_rows(const Staged& to, int part, const T* map, int row, int column, Words4 bias, const Window& window,
                       int tokens) {
  int quarter = threadIdx.x % 4;
  for (int i = threadIdx.x / 4; i < to.padded; i += WARPS * 8) {
    Words4 v = {0, 0, 0, 0};
    if (i < tokens) v = add_bias(load_values(map, window.pixel(i), row, column), bias);
    if (UNIT) {
      float rest = normalize(v).rest;
      if (quarter == 0) to.numbers(0)[i] = rest;
    }
    put_row(to.rows(part) + i * ROW, quarter, v);
  }
}

// The region of each token, of a window that a seam runs through (see swinpy/geometry.py, shift_regions).
DEVICE void stage_regions(const Staged& to, const unsigned char* regions, int tokens) {
  for (int i = threadIdx.x; i < to.padded; i += WARPS * 32) to.regions()[i] = i < tokens ? regions[i] : 0;
}

// ---- 16 rows that a warp works on

struct Tile16 {
  Rows16 rows;
  Length length[2];  // with COSINE
  int token[2];      // rows g and g + 8

  // From the map; zeros for tile padding.
  DEVICE void load(const T* map, int row, int column, Words4 bias, const Window& window, int first, int tokens) {
    Words4 v[2];
    UNROLL for (int half = 0; half < 2; half++) {
      token[half] = first + (lane_id() >> 2) + 8 * half;
      v[half] = {0, 0, 0, 0};
      if (token[half] < tokens) v[half] = add_bias(load_values(map, window.pixel(token[half]), row, column), bias);
    }
    rows.set(v[0], v[1]);
  }
  DEVICE void to_unit() {
    Words4 v[2] = {rows.row(0), rows.row(1)};
    UNROLL for (int half = 0; half < 2; half++) length[half] = normalize(v[half]);
    rows.set(v[0], v[1]);
  }
};

// Writes 16 rows of a gradient of qkv, `column` on, and adds them to the lane's sums of the qkv bias's. With UNIT, d is the
// gradient of tau (`scale`) times unit vectors. Returns the lane's share of dtau, one value a row.
template <bool UNIT>
DEVICE float finish_rows(T* to, float* sums, const float (*d)[4], const Tile16& tile, float scale, const Window& window,
                         int row, int column, int tokens) {
  float dtau = 0;
  UNROLL for (int half = 0; half < 2; half++) {
    float v[8];
    take_row(v, d, half, UNIT ? 1 : scale);
    if (UNIT) dtau += turn_gradient(v, tile.rows.row(half), tile.length[half], scale);
    if (tile.token[half] >= tokens) continue;
    i64 pixel = window.pixel(tile.token[half]);
    if (pixel >= 0) store16(to + pixel * row + column, pack(v));
    UNROLL for (int c = 0; c < 8; c++) sums[c] += v[c];  // tokens that padding added to the map, too
  }
  return lane_id() % 4 == 0 ? dtau : 0;
}

// The block's sums of 8 columns a lane to part[0] .. part[31].
DEVICE void reduce_columns(float* scratch, const float* sums, float* part) {
  int t = lane_id() & 3;
  UNROLL for (int c = 0; c < 8; c++) {
    float sum = sums[c];
    UNROLL for (int mask = 4; mask < 32; mask *= 2) sum += shuffle_xor(sum, mask);
    if (lane_id() < 4) scratch[warp_id() * HEAD_DIM + 8 * t + c] = sum;
  }
  barrier();
  if (threadIdx.x < HEAD_DIM) {
    float sum = 0;
    for (int w = 0; w < WARPS; w++) sum += scratch[w * HEAD_DIM + threadIdx.x];
    part[threadIdx.x] = sum;
  }
  barrier();
}

// ---- scores of 16 queries (rows) and a chunk of keys in shared memory, in units of log2

struct Scoring {
  const T* bias;  // (N, N) of this head, or null
  float mask;     // across regions
  bool masked;    // whether a seam runs through this window
  int tokens;
};

DEVICE void chunk_scores(float (*s)[4], const Tile16& queries, const float* factor, const Staged& staged, int first,
                         const Scoring& how) {
  int t = lane_id() & 3;
  clear<TILES>(s);
  UNROLL for (int n = 0; n < TILES; n++) multiply_rows(s[n], queries.rows, staged.rows(0), first + n * 8);
  UNROLL for (int n = 0; n < TILES; n++)
    UNROLL for (int half = 0; half < 2; half++) {
      int query = queries.token[half], key = first + n * 8 + 2 * t;
      float shift[2] = {0, 0};
      if (how.bias && query < how.tokens && key < how.tokens) {
        const T* at = how.bias + (i64)query * how.tokens + key;
        if (EVEN) unpack_word<T>(*(const u32*)at, shift);
        else shift[0] = widen(at[0]), shift[1] = key + 1 < how.tokens ? widen(at[1]) : 0;
      }
      UNROLL for (int e = 0; e < 2; e++) {
        float& x = s[n][2 * half + e];
#if COSINE
        x *= staged.numbers(0)[key + e];
#endif
        x = x * factor[half] + shift[e] * LOG2E;
        if (how.masked && query < how.tokens && staged.regions()[key + e] != staged.regions()[query]) x += how.mask;
        if (key + e >= how.tokens) x = minus_infinity();  // keys that only fill the chunk
      }
    }
}

// The largest of the scores so far and of this chunk, by row; returns in `shrink` what sums so far are multiplied by.
DEVICE void raise_top(float* top, float* shrink, const float (*s)[4]) {
  UNROLL for (int half = 0; half < 2; half++) {
    float old = top[half];
    UNROLL for (int n = 0; n < TILES; n++) top[half] = fmaxf(top[half], fmaxf(s[n][2 * half], s[n][2 * half + 1]));
    top[half] = max_over_lanes<4>(top[half]);
    shrink[half] = exp2_approx(old - top[half]);
  }
}
