// prox_lp.cpp: the proximal map of lam |x|^p, 0 <= p <= 1, to machine precision (CPU). Definition:
// fastrecon/ops/prox_lp.py
//   x, y, d_y, d_x [R, M, S] real or complex   lam, d_lam [M] real
//   c [B, N]   value [B] double   value = sum_i |c_i|^p
// In units of |x|, r = |y| / |x| is the larger root of r - 1 + c r^(p-1) = 0 with c = lam p |x|^(p-2). It depends on
// tau / |x| alone, tau being where |x| becomes nonzero.
#include "broadcast.h"
#include "power.h"

namespace fastrecon {
namespace FASTRECON_ISA {
namespace {
using std::int64_t;

template <typename T, bool kInverse>
struct Root {  // x^q for q = 1/2, or -1/2, in a third of the time
  FR_INLINE explicit Root(double) {}
  FR_INLINE T operator()(T x) const { return kInverse ? 1 / square_root(x) : square_root(x); }
};

// r is found by a polynomial, where that is not exact enough also by steps of Halley's method. As a function of c, r
// has a branch point where both roots meet, at c = most / ratio beyond the threshold's c = most; as one of s = sqrt(1 -
// ratio c / most) it is smooth. The polynomial is of u = (1 - s) / (1 - least s), in [0, 1], and r - 1 divisible by u:
// without penalty y is x.
template <typename T, typename PowerOf, typename RiseOf>
struct Problem {
  static constexpr int kTerms = 7;  // enough without Halley's method for float and p < 0.88
  // (1 - cos(k pi / 14)) / 2: Chebyshev's points, each followed by where a polynomial through them errs most
  static constexpr double kPoints[] = {0.012536043909088196, 0.049515566048790434,
                                       0.10908425876598511,  0.18825509907063323,
                                       0.28305813044122097,  0.38873953302184272,
                                       0.49999999999999989,  0.61126046697815717,
                                       0.71694186955877903,  0.8117449009293668,
                                       0.89091574123401474,  0.95048443395120963,
                                       0.98746395609091187,  1};
  T p, smallest;          // r at the threshold: the least of all r
  T most, ratio, widest;  // c there, the ratio above, and 1 / (1 - least s)
  T terms[kTerms];        // of (1 - r) / u
  PowerOf power;          // x^(p-1)
  RiseOf rise;            // x^(1-p)
  int steps;              // of Halley's method
  bool hard;              // whether r is 1 to rounding wherever it is not 0

