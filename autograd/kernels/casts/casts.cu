// Many arrays to another float type in one launch.
//
// A block casts one chunk of at most CHUNK values. `table` has a row of ROW words for each array: its address (a multiple of
// 16), its size, and where its result begins in `out`, in values (a multiple of N). `chunks` has (array, number of the chunk
// within it) for each block. T is what the arrays are made of, OUT what the results are.

const int ROW = 3, THREADS = 256;
const int N = 4;  // values that a thread takes at once: 8 bytes or 16

KERNEL void __launch_bounds__(256) multi_cast(const u64* __restrict__ table, const int* __restrict__ chunks, OUT* __restrict__ out) {
  const u64* row = table + chunks[2 * blockIdx.x] * ROW;
  const i64 start = (i64)chunks[2 * blockIdx.x + 1] * CHUNK, left = (i64)row[1] - start;
  const int count = left < CHUNK ? (int)left : CHUNK, whole = count / N * N;
  const T* from = (const T*)row[0] + start;
  OUT* to = out + row[2] + start;
  for (int i = threadIdx.x * N; i < whole; i += THREADS * N) {
    Values<T, N> x;
    Values<OUT, N> y;
    x.load(from + i);
    UNROLL for (int j = 0; j < N; j++) y.v[j] = x.v[j];
    y.store(to + i);
  }
  for (int i = whole + threadIdx.x; i < count; i += THREADS) to[i] = narrow<OUT>(widen(from[i]));
}
