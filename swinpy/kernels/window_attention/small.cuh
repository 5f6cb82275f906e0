// Scores of windows of up to 64 tokens: a warp holds 16 queries against all keys of the window in registers.
//
// TOKENS is fixed when compiling. Keys are padded to tiles of 8 and queries to tiles of 16: this tile padding has nothing
// to do with tokens that padding added to the map, which are keys like any other.
const int KEY_TILES = (TOKENS + 7) / 8;
const int QUERY_TILES = (TOKENS + 15) / 16;
const int FRAGMENT = KEY_TILES * 4;  // scores of a lane

// A token of the window; tile padding repeats the last one.
DEVICE int token_or_last(int i) { return i < TOKENS ? i : TOKENS - 1; }

// ---- mask: a set of tokens is 64 bits

// A shift brings rows and columns of the other edge into the last windows, behind a seam.
struct Seams {
  u64 rows, columns;  // the tokens of a window that lie behind the seam
};

// The keys that query `i` of a window must not see.
DEVICE u64 hidden_keys(int i, const Window& window, Seams seams) {
  u64 hidden = 0;
  i = token_or_last(i);
  if (window.last_row) hidden |= seams.rows >> i & 1 ? ~seams.rows : seams.rows;
  if (window.last_column) hidden |= seams.columns >> i & 1 ? ~seams.columns : seams.columns;
  return hidden;
}

// ---- scores, in units of log2 so that exp2 suffices

// factor q.k + bias, of rows g and g + 8. `bias` is this lane's part of what pack_bias made, or null.
DEVICE void scale_scores(float (*s)[4], const float* factor, const float* bias) {
  UNROLL for (int n = 0; n < KEY_TILES; n++) {
    Values<float, 4> shift;
    shift.v[0] = shift.v[1] = shift.v[2] = shift.v[3] = 0;
    if (bias) shift.load(bias + n * 4);
    UNROLL for (int e = 0; e < 4; e++) s[n][e] = s[n][e] * factor[e / 2] + shift.v[e];
  }
}

// Adds the mask for queries `first` + g and `first` + g + 8, and takes out the keys that only fill a tile.
DEVICE void mask_scores(float (*s)[4], int first, const Window& window, Seams seams, float mask) {
  int g = lane_id() >> 2, t = lane_id() & 3;
  if (window.last_row || window.last_column) {
    UNROLL for (int half = 0; half < 2; half++) {
      u64 hidden = hidden_keys(first + g + 8 * half, window, seams) >> (2 * t);
      UNROLL for (int n = 0; n < KEY_TILES; n++)
        UNROLL for (int e = 0; e < 2; e++)
          if (hidden >> (n * 8 + e) & 1) s[n][2 * half + e] += mask;
    }
  }
  if (TOKENS % 8) {
    const int n = KEY_TILES - 1;
    UNROLL for (int e = 0; e < 4; e++)
      if (n * 8 + 2 * t + e % 2 >= TOKENS) s[n][e] = minus_infinity();
  }
}

// Scores to exp(score - largest of the row); `sums` are those of the two rows.
DEVICE void exponentials(float (*s)[4], float* sums) {
  float top[2] = {LOWEST, LOWEST};
  UNROLL for (int n = 0; n < KEY_TILES; n++)
    UNROLL for (int e = 0; e < 4; e++) top[e / 2] = fmaxf(top[e / 2], s[n][e]);
  sums[0] = sums[1] = 0;
  UNROLL for (int half = 0; half < 2; half++) top[half] = max_over_lanes<4>(top[half]);
  UNROLL for (int n = 0; n < KEY_TILES; n++)
    UNROLL for (int e = 0; e < 4; e++) s[n][e] = exp2_approx(s[n][e] - top[e / 2]), sums[e / 2] += s[n][e];
  UNROLL for (int half = 0; half < 2; half++) sums[half] = sum_over_lanes<4>(sums[half]);
}
