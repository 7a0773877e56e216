// smoothed_l21.cpp: smoothed l2,1 norm and its gradient field (CPU). Definition: fastrecon/ops/smoothed_l21.py
//   g, dual, d_dual, d_g [B, C, N]   norm [B, N]   eps, value, d_value, d_eps [B]; all of one real type
#include "tiles.h"

namespace fastrecon {
namespace FASTRECON_ISA {
namespace {
using std::int64_t;

// One tile of n <= kTile pixels, channels `stride` apart; returns its part of the value.
template <typename T>
FR_INLINE double fwd_tile(const T* g, T eps, T* dual, T* norm, int64_t C, int64_t stride, int64_t n) {
  T radius[kTile], value[kTile];
  const Groups<1, T> groups(g, C, stride, n);
  for (int64_t i = 0; i < n; ++i) {
    norm[i] = groups.norm[i] / groups.down[i];
    radius[i] = at_least(eps, norm[i]);
    value[i] = smoothed_norm(norm[i], eps);
  }
  // divided, not multiplied by the inverse: a single channel gives exactly 1
  if (groups.rescaled())
    for (int64_t c = 0; c < C; ++c)
      for (int64_t i = 0; i < n; ++i)
        dual[c * stride + i] = norm[i] > eps ? groups.h[c * n + i] / groups.norm[i] : g[c * stride + i] / radius[i];
  else
    for (int64_t c = 0; c < C; ++c)
      for (int64_t i = 0; i < n; ++i) dual[c * stride + i] = g[c * stride + i] / radius[i];
  return sum(value, n);
}

// One tile of the derivative; returns its part of d_eps. With y the dual and n = max(norm, eps),
// d_g = v y + (d_dual - y <y, d_dual>) / n outside the ball of radius eps, where the projection falls away inside.
template <typename T>
FR_INLINE double bwd_tile(const T* d_dual, T v, T eps, const T* dual, const T* norm, T* d_g, int64_t C, int64_t stride,
                          int64_t n) {
  T along[kTile] = {}, inverse[kTile], outward[kTile], d_eps[kTile];
  for (int64_t c = 0; c < C; ++c)
    for (int64_t i = 0; i < n; ++i) along[i] += dual[c * stride + i] * d_dual[c * stride + i];
  for (int64_t i = 0; i < n; ++i) inverse[i] = at_most(kLargest<T>, 1 / at_least(eps, norm[i]));
  for (int64_t i = 0; i < n; ++i) {
    const T ratio = at_most(T(1), norm[i] / eps), a = along[i];
    outward[i] = norm[i] > eps ? a : T(0);
    d_eps[i] = -v / 2 * ratio * ratio - (a - outward[i]) * inverse[i];
  }
  for (int64_t c = 0; c < C; ++c)
    for (int64_t i = 0; i < n; ++i)
      d_g[c * stride + i] =
          (d_dual[c * stride + i] - dual[c * stride + i] * outward[i]) * inverse[i] + v * dual[c * stride + i];
  return sum(d_eps, n);
}

// tile(b, offset of its first pixel, n) for all tiles of all images; out[b] = the sum of what it returns.
template <typename T, typename F>
FR_INLINE void sum_tiles(int64_t B, int64_t C, int64_t N, T* out, const F& tile) {
  const auto part = [&](int64_t b, int64_t i, double* value) {
    *value = tile(b, i * kTile, at_most(kTile, N - i * kTile));
  };
  sum_per_image<1>(B, tiles_of(N), B * C * N, part, [=](int64_t b, const double* total) { out[b] = T(*total); });
}

template <typename T>
FR_INLINE void fwd(Address g, Address eps, Address value, Address dual, Address norm, int64_t B, int64_t C, int64_t N) {
  sum_tiles(B, C, N, as<T>(value), [=](int64_t b, int64_t first, int64_t n) {
    const int64_t at = b * C * N + first;
    return fwd_tile(as<const T>(g) + at, as<const T>(eps)[b], as<T>(dual) + at, as<T>(norm) + b * N + first, C, N, n);
  });
}

template <typename T>
FR_INLINE void bwd(Address d_value, Address d_dual, Address eps, Address dual, Address norm, Address d_g, Address d_eps,
                   int64_t B, int64_t C, int64_t N) {
  sum_tiles(B, C, N, as<T>(d_eps), [=](int64_t b, int64_t first, int64_t n) {
    const int64_t at = b * C * N + first;
    return bwd_tile(as<const T>(d_dual) + at, as<const T>(d_value)[b], as<const T>(eps)[b], as<const T>(dual) + at,
                    as<const T>(norm) + b * N + first, as<T>(d_g) + at, C, N, n);
  });
}
}  // namespace

void smoothed_l21_fwd(int dtype, Address g, Address eps, Address value, Address dual, Address norm, int64_t B,
                      int64_t C, int64_t N) {
  by_dtype<kReal>(dtype, [&](auto type) { fwd<RealOf<decltype(type)>>(g, eps, value, dual, norm, B, C, N); });
}

void smoothed_l21_bwd(int dtype, Address d_value, Address d_dual, Address eps, Address dual, Address norm, Address d_g,
                      Address d_eps, int64_t B, int64_t C, int64_t N) {
  by_dtype<kReal>(
      dtype, [&](auto type) { bwd<RealOf<decltype(type)>>(d_value, d_dual, eps, dual, norm, d_g, d_eps, B, C, N); });
}
}  // namespace FASTRECON_ISA
}  // namespace fastrecon
