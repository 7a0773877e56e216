// soft_threshold.cpp: the proximal map of tau |x| (CPU). Definition: fastrecon/ops/soft_threshold.py
//   x, y, d_y, d_x [R, M, S] real or complex   tau, d_tau [M] real
#include "broadcast.h"

namespace fastrecon {
namespace FASTRECON_ISA {
namespace {
using std::int64_t;

// n <= kTile numbers and their thresholds.
template <int kWidth, typename T>
FR_INLINE void fwd_tile(const T* x, const T* tau, T* y, int64_t n) {
  if (kWidth == 1) {
    for (int64_t i = 0; i < n; ++i)  // what vanishes keeps its sign, as in the definition
      y[i] = with_sign(at_least(T(0), magnitude(x[i]) - tau[i]), x[i]);
    return;
  }
  T factor[kTile], factors[kWidth * kTile];
  const Groups<kWidth, T> groups(x, 1, 0, n);
  for (int64_t i = 0; i < n; ++i) factor[i] = shrink_factor(groups.norm[i], tau[i] * groups.down[i]);
  expand<kWidth>(factor, factors, n);
  for (int64_t i = 0; i < kWidth * n; ++i) y[i] = x[i] * factors[i];
}

// d_tau[i] is this number's part of the gradient of its threshold. Complex, with u = x / |x|:
// d_x = d_y - tau / |x| (d_y - u <u, d_y>) = factor d_y + radial x,  d_tau = -<u, d_y>.
template <int kWidth, typename T>
FR_INLINE void bwd_tile(const T* d_y, const T* x, const T* tau, T* d_x, T* d_tau, int64_t n) {
  if (kWidth == 1) {
    for (int64_t i = 0; i < n; ++i) {
      const T d = d_y[i];  // loaded either way: a load that depends on a condition keeps SSE2 from vectorising
      d_x[i] = magnitude(x[i]) > tau[i] ? d : T(0);
      d_tau[i] = with_sign(T(1), x[i]) * -d_x[i];
    }
    return;
  }
  T threshold[kTile], inverse[kTile], along[kTile];
  T wide[kWidth * kTile], keep[kWidth * kTile], unit[kWidth * kTile];
  const Groups<kWidth, T> groups(x, 1, 0, n);  // the derivative is the same at every scale
  const T *const norm = groups.norm, *const h = groups.h;
  for (int64_t i = 0; i < n; ++i) {
    threshold[i] = tau[i] * groups.down[i];
    inverse[i] = norm[i] > threshold[i] ? 1 / norm[i] : T(0);
  }
  expand<kWidth>(inverse, wide, n);
  for (int64_t i = 0; i < kWidth * n; ++i) {
    unit[i] = h[i] * wide[i];
    wide[i] = unit[i] * d_y[i];
  }
  fold<kWidth>(wide, along, n);
  for (int64_t i = 0; i < n; ++i) {
    d_tau[i] = -along[i];
    along[i] *= threshold[i] <= kLargest<T> ? threshold[i] * inverse[i] : T(0);
    inverse[i] = shrink_factor(norm[i], threshold[i]);
  }
  expand<kWidth>(along, wide, n);
  expand<kWidth>(inverse, keep, n);
  for (int64_t i = 0; i < kWidth * n; ++i) d_x[i] = d_y[i] * keep[i] + unit[i] * wide[i];
}

// Real numbers of one threshold: d_x, and the part of the threshold's gradient that is theirs.
template <typename T>
FR_INLINE double bwd_whole(const T* d_y, const T* x, T tau, T* d_x, int64_t n) {
  constexpr int lanes = kLanes<double>;
  T copies[3][kTile + lanes];
  d_y = filled(d_y, n, copies[0]);
  x = filled(x, n, copies[1]);
  T* const to = n % lanes ? copies[2] : d_x;
  const Narrow<T> zero{}, limit = tau - zero;
  Vec<double> total[2] = {};
  for (int64_t i = 0; i < n; i += lanes) {
    const Narrow<T> v = load_narrow(x + i), d = at_least(-v, v) > limit ? load_narrow(d_y + i) : zero;
    put(to + i, d);
    total[i / lanes % 2] += widen(v < zero ? d : -d);
  }
  if (to != d_x) std::memcpy(d_x, to, n * sizeof(T));
  return sum_in_order(total[0] + total[1]);
}

template <int kWidth, typename T>
FR_INLINE void fwd(Address x, Address tau, Address y, int64_t R, int64_t M, int64_t S) {
  const int64_t total = R * M * S;
  parallel(tiles_of(total), kWidth * total, [=](int64_t task) {
    const int64_t first = task * kTile, n = at_most(kTile, total - first);
    T t[kTile];
    spread(as<const T>(tau), M, S, first, n, t);
    fwd_tile<kWidth>(as<const T>(x) + kWidth * first, t, as<T>(y) + kWidth * first, n);
  });
}

template <int kWidth, typename T>
FR_INLINE void bwd(Address d_y, Address x, Address tau, Address d_x, Address d_tau, int64_t R, int64_t M, int64_t S) {
  const T *slopes = as<const T>(d_y), *from = as<const T>(x);
  const T* const taus = as<const T>(tau);
  T* const to = as<T>(d_x);
  const auto body = [=](int64_t first, int64_t n, T* part) {
    T t[kTile];
    spread(taus, M, S, first, n, t);
    bwd_tile<kWidth>(slopes + kWidth * first, from + kWidth * first, t, to + kWidth * first, part, n);
  };
  const auto whole = [=](int64_t first, int64_t n) {
    return bwd_whole(slopes + first, from + first, taus[first / S % M], to + first, n);
  };
  T* const out = as<T>(d_tau);
  if constexpr (kWidth == 1)
    sum_to_parameter(R, M, S, R * M * S, out, body, whole);
  else
    sum_to_parameter(R, M, S, kWidth * R * M * S, out, body);
}
}  // namespace

void soft_threshold_fwd(int dtype, Address x, Address tau, Address y, int64_t R, int64_t M, int64_t S) {
  by_dtype<kRealOrComplex>(dtype, [&](auto type) { fwd<type.width, RealOf<decltype(type)>>(x, tau, y, R, M, S); });
}

void soft_threshold_bwd(int dtype, Address d_y, Address x, Address tau, Address d_x, Address d_tau, int64_t R,
                        int64_t M, int64_t S) {
  by_dtype<kRealOrComplex>(
      dtype, [&](auto type) { bwd<type.width, RealOf<decltype(type)>>(d_y, x, tau, d_x, d_tau, R, M, S); });
}
}  // namespace FASTRECON_ISA
}  // namespace fastrecon
