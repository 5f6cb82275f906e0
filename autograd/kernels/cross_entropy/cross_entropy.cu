// Cross-entropy of rows of logits against labels or probabilities, with label smoothing, forward and backward. T is the storage
// type of the logits, TARGET that of the target: i64 for labels, a float for probabilities. Row in rows.cuh says what lies where.
#include "rows.cuh"

typedef Row<LANES, N, PER> Line;

// Targets of a row as probabilities: kept * target + spread, with kept = 1 - smoothing and spread = smoothing / columns, which the
// host rounds once each. A label that is no class makes all of them NaN. Source: Szegedy et al. 2016, section 7.
DEVICE void targets_of(Line& soft, const TARGET* target, int row, int columns, int width, float kept, float spread) {
#if HARD
  const i64 label = width ? target[row] : 0;
  const bool known = label >= 0 && label < columns;
  UNROLL for (int i = 0; i < PER; i++)
    UNROLL for (int j = 0; j < N; j++) {
      bool hit = Line::column(i) + j == label;
      soft.v[i][j] = Line::column(i) >= width ? 0 : !known ? float_of(0x7fc00000u) : hit ? kept + spread : spread;
    }
#else
  soft.load(target + (i64)row * columns, width);
  UNROLL for (int i = 0; i < PER; i++)
    UNROLL for (int j = 0; j < N; j++)
      if (spread != 0 && Line::column(i) < width) soft.v[i][j] = soft.v[i][j] * kept + spread;
#endif
}

// loss (rows) and log_probs (rows, columns) = z - log(sum(exp(z))), z = logits - their maximum.
KERNEL void __launch_bounds__(THREADS) cross_entropy_fwd(const T* __restrict__ logits, const TARGET* __restrict__ target,
                     float kept, float spread, float* __restrict__ loss, float* __restrict__ log_probs, int rows, int columns) {
  SHARED_MEMORY(memory);
  float* scratch = (float*)memory;
  const int row = own_row<LANES>(), width = row < rows ? columns : 0;
  Line z, soft;
  const float lowest = float_of(0xff800000u);
  z.load(logits + (i64)row * columns, width, lowest);
  float peak = lowest, sum = 0;
  UNROLL for (int i = 0; i < PER; i++)
    UNROLL for (int j = 0; j < N; j++) peak = fmaxf(peak, z.v[i][j]);
  peak = max_over_row<LANES>(peak, scratch);
  UNROLL for (int i = 0; i < PER; i++)
    UNROLL for (int j = 0; j < N; j++) {
      z.v[i][j] -= peak;
      sum += Line::column(i) < width ? expf(z.v[i][j]) : 0;
    }
  const float log_sum = logf(sum_over_row<LANES>(sum, scratch));
  targets_of(soft, target, row, columns, width, kept, spread);
  float total = 0;
  UNROLL for (int i = 0; i < PER; i++)
    UNROLL for (int j = 0; j < N; j++) {
      z.v[i][j] -= log_sum;
      // a class without any probability in the target adds nothing, also where its log-probability is -inf
      if (soft.v[i][j] != 0) total += soft.v[i][j] * z.v[i][j];
    }
  total = sum_over_row<LANES>(total, scratch);
  z.store(log_probs + (i64)row * columns, width);
  if (threadIdx.x % LANES == 0 && width) loss[row] = -total;
}

// grad = g (exp(log_probs) sum(target) - target); g of row k is at k * g_step.
KERNEL void __launch_bounds__(THREADS) cross_entropy_bwd(const float* __restrict__ g, int g_step, const float* __restrict__ log_probs,
                     const TARGET* __restrict__ target, float kept, float spread, float* __restrict__ grad, int rows, int columns) {
  SHARED_MEMORY(memory);
  const int row = own_row<LANES>(), width = row < rows ? columns : 0;
  Line z, soft;
  z.load(log_probs + (i64)row * columns, width);
  targets_of(soft, target, row, columns, width, kept, spread);
  float sum = 0;
  UNROLL for (int i = 0; i < PER; i++)
    UNROLL for (int j = 0; j < N; j++) sum += soft.v[i][j];
  sum = sum_over_row<LANES>(sum, (float*)memory);
  const float scale = width ? g[(i64)row * g_step] : 0;
  UNROLL for (int i = 0; i < PER; i++)
    UNROLL for (int j = 0; j < N; j++) z.v[i][j] = scale * (expf(z.v[i][j]) * sum - soft.v[i][j]);
  z.store(grad + (i64)row * columns, width);
}
