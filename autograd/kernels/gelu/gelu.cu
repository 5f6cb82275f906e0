// GELU, forward and backward, with or without a bias: y = z Phi(z), z = x + bias; dy/dz = Phi(z) + z phi(z).
// T is the storage type, N the values that a thread takes at once. Source: Hendrycks & Gimpel 2016.
#include "rows.cuh"

DEVICE float normal_cdf(float z) { return 0.5f + 0.5f * erff(z * 0.70710678f); }
DEVICE float normal_density(float z) { return 0.39894228f * expf(-0.5f * z * z); }

// x and y have `size` values in rows of `channels`, a multiple of N; bias has `channels`, or is null.
KERNEL void __launch_bounds__(256) gelu_fwd(const T* __restrict__ x, const T* __restrict__ bias, T* __restrict__ y, i64 size, int channels) {
  i64 first = ((i64)blockIdx.x * blockDim.x + threadIdx.x) * N;
  if (first >= size) return;
  Values<T, N> z, shift;
  z.load(x + first);
  if (bias) shift.load(bias + first % channels);
  UNROLL for (int i = 0; i < N; i++) {
    if (bias) z.v[i] += shift.v[i];
    z.v[i] *= normal_cdf(z.v[i]);
  }
  z.store(y + first);
}

// dy/dz, given Phi(z).
DEVICE float slope(float z, float cdf) { return cdf + z * normal_density(z); }

// gx = g dy/dz.

KERNEL void __launch_bounds__(256) gelu_bwd(const T* __restrict__ g, const T* __restrict__ x, T* __restrict__ gx, i64 size) {
  i64 first = ((i64)blockIdx.x * blockDim.x + threadIdx.x) * N;
  if (first >= size) return;
  Values<T, N> z, grad;
  z.load(x + first);
  grad.load(g + first);
  UNROLL for (int i = 0; i < N; i++) grad.v[i] *= slope(z.v[i], normal_cdf(z.v[i]));
  grad.store(gx + first);
}

// With the bias, whose gradient is the sum of gx over rows: a block takes lanes * N columns of `chunk` rows, as column_sum
// does, and writes its sums, before gx is rounded, to row blockIdx.y of `partial` (chunks, columns). y, if it is not null, is
// computed once more on the way.
KERNEL void __launch_bounds__(256) bias_gelu_bwd(const T* __restrict__ g, const T* __restrict__ x, const T* __restrict__ bias,
                     T* __restrict__ gx, T* __restrict__ y, float* __restrict__ partial, int rows, int columns, int lanes, int chunk) {
  SHARED_MEMORY(memory);
  const int start = blockIdx.y * chunk, stop = rows - start < chunk ? rows : start + chunk;
  const int tile = blockIdx.x * lanes * N, column = tile + (int)threadIdx.x % lanes * N;
  float sums[N] = {};
  if (column < columns) {
    Values<T, N> shift;
    shift.load(bias + column);
    for (int row = start + (int)threadIdx.x / lanes; row < stop; row += blockDim.x / lanes) {
      const i64 at = (i64)row * columns + column;
      Values<T, N> z, grad;
      z.load(x + at);
      grad.load(g + at);
      UNROLL for (int i = 0; i < N; i++) {
        z.v[i] += shift.v[i];
        const float cdf = normal_cdf(z.v[i]);
        grad.v[i] *= slope(z.v[i], cdf);
        z.v[i] *= cdf;
        sums[i] += grad.v[i];
      }
      grad.store(gx + at);
      if (y) z.store(y + at);
    }
  }
  float* out = partial + (i64)blockIdx.y * columns;
  add_up_columns<N>(sums, (float*)memory, lanes, tile, columns, [&](int c, float total) { out[c] = total; });
}