  FR_INLINE explicit Problem(double p) : p(T(p)), most(0), ratio(0), widest(0), terms{}, power(p - 1), rise(1 - p) {
    constexpr double tolerance = sizeof(T) == 4 ? 0x1p-25 : 0x1.8p-52;  // half a unit in the last place of 1; the
    const double root = (2 - 2 * p) / (2 - p);                          // latter: what double resolves here
    smallest = T(root), steps = 0, hard = 1 - root <= tolerance;
    if (hard) return;
    const double c = (1 - root) * __builtin_pow(root, 1 - p), q = p * __builtin_pow(2.0, 1 - p);
    const double range = 1 - square_root(at_least(0.0, 1 - q)), slope = 2 * range * c / q;  // slope: of 1 - r at u = 0
    const auto r_near = [=](double u) { return 1 - u * (slope + (1 - root - slope) * u); };
    const auto u_of = [=](double r) {
      return (1 - square_root(at_least(0.0, 1 - q / c * (1 - r) * __builtin_pow(r, 1 - p)))) / range;
    };
    double u[kTerms], found[kTerms], whole[kTerms] = {};  // by divided differences
    for (int k = 0; k < kTerms; ++k) {
      const double r = r_near(kPoints[2 * k]);
      u[k] = u_of(r), found[k] = (1 - r) / u[k];
    }
    for (int order = 1; order < kTerms; ++order)
      for (int k = kTerms - 1; k >= order; --k) found[k] = (found[k] - found[k - 1]) / (u[k] - u[k - order]);
    for (int k = kTerms - 1; k >= 0; --k)
      for (int i = kTerms - 1; i >= 0; --i) whole[i] = (i > 0 ? whole[i - 1] : found[k]) - u[k] * whole[i];
    for (int k = 0; k < kTerms; ++k) terms[k] = T(whole[k]);
    most = T(c), ratio = T(q), widest = T(1 / range);
    for (int k = 0; k < kTerms; ++k) {
      const double r = r_near(kPoints[2 * k + 1]), at = u_of(r);
      double guess = at_least(root, 1 - at * polynomial(whole, at));
      int step = 0;
      for (; magnitude(guess - r) > tolerance && step < 6; ++step)
        guess = at_least(root, halley_step(guess, (1 - r) * __builtin_pow(r / guess, 1 - p), p));
      steps = at_least(step, steps);
    }
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
FR_INLINE void solve_all(const T* a, const T* tau, int64_t n, const P& problem, Roots<T>& out) {
  constexpr T faint = sizeof(T) == 4 ? T(0x1p-40) : T(0x1p-70);  // of tau / a, where r is 1
  T c[kTile], value[kTile];
  const P own = problem;  // a copy: stores to `out` cannot change it
  for (int64_t i = 0; i < n; ++i) {
    const T share = at_most(T(1), at_least(faint, tau[i] / a[i])), part = share * own.rise(share);  // c / most
    const T u = (1 - square_root(at_least(T(0), 1 - own.ratio * part))) * own.widest;
    c[i] = own.most * part;
    value[i] = at_least(own.smallest, 1 - u * polynomial(own.terms, u));
  }
  for (int step = 0; step < own.steps; ++step)
    for (int64_t i = 0; i < n; ++i)
      value[i] = at_least(own.smallest, halley_step(value[i], c[i] * own.power(value[i]), own.p));
  for (int64_t i = 0; i < n; ++i) out.r[i] = value[i];
  if (!kDerivative) return;
  for (int64_t i = 0; i < n; ++i) {
    const T r = value[i], w = own.power(r);
    out.slope[i] = r / (r - (1 - own.p) * c[i] * w);
    const T weight = own.p * own.power(a[i]) * w * out.slope[i];  // `power` knows finite numbers only
    out.weight[i] = a[i] > kLargest<T> ? T(0) : weight;
  }
}

// n numbers a = |x|. Where few of them exceed tau, those are gathered first. NaN counts as exceeding, to come through.
template <bool kDerivative, typename T, typename P>
FR_INLINE void solve(const T* a, const T* tau, int64_t n, const P& problem, Roots<T>& out) {
  T above[kTile];
  for (int64_t i = 0; i < n; ++i) above[i] = a[i] <= tau[i] ? T(0) : T(1);
  const int64_t count = int64_t(sum(above, n));
  if (count == 0 || problem.hard) {
    for (int64_t i = 0; i < n; ++i) {
      out.r[i] = above[i];
      if (!kDerivative) continue;
      out.slope[i] = above[i];
      out.weight[i] = 0;
    }
    return;
  }
  if (2 * count >= n) {
    solve_all<kDerivative>(a, tau, n, problem, out);
    for (int64_t i = 0; i < n; ++i) {
      out.r[i] = above[i] != 0 ? out.r[i] : T(0);
      if (!kDerivative) continue;
      out.slope[i] = above[i] != 0 ? out.slope[i] : T(0);
      out.weight[i] = above[i] != 0 ? out.weight[i] : T(0);
    }
    return;
  }
  Roots<T> few;
  T own_a[kTile], own_tau[kTile];
  int index[kTile];
  int64_t k = 0;
  for (int64_t i = 0; i < n; ++i) {
    index[k] = int(i);
    k += above[i] != 0;
  }
  for (int64_t j = 0; j < count; ++j) {
    own_a[j] = a[index[j]];
    own_tau[j] = tau[index[j]];
  }
  solve_all<kDerivative>(own_a, own_tau, count, problem, few);
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
FR_INLINE void fwd_tile(const T* x, const T* tau, T* y, int64_t n, const P& problem) {
  T a[kTile], wide[kWidth * kTile];
  Roots<T> root;
  moduli<kWidth>(x, n, a);
  solve<false>(a, tau, n, problem, root);
  expand<kWidth>(root.r, wide, n);
  for (int64_t i = 0; i < kWidth * n; ++i) y[i] = x[i] * wide[i];
}

// With u = x / |x|: d_x = r d_y + (slope - r) <u, d_y> u, which is slope d_y for real x; d_lam = -weight <u, d_y>.
template <int kWidth, typename T, typename P>
FR_INLINE void bwd_tile(const T* d_y, const T* x, const T* tau, T* d_x, T* d_lam, int64_t n, const P& problem) {
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
  solve<true>(a, tau, n, problem, root);
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
    T t[kTile];
    spread(tau, M, S, first, n, t);
    fwd_tile<kWidth>(as<const T>(x) + kWidth * first, t, as<T>(y) + kWidth * first, n, problem);
  });
}

template <int kWidth, typename T, typename P>
FR_INLINE void bwd(Address d_y, Address x, Address lam, Address d_x, Address d_lam, int64_t R, int64_t M, int64_t S,
                   double p, const P& problem) {
  Scratch memory;
  T* const tau = memory.take<T>(M);
  thresholds(as<const T>(lam), M, p, tau);
  sum_to_parameter(R, M, S, kWidth * R * M * S, as<T>(d_lam), [&](int64_t first, int64_t n, T* part) {
    T t[kTile];
    spread(tau, M, S, first, n, t);
    bwd_tile<kWidth>(as<const T>(d_y) + kWidth * first, as<const T>(x) + kWidth * first, t, as<T>(d_x) + kWidth * first,
                     part, n, problem);
  });
}

// A tile's part of the sum of |c|^p, in double, which has all numbers of float as normal ones.
template <int kWidth, typename T>
FR_INLINE double power_sum(const T* c, int64_t n, double p, const Power<double>& power) {
  constexpr double tiny = 0x1p-900, up = 0x1p100;
  const double down = __builtin_pow(up, -p);
  T a[kTile];
  double part[kTile];
  moduli<kWidth>(c, n, a);
  for (int64_t i = 0; i < n; ++i) {
    const double x = a[i], value = power(x < tiny ? x * up : x) * (x < tiny ? down : 1);
    part[i] = x > 0 && x <= kLargest<double> ? value : x;  // NaN comes through
  }
  return sum(part, n);
}

// act(number type, Problem), powers in the cheapest way.
template <typename Act>
FR_INLINE void by_power(int dtype, double p, const Act& act) {
  by_dtype<kRealOrComplex>(dtype, [&](auto type) {
    using T = RealOf<decltype(type)>;
    if (p == 0.5) return act(type, Problem<T, Root<T, true>, Root<T, false>>(p));
    act(type, Problem<T, Power<T>, Power<T>>(p));
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

void lp_value(int dtype, Address c, Address value, int64_t B, int64_t N, double p) {
  by_dtype<kRealOrComplex>(dtype, [&](auto type) {
    using T = RealOf<decltype(type)>;
    const int64_t tiles = tiles_of(N);
    const Power<double> power(p);
    const auto part = [=](int64_t b, int64_t i, double* total) {
      const T* const own = as<const T>(c) + type.width * (b * N + i * kTile);
      *total = power_sum<type.width>(own, at_most(kTile, N - i * kTile), p, power);
    };
    const auto take = [=](int64_t b, const double* total) { as<double>(value)[b] = *total; };
    sum_per_image<1>(B, tiles, 4 * type.width * B * N, part, take);
  });
}
}  // namespace FASTRECON_ISA
}  // namespace fastrecon
