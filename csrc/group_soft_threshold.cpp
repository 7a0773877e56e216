// group_soft_threshold.cpp: the proximal map of sum_n tau_n |g_n| (CPU). Definition: fastrecon/ops/group_soft_threshold.py
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
  norms<kWidth>(g, C, stride, n, factor);
  for (int64_t i = 0; i < n; ++i) factor[i] = shrink_factor(factor[i], tau[i * step]);
  expand<kWidth>(factor, factors, n);
  for (int64_t c = 0; c < C; ++c)
    for (int64_t i = 0; i < kWidth * n; ++i) y[c * stride + i] = g[c * stride + i] * factors[i];
}

// With u = g / |g|: d_g = d_y - tau / |g| (d_y - u <u, d_y>) = factor d_y + (tau <u, d_y> / |g|^2) g, d_tau = -<u, d_y>.
template <int kWidth, typename T>
FR_INLINE void bwd_tile(const T* d_y, const T* g, const T* tau, int64_t step, T* d_g, T* d_tau, int64_t C,
                        int64_t stride, int64_t n) {
  T norm[kTile], inverse[kTile], along[kTile], unit[kWidth * kTile], wide[kWidth * kTile] = {}, keep[kWidth * kTile];
  norms<kWidth>(g, C, stride, n, norm);
  for (int64_t i = 0; i < n; ++i) inverse[i] = norm[i] > tau[i * step] ? 1 / norm[i] : T(0);
  expand<kWidth>(inverse, unit, n);
  for (int64_t c = 0; c < C; ++c)
    for (int64_t i = 0; i < kWidth * n; ++i) wide[i] += g[c * stride + i] * unit[i] * d_y[c * stride + i];
  fold<kWidth>(wide, along, n);
  for (int64_t i = 0; i < n; ++i) {
    d_tau[i] = -along[i];
    along[i] *= tau[i * step] * inverse[i];
    inverse[i] = shrink_factor(norm[i], tau[i * step]);
  }
  expand<kWidth>(along, wide, n);
  expand<kWidth>(inverse, keep, n);
  for (int64_t c = 0; c < C; ++c)
    for (int64_t i = 0; i < kWidth * n; ++i)
      d_g[c * stride + i] = d_y[c * stride + i] * keep[i] + g[c * stride + i] * unit[i] * wide[i];
}

template <int kWidth, typename T>
FR_INLINE void fwd(Address g, Address tau, Address y, int64_t B, int64_t C, int64_t N, int64_t M) {
  const int64_t tiles = tiles_of(N), step = M == 1 ? 0 : 1;
  parallel(B * tiles, kWidth * B * C * N, [=](int64_t task) {
    const int64_t b = task / tiles, first = task % tiles * kTile, at = kWidth * (b * C * N + first);
    fwd_tile<kWidth>(reinterpret_cast<const T*>(g) + at, reinterpret_cast<const T*>(tau) + b * M + first * step, step,
                     reinterpret_cast<T*>(y) + at, C, kWidth * N, smaller_of(kTile, N - first));
  });
}

template <int kWidth, typename T>
FR_INLINE void bwd(Address d_y, Address g, Address tau, Address d_g, Address d_tau, int64_t B, int64_t C, int64_t N,
                   int64_t M) {
  const int64_t tiles = tiles_of(N), step = M == 1 ? 0 : 1;
  T* const out = reinterpret_cast<T*>(d_tau);
  Scratch<double> part(B * tiles);
  parallel(B * tiles, kWidth * B * C * N, [&](int64_t task) {
    const int64_t b = task / tiles, first = task % tiles * kTile, at = kWidth * (b * C * N + first);
    const int64_t n = smaller_of(kTile, N - first);
    T own[kTile];
    bwd_tile<kWidth>(reinterpret_cast<const T*>(d_y) + at, reinterpret_cast<const T*>(g) + at,
                     reinterpret_cast<const T*>(tau) + b * M + first * step, step, reinterpret_cast<T*>(d_g) + at, own,
                     C, kWidth * N, n);
    if (M == 1)
      part.data[task] = sum(own, n);
    else
      for (int64_t i = 0; i < n; ++i) out[b * N + first + i] = own[i];
  });
  if (M != 1) return;
  for (int64_t b = 0; b < B; ++b) {
    double total = 0;
    for (int64_t k = 0; k < tiles; ++k) total += part.data[b * tiles + k];
    out[b] = T(total);
  }
}
}  // namespace

void group_soft_threshold_fwd(int dtype, Address g, Address tau, Address y, int64_t B, int64_t C, int64_t N,
                              int64_t M) {
  FASTRECON_SHRINKAGE(dtype, fwd, (g, tau, y, B, C, N, M));
}

void group_soft_threshold_bwd(int dtype, Address d_y, Address g, Address tau, Address d_g, Address d_tau, int64_t B,
                              int64_t C, int64_t N, int64_t M) {
  FASTRECON_SHRINKAGE(dtype, bwd, (d_y, g, tau, d_g, d_tau, B, C, N, M));
}
}  // namespace FASTRECON_ISA
}  // namespace fastrecon
