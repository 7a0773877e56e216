// prox_tile.h: sums over a tile of real numbers that proximal gradient steps make, one copy of each for all kernels.
#pragma once
#include "tiles.h"

namespace fastrecon {
namespace FASTRECON_ISA {
namespace {
// The halves of a vector.
FR_INLINE Narrow<float> low(Vec<float> v) { return get<Narrow<float>>(reinterpret_cast<const float*>(&v)); }
FR_INLINE Narrow<float> high(Vec<float> v) {
#if defined(__AVX512F__)
  return (Narrow<float>)_mm512_maskz_extractf64x4_pd(__mmask8(-1), (__m512d)v, 1);
#else
  return get<Narrow<float>>(reinterpret_cast<const float*>(&v) + kLanes<double>);
#endif
}

// z = soft(x - step grad, step lam) - x of n <= kTile numbers; steps and strengths of entry 0 repeat.
// part [3]: <grad, z>, |z|^2, sum lam |x + z|.
template <typename T>
FR_ONE_COPY void real_step(const T* x, const T* grad, const T* step, std::int64_t step_entry, const T* lam,
                           std::int64_t lam_entry, T* z, std::int64_t n, double* part) {
  using std::int64_t;
  constexpr int lanes = kLanes<double>;
  T copies[5][kTile + lanes];
  x = filled(x, n, copies[0]);
  grad = filled(grad, n, copies[1]);
  if (step_entry) step = filled(step, n, copies[2]);
  if (lam_entry) lam = filled(lam, n, copies[3]);
  T* const to = n % lanes ? copies[4] : z;
  Vec<double> slope{}, square{}, size{};
  const auto move = [&](auto zero, int64_t i, auto& g, auto& d, auto& weighed) {
    using V = decltype(zero);
    const V t = step_entry ? get<V>(step + i) : step[0] - zero, l = lam_entry ? get<V>(lam + i) : lam[0] - zero;
    const V v = get<V>(x + i);
    g = get<V>(grad + i);
    const V p = soft(v - t * g, rounded(t * l));
    d = p - v;
    put(to + i, d);
    weighed = l * at_least(-p, p);
  };
  const auto add = [&](Narrow<T> g, Narrow<T> d, Narrow<T> weighed) {
    slope += widen(g) * widen(d);
    square += widen(d) * widen(d);
    size += widen(weighed);
  };
  int64_t i = 0;
  if constexpr (sizeof(T) == 4)
    for (Vec<T> g, d, weighed; i + 2 * lanes <= n; i += 2 * lanes) {
      move(Vec<T>{}, i, g, d, weighed);
      add(low(g), low(d), low(weighed));
      add(high(g), high(d), high(weighed));
    }
  for (Narrow<T> g, d, weighed; i < n; i += lanes) {
    move(Narrow<T>{}, i, g, d, weighed);
    add(g, d, weighed);
  }
  if (to != z) std::memcpy(z, to, n * sizeof(T));
  part[0] = sum_in_order(slope);
  part[1] = sum_in_order(square);
  part[2] = sum_in_order(size);
}

// n numbers from n, or from one that repeats if `entry` is 0.
template <typename T>
FR_INLINE void pick(const T* from, std::int64_t entry, std::int64_t n, T* out) {
  for (std::int64_t i = 0; i < n; ++i) out[i] = from[entry ? i : 0];
}

// The same of complex numbers.
template <typename T>
FR_ONE_COPY void complex_step(const T* x, const T* grad, const T* step, std::int64_t step_entry, const T* lam,
                              std::int64_t lam_entry, T* z, std::int64_t n, double* part) {
  using std::int64_t;
  T steps[kTile], lams[kTile], tau[kTile], u[2 * kTile], factor[kTile], size[kTile], wide[2 * kTile];
  double slope[2 * kTile], square[2 * kTile];
  pick(step, step_entry, n, steps);
  pick(lam, lam_entry, n, lams);
  for (int64_t i = 0; i < n; ++i) tau[i] = steps[i] * lams[i];
  expand<2>(steps, wide, n);
  for (int64_t i = 0; i < 2 * n; ++i) u[i] = x[i] - wide[i] * grad[i];
  const Groups<2, T> groups(u, 1, 0, n);
  for (int64_t i = 0; i < n; ++i) {
    factor[i] = shrink_factor(groups.norm[i], tau[i] * groups.down[i]);
    size[i] = groups.norm[i] / groups.down[i];
  }
  expand<2>(factor, wide, n);
  for (int64_t i = 0; i < 2 * n; ++i) z[i] = u[i] * wide[i] - x[i];
  for (int64_t i = 0; i < n; ++i) size[i] *= lams[i] * factor[i];
  for (int64_t i = 0; i < 2 * n; ++i) {
    slope[i] = double(grad[i]) * double(z[i]);
    square[i] = double(z[i]) * double(z[i]);
  }
  part[0] = sum(slope, 2 * n);
  part[1] = sum(square, 2 * n);
  part[2] = sum(size, n);
}

template <int kWidth, typename T>
FR_INLINE void any_step(const T* x, const T* grad, const T* step, std::int64_t step_entry, const T* lam,
                        std::int64_t lam_entry, T* z, std::int64_t n, double* part) {
  if constexpr (kWidth == 1)
    real_step(x, grad, step, step_entry, lam, lam_entry, z, n, part);
  else
    complex_step(x, grad, step, step_entry, lam, lam_entry, z, n, part);
}

// |x - minus|^2 of n reals, or |x|^2.
template <typename T>
FR_ONE_COPY double square_of(const T* x, const T* minus, bool differ, std::int64_t n) {
  Vec<double> square{};
  std::int64_t i = 0;
  for (; i + kLanes<double> <= n; i += kLanes<double>) {
    const Vec<double> v = widen(load_narrow(x + i)), w = differ ? v - widen(load_narrow(minus + i)) : v;
    square += w * w;
  }
  double total = sum_in_order(square);
  for (; i < n; ++i) {
    const double v = differ ? double(x[i]) - double(minus[i]) : double(x[i]);
    total += v * v;
  }
  return total;
}
}  // namespace
}  // namespace FASTRECON_ISA
}  // namespace fastrecon
