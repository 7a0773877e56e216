// armijo.cpp: the step along a direction for a quadratic plus an l1 term, per image (CPU).
// Definition: fastrecon/ops/armijo.py
//   x, z, grad [B, N] real or complex   lam real; element (b, i) lies at b * lam_image + i * lam_entry (0 or 1)
//   curvature, slack, gamma [B] double   sums [B, 4] double: change, delta, Re <grad, z>, |z|^2   accepted [B] bool
#include <type_traits>

#include "broadcast.h"

namespace fastrecon {
namespace FASTRECON_ISA {
namespace {
using std::int64_t;
constexpr int64_t kMostTrials = 64, kRungs = 8;

// lam (|x + gamma z| - |x|) of n <= kTile complex numbers, summed.
FR_INLINE double complex_rise(const double* x, const double* z, const double* size, const double* lam, double gamma,
                              int64_t n) {
  double part[kTile];
  for (int64_t i = 0; i < n; ++i) {
    const double re = x[2 * i] + gamma * z[2 * i], im = x[2 * i + 1] + gamma * z[2 * i + 1];
    part[i] = lam[i] * (square_root(re * re + im * im) - size[i]);
  }
  return sum(part, n);
}

// |v|: the sign's bit is taken out beside the additions, where a maximum would take the place of a product.
FR_INLINE Vec<double> size_of(Vec<double> v) {
  typedef long long Bits __attribute__((vector_size(kVectorBytes)));
  return (Vec<double>)((Bits)v & (Bits{} + 0x7fffffffffffffff));
}

// The same of real numbers, zeros after them up to whole vectors, for kSteps steps at a time.
template <int kSteps>
FR_INLINE void real_rises(const double* x, const double* z, const double* size, const double* lam, const double* gamma,
                          int64_t n, double* rises) {
  Vec<double> total[kSteps] = {};
  for (int64_t i = 0; i < n; i += kLanes<double>) {
    const Vec<double> v = load(x + i), d = load(z + i), s = load(size + i), l = load(lam + i);
    for (int j = 0; j < kSteps; ++j) {
      const Vec<double> w = v + gamma[j] * d;
      total[j] += l * (size_of(w) - s);
    }
  }
  for (int j = 0; j < kSteps; ++j) rises[j] = sum_in_order(total[j]);
}

// The rise of the l1 term along trials [first, last) of step eta^j, and the slope and square of z if they are wanted.
template <int kWidth, typename T>
FR_INLINE void tile(const T* x, const T* z, const T* grad, const double* lam, int64_t n, const double* steps,
                    int64_t trials, double* rises, double* products) {
  double wide_x[kWidth * kTile], wide_z[kWidth * kTile], size[kTile];
  for (int64_t i = 0; i < kWidth * n; ++i) {
    wide_x[i] = x[i];
    wide_z[i] = z[i];
  }
  for (int64_t i = 0; i < n; ++i)
    size[i] = kWidth == 1 ? magnitude(wide_x[i])
                          : square_root(wide_x[2 * i] * wide_x[2 * i] + wide_x[2 * i + 1] * wide_x[2 * i + 1]);
  int64_t j = 0;
  if (kWidth == 1) {
    for (int64_t i = n; i % kLanes<double>; ++i) wide_x[i] = wide_z[i] = size[i] = 0;
    const auto next = [&](auto at_once) {
      constexpr int kSteps = decltype(at_once)::value;
      for (; j + kSteps <= trials; j += kSteps) real_rises<kSteps>(wide_x, wide_z, size, lam, steps + j, n, rises + j);
    };
    next(std::integral_constant<int, kRungs>());
    next(std::integral_constant<int, 3>());
    next(std::integral_constant<int, 1>());
  } else {
    for (; j < trials; ++j) rises[j] = complex_rise(wide_x, wide_z, size, lam, steps[j], n);
  }
  if (!products) return;
  double slope[kWidth * kTile], square[kWidth * kTile];
  for (int64_t i = 0; i < kWidth * n; ++i) {
    slope[i] = double(grad[i]) * wide_z[i];
    square[i] = wide_z[i] * wide_z[i];
  }
  products[0] = sum(slope, kWidth * n);
  products[1] = sum(square, kWidth * n);
}

template <int kWidth, typename T>
FR_INLINE void run(Address x, Address z, Address grad, Address lam, Address curvature, Address slack, Address gamma,
                   Address sums, Address accepted, int64_t B, int64_t N, int64_t lam_image, int64_t lam_entry,
                   double beta, double eta, int64_t trials, bool composite) {
  const int64_t tiles = tiles_of(N);
  double steps[kMostTrials];
  steps[0] = 1;
  for (int64_t j = 1; j < trials; ++j) steps[j] = eta * steps[j - 1];
  Scratch memory;
  double* const total = memory.take<double>(B * (trials + 2));
  bool* const good = as<bool>(accepted);
  double* const step_of = as<double>(gamma);
  double* const out = as<double>(sums);
  // rises of `count` trials from `from` on, of the images that are not accepted yet (all, in the first pass)
  const auto pass = [&](int64_t from, int64_t count) {
    const bool first_pass = from == 0;
    const int64_t each = count + 2;
    Scratch of_pass;
    double* const part = of_pass.take<double>(B * tiles * each);
    parallel(B * tiles, kWidth * B * N * count, [&](int64_t task) {
      const int64_t b = task / tiles, first = task % tiles * kTile, n = at_most(kTile, N - first);
      if (!first_pass && good[b]) return;
      const int64_t at = kWidth * (b * N + first);
      double lams[kTile];
      const T* const own = as<const T>(lam) + b * lam_image + first * lam_entry;
      if (lam_entry == 0)
        for (int64_t i = 0; i < n; ++i) lams[i] = own[0];
      else
        for (int64_t i = 0; i < n; ++i) lams[i] = own[i];
      for (int64_t i = n; i % kLanes<double>; ++i) lams[i] = 0;
      double* const to = part + task * each;
      tile<kWidth>(as<const T>(x) + at, as<const T>(z) + at, as<const T>(grad) + at, lams, n, steps + from, count, to,
                   first_pass ? to + count : nullptr);
    });
    for (int64_t b = 0; b < B; ++b) {
      if (!first_pass && good[b]) continue;
      double* const own = total + b * (trials + 2);
      for (int64_t k = 0; k < count + (first_pass ? 2 : 0); ++k) {
        const double value = add_up(part + b * tiles * each + k, tiles, each);
        own[k < count ? from + k : trials + k - count] = value;
      }
    }
  };
  const auto decide = [&](int64_t from, int64_t to) {
    for (int64_t b = 0; b < B; ++b) {
      if (from && good[b]) continue;
      const double* const own = total + b * (trials + 2);
      const double slope = own[trials], delta = slope + own[0];
      good[b] = false;
      for (int64_t j = from; j < to && !good[b]; ++j) {
        const double g = steps[j];
        const double data = g * slope + g * g / 2 * as<const double>(curvature)[b];
        const double change = data + own[j], bound = beta * g * (composite ? delta : slope);
        good[b] = (composite ? change : data) <= bound + as<const double>(slack)[b];
        step_of[b] = g;
        out[4 * b] = change;
      }
      out[4 * b + 1] = delta;
      out[4 * b + 2] = slope;
      out[4 * b + 3] = own[trials + 1];
    }
  };
  // most images accept the full step: the ladder is for the others, some of its rungs in a pass
  for (int64_t from = 0, count = 1; from < trials; from += count, count = at_most(kRungs, trials - from)) {
    pass(from, count);
    decide(from, from + count);
    bool all = true;
    for (int64_t b = 0; b < B; ++b) all = all && good[b];
    if (all) break;
  }
}
}  // namespace

void armijo(int dtype, Address x, Address z, Address grad, Address lam, Address curvature, Address slack, Address gamma,
            Address sums, Address accepted, int64_t B, int64_t N, int64_t lam_image, int64_t lam_entry, double beta,
            double eta, int64_t trials, bool composite) {
  by_dtype<kRealOrComplex>(dtype, [&](auto type) {
    run<type.width, RealOf<decltype(type)>>(x, z, grad, lam, curvature, slack, gamma, sums, accepted, B, N, lam_image,
                                            lam_entry, beta, eta, trials, composite);
  });
}
}  // namespace FASTRECON_ISA
}  // namespace fastrecon
