// prox_gradient_step.cpp: one proximal gradient step, as a direction, with its sums (CPU).
// Definition: fastrecon/ops/prox_gradient_step.py
//   x, grad, z [B, N] real or complex   z = soft(x - step grad, step lam) - x
//   step, lam real; element (b, i) lies at b * image + i * entry, so that 0 repeats
//   sums [B, 3] double: Re <grad, z>, |z|^2, sum_i lam_i |x_i + z_i|
#include "broadcast.h"

namespace fastrecon {
namespace FASTRECON_ISA {
namespace {
using std::int64_t;

// What steps and strengths of n numbers are, from number `first` of an image on.
template <typename T>
FR_INLINE void pick(const T* from, int64_t entry, int64_t first, int64_t n, T* out) {
  if (entry)
    for (int64_t i = 0; i < n; ++i) out[i] = from[first + i];
  else
    for (int64_t i = 0; i < n; ++i) out[i] = from[0];
}

// One tile of n <= kTile numbers; adds nothing up beyond it: part [3].
template <int kWidth, typename T>
FR_INLINE void tile(const T* x, const T* grad, const T* step, const T* lam, T* z, int64_t n, double* part) {
  T tau[kTile], u[kWidth * kTile], factor[kTile], size[kTile], wide[kWidth * kTile];
  double slope[kWidth * kTile], square[kWidth * kTile];
  const int64_t reals = kWidth * n;
  for (int64_t i = 0; i < n; ++i) tau[i] = step[i] * lam[i];
  expand<kWidth>(step, wide, n);
  for (int64_t i = 0; i < reals; ++i) u[i] = x[i] - wide[i] * grad[i];
  if (kWidth == 1) {
    for (int64_t i = 0; i < n; ++i) {
      const T p = shrink(u[i], tau[i]);
      z[i] = p - x[i];
      size[i] = lam[i] * magnitude(p);
    }
  } else {
    norms<kWidth>(u, 1, 0, n, size);
    for (int64_t i = 0; i < n; ++i) factor[i] = shrink_factor(size[i], tau[i]);
    expand<kWidth>(factor, wide, n);
    for (int64_t i = 0; i < reals; ++i) z[i] = u[i] * wide[i] - x[i];
    for (int64_t i = 0; i < n; ++i) size[i] *= lam[i] * factor[i];
  }
  for (int64_t i = 0; i < reals; ++i) {
    slope[i] = double(grad[i]) * double(z[i]);
    square[i] = double(z[i]) * double(z[i]);
  }
  part[0] = sum(slope, reals);
  part[1] = sum(square, reals);
  part[2] = sum(size, n);
}

template <int kWidth, typename T>
FR_INLINE void run(Address x, Address grad, Address step, Address lam, Address z, Address sums, int64_t B, int64_t N,
                   int64_t step_image, int64_t step_entry, int64_t lam_image, int64_t lam_entry) {
  const int64_t tiles = tiles_of(N);
  Scratch<double> part(3 * B * tiles);
  parallel(B * tiles, kWidth * B * N, [&](int64_t task) {
    const int64_t b = task / tiles, first = task % tiles * kTile, n = smaller_of(kTile, N - first);
    const int64_t at = kWidth * (b * N + first);
    T steps[kTile], lams[kTile];
    pick(reinterpret_cast<const T*>(step) + b * step_image, step_entry, first, n, steps);
    pick(reinterpret_cast<const T*>(lam) + b * lam_image, lam_entry, first, n, lams);
    tile<kWidth>(reinterpret_cast<const T*>(x) + at, reinterpret_cast<const T*>(grad) + at, steps, lams,
                 reinterpret_cast<T*>(z) + at, n, part.data + 3 * task);
  });
  double* const out = reinterpret_cast<double*>(sums);
  for (int64_t b = 0; b < B; ++b)
    for (int k = 0; k < 3; ++k) {
      double total = 0;
      for (int64_t t = 0; t < tiles; ++t) total += part.data[3 * (b * tiles + t) + k];
      out[3 * b + k] = total;
    }
}

template <int kWidth, typename T>
FR_INLINE void run_squares(Address x, Address out, int64_t B, int64_t N) {
  const int64_t tiles = tiles_of(N);
  Scratch<double> part(B * tiles);
  parallel(B * tiles, kWidth * B * N, [&](int64_t task) {
    const int64_t first = task % tiles * kTile, n = kWidth * smaller_of(kTile, N - first);
    const T* const own = reinterpret_cast<const T*>(x) + kWidth * (task / tiles * N + first);
    double square[kWidth * kTile];
    for (int64_t i = 0; i < n; ++i) square[i] = double(own[i]) * double(own[i]);
    part.data[task] = sum(square, n);
  });
  for (int64_t b = 0; b < B; ++b) {
    double total = 0;
    for (int64_t t = 0; t < tiles; ++t) total += part.data[b * tiles + t];
    reinterpret_cast<double*>(out)[b] = total;
  }
}
}  // namespace

// x [B, N]   out [B] double: |x|^2
void squares(int dtype, Address x, Address out, int64_t B, int64_t N) {
  FASTRECON_SHRINKAGE(dtype, run_squares, (x, out, B, N));
}

void prox_gradient_step(int dtype, Address x, Address grad, Address step, Address lam, Address z, Address sums,
                        int64_t B, int64_t N, int64_t step_image, int64_t step_entry, int64_t lam_image,
                        int64_t lam_entry) {
  FASTRECON_SHRINKAGE(dtype, run,
                      (x, grad, step, lam, z, sums, B, N, step_image, step_entry, lam_image, lam_entry));
}
}  // namespace FASTRECON_ISA
}  // namespace fastrecon
