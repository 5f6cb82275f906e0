// Sums over the rows of a matrix. A block takes lanes * N columns of `chunk` rows; rows go to the block's threads in turn,
// and are added up in the same order whatever else runs. Partial sums of many chunks are summed by a second launch.
#include "rows.cuh"

// x is (rows, columns), columns a multiple of N. Chunk k writes the sums of its rows: of the first `part` columns to
// first[k * part ...], of the next `part` to second[k * part ...], of the rest to third.
KERNEL void __launch_bounds__(256) column_sum(const T* __restrict__ x, OUT* __restrict__ first, OUT* __restrict__ second,
                      OUT* __restrict__ third, int rows, int columns, int part, int lanes, int chunk) {
  SHARED_MEMORY(memory);
  const int start = blockIdx.y * chunk, stop = rows - start < chunk ? rows : start + chunk;
  const int tile = blockIdx.x * lanes * N, column = tile + (int)threadIdx.x % lanes * N;
  float sums[N] = {};
  if (column < columns) {
    for (int row = start + (int)threadIdx.x / lanes; row < stop; row += blockDim.x / lanes) {
      Values<T, N> v;
      v.load(x + (i64)row * columns + column);
      UNROLL for (int i = 0; i < N; i++) sums[i] += v.v[i];
    }
  }
  const i64 base = (i64)blockIdx.y * part;
  add_up_columns<N>(sums, (float*)memory, lanes, tile, columns, [&](int c, float total) {
    if (c < part) first[base + c] = narrow<OUT>(total);
    else if (c - part < part) second[base + c - part] = narrow<OUT>(total);
    else third[base + c - 2 * part] = narrow<OUT>(total);
  });
}
