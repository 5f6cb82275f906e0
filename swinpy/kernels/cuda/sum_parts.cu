// out[i] = parts[0][i] + parts[1][i] + ..., in an order that depends on nothing but their number.
// Grid: a block of 256 threads for 32 values; warp w adds up parts w, w + 8, ...
KERNEL void __launch_bounds__(256) sum_parts(const float* __restrict__ parts, T* __restrict__ out, int count, i64 size) {
  SHARED_MEMORY(memory);
  float* sums = (float*)memory;  // 8 x 32
  i64 i = (i64)blockIdx.x * 32 + lane_id();
  float sum = 0;
  if (i < size)
    for (int part = warp_id(); part < count; part += 8) sum += parts[part * size + i];
  sums[threadIdx.x] = sum;
  barrier();
  if (threadIdx.x >= 32 || i >= size) return;
  for (int w = 1; w < 8; w++) sum += sums[32 * w + threadIdx.x];
  out[i] = narrow<T>(sum);
}
