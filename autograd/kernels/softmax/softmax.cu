// Softmax over rows, with an additive mask, forward and backward. T is the storage type of x, MASK that of the mask; LANES, N and
// PER say how a row lies in the threads (Row in rows.cuh), which read it once.
#include "rows.cuh"

typedef Row<LANES, N, PER> Line;

// y = softmax(x + mask); a row of -inf alone becomes zeros. The mask, null for none, is broadcast: rows count over the sizes
// (any, n1, n2, n3), where the mask steps by s0 to s3, and by `step` from column to column.
KERNEL void __launch_bounds__(THREADS) softmax_fwd(const T* __restrict__ x, const MASK* __restrict__ mask, T* __restrict__ y, int rows,
                     int columns, int n1, int n2, int n3, i64 s0, i64 s1, i64 s2, i64 s3, int step) {
  SHARED_MEMORY(memory);
  float* scratch = (float*)memory;
  const int row = own_row<LANES>(), width = row < rows ? columns : 0;
  const i64 at = (i64)row * columns;
  const float lowest = float_of(0xff800000u);  // -inf: what is past the end has no weight
  Line v;
  v.load(x + at, width, lowest);
  if (mask) {
    mask += row / n3 / n2 / n1 * s0 + row / n3 / n2 % n1 * s1 + row / n3 % n2 * s2 + row % n3 * s3;
    UNROLL for (int i = 0; i < PER; i++)
      UNROLL for (int j = 0; j < N; j++)
        if (Line::column(i) < width) v.v[i][j] += widen(mask[(i64)(Line::column(i) + j) * step]);
  }
  float peak = lowest;
  UNROLL for (int i = 0; i < PER; i++)
    UNROLL for (int j = 0; j < N; j++) peak = fmaxf(peak, v.v[i][j]);
  peak = max_over_row<LANES>(peak, scratch);
  if (peak == lowest) peak = 0;
  float sum = 0;
  UNROLL for (int i = 0; i < PER; i++)
    UNROLL for (int j = 0; j < N; j++) {
      v.v[i][j] = expf(v.v[i][j] - peak);
      sum += v.v[i][j];
    }
  sum = sum_over_row<LANES>(sum, scratch);
  const float scale = sum == 0 ? 1 : 1 / sum;
  UNROLL for (int i = 0; i < PER; i++)
    UNROLL for (int j = 0; j < N; j++) v.v[i][j] *= scale;
  v.store(y + at, width);
}

// gx = y (g - sum(g y)): the difference first, because it may cancel.
KERNEL void __launch_bounds__(THREADS) softmax_bwd(const T* __restrict__ g, const T* __restrict__ y, T* __restrict__ gx, int rows,
                     int columns) {
  SHARED_MEMORY(memory);
  const int row = own_row<LANES>(), width = row < rows ? columns : 0;
  const i64 at = (i64)row * columns;
  Line grad, v;
  grad.load(g + at, width);
  v.load(y + at, width);
  float sum = 0;
  UNROLL for (int i = 0; i < PER; i++)
    UNROLL for (int j = 0; j < N; j++) sum += grad.v[i][j] * v.v[i][j];
  sum = sum_over_row<LANES>(sum, (float*)memory);
  UNROLL for (int i = 0; i < PER; i++)
    UNROLL for (int j = 0; j < N; j++) v.v[i][j] *= grad.v[i][j] - sum;
  v.store(gx + at, width);
}
