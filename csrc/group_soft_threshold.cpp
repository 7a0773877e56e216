// group_soft_threshold.cpp: the proximal map of sum_n tau_n |g_n| (CPU). Definition:
// fastrecon/ops/group_soft_threshold.py
//   g, y, d_y, d_g [B, C, N] real or complex   tau, d_tau [B, M] real, M = 1 or N
#include "tiles.h"

namespace fastrecon {
namespace FASTRECON_ISA {
namespace {
using std::int64_t;

// One tile of n <= kTile pixels, channels `stride` reals apart; tau[i * step] belongs to pixel i.
template <int kWidth, typename T>
FR_INLINE void fwd_tile(const T* g, const T* tau, int64_t step, T* y, int64_t C, int64_t stride, int64_t n) {
  T factor[kTile], factors[kWidth * kTile];
  const Groups<kWidth, T> groups(g, C, stride, n);
  for (int64_t i = 0; i < n; ++i) factor[i] = shrink_factor(groups.norm[i], tau[i * step] * groups.down[i]);
  expand<kWidth>(factor, factors, n);
  for (int64_t c = 0; c < C; ++c)
    for (int64_t i = 0; i < kWidth * n; ++i) y[c * stride + i] = g[c * stride + i] * factors[i];
}

// With u = g / |g|: d_tau = -<u, d_y> and
// d_g = d_y - tau / |g| (d_y - u <u, d_y>) = factor d_y + (tau <u, d_y> / |g|^2) g.
template <int kWidth, typename T>
FR_INLINE void bwd_tile(const T* d_y, const T* g, const T* tau, int64_t step, T* d_g, T* d_tau, int64_t C,
                        int64_t stride, int64_t n) {
  T threshold[kTile], inverse[kTile], along[kTile];
  T unit[kWidth * kTile], wide[kWidth * kTile] = {}, keep[kWidth * kTile];
  const Groups<kWidth, T> groups(g, C, stride, n);  // the derivative is the same at every scale
  const T *const norm = groups.norm, *const h = groups.h;
  const int64_t apart = groups.stride;
  for (int64_t i = 0; i < n; ++i) {
    threshold[i] = tau[i * step] * groups.down[i];
    inverse[i] = norm[i] > threshold[i] ? 1 / norm[i] : T(0);
  }
  expand<kWidth>(inverse, unit, n);
  for (int64_t c = 0; c < C; ++c)
    for (int64_t i = 0; i < kWidth * n; ++i) wide[i] += h[c * apart + i] * unit[i] * d_y[c * stride + i];
  fold<kWidth>(wide, along, n);
  for (int64_t i = 0; i < n; ++i) {
    d_tau[i] = -along[i];
    along[i] *= threshold[i] <= kLargest<T> ? threshold[i] * inverse[i] : T(0);
    inverse[i] = shrink_factor(norm[i], threshold[i]);
  }
  expand<kWidth>(along, wide, n);
  expand<kWidth>(inverse, keep, n);
  for (int64_t c = 0; c < C; ++c)
    for (int64_t i = 0; i < kWidth * n; ++i)
      d_g[c * stride + i] = d_y[c * stride + i] * keep[i] + h[c * apart + i] * unit[i] * wide[i];
}

// The same for a few vectors of real pixels of not too many channels, which stay in the first-level cache: rows of
// images whose sides are powers of two fall on top of each other in it. `lost` counts sums of squares out of bounds.
constexpr int64_t kMostChannels = 64;
constexpr int kPart = 4;  // vectors

template <typename T>
struct Part {
  Vec<T> g[kMostChannels][kPart], norm[kPart], tau[kPart];

