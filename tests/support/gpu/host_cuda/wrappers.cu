// Each wrapper of device.cuh by itself, for tests/kernels/test_host_cuda.py. One thread an element where nothing is said.

DEVICE int at() { return blockIdx.x * blockDim.x + threadIdx.x; }

KERNEL void widen_f16(const f16* x, float* y, int n) { if (at() < n) y[at()] = widen(x[at()]); }
KERNEL void widen_bf16(const bf16* x, float* y, int n) { if (at() < n) y[at()] = widen(x[at()]); }
KERNEL void narrow_f16(const float* x, f16* y, int n) { if (at() < n) y[at()] = narrow<f16>(x[at()]); }
KERNEL void narrow_bf16(const float* x, bf16* y, int n) { if (at() < n) y[at()] = narrow<bf16>(x[at()]); }
KERNEL void pack2_f16(const float* x, u32* y, int n) { if (at() < n) y[at()] = pack2<f16>(x[2 * at()], x[2 * at() + 1]); }
KERNEL void pack2_bf16(const float* x, u32* y, int n) { if (at() < n) y[at()] = pack2<bf16>(x[2 * at()], x[2 * at() + 1]); }

KERNEL void add_f16(const u32* a, const u32* b, u32* y, int n) { if (at() < n) y[at()] = add_pairs<f16>(a[at()], b[at()]); }
KERNEL void add_bf16(const u32* a, const u32* b, u32* y, int n) { if (at() < n) y[at()] = add_pairs<bf16>(a[at()], b[at()]); }

KERNEL void bits(const float* x, u32* y, float* back, int n) {
  if (at() < n) y[at()] = bits_of(x[at()]), back[at()] = float_of(y[at()]);
}
KERNEL void high_word(const u32* a, const u32* b, u32* y, int n) {
  if (at() < n) y[at()] = multiply_high(a[at()], b[at()]);
}
KERNEL void permute(const u32* a, const u32* b, const u32* selector, u32* y, int n) {
  if (at() < n) y[at()] = permute_bytes(a[at()], b[at()], selector[at()]);
}
KERNEL void power_of_two(const float* x, float* y, int n) { if (at() < n) y[at()] = exp2_approx(x[at()]); }
KERNEL void inverse_root(const float* x, float* y, int n) { if (at() < n) y[at()] = rsqrtf(x[at()]); }

// y[mask][thread], for the 32 masks and whole warps.
KERNEL void shuffles(float* y, u32* words) {
  for (int mask = 0; mask < 32; mask++) {
    y[mask * blockDim.x + threadIdx.x] = shuffle_xor((float)threadIdx.x, mask);
    words[mask * blockDim.x + threadIdx.x] = shuffle_xor(threadIdx.x << 24, mask);
  }
}

// y[from][thread]: what lane `from` of the thread's warp holds.
KERNEL void broadcasts(float* y) {
  for (int from = 0; from < 32; from++) y[from * blockDim.x + threadIdx.x] = shuffle_from((float)threadIdx.x, from);
}

KERNEL void sums(const float* x, float* sum4, float* max32) {
  sum4[threadIdx.x] = sum_over_lanes<4>(x[threadIdx.x]);
  max32[threadIdx.x] = max_over_lanes<32>(x[threadIdx.x]);
}

// c += a b, all row-major: a (16, 16), b (16, 8), c (16, 8). Loads and stores as PTX lays the fragments out.
template <class T> DEVICE u32 pair(const T* low, const T* high) { return low->bits | (u32)high->bits << 16; }
template <class T> DEVICE void multiply(const T* a, const T* b, float* c) {
  int g = lane_id() / 4, t = lane_id() % 4;
  auto of_a = [&](int row, int column) { return pair(a + row * 16 + column, a + row * 16 + column + 1); };
  auto of_b = [&](int row) { return pair(b + row * 8 + g, b + (row + 1) * 8 + g); };
  float* upper = c + g * 8 + 2 * t;
  float* lower = upper + 64;
  float sum[4] = {upper[0], upper[1], lower[0], lower[1]};
  mma_16x8x16<T>(sum, of_a(g, 2 * t), of_a(g + 8, 2 * t), of_a(g, 2 * t + 8), of_a(g + 8, 2 * t + 8), of_b(2 * t),
                 of_b(2 * t + 8));
  upper[0] = sum[0], upper[1] = sum[1], lower[0] = sum[2], lower[1] = sum[3];
}
KERNEL void multiply_f16(const f16* a, const f16* b, float* c) { multiply(a, b, c); }
KERNEL void multiply_bf16(const bf16* a, const bf16* b, float* c) { multiply(a, b, c); }

// Four matrices of 8 x 8 side by side in shared memory, x (8, 32); y[transposed][lane][matrix] is the word a lane gets.
KERNEL void matrices(const f16* x, u32* y) {
  SHARED_MEMORY(shared);
  f16* tile = (f16*)shared;
  for (int i = lane_id(); i < 256; i += 32) tile[i] = x[i];
  barrier();
  const f16* row = tile + lane_id() % 8 * 32 + lane_id() / 8 * 8;
  load_matrices(y + 4 * lane_id(), row);
  load_matrices_transposed(y + 128 + 4 * lane_id(), row);
}

// Copies in vectors, from and to any offset in bytes.
KERNEL void copy8(const u8* x, u8* y, int from, int to) { store8(y + to, load8(x + from)); }
KERNEL void copy16(const u8* x, u8* y, int from, int to) { store16(y + to, load16(x + from)); }

KERNEL void positions(int* y) {
  int block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
  y[block * blockDim.x + threadIdx.x] = 100 * block + 10 * warp_id() + lane_id() % 10;
}

// The last thread to come wins: which it is, only the schedule says.
KERNEL void last_one(int* y) { *y = threadIdx.x; }
// As it should be: everyone sees what thread 0 wrote before the barrier, whoever comes first.
KERNEL void first_tells(int* y) {
  SHARED_MEMORY(shared);
  if (threadIdx.x == 0) *(int*)shared = 7;
  barrier();
  y[threadIdx.x] = *(int*)shared;
}
KERNEL void neighbours(int* y) {  // within a warp its own barrier is enough
  SHARED_MEMORY(shared);
  int* all = (int*)shared;
  all[threadIdx.x] = threadIdx.x;
  warp_barrier();
  y[threadIdx.x] = all[threadIdx.x ^ 1];
}
