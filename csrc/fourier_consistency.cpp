// fourier_consistency.cpp: residual, gradient and value of a masked least-squares term in k-space, in one pass (CPU).
// Definition: fastrecon/ops/fourier_consistency.py
//   k, y, residual, grad [B, C, N] complex   residual = m k - y, grad = conj(m) residual   value [B] double
//   mask m real or complex; element (b, c, i) lies at b * mask_image + c * mask_channel + i
#include "tiles.h"

namespace fastrecon {
namespace FASTRECON_ISA {
namespace {
using std::int64_t;

// One tile of n <= kTile numbers; returns its part of |residual|^2.
template <typename T, bool kComplexMask>
FR_INLINE double tile(const T* k, const T* mask, const T* y, T* residual, T* grad, int64_t n) {
  double square[2 * kTile];
  if (kComplexMask) {
    for (int64_t i = 0; i < n; ++i) {
      const T a = mask[2 * i], b = mask[2 * i + 1], re = k[2 * i], im = k[2 * i + 1];
      const T r = a * re - b * im - y[2 * i], s = a * im + b * re - y[2 * i + 1];
      residual[2 * i] = r;
      residual[2 * i + 1] = s;
      grad[2 * i] = a * r + b * s;
      grad[2 * i + 1] = a * s - b * r;
    }
  } else {
    T m[2 * kTile];
    expand<2>(mask, m, n);
    for (int64_t i = 0; i < 2 * n; ++i) {
      const T r = m[i] * k[i] - y[i];
      residual[i] = r;
      grad[i] = m[i] * r;
    }
  }
  for (int64_t i = 0; i < 2 * n; ++i) square[i] = double(residual[i]) * double(residual[i]);
  return sum(square, 2 * n);
}

template <typename T, bool kComplexMask>
FR_INLINE void run(Address k, Address mask, Address y, Address residual, Address grad, Address value, int64_t B,
                   int64_t C, int64_t N, int64_t mask_image, int64_t mask_channel) {
  const int64_t tiles = tiles_of(N);
  const auto part = [&](int64_t b, int64_t i, double* square) {
    const int64_t c = i / tiles, first = i % tiles * kTile, at = 2 * ((b * C + c) * N + first);
    const int64_t m = b * mask_image + c * mask_channel + first;
    *square =
        tile<T, kComplexMask>(as<const T>(k) + at, as<const T>(mask) + (kComplexMask ? 2 : 1) * m, as<const T>(y) + at,
                              as<T>(residual) + at, as<T>(grad) + at, at_most(kTile, N - first));
  };
  const auto take = [=](int64_t b, const double* square) { as<double>(value)[b] = *square / 2; };
  sum_per_image<1>(B, C * tiles, 2 * B * C * N, part, take);
}
}  // namespace

void fourier_consistency(int dtype, Address k, Address mask, Address y, Address residual, Address grad, Address value,
                         int64_t B, int64_t C, int64_t N, int64_t mask_image, int64_t mask_channel, bool complex_mask) {
  by_dtype<kComplex>(dtype, [&](auto type) {
    using T = RealOf<decltype(type)>;
    complex_mask ? run<T, true>(k, mask, y, residual, grad, value, B, C, N, mask_image, mask_channel)
                 : run<T, false>(k, mask, y, residual, grad, value, B, C, N, mask_image, mask_channel);
  });
}
}  // namespace FASTRECON_ISA
}  // namespace fastrecon
