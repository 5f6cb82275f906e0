// Position bias: rows of a table to a map of scores for each head, and back. TABLE is the storage type of the table, T that of the
// bias: under autocast float and a 16-bit one.
// A map has N * M places, seldom a multiple of a vector: values go one by one, neighbouring threads to neighbouring places.
// Source: Liu et al. 2021, "Swin Transformer", equation 4.

// bias (heads, places)[h][p] = table (rows, heads)[index[p]][h]. Grid: places in x, heads in y.
KERNEL void __launch_bounds__(256) position_bias_fwd(const TABLE* __restrict__ table, const int* __restrict__ index,
                     T* __restrict__ bias, i64 places, int heads) {
  const i64 place = (i64)blockIdx.x * blockDim.x + threadIdx.x;
  if (place >= places) return;
  const TABLE* row = table + (i64)index[place] * heads;
  for (int head = blockIdx.y; head < heads; head += gridDim.y) bias[head * places + place] = narrow<T>(widen(row[head]));
}

// gtable (rows, heads)[r][h] = sum of g (heads, places)[h][p] over the places p that read row r: `read_by` (planned, most) lists
// them, filled up with -1; rows from `planned` on are read by none. Grid: a warp for each row in x, heads in y. Lane i adds up
// every 32nd place from the ith, and the lanes' sums are added in a fixed order.
KERNEL void __launch_bounds__(256) position_bias_bwd(const T* __restrict__ g, const int* __restrict__ read_by,
                     TABLE* __restrict__ gtable, i64 rows, int heads, int planned, int most, i64 places) {
  const i64 row = (i64)blockIdx.x * (blockDim.x / 32) + warp_id();
  if (row >= rows) return;
  const int* list = read_by + row * most;
  const int count = row < planned ? most : 0;
  for (int head = blockIdx.y; head < heads; head += gridDim.y) {
    float sum = 0;
    for (int i = lane_id(); i < count; i += 32)
      if (list[i] >= 0) sum += widen(g[head * places + list[i]]);
    sum = sum_over_lanes<32>(sum);
    if (lane_id() == 0) gtable[row * heads + head] = narrow<TABLE>(sum);
  }
}
