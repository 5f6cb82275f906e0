// Sums over the blocks of a backward kernel, of up to three arrays in one launch: out[i] = parts[0][i] + parts[1][i] + ...,
// in an order that depends on nothing but their number. A null array has size 0.

const int VALUES = 32, WARPS = 8;  // of a block; warp w adds up parts w, w + WARPS, ...

DEVICE i64 tiles(i64 size) { return (size + VALUES - 1) / VALUES; }

DEVICE void add_up(const float* parts, T* out, int count, i64 size, i64 tile) {
  SHARED_MEMORY(memory);
  float* sums = (float*)memory;  // WARPS x VALUES
  i64 i = tile * VALUES + lane_id();
  float sum = 0;
  if (i < size)
    for (int part = warp_id(); part < count; part += WARPS) sum += parts[part * size + i];
  sums[threadIdx.x] = sum;
  barrier();
  if (threadIdx.x >= VALUES || i >= size) return;
  for (int w = 1; w < WARPS; w++) sum += sums[VALUES * w + threadIdx.x];
  out[i] = narrow<T>(sum);
}

// Grid: the tiles of all three, one after another.
KERNEL void __launch_bounds__(256) sum_parts(const float* __restrict__ parts_a, T* __restrict__ out_a, int count_a, i64 size_a,
                                             const float* __restrict__ parts_b, T* __restrict__ out_b, int count_b, i64 size_b,
                                             const float* __restrict__ parts_c, T* __restrict__ out_c, int count_c, i64 size_c) {
  i64 tile = blockIdx.x, behind_a = tiles(size_a), behind_b = behind_a + tiles(size_b);
  if (tile < behind_a)
    add_up(parts_a, out_a, count_a, size_a, tile);
  else if (tile < behind_b)
    add_up(parts_b, out_b, count_b, size_b, tile - behind_a);
  else
    add_up(parts_c, out_c, count_c, size_c, tile - behind_b);
}
