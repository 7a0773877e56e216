// tiles.h: work in tiles of a fixed size, in parallel, with sums that are the same on any number of threads.
//
// A number has kWidth reals, 1 (real) or 2 (complex, interleaved). Inner loops run over the reals of a tile with unit
// stride, so the compiler vectorises them; `fold` and `expand` go between the reals and the numbers.
#pragma once
#include "dispatch.h"
#include "lanes.h"
#include "parallel.h"

namespace fastrecon {
namespace FASTRECON_ISA {
namespace {
constexpr std::int64_t kTile = 256;  // pixels: 32 channels x 256 floats = 32 KiB, one first-level cache

FR_INLINE std::int64_t tiles_of(std::int64_t n, std::int64_t tile = kTile) { return (n + tile - 1) / tile; }

// Sum of n numbers in double, in the lanes of four vectors, added at the end: one would wait for every addition.
template <typename T>
FR_INLINE double sum(const T* x, std::int64_t n) {
  constexpr int lanes = kLanes<double>;
  Vec<double> total[4] = {};
  std::int64_t i = 0;
  for (; i + 4 * lanes <= n; i += 4 * lanes)
    for (int k = 0; k < 4; ++k) total[k] += widen(load_narrow(x + i + k * lanes));
  for (; i + lanes <= n; i += lanes) total[0] += widen(load_narrow(x + i));
  double result = 0;
  for (; i < n; ++i) result += x[i];
  return result + sum_in_order((total[0] + total[1]) + (total[2] + total[3]));
}

// n <= kTile numbers as they stand, if they fill vectors of doubles; else their copy with zeros after them.
template <typename T>
FR_INLINE const T* filled(const T* x, std::int64_t n, T* copy) {
  if (n % kLanes<double> == 0) return x;
  std::memcpy(copy, x, n * sizeof(T));
  std::memset(copy + n, 0, kLanes<double> * sizeof(T));
  return copy;
}

// out[i] = the sum of the reals of number i.
template <int kWidth, typename T>
FR_INLINE void fold(const T* in, T* out, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) out[i] = kWidth == 1 ? in[i] : in[2 * i] + in[2 * i + 1];
}

// out = in, repeated for every real of a number.
template <int kWidth, typename T>
FR_INLINE void expand(const T* in, T* out, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i)
    for (int k = 0; k < kWidth; ++k) out[kWidth * i + k] = in[i];
}

// Groups g[:, i] of n <= kTile numbers of C channels `stride` reals apart, each times down[i] where its sum of squares
// is out of bounds: norm[i] = |h[:, i]| = down[i] |g[:, i]|. down is 1, and h is g itself, but for rare tiles. Of a
// group with infinities h is the direction, as of atan2, and down 0.
template <int kWidth, typename T>
struct Groups {
  const T* h;
  std::int64_t stride;
  T norm[kTile], down[kTile];

  FR_INLINE Groups(const T* g, std::int64_t C, std::int64_t apart, std::int64_t n) : h(g), stride(apart) {
    using std::int64_t;
    T square[kWidth * kTile] = {}, folded[kTile], lost[kTile];
    for (int64_t c = 0; c < C; ++c)
      for (int64_t i = 0; i < kWidth * n; ++i) square[i] += g[c * apart + i] * g[c * apart + i];
    fold<kWidth>(square, folded, n);
    for (int64_t i = 0; i < n; ++i) {
      lost[i] = folded[i] >= kSmallSquare<T> && folded[i] <= kLargest<T> ? T(0) : T(1);
      norm[i] = square_root(folded[i]);
      down[i] = 1;
    }
    if (sum(lost, n) != 0) rescale(g, C, n, folded);
  }
  Groups(const Groups&) = delete;
  Groups& operator=(const Groups&) = delete;
  FR_INLINE bool rescaled() const { return own_ != nullptr; }

 private:
  using int64_t = std::int64_t;
  T* own_ = nullptr;
  Scratch memory_;

  FR_INLINE void rescale(const T* g, int64_t C, int64_t n, T* folded) {
    const int64_t width = kWidth * n;
    own_ = memory_.take<T>(C * width);
    T downs[kWidth * kTile], square[kWidth * kTile] = {}, largest[kWidth * kTile] = {};
    for (int64_t i = 0; i < n; ++i) down[i] = down_of(folded[i]);
    expand<kWidth>(down, downs, n);
    for (int64_t c = 0; c < C; ++c)
      for (int64_t i = 0; i < width; ++i) {
        const T v = g[c * stride + i] * downs[i];
        own_[c * width + i] = v;
        square[i] += v * v;
        largest[i] = at_least(magnitude(v), largest[i]);
      }
    fold<kWidth>(square, folded, n);
    for (int64_t i = 0; i < n; ++i) {
      norm[i] = square_root(folded[i]);
      const T most = kWidth == 1 ? largest[i] : at_least(largest[2 * i], largest[2 * i + 1]);
      if (most > kLargest<T> && norm[i] == norm[i]) point(i, C, width);
    }
    h = own_, stride = width;
  }

  // Group i, which holds infinities, becomes its direction.
  FR_INLINE void point(int64_t i, int64_t C, int64_t width) {
    T square = 0;
    for (int64_t c = 0; c < C; ++c)
      for (int k = 0; k < kWidth; ++k) {
        T& v = own_[c * width + kWidth * i + k];
        v = magnitude(v) > kLargest<T> ? with_sign(T(1), v) : T(0);
        square += v * v;
      }
    norm[i] = square_root(square);
    down[i] = 0;
  }
};

// out[m] = the sum of partial [blocks, M] over the blocks, in their order.
template <typename T>
FR_INLINE void add_blocks(const double* partial, std::int64_t blocks, std::int64_t M, T* out) {
  using std::int64_t;
  parallel(tiles_of(M), blocks * M, [&](int64_t task) {
    const int64_t first = task * kTile, n = at_most(kTile, M - first);
    double total[kTile] = {};
    for (int64_t block = 0; block < blocks; ++block)
      for (int64_t i = 0; i < n; ++i) total[i] += partial[block * M + first + i];
    for (int64_t i = 0; i < n; ++i) out[first + i] = T(total[i]);
  });
}

// norm[i] = |g[:, i]| for n <= kTile numbers of C channels `stride` reals apart.
template <int kWidth, typename T>
FR_INLINE void norms(const T* g, std::int64_t C, std::int64_t stride, std::int64_t n, T* norm) {
  const Groups<kWidth, T> groups(g, C, stride, n);
  for (std::int64_t i = 0; i < n; ++i) norm[i] = groups.norm[i] / groups.down[i];
}
}  // namespace
}  // namespace FASTRECON_ISA
}  // namespace fastrecon
