// Rows of any length spread over threads, and sums over the rows of a block: what norms, softmax and losses share.
// (Programs have macros LANES, N and PER for Lanes, Width and Count.)

// A row of `columns` values over Lanes neighbouring threads (a power of two), Count times Width neighbouring values to each, as
// floats in registers. Up to 32 lanes are part of a warp, and a block may have many rows; more lanes are the whole block.
// Columns past the end are skipped where memory is meant, so that a row of 0 columns touches none.
template <int Lanes, int Width, int Count> struct Row {
  float v[Count][Width];

  static DEVICE int column(int i) { return (i * Lanes + (int)(threadIdx.x % Lanes)) * Width; }

  DEVICE void fill(float value) {
    UNROLL for (int i = 0; i < Count; i++)
      UNROLL for (int j = 0; j < Width; j++) v[i][j] = value;
  }

  template <class S> DEVICE void load(const S* row, int columns, float otherwise = 0) {
    UNROLL for (int i = 0; i < Count; i++) {
      bool inside = column(i) < columns;
      Values<S, Width> piece;
      if (inside) piece.load(row + column(i));
      UNROLL for (int j = 0; j < Width; j++) v[i][j] = inside ? piece.v[j] : otherwise;
    }
  }

  template <class S> DEVICE void store(S* row, int columns) const {
    UNROLL for (int i = 0; i < Count; i++) {
      Values<S, Width> piece;
      UNROLL for (int j = 0; j < Width; j++) piece.v[j] = v[i][j];
      if (column(i) < columns) piece.store(row + column(i));
    }
  }

  // As a store of float, one value at a time: Width of them may be more than a vector holds.
  DEVICE void store_floats(float* row, int columns) const {
    UNROLL for (int i = 0; i < Count; i++)
      UNROLL for (int j = 0; j < Width; j++)
        if (column(i) < columns) row[column(i) + j] = v[i][j];
  }
};

// The row of this thread. Threads of a warp add up together, so that those past the last row go along, without columns.
template <int Lanes> DEVICE int own_row() { return blockIdx.x * (blockDim.x / Lanes) + threadIdx.x / Lanes; }

// ---- over the lanes of a row; every lane gets the result, in a fixed order. `scratch` has a float a warp of the block,
// and is used for more than 32 lanes alone.

template <int Lanes, class Combine> DEVICE float combine_warps(float x, float* scratch, Combine combine) {
  if (Lanes > 32) {
    barrier();  // until whoever reads an earlier result has it
    if (lane_id() == 0) scratch[warp_id()] = x;
    barrier();
    x = scratch[0];
    NO_UNROLL for (int warp = 1; warp < Lanes / 32; warp++) x = combine(x, scratch[warp]);
  }
  return x;
}
template <int Lanes> DEVICE float sum_over_row(float x, float* scratch) {
  x = sum_over_lanes<(Lanes < 32 ? Lanes : 32)>(x);
  return combine_warps<Lanes>(x, scratch, [](float a, float b) { return a + b; });
}
template <int Lanes> DEVICE float max_over_row(float x, float* scratch) {
  x = max_over_lanes<(Lanes < 32 ? Lanes : 32)>(x);
  return combine_warps<Lanes>(x, scratch, [](float a, float b) { return fmaxf(a, b); });
}

// ---- sums over columns

// The block's threads are rows of `lanes` threads, and each thread has Width sums of the columns from `first + lane * Width` on:
// adds them up over the block's rows, in order, and hands each total to `write(column, total)`. `shared` has a float
// for every sum.
template <int Width, class Write>
DEVICE void add_up_columns(const float* sums, float* shared, int lanes, int first, int columns, Write write) {
  const int width = lanes * Width;
  UNROLL for (int i = 0; i < Width; i++) shared[threadIdx.x * Width + i] = sums[i];
  barrier();
  for (int c = threadIdx.x; c < width && first + c < columns; c += blockDim.x) {
    float total = 0;
    for (int i = c; i < (int)blockDim.x * Width; i += width) total += shared[i];
    write(first + c, total);
  }
}
