// Layer norm, and residual + DropPath + bias + layer norm, forward and backward. T is the storage type; U that of what linear layers
// make and read beside a residual stream (branch, y and their gradients): T, or 16 bits beside float. LANES, N and PER say how a row
// lies in the threads (Row in rows.cuh): it is read once and finished in registers, the variance in a second pass there.
// Source: Ba et al. 2016, "Layer Normalization", equation 3.
#include "rows.cuh"

typedef Row<LANES, N, PER> Line;

DEVICE float* row_scratch() {
  SHARED_MEMORY(memory);
  return (float*)memory;
}

// v += scale * (branch + bias), with the sum rounded as it is stored: statistics are of what backward reads. A null bias is 0.
DEVICE void add_branch(Line& v, const U* branch, const T* bias, float scale, int columns) {
  Line b;
  if (scale == 0) columns = 0;
  b.load(branch, columns);
  if (bias) {
    Line shift;
    shift.load(bias, columns);
    UNROLL for (int i = 0; i < PER; i++)
      UNROLL for (int j = 0; j < N; j++) b.v[i][j] += shift.v[i][j];
  }
  UNROLL for (int i = 0; i < PER; i++)
    UNROLL for (int j = 0; j < N; j++) v.v[i][j] = widen(narrow<T>(v.v[i][j] + scale * b.v[i][j]));
}

// RESIDUAL: norms x + keep * (branch + branch_bias), and stores that in total.
template <bool RESIDUAL>
DEVICE void forward(const T* x, const U* branch, const T* branch_bias, const T* keep, const T* weight, const T* bias, float eps, T* total,
                    U* y, float* mean, float* rstd, int rows, int rows_a_sample, int columns) {
  float* scratch = row_scratch();
  Line v, scale, shift;
  const int row = own_row<LANES>();
  const int width = row < rows ? columns : 0;
  const i64 at = (i64)row * columns;
  v.load(x + at, width);
  if (RESIDUAL) {
    add_branch(v, branch + at, branch_bias, keep && width ? widen(keep[row / rows_a_sample]) : 1, width);
    v.store(total + at, width);
  }
  float sum = 0;
  UNROLL for (int i = 0; i < PER; i++)
    UNROLL for (int j = 0; j < N; j++) sum += v.v[i][j];
  const float m = sum_over_row<LANES>(sum, scratch) / columns;
  float squares = 0;
  UNROLL for (int i = 0; i < PER; i++)
    UNROLL for (int j = 0; j < N; j++) {
      v.v[i][j] -= m;
      if (Line::column(i) < columns) squares += v.v[i][j] * v.v[i][j];
    }
  const float r = 1 / sqrtf(sum_over_row<LANES>(squares, scratch) / columns + eps);
  scale.load(weight, columns);
  shift.load(bias, columns);
  UNROLL for (int i = 0; i < PER; i++)
    UNROLL for (int j = 0; j < N; j++) v.v[i][j] = v.v[i][j] * r * scale.v[i][j] + shift.v[i][j];
  v.store(y + at, width);
  if (threadIdx.x % LANES == 0 && width) mean[row] = m, rstd[row] = r;
}

// x and y (rows, columns); weight and bias (columns); mean and rstd (rows).
KERNEL void __launch_bounds__(THREADS) layer_norm_fwd(const T* __restrict__ x, const T* __restrict__ weight, const T* __restrict__ bias,
                     float eps, U* __restrict__ y, float* __restrict__ mean, float* __restrict__ rstd, int rows, int columns) {
  forward<false>(x, nullptr, nullptr, nullptr, weight, bias, eps, nullptr, y, mean, rstd, rows, 1, columns);
}

// keep has a scale for every `rows_a_sample` rows, or is null; where it is 0 neither branch nor branch_bias (columns, or null) is read.
KERNEL void __launch_bounds__(THREADS) residual_layer_norm_fwd(const T* __restrict__ x, const U* __restrict__ branch,
                     const T* __restrict__ branch_bias, const T* __restrict__ keep, const T* __restrict__ weight,
                     const T* __restrict__ bias, float eps, T* __restrict__ total, U* __restrict__ y, float* __restrict__ mean,
                     float* __restrict__ rstd, int rows, int rows_a_sample, int columns) {
  forward<true>(x, branch, branch_bias, keep, weight, bias, eps, total, y, mean, rstd, rows, rows_a_sample, columns);
}

