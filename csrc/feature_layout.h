// feature_layout.h: the pieces of the learned regulariser's kernels: activation, memory, rows of features, packed weights.
#pragma once
#include <cmath>
#include <cstdlib>
#include <new>

#include "parallel.h"
#include "scalar_math.h"
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
FR_INLINE Vec<float> inverse_root(Vec<float> x) {  // that estimate
  const Vec<float> positive = larger(splat(1e-30f), x);  // NaN stays NaN
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

template <typename T>
FR_INLINE T sum_lanes(Vec<T> v) {
  T lane[kLanes<T>];
  store(lane, v);
  for (int w = kLanes<T> / 2; w > 0; w /= 2)
    for (int i = 0; i < w; ++i) lane[i] += lane[i + w];
  return lane[0];
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
  return std::sqrt(sum_lanes<T>(sum)) / down;
}

template <typename T>
struct Activation {
  T delta, inv_delta, inv_4delta, inv_2delta;
  explicit Activation(double d) : delta(T(d)), inv_delta(T(1 / d)), inv_4delta(T(0.25 / d)), inv_2delta(T(0.5 / d)) {}
  FR_INLINE Vec<T> operator()(Vec<T> t) const {  // a(t); NaN stays NaN
    const Vec<T> d = splat(delta), zero{};
    const Vec<T> u = larger(-d, smaller(d, t)) + d;
    return u * (u * inv_4delta) + larger(zero, t - d);
  }
  FR_INLINE Vec<T> slope(Vec<T> h) const {  // a'(t) from h = a(t)
    return root(smaller(splat(T(1)), h * inv_delta));
  }
  FR_INLINE Vec<T> curvature(Vec<T> h) const {  // a''(t) from h = a(t); any one-sided value where it jumps
    const Vec<T> zero{};
    return (h > zero && h < splat(delta)) ? splat(inv_2delta) : zero;
  }
};

// ---------------------------------------------------------------- memory
// 64-byte aligned memory of one thread, kept between calls.
class Scratch {
 public:
  ~Scratch() { std::free(block_); }
  void reserve(size_t bytes) {
    used_ = 0;
    if (bytes <= size_) return;
    std::free(block_);
    size_ = 0;
    block_ = static_cast<char*>(std::aligned_alloc(4096, (bytes + 4095) / 4096 * 4096));
    if (!block_) throw std::bad_alloc();
    size_ = (bytes + 4095) / 4096 * 4096;
  }
  template <typename T>
  T* take(int64_t count) {
    T* p = reinterpret_cast<T*>(block_ + used_);
    used_ += padded<T>(count);
    return p;
  }
  template <typename T>
  static size_t padded(int64_t count) {  // an odd number of cache lines: planes do not collide in the cache
    return (size_t(count) * sizeof(T) + 63) / 64 * 64 + 64;
  }

 private:
  char* block_ = nullptr;
  size_t size_ = 0, used_ = 0;
};
thread_local Scratch scratch;

// Rows lo <= r < hi of one layer, channels-last, one zero pixel on the left and enough on the right; `ring` rows are kept.
template <typename T>
struct Rows {
  T* data = nullptr;
  const T* zero = nullptr;  // a row of zeros
  int64_t stride = 0;
  int ring = 1, lo = 0, hi = 0;
  T* at(int r) const { return data + (r % ring) * stride; }                            // pixel -1 of row r
  const T* in(int r) const { return r < lo || r >= hi ? zero : at(r); }               // zeros outside
};

struct Shape {
  int Cin, H, W, C, Cp, L, tiles;  // Cp: C rounded up to whole vectors; tiles: 4x4 tiles a row
  int64_t pixels() const { return 4 * int64_t(tiles) + 2; }
  int64_t stride() const { return pixels() * Cp; }
};

// ---------------------------------------------------------------- weights
// How convolutions of equal width are multiplied.
enum class Products : int {
  kWinograd = 0,
  kHalf = 1,    // Winograd, with products of bfloat16 numbers where the processor has them
  kDirect = 2,  // tap by tap: three times the work, half the error
};

// Packed for the products: first [9 Cin, Cp], last [Cp, taps], U[l] and Ut[l] of layers l + 1, l = 1 .. L - 1:
// [36, Cp, Cp], with bfloat16 products [36, Cp / 2, Cp, 2] of them, with direct ones [9, Cp, Cp].
template <typename T>
struct Weights {
  T *first, *last, *U[kMaxLayers], *Ut[kMaxLayers];
  int taps;  // 9 Cin rounded up to whole vectors
};

int round_up(int n, int to) { return (n + to - 1) / to * to; }

template <typename T>
int64_t packed_size(const Shape& s) {
  return int64_t(9) * s.Cin * s.Cp + s.Cp * round_up(9 * s.Cin, kLanes<T>) + 2 * int64_t(s.L - 1) * kPoints * s.Cp * s.Cp;
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
        const Bits first = __builtin_convertvector(get<Halves>(row[0]), Bits), second = __builtin_convertvector(get<Halves>(row[1]), Bits);
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
  for (int l = 1; l < s.L; ++l, next += 2 * size) p.U[l] = next, p.Ut[l] = next + size;
  parallel(2 * (s.L - 1), 2 * (s.L - 1) * size, [&](int64_t job) {
    const int l = 1 + int(job) / 2;
    const bool transposed = job % 2;
    const T* kernel = w + int64_t(9) * s.C * s.Cin + (l - 1) * int64_t(9) * s.C * s.C;
    T* taps = static_cast<T*>(std::malloc(sizeof(T) * 9 * s.Cp * s.Cp));
    if (!taps) throw std::bad_alloc();
    for (int k = 0; k < s.Cp; ++k)
      for (int n = 0; n < s.Cp; ++n)
        for (int i = 0; i < 9; ++i)
          taps[(k * s.Cp + n) * 9 + i] =
              k >= s.C || n >= s.C ? T(0) : transposed ? kernel[(int64_t(k) * s.C + n) * 9 + i] : kernel[(int64_t(n) * s.C + k) * 9 + i];
    T* U = transposed ? p.Ut[l] : p.U[l];
    if (products == Products::kDirect) {
      for (int i = 0; i < 9; ++i)
        for (int k = 0; k < s.Cp * s.Cp; ++k) U[i * s.Cp * s.Cp + k] = taps[k * 9 + (transposed ? 8 - i : i)];
    } else {
      kernels_to_points(taps, transposed, s.Cp, s.Cp, U);
      if (products == Products::kHalf) pair_rows(U, size, s.Cp);
    }
    std::free(taps);
  });
  return p;
}

}  // namespace
}  // namespace FASTRECON_ISA
}  // namespace fastrecon
