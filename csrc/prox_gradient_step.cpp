// prox_gradient_step.cpp: one proximal gradient step, as a direction, with its sums (CPU).
// Definition: fastrecon/ops/prox_gradient_step.py
//   x, grad, z [B, N] real or complex   z = soft(x - step grad, step lam) - x
//   step, lam real; element (b, i) lies at b * image + i * entry, so that 0 repeats
//   sums [B, 3] double: Re <grad, z>, |z|^2, sum_i lam_i |x_i + z_i|
#include "prox_tile.h"

namespace fastrecon {
namespace FASTRECON_ISA {
namespace {
using std::int64_t;

template <int kWidth, typename T>
FR_INLINE void run(Address x, Address grad, Address step, Address lam, Address z, Address sums, int64_t B, int64_t N,
                   int64_t step_image, int64_t step_entry, int64_t lam_image, int64_t lam_entry) {
  const auto part = [&](int64_t b, int64_t tile, double* own_sums) {
    const int64_t first = tile * kTile, n = at_most(kTile, N - first), at = kWidth * (b * N + first);
    const T *xs = as<const T>(x) + at, *grads = as<const T>(grad) + at;
    const T *own_step = as<const T>(step) + b * step_image, *own_lam = as<const T>(lam) + b * lam_image;
    T* const out = as<T>(z) + at;
    any_step<kWidth>(xs, grads, own_step + first * step_entry, step_entry, own_lam + first * lam_entry, lam_entry, out,
                     n, own_sums);
  };
  const auto take = [=](int64_t b, const double* totals) {
    for (int k = 0; k < 3; ++k) as<double>(sums)[3 * b + k] = totals[k];
  };
  sum_per_image<3>(B, tiles_of(N), kWidth * B * N, part, take);
}

template <int kWidth, typename T>
FR_INLINE void run_squares(Address x, Address minus, Address out, bool differ, int64_t B, int64_t N) {
  const auto part = [&](int64_t b, int64_t tile, double* out_of_tile) {
    const int64_t first = tile * kTile, n = kWidth * at_most(kTile, N - first), at = kWidth * (b * N + first);
    const T *own = as<const T>(x) + at, *other = as<const T>(minus) + at;
    *out_of_tile = square_of(own, other, differ, n);
  };
  const auto take = [=](int64_t b, const double* total) { as<double>(out)[b] = *total; };
  sum_per_image<1>(B, tiles_of(N), kWidth * B * N, part, take);
}
}  // namespace

// x, minus [B, N]   out [B] double: |x - minus|^2 if they differ, |x|^2 otherwise
void squares(int dtype, Address x, Address minus, Address out, bool differ, int64_t B, int64_t N) {
  by_dtype<kRealOrComplex>(
      dtype, [&](auto type) { run_squares<type.width, RealOf<decltype(type)>>(x, minus, out, differ, B, N); });
}

void prox_gradient_step(int dtype, Address x, Address grad, Address step, Address lam, Address z, Address sums,
                        int64_t B, int64_t N, int64_t step_image, int64_t step_entry, int64_t lam_image,
                        int64_t lam_entry) {
  by_dtype<kRealOrComplex>(dtype, [&](auto type) {
    run<type.width, RealOf<decltype(type)>>(x, grad, step, lam, z, sums, B, N, step_image, step_entry, lam_image,
                                            lam_entry);
  });
}
}  // namespace FASTRECON_ISA
}  // namespace fastrecon
