// GELU, forward and backward, with or without a bias: y = z Phi(z), z = x + bias; dy/dz = Phi(z) + z phi(z).
// T is the storage type, N the values that a thread takes at once. Source: Hendrycks & Gimpel 2016.

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

// gx = g dy/dz. The gradient of the bias is the sum of gx over rows.
KERNEL void __launch_bounds__(256) gelu_bwd(const T* __restrict__ g, const T* __restrict__ x, const T* __restrict__ bias, T* __restrict__ gx,
                     i64 size, int channels) {
  i64 first = ((i64)blockIdx.x * blockDim.x + threadIdx.x) * N;
  if (first >= size) return;
  Values<T, N> z, shift, grad;
  z.load(x + first);
  grad.load(g + first);
  if (bias) shift.load(bias + first % channels);
  UNROLL for (int i = 0; i < N; i++) {
    if (bias) z.v[i] += shift.v[i];
    grad.v[i] *= normal_cdf(z.v[i]) + z.v[i] * normal_density(z.v[i]);
  }
  grad.store(gx + first);
}
