// AdamW on all arrays of a model in three launches: squares of the gradients, a few numbers, the update.
//
// Arrays are cut in chunks of at most CHUNK values and a block works on one chunk, so that many small arrays and a few
// large ones fill the device alike. `table` has a row of ROW words for each array: the addresses of its parameter,
// gradient and both moments, and its size. `chunks` has (array, number of the chunk within it) for each block.
// T is the storage type. Nothing comes back to the host: the norm, and with it whether there is an update at all, stays
// in `numbers`. Sums are made in double, in an order that depends on sizes alone.
// Source: Loshchilov & Hutter 2019, algorithm 2.

const int ROW = 5, THREADS = 256;
const int N = 16 / sizeof(T);  // values that a thread takes at once

enum Number { NORM, UPDATES, GRAD_SCALE, LR, STEP_SIZE, CORRECTION };

DEVICE bool aligned(u64 address) { return address % 16 == 0; }

// Values first, first + THREADS N, ... of a chunk: `body(i, width)` for N at once where addresses allow it, else for one.
// Bodies are structs, not lambdas: CUDA 12 takes a lambda with an `auto` parameter for a function of the host.
template <class Body> DEVICE void for_each(int count, bool wide, Body& body) {
  int whole = wide ? count / N * N : 0;
  for (int i = threadIdx.x * N; i < whole; i += THREADS * N) body(i, Values<T, N>());
  for (int i = whole + threadIdx.x; i < count; i += THREADS) body(i, Values<T, 1>());
}

// The sum over the block; thread 0 gets it.
DEVICE double sum_over_block(double x) {
  SHARED_MEMORY(shared);
  double* parts = (double*)shared;
  parts[threadIdx.x] = x;
  for (int half = THREADS / 2; half > 0; half /= 2) {
    barrier();
    if (threadIdx.x < half) parts[threadIdx.x] += parts[threadIdx.x + half];
  }
  return threadIdx.x ? 0 : parts[0];  // the others would race with the last addition
}

DEVICE int chunk_size(const u64* row, int chunk) {
  i64 left = (i64)row[4] - (i64)chunk * CHUNK;
  return left < CHUNK ? (int)left : CHUNK;
}

struct AddSquares {
  const T* grad;
  double sum;

  template <class V> DEVICE void operator()(int i, V g) {
    g.load(grad + i);
    for (float x : g.v) sum += (double)x * x;
  }
};

// partials[block]: the sum of the squares of a chunk's gradients.
KERNEL void __launch_bounds__(256) grad_squares(const u64* __restrict__ table, const int* __restrict__ chunks, double* __restrict__ partials) {
  const u64* row = table + chunks[2 * blockIdx.x] * ROW;
  int chunk = chunks[2 * blockIdx.x + 1];
  AddSquares squares = {(const T*)row[1] + (i64)chunk * CHUNK, 0};
  for_each(chunk_size(row, chunk), aligned(row[1]), squares);
  double sum = sum_over_block(squares.sum);
  if (threadIdx.x == 0) partials[blockIdx.x] = sum;
}

// The square root of all partial sums, divided by `divisor`; in thread 0 of the only block.
DEVICE double total_norm(const double* partials, int count, double divisor) {
  double sum = 0;
  for (int i = threadIdx.x; i < count; i += THREADS) sum += partials[i];
  return sqrt(sum_over_block(sum)) / divisor;
}

KERNEL void __launch_bounds__(256) grad_norm(const double* __restrict__ partials, int count, double* __restrict__ norm) {
  double found = total_norm(partials, count, 1.0);
  if (threadIdx.x == 0) norm[0] = found;
}

// What the update needs to know. `lr_at` and `step_at` are where the learning rate and the number of the update lie on
// the device; null: they are `lr` and `step`. `clip` of 0: no clipping.
KERNEL void __launch_bounds__(256) adamw_numbers(const double* __restrict__ partials, int count, const double* __restrict__ lr_at, double lr,
                          const i64* __restrict__ step_at, i64 step, double beta1, double beta2, double clip, double divisor,
                          double* __restrict__ numbers) {
  double norm = total_norm(partials, count, divisor);
  if (threadIdx.x > 0) return;
  if (lr_at) lr = lr_at[0];
  if (step_at) step = step_at[0];
  double scale = clip > 0 ? clip / (norm + CLIP_EPS) : 1.0;
  numbers[NORM] = norm;
  numbers[UPDATES] = norm - norm == 0;  // neither infinite nor NaN
  numbers[GRAD_SCALE] = (scale < 1 ? scale : 1) / divisor;
  numbers[LR] = lr;
  numbers[STEP_SIZE] = lr / (1 - pow(beta1, (double)step));
  numbers[CORRECTION] = 1 / sqrt(1 - pow(beta2, (double)step));
}

struct Update {
  T *param, *first, *second;
  const T* grad;
  float beta1, rest1, beta2, rest2, eps, scale, step_size, correction, shrink;

  template <class V> DEVICE void operator()(int i, V p) {
    V g, m, v;
    p.load(param + i), g.load(grad + i), m.load(first + i), v.load(second + i);
    UNROLL for (int j = 0; j < (int)(sizeof(p.v) / sizeof(float)); j++) {
      float x = g.v[j] * scale;
      m.v[j] = beta1 * m.v[j] + rest1 * x;
      v.v[j] = beta2 * v.v[j] + rest2 * x * x;
      p.v[j] = p.v[j] * shrink - step_size * (m.v[j] / (sqrtf(v.v[j]) * correction + eps));
    }
    p.store(param + i), m.store(first + i), v.store(second + i);
  }
};

KERNEL void __launch_bounds__(256) multi_adamw(const u64* __restrict__ table, const int* __restrict__ chunks, const double* __restrict__ decays,
                        const double* __restrict__ numbers, float beta1, float rest1, float beta2, float rest2, float eps) {
  if (numbers[UPDATES] == 0) return;
  int array = chunks[2 * blockIdx.x], chunk = chunks[2 * blockIdx.x + 1];
  const u64* row = table + array * ROW;
  i64 start = (i64)chunk * CHUNK;
  Update update;
  update.param = (T*)row[0] + start, update.grad = (const T*)row[1] + start;
  update.first = (T*)row[2] + start, update.second = (T*)row[3] + start;
  update.beta1 = beta1, update.rest1 = rest1, update.beta2 = beta2, update.rest2 = rest2, update.eps = eps;
  update.scale = (float)numbers[GRAD_SCALE], update.step_size = (float)numbers[STEP_SIZE];
  update.correction = (float)numbers[CORRECTION];
  update.shrink = (float)(1 - numbers[LR] * decays[array]);
  for_each(chunk_size(row, chunk), aligned(row[0] | row[1] | row[2] | row[3]), update);
}
