// Pixels in another order: 2x2 neighbours side by side (and back), and the patches of images as rows.
// T is the storage type, N the values that a thread moves at once, S the type of the images' pixels. A warp works on one
// cell of 2x2 pixels, or on one patch.

const int WARPS = 8;

DEVICE void copy(T* to, const T* from) {
  if constexpr (N * sizeof(T) == 16) store16(to, load16(from));
  else *to = *from;
}
DEVICE void clear(T* to) {
  if constexpr (N * sizeof(T) == 16) store16(to, {0, 0, 0, 0});
  else *to = narrow<T>(0.0f);
}

// `map` is (B, height, width, channels), `cells` (B, h, w, 4 channels): the pixels (0,0), (1,0), (0,1), (1,1) of each
// 2x2, zeros where the map ends before. N divides `channels`.
template <bool FORWARD> DEVICE void merge(const T* from, T* to, int count, int height, int width, int channels) {
  int cell = blockIdx.x * WARPS + warp_id();
  if (cell >= count) return;
  int h = ceil_div(height, 2), w = ceil_div(width, 2);
  int j = cell % w, i = cell / w % h, image = cell / w / h;
  for (int at = lane_id() * N; at < 4 * channels; at += 32 * N) {
    int neighbour = at / channels, row = 2 * i + neighbour % 2, column = 2 * j + neighbour / 2;
    bool inside = row < height && column < width;
    i64 in_cells = (i64)cell * 4 * channels + at;
    i64 in_map = (((i64)image * height + row) * width + column) * channels + at % channels;
    if (!inside && FORWARD) clear(to + in_cells);
    if (inside) copy(to + (FORWARD ? in_cells : in_map), from + (FORWARD ? in_map : in_cells));
  }
}

KERNEL void __launch_bounds__(256) patch_merge_fwd(const T* __restrict__ x, T* __restrict__ y, int count, int height, int width, int channels) {
  merge<true>(x, y, count, height, width, channels);
}

// Every pixel lies in one cell: what scatters is a gather, and nothing is added.
KERNEL void __launch_bounds__(256) patch_merge_bwd(const T* __restrict__ g, T* __restrict__ gx, int count, int height, int width, int channels) {
  merge<false>(g, gx, count, height, width, channels);
}

DEVICE float widen(u8 x) { return (float)x; }

// Row (image, i, j) is the patch of `ph` x `pw` pixels there, (channel, row, column); zeros beyond the image. With `mean`
// and `std`, of each channel, a pixel is (pixel / 255 - mean) / std.
KERNEL void __launch_bounds__(256) patch_rows(const S* __restrict__ images, T* __restrict__ rows, const float* __restrict__ mean,
                       const float* __restrict__ std, int count, int channels, int height, int width, int ph, int pw) {
  int patch = blockIdx.x * WARPS + warp_id();
  if (patch >= count) return;
  int h = ceil_div(height, ph), w = ceil_div(width, pw), size = channels * ph * pw;
  int j = patch % w, i = patch / w % h, image = patch / w / h;
  for (int at = lane_id(); at < size; at += 32) {
    int channel = at / (ph * pw), row = i * ph + at / pw % ph, column = j * pw + at % pw;
    float value = 0;
    if (row < height && column < width) {
      value = widen(images[(((i64)image * channels + channel) * height + row) * width + column]);
      if (mean) value = (value / 255.0f - mean[channel]) / std[channel];
    }
    rows[(i64)patch * size + at] = narrow<T>(value);
  }
}
