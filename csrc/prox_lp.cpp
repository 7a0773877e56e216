// prox_lp.cpp: the proximal map of lam |x|^p, 0 <= p <= 1, to machine precision (CPU). Definition:
// fastrecon/ops/prox_lp.py
//   x, y, d_y, d_x [R, M, S] real or complex   lam, d_lam [M] real
// In units of |x|, r = |y| / |x| is the larger root of r - 1 + c r^(p-1) = 0 with c = lam p |x|^(p-2).
#include "broadcast.h"
#include "power.h"

namespace fastrecon {
namespace FASTRECON_ISA {
namespace {
using std::int64_t;

template <typename T>
struct InverseRoot {  // x^q for q = -1/2, in a third of the time
  FR_INLINE explicit InverseRoot(double) {}
  FR_INLINE T operator()(T x) const { return 1 / square_root(x); }
};

template <typename T, typename PowerOf>
struct Problem {
  T p, smallest;  // r at the threshold: the least of all r, and the slowest to converge to
  PowerOf power;  // x^(p-1)
  int steps;      // of Halley's method from r = 1 until that r is right to half a unit in the last place of 1
  FR_INLINE explicit Problem(double p) : p(T(p)), smallest(T((2 - 2 * p) / (2 - p))), power(p - 1), steps(0) {
    const double root = (2 - 2 * p) / (2 - p), c = (1 - root) * __builtin_pow(root, 1 - p);
    constexpr double tolerance = sizeof(T) == 4 ? 0x1p-25 : 0x1.8p-52;  // the latter: what double resolves here
    for (double r = 1; r - root > tolerance && steps < 6; ++steps) r = halley_step(r, c * __builtin_pow(r, p - 1), p);
  }
};

template <typename T>
struct Roots {
  T r[kTile];       // |y| / |x|, 0 where |x| <= tau
  T slope[kTile];   // d|y| / d|x|
  T weight[kTile];  // -d|y| / d lam
};

// n numbers a = |x| > tau.
template <bool kDerivative, typename T, typename P>
FR_INLINE void solve_all(const T* a, const T* lam, int64_t n, const P& problem, Roots<T>& out) {
  T weight[kTile], c[kTile];
  const T p = problem.p, smallest = problem.smallest;  // copies: stores to `out` cannot change them
  const auto power = problem.power;
  for (int64_t i = 0; i < n; ++i) {
    weight[i] = p * power(a[i]);
    c[i] = lam[i] * weight[i] / a[i];
    out.r[i] = at_least(smallest, halley_step(T(1), c[i], p));
  }
  for (int64_t i = 0; i < n;
       ++i)  // in units of an infinite |x| the penalty vanishes; `power` knows finite numbers only
    if (a[i] > kLargest<T>) weight[i] = c[i] = 0, out.r[i] = 1;
  for (int step = 1; step < problem.steps; ++step)
    for (int64_t i = 0; i < n; ++i) out.r[i] = at_least(smallest, halley_step(out.r[i], c[i] * power(out.r[i]), p));
  if (!kDerivative) return;
  for (int64_t i = 0; i < n; ++i) {
    const T r = out.r[i], w = power(r);
    out.slope[i] = r / (r - (1 - p) * c[i] * w);
    out.weight[i] = weight[i] * w * out.slope[i];
  }
}

// n numbers a = |x|. Where few of them exceed tau, those are gathered first. NaN counts as exceeding, to come through.
template <bool kDerivative, typename T, typename P>
FR_INLINE void solve(const T* a, const T* lam, const T* tau, int64_t n, const P& problem, Roots<T>& out) {
  T above[kTile];
  for (int64_t i = 0; i < n; ++i) above[i] = a[i] <= tau[i] ? T(0) : T(1);
  const int64_t count = int64_t(sum(above, n));
  if (count == 0 || problem.steps == 0) {  // r is 0, or for p = 0 also 1
    for (int64_t i = 0; i < n; ++i) {
      out.r[i] = above[i];
      if (!kDerivative) continue;
      out.slope[i] = above[i];
      out.weight[i] = 0;
    }
    return;
  }
  if (2 * count >= n) {
    solve_all<kDerivative>(a, lam, n, problem, out);
    for (int64_t i = 0; i < n; ++i) {
      out.r[i] = above[i] != 0 ? out.r[i] : T(0);
      if (!kDerivative) continue;
      out.slope[i] = above[i] != 0 ? out.slope[i] : T(0);
      out.weight[i] = above[i] != 0 ? out.weight[i] : T(0);
    }
    return;
  }
  Roots<T> few;
  T own_a[kTile], own_lam[kTile];
  int index[kTile];
  int64_t k = 0;
  for (int64_t i = 0; i < n; ++i) {
    index[k] = int(i);
    k += above[i] != 0;
  }
  for (int64_t j = 0; j < count; ++j) {
    own_a[j] = a[index[j]];
    own_lam[j] = lam[index[j]];
  }
  solve_all<kDerivative>(own_a, own_lam, count, problem, few);
  for (int64_t i = 0; i < n; ++i) {
    out.r[i] = 0;
    if (kDerivative) out.slope[i] = out.weight[i] = 0;
  }
  for (int64_t j = 0; j < count; ++j) {
    out.r[index[j]] = few.r[j];
    if (!kDerivative) continue;
    out.slope[index[j]] = few.slope[j];
    out.weight[index[j]] = few.weight[j];
  }
}

template <int kWidth, typename T>
FR_INLINE void moduli(const T* x, int64_t n, T* a) {
  if (kWidth == 2) return norms<kWidth>(x, 1, 0, n, a);
  for (int64_t i = 0; i < n; ++i) a[i] = magnitude(x[i]);
}

template <int kWidth, typename T, typename P>
FR_INLINE void fwd_tile(const T* x, const T* lam, const T* tau, T* y, int64_t n, const P& problem) {
  T a[kTile], wide[kWidth * kTile];
  Roots<T> root;
  moduli<kWidth>(x, n, a);
  solve<false>(a, lam, tau, n, problem, root);
  expand<kWidth>(root.r, wide, n);
  for (int64_t i = 0; i < kWidth * n; ++i) y[i] = x[i] * wide[i];
}

// With u = x / |x|: d_x = r d_y + (slope - r) <u, d_y> u, which is slope d_y for real x; d_lam = -weight <u, d_y>.
template <int kWidth, typename T, typename P>
FR_INLINE void bwd_tile(const T* d_y, const T* x, const T* lam, const T* tau, T* d_x, T* d_lam, int64_t n,
                        const P& problem) {
  T a[kTile], along[kTile], unit[kWidth * kTile], wide[kWidth * kTile], keep[kWidth * kTile];
  Roots<T> root;
  if constexpr (kWidth == 2) {
    const Groups<kWidth, T> groups(x, 1, 0, n);
    for (int64_t i = 0; i < n; ++i) {
      a[i] = groups.norm[i] / groups.down[i];
      along[i] = groups.norm[i] > 0 ? groups.norm[i] : T(1);
    }
    expand<kWidth>(along, wide, n);
    for (int64_t i = 0; i < kWidth * n; ++i) unit[i] = groups.h[i] / wide[i];
  } else {
    moduli<kWidth>(x, n, a);
    for (int64_t i = 0; i < n; ++i) unit[i] = x[i] != 0 ? with_sign(T(1), x[i]) : T(0);
  }
  solve<true>(a, lam, tau, n, problem, root);
  for (int64_t i = 0; i < kWidth * n; ++i) wide[i] = unit[i] * d_y[i];
  fold<kWidth>(wide, along, n);
  for (int64_t i = 0; i < n; ++i) {
    d_lam[i] = -along[i] * root.weight[i];
    along[i] *= root.slope[i] - root.r[i];
  }
  if (kWidth == 1) {
    for (int64_t i = 0; i < n; ++i) d_x[i] = root.slope[i] * d_y[i];
    return;
  }
  expand<kWidth>(along, wide, n);
  expand<kWidth>(root.r, keep, n);
  for (int64_t i = 0; i < kWidth * n; ++i) d_x[i] = keep[i] * d_y[i] + wide[i] * unit[i];
}

// tau[m] = (2 - p) (2 - 2 p)^(-(1-p)/(2-p)) lam[m]^(1/(2-p)), in double: float32 has no exponents to spare.
template <typename T>
FR_INLINE void thresholds(const T* lam, int64_t M, double p, T* tau) {
  constexpr double tiny = 0x1p-900, up = 0x1p100;  // lam below `tiny` is brought away from the denormals
  const double q = 1 / (2 - p), factor = (2 - p) * __builtin_pow(2 - 2 * p, (p - 1) * q);
  const double down = __builtin_pow(up, -q);
  const Power<double> power(q);
  parallel(tiles_of(M), M, [=](int64_t task) {
    const int64_t first = task * kTile, last = at_most(M, first + kTile);
    if (p == 0)  // exact where sqrt(2 lam) is
      for (int64_t m = first; m < last; ++m) tau[m] = T(square_root(2 * double(lam[m])));
    else
      for (int64_t m = first; m < last; ++m) {
        const double l = lam[m], root = factor * power(l < tiny ? l * up : l) * (l < tiny ? down : 1);
        tau[m] = T(l > 0 && l <= kLargest<double> ? root : l);
      }
  });
}

template <int kWidth, typename T, typename P>
FR_INLINE void fwd(Address x, Address lam, Address y, int64_t R, int64_t M, int64_t S, double p, const P& problem) {
  const int64_t total = R * M * S;
  Scratch memory;
  T* const tau = memory.take<T>(M);
  thresholds(as<const T>(lam), M, p, tau);
  parallel(tiles_of(total), kWidth * total, [&](int64_t task) {
    const int64_t first = task * kTile, n = at_most(kTile, total - first);
    T l[kTile], t[kTile];
    spread(as<const T>(lam), M, S, first, n, l);
    spread(tau, M, S, first, n, t);
    fwd_tile<kWidth>(as<const T>(x) + kWidth * first, l, t, as<T>(y) + kWidth * first, n, problem);
  });
}

template <int kWidth, typename T, typename P>
FR_INLINE void bwd(Address d_y, Address x, Address lam, Address d_x, Address d_lam, int64_t R, int64_t M, int64_t S,
                   double p, const P& problem) {
  Scratch memory;
  T* const tau = memory.take<T>(M);
  thresholds(as<const T>(lam), M, p, tau);
  sum_to_parameter(R, M, S, kWidth * R * M * S, as<T>(d_lam), [&](int64_t first, int64_t n, T* part) {
    T l[kTile], t[kTile];
    spread(as<const T>(lam), M, S, first, n, l);
    spread(tau, M, S, first, n, t);
    bwd_tile<kWidth>(as<const T>(d_y) + kWidth * first, as<const T>(x) + kWidth * first, l, t,
                     as<T>(d_x) + kWidth * first, part, n, problem);
  });
}

// act(number type, Problem), x^(p-1) in the cheapest way.
template <typename Act>
FR_INLINE void by_power(int dtype, double p, const Act& act) {
  by_dtype<kRealOrComplex>(dtype, [&](auto type) {
    using T = RealOf<decltype(type)>;
    if (p == 0.5) return act(type, Problem<T, InverseRoot<T>>(p));
    act(type, Problem<T, Power<T>>(p));
  });
}
}  // namespace

void prox_lp_fwd(int dtype, Address x, Address lam, Address y, int64_t R, int64_t M, int64_t S, double p) {
  by_power(dtype, p, [&](auto type, const auto& problem) {
    fwd<type.width, RealOf<decltype(type)>>(x, lam, y, R, M, S, p, problem);
  });
}

void prox_lp_bwd(int dtype, Address d_y, Address x, Address lam, Address d_x, Address d_lam, int64_t R, int64_t M,
                 int64_t S, double p) {
  by_power(dtype, p, [&](auto type, const auto& problem) {
    bwd<type.width, RealOf<decltype(type)>>(d_y, x, lam, d_x, d_lam, R, M, S, p, problem);
  });
}
}  // namespace FASTRECON_ISA
}  // namespace fastrecon