  FR_INLINE void read(const T* from, const T* taus, int64_t step, int64_t C, int64_t stride, Vec<T>& lost) {
    Vec<T> square[kPart] = {};
    for (int64_t c = 0; c < C; ++c)
      for (int k = 0; k < kPart; ++k) {
        g[c][k] = load(from + c * stride + k * kLanes<T>);
        square[k] += g[c][k] * g[c][k];
      }
    for (int k = 0; k < kPart; ++k) {
      const Vec<T> one = splat(T(1));
      lost += square[k] >= splat(kSmallSquare<T>) ? (square[k] <= splat(kLargest<T>) ? Vec<T>{} : one) : one;
      T numbers[kLanes<T>];  // one by one in a loop: it becomes one instruction
      store(numbers, square[k]);
      for (int i = 0; i < kLanes<T>; ++i) numbers[i] = square_root(numbers[i]);
      norm[k] = load(numbers);
      tau[k] = step ? load(taus + k * kLanes<T>) : splat(taus[0]);
    }
  }
  FR_INLINE Vec<T> factor(int k) const { return norm[k] > tau[k] ? (norm[k] - tau[k]) / norm[k] : Vec<T>{}; }
};

template <typename T>
FR_INLINE void fwd_part(const T* g, const T* tau, int64_t step, T* y, int64_t C, int64_t stride, Vec<T>& lost) {
  Part<T> p;
  p.read(g, tau, step, C, stride, lost);
  Vec<T> factor[kPart];
  for (int k = 0; k < kPart; ++k) factor[k] = p.factor(k);
  for (int64_t c = 0; c < C; ++c)
    for (int k = 0; k < kPart; ++k) store(y + c * stride + k * kLanes<T>, p.g[c][k] * factor[k]);
}

template <typename T>
FR_INLINE void bwd_part(const T* d_y, const T* g, const T* tau, int64_t step, T* d_g, T* d_tau, int64_t C,
                        int64_t stride, Vec<T>& lost) {
  Part<T> p;
  p.read(g, tau, step, C, stride, lost);
  Vec<T> slope[kMostChannels][kPart], inverse[kPart], along[kPart] = {}, keep[kPart];
  for (int k = 0; k < kPart; ++k) {
    inverse[k] = p.norm[k] > p.tau[k] ? 1 / p.norm[k] : Vec<T>{};
    keep[k] = p.factor(k);
  }
  for (int64_t c = 0; c < C; ++c)
    for (int k = 0; k < kPart; ++k) {
      slope[c][k] = load(d_y + c * stride + k * kLanes<T>);
      along[k] += p.g[c][k] * inverse[k] * slope[c][k];
    }
  for (int k = 0; k < kPart; ++k) {
    store(d_tau + k * kLanes<T>, -along[k]);
    along[k] *= p.tau[k] * inverse[k];
  }
  for (int64_t c = 0; c < C; ++c)
    for (int k = 0; k < kPart; ++k)
      store(d_g + c * stride + k * kLanes<T>, slope[c][k] * keep[k] + p.g[c][k] * inverse[k] * along[k]);
}

// part(i, lost) for the parts that fill n pixels, then whole(i, pixels) for the rest, or all if a sum is out of bounds.
template <int kWidth, typename T, typename F, typename G>
FR_INLINE void in_parts(int64_t C, int64_t n, const F& part, const G& whole) {
  constexpr int64_t size = kPart * kLanes<T>;
  int64_t i = 0;
  if (kWidth == 1 && C <= kMostChannels) {
    Vec<T> lost{};
    for (; i + size <= n; i += size) part(i, lost);
    for (int k = 0; k < kLanes<T>; ++k)
      if (lost[k] != 0) i = 0;
  }
  if (i < n) whole(i, n - i);
}

template <int kWidth, typename T>
FR_INLINE void fwd(Address g, Address tau, Address y, int64_t B, int64_t C, int64_t N, int64_t M) {
  const int64_t tiles = tiles_of(N), step = M == 1 ? 0 : 1;
  parallel(B * tiles, kWidth * B * C * N, [=](int64_t task) {
    const int64_t b = task / tiles, first = task % tiles * kTile, at = kWidth * (b * C * N + first);
    const T *from = as<const T>(g) + at, *taus = as<const T>(tau) + b * M + first * step;
    T* const to = as<T>(y) + at;
    in_parts<kWidth, T>(
        C, at_most(kTile, N - first),
        [=](int64_t i, Vec<T>& lost) { fwd_part(from + i, taus + i * step, step, to + i, C, N, lost); },
        [=](int64_t i, int64_t n) {
          fwd_tile<kWidth>(from + kWidth * i, taus + i * step, step, to + kWidth * i, C, kWidth * N, n);
        });
  });
}

template <int kWidth, typename T>
FR_INLINE void bwd(Address d_y, Address g, Address tau, Address d_g, Address d_tau, int64_t B, int64_t C, int64_t N,
                   int64_t M) {
  const int64_t tiles = tiles_of(N), step = M == 1 ? 0 : 1;
  T* const out = as<T>(d_tau);
  const auto part = [&](int64_t b, int64_t tile, double* slope_of_tau) {
    const int64_t first = tile * kTile, at = kWidth * (b * C * N + first);
    const int64_t n = at_most(kTile, N - first);
    const T *from = as<const T>(g) + at, *slope = as<const T>(d_y) + at;
    const T* const taus = as<const T>(tau) + b * M + first * step;
    T own[kTile], *const to = as<T>(d_g) + at;
    in_parts<kWidth, T>(
        C, n,
        [&](int64_t i, Vec<T>& lost) {
          bwd_part(slope + i, from + i, taus + i * step, step, to + i, own + i, C, N, lost);
        },
        [&](int64_t i, int64_t count) {
          bwd_tile<kWidth>(slope + kWidth * i, from + kWidth * i, taus + i * step, step, to + kWidth * i, own + i, C,
                           kWidth * N, count);
        });
    *slope_of_tau = M == 1 ? sum(own, n) : 0;
    for (int64_t i = 0; i < n && M != 1; ++i) out[b * N + first + i] = own[i];
  };
  const auto take = [=](int64_t b, const double* total) {
    if (M == 1) out[b] = T(*total);
  };
  sum_per_image<1>(B, tiles, kWidth * B * C * N, part, take);
}
}  // namespace

void group_soft_threshold_fwd(int dtype, Address g, Address tau, Address y, int64_t B, int64_t C, int64_t N,
                              int64_t M) {
  by_dtype<kRealOrComplex>(dtype, [&](auto type) { fwd<type.width, RealOf<decltype(type)>>(g, tau, y, B, C, N, M); });
}

void group_soft_threshold_bwd(int dtype, Address d_y, Address g, Address tau, Address d_g, Address d_tau, int64_t B,
                              int64_t C, int64_t N, int64_t M) {
  by_dtype<kRealOrComplex>(
      dtype, [&](auto type) { bwd<type.width, RealOf<decltype(type)>>(d_y, g, tau, d_g, d_tau, B, C, N, M); });
}
}  // namespace FASTRECON_ISA
}  // namespace fastrecon
