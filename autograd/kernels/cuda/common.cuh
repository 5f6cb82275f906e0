// Small tools that more than one kernel uses, built on device.cuh alone.
#pragma once

DEVICE int lane_id() { return threadIdx.x & 31; }
DEVICE int warp_id() { return threadIdx.x >> 5; }
DEVICE int ceil_div(int a, int b) { return (a + b - 1) / b; }

// ---- a 32-bit word holds one float or two values of 16 bits

template <class T> DEVICE u32 pack_word(const float* v) { return pack2<T>(v[0], v[1]); }
template <> DEVICE u32 pack_word<float>(const float* v) { return bits_of(v[0]); }

template <class T> DEVICE void unpack_word(u32 word, float* v) {
  v[0] = widen(T{(u16)word});
  v[1] = widen(T{(u16)(word >> 16)});
}
template <> DEVICE void unpack_word<float>(u32 word, float* v) { v[0] = float_of(word); }

// N values of T as floats, loaded and stored at once: 8 or 16 bytes, aligned to their size, or a single value.
template <class T, int N> struct Values {
  static const int BYTES = N * sizeof(T);
  static const int A_WORD = 4 / sizeof(T);  // values in a word
  static_assert(N == 1 || BYTES == 8 || BYTES == 16, "one value, 8 bytes or 16 bytes");
  float v[N];

  DEVICE void load(const T* p) {
    if constexpr (BYTES == 16) {
      Words4 w = load16(p);
      unpack_word<T>(w.x, v), unpack_word<T>(w.y, v + A_WORD);
      unpack_word<T>(w.z, v + 2 * A_WORD), unpack_word<T>(w.w, v + 3 * A_WORD);
    } else if constexpr (BYTES == 8) {
      Words2 w = load8(p);
      unpack_word<T>(w.x, v), unpack_word<T>(w.y, v + A_WORD);
    } else {
      v[0] = widen(*p);
    }
  }

  DEVICE void store(T* p) const {
    if constexpr (BYTES == 16) {
      store16(p, {pack_word<T>(v), pack_word<T>(v + A_WORD), pack_word<T>(v + 2 * A_WORD), pack_word<T>(v + 3 * A_WORD)});
    } else if constexpr (BYTES == 8) {
      store8(p, {pack_word<T>(v), pack_word<T>(v + A_WORD)});
    } else {
      *p = narrow<T>(v[0]);
    }
  }
};

// ---- sums and maxima over neighbouring lanes; every lane gets the result, always added in the same order

template <int LANES> DEVICE float sum_over_lanes(float x) {
  UNROLL for (int mask = LANES / 2; mask > 0; mask /= 2) x += shuffle_xor(x, mask);
  return x;
}
template <int LANES> DEVICE float max_over_lanes(float x) {
  UNROLL for (int mask = LANES / 2; mask > 0; mask /= 2) x = fmaxf(x, shuffle_xor(x, mask));
  return x;
}
