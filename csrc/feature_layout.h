// feature_layout.h: pieces of the learned regulariser's kernels: activation, rows of images and features, weights.
#pragma once
#include <cmath>

#include "dispatch.h"
#include "parallel.h"
#include "winograd.h"

namespace fastrecon {
namespace FASTRECON_ISA {
namespace {

using std::int64_t;
constexpr int kMaxLayers = 16;
constexpr int kMaxWidth = 128;  // channels, with those that fill the vectors

// ---------------------------------------------------------------- vectors
// Square roots, x >= 0. In float32 by the processor's estimate of 1/sqrt(x), good to e = 4e-4 or 6e-5, and one step of
// Newton, which leaves e^2 / 2 < 1e-7: the exact instruction takes several times as long. Tiny x gives tiny, 0 gives 0.
#if defined(__SSE2__)
FR_INLINE Vec<float> inverse_root(Vec<float> x) {          // that estimate
  const Vec<float> positive = at_least(splat(1e-30f), x);  // NaN stays NaN
#if defined(__AVX512F__)
  return (Vec<float>)_mm512_maskz_rsqrt14_ps(__mmask16(-1), (__m512)positive);
#elif defined(__AVX__)
  return (Vec<float>)_mm256_rsqrt_ps((__m256)positive);
#else
  return (Vec<float>)_mm_rsqrt_ps((__m128)positive);
#endif
}
FR_INLINE Vec<float> root(Vec<float> x) {
  const Vec<float> y = inverse_root(x), s = x * y;
  return s + (x - s * s) * (y * 0.5f);
}
FR_INLINE Vec<float> near_root(Vec<float> x) { return x * inverse_root(x); }  // for what becomes a bfloat16
#else
FR_INLINE Vec<float> root(Vec<float> x) {
  for (int i = 0; i < kLanes<float>; ++i) x[i] = __builtin_sqrtf(x[i]);
  return x;
}
FR_INLINE Vec<float> near_root(Vec<float> x) { return root(x); }
#endif
FR_INLINE Vec<double> root(Vec<double> x) {
  for (int i = 0; i < kLanes<double>; ++i) x[i] = __builtin_sqrt(x[i]);
  return x;
}

// |g| of the C channels of a pixel, whose sum of squares is out of bounds.
template <typename T>
T norm_again(const T* g, int C, T square) {
  const T down = down_of(square);
  Vec<T> sum{};
  for (int k = 0; k < C; k += kLanes<T>) {
    const Vec<T> v = load(g + k) * splat(down);
    sum += v * v;
  }
  return std::sqrt(sum_in_pairs<T>(sum)) / down;
}

template <typename T>
struct Activation {
  T delta, inv_delta, inv_4delta, inv_2delta;
  explicit Activation(double d) : delta(T(d)), inv_delta(T(1 / d)), inv_4delta(T(0.25 / d)), inv_2delta(T(0.5 / d)) {}
  FR_INLINE Vec<T> operator()(Vec<T> t) const {  // a(t); NaN stays NaN
    const Vec<T> d = splat(delta), zero{};
    const Vec<T> u = at_least(-d, at_most(d, t)) + d;
    return u * (u * inv_4delta) + at_least(zero, t - d);
  }
  FR_INLINE Vec<T> slope(Vec<T> h) const {  // a'(t) from h = a(t)
    return root(at_most(splat(T(1)), h * inv_delta));
  }
  FR_INLINE Vec<T> curvature(Vec<T> h) const {  // a''(t) from h = a(t); any one-sided value where it jumps
    const Vec<T> zero{};
    return (h > zero && h < splat(delta)) ? splat(inv_2delta) : zero;
  }
};

// ---------------------------------------------------------------- rows
// Rows lo <= r < hi of one layer, channels-last, one zero pixel on the left, enough on the right; `ring` rows are kept.
template <typename T>
struct Rows {
  T* data = nullptr;
  const T* zero = nullptr;  // a row of zeros
  int64_t stride = 0;
  int ring = 1, lo = 0, hi = 0;
  T* at(int r) const { return data + (r % ring) * stride; }              // pixel -1 of row r
  const T* in(int r) const { return r < lo || r >= hi ? zero : at(r); }  // zeros outside
};

struct Shape {
  int Cin, H, W, C, Cp, L, tiles;  // Cp: C rounded up to whole vectors; tiles: 4x4 tiles a row
  int64_t pixels() const { return 4 * int64_t(tiles) + 2; }
  int64_t stride() const { return pixels() * Cp; }
};

struct Range {
  int lo, hi;
  FR_INLINE bool has(int i) const { return i >= lo && i < hi; }
};

// The pixels that the value counts: of an image all, of a tile those beyond whose margin nothing reaches.
struct Window {
  Range rows, columns;
};

// x [Cin, H, W] with a pixel of zeros around it: rows lo - 1 .. hi of a range, to [Cin, hi - lo + 2, W + 2].
template <typename T>
void read_padded(const Shape& s, Range rows, const T* x, T* to) {
  for (int k = 0; k < s.Cin; ++k)
    for (int r = rows.lo - 1; r <= rows.hi; ++r, to += s.W + 2) {
      __builtin_memset(to, 0, sizeof(T) * (s.W + 2));
      if (r >= 0 && r < s.H) __builtin_memcpy(to + 1, x + (int64_t(k) * s.H + r) * s.W, sizeof(T) * s.W);
    }
}
FR_INLINE int64_t padded_size(const Shape& s, Range rows) {
  return int64_t(s.Cin) * (rows.hi - rows.lo + 2) * (s.W + 2);
}

// The rows `own` of an image [Cin, H, W], cleared.
template <typename T>
void clear_rows(const Shape& s, Range own, T* image) {
  for (int k = 0; k < s.Cin; ++k)
    __builtin_memset(image + (int64_t(k) * s.H + own.lo) * s.W, 0, sizeof(T) * s.W * (own.hi - own.lo));
}

// Adds w_1^T z_1 of row r to the rows of grad [Cin, H, W] that the band owns. by_tap [W, taps]: the row times each tap.
template <typename T>
void scatter_row(const Shape& s, Range own, int r, const T* by_tap, int taps, T* grad) {
  for (int k = 0; k < s.Cin; ++k)
    for (int dy = 0; dy < 3; ++dy) {
      const int y = r + dy - 1;
      if (y < own.lo || y >= own.hi) continue;
      T* g = grad + (int64_t(k) * s.H + y) * s.W;
      const T* p = by_tap + k * 9 + dy * 3;
      for (int x = 0; x < s.W; ++x) {
        T sum = p[x * taps + 1];
        if (x > 0) sum += p[(x - 1) * taps + 2];
        if (x + 1 < s.W) sum += p[(x + 1) * taps];
        g[x] += sum;
      }
    }
}

// 1 for true channels from k on, 0 for those that only fill the vectors: a(0) > 0, but they count nothing.
template <typename T>
FR_INLINE Vec<T> true_channels(int C, int k) {
  T lane[kLanes<T>];
  for (int i = 0; i < kLanes<T>; ++i) lane[i] = k + i < C ? T(1) : T(0);
  return load(lane);
}

// ---------------------------------------------------------------- weights
// How convolutions of equal width are multiplied.
enum class Products : int {
  kWinograd = 0,
  kHalf = 1,    // Winograd, with products of bfloat16 numbers where the processor has them
  kDirect = 2,  // tap by tap: three times the work, half the error
};

// Packed for the products: first [9 Cin, Cp] is w_1, last [Cp, taps] its transpose; up[l] is w_{l+1}, down[l] the
// transposed convolution, l = 1 .. L - 1: at Winograd's points [36, Cp, Cp], with bfloat16 products [36, Cp / 2, Cp, 2]
// of them, with direct ones [9, Cp, Cp].
template <typename T>
struct Weights {
  T *first, *last, *up[kMaxLayers], *down[kMaxLayers];
  int taps;  // 9 Cin rounded up to whole vectors
};

int round_up(int n, int to) { return (n + to - 1) / to * to; }

template <typename T>
int64_t packed_size(const Shape& s) {
  return int64_t(9) * s.Cin * s.Cp + s.Cp * round_up(9 * s.Cin, kLanes<T>) +
         2 * int64_t(s.L - 1) * kPoints * s.Cp * s.Cp;
}

// U [36, K, N] in place as bfloat16 pairs of rows [36, K / 2, N, 2]; where the processor has no such products, nothing.
template <typename T>
void pair_rows(T* U, int64_t size, int N) {
#if defined(__AVX512BF16__)
  if constexpr (sizeof(T) == 4) {
    Half* pairs = reinterpret_cast<Half*>(U);  // half as long: what is written has been read
    for (int64_t i = 0; i < size; i += 2 * N)
      for (int n = 0; n < N; n += kLanes<T>) {
        Half row[2][kLanes<T>];
        for (int k = 0; k < 2; ++k) store(row[k], load(U + i + k * N + n));
        const Bits first = __builtin_convertvector(get<Halves>(row[0]), Bits),
                   second = __builtin_convertvector(get<Halves>(row[1]), Bits);
        put(pairs + i + 2 * n, first | second << 16);
      }
  }
#endif
}

template <typename T>
Weights<T> pack(const Shape& s, const T* w, Products products, T* memory) {
  Weights<T> p;
  p.taps = round_up(9 * s.Cin, kLanes<T>);
  p.first = memory;
  p.last = p.first + int64_t(9) * s.Cin * s.Cp;
  T* next = p.last + int64_t(s.Cp) * p.taps;
  for (int64_t i = 0; i < next - memory; ++i) memory[i] = 0;
  for (int c = 0; c < s.C; ++c)
    for (int k = 0; k < 9 * s.Cin; ++k) p.first[k * s.Cp + c] = p.last[c * p.taps + k] = w[c * 9 * s.Cin + k];
  const int64_t size = int64_t(kPoints) * s.Cp * s.Cp;
  for (int l = 1; l < s.L; ++l, next += 2 * size) p.up[l] = next, p.down[l] = next + size;
  parallel(2 * (s.L - 1), 2 * (s.L - 1) * size, [&](int64_t job) {
    const int l = 1 + int(job) / 2;
    const bool transposed = job % 2;
    const T* kernel = w + int64_t(9) * s.C * s.Cin + (l - 1) * int64_t(9) * s.C * s.C;
    Scratch own;
    T* const taps = own.take<T>(int64_t(9) * s.Cp * s.Cp);
    for (int k = 0; k < s.Cp; ++k)
      for (int n = 0; n < s.Cp; ++n)
        for (int i = 0; i < 9; ++i)
          taps[(k * s.Cp + n) * 9 + i] = k >= s.C || n >= s.C ? T(0)
                                         : transposed         ? kernel[(int64_t(k) * s.C + n) * 9 + i]
                                                              : kernel[(int64_t(n) * s.C + k) * 9 + i];
    T* U = transposed ? p.down[l] : p.up[l];
    if (products == Products::kDirect) {
      for (int i = 0; i < 9; ++i)
        for (int k = 0; k < s.Cp * s.Cp; ++k) U[i * s.Cp * s.Cp + k] = taps[k * 9 + (transposed ? 8 - i : i)];
    } else {
      kernels_to_points(taps, transposed, s.Cp, s.Cp, U);
      if (products == Products::kHalf) pair_rows(U, size, s.Cp);
    }
  });
  return p;
}

}  // namespace
}  // namespace FASTRECON_ISA
}  // namespace fastrecon