// With xhat = (x - mean) rstd and h = g weight: gx = rstd (h - mean(h) - xhat mean(h xhat)) + g_sum (or 0 for null); gbranch, if it
// is not null, is keep gx (gx for no keep). `rows_a_g` rows in a row share one of g (a mean over a map spreads its gradient so).
// Blocks stay and take row after row; row k of `partial` (blocks, 2 columns) gets the sums of g xhat and of g over the rows of
// block k. BIASED: a third part (blocks, 3 columns) gets the sums of keep gx as it is stored.
template <bool BIASED>
DEVICE void backward(const U* g, const T* x, const T* weight, const float* mean, const float* rstd, const T* g_sum, const T* keep, T* gx,
                     U* gbranch, float* partial, int rows, int rows_a_g, int rows_a_sample, int columns) {
  const int parts = BIASED ? 3 : 2;
  float* scratch = row_scratch();
  Line xhat, h, scale, gweight, gbias, gshift;
  scale.load(weight, columns);
  gweight.fill(0);
  gbias.fill(0);
  if (BIASED) gshift.fill(0);
  const int step = gridDim.x * (THREADS / LANES);
  for (int row = own_row<LANES>(); row - (int)(threadIdx.x / LANES) < rows; row += step) {
    const int width = row < rows ? columns : 0;
    const i64 at = (i64)row * columns;
    const float m = width ? mean[row] : 0, r = width ? rstd[row] : 0;
    xhat.load(x + at, width);
    h.load(g + (i64)(row / rows_a_g) * columns, width);
    float first = 0, second = 0;
    UNROLL for (int i = 0; i < PER; i++)
      UNROLL for (int j = 0; j < N; j++) {
        xhat.v[i][j] = (xhat.v[i][j] - m) * r;
        gweight.v[i][j] += h.v[i][j] * xhat.v[i][j];
        gbias.v[i][j] += h.v[i][j];
        h.v[i][j] *= scale.v[i][j];
        first += h.v[i][j];
        second += h.v[i][j] * xhat.v[i][j];
      }
    first = sum_over_row<LANES>(first, scratch) / columns;
    second = sum_over_row<LANES>(second, scratch) / columns;
    UNROLL for (int i = 0; i < PER; i++)
      UNROLL for (int j = 0; j < N; j++) h.v[i][j] = r * (h.v[i][j] - first - xhat.v[i][j] * second);
    if (g_sum) {
      xhat.load(g_sum + at, width);
      UNROLL for (int i = 0; i < PER; i++)
        UNROLL for (int j = 0; j < N; j++) h.v[i][j] += xhat.v[i][j];
    }
    h.store(gx + at, width);
    if (gbranch) {
      const float kept = keep && width ? widen(keep[row / rows_a_sample]) : 1;
      UNROLL for (int i = 0; i < PER; i++)
        UNROLL for (int j = 0; j < N; j++) h.v[i][j] = kept * widen(narrow<T>(h.v[i][j]));
      h.store(gbranch + at, width);
    }
    if (BIASED) {
      UNROLL for (int i = 0; i < PER; i++)
        UNROLL for (int j = 0; j < N; j++) gshift.v[i][j] += widen(narrow<T>(h.v[i][j]));
    }
  }
  // the block's rows of threads are added up in order
  float* out = partial + (i64)blockIdx.x * parts * columns;
  float* mine = LANES < THREADS ? scratch + threadIdx.x / LANES * parts * columns : out;
  gweight.store_floats(mine, columns);
  gbias.store_floats(mine + columns, columns);
  if (BIASED) gshift.store_floats(mine + 2 * columns, columns);
  if (LANES == THREADS) return;
  barrier();
  for (int c = threadIdx.x; c < parts * columns; c += THREADS) {
    float total = 0;
    for (int i = 0; i < THREADS / LANES; i++) total += scratch[i * parts * columns + c];
    out[c] = total;
  }
}

KERNEL void __launch_bounds__(THREADS) layer_norm_bwd(const U* __restrict__ g, const T* __restrict__ x, const T* __restrict__ weight,
                     const float* __restrict__ mean, const float* __restrict__ rstd, const T* __restrict__ g_sum,
                     const T* __restrict__ keep, T* __restrict__ gx, U* __restrict__ gbranch, float* __restrict__ partial, int rows,
                     int rows_a_g, int rows_a_sample, int columns) {
  backward<false>(g, x, weight, mean, rstd, g_sum, keep, gx, gbranch, partial, rows, rows_a_g, rows_a_sample, columns);
}

KERNEL void __launch_bounds__(THREADS) layer_norm_branch_bias_bwd(const U* __restrict__ g, const T* __restrict__ x,
                     const T* __restrict__ weight, const float* __restrict__ mean, const float* __restrict__ rstd,
                     const T* __restrict__ g_sum, const T* __restrict__ keep, T* __restrict__ gx, U* __restrict__ gbranch,
                     float* __restrict__ partial, int rows, int rows_a_g, int rows_a_sample, int columns) {
  backward<true>(g, x, weight, mean, rstd, g_sum, keep, gx, gbranch, partial, rows, rows_a_g, rows_a_sample, columns);
}
