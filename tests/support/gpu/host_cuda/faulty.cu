// Kernels that each do one thing that the hardware punishes, for tests/kernels/test_host_cuda.py.

KERNEL void barrier_of_one_warp(float* y) {
  if (warp_id() == 0) barrier();
  y[threadIdx.x] = 1;
}
KERNEL void barrier_after_return(float* y) {
  if (threadIdx.x == 5) return;
  barrier();
  y[threadIdx.x] = 1;
}
KERNEL void shuffle_after_return(float* y) {
  if (threadIdx.x == 5) return;
  y[threadIdx.x] = shuffle_xor(1.0f, 1);
}
KERNEL void shuffle_of_half(float* y) {
  if (lane_id() < 16) y[threadIdx.x] = shuffle_xor(1.0f, 1);
  barrier();
}
KERNEL void shuffle_beside_mma(float* y) {
  float c[4] = {0, 0, 0, 0};
  if (lane_id() < 16) y[threadIdx.x] = shuffle_xor(1.0f, 1);
  else mma_16x8x16<f16>(c, 0, 0, 0, 0, 0, 0);
}
KERNEL void shuffle_beside_warp_barrier(float* y) {
  if (lane_id() < 16) y[threadIdx.x] = shuffle_xor(1.0f, 1);
  else warp_barrier();
}
KERNEL void shuffle(float* y) { y[threadIdx.x] = shuffle_xor(1.0f, 1); }  // whole with 32 threads, not with 40
KERNEL void behind_shared(float* y, int bytes) {
  SHARED_MEMORY(shared);
  shared[bytes] = 1;
  y[threadIdx.x] = 1;
}
KERNEL void unwritten_shared(float* y) {
  SHARED_MEMORY(shared);
  y[threadIdx.x] = ((float*)shared)[threadIdx.x];
}
KERNEL void unaligned_matrices(float* y) {
  SHARED_MEMORY(shared);
  u32 r[4];
  load_matrices(r, shared + 8 * lane_id());
  y[threadIdx.x] = r[0];
}
KERNEL void takes(float* y, int count, float scale) { y[0] = count * scale; }
