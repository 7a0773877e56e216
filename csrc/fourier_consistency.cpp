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
  Scratch<double> part(B * C * tiles);
  parallel(B * C * tiles, 2 * B * C * N, [&](int64_t task) {
    const int64_t plane = task / tiles, first = task % tiles * kTile, at = 2 * (plane * N + first);
    const int64_t m = plane / C * mask_image + plane % C * mask_channel + first;
    part.data[task] = tile<T, kComplexMask>(
        reinterpret_cast<const T*>(k) + at, reinterpret_cast<const T*>(mask) + (kComplexMask ? 2 : 1) * m,
        reinterpret_cast<const T*>(y) + at, reinterpret_cast<T*>(residual) + at, reinterpret_cast<T*>(grad) + at,
        smaller_of(kTile, N - first));
  });
  for (int64_t b = 0; b < B; ++b) {
    double total = 0;
    for (int64_t t = 0; t < C * tiles; ++t) total += part.data[b * C * tiles + t];
    reinterpret_cast<double*>(value)[b] = total / 2;
  }
}
}  // namespace

void fourier_consistency(int dtype, Address k, Address mask, Address y, Address residual, Address grad, Address value,
                         int64_t B, int64_t C, int64_t N, int64_t mask_image, int64_t mask_channel,
                         bool complex_mask) {
  if (dtype == kComplex64)
    complex_mask ? run<float, true>(k, mask, y, residual, grad, value, B, C, N, mask_image, mask_channel)
                 : run<float, false>(k, mask, y, residual, grad, value, B, C, N, mask_image, mask_channel);
  else
    complex_mask ? run<double, true>(k, mask, y, residual, grad, value, B, C, N, mask_image, mask_channel)
                 : run<double, false>(k, mask, y, residual, grad, value, B, C, N, mask_image, mask_channel);
}
}  // namespace FASTRECON_ISA
}  // namespace fastrecon
